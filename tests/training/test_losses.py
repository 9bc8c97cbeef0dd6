"""training.losses: values by hand and against the papers' formulas written out, and where each loss moves a surface."""

import math

import pytest
import torch
from torch.nn import functional

from sn9reg.errors import ConfigError
from sn9reg.training.losses import LOSSES, TEMPERATURES, binary_cross_entropy, hardest_in_batch, make_loss

every = pytest.mark.parametrize("name", LOSSES)
TEMPERED = {"fft-unet": 1 / 96, "maru-net": 1 / 96, "cross-corr-ce": 1.0, "soft-ce": 1 / 30}  # and where they start
M = 0.25


def random_surface(name, shape=(2, 12, 14), seed=0, dtype=torch.float32):
    """Scores as the loss's similarity has them: SSD between 0.2 and 0.9, the others between -0.5 and 0.5."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return -0.2 - 0.7 * values if LOSSES[name].similarity == "ssd" else values - 0.5


def at(*places):
    return torch.tensor(places)


def gradient(loss, surface, *place):
    surface = surface.clone().requires_grad_()
    loss(surface, *place).backward()
    return surface.grad


def learned(loss):
    return [parameter for parameter in loss.parameters() if parameter.requires_grad]


def value(loss, rows, place):
    """Of one surface given as rows, in double."""
    return loss(torch.tensor([rows], dtype=torch.float64), at(place)).item()


def test_losses_have_similarities_and_one_is_trained_by_default():
    expected = {"mcgf": "cc", "osmnet": "ssd", "fft-unet": "zncc", "maru-net": "zncc", "cross-corr-ce": "cc"}
    assert {name: loss.similarity for name, loss in LOSSES.items()} == expected | {"soft-ce": "cc"}
    assert [name for name in LOSSES if learned(make_loss(name))] == ["soft-ce"]


@every
def test_gradient_is_that_of_the_value_lifts_the_place_and_lowers_the_strongest_negative(name):
    small = random_surface(name, (1, 4, 5), dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(lambda s: make_loss(name)(s, at((1, 2))), (small,))
    surface, place = random_surface(name), at((5, 6), (0, 13))
    slope = gradient(make_loss(name), surface, place)
    for k, (row, col) in enumerate(place.tolist()):
        rows, cols = torch.meshgrid(torch.arange(12) - row, torch.arange(14) - col, indexing="ij")
        rival = surface[k].masked_fill(rows**2 + cols**2 <= 4, -torch.inf).argmax()
        assert slope[k, row, col] < 0 < slope[k].flatten()[rival]


@every
def test_mirrored_surface_and_place_give_the_same_loss_at_every_border(name):
    loss, surface, place = make_loss(name), random_surface(name, (5, 7, 6)), at((0, 0), (0, 5), (6, 0), (6, 5), (3, 0))
    torch.testing.assert_close(loss(surface, place), loss(surface.flip(1, 2), at((6, 5)) - place))


@every
def test_extreme_surfaces_stay_finite(name):
    """Random signs; flat; high at the place alone; high beside it alone."""
    surface = torch.full((4, 8, 9), -1e4)
    surface[0] = 1e4 * torch.randn(8, 9, generator=torch.Generator().manual_seed(0)).sign()
    surface[2, 3, 4] = surface[3, 3, 8] = 1e4
    loss, place = make_loss(name), at(*[(3, 4)] * 4)
    assert loss(surface, place).isfinite()
    assert gradient(loss, surface, place).isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite() for p in learned(loss))


@every
def test_batches_count_by_their_mean_in_float32_with_places_in_any_integer(name):
    loss, surface, place = make_loss(name), random_surface(name, (3, 30, 31)), at((0, 0), (20, 25), (29, 1))
    result = loss(surface, place)
    torch.testing.assert_close(result, torch.stack([loss(surface[[k]], place[[k]]) for k in range(3)]).mean())
    for dtype in (torch.uint8, torch.int32):
        assert loss(surface, place.to(dtype)) == result
    half = surface.bfloat16()
    assert loss(half, place).dtype == torch.float32
    torch.testing.assert_close(loss(half, place), loss(half.float(), place))
    assert gradient(loss, half, place).dtype == torch.bfloat16


# A sigma at which the next pixel weighs half as much as the middle one, and the second next a sixteenth.
HALVING = {"sigma": 1 / math.sqrt(2 * math.log(2)), "temperature": 1.0}
ONE = {"temperature": 1.0, "radius": 0, "hard_negatives": 1}
LOGS = [math.log(k) for k in (1, 2, 5)]


@pytest.mark.parametrize(
    ("name", "options", "row", "place", "expected"),
    [
        ("fft-unet", {"temperature": 0.1}, [0.1 * v for v in LOGS], 1, -math.log(2 / 8)),
        ("cross-corr-ce", {}, LOGS, 1, -math.log(2 / 8)),
        ("soft-ce", HALVING, LOGS, 1, -(math.log(1 / 8) + 2 * math.log(2 / 8) + math.log(5 / 8)) / 4),
        ("soft-ce", HALVING, LOGS, 0, -(16 * math.log(1 / 8) + 8 * math.log(2 / 8) + math.log(5 / 8)) / 25),
        # one positive pixel, one hard negative: cross-entropy of 5/8 against 1/8 and 2/8, less omega
        ("maru-net", ONE, LOGS, 2, -math.log(5 / 8 * 7 / 8 * 6 / 8) - (math.log(5) - math.log(2) + 1)),
    ],
)
def test_cross_entropies_by_hand(name, options, row, place, expected):
    assert value(make_loss(name, **options), [row], (0, place)) == pytest.approx(expected)


def test_mcgf_by_hand():
    rows = [[0.1, 0.2, 0.9], [0.3, 2.0, -0.4], [0.7, 0.5, -0.6]]
    pull = sum(math.log1p(math.exp(-s)) for s in (0.2, 0.3, 2.0, -0.4, 0.5)) / 5
    push = sum(math.log1p(math.exp(s)) for s in (0.9, 0.7)) / 2
    assert value(make_loss("mcgf", hard_negatives=2), rows, (1, 1)) == pytest.approx(pull + push)
    pull = sum(math.log1p(math.exp(-s)) for s in (0.1, 0.2, 0.3)) / 3
    push = sum(math.log1p(math.exp(s)) for s in (0.9, 2.0, -0.4, 0.7, 0.5, -0.6)) / 6
    assert value(make_loss("mcgf"), rows, (0, 0)) == pytest.approx(pull + push), "corner, fewer negatives than asked"


@pytest.mark.parametrize("detached", [False, True])
def test_osmnet_is_the_double_sum_of_equations_3_6_and_7(detached):
    surface = random_surface("osmnet", (1, 5, 6), dtype=torch.float64) * 2
    positives = {(0, 2), (0, 1), (0, 3), (1, 2)}
    total = 1.0
    for p in positives:
        for n in {(r, c) for r in range(5) for c in range(6)} - positives:
            z_n, z_p = (1 + surface[0][k].item() for k in (n, p))
            push, pull = max(z_n + M, 0) * (z_n - M), -max(1 + M - z_p, 0) * (z_p - 1 + M)
            total += math.exp(32 * (push + pull))
    result = make_loss("osmnet", detach_weights=detached)(surface, at((0, 2)))
    assert result.item() == pytest.approx(math.log(total))


def test_osmnet_energies_are_equations_11_and_12_and_a_negatives_is_lowest_at_1():
    squares = torch.linspace(0, 3, 301, dtype=torch.float64).requires_grad_()
    push, pull = make_loss("osmnet").formula.energies(1 - squares)
    torch.testing.assert_close(pull, squares**2 - M**2)
    torch.testing.assert_close(push, torch.where(squares <= 1 + M, (1 - squares) ** 2 - M**2, 0))
    (slope,) = torch.autograd.grad(push.sum(), squares)
    assert (slope[squares < 0.995] < 0).all(), "pushed away"
    assert slope[100].item() == pytest.approx(0, abs=1e-12)
    assert (slope[(squares > 1.005) & (squares < 1.245)] > 0).all(), "drawn back"
    assert (slope[squares > 1.255] == 0).all()
    detached = make_loss("osmnet", detach_weights=True).formula.energies(1 - squares)[0]
    torch.testing.assert_close(detached, push)
    (slope,) = torch.autograd.grad(detached.sum(), squares)
    torch.testing.assert_close(slope, -(1 - squares.detach() + M).clamp_min(0))


def test_maru_net_entropy_is_pytorchs_of_softmax_and_does_not_cancel():
    surface, place = random_surface("maru-net", dtype=torch.float64), at((5, 6), (0, 13))
    surface[1, 3, 3] = surface[1].max()  # two highest
    truth = torch.zeros_like(surface)
    truth[[0, 1], [5, 0], [6, 13]] = 1
    probability = (surface / 0.05).flatten(1).softmax(1)
    expected = functional.binary_cross_entropy(probability, truth.flatten(1), reduction="none").sum(1)
    torch.testing.assert_close(binary_cross_entropy(surface / 0.05, place), expected, rtol=1e-5, atol=1e-6)
    loss = make_loss("maru-net", temperature=0.05)
    torch.testing.assert_close(loss(surface, place), (expected - loss.formula.omega(surface, place)).mean())
    surface = torch.zeros(1, 5, 5)
    surface[0, 4, 4] = 40  # a wrong place: in float32 its softmax is 1
    assert binary_cross_entropy(surface, at((0, 0))).item() == pytest.approx(40 + 40 - math.log(24))


def omega_of(surface, *place, **options):
    """Omega, its slope in the (row, col) of a surface."""
    surface = surface.clone().requires_grad_()
    omega = make_loss("maru-net", **options).formula.omega(surface, at(place))
    return omega.detach(), torch.autograd.grad(omega, surface)[0][0]


@pytest.mark.parametrize(("place", "active"), [((5, 6), 13), ((0, 0), 6), ((11, 6), 9), ((1, 1), 11)])
def test_maru_net_weighs_13_pixels(place, active):
    weight = omega_of(random_surface("maru-net", (1, 12, 14)), *place)[1].clamp_min(0) * active
    assert (weight > 0).sum() == active
    assert weight.sum().item() == pytest.approx(1)
    row, col = place
    step = 1 if row < 11 else -1
    assert (weight[row + step, col] / weight[row, col]).item() == pytest.approx(math.exp(-0.5))
    assert (weight[row + step, col + 1] / weight[row, col]).item() == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("kind", ["highest", "lowest"])
def test_maru_net_omega_and_which_negatives_it_takes(kind):
    surface = random_surface("maru-net", (1, 12, 14))
    omega, slope = omega_of(surface, 5, 6, negatives=kind)
    rows, cols = torch.meshgrid(torch.arange(12) - 5, torch.arange(14) - 6, indexing="ij")
    outside = (rows**2 + cols**2 > 4).flatten()
    order = surface.flatten().argsort(descending=kind == "highest")
    chosen = order[outside[order]][:16]
    expected = (slope.clamp_min(0) * surface).sum() - surface.flatten()[chosen].mean() + 1
    torch.testing.assert_close(omega[0], expected)
    assert set((slope.flatten() < 0).nonzero().flatten().tolist()) == set(chosen.tolist()), "pushed down, no others"


@pytest.mark.parametrize("name", TEMPERED)
def test_temperature_is_trained_or_no_parameter(name):
    surface, place = random_surface(name), at((5, 6), (0, 13))
    fixed, trained = make_loss(name, trainable=False), make_loss(name, trainable=True)
    assert not learned(fixed)
    (parameter,) = learned(trained)
    assert parameter.exp().item() == pytest.approx(TEMPERED[name])
    torch.testing.assert_close(fixed(surface, place), trained(surface, place))
    for far, limit in zip((-50.0, 50.0), TEMPERATURES, strict=True):
        parameter.data.fill_(far)
        parameter.grad = None
        trained(surface, place).backward()
        assert parameter.exp().item() == pytest.approx(limit), "brought back, and able to move"
        assert parameter.grad.abs() > 0


@pytest.mark.parametrize("name", ["mcgf", "osmnet", "maru-net"])
def test_surfaces_without_negatives_are_refused(name):
    with pytest.raises(ValueError, match=r"surface of \(1, 2\) has no pixel that is not a positive"):
        make_loss(name)(torch.zeros(1, 1, 2), at((0, 0)))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dice", {}, "no loss 'dice'; there are: mcgf, osmnet.*soft-ce"),
        ("osmnet", {"gama": 2}, "loss 'osmnet': there is no option gama; there are: gamma, margin, positive_radius"),
        ("mcgf", {"hard_negatives": 0}, "hard_negatives is 0"),
        ("osmnet", {"gamma": 0}, "gamma is 0"),
        ("cross-corr-ce", {"temperature": math.nan}, "temperature"),
        ("soft-ce", {"temperature": 1e3}, "temperature is 1000"),
        ("maru-net", {"sigma": 0}, "sigma is 0"),
        ("maru-net", {"negatives": "middle"}, "negatives is 'middle'"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, words):
    with pytest.raises(ConfigError, match=words):
        make_loss(name, **options)


def test_hardest_in_batch_by_hand_with_the_papers_margin():
    """Of the first two matches the hardest is the same; the third keeps its margin."""
    distance = torch.tensor([[0.5, 0.6, 1.9], [0.9, 0.4, 1.8], [1.9, 1.9, 0.1]])
    for given in (distance, distance.T):
        assert hardest_in_batch(given).item() == pytest.approx((1 + 0.5 - 0.6 + 1 + 0.4 - 0.6) / 3)
        assert hardest_in_batch(given, 1.9).item() == pytest.approx((1.9 - 0.1 + 1.9 - 0.2 + 1.9 + 0.1 - 1.8) / 3)
    expected = torch.tensor([[1, -2, 0], [0, 1, 0], [0, 0, 0]]) / 3
    torch.testing.assert_close(gradient(hardest_in_batch, distance), expected)
