"""pipelines.studies.attention_descriptors: a tiny study of two pairs; trained weights are kept; errors are clear."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from support.pairs import write_pairs

from pipelines import train
from pipelines.studies import attention_descriptors as study
from pipelines.studies.attention_descriptors import FEWEST, PROTOCOLS, WITH, WITHOUT
from sn9reg.errors import InputError
from sn9reg.matchers.descriptors.network import load_descriptor
from sn9reg.raster.folders import pair_files

pytestmark = [pytest.mark.study, pytest.mark.filterwarnings("ignore")]  # Lightning advises on speed

UNTRAINED = "untrained (mim)"
STEPS, BATCH, SEEDS, PAIRS = 2, 4, 2, 2
TRAINED = ("with-attention", "without-attention")


def run(folder, *options):
    arguments = [folder / "pairs", "--config", folder / "tiny.yaml", "--out", folder / "out"]
    return CliRunner().invoke(study.main, [*map(str, arguments), *map(str, options)])


@pytest.fixture(scope="module", autouse=True)
def _small():
    """There are few keypoints, for time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "FAITHFUL", study.FAITHFUL | {"max_points": 60})
        yield


@pytest.fixture(scope="module")
def done(_small, tmp_path_factory) -> Path:
    """A folder with tiny.yaml, pairs/, and out/ as the study filled it. Not to be written into."""
    folder = tmp_path_factory.mktemp("attention")
    pairs = write_pairs(folder / "pairs", count=PAIRS, side=96)
    config = {
        "train": "descriptors",
        "network": {"width": 0.35, "descriptor": 16},
        "patch": {"side": 32, "scale": 1.0, "inputs": "grey"},
        "sources": [{"folder": str(pairs)}],
        "image": 96, "places": 2, "steps": STEPS, "batch": BATCH, "precision": "32-true", "workers": 0,
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    result = run(folder, "--seeds", SEEDS)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith((folder / "out" / "table.md").read_text() + "\n")
    return folder


@pytest.fixture
def copied(done, tmp_path, monkeypatch):
    """A copy that may be written into; nothing is trained any more."""
    monkeypatch.setattr(train, "run", lambda *a, **k: pytest.fail("trained again"))
    return Path(shutil.copytree(done, tmp_path / "study", copy_function=shutil.copy2))


def results(folder):
    """A row for each descriptor, protocol, pair and seed."""
    return pd.read_csv(folder / "out" / "results.csv")


def test_both_are_trained_alike_but_for_the_attention(done):
    notes = [train.noted(done / "out" / name) for name in TRAINED]
    for name, note in zip(TRAINED, notes, strict=True):
        assert load_descriptor(done / "out" / name / "weights.safetensors")[1].network == note["network"]
        assert note.pop("seconds") >= 0
    assert [note["network"].pop("attention") for note in notes] == [True, False]
    assert notes[0] == notes[1]


def test_the_numbers_of_a_trial_go_together(done):
    found = results(done)
    names = (WITH, WITHOUT, UNTRAINED, "shipped", *study.RIVALS)
    kinds = [[name, protocol] for name in names for protocol in PROTOCOLS]
    assert found[["descriptor", "protocol"]].drop_duplicates().to_numpy().tolist() == kinds
    pairs = found.groupby(["descriptor", "protocol", "pair"])
    assert ((pairs.size() == SEEDS).all(), len(pairs)) == (True, len(kinds) * PAIRS)
    assert pairs["matches"].nunique().max() > 1  # another seed draws other samples
    keypoints, putative, matches, correct = (found[k] for k in ("keypoints", "putative", "matches", "ncm"))
    assert ((found["putative_ncm"] <= putative) & (putative <= keypoints)).all()
    assert (keypoints > np.where(found["descriptor"].isin(study.RIVALS), 0, 20)).all()
    assert (correct <= found[["matches", "putative_ncm"]].min(axis=1)).all()
    np.testing.assert_allclose(found["precision"], correct / matches.clip(lower=1))
    np.testing.assert_allclose(found["recall"], correct / keypoints)
    assert (found["rmse"].between(0, 3, inclusive="left") == (correct > 0)).all()
    assert ((found["enough"] == (matches >= FEWEST)) & (found["enough_ncm"] == (correct >= FEWEST))).all()
    # What looks alike is found, and `near` finds more.
    means = found[found["descriptor"] == UNTRAINED].groupby("protocol").mean(numeric_only=True)
    anywhere, near = (means.loc[protocol] for protocol in PROTOCOLS)
    assert anywhere["keypoints"] == near["keypoints"]
    assert near["putative_ncm"] >= anywhere["putative_ncm"] > 0
    assert near["enough_ncm"] == 1
    assert (near["precision"], near["ncm"]) > (0.5, 10)


def test_table_and_figure_say_what_the_numbers_say(done):
    about, _, _, _, *lines = (done / "out" / "table.md").read_text().splitlines()
    assert (
        f"{PAIRS} pairs of {done / 'pairs'}, {SEEDS} seeds of RANSAC. Trained: {WITH} {STEPS} steps of {BATCH} "
        in about
    )
    kinds = results(done).groupby(["descriptor", "protocol"], sort=False)
    for line, (names, rows) in zip(lines, kinds, strict=True):
        cells, ncm = [cell.strip() for cell in line.strip("|").split("|")], rows.groupby("seed")["ncm"].mean()
        assert (cells[:2], len(cells)) == ([*names], 12)
        assert cells[5] == f"{ncm.mean():.1f} ± {np.std(ncm):.1f}"
        assert cells[10] == f"{rows['enough'].mean():.2f} ({rows['enough_ncm'].mean():.2f})"
    assert np.array(Image.open(done / "out" / "figure.png").convert("L")).std() > 5


def test_a_second_call_trains_nothing_and_may_measure_further_weights(copied):
    before = results(copied).drop(columns="seconds")
    weights = copied / "out" / TRAINED[0] / "weights.safetensors"
    result = run(copied, "--seeds", 1, "--limit", 1, "--weights", weights)
    assert result.exit_code == 0, result.output
    assert "kept" not in result.stderr
    assert run(copied, "--weights", "none.safetensors").stderr == "Error: none.safetensors: no such file\n"
    found = results(copied).drop(columns="seconds")
    known = before[(before["pair"] == found["pair"][0]) & (before["seed"] == 0)]
    given = known[:2].assign(descriptor="given")
    pd.testing.assert_frame_equal(found, pd.concat([known[:6], given, known[8:]], ignore_index=True))


def test_parts_and_the_number_of_keypoints_may_be_chosen(copied):
    result = run(copied, "--seeds", 1, "--parts", "mim", "--keypoints", 9)
    assert result.exit_code == 0, result.output
    found = results(copied)
    assert (set(found["descriptor"]), found["keypoints"].max()) == ({UNTRAINED}, 9)


def test_a_stopped_training_goes_on_unless_it_was_another_and_weights_are_kept(tmp_path, monkeypatch, capsys):
    asked, folder = [], tmp_path / "run"
    monkeypatch.setattr(train, "as_dict", lambda steps: {"steps": steps, "batch": 9, "seed": 0})
    monkeypatch.setattr(train, "run", lambda steps, folder, resume: asked.append((steps, resume)))
    for steps in (2, 2, 5, 5):
        train.trained(steps, folder)
    assert asked == [(2, False), (2, True), (5, False), (5, True)]
    (folder / "weights.safetensors").touch()
    for steps in (5, 2):
        assert train.trained(steps, folder) == folder / "weights.safetensors"
    assert len(asked) == 4
    assert capsys.readouterr().err.count("kept, though not by this configuration; remove it to train anew") == 1
    about = study.budget({WITH: folder, WITHOUT: tmp_path})
    assert about == f"Trained: {WITH} 5 steps of 9 patches, seed 0, {WITHOUT} nobody knows for how long."


def test_the_rmse_is_that_of_the_pairs_that_have_one_or_none_and_not_drawn(done, tmp_path):
    """Of pairs under two seeds."""
    known = results(done)[:1].drop(columns=["pair", "seed", "rmse"])
    for rmse, mean in ([[1, np.nan], [2, np.nan]], "1.50"), ([[1, 2], [np.nan, 1]], "1.25"), ([[np.nan] * 2], "none"):
        trials = pd.DataFrame(rmse).rename_axis("pair").reset_index().melt("pair", var_name="seed", value_name="rmse")
        found = known.merge(trials, how="cross")
        assert study.table(found, "").split("|")[-4].strip() == mean
    study.draw(tmp_path / "figure.png", found)
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_pairs_without_valid_pixels_or_of_two_sizes_are_named(tmp_path):
    pairs = write_pairs(tmp_path, count=2, side=48)
    Image.new("L", (48, 48)).save(pairs / "0_mask.png")
    Image.new("L", (40, 48), 9).save(pairs / "1_sar.png")
    messages = (r"0_opt\.png: holds no valid pixel", r"1_opt\.png and 1_sar\.png differ in size")
    for files, message in zip(pair_files(pairs), messages, strict=True):
        with pytest.raises(InputError, match=message), study.opened(files):
            pass
