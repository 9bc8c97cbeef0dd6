"""pipelines.studies.maru_net: mutual information finds a place, and the ablation trains what its rows name."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter
from support.pairs import write_pairs

from pipelines.studies import maru_net as study
from sn9reg.raster.scene import Patch

pytestmark = pytest.mark.study


def test_mutual_information_finds_a_place_whose_contrast_is_another():
    ground = gaussian_filter(np.random.default_rng(0).normal(size=(40, 44)), 1.5)
    values = (100 + 40 * (ground - ground.mean()) / ground.std()).astype(np.float32).clip(1, 255)
    folded = np.abs(values - 100) + 5  # neither rises nor falls with the other
    patches = (Patch(image[None], np.ones(image.shape, bool)) for image in (values, folded[7:31, 11:35]))
    assert study.MutualInformation().locate(*patches).tolist() == [11, 7]


def test_rows_are_trained_as_they_are_called_and_measured_alike(tmp_path, monkeypatch):
    pairs, asked = write_pairs(tmp_path / "pairs", count=2, side=256), {}

    def trained(config, folder):
        asked[folder.name] = config
        return folder / study.WEIGHTS_FILE

    def measured(folder, matcher, reference, template, limit, degradation):
        assert (folder, reference, template, limit, degradation.lee) == (pairs, 256, 192, 1, 4.4)
        rates = {"0": 0.0, "1": 0.25, "2": 0.5, "3": 0.75, "5": 1.0}
        return type("Found", (), {"as_dict": lambda self: {"cmr": rates, "mean_l2_px": 1.5, "ms_per_pair": 7.2}})()

    made = study.make_matcher
    monkeypatch.setattr(study, "trained", trained)
    monkeypatch.setattr(study, "bench_patches", measured)
    monkeypatch.setattr(study, "make_matcher", lambda name, **options: made(name) if name == "ncc" else options)
    out = tmp_path / "out"
    result = CliRunner().invoke(study.main, ["--test", str(pairs), "--out", str(out), "--limit", "1"])
    assert result.exit_code == 0, result.output
    options = [config.network.options for config in asked.values()]
    assert options == [study.PLAIN, study.PLAIN, {"multiscale": False}, {}]
    assert [config.loss.name for config in asked.values()] == ["fft-unet", "maru-net", "maru-net", "maru-net"]
    assert all(config.shared and config.degradation.lee == 4.4 for config in asked.values())
    assert list(json.loads((out / "results.json").read_text())) == ["NCC", "MI", *study.ROWS]
    assert (out / "table.md").read_text().splitlines()[2] == "| NCC | 0.250 | 0.500 | 0.750 | 1.000 | 1.50 | 7 |"
