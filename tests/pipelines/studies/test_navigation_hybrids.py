"""pipelines.studies.navigation_hybrids: a tiny study of two combinations; a stopped one goes on; costs are measured."""

import json
import shutil
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from support.pairs import write_pairs

from pipelines import common, train
from pipelines.studies import navigation_hybrids as study
from pipelines.studies.navigation_hybrids import TURNS
from sn9reg.matchers.dense.networks.branches import build
from sn9reg.matchers.dense.networks.table import NETWORKS
from sn9reg.matchers.dense.weights import load_dense
from sn9reg.raster.degradation import DEGRADATION_CROSS

pytestmark = [pytest.mark.study, pytest.mark.filterwarnings("ignore")]  # Lightning advises on speed

GRID = ("mcgf/pseudo/mcgf", "mcgf/siamese/cross-corr-ce")
FOLDERS = [name.replace("/", "_") for name in GRID]
BOTH = ",".join(GRID)
STEPS, BATCH, PAIRS = 2, 3, 2


def run(folder, *options, grid=BOTH, parts="train"):
    """The study by the configuration and the pairs of a folder."""
    arguments = ["--grid", grid, "--parts", parts, "--config", folder / "tiny.yaml", "--test", folder / "pairs"]
    return CliRunner().invoke(study.main, [*map(str, [*arguments, "--out", folder / "out"]), *options])


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A folder with tiny.yaml, pairs/, and out/ as a study filled it. Not to be written into."""
    folder = tmp_path_factory.mktemp("study")
    pairs = write_pairs(folder / "pairs", count=PAIRS, side=256)
    sides = {"optical": 48, "sar": 24}
    config = {
        "train": "dense",
        "network": {"name": "osmnet"},  # this, the loss and the branches are the combination's
        "loss": {"name": "mcgf"},
        "sources": [{"folder": str(pairs), "held_out": 0.5}],
        "geometry": sides, "validation": sides, "steps": STEPS, "batch": BATCH, "validate_every": 1,
        "precision": "32-true", "workers": 0,
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    assert run(folder).exit_code == 0
    return folder


@pytest.fixture
def copied(done, tmp_path):
    """A copy that may be written into."""
    return Path(shutil.copytree(done, tmp_path / "study"))


def results(folder, name=FOLDERS[0]):
    return json.loads((folder / "out" / name / "results.json").read_text())


def test_every_combination_is_trained_as_it_is_called(done):
    for name, folder in zip(GRID, FOLDERS, strict=True):
        network, saved = load_dense(done / "out" / folder / "weights.safetensors")
        assert (saved.network, saved.shared, saved.similarity) == ("mcgf", "siamese" in name, "cc")
        assert network.shared == ("siamese" in name)
        note = json.loads((done / "out" / folder / "training.json").read_text())
        assert (note["steps"], note["batch"], note["loss"]["name"]) == (STEPS, BATCH, name.split("/")[2])


def test_csv_table_and_figure_say_what_was_measured(done):
    rows = pd.read_csv(done / "out" / "results.csv").to_dict("records")
    assert [(row["hybrid"], row["condition"]) for row in rows] == list(product(sorted(GRID), ("clean", "degraded")))
    for row in rows:
        found = results(done, row["hybrid"].replace("/", "_"))[row["condition"]]
        assert (row["l2"], row["pairs"], row["steps"], row["batch"]) == (found["mean_l2_px"], PAIRS, STEPS, BATCH)
        assert [row[f"cmr{r}"] for r in (0, 1, 2, 3, 5)] == [found["cmr"][str(r)] for r in (0, 1, 2, 3, 5)]
    lines = (done / "out" / "table.md").read_text().splitlines()
    assert lines[0] == f"Reduced budget: {STEPS} steps of {BATCH} pairs, the same for all."
    for name, line in zip(sorted(GRID), lines[4:], strict=True):
        clean, worse = results(done, name.replace("/", "_")).values()
        first, second = (" / ".join(f"{c['cmr'][r]:.3f}" for r in at) for c, at in ((clean, "135"), (worse, "012")))
        assert line == f"| {name} | {first}, {clean['mean_l2_px']:.2f} px | {second} |"
    assert np.array(Image.open(done / "out" / "figure.png").convert("L")).std() > 5


def test_what_lacks_is_measured_and_nothing_is_trained_or_measured_again(copied, monkeypatch):
    path, found = copied / "out" / FOLDERS[0] / "results.json", results(copied)
    kept = {"clean": found["clean"] | {"mean_l2_px": 123.25}}
    path.write_text(json.dumps(kept))
    monkeypatch.setattr(train, "run", lambda *a, **k: pytest.fail("trained again"))
    with monkeypatch.context() as patch:
        patch.setattr(study, "bench_patches", lambda *a, **k: pytest.fail("measured again"))
        assert run(copied, grid=GRID[1]).exit_code == 0
    table = copied / "out" / "table.md"
    assert f"| {GRID[0]} |" not in table.read_text()  # one stopped between two conditions is not in the table yet
    result = run(copied, grid=GRID[0])
    assert (result.stdout, "123.25 px" in result.stdout) == (table.read_text() + "\n", True)
    again = results(copied)["degraded"]
    assert again | {"ms_per_pair": 0} == found["degraded"] | {"ms_per_pair": 0}


def test_steps_may_be_given_and_budgets_that_differ_are_all_named(copied):
    assert study.configured(GRID[0], str(copied / "tiny.yaml"), 1).steps == 1
    folder = copied / "out" / FOLDERS[0]
    (folder / "results.json").unlink()
    (folder / "training.json").write_text(json.dumps(train.noted(folder) | {"steps": 1}))
    assert run(copied, "--limit", "1", grid=GRID[0]).exit_code == 0
    assert results(copied)["clean"]["n"] == 1
    first = (copied / "out" / "table.md").read_text().splitlines()[0]
    assert first == f"Reduced budget: 1 steps of {BATCH} pairs or {STEPS} steps of {BATCH} pairs."


def test_parts_choose_the_conditions(copied, monkeypatch):
    asked = []

    def measure(folder, matcher, reference, template, limit, *, degradation, rotate):
        asked.append((degradation, rotate))
        found = {"cmr": {r: (len(asked) + int(r)) / 100 for r in "01235"}, "mean_l2_px": 1.0, "n": 2}
        return SimpleNamespace(as_dict=lambda: found)

    monkeypatch.setattr(study, "bench_patches", measure)
    assert run(copied, grid=GRID[0], parts="cross").exit_code == 0
    assert asked == [(d, 0.0) for d in DEGRADATION_CROSS]
    asked.clear()
    assert run(copied, grid=GRID[0], parts="rotation").exit_code == 0
    assert asked == list(TURNS.values())
    series = (copied / "out" / "table.md").read_text().split("\n\n")[-1].splitlines()
    head = f"| CMR(0) / (1), 128 in 192 px | {GRID[0]} |"
    assert (series[0], len(series)) == (head, 2 + len(DEGRADATION_CROSS) + len(TURNS))
    assert (series[2], series[-1]) == ("| 5 looks, 0.5 px | 0.010 / 0.020 |", "| 20 degrees | 0.050 / 0.060 |")


@pytest.mark.parametrize(("grid", "count"), [("best", 7), ("all", 40)])
def test_without_training_combinations_that_are_not_trained_are_named(tmp_path, grid, count):
    result = run(tmp_path, grid=grid, parts="rotation")
    assert (result.exit_code, result.stdout) == (0, "")
    assert len(set(result.stderr.splitlines())) == count == result.stderr.count(": not trained yet\n")


@pytest.mark.parametrize("name", ["", "mcgf/both/mcgf", "mcgf/pseudo/hinge", "sfcnet/pseudo/mcgf"])
def test_a_combination_that_is_none_is_a_usage_error(name, tmp_path):
    result = run(tmp_path, grid=f"{GRID[0]},{name}")
    assert result.exit_code == 2
    assert f"{name!r} is not BACKBONE/siamese|pseudo/LOSS" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_costs_are_measured_of_every_network_in_a_process_of_its_own(monkeypatch):
    """The images have an eighth of their sides."""
    asked, original = [], torch.randn
    assert common.apart(divmod, 7, 2) == (3, 1)
    monkeypatch.setattr(torch, "randn", lambda *shape: original(*shape[:2], *(n // 8 for n in shape[2:])))
    facts = study.cost("mcgf", False, "cc")
    assert facts["parameters"] == sum(p.numel() for p in build("mcgf", False).parameters()) > 0
    assert (facts["forward"] > 0, facts["similarity"] > 0, facts["memory"] >= 0) == (True, True, True)

    def apart(function, *arguments):
        asked.append((function, *arguments))
        return {"parameters": 1234567, "forward": 10.4, "similarity": 2.6, "memory": 99.5}

    monkeypatch.setattr(study, "apart", apart)
    lines = study.cost_table().splitlines()
    assert asked[0] == (study.cost, "mcgf", False, "cc")
    assert {name for _, name, *_ in asked} == set(NETWORKS)
    assert lines[4] == "| mcgf | pseudo-Siamese | 1,234,567 | 10 | 3 | 100 |"
    assert "| fft-unet | Siamese |" in lines[6]
