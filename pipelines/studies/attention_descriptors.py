"""What coordinate attention adds to the descriptor, and what training does, over a folder of registered pairs.

    python -m pipelines.studies.attention_descriptors FOLDER [--steps N] [--seeds 10] [--limit N] [--weights FILE]

Trains the network of the configuration with and without attention; weights that are there already are kept, and a
stopped training goes on. Compares both, the descriptor that needs no training and the one that ships on the pairs of
FOLDER, with partners anywhere, as in the paper, and at most 20 px away. Writes table.md, results.json and figure.png.

Source: He et al., "Deep convolutional network based on attention mechanism for matching optical and SAR images",
sections 2.4, 3.2 and 3.3, table 3 and figure 5. Its figures are means of ten trials; here a trial is a seed of RANSAC.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from pipelines.common import PATH, Command, drawing, markdown, out_option, write
from pipelines.train import noted, trained
from sn9reg.errors import InputError
from sn9reg.fit.correspondences import Correspondences, Flags, Floats
from sn9reg.matchers.descriptors.matcher import FAITHFUL, DescriptorMatcher
from sn9reg.matchers.descriptors.weights import load_descriptor
from sn9reg.raster.folders import RegisteredPair, pair_files
from sn9reg.raster.scene import ScenePair
from sn9reg.score.benchmark import save_pair
from sn9reg.score.metrics import f_measure, ncm, rmse
from sn9reg.training.config import read
from sn9reg.weights.store import manifest

PROTOCOLS: dict[str, dict[str, Any]] = {"anywhere": {}, "near": {"near": True, "max_offset": 20.0}}
WITH, WITHOUT = "with attention", "without attention"
FEWEST = 6  # matches without which a pair is not registered
# Of a pair: optical keypoints, matches before RANSAC, and the correct among them.
FIXED = ("keypoints", "putative", "putative_ncm")
# Of a trial. matches: left by RANSAC. rmse: NaN where none is correct. enough, enough_ncm: whether FEWEST are left, and
# whether so many are correct.
MEASURES = ("matches", "ncm", "precision", "recall", "f_measure", "rmse", "enough", "enough_ncm")
PANELS = {"ncm": "NCM", "f_measure": "F-measure", "rmse": "RMSE, px"}
COLUMNS = {
    "descriptor": "{descriptor}",
    "partners": "{protocol}",
    "keypoints": "{mean[keypoints]:.0f}",
    "before RANSAC (correct)": "{mean[putative]:.1f} ({mean[putative_ncm]:.1f})",
    "matches": "{mean[matches]:.1f}",
    "NCM": "{mean[ncm]:.1f} ± {std[ncm]:.1f}",
    "precision": "{mean[precision]:.3f}",
    "recall": "{mean[recall]:.3f}",
    "F-measure": "{mean[f_measure]:.4f} ± {std[f_measure]:.4f}",
    "RMSE, px": "{mean[rmse]:.2f}",
    "pairs with 6 (6 correct)": "{mean[enough]:.2f} ({mean[enough_ncm]:.2f})",
    "s a pair": "{seconds:.2f}",
}


@click.command(cls=Command)
@click.argument("folder", type=PATH)
@click.option("--config", "config_path", default="pipelines/training/descriptors.yaml", show_default=True)
@out_option("attention_descriptors")
@click.option("--steps", type=click.IntRange(1), help="In place of the config's.")
@click.option("--seeds", type=click.IntRange(1), default=10, show_default=True, help="Trials of RANSAC a pair.")
@click.option("--limit", type=click.IntRange(1), help="Measure on so many pairs only, spread over the folder.")
@click.option("--weights", help="One more descriptor, in place of the one that ships.")
def main(
    folder: Path, config_path: str, out: Path, steps: int | None, seeds: int, limit: int | None, weights: str | None
) -> None:
    """Train with and without attention, measure on the pairs of FOLDER; write table, numbers and figure."""
    files = pair_files(folder, limit)
    changes: dict[str, Any] = {} if steps is None else {"steps": steps}
    configs = {name: read(config_path, **changes, **{"network.attention": name == WITH}) for name in (WITH, WITHOUT)}
    folders = {name: out / name.replace(" ", "-") for name in configs}
    further: dict[str, dict[str, Any]] = {"untrained (mim)": {"descriptor": "mim"}}
    if weights is not None:
        load_descriptor(weights)  # what cannot be read is known before any is trained
        further["given"] = {"weights": weights}
    elif "descriptors" in manifest():
        further["shipped"] = {}
    descriptors = {name: {"weights": str(trained(configs[name], run))} for name, run in folders.items()}
    rows = [row for name, options in (descriptors | further).items() for row in measured(name, options, files, seeds)]
    about = f"{len(files)} pairs of {folder}, {seeds} seeds of RANSAC. {budget(folders)}"
    write(out / "results.json", json.dumps({"about": about, "rows": for_json(rows)}, allow_nan=False))
    write(out / "table.md", table(rows, about))
    draw(out / "figure.png", [row for row in rows if row["descriptor"] in folders])
    click.echo((out / "table.md").read_text())


def budget(folders: dict[str, Path]) -> str:
    """For how long both were trained."""
    text, unknown = "{steps} steps of {batch} patches, seed {seed}", "nobody knows for how long"
    known = {name: text.format(**note) if (note := noted(at)) else unknown for name, at in folders.items()}
    if known[WITH] == known[WITHOUT]:
        return f"Trained: {known[WITH]}, both alike."
    return f"Trained: {WITH} {known[WITH]}, {WITHOUT} {known[WITHOUT]}."


def measured(name: str, options: dict[str, Any], files: list[RegisteredPair], seeds: int) -> list[dict[str, Any]]:
    """A descriptor on all pairs, a row for each protocol. Both see the same keypoints, which are described once."""
    matchers = {protocol: DescriptorMatcher(**FAITHFUL | extra | options) for protocol, extra in PROTOCOLS.items()}
    found: dict[str, list[dict[str, Any]]] = {protocol: [] for protocol in matchers}
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
                middle = time.perf_counter()
                kept = [inliers(matcher, putative, seed) for seed in range(seeds)]
                seconds = describing + (middle - start) + (time.perf_counter() - middle) / seeds
                found[protocol].append(judged(pair_of.name, putative, kept, seconds))
    return [row(name, protocol, pairs) for protocol, pairs in found.items()]


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


def inliers(matcher: DescriptorMatcher, putative: Correspondences, seed: int) -> Flags:
    """(N,) which matches RANSAC leaves, by the model that has more of them; none where there is no model."""
    found = [chosen for _, chosen in matcher.models(putative, seed)]
    return max(found, key=np.count_nonzero, default=np.zeros(len(putative), bool))


def judged(name: str, putative: Correspondences, kept: list[Flags], seconds: float) -> dict[str, Any]:
    """A pair's numbers, `trials` by measure, (S,) for S seeds. Both images show the same at the same pixel."""
    errors = np.hypot(*(putative.sar_xy - putative.optical_xy).T)
    keypoints = putative.tried
    trials = []
    for chosen in kept:
        matches, correct = int(chosen.sum()), ncm(errors[chosen])
        shares = correct / max(matches, 1), correct / max(keypoints, 1), f_measure(correct, matches, keypoints)
        trials.append((matches, correct, *shares, rmse(errors[chosen]), matches >= FEWEST, correct >= FEWEST))
    by_measure = dict(zip(MEASURES, np.array(trials, np.float64).T, strict=True))
    fixed = zip(FIXED, (keypoints, len(putative), ncm(errors)), strict=True)
    return {"name": name, **dict(fixed), "seconds": seconds, "trials": by_measure}


def row(descriptor: str, protocol: str, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the pairs that have a value, and over the seeds; their deviation over the seeds; each pair's."""
    by_seed = {k: known_mean(np.stack([pair["trials"][k] for pair in pairs])) for k in MEASURES}
    fixed = {k: float(np.mean([pair[k] for pair in pairs])) for k in FIXED}
    return {
        "descriptor": descriptor,
        "protocol": protocol,
        "mean": fixed | {k: float(known_mean(v)) for k, v in by_seed.items()},
        "std": {k: float(known_mean((v - known_mean(v)) ** 2)) ** 0.5 for k, v in by_seed.items()},
        "seconds": float(np.median([pair["seconds"] for pair in pairs])),
        "pairs": pairs,
    }


def known_mean(values: Floats) -> Floats:
    """Mean over the first axis of what is not NaN; NaN where all is."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(values, axis=0) / np.isfinite(values).sum(axis=0))


def for_json(value: Any) -> Any:
    """With lists in place of arrays, and nothing (null) in place of NaN."""
    return json.loads(json.dumps(value, default=lambda array: array.tolist()), parse_constant=lambda _: None)


def table(rows: list[dict[str, Any]], about: str) -> str:
    """Markdown, a line for each descriptor and protocol, like the paper's table 3."""
    cells = [[form.format(**row).replace("nan", "none") for form in COLUMNS.values()] for row in rows]
    correct = "Correct is a match less than 3 px from its true place; means over pairs and seeds, ± over seeds."
    return f"{about} {correct}\n\n{markdown(list(COLUMNS), cells)}"


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Every pair's means over the seeds, a line for each descriptor, like the paper's figure 5; panels by protocol."""
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    size = (15, 3.6 * len(protocols) + 0.4)
    with drawing(path, 110, len(protocols), len(PANELS), figsize=size) as (figure, axes):
        for row in rows:
            for axis, (measure, label) in zip(axes[protocols.index(row["protocol"])], PANELS.items(), strict=True):
                values = [known_mean(pair["trials"][measure]) for pair in row["pairs"]]
                axis.plot(np.arange(1, len(values) + 1), values, marker=".", linewidth=1, label=row["descriptor"])
                axis.set_title(f"partners {row['protocol']}", fontsize=10)
                axis.set(xlabel="pair", ylabel=label)
                axis.xaxis.get_major_locator().set_params(integer=True)
                axis.grid(alpha=0.3)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=2, loc="outside lower center")


if __name__ == "__main__":
    main()
