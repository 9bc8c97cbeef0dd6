"""pipelines.attention_descriptors: a study of two pairs, tiny; trained weights are kept; bad input is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from support.pairs import write_pairs

from pipelines import attention_descriptors as study
from pipelines.attention_descriptors import FEWEST, MEASURES, PROTOCOLS, WITH, WITHOUT, PairResult, Row, known_mean
from pipelines.attention_figures import draw, for_json, table
from sn9reg.errors import InputError
from sn9reg.fit.warp import fit_global
from sn9reg.raster.folders import pair_files
from sn9reg.score.metrics import f_measure
from sn9reg.weights.store import DescriptorArchitecture, load_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning advises on speed

UNTRAINED = "untrained (mim)"
STEPS, BATCH, SEEDS, PAIRS, SIDE = 2, 4, 10, 2, 96
TRAINED = ("with-attention", "without-attention")


def run(folder, *options, pairs="pairs", out="out"):
    arguments = [folder / pairs, "--config", folder / "tiny.yaml", "--out", folder / out]
    return CliRunner().invoke(study.main, [*map(str, arguments), *options])


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Nothing ships, and there are few keypoints, for time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "manifest", dict)
        patch.setattr(study, "FAITHFUL", study.FAITHFUL | {"max_points": 150})
        yield


@pytest.fixture(scope="module")
def done(_small, tmp_path_factory) -> Path:
    """A folder with tiny.yaml, pairs/, and out/ as the study filled it. Not to be written into."""
    folder = tmp_path_factory.mktemp("attention")
    pairs = write_pairs(folder / "pairs", count=PAIRS, side=SIDE)
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[:, :20] = 0
    Image.fromarray(mask).save(pairs / "1_mask.png")
    config = {
        "network": {"width": 0.35, "descriptor": 16},
        "patch": {"side": 32, "scale": 1.0, "inputs": "grey"},
        "sources": [{"folder": str(pairs)}],
        "image": 96,
        "places": 2,
        "steps": STEPS,
        "batch": BATCH,
        "precision": "32-true",
        "workers": 0,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith((folder / "out" / "table.md").read_text() + "\n")
    return folder


@pytest.fixture
def copied(done, tmp_path):
    """A copy that may be written into, with its files' times."""
    return Path(shutil.copytree(done, tmp_path / "study", copy_function=shutil.copy2))


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(study, "run", lambda *a, **k: pytest.fail("trained again"))


def results(folder, out="out"):
    """(descriptor, protocol) -> its part of the numbers."""
    content = json.loads((folder / out / "results.json").read_text())
    return {(row["descriptor"], row["protocol"]): row for row in content["rows"]}


# --- the study -------------------------------------------------------------------------------------------------------


def test_both_are_trained_alike_but_for_the_attention(done):
    notes = []
    for name in TRAINED:
        _, architecture = load_weights(done / "out" / name / "weights.safetensors", kind=DescriptorArchitecture)
        notes.append(json.loads((done / "out" / name / "training.json").read_text()))
        assert architecture.network == notes[-1]["network"]
    assert [note["network"].pop("attention") for note in notes] == [True, False]
    assert notes[0] == notes[1]
    assert (notes[0]["steps"], notes[0]["batch"], notes[0]["seed"]) == (STEPS, BATCH, 0)


def test_every_descriptor_is_measured_under_both_protocols(done):
    found = results(done)
    assert list(found) == [(name, protocol) for name in (WITH, WITHOUT, UNTRAINED) for protocol in PROTOCOLS]
    for row in found.values():
        assert [pair["name"] for pair in row["pairs"]] == ["0", "1"]
        assert row["seconds"] > 0


def test_the_numbers_of_a_pair_go_together(done):
    for row in results(done).values():
        for pair in row["pairs"]:
            trials = pair["trials"]
            assert set(trials) == set(MEASURES)
            assert {len(values) for values in trials.values()} == {SEEDS}
            keypoints = pair["keypoints"]
            assert keypoints > 50
            assert pair["putative_ncm"] <= pair["putative"] <= keypoints
            for k in range(SEEDS):
                one = {measure: values[k] for measure, values in trials.items()}
                matches, correct = one["matches"], one["ncm"]
                assert correct <= min(matches, pair["putative_ncm"])
                assert one["f_measure"] == pytest.approx(f_measure(correct, matches, keypoints))
                assert one["precision"] == pytest.approx(correct / max(matches, 1))
                assert one["recall"] == pytest.approx(correct / keypoints)
                assert (one["rmse"] is None) == (correct == 0)
                assert one["rmse"] is None or 0 <= one["rmse"] < 3
                assert one["enough"] == (matches >= FEWEST)
                assert one["enough_ncm"] == (correct >= FEWEST)


def test_means_and_deviations_are_those_of_the_pairs(done):
    for row in results(done).values():
        for measure in MEASURES:
            values = np.array([pair["trials"][measure] for pair in row["pairs"]], np.float64)
            by_seed = known_mean(values)
            if not np.isfinite(by_seed).all():
                continue
            assert row["mean"][measure] == pytest.approx(by_seed.mean())
            assert row["std"][measure] == pytest.approx(by_seed.std(), abs=1e-9)
        assert row["mean"]["keypoints"] == np.mean([pair["keypoints"] for pair in row["pairs"]])
        assert row["seconds"] == pytest.approx(np.median([pair["seconds"] for pair in row["pairs"]]))


def test_both_protocols_see_the_same_keypoints_and_near_finds_more(done):
    found = results(done)
    for name in (WITH, WITHOUT, UNTRAINED):
        anywhere, near = (found[name, protocol]["mean"] for protocol in PROTOCOLS)
        assert anywhere["keypoints"] == near["keypoints"]
    anywhere, near = (found[UNTRAINED, protocol]["mean"] for protocol in PROTOCOLS)
    assert near["putative_ncm"] >= anywhere["putative_ncm"] > 0


def test_what_looks_alike_is_found(done):
    mean = results(done)[UNTRAINED, "near"]["mean"]
    assert mean["enough"] == mean["enough_ncm"] == 1
    assert mean["precision"] > 0.5
    assert mean["ncm"] > 10


def test_the_table_says_what_the_numbers_say(done):
    lines = (done / "out" / "table.md").read_text().splitlines()
    assert lines[0].startswith(f"{PAIRS} pairs of {done / 'pairs'}, {SEEDS} seeds of RANSAC. Trained: {STEPS} steps")
    assert "both alike" in lines[0]
    head, body = lines[2], lines[4:]
    assert {line.count("|") for line in lines[2:]} == {13}
    assert "F-measure" in head
    for line, ((name, protocol), row) in zip(body, results(done).items(), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        mean = row["mean"]
        assert cells[:2] == [name, protocol]
        assert cells[4] == f"{mean['matches']:.1f}"
        assert cells[5].split(" ± ") == [f"{mean['ncm']:.1f}", f"{row['std']['ncm']:.1f}"]
        assert cells[8].split(" ± ")[0] == f"{mean['f_measure']:.4f}"
        assert cells[9] == ("none" if mean["rmse"] is None else f"{mean['rmse']:.2f}")
        assert cells[10] == f"{mean['enough']:.2f} ({mean['enough_ncm']:.2f})"


def test_the_figure_shows_something(done):
    image = np.array(Image.open(done / "out" / "figure.png").convert("L"))
    assert image.shape[1] > 1.5 * image.shape[0]
    assert image.std() > 5


def test_a_second_call_trains_nothing_and_finds_the_same(copied, no_training):
    before = results(copied)
    result = run(copied, "--seeds", "1", "--limit", "1")
    assert result.exit_code == 0, result.output
    assert "kept" not in result.stderr
    for key, row in results(copied).items():
        (pair,), old = row["pairs"], before[key]["pairs"][0]
        assert pair["trials"] == {measure: values[:1] for measure, values in old["trials"].items()}
        assert all(pair[k] == old[k] for k in ("name", "keypoints", "putative", "putative_ncm"))


def test_weights_of_another_configuration_are_kept_and_that_is_said(copied, no_training):
    note = copied / "out" / TRAINED[1] / "training.json"
    note.unlink()
    result = run(copied, "--steps", "3", "--limit", "1", "--seeds", "1")
    assert result.exit_code == 0, result.output
    told = [line for line in result.stderr.splitlines() if "kept, though not by this configuration" in line]
    assert [line.split(":")[0] for line in told] == [str(copied / "out" / n / "weights.safetensors") for n in TRAINED]
    about = (copied / "out" / "table.md").read_text().splitlines()[0]
    assert f"Trained: with attention {STEPS} steps of {BATCH} patches" in about
    assert "without attention nobody knows for how long" in about


def test_a_stopped_training_goes_on_unless_it_was_another(copied, monkeypatch):
    config = study.read_as(copied / "tiny.yaml", study.DescriptorConfig)
    asked = []

    def trained(config, folder, resume):
        asked.append((config.network["attention"], config.steps, resume))
        return folder / "weights.safetensors"

    monkeypatch.setattr(study, "run", trained)
    for name in TRAINED:
        (copied / "out" / name / "weights.safetensors").unlink()
    other = study.dataclasses.replace(config, steps=5)
    for name, one in ((WITH, config), (WITHOUT, other), (WITHOUT, other)):
        study.trained(one, copied / "out", name)
    assert asked == [(True, STEPS, True), (False, 5, False), (False, 5, True)]


def test_pairs_seeds_and_further_weights_may_be_chosen(copied, no_training, monkeypatch):
    seeds = []
    original = study.inliers
    monkeypatch.setattr(study, "inliers", lambda *a: seeds.append(a[-1]) or original(*a))
    weights = copied / "out" / TRAINED[0] / "weights.safetensors"
    result = run(copied, "--limit", "1", "--seeds", "2", "--weights", str(weights))
    assert result.exit_code == 0, result.output
    found = results(copied)
    assert len(found) == 8
    assert seeds == [0, 1] * len(found)
    for row in found.values():
        assert [len(values) for values in row["pairs"][0]["trials"].values()] == [2] * len(MEASURES)
        assert len(row["pairs"]) == 1
    for protocol in PROTOCOLS:
        assert found["given", protocol]["mean"] == found[WITH, protocol]["mean"]


def test_what_ships_is_measured_too(monkeypatch):
    monkeypatch.setattr(study, "manifest", lambda: {"descriptors": {}})
    assert study.others(None) == {UNTRAINED: {"descriptor": "mim"}, "shipped": {}}


# --- numbers that lack -----------------------------------------------------------------------------------------------


def row_of(rmse, descriptor=WITH):
    """Two pairs under two seeds, all alike but for the RMSE."""
    trials = [{k: np.ones(2) for k in MEASURES} | {"rmse": np.array(one, np.float64)} for one in rmse]
    return Row(descriptor, "near", [PairResult(str(k), 9, 4, 2, 0.5, trial) for k, trial in enumerate(trials)])


def test_the_rmse_is_that_of_the_pairs_that_have_one():
    facts = row_of([[1.0, np.nan], [2.0, np.nan]]).as_dict()
    assert facts["mean"]["rmse"] == 1.5
    assert facts["std"]["rmse"] == 0
    assert facts["mean"]["keypoints"] == 9
    facts = row_of([[1.0, 2.0], [np.nan, 1.0]]).as_dict()
    assert (facts["mean"]["rmse"], facts["std"]["rmse"]) == (1.25, 0.25)


def test_none_at_all_is_no_number(tmp_path):
    facts = for_json([row_of([[np.nan, np.nan]] * 2).as_dict()])
    assert facts[0]["mean"]["rmse"] is None
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert "| none |" in table(facts, "")
    draw(tmp_path / "figure.png", facts)
    assert (tmp_path / "figure.png").stat().st_size > 0


# --- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "message"), [("nowhere", "no such folder"), (".", "holds no pairs NAME_opt.* and NAME_sar.*")]
)
def test_a_bad_folder_is_an_error_of_one_line(folder, message, tmp_path):
    result = run(tmp_path, pairs=folder)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path / folder}: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_bad_weights_are_told_before_anything_is_trained(done, tmp_path, no_training):
    shutil.copytree(done / "pairs", tmp_path / "pairs")
    shutil.copy(done / "tiny.yaml", tmp_path)
    result = run(tmp_path, "--weights", str(tmp_path / "none.safetensors"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {tmp_path / 'none.safetensors'}: no such weights file\n"
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_makes_no_sense_is_a_usage_error(done, tmp_path):
    shutil.copytree(done / "pairs", tmp_path / "pairs")
    (tmp_path / "tiny.yaml").write_text("sources: [{folder: x}]\nheads: 3\n")
    result = run(tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / 'tiny.yaml'}: knows no heads")


def test_an_out_that_is_a_file_is_an_error_of_one_line(copied):
    (copied / "taken").write_text("")
    result = run(copied, out="taken")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {copied / 'taken' / TRAINED[0]}: cannot be made (Not a directory)\n"


def test_pairs_without_valid_pixels_or_of_two_sizes_are_named(tmp_path):
    pairs = write_pairs(tmp_path, count=2, side=48)
    Image.new("L", (48, 48)).save(pairs / "0_mask.png")
    Image.new("L", (40, 48), 9).save(pairs / "1_sar.png")
    masked, cropped = pair_files(pairs)
    with pytest.raises(InputError, match=r"0_opt\.png: holds no valid pixel"), study.opened(masked):
        pass
    with pytest.raises(InputError, match=r"1_opt\.png and 1_sar\.png differ in size"), study.opened(cropped):
        pass


# --- seeds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["affine", "homography"])
def test_another_seed_draws_other_samples_and_none_moves_the_inliers_of_others(kind):
    random = np.random.default_rng(0)
    source = random.uniform(0, 500, (200, 2))
    target = source + random.normal(0, 1.5, source.shape)
    target[60:] = random.uniform(0, 500, (140, 2))
    fits = [fit_global(source, target, kind, 3.0, "ransac", seed=seed) for seed in range(10)]
    assert len({fit.inliers.tobytes() for fit in fits}) > 1
    plain, again = fit_global(source, target, kind, 3.0, "ransac"), fit_global(source, target, kind, 3.0, "ransac", 7)
    assert plain.inliers.tobytes() == fits[0].inliers.tobytes()
    assert plain.matrix.tobytes() == fits[0].matrix.tobytes()
    assert again.matrix.tobytes() == fits[7].matrix.tobytes()
    for fit in fits:
        assert fit.inliers[:60].mean() > 0.5
        assert fit.inliers[60:].mean() < 0.1
