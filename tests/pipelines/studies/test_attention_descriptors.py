"""pipelines.studies.attention_descriptors: a tiny study of two pairs; trained weights are kept; errors are clear."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from support.pairs import write_pairs

from pipelines import train
from pipelines.studies import attention_descriptors as study
from pipelines.studies.attention_descriptors import FEWEST, MEASURES, PROTOCOLS, WITH, WITHOUT
from sn9reg.errors import InputError
from sn9reg.matchers.descriptors.weights import load_descriptor
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
    """Nothing ships, and there are few keypoints, for time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "manifest", dict)
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
    """(descriptor, protocol) -> its part of the numbers."""
    content = json.loads((folder / "out" / "results.json").read_text())
    return {(row["descriptor"], row["protocol"]): row for row in content["rows"]}


def test_both_are_trained_alike_but_for_the_attention(done):
    notes = [train.noted(done / "out" / name) for name in TRAINED]
    for name, note in zip(TRAINED, notes, strict=True):
        assert load_descriptor(done / "out" / name / "weights.safetensors")[1].network == note["network"]
        assert note.pop("seconds") >= 0
    assert [note["network"].pop("attention") for note in notes] == [True, False]
    assert notes[0] == notes[1]
    assert (notes[0]["steps"], notes[0]["batch"], notes[0]["seed"]) == (STEPS, BATCH, 0)


def test_the_numbers_of_a_pair_go_together(done):
    found = results(done)
    assert any(row["std"]["matches"] for row in found.values())  # another seed draws other samples
    assert list(found) == [(name, protocol) for name in (WITH, WITHOUT, UNTRAINED) for protocol in PROTOCOLS]
    for row in found.values():
        assert [pair["name"] for pair in row["pairs"]] == ["0", "1"]
        for pair in row["pairs"]:
            assert {len(values) for values in pair["trials"].values()} == {SEEDS}
            assert pair["putative_ncm"] <= pair["putative"] <= pair["keypoints"] > 20
            for matches, correct, precision, recall, f, rmse, *enough in zip(*pair["trials"].values(), strict=True):
                assert correct <= min(matches, pair["putative_ncm"])
                assert (precision, recall) == pytest.approx((correct / max(matches, 1), correct / pair["keypoints"]))
                assert f == pytest.approx(2 * correct / (matches + pair["keypoints"]))
                assert rmse is None if correct == 0 else 0 <= rmse < 3
                assert enough == [matches >= FEWEST, correct >= FEWEST]
        assert row["mean"]["keypoints"] == np.mean([pair["keypoints"] for pair in row["pairs"]])
        assert row["seconds"] == np.median([pair["seconds"] for pair in row["pairs"]]) > 0


def test_what_looks_alike_is_found_and_near_finds_more(done):
    anywhere, near = (results(done)[UNTRAINED, protocol]["mean"] for protocol in PROTOCOLS)
    assert anywhere["keypoints"] == near["keypoints"]
    assert near["putative_ncm"] >= anywhere["putative_ncm"] > 0
    assert near["enough_ncm"] == 1
    assert (near["precision"], near["ncm"]) > (0.5, 10)


def test_table_and_figure_say_what_the_numbers_say(done):
    lines = (done / "out" / "table.md").read_text().splitlines()
    assert lines[0].startswith(f"{PAIRS} pairs of {done / 'pairs'}, {SEEDS} seeds of RANSAC. Trained: {STEPS} steps")
    assert "both alike" in lines[0]
    for line, ((name, protocol), row) in zip(lines[4:], results(done).items(), strict=True):
        cells, mean = [cell.strip() for cell in line.strip("|").split("|")], row["mean"]
        assert (cells[:2], len(cells)) == ([name, protocol], 12)
        assert cells[5].split(" ± ") == [f"{mean['ncm']:.1f}", f"{row['std']['ncm']:.1f}"]
        assert cells[10] == f"{mean['enough']:.2f} ({mean['enough_ncm']:.2f})"
    assert np.array(Image.open(done / "out" / "figure.png").convert("L")).std() > 5


def test_a_second_call_trains_nothing_and_may_measure_further_weights(copied):
    before = results(copied)
    weights = copied / "out" / TRAINED[0] / "weights.safetensors"
    result = run(copied, "--seeds", 1, "--limit", 1, "--weights", weights)
    assert result.exit_code == 0, result.output
    assert "kept" not in result.stderr
    found = results(copied)
    assert len(found) == 8
    for key, row in before.items():
        (pair,), old = found[key]["pairs"], row["pairs"][0]
        assert pair["trials"] == {measure: values[:1] for measure, values in old["trials"].items()}
        assert all(pair[k] == old[k] for k in ("name", "keypoints", "putative", "putative_ncm"))
    for protocol in PROTOCOLS:
        assert found["given", protocol]["mean"] == found[WITH, protocol]["mean"]


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


def test_the_rmse_is_that_of_the_pairs_that_have_one_or_null_and_not_drawn(tmp_path):
    def row(*rmse):
        """Of pairs under two seeds, all alike but for the RMSE."""
        trials = [{k: np.ones(2) for k in MEASURES} | {"rmse": np.array(one, np.float64)} for one in rmse]
        fixed = dict.fromkeys(("name", *study.FIXED, "seconds"), 1)
        return study.row(WITH, "near", [fixed | {"trials": trial} for trial in trials])

    for rmse, mean, std in (([[1, np.nan], [2, np.nan]], 1.5, 0), ([[1, 2], [np.nan, 1]], 1.25, 0.25)):
        facts = row(*rmse)
        assert (facts["mean"]["rmse"], facts["std"]["rmse"]) == (mean, std)
    facts = [row([np.nan, np.nan])]
    assert study.for_json(facts)[0]["mean"]["rmse"] is None
    assert "| none |" in study.table(facts, "")
    study.draw(tmp_path / "figure.png", facts)
    assert (tmp_path / "figure.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("code", "message", "options"),
    [
        (1, "none.safetensors: no such weights file", ("--weights", "none.safetensors")),
        (1, "{}/tiny.yaml/with-attention: cannot be made (Not a directory)", ("--out", "{}/tiny.yaml")),
        (2, "no option heads", ("--config", "{}/heads.yaml")),
    ],
)
def test_errors_are_one_line(copied, code, message, options):
    (copied / "heads.yaml").write_text("train: descriptors\nheads: 3")
    result = run(copied, *(option.format(copied) for option in options))
    assert (result.exit_code, result.stderr.count("\n"), message.format(copied) in result.stderr) == (code, 1, True)
    assert result.stderr.startswith("Error: ")


def test_pairs_without_valid_pixels_or_of_two_sizes_are_named(tmp_path):
    pairs = write_pairs(tmp_path, count=2, side=48)
    Image.new("L", (48, 48)).save(pairs / "0_mask.png")
    Image.new("L", (40, 48), 9).save(pairs / "1_sar.png")
    messages = (r"0_opt\.png: holds no valid pixel", r"1_opt\.png and 1_sar\.png differ in size")
    for files, message in zip(pair_files(pairs), messages, strict=True):
        with pytest.raises(InputError, match=message), study.opened(files):
            pass
