"""What coordinate attention adds to the descriptor, and what training does, over a folder of registered pairs. Trains
the network with and without attention, unless the weights are there already. Compares both, the untrained and the
shipped descriptor, SIFT and AKAZE, with partners anywhere, as in the paper, and at most 20 px away. Writes table,
figure and CSV.
Source: He et al., "Deep convolutional network based on attention mechanism for matching optical and SAR images",
sections 2.4, 3.2 and 3.3, table 3 and figure 5. Figures are means of ten trials; here a trial is a seed of RANSAC."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from tqdm import tqdm

from pipelines.common import PATH, Command, drawing, listed, markdown, out_option, write
from pipelines.train import noted, trained
from sn9reg.errors import InputError
from sn9reg.fit.correspondences import Correspondences, Flags
from sn9reg.matchers.base import matcher_class, options_of
from sn9reg.matchers.descriptors.matcher import FAITHFUL, DescriptorMatcher
from sn9reg.matchers.descriptors.network import load_descriptor
from sn9reg.raster.files import make_folder
from sn9reg.raster.folders import RegisteredPair, pair_files
from sn9reg.raster.scene import ScenePair
from sn9reg.score.benchmark import save_pair
from sn9reg.score.metrics import f_measure, ncm, rmse
from sn9reg.training.config import read

PROTOCOLS: dict[str, dict[str, Any]] = {"anywhere": {}, "near": {"near": True, "max_offset": 20.0}}
RIVALS = ("sift", "akaze")  # matchers of their own
WITH, WITHOUT = "with attention", "without attention"
FEWEST = 6  # matches without which a pair is not registered
PANELS = {"ncm": "NCM", "f_measure": "F-measure", "rmse": "RMSE, px"}
COLUMNS = {
    "keypoints": "{mean.keypoints:.0f}",
    "before RANSAC (correct)": "{mean.putative:.1f} ({mean.putative_ncm:.1f})",
    "matches": "{mean.matches:.1f}",
    "NCM": "{mean.ncm:.1f} ± {std.ncm:.1f}",
    "precision": "{mean.precision:.3f}",
    "recall": "{mean.recall:.3f}",
    "F-measure": "{mean.f_measure:.4f} ± {std.f_measure:.4f}",
    "RMSE, px": "{mean.rmse:.2f}",
    "pairs with 6 (6 correct)": "{mean.enough:.2f} ({mean.enough_ncm:.2f})",
    "s a pair": "{seconds:.2f}",
}


@click.command(cls=Command)
@click.argument("folder", type=PATH)
@click.option("--config", default="pipelines/training/descriptors.yaml", show_default=True)
@out_option("attention_descriptors")
@click.option("--steps", type=click.IntRange(1), help="In place of the config's.")
@click.option("--seeds", type=click.IntRange(1), default=10, show_default=True, help="Trials of RANSAC a pair.")
@click.option("--limit", type=click.IntRange(1), help="Measure on so many pairs only, spread over the folder.")
@click.option("--keypoints", type=click.IntRange(1), help="Of an image [default: as the paper implies].")
@click.option("--weights", help="One more descriptor, in place of the one that ships.")
@listed("--parts", ("ablation", "mim", "trained", "rivals"), "What is measured.")
def main(
    folder: Path, config: str, out: Path, seeds: int, limit: int | None, keypoints: int | None, weights: str | None,
    parts: list[str], **more: Any,
) -> None:  # fmt: skip
    """Train with and without attention, measure on the pairs of FOLDER; write table, numbers and figure."""
    make_folder(out)
    files = pair_files(folder, limit)
    changes = {name: value for name, value in more.items() if value is not None}
    configs = {name: read(config, **changes, **{"network.attention": name == WITH}) for name in (WITH, WITHOUT)}
    folders = {name: out / name.replace(" ", "-") for name in configs if "ablation" in parts}
    load_descriptor(weights)  # what cannot be read is known before any is trained
    descriptors: dict[str, Any] = {n: {"weights": str(trained(configs[n], run))} for n, run in folders.items()}
    if "mim" in parts:
        descriptors["untrained (mim)"] = {"descriptor": "mim"}
    if "trained" in parts:
        descriptors["given" if weights else "shipped"] = {"weights": weights}
    descriptors |= {name: {} for name in RIVALS if "rivals" in parts}
    of = {} if keypoints is None else {"max_points": keypoints}
    found = pd.DataFrame([row for name, one in descriptors.items() for row in measured(name, one | of, files, seeds)])
    write(out / "results.csv", found.to_csv(index=False))
    text = table(found, f"{len(files)} pairs of {folder}, {seeds} seeds of RANSAC. {budget(folders)}")
    write(out / "table.md", text)
    if folders:
        draw(out / "figure.png", found[found["descriptor"].isin(folders)])
    click.echo(text)


def budget(folders: dict[str, Path]) -> str:
    text, unknown = "{steps} steps of {batch} patches, seed {seed}", "nobody knows for how long"
    if not folders:
        return ""
    known = (f"{name} {text.format(**note) if (note := noted(at)) else unknown}" for name, at in folders.items())
    return f"Trained: {', '.join(known)}."


def measured(name: str, options: dict[str, Any], files: list[RegisteredPair], seeds: int) -> Iterator[dict[str, Any]]:
    """A row for each pair, protocol and seed. Both protocols see the same keypoints, which are described once."""
    kind = matcher_class(name if name in RIVALS else DescriptorMatcher.name)
    wanted = {key: value for key, value in (FAITHFUL | options).items() if key in options_of(kind)}
    matchers: dict[str, Any] = {protocol: kind(**wanted | extra) for protocol, extra in PROTOCOLS.items()}
    first = matchers["anywhere"]
    for pair_of in tqdm(files, name, disable=None):
        with opened(pair_of) as pair:
            start = time.perf_counter()
            posed = pair.posed(np.eye(3))
            factor = first.factor(posed)
            optical, sar = first.described(posed, factor, first.options.max_offset)
            describing = time.perf_counter() - start
            for protocol, matcher in matchers.items():
                start = time.perf_counter()
                putative = matcher.putative(posed, optical, sar, factor, matcher.options.max_offset)
                middle, none = time.perf_counter(), np.zeros(len(putative), bool)
                models = [[chosen for _, chosen in matcher.models(putative, seed)] for seed in range(seeds)]
                seconds = describing + (middle - start) + (time.perf_counter() - middle) / seeds
                facts = {"descriptor": name, "protocol": protocol, "pair": pair_of.name, "seconds": seconds}
                for seed, found in enumerate(models):  # the model that leaves more matches counts
                    chosen = max(found, key=np.count_nonzero, default=none)
                    yield facts | {"seed": seed} | judged(putative, chosen)


@contextmanager
def opened(files: RegisteredPair) -> Iterator[ScenePair]:
    """A pair in a pixel frame, without what its mask leaves out. Raises InputError where it cannot be used."""
    patches = files.read()
    if patches[0].valid.shape != patches[1].valid.shape:
        raise InputError(f"{files.optical} and {files.sar.name} differ in size; a registered pair does not")
    for path, patch in zip((files.optical, files.sar), patches, strict=True):
        if not patch.valid.any():
            raise InputError(f"{path}: holds no valid pixel")
    with tempfile.TemporaryDirectory() as folder, save_pair(Path(folder, "pair"), *patches).open() as pair:
        yield pair


def judged(putative: Correspondences, chosen: Flags) -> dict[str, float]:
    """The numbers of a trial, of which RANSAC chose some matches. Both images show the same at the same pixel."""
    errors = np.hypot(*(putative.sar_xy - putative.optical_xy).T)
    keypoints, matches, correct = putative.tried, int(chosen.sum()), ncm(errors[chosen])
    return {
        "keypoints": keypoints,  # of the optical image
        "putative": len(putative),  # matches before RANSAC
        "putative_ncm": ncm(errors),  # the correct among them
        "matches": matches,
        "ncm": correct,
        "precision": correct / max(matches, 1),
        "recall": correct / max(keypoints, 1),
        "f_measure": f_measure(correct, matches, keypoints),
        "rmse": rmse(errors[chosen]),  # NaN where none is correct
        "enough": matches >= FEWEST,
        "enough_ncm": correct >= FEWEST,
    }


def table(found: pd.DataFrame, about: str) -> str:
    """Like the paper's table 3: means over pairs that have a value, then over seeds, and deviations over these."""
    cells = []
    for names, rows in found.groupby(["descriptor", "protocol"], sort=False):
        by_seed = rows.groupby("seed").mean(numeric_only=True)
        facts = {"mean": by_seed.mean(), "std": by_seed.std(ddof=0), "seconds": rows["seconds"].median()}
        cells.append([*map(str, names), *(form.format(**facts).replace("nan", "none") for form in COLUMNS.values())])
    correct = "Correct is a match less than 3 px from its true place; means over pairs and seeds, ± over seeds."
    return f"{about} {correct}\n\n{markdown(['descriptor', 'partners', *COLUMNS], cells)}"


def draw(path: Path, found: pd.DataFrame) -> None:
    """Every pair's means over the seeds, a line for each descriptor, like the paper's figure 5; panels by protocol."""
    with drawing(path, 110, len(PROTOCOLS), len(PANELS), figsize=(15, 7.6)) as (figure, axes):
        for (protocol, descriptor), rows in found.groupby(["protocol", "descriptor"], sort=False):
            means = rows.groupby("pair", sort=False).mean(numeric_only=True)
            for axis, (measure, label) in zip(axes[list(PROTOCOLS).index(str(protocol))], PANELS.items(), strict=True):
                axis.plot(np.arange(1, len(means) + 1), means[measure], marker=".", linewidth=1, label=descriptor)
                axis.set_title(f"partners {protocol}", fontsize=10)
                axis.set(xlabel="pair", ylabel=label)
                axis.xaxis.get_major_locator().set_params(integer=True)
                axis.grid(alpha=0.3)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=2, loc="outside lower center")


if __name__ == "__main__":
    main()
