"""pipelines.turned: what it measures and prints of a small folder, and its errors."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.rasters import fields

from pipelines.turned import RIGHT, Turned, main, measure, summary
from sn9reg.matchers.descriptors.matcher import DescriptorMatcher

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

MIM = ("--matcher=descriptors", *(f"--matcher-option={o}" for o in ("descriptor=mim", "max_points=120")))


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pairs of fields, SAR reversed and in speckle; of one, a strip is not valid."""
    folder = tmp_path_factory.mktemp("pairs")
    for k in range(2):
        ground = fields(200, k + 1)
        speckle = np.random.default_rng(k).gamma(16, 1 / 16, ground.shape)
        for kind, values in (("opt", 200 * ground), ("sar", 200 * (1.1 - ground) * speckle)):
            Image.fromarray(values.clip(1, 255).astype(np.uint8)).save(folder / f"{k}_{kind}.png")
    Image.fromarray(np.uint8(255 * (np.mgrid[:200, :200][1] >= 20))).save(folder / "1_mask.png")
    return folder


def test_turned_pairs_come_out_right(folder):
    result = run(folder, "--turn", 12, "--zoom", 1.05, "--json", *MIM)
    assert result.exit_code == 0, result.output
    found = [Turned(**one) for one in json.loads(result.stdout)]
    assert ([one.name for one in found], found[0].turn != found[1].turn) == (["0", "1"], True)
    for one in found:
        assert (abs(one.turn) <= 12, one.error < RIGHT) == (True, True)
        assert 1 / 1.05 - 1e-3 <= one.zoom <= 1.05 + 1e-3


def test_sar_images_are_turned_about_their_middle_by_the_seed(folder):
    """Corners are lost, and what an image shows is that many degrees away; a pair not registered has no error."""
    seen = []

    def match(pair):
        seen.append(pair.sar.read(pair.grid.window))
        return DescriptorMatcher(descriptor="mim", max_points=1, refine=False).match(pair)

    matcher = SimpleNamespace(name="nothing", match=match)
    how = {"turn": 45.0, "zoom": 1.0, "model": "affine", "limit": 1, "pose": "none"}
    (found,), (again,), (other,) = (measure(folder, matcher, seed=seed, **how) for seed in (4, 4, 3))
    assert found.turn == again.turn != other.turn
    assert (found.error, abs(found.turn) > 3) == (None, True)
    patch = seen[0]
    assert (patch.valid[0, 0], patch.valid[100, 100]) == (False, True)
    whole = np.asarray(Image.open(folder / "0_sar.png"), np.float32)
    here = np.add(*np.meshgrid(np.arange(-60, 61, 5), 1j * np.arange(-60, 61, 5)))
    there = here * np.exp(1j * np.deg2rad(found.turn))
    moved, plain = (
        image[np.rint(at.imag + 99.5).astype(int), np.rint(at.real + 99.5).astype(int)]
        for image, at in ((patch.values[0], there), (whole, here))
    )
    assert np.corrcoef(moved.ravel(), plain.ravel())[0, 1] > 0.7


def test_the_summary_counts_in_words():
    def text(*errors):
        return summary([Turned("a", 10.0, 1.1, error, k / 10, float(k)) for k, error in enumerate(errors)])

    words = "2 of 4 registered within 5 px (50%); 1 refused, 1 wrong; median error 5.00 px"
    assert text(RIGHT, 2.0, RIGHT + 0.01, None) == f"{words}; refused with probabilities of 30% at most; 1.5 s a pair"
    words = "0 of 2 registered within 5 px (0%); 2 refused; refused with probabilities of 10% at most"
    assert text(None, None) == f"{words}; 0.5 s a pair"
