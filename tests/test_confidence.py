"""pipelines.calibrate and pipelines.confidence: the truth has the right sign, and figures add up."""

import numpy as np
import pytest
from conftest import fields

from pipelines.calibrate import displaced, observe
from pipelines.confidence import Checked, summary
from pipelines.uncertainty import cross_calibrated
from sn9reg.matchers.base import make_matcher
from sn9reg.scene import Patch


def patch(seed):
    image = (200 * fields(200, seed) + 20).astype(np.float32)[None]
    return Patch(image, np.ones((200, 200), bool))


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """A pair that belongs together and one that does not, as the untrained matcher sees them."""
    folder, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(3)
    cases = [displaced(f"{k}", patch(0), patch(k), k == 0, folder, random) for k in (0, 1)]
    return [observe(case, make_matcher("structure")) for case in cases]


def test_a_displaced_pair_is_found_where_it_was_put(observed):
    own, _ = observed
    assert own.right
    assert len(own.off) >= 8
    assert np.median(own.off) < 0.5
    assert np.median(own.true) < 0.5
    assert (own.raw > 0).all()


def test_a_pair_that_does_not_belong_together_has_no_right_match(observed):
    own, other = observed
    assert not other.right
    assert len(other.true) == 0
    assert np.isinf(other.off).all()
    assert own.pair[0, 0] > other.pair[0, 0]


def checked(belongs=True, registered=True, off=(0.0, 1.0, 5.0), expected=1.0):
    off = np.array(off)
    true, claimed = np.array([0.5, 1.5, 2.5]), np.ones(3)
    return Checked(belongs, registered, 0.9, off, np.array([0.9, 0.8, 0.1]), off + 0.5, true, claimed, expected)


def test_the_summary_counts():
    result = summary([checked(), checked(registered=False), checked(belongs=False), checked(False, False)])
    assert (result["pairs"], result["wrong_pairs"], result["wrong_registered"]) == (2, 2, 1)
    assert (result["registered"], result["registered_right"], result["right_but_refused"]) == (0.5, 0.5, 1)
    assert result["mma_1"] == pytest.approx(2 / 3)
    assert result["spearman"] == pytest.approx(1)
    assert (result["map_within_1_sigma"], result["map_within_2_sigma"]) == pytest.approx((1 / 3, 2 / 3))
    assert result["true_over_expected_median"] == 1.5
    assert result["ece"] == pytest.approx((0.1 + 0.2 + 0.1) / 3)


def test_confidence_is_calibrated_on_the_other_half_alone():
    """What holds in one half is claimed in the other."""
    confidence = [np.full(4, 0.9), np.full(4, 0.9)]
    errors = [np.zeros(4), np.full(4, 9.0)]
    even, odd = cross_calibrated(confidence, errors)
    np.testing.assert_array_equal(even, 0)
    np.testing.assert_array_equal(odd, 1)
