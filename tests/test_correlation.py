"""correlation: surfaces against OpenCV, scikit-image and brute force; peaks against surfaces whose peak is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.feature import match_template

from sn9reg.correlation import cc, cross_correlation, find_peaks, masked_cc, similarity, ssd, zncc

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def images(seed, shape, scale=1.0, offset=0.0):
    values = np.random.default_rng(seed).normal(offset, scale, shape)
    return torch.from_numpy(values.astype(np.float32))


def opencv(method, reference, template):
    """Of (C, H, W): one channel, so that OpenCV's own way with channels does not matter."""
    return sum(
        cv2.matchTemplate(np.ascontiguousarray(r), np.ascontiguousarray(t), method)
        for r, t in zip(reference.numpy(), template.numpy(), strict=True)
    )


@few
@given(
    seed=seeds,
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    part=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.integers(1, 3),
)
def test_cc_and_ssd_are_opencvs_summed_over_channels(seed, size, part, channels):
    part = tuple(min(p, s) for p, s in zip(part, size, strict=True))
    reference, template = images(seed, (2, channels, *size)), images(seed + 1, (2, channels, *part))
    pixels = part[0] * part[1]
    products, squares = cc(reference, template), ssd(reference, template)
    assert products.shape == squares.shape == (2, size[0] - part[0] + 1, size[1] - part[1] + 1)
    for k in range(2):
        expected = opencv(cv2.TM_CCORR, reference[k], template[k]) / pixels
        np.testing.assert_allclose(products[k].numpy(), expected, atol=2e-4)
        expected = -opencv(cv2.TM_SQDIFF, reference[k], template[k]) / pixels
        np.testing.assert_allclose(squares[k].numpy(), expected, atol=2e-3)


def test_cross_correlation_by_hand():
    reference = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    template = torch.tensor([[[[1.0, 10.0]]]])
    expected = [[21.0, 32.0], [54.0, 65.0]]
    np.testing.assert_allclose(cross_correlation(reference, template)[0].numpy(), expected, rtol=1e-5)


@few
@given(
    seed=seeds,
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    part=st.tuples(st.integers(3, 12), st.integers(3, 12)),
)
def test_zncc_is_opencvs_and_scikit_images(seed, size, part):
    part = tuple(min(p, s) for p, s in zip(part, size, strict=True))
    reference, template = images(seed, (1, 1, *size), 20, 100), images(seed + 1, (1, 1, *part), 20, 100)
    surface = zncc(reference, template)[0].numpy()
    np.testing.assert_allclose(surface, opencv(cv2.TM_CCOEFF_NORMED, reference[0], template[0]), atol=2e-3)
    other = match_template(reference[0, 0].double().numpy(), template[0, 0].double().numpy())
    np.testing.assert_allclose(surface, other, atol=1e-3)


def test_zncc_sums_channels_by_their_variance():
    reference, template = images(1, (1, 3, 20, 24), 2, 5), images(2, (1, 3, 6, 7), 3, -4)
    surface = zncc(reference, template)[0].numpy()
    r, t = reference[0].double().numpy(), template[0].double().numpy()
    t = t - t.mean(axis=(1, 2), keepdims=True)
    expected = np.empty_like(surface)
    for i, j in np.ndindex(*surface.shape):
        box = r[:, i : i + 6, j : j + 7]
        box = box - box.mean(axis=(1, 2), keepdims=True)
        expected[i, j] = (box * t).sum() / np.sqrt((box**2).sum() * (t**2).sum())
    np.testing.assert_allclose(surface, expected, atol=1e-5)


@few
@given(
    seed=seeds,
    gains=st.tuples(st.floats(1e-4, 1e4), st.floats(1e-4, 1e4)),
    offsets=st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
)
def test_zncc_does_not_mind_gain_or_offset_of_either_side(seed, gains, offsets):
    reference, template = images(seed, (1, 1, 20, 20)), images(seed + 1, (1, 1, 8, 8))
    changed = zncc(gains[0] * (reference + offsets[0]), gains[1] * (template + offsets[1]))
    np.testing.assert_allclose(changed.numpy(), zncc(reference, template).numpy(), atol=1e-3)


@pytest.mark.parametrize("level", [0.0, 0.1, 123.4])
def test_zncc_is_zero_where_a_side_is_constant(level):
    flat, rough = torch.full((1, 1, 20, 20), level), images(3, (1, 1, 20, 20))
    assert (zncc(flat, rough[..., :8, :8]) == 0).all()
    assert (zncc(rough, flat[..., :8, :8]) == 0).all()
    half = rough.clone()
    half[..., :, 10:] = level
    surface = zncc(half, rough[..., :5, :5])[0]
    assert (surface[:, 10:] == 0).all()
    assert (surface[:, :9] != 0).all()


@few
@given(seed=seeds, name=st.sampled_from(["cc", "zncc", "ssd"]), shift=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_a_moved_reference_moves_the_surface(seed, name, shift):
    reference, template = images(seed, (1, 2, 40, 36)), images(seed + 1, (1, 2, 7, 9))
    whole = similarity(name, reference, template)[0]
    part = similarity(name, reference[..., shift[0] : shift[0] + 30, shift[1] : shift[1] + 25], template)[0]
    rows, cols = part.shape
    np.testing.assert_allclose(
        part.numpy(), whole[shift[0] : shift[0] + rows, shift[1] : shift[1] + cols].numpy(), atol=1e-3
    )


@pytest.mark.parametrize("name", ["cc", "zncc", "ssd"])
def test_the_surface_is_highest_where_the_template_was_cut(name):
    reference = images(5, (1, 2, 50, 60))
    surface = similarity(name, reference, reference[..., 11:31, 23:47])[0]
    assert divmod(int(surface.argmax()), surface.shape[1]) == (11, 23)


@pytest.mark.parametrize("size", [(5, 9), (9, 5), (9, 9)])
@pytest.mark.parametrize("name", ["cc", "zncc", "ssd"])
def test_a_template_larger_than_the_reference_is_refused(name, size):
    with pytest.raises(ValueError, match="larger than reference"):
        similarity(name, torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, *size))


def test_an_unknown_similarity_is_refused():
    with pytest.raises(KeyError):
        similarity("mi", torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 2, 2))


@few
@given(seed=seeds, filled=st.floats(0.2, 1.0), least=st.floats(0.1, 0.9))
def test_masked_cc_is_brute_force(seed, filled, least):
    random = np.random.default_rng(seed)
    reference, template = images(seed, (2, 2, 15, 18)), images(seed + 1, (2, 2, 6, 5))
    masks = [torch.from_numpy((random.random((2, *s)) < filled).astype(np.float32)) for s in ((15, 18), (6, 5))]
    masks[0][0] = 1  # one of the batch is whole
    surface = masked_cc(reference, masks[0], template, masks[1], least).numpy()
    expected, share = np.full(surface.shape, np.nan), np.zeros(surface.shape)
    for k, i, j in np.ndindex(*surface.shape):
        both = masks[0][k, i : i + 6, j : j + 5] * masks[1][k]
        product = (reference[k, :, i : i + 6, j : j + 5] * template[k]).sum(dim=0)
        overlap, all_of_it = float(both.sum()), max(1.0, float(masks[1][k].sum()))
        if abs(overlap - least * all_of_it) < 1e-3:
            return  # rounding decides
        if overlap > least * all_of_it:
            expected[k, i, j], share[k, i, j] = float((product * both).sum()) / overlap, overlap / all_of_it
    for k in range(len(surface)):
        base = np.nanmean(expected[k]) if np.isfinite(expected[k]).any() else 0.0
        # The batch is shrunk as one: its whole member overlaps wholly.
        shrunk = base + np.where(share[k] > 0, np.nan_to_num(expected[k]) - base, 0) * np.sqrt(share[k])
        np.testing.assert_allclose(surface[k], shrunk, atol=1e-4)


@few
@given(seed=seeds)
def test_masked_cc_of_valid_images_is_cc(seed):
    reference, template = images(seed, (2, 3, 20, 22)), images(seed + 1, (2, 3, 8, 6))
    found = masked_cc(reference, torch.ones(2, 20, 22), template, torch.ones(2, 8, 6))
    np.testing.assert_allclose(found.numpy(), cc(reference, template).numpy(), atol=1e-5)


@pytest.mark.parametrize("hole", [False, True])
def test_masked_cc_of_an_empty_template_is_zero(hole):
    mask = torch.ones(1, 12, 12)
    mask[:, :3, :3] = 0.0 if hole else 1.0
    found = masked_cc(images(1, (1, 2, 12, 12)), mask, images(2, (1, 2, 4, 4)), torch.zeros(1, 4, 4))
    assert (found == 0).all()


# --- peaks -----------------------------------------------------------------------------------------------------------


def bump(x, y, width=2.5, size=41, height=1.0):
    """A Gaussian of standard deviation `width` with its top at (x, y)."""
    rows, cols = np.mgrid[:size, :size]
    return height * np.exp(-((cols - x) ** 2 + (rows - y) ** 2) / (2 * width**2))


def peaks_of(*surfaces, **options):
    return find_peaks(torch.from_numpy(np.stack(surfaces)), **options)


@few
@given(x=st.floats(3, 37), y=st.floats(3, 37))
def test_peak_of_a_sampled_gaussian_to_a_twentieth_of_a_pixel(x, y):
    np.testing.assert_allclose(peaks_of(bump(x, y)).xy.numpy(), [[x, y]], atol=0.05)


@few
@given(x=st.floats(3, 27), y=st.floats(3, 17), bend=st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)))
def test_peak_of_a_sampled_parabola_is_exact(x, y, bend):
    rows, cols = np.mgrid[:21, :31]
    surface = 7 - bend[0] * (cols - x) ** 2 - bend[1] * (rows - y) ** 2
    np.testing.assert_allclose(peaks_of(surface).xy.numpy(), [[x, y]], atol=1e-6)


@pytest.mark.parametrize(("x", "y"), [(0, 20), (40, 20), (20, 0), (20, 40), (0, 40)])
def test_peak_on_the_border_stays_there_and_is_not_trusted(x, y):
    noise = np.random.default_rng(0).normal(0, 0.01, (41, 41))
    peaks = peaks_of(bump(x, y) + gaussian_filter(noise, 1), bump(20, 20) + gaussian_filter(noise, 1))
    assert np.abs(peaks.xy[0].numpy() - [x, y]).max() <= 0.5
    assert peaks.xy[0].min() >= 0
    assert peaks.xy[0].max() <= 40
    assert peaks.sigma[0] > 20 * peaks.sigma[1]


def test_a_batch_is_read_one_by_one():
    surfaces = [bump(9.2, 30.1), bump(30.4, 11.3, height=3), bump(22.0, 22.0) - 5]
    together = peaks_of(*surfaces)
    for k, surface in enumerate(surfaces):
        alone = peaks_of(surface)
        for name in ("xy", "value", "rival", "base", "sigma", "score"):
            np.testing.assert_array_equal(getattr(together, name)[k].numpy(), getattr(alone, name)[0].numpy())


def test_the_rival_lies_outside_the_exclusion_radius():
    surface = np.zeros((41, 41))
    surface[20, 20], surface[20, 25], surface[26, 20] = 1.0, 0.9, 0.6
    assert peaks_of(surface, exclusion=5.0).rival[0] == 0.6
    assert peaks_of(surface, exclusion=4.9).rival[0] == 0.9
    assert peaks_of(surface, exclusion=6.0).rival[0] == 0.0


def test_base_and_value_are_median_and_maximum():
    surface = np.random.default_rng(0).normal(size=(31, 31))
    peaks = peaks_of(surface)
    assert peaks.value[0] == surface.max()
    assert peaks.base[0] == np.median(surface)


@few
@given(seed=seeds, scale=st.floats(1e-6, 1e6))
def test_score_lies_between_0_and_1_and_does_not_mind_gain(seed, scale):
    surface = np.random.default_rng(seed).normal(size=(1, 21, 21))
    score = float(find_peaks(torch.from_numpy(surface)).score[0])
    assert 0 < score < 1
    assert float(find_peaks(torch.from_numpy(surface * 1000)).score[0]) == pytest.approx(score)
    assert float(find_peaks(torch.from_numpy(surface + scale)).score[0]) == pytest.approx(score, abs=1e-6)


def test_score_falls_as_a_rival_grows():
    scores = [
        float(peaks_of(bump(10, 10, 1.5) + bump(30, 30, 1.5, height=h)).score[0]) for h in (0.0, 0.3, 0.6, 0.9, 1.0)
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.95
    assert scores[2] == pytest.approx(0.4, abs=0.02)
    assert scores[-1] == pytest.approx(0.0, abs=0.02)


def test_a_constant_surface_has_no_peak_and_says_so():
    peaks = peaks_of(np.full((21, 21), 0.3))
    assert peaks.score[0] == 0
    assert peaks.sigma[0] > 5
    assert torch.isfinite(peaks.xy).all()


def test_a_surface_within_the_exclusion_radius_has_its_median_for_a_rival():
    peaks = peaks_of(bump(3.3, 2.8, width=1.5, size=7), exclusion=20)
    assert peaks.rival[0] == peaks.base[0]
    assert peaks.sigma[0] >= 0.05


def noisy_peaks(level, count=300, rough=2.0, seed=0):
    """Errors of both axes, and sigma, of bumps at random places in smooth noise of standard deviation `level`."""
    random = np.random.default_rng(seed)
    true = random.uniform(18, 22, (count, 2))
    noise = gaussian_filter(random.normal(size=(count, 41, 41)), (0, rough, rough), mode="wrap")
    surfaces = np.stack([bump(x, y) for x, y in true]) + level * noise / noise.std()
    found = find_peaks(torch.from_numpy(surfaces))
    return found.xy.numpy() - true, found.sigma.numpy()


@pytest.mark.parametrize("rough", [1.5, 2.5])
@pytest.mark.parametrize("level", [0.05, 0.1, 0.15])
def test_sigma_predicts_the_error_to_a_factor_of_two(level, rough):
    errors, sigma = noisy_peaks(level, rough=rough)
    # What was caught by noise far away is no matter of sigma.
    near = np.abs(errors).max(axis=1) < 4
    assert near.mean() > 0.95
    true = np.sqrt((errors[near] ** 2).mean())
    assert 0.5 * true < np.median(sigma[near]) < 2 * true


def test_sigma_grows_with_the_noise():
    typical = [np.median(noisy_peaks(level, count=50)[1]) for level in (0.05, 0.1, 0.2, 0.4)]
    assert typical == sorted(typical)
    assert typical[-1] > 3 * typical[0]
