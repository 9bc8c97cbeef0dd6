"""pipelines.turned: what it measures and says of a small folder, and what it says of one that holds nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.rasters import fields

from pipelines import turned
from pipelines.turned import RIGHT, Turned, main, measure, summary
from sn9reg.matchers.descriptors.matcher import DescriptorMatcher

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

MIM = ("--matcher-option", "descriptor=mim", "--matcher-option", "max_points=200")


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pairs of fields, SAR reversed and in speckle; of one, a strip is not valid."""
    folder = tmp_path_factory.mktemp("pairs")
    for k in range(2):
        ground = fields(240, k + 1)
        speckle = np.random.default_rng(k).gamma(16, 1 / 16, ground.shape)
        for kind, values in (("opt", 200 * ground), ("sar", 200 * (1.1 - ground) * speckle)):
            Image.fromarray(values.clip(1, 255).astype(np.uint8)).save(folder / f"{k}_{kind}.png")
    mask = np.full((240, 240), 255, np.uint8)
    mask[:, :20] = 0
    Image.fromarray(mask).save(folder / "1_mask.png")
    return folder


@pytest.fixture(scope="module")
def told(folder):
    """What is printed as JSON with turns of at most 25 degrees."""
    limits = ("--matcher-option", "turn=30", "--matcher-option", "zoom=1.2")
    result = run(folder, "--turn", 25, "--zoom", 1.1, "--json", *MIM, *limits)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_json_tells_of_each_pair(told):
    assert [one["name"] for one in told] == ["0", "1"]
    assert all(set(one) == {"name", "turn", "zoom", "error", "seconds"} for one in told)


def test_turns_and_scales_stay_within_their_limits(told):
    assert all(abs(one["turn"]) <= 25 for one in told)
    assert all(1 / 1.1 - 1e-3 <= one["zoom"] <= 1.1 + 1e-3 for one in told)
    assert told[0]["turn"] != told[1]["turn"]


def test_turned_pairs_come_out_right(told):
    assert all(one["error"] is not None and one["error"] < 2 for one in told)


class Nothing:
    """A matcher that notes what it saw, and finds nothing."""

    name = "nothing"

    def __init__(self):
        self.seen = []

    def match(self, pair):
        self.seen.append(pair.sar.read(pair.grid.window))
        return DescriptorMatcher(descriptor="mim", pose="none", max_points=1, refine=False).match(pair)


def test_what_is_not_registered_has_no_error(folder):
    found = measure(folder, Nothing(), 10.0, 1.0, "affine")
    assert [one.error for one in found] == [None, None]
    assert not any(one.right for one in found)


def test_the_limit_takes_fewer_pairs(folder):
    assert len(measure(folder, Nothing(), 10.0, 1.0, "affine", limit=1)) == 1


def test_a_seed_gives_the_same_turns_and_another_others(folder):
    one, same, other = (
        [(t.turn, t.zoom) for t in measure(folder, Nothing(), 45.0, 1.25, "affine", 1, seed)] for seed in (3, 3, 4)
    )
    assert one == same
    assert one != other


def test_the_sar_image_is_turned_about_its_middle(folder):
    """Its corners are lost, and what it shows is that many degrees away."""
    matcher = Nothing()
    (found,) = measure(folder, matcher, 45.0, 1.0, "affine", 1, seed=4)
    patch = matcher.seen[0]
    assert abs(found.turn) > 3
    assert not patch.valid[0, 0]
    assert patch.valid[120, 120]
    whole = np.asarray(Image.open(folder / "0_sar.png"), np.float32)
    cos, sin = math.cos(math.radians(found.turn)), math.sin(math.radians(found.turn))
    x, y = np.meshgrid(np.arange(-60, 61, 5), np.arange(-60, 61, 5))
    to = np.rint(np.stack([cos * x - sin * y, sin * x + cos * y]) + 119.5).astype(int)
    here = np.rint(np.stack([x, y]) + 119.5).astype(int)
    moved, plain = patch.values[0][to[1], to[0]], whole[here[1], here[0]]
    assert np.corrcoef(moved.ravel(), plain.ravel())[0, 1] > 0.8


def one(error, seconds=1.0):
    return Turned("a", 10.0, 1.1, error, seconds)


def test_the_summary_counts_in_words():
    told = summary([one(1.0, 2.0), one(2.0, 3.0), one(9.0, 4.0), one(None, 3.0)])
    assert told == ("2 of 4 registered within 5 px (50%); 1 refused, 1 wrong; median error 2.00 px; 3.0 s a pair")


def test_the_summary_of_refusals_alone_has_no_error():
    assert summary([one(None), one(None)]) == "0 of 2 registered within 5 px (0%); 2 refused; 1.0 s a pair"


@pytest.mark.parametrize(("error", "right"), [(0.0, True), (RIGHT, True), (RIGHT + 0.01, False), (None, False)])
def test_right_is_what_is_within_the_limit(error, right):
    assert one(error).right is right


def test_without_json_the_summary_is_printed(folder, monkeypatch):
    monkeypatch.setattr(turned, "measure", lambda *arguments: [one(1.0)])
    result = run(folder, *MIM)
    assert result.exit_code == 0
    assert result.stdout.strip() == summary([one(1.0)])


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_folder_without_pairs_is_told_in_words(tmp_path, kind):
    result = run(tmp_path / "none" if kind == "missing" else tmp_path, *MIM)
    assert result.exit_code == 1
    assert str(tmp_path) in result.output
    assert "no such folder" in result.output or "holds no pairs" in result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    "options",
    [
        ("--matcher", "magic"), ("--matcher-option", "speed=3"), ("--matcher-option", "turn=far"),
        ("--matcher-option", "nonsense"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_told_in_words(folder, options):
    result = run(folder, *(MIM if options[0] != "--matcher" else ()), *options)
    assert result.exit_code in (1, 2)
    assert "Error:" in result.output
    assert isinstance(result.exception, SystemExit)


def test_a_broken_file_is_told_in_words(tmp_path):
    for kind in ("opt", "sar"):
        (tmp_path / f"a_{kind}.png").write_bytes(b"no image")
    result = run(tmp_path, *MIM)
    assert result.exit_code == 1
    assert "a_opt.png" in result.output
    assert isinstance(result.exception, SystemExit)
