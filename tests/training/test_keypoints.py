"""training.keypoints: the loss of a detector's heatmap, its schedule, and what validation says of it."""

import numpy as np
import pytest
import torch
from support.tasks import without_trainer

from sn9reg.errors import ConfigError
from sn9reg.matchers.keypoints.heatmap import gaussian
from sn9reg.training.config import Plan
from sn9reg.training.keypoints import KeypointConfig, KeypointTask, balanced_mse
from sn9reg.training.sample import Sample

SIDE = 64
NETWORK = {"optical_encoder": "tu-regnetx_002", "sar_encoder": "tu-regnetx_002", "depth": 3, "decoder": [16, 8, 8]}


def task(finds="sar", **options):
    config = KeypointConfig(finds=finds, **{"scenes": ("a",), "network": NETWORK, "tile": SIDE, "sigma": 5.0} | options)
    return without_trainer(KeypointTask(config, Plan()))


def test_loss_is_the_mean_over_the_keypoints_region_and_over_the_rest_in_equal_parts():
    random = np.random.default_rng(0)
    heatmap, place = random.random((3, 40, 40)), np.array([[12, 30], [20.5, 20], [3, 2]])
    y, x = np.mgrid[:40, :40]
    away = np.hypot(x - place[:, 0, None, None], y - place[:, 1, None, None])
    label, near = np.exp(-(away**2) / (2 * 3**2)), away < 9
    error = (heatmap - label) ** 2
    expected = (error[near].mean() + error[~near].mean()) / 2
    made = gaussian(torch.tensor(place), 40, 3.0)
    assert float(balanced_mse(torch.tensor(heatmap), made)) == pytest.approx(expected, rel=1e-6)


def test_a_label_whose_keypoint_is_outside_has_a_loss():
    label = gaussian(torch.tensor([[-500.0, 500.0]]), SIDE, 5.0)
    assert float(balanced_mse(label + 0.5, label)) == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 60}, "a tile of 60 px is no multiple of the 8 of this depth"),
        ({"network": {"depth": 2}}, "as many decoder widths"),
        ({"network": {"sar_encoder": "lenet"}}, "no encoder 'lenet'"),
        ({"scenes": ()}, "there is nothing to train on: give scenes, or sources with a weight, and samples"),
    ],
)
def test_what_cannot_be_built_is_said(options, words):
    with pytest.raises(ConfigError, match=words):
        task(**options)


def test_validation_says_how_far_the_peak_and_the_middle_are_from_the_keypoint(monkeypatch):
    """Five keypoints are found 3 px beside them, one 9 px; at 12, 20, ... px from the middle."""
    made = task("optical")
    assert made.network.finds == "optical"
    places = torch.tensor([[32.0 + away, 32.0] for away in (12, -20, 4, -8, 16, 0)])
    beside = torch.tensor([[0.0, 3.0]] * 5 + [[0.0, 9.0]])
    for part in (slice(0, 4), slice(4, 6)):
        heatmap = gaussian(places[part] + beside[part], SIDE, 2.0)
        monkeypatch.setattr(made.network, "forward", lambda optical, sar, heatmap=heatmap: heatmap)
        made.validation_step(Sample(heatmap[:, None], heatmap[:, None], places[part]), 0)
    made.on_validation_epoch_end()
    assert made.logged == pytest.approx({"error": 3, "guess": 8, "within": 5 / 6}, abs=0.1)
    assert made.errors == []


def test_a_step_compares_the_heatmap_with_the_keypoints_label():
    made, batch = task(), Sample(*torch.randn(2, 2, 1, SIDE, SIDE), torch.tensor([[20.0, 40.0], [44.0, 30.0]]))
    made.network.eval()
    expected = balanced_mse(made.network(batch.optical, batch.sar), gaussian(batch.place, SIDE, 5.0))
    assert made.loss_of(batch).equal(expected)
