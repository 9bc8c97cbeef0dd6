"""Correct match rates on folders of patches."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter

from sn9reg.cli import main
from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.dense.structure import StructureMatcher
from sn9reg.score.benchmark import bench_patches


def save(path, values):
    Image.fromarray(values.astype(np.uint8)).save(path)


def stripes(seed, side=140):
    """Blobs with sharp borders, 0 or 1."""
    return gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 5) > 0


@pytest.fixture
def folder(tmp_path):
    """Three registered pairs: the SAR image is the optical one with its contrast reversed, under speckle."""
    for seed in range(3):
        ground = stripes(seed)
        speckle = np.random.default_rng(100 + seed).gamma(4, 0.25, ground.shape)
        save(tmp_path / f"{seed}_opt.png", 60 + 120 * ground)
        save(tmp_path / f"{seed}_sar.png", np.clip((30 + 90 * ~ground) * speckle, 0, 255))
    return tmp_path


def test_registered_pairs_are_found(folder):
    with pytest.raises(ConfigError, match="must be smaller"):
        bench_patches(folder, StructureMatcher(), 128, 128)
    result = bench_patches(folder, StructureMatcher(), reference=128, template=90)
    assert result.errors.shape == (3,)
    assert (result.errors <= 2).all()
    assert (result.seconds > 0).all()


def test_json_has_the_agreed_keys(folder):
    facts = json.loads(bench(folder, "--reference", "128", "--template", "90", "--limit", "2", "--json").stdout)
    assert set(facts) == {"matcher", "n", "cmr", "mean_l2_px", "ms_per_pair"}
    assert set(facts["cmr"]) == {"0", "1", "2", "3", "5"}
    assert (facts["matcher"], facts["n"]) == (DEFAULT_MATCHER, 2)
    rates = [facts["cmr"][t] for t in ("0", "1", "2", "3", "5")]
    assert rates == sorted(rates)


def bench(*arguments):
    return CliRunner().invoke(main, ["bench", "patches", *map(str, arguments)])


def test_a_matcher_takes_its_options(folder, random_weights):
    """With weights that nobody trained, a registered pair of one image twice is found."""
    for path in folder.glob("*_opt.png"):
        (folder / path.name.replace("_opt", "_sar")).write_bytes(path.read_bytes())
    sizes = ["--reference", "128", "--template", "90", "--json"]
    weights = ["--matcher-option", f"weights={random_weights('slim-unet')}"]
    result = bench(folder, *sizes, "--matcher", "slim-unet", *weights)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["matcher"], facts["n"], facts["cmr"]["2"]) == ("slim-unet", 3, 1)
    result = bench(folder, *sizes, "--matcher-option", "template=32", "--matcher-option", "max_offset=9.5")
    assert json.loads(result.stdout)["n"] == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("colour=blue", "has no option colour; it has: weights"),
        ("weights", "'weights' is not NAME=VALUE"),
        ("weights=[1]", "matcher option weights is [1]"),
        ("template=many", "matcher option template is 'many'"),
    ],
)
def test_matcher_options_that_make_no_sense_are_usage_errors(folder, option, message):
    result = bench(folder, "--matcher", "mcgf", "--matcher-option", option)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_places_depend_on_the_seed_only(folder):
    class Corner:
        """Always says the upper left corner: its error is where the template was cut."""

        name = "corner"

        def locate(self, optical, sar):
            return np.zeros(2)

    first, again, other = (
        bench_patches(folder, Corner(), 128, 90, seed=seed).errors.tolist() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_matcher_without_locate_is_asked_for_matches(folder):
    class Blind:
        name = "blind"

        def match(self, pair):
            return StructureMatcher(max_offset=50, template=48).match(pair)

    result = bench_patches(folder, Blind(), 128, 90)
    assert np.median(result.errors) <= 2


def test_masked_pixels_do_not_count(folder):
    """The right half of the SAR images is wrecked; the mask says so."""
    mask = np.full((140, 140), 255)
    mask[:, 75:] = 0
    for seed in range(3):
        values = np.array(Image.open(folder / f"{seed}_sar.png"))
        values[:, 75:] = np.array(Image.open(folder / f"{(seed + 1) % 3}_opt.png"))[:, 75:][:, ::-1]
        save(folder / f"{seed}_sar.png", values)
        save(folder / f"{seed}_mask.png", mask)
    assert (bench_patches(folder, StructureMatcher(), 128, 100).errors <= 3).all()


def test_folders_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(InputError, match="smaller than --reference 256"):
        bench_patches(folder, StructureMatcher())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pairs"):
        bench_patches(tmp_path / "empty", StructureMatcher())
    with pytest.raises(InputError, match="no such folder"):
        bench_patches(tmp_path / "missing", StructureMatcher())
