"""correlation: surfaces against OpenCV and brute force; peaks against surfaces whose peak is known."""

from itertools import product

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from sn9reg.matchers.dense.correlation import cross_correlation, find_peaks, masked_similarity, similarity, zncc

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sides = st.tuples(st.integers(1, 40), st.integers(1, 40))
NAMES = ["cc", "zncc", "ssd"]


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
@given(seed=seeds, size=sides, part=sides, channels=st.integers(1, 3))
def test_similarities_are_opencvs(seed, size, part, channels):
    part = tuple(map(min, part, size))
    reference, template = images(seed, (2, channels, *size)), images(seed + 1, (2, channels, *part))
    pixels = part[0] * part[1]
    products, squares = (similarity(name, reference, template) for name in ("cc", "ssd"))
    assert products.shape == squares.shape == (2, size[0] - part[0] + 1, size[1] - part[1] + 1)
    for k in range(2):
        expected = opencv(cv2.TM_CCORR, reference[k], template[k]) / pixels
        np.testing.assert_allclose(products[k].numpy(), expected, atol=2e-4)
        expected = -opencv(cv2.TM_SQDIFF, reference[k], template[k]) / pixels
        np.testing.assert_allclose(squares[k].numpy(), expected, atol=2e-3)
    if min(part) >= 3:
        one, other = 20 * reference[:1, :1] + 100, 20 * template[:1, :1] + 100
        expected = opencv(cv2.TM_CCOEFF_NORMED, one[0], other[0])
        np.testing.assert_allclose(zncc(one, other)[0].numpy(), expected, atol=2e-3)


@few
@given(seed=seeds, gain=st.floats(1e-4, 1e4), other=st.floats(1e-4, 1e4), offset=st.floats(-10, 10))
def test_zncc_does_not_mind_gain_or_offset_of_either_side(seed, gain, other, offset):
    reference, template = images(seed, (1, 1, 20, 20)), images(seed + 1, (1, 1, 8, 8))
    changed = zncc(gain * (reference + offset), other * (template - 2 * offset))
    np.testing.assert_allclose(changed.numpy(), zncc(reference, template).numpy(), atol=1e-3)


@pytest.mark.parametrize("level", [0.0, 123.4])
def test_zncc_is_zero_where_the_reference_is_constant(level):
    half = images(3, (1, 1, 20, 20))
    half[..., :, 10:] = level
    surface = zncc(half, half[..., :5, :5])[0]
    assert (surface[:, 10:] == 0).all()
    assert (surface[:, :9] != 0).all()


def test_a_template_larger_than_the_reference_is_refused():
    for name, size in product(NAMES, [(5, 9), (9, 5)]):
        with pytest.raises(ValueError, match="larger than reference"):
            similarity(name, torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, *size))


def doubles(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize(
    ("size", "part", "wanted"),
    [((9, 11), (4, 3), (True, True)), ((7, 7), (7, 7), (True, False)), ((5, 17), (2, 1), (False, True))],
)
def test_the_gradient_of_cross_correlation_is_its_own(size, part, wanted):
    reference, template = doubles(1, 2, 3, *size), doubles(2, 2, 3, *part)
    reference.requires_grad_(wanted[0])
    template.requires_grad_(wanted[1])
    assert torch.autograd.gradcheck(cross_correlation, (reference, template))
    cross_correlation(reference, template).square().sum().backward()
    assert [reference.grad is not None, template.grad is not None] == list(wanted)
    with torch.no_grad():
        assert not cross_correlation(reference, template).requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_gradients_pass_through_every_similarity(name):
    reference, template = doubles(1, 1, 2, 9, 8).requires_grad_(), doubles(2, 1, 2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda r, t: similarity(name, r, t), (reference, template))


def test_a_second_derivative_is_refused_rather_than_wrong():
    reference, template = doubles(1, 1, 1, 6, 6).requires_grad_(), doubles(2, 1, 1, 3, 3)
    (slope,) = torch.autograd.grad(cross_correlation(reference, template).square().sum(), reference, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


# --- masked similarities ---------------------------------------------------------------------------------------------


def by_hand(name, box, template, both):
    """One value of a surface, over the pixels of `both` (h, w); box, template: (C, h, w) in double."""
    box, template = box[:, both], template[:, both]
    if name == "cc":
        return (box * template).sum() / both.sum()
    if name == "ssd":
        return -((box - template) ** 2).sum() / both.sum()
    box, template = (x - x.mean(axis=1, keepdims=True) for x in (box, template))
    scale = np.sqrt((box**2).sum() * (template**2).sum())
    return (box * template).sum() / scale if scale > 1e-9 else 0.0


@pytest.mark.parametrize("name", NAMES)
@few
@given(seed=seeds, filled=st.floats(0.4, 1.0), level=st.sampled_from([0.0, 50.0]))
def test_masked_similarity_is_brute_force(name, seed, filled, level):
    random = np.random.default_rng(seed)
    reference, template = images(seed, (2, 2, 12, 14), 1, level), images(seed + 1, (2, 2, 6, 5), 1, level)
    masks = [torch.from_numpy((random.random((2, *s)) < filled).astype(np.float32)) for s in ((12, 14), (6, 5))]
    masks[0][0, :5, :7] = 0  # a hole larger than the template in one, none in the other
    masks[0][1] = 1
    surface = masked_similarity(name, reference, masks[0], template, masks[1]).numpy()
    for k in range(2):
        expected, share = np.full(surface.shape[1:], np.nan), np.zeros(surface.shape[1:])
        area = max(1.0, float(masks[1][k].sum()))
        for i, j in np.ndindex(*share.shape):
            both = (masks[0][k, i : i + 6, j : j + 5] * masks[1][k]).numpy() > 0
            share[i, j] = both.sum() / area
            if abs(share[i, j] - 0.35) < 1e-3:
                return  # rounding decides
            if share[i, j] > 0.35:
                box = reference[k, :, i : i + 6, j : j + 5].double().numpy()
                expected[i, j] = by_hand(name, box, template[k].double().numpy(), both)
        base = np.nanmean(expected) if np.isfinite(expected).any() else 0.0
        trusted = base + np.where(np.isfinite(expected), np.nan_to_num(expected) - base, 0) * np.sqrt(share)
        scale = max(1.0, np.abs(trusted).max())
        np.testing.assert_allclose(surface[k], trusted, atol=1e-4 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_masks_that_are_full_change_nothing(name):
    reference, template = images(1, (2, 3, 20, 22), 2, 7), images(2, (2, 3, 8, 6), 2, 7)
    masks = [torch.ones(2, 20, 22), torch.ones(2, 8, 6)]
    plain = similarity(name, reference, template).numpy()
    found = masked_similarity(name, reference, masks[0], template, masks[1]).numpy()
    np.testing.assert_allclose(found, plain, rtol=1e-6)
    # One that is full beside one that is not goes the long way, to the same place.
    masks[0][1, :9] = 0
    found = masked_similarity(name, reference, masks[0], template, masks[1]).numpy()
    np.testing.assert_allclose(found[0], plain[0], rtol=1e-4, atol=1e-5)
    assert np.abs(found[1] - plain[1]).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("constant", ["reference", "template", "both"])
def test_constants_give_finite_surfaces_with_and_without_holes(name, constant):
    whole, whole_part = torch.ones(1, 24, 20), torch.ones(1, 8, 6)
    holed, part = whole.clone(), whole_part.clone()
    holed[:, :10, :12], part[:, :, :2] = 0, 0
    for level, mask, template_mask in product((0.0, 0.1, -5e3), (whole, holed), (whole_part, part)):
        reference, template = images(1, (1, 2, 24, 20)), images(2, (1, 2, 8, 6))
        reference = torch.full_like(reference, level) if constant != "template" else reference
        if constant != "reference":  # where it is valid: what lies beside that must not make any structure
            template = torch.where(template_mask[:, None] > 0, level, 50 * template)
        surface = masked_similarity(name, reference, mask, template, template_mask)
        assert torch.isfinite(surface).all()
        if name == "zncc":  # there is no structure to be alike
            assert (surface == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_surface_of_an_empty_template_or_reference_is_zero(name):
    reference, template = images(1, (1, 2, 24, 20), 1, 9), images(2, (1, 2, 8, 6), 1, -9)
    full, part = torch.ones(1, 24, 20), torch.ones(1, 8, 6)
    for mask, template_mask in ((full, 0 * part), (0 * full, part), (0 * full, 0 * part)):
        assert (masked_similarity(name, reference, mask, template, template_mask) == 0).all()


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


@pytest.mark.parametrize(("x", "y"), [(0, 20), (20, 40), (40, 0)])
def test_peak_on_the_border_stays_there_and_is_not_trusted(x, y):
    noise = np.random.default_rng(0).normal(0, 0.01, (41, 41))
    peaks = peaks_of(bump(x, y) + gaussian_filter(noise, 1), bump(20, 20) + gaussian_filter(noise, 1))
    assert np.abs(peaks.xy[0].numpy() - [x, y]).max() <= 0.5
    assert peaks.sigma[0] > 20 * peaks.sigma[1]


def test_a_batch_is_read_one_by_one():
    surfaces = [bump(9.2, 30.1), bump(30.4, 11.3, height=3) - 5]
    together = peaks_of(*surfaces)
    for k, alone in enumerate(map(peaks_of, surfaces)):
        for name in ("xy", "value", "rival", "base", "sigma", "score"):
            np.testing.assert_array_equal(getattr(together, name)[k].numpy(), getattr(alone, name)[0].numpy())


def test_the_rival_lies_outside_the_exclusion_radius():
    surface = np.zeros((41, 41))
    surface[20, 20], surface[20, 25], surface[26, 20] = 1.0, 0.9, 0.6
    assert (peaks_of(surface).value[0], peaks_of(surface).base[0]) == (1.0, np.median(surface))
    assert peaks_of(surface, exclusion=5.0).rival[0] == 0.6
    assert peaks_of(surface, exclusion=4.9).rival[0] == 0.9
    assert peaks_of(surface, exclusion=6.0).rival[0] == 0.0


@few
@given(seed=seeds, scale=st.floats(1e-6, 1e6))
def test_score_lies_between_0_and_1_and_does_not_mind_gain(seed, scale):
    surface = np.random.default_rng(seed).normal(size=(1, 21, 21))
    score = float(find_peaks(torch.from_numpy(surface)).score[0])
    assert 0 < score < 1
    assert float(find_peaks(torch.from_numpy(surface * 1000)).score[0]) == pytest.approx(score)
    assert float(find_peaks(torch.from_numpy(surface + scale)).score[0]) == pytest.approx(score, abs=1e-6)


def test_score_falls_as_a_rival_grows():
    heights = (0.0, 0.3, 0.6, 0.9, 1.0)
    scores = peaks_of(*(bump(10, 10, 1.5) + bump(30, 30, 1.5, height=h) for h in heights)).score.tolist()
    assert scores == pytest.approx([1.0, 0.7, 0.4, 0.1, 0.0], abs=0.03)


def test_surfaces_without_a_peak_or_without_a_rival():
    flat = peaks_of(np.full((21, 21), 0.3))
    assert (flat.score[0], bool(torch.isfinite(flat.xy).all())) == (0, True)
    assert flat.sigma[0] > 5
    small = peaks_of(bump(3.3, 2.8, width=1.5, size=7), exclusion=20)
    assert small.rival[0] == small.base[0]
    assert small.sigma[0] >= 0.05


@pytest.mark.parametrize(("level", "rough"), [(0.05, 1.5), (0.1, 2.5), (0.15, 1.5)])
def test_sigma_predicts_the_error_to_a_factor_of_two(level, rough):
    random = np.random.default_rng(0)
    true = random.uniform(18, 22, (300, 2))
    noise = gaussian_filter(random.normal(size=(300, 41, 41)), (0, rough, rough), mode="wrap")
    found = peaks_of(*(np.stack([bump(x, y) for x, y in true]) + level * noise / noise.std()))
    errors, sigma = found.xy.numpy() - true, found.sigma.numpy()
    # What was caught by noise far away is no matter of sigma.
    near = np.abs(errors).max(axis=1) < 4
    assert near.mean() > 0.95
    true = np.sqrt((errors[near] ** 2).mean())
    assert 0.5 * true < np.median(sigma[near]) < 2 * true
