"""`bench patches`: correct match rates on folders of pairs, plain and under blur, speckle and rotation."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from support.commands import run
from support.rasters import write_raster

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.dense.structure import StructureMatcher
from sn9reg.raster.degradation import Degradation
from sn9reg.raster.scene import Patch
from sn9reg.score.benchmark import _cut, bench_patches


def save(path, values):
    Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three registered pairs of 140 px: the SAR image is the optical one with its contrast reversed, under speckle."""
    for seed in range(3):
        ground = gaussian_filter(np.random.default_rng(seed).normal(size=(140, 140)), 5) > 0
        speckle = np.random.default_rng(100 + seed).gamma(4, 0.25, ground.shape)
        save(tmp_path / f"{seed}_opt.png", 60 + 120 * ground)
        save(tmp_path / f"{seed}_sar.png", np.clip((30 + 90 * ~ground) * speckle, 0, 255))
    return tmp_path


def test_registered_pairs_are_found(folder):
    result = bench_patches(folder, StructureMatcher(), reference=128, template=90)
    assert result.errors.tolist() == [0, 0, 0]
    assert (bench_patches(folder, StructureMatcher(), 128, 90, rotate=10).errors <= 5).all()


def facts_of(folder, options):
    result = run("bench patches", folder, "--reference 128 --template 90 --json", options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_json_has_the_agreed_keys_and_names_the_conditions_only_when_used(folder):
    plain = facts_of(folder, "--limit 2 --blur 0 --rotate 0")
    assert set(plain) == {"matcher", "n", "cmr", "mean_l2_px", "ms_per_pair"}
    assert (plain["matcher"], plain["n"], list(plain["cmr"])) == (DEFAULT_MATCHER, 2, ["0", "1", "2", "3", "5"])
    used = facts_of(folder, "--limit 1 --looks 8 --blur 0.5 --rotate 10")
    assert {key: used[key] for key in used.keys() - plain.keys()} == {"looks": 8, "blur": 0.5, "rotate": 10}


def test_a_matcher_without_locate_is_asked_for_matches(folder):
    optical = cv2.imread(str(folder / "0_opt.png"), cv2.IMREAD_GRAYSCALE)
    save(folder / "0_opt.png", optical + np.random.default_rng(0).normal(0, 3, optical.shape))  # no area of one value
    blind = SimpleNamespace(name="blind", match=StructureMatcher(max_offset=50, template=48).match)
    assert bench_patches(folder, blind, 128, 90, limit=1).errors <= 2


class Recorder:
    """Keeps what it is given and always says the upper left corner: its error is where the template was cut."""

    name = "recorder"

    def __init__(self):
        self.templates = []

    def locate(self, optical, sar):
        self.templates.append(sar)
        return np.zeros(2)


def recorded(folder, **options):
    """Templates and errors of a run."""
    recorder = Recorder()
    errors = bench_patches(folder, recorder, 128, 90, **({"seed": 1} | options)).errors
    return recorder.templates, errors.tolist()


def test_places_are_pinned_and_the_same_whatever_is_done(folder):
    templates, errors = recorded(folder)
    assert errors == pytest.approx([26.1725046566048, 47.01063709417264, 5.0990195135927845], abs=1e-12)
    assert [t.values.sum() for t in templates] == pytest.approx([516033, 680220, 455482], rel=1e-3)
    assert recorded(folder, rotate=30, degradation=Degradation(5, 1))[1] == errors


def test_every_pair_has_speckle_of_its_own_by_the_seed(folder):
    plain, speckled = recorded(folder)[0], Degradation(8)
    first, again = (recorded(folder, degradation=speckled)[0] for _ in range(2))
    gains = []
    for before, a, b in zip(plain, first, again, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
        gains.append(a.values[0, 40:50, 40:50] / np.maximum(before.values[0, 40:50, 40:50], 1))
    assert not np.allclose(gains[0], gains[1])
    (single,) = recorded(folder, degradation=speckled, limit=1)[0]
    np.testing.assert_array_equal(single.values, first[0].values)
    other = recorded(folder, degradation=speckled, seed=2)[0][0]
    assert not np.array_equal(other.values, first[0].values)


def test_rotation_does_not_change_the_speckle(folder):
    """On an image without any contrast, what is left is the speckle."""
    for seed in range(3):
        save(folder / f"{seed}_sar.png", np.full((140, 140), 100))
    straight, turned = (recorded(folder, degradation=Degradation(8), rotate=r)[0][0] for r in (0, 2))
    both = straight.valid & turned.valid
    np.testing.assert_allclose(straight.values[0][both], turned.values[0][both], rtol=1e-5)


@pytest.mark.parametrize("options", [{"degradation": Degradation(5, 2)}, {"rotate": 40}])
def test_masked_pixels_stay_zero(folder, options):
    mask = np.full((140, 140), 255)
    mask[:70] = 0
    save(folder / "0_mask.png", mask)
    template = recorded(folder, **options)[0][0]
    assert 0 < template.valid.mean() < 1
    assert (template.values[:, ~template.valid] == 0).all()


def cut(values, corner, side, angle):
    return _cut(Patch(values[None].astype(np.float32), np.ones(values.shape, bool)), np.array(corner), side, angle)


def test_a_turned_cut_shows_what_lies_at_the_turned_places():
    """The image holds its own coordinates, so that every pixel says where it was taken."""
    y, x = np.mgrid[:200, :220].astype(float)
    corner, side, angle = (70, 50), 60, 25.0
    centre = np.array(corner) + (side - 1) / 2
    shown = np.stack([cut(band, corner, side, angle).values[0] for band in (x, y)])
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    across = np.stack(np.meshgrid(np.arange(side), np.arange(side))) - (side - 1) / 2
    expected = np.einsum("ij,jhw->ihw", [[cos, -sin], [sin, cos]], across) + centre[:, None, None]
    np.testing.assert_allclose(shown, expected, atol=1e-3)


def test_a_quarter_turn_is_exact_and_corners_come_from_the_surroundings_or_are_not_valid():
    values = np.random.default_rng(0).random((100, 100)) * 100 + 7
    quarter = cut(values, (10, 12), 31, 90.0)
    np.testing.assert_allclose(quarter.values[0], np.rot90(values[12:43, 10:41]), rtol=1e-5)
    assert cut(values, (20, 20), 60, 20.0).valid.all()
    whole = cut(values, (0, 0), 100, 20.0)
    assert not whole.valid[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert whole.valid[20:80, 20:80].all()
    assert (whole.values[:, ~whole.valid] == 0).all()
    seen = whole.values[:, whole.valid]
    assert values.min() - 1e-4 <= seen.min() <= seen.max() <= values.max() + 1e-4


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_conditions_that_cannot_be_met(folder):
    bad = "--looks 0", "--looks nan", "--blur -1", "--rotate nan", "--matcher-option speed=9", "--seed -1"
    for option in (*bad, "--reference " + "9" * 30):
        assert run("bench patches", folder, option).exit_code == 2
    (folder / "1_sar.png").unlink()
    write_raster(folder / "1_sar.tif", np.full((1, 140, 140), -12, np.float32))
    for options, error, words in (
        ({"rotate": 181}, ConfigError, "between 0 and 180"),
        ({"template": 128}, ConfigError, "must be smaller"),
        ({"reference": 256}, InputError, "smaller than --reference 256"),
        ({"degradation": Degradation(5)}, InputError, r"1_sar\.tif.*decibels"),
    ):
        with pytest.raises(error, match=words):
            bench_patches(folder, Recorder(), **({"reference": 128, "template": 90} | options))


def test_some_pairs_are_spread_over_all(folder):
    for number in range(3):
        save(folder / f"{number}_sar.png", np.full((140, 140), 50 * number + 50))
    for limit, expected in ((1, [50]), (2, [50, 150]), (9, [50, 100, 150])):
        assert [t.values[0, 45, 45] for t in recorded(folder, limit=limit)[0]] == expected
