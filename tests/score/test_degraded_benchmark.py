"""`bench patches` under blur, speckle and rotation, and unchanged without them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter
from support.rasters import write_raster

from sn9reg.cli import main
from sn9reg.errors import ConfigError, InputError
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


def recorded(folder, seed=1, **options):
    """The templates of a run, and errors: the matcher says the upper left corner, so they are where it was cut."""
    templates = []
    matcher = SimpleNamespace(name="recorder", locate=lambda _, sar: templates.append(sar) or np.zeros(2))
    errors = bench_patches(folder, matcher, 128, 90, seed=seed, **options).errors
    return templates, errors.tolist()


def test_places_are_pinned_and_the_same_whatever_is_done(folder):
    templates, errors = recorded(folder)
    assert errors == pytest.approx([26.1725046566048, 47.01063709417264, 5.0990195135927845], abs=1e-12)
    assert [t.values.sum() for t in templates] == pytest.approx([516033, 680220, 455482], rel=1e-3)
    assert recorded(folder, rotate=30, degradation=Degradation(5, 1))[1] == errors
    for plain, same in zip(templates, recorded(folder, rotate=0.0, degradation=Degradation())[0], strict=True):
        assert (plain.values.tobytes(), plain.valid.tobytes()) == (same.values.tobytes(), same.valid.tobytes())


def test_every_pair_has_speckle_of_its_own_by_the_seed(folder):
    speckled = Degradation(8)
    plain = recorded(folder)[0]
    first, again, other = (recorded(folder, seed, degradation=speckled)[0] for seed in (1, 1, 2))
    assert [t.values.tobytes() for t in first] == [t.values.tobytes() for t in again]
    assert not np.array_equal(other[0].values, first[0].values)
    part = np.s_[0, 40:50, 40:50]
    gains = [a.values[part] / np.maximum(before.values[part], 1) for before, a in zip(plain, first, strict=True)]
    assert not np.allclose(gains[0], gains[1])


def test_rotation_does_not_change_the_speckle(folder):
    """On an image without any contrast, what is left is the speckle."""
    save(folder / "0_sar.png", np.full((140, 140), 100))
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


@pytest.mark.parametrize("angle", [25, 90])
def test_a_turned_cut_shows_what_lies_at_the_turned_places(angle):
    """The image holds its own coordinates, so that every pixel says where it was taken."""
    y, x = np.mgrid[:200, :220].astype(float)
    shown = cut(x, (70, 50), 60, angle).values[0] + 1j * cut(y, (70, 50), 60, angle).values[0]
    across = (x + 1j * y)[:60, :60] - (29.5 + 29.5j)
    np.testing.assert_allclose(shown, across * np.exp(1j * np.deg2rad(angle)) + 99.5 + 79.5j, atol=1e-3)


def test_corners_of_a_turned_cut_come_from_the_surroundings_or_are_not_valid():
    values = np.random.default_rng(0).random((100, 100)) * 100 + 7
    assert cut(values, (20, 20), 60, 20.0).valid.all()
    whole = cut(values, (0, 0), 100, 20.0)
    assert not whole.valid[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert whole.valid[20:80, 20:80].all()
    assert (whole.values[:, ~whole.valid] == 0).all()
    seen = whole.values[:, whole.valid]
    assert values.min() - 1e-4 <= seen.min() <= seen.max() <= values.max() + 1e-4


def test_turned_templates_are_found_near_their_place(folder):
    assert (bench_patches(folder, StructureMatcher(), 128, 90, rotate=10).errors <= 5).all()


def test_json_names_the_conditions_only_when_used(folder):
    def facts(*options):
        arguments = ["bench", "patches", str(folder), "--reference", "128", "--template", "90", "--limit", "1"]
        return json.loads(CliRunner().invoke(main, [*arguments, "--matcher", "structure", "--json", *options]).stdout)

    plain, used = facts("--blur", "0", "--rotate", "0"), facts("--looks", "8", "--blur", "0.5", "--rotate", "10")
    assert {key: used[key] for key in used.keys() - plain.keys()} == {"looks": 8, "blur": 0.5, "rotate": 10}


@pytest.mark.parametrize(("option", "value"), [("looks", "0"), ("looks", "nan"), ("blur", "-1"), ("rotate", "nan")])
def test_options_that_make_no_sense_are_usage_errors(folder, option, value):
    assert CliRunner().invoke(main, ["bench", "patches", str(folder), f"--{option}", value]).exit_code == 2


def test_conditions_that_cannot_be_met(folder):
    with pytest.raises(ConfigError, match="between 0 and 180"):
        bench_patches(folder, StructureMatcher(), 128, 90, rotate=181)
    (folder / "1_sar.png").unlink()
    write_raster(folder / "1_sar.tif", np.full((1, 140, 140), -12, np.float32))
    with pytest.raises(InputError, match=r"1_sar\.tif.*decibels"):
        recorded(folder, degradation=Degradation(5))


def test_some_pairs_are_spread_over_all(folder):
    for number in range(3):
        save(folder / f"{number}_sar.png", np.full((140, 140), 50 * number + 50))
    for limit, expected in ((1, [50]), (2, [50, 150]), (9, [50, 100, 150])):
        assert [t.values[0, 45, 45] for t in recorded(folder, limit=limit)[0]] == expected
