"""pipelines.navigation_hybrids: a study of two combinations, tiny; stopped ones go on; costs are measured."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import click
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from support.pairs import write_pairs

from pipelines import navigation_hybrids as study
from pipelines.navigation_hybrids import BACKBONES, BEST, CENTRE, PAPER_LOSSES, TURNS, Hybrid
from sn9reg.matchers.dense.networks.table import NETWORKS, build
from sn9reg.raster.degradation import DEGRADATION_CROSS
from sn9reg.weights.store import load_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning advises on speed

GRID = ("mcgf/pseudo/mcgf", "mcgf/siamese/cross-corr-ce")
BOTH = ",".join(GRID)
FOLDERS = [Hybrid.of(name).folder for name in GRID]
STEPS, BATCH, PAIRS = 2, 3, 2


def run(folder, *options, grid=BOTH, parts="train", out="out"):
    """The study by the configuration and the pairs of a folder."""
    arguments = ["--grid", grid, "--parts", parts, "--config", folder / "tiny.yaml", "--test", folder / "pairs"]
    return CliRunner().invoke(study.main, [*map(str, [*arguments, "--out", folder / out]), *options])


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A folder with tiny.yaml, pairs/, and out/ as a study filled it. Not to be written into."""
    folder = tmp_path_factory.mktemp("study")
    pairs = write_pairs(folder / "pairs", count=PAIRS, side=256)
    sides = {"optical": 48, "sar": 24}
    config = {
        "network": {"name": "osmnet"},  # this, the loss and the branches are the combination's
        "loss": {"name": "mcgf"},
        "sources": [{"folder": str(pairs), "held_out": 0.5}],
        "geometry": sides,
        "validation": sides,
        "steps": STEPS,
        "batch": BATCH,
        "validate_every": 1,
        "precision": "32-true",
        "workers": 0,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    result = run(folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def copied(done, tmp_path):
    """A copy that may be written into, with its files' times."""
    return Path(shutil.copytree(done, tmp_path / "study", copy_function=shutil.copy2))


def results(folder, name=FOLDERS[0]):
    return json.loads((folder / "out" / name / "results.json").read_text())


def times(folder):
    """When the weights were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("out/*/weights.safetensors")}


# --- the study -------------------------------------------------------------------------------------------------------


def test_every_combination_is_trained_as_it_is_called(done):
    assert sorted(times(done)) == sorted(FOLDERS)
    for name, folder in zip(GRID, FOLDERS, strict=True):
        hybrid = Hybrid.of(name)
        network, architecture = load_weights(done / "out" / folder / "weights.safetensors")
        assert (architecture.network, architecture.shared, architecture.similarity) == ("mcgf", hybrid.shared, "cc")
        assert network.shared is hybrid.shared
        note = json.loads((done / "out" / folder / "training.json").read_text())
        assert (note["steps"], note["batch"]) == (STEPS, BATCH)
        assert note["seconds"] >= 0


def test_the_csv_has_a_row_for_each_combination_and_condition(done):
    with (done / "out" / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["hybrid"], row["condition"]) for row in rows] == [
        (name, condition) for name in sorted(GRID) for condition in ("clean", "degraded")
    ]
    for row in rows:
        found = results(done, row["hybrid"].replace("/", "_"))[row["condition"]]
        assert found["n"] == PAIRS
        assert float(row["l2"]) == found["mean_l2_px"]
        rates = [float(row[f"cmr{r}"]) for r in (0, 1, 2, 3, 5)]
        assert rates == sorted(rates) == [found["cmr"][str(r)] for r in (0, 1, 2, 3, 5)]
        assert (int(row["steps"]), int(row["batch"])) == (STEPS, BATCH)


def test_the_table_says_the_budget_and_what_was_measured(done):
    lines = (done / "out" / "table.md").read_text().splitlines()
    assert lines[0] == f"Reduced budget: {STEPS} steps of {BATCH} pairs, the same for all."
    body = [line for line in lines if line.startswith("| mcgf/")]
    assert len(body) == len(GRID)
    for name, line in zip(sorted(GRID), body, strict=True):
        clean, worse = (results(done, name.replace("/", "_"))[c] for c in ("clean", "degraded"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rates = " / ".join(f"{clean['cmr'][r]:.3f}" for r in "135")
        assert cells[:2] == [name, f"{rates}, {clean['mean_l2_px']:.2f} px"]
        assert cells[2] == " / ".join(f"{worse['cmr'][r]:.3f}" for r in "012")


def test_the_figure_shows_something(done):
    image = np.array(Image.open(done / "out" / "figure.png").convert("L"))
    assert image.shape[1] > 2 * image.shape[0]
    assert image.std() > 5


def test_a_second_call_trains_and_measures_nothing_again(copied, monkeypatch):
    before, found = times(copied), results(copied)
    monkeypatch.setattr(study, "run", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(study, "bench_patches", lambda *a, **k: pytest.fail("measured again"))
    result = run(copied)
    assert result.exit_code == 0, result.output
    assert result.stdout == (copied / "out" / "table.md").read_text() + "\n"
    assert times(copied) == before
    assert results(copied) == found


def test_what_lacks_is_measured_and_nothing_else(copied):
    path = copied / "out" / FOLDERS[0] / "results.json"
    found = results(copied)
    kept = {"clean": found["clean"] | {"mean_l2_px": 123.25}}
    path.write_text(json.dumps(kept))
    assert run(copied).exit_code == 0
    again = results(copied)
    assert again["clean"] == kept["clean"]
    assert {k: v for k, v in again["degraded"].items() if k != "ms_per_pair"} == {
        k: v for k, v in found["degraded"].items() if k != "ms_per_pair"
    }
    assert "123.25 px" in (copied / "out" / "table.md").read_text()


def test_a_study_stopped_after_the_training_goes_on(copied):
    """The weights are there, but not the note that is written after them."""
    before = (copied / "out" / FOLDERS[0] / "weights.safetensors").read_bytes()
    (copied / "out" / FOLDERS[0] / "training.json").unlink()
    result = run(copied, grid=GRID[0])
    assert result.exit_code == 0, result.output
    assert (copied / "out" / FOLDERS[0] / "training.json").exists()
    assert (copied / "out" / FOLDERS[0] / "weights.safetensors").read_bytes() == before


def test_a_combination_stopped_between_two_conditions_does_not_keep_the_others_from_the_table(copied):
    path = copied / "out" / FOLDERS[0] / "results.json"
    path.write_text(json.dumps({"clean": results(copied)["clean"]}))
    result = run(copied, grid=GRID[1])
    assert result.exit_code == 0, result.output
    table = (copied / "out" / "table.md").read_text()
    assert f"| {GRID[1]} |" in table
    assert f"| {GRID[0]} |" not in table


def test_budgets_that_differ_are_all_named(copied):
    path = copied / "out" / FOLDERS[1] / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 700}))
    assert run(copied).exit_code == 0
    first = (copied / "out" / "table.md").read_text().splitlines()[0]
    assert first == f"Reduced budget: {STEPS} steps of {BATCH} pairs or 700 steps of {BATCH} pairs."


def test_steps_may_be_given_in_place_of_the_configs(copied):
    result = run(copied, "--steps", "1", "--limit", "1", grid=GRID[0], out="short")
    assert result.exit_code == 0, result.output
    assert "Reduced budget: 1 steps of 3 pairs" in result.stdout
    assert json.loads((copied / "short" / FOLDERS[0] / "results.json").read_text())["clean"]["n"] == 1


def test_parts_choose_the_conditions(copied, monkeypatch):
    asked = []

    class Found:
        def as_dict(self):
            return {"cmr": dict.fromkeys(("0", "1", "2", "3", "5"), len(asked) / 100), "mean_l2_px": 1.0, "n": 2}

    def measure(folder, matcher, reference, template, limit, *, degradation, rotate):
        asked.append((degradation, rotate))
        return Found()

    monkeypatch.setattr(study, "bench_patches", measure)
    assert run(copied, grid=GRID[0], parts="cross").exit_code == 0
    assert asked == [(d, 0.0) for d in DEGRADATION_CROSS]
    asked.clear()
    assert run(copied, grid=GRID[0], parts="rotation").exit_code == 0
    assert asked == [(CENTRE, float(turn)) for turn in TURNS]
    assert results(copied).keys() >= {"clean", "L=35 blur=0.25", "turn 20"}
    series = (copied / "out" / "table.md").read_text().split("\n\n")[-1].splitlines()
    assert series[0] == f"| CMR(1), 128 in 192 px | {GRID[0]} |"
    assert len(series) == 2 + len(DEGRADATION_CROSS) + len(TURNS)
    assert series[2] == "| 5 looks, 0.5 px | 0.010 |"
    assert series[-1] == "| 20 degrees | 0.050 |"


# --- what it is asked ------------------------------------------------------------------------------------------------


def test_without_training_what_is_not_trained_is_said(done, tmp_path):
    shutil.copytree(done / "pairs", tmp_path / "pairs")
    result = run(tmp_path, parts="rotation")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [f"{name}: not trained yet" for name in GRID]
    assert result.stdout == ""


@pytest.mark.parametrize(
    "name",
    ["mcgf", "", "mcgf/pseudo", "mcgf/both/mcgf", "mcgf/pseudo/hinge", "sfcnet/pseudo/mcgf", "mcgf/pseudo/mcgf/more"],
)
def test_a_combination_that_is_none_is_a_usage_error(name, tmp_path):
    result = run(tmp_path, grid=f"{GRID[0]},{name}")
    assert result.exit_code == 2
    assert f"{name!r} is not BACKBONE/siamese|pseudo/LOSS" in result.stderr
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(click.BadParameter):
        Hybrid.of(name)


def test_a_part_that_is_none_is_a_usage_error(tmp_path):
    result = run(tmp_path, parts="train,crosses")
    assert result.exit_code == 2
    assert "no part 'crosses'; there are train, cross, rotation, cost" in result.stderr


def test_files_that_are_not_there_are_an_error_of_one_line(done, tmp_path):
    result = run(tmp_path, grid=GRID[0])
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path / 'tiny.yaml'}: cannot be read (No such file or directory)\n"


def test_names_come_back_and_the_papers_are_there():
    for name in BEST:
        hybrid = Hybrid.of(name)
        assert str(hybrid) == name
        assert hybrid.folder.replace("_", "/") == name
        assert hybrid.backbone in BACKBONES
        assert hybrid.loss in PAPER_LOSSES
    assert set(BACKBONES) < set(NETWORKS)


# --- what networks cost ----------------------------------------------------------------------------------------------


def test_costs_are_positive_numbers(capsys, monkeypatch):
    """On images of an eighth of their side, for time."""
    original = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape: original(*shape[:2], *(n // 8 for n in shape[2:])))
    study.cost("mcgf", False, "cc")
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == sum(p.numel() for p in build("mcgf", False).parameters()) > 0
    assert facts["forward"] > 0
    assert facts["similarity"] > 0
    assert facts["memory"] >= 0  # of a process that has held more before


def test_the_table_of_costs_has_every_network_from_a_process_of_its_own(monkeypatch):
    codes = []

    def ran(command, check, capture_output, text):
        assert check
        codes.append(command[-1])
        facts = {"parameters": 1234567, "forward": 10.4, "similarity": 2.6, "memory": 99.5}
        return subprocess.CompletedProcess(command, 0, json.dumps(facts), "")

    monkeypatch.setattr(study.subprocess, "run", ran)
    lines = study.cost_table().splitlines()
    assert [line.split("|")[1].strip() for line in lines[4:]] == [code.split("'")[1] for code in codes]
    assert {code.split("'")[1] for code in codes} == set(NETWORKS)
    assert lines[4] == "| mcgf | pseudo-Siamese | 1,234,567 | 10 | 3 | 100 |"
    assert "| fft-unet | Siamese |" in lines[6]
    seen = []
    monkeypatch.setattr(study, "cost", lambda *a: seen.append(a))
    for code in codes:  # what the processes are told is what they can do
        exec(code.replace("from pipelines.navigation_hybrids import cost; ", ""), {"cost": study.cost})
    assert seen[0] == ("mcgf", False, "cc")
    assert len(seen) == len(codes)
