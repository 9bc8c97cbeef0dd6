"""The configuration of a training: what all families share, and reading one from a YAML file."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, field
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from annotated_types import Ge, Gt, Lt
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike, read_mapping
from sn9reg.training.data import Make, Parts, Samples, Source

if TYPE_CHECKING:
    from sn9reg.training.loop import Stage

Positive = Annotated[int, Ge(1)]
NotNegative = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(0)]
Share = Annotated[float, Ge(0), Lt(1)]

# What `train:` in a YAML file names, a module beside this one -> its class.
FAMILIES = {"dense": "DenseConfig", "keypoints": "KeypointConfig", "descriptors": "DescriptorConfig"}
FAMILIES |= {"dual-encoder": "DualConfig"}


@options
class Optimiser:
    """Adam, and its learning rate over the steps."""

    rate: Annotated[float, Gt(0)] = 5e-4  # learning rate at its highest
    decay: NotNegative = 0.0  # of the weights
    decoupled: bool = True  # whether the decay is apart from the gradient (AdamW) or added to it (Adam)
    # `cosine` falls to nothing at the last step, `drop` to a share of the rate all at once, and once.
    schedule: Literal["constant", "cosine", "drop"] = "constant"
    warmup: Count = 0  # step, counted from 1, at which the rate is first at its highest; it rises in a straight line
    drop_after: Positive = 30  # validations before a drop; where samples are drawn by epochs, one follows each
    drop: Annotated[float, Gt(0)] = 1e-2  # share of the rate after it
    clip: NotNegative = 0.0  # largest norm of the gradient; 0 for no limit


@options
class Pace:
    """How a network learns."""

    _: KW_ONLY
    batch: Positive = 16  # samples a step
    accumulate: Positive = 1  # parts in which a batch is taken, as many as it takes to fit into memory
    patience: Count = 0  # validations without gain before the training stops; 0 for never
    optimiser: Optimiser = field(default_factory=Optimiser)  # how the weights follow the gradient

    def __post_init__(self) -> None:
        if self.batch % self.accumulate:
            raise ConfigError(f"batch {self.batch} cannot be taken in {self.accumulate} equal parts")


@options
class Plan(Pace):
    """How a network learns, and for how long."""

    _: KW_ONLY
    steps: Positive = 1000  # of the optimiser
    validate_every: Positive = 250  # steps


@options
class TrainingConfig:
    """What every training needs."""

    family: ClassVar[str]
    _: KW_ONLY
    sources: tuple[Source, ...] = ()  # the pairs that are learned from
    # As Lightning names it; `auto` is bf16-mixed on a GPU and 32-true else.
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    workers: Count = 1  # processes that make samples; 0 for none beside the training itself
    seed: Annotated[int, Ge(0), Lt(2**32 - 1)] = 0  # of all that is random; a second stage has the next one

    def __post_init__(self) -> None:
        if not any(source.weight > 0 for source in self.sources):
            raise ConfigError("there is nothing to train on: give sources with a weight above zero")

    def stages(self) -> Sequence["Stage"]:
        """The trainings that follow one another, with their data. Raises InputError for data that cannot be read."""
        raise NotImplementedError

    def batches(self, parts: Parts, make: Make[Any], plan: Plan, done: int, **how: Any) -> DataLoader[Any]:
        """Endless batches of what `make` makes of random pairs, `done` steps from the beginning. how: of the loader."""
        how.setdefault("batch_size", plan.batch // plan.accumulate)
        return DataLoader(Samples(parts, make, self.seed + done), num_workers=self.workers, **how)


def read(path: PathLike, **changes: Any) -> TrainingConfig:
    """The configuration in a YAML file. changes: values in place of the file's; `optimiser.rate` reaches into a group.
    Raises InputError where it cannot be read or is no YAML, ConfigError for what is missing, unknown or wrong."""
    content = read_mapping(path)
    family = content.pop("train", None)
    if family not in FAMILIES:
        raise ConfigError(f"{path}: train is {family!r}, not one of {', '.join(FAMILIES)}")
    for name, value in changes.items():
        inner, (*groups, last) = content, name.split(".")
        for group in groups:
            inner[group] = inner = dict(inner.get(group) or {})
        inner[last] = value
    module = import_module(f"sn9reg.training.{family.replace('-', '_')}")
    return cast(TrainingConfig, check(getattr(module, FAMILIES[family]), content, str(path)))


def as_dict(config: TrainingConfig) -> dict[str, Any]:
    """Plain values, for a card of weights and for a YAML file."""
    return {"train": config.family, **asdict(config)}
