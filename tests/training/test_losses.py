"""training.losses: values by hand and against the papers' formulas written out, and where each loss moves a surface."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy

from sn9reg.errors import ConfigError
from sn9reg.training.losses import LOSSES, TEMPERATURES, make_loss

every = pytest.mark.parametrize("name", LOSSES)
tempered = pytest.mark.parametrize("name", ["fft-unet", "maru-net", "cross-corr-ce", "soft-ce"])
needs_negatives = pytest.mark.parametrize("name", ["mcgf", "osmnet", "maru-net"])
M = 0.25


def random_surface(name, shape=(2, 12, 14), seed=0, dtype=torch.float32):
    """Scores as the loss's similarity has them: SSD between 0.2 and 0.9, the others between -0.5 and 0.5."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return -0.2 - 0.7 * values if LOSSES[name].similarity == "ssd" else values - 0.5


def at(*places):
    return torch.tensor(places)


def gradient(loss, surface, place):
    surface = surface.clone().requires_grad_()
    loss(surface, place).backward()
    assert surface.grad is not None
    return surface.grad


def value(loss, rows, place):
    """Of one surface given as rows, in double."""
    return loss(torch.tensor([rows], dtype=torch.float64), at(place)).item()


def test_table_pairs_losses_with_similarities():
    expected = {"mcgf": "cc", "osmnet": "ssd", "fft-unet": "zncc", "maru-net": "zncc", "cross-corr-ce": "cc"}
    assert {name: loss.similarity for name, loss in LOSSES.items()} == expected | {"soft-ce": "cc"}


@every
def test_gradient_lifts_the_place_and_lowers_the_strongest_negative(name):
    surface, place = random_surface(name), at((5, 6), (0, 13))
    slope = gradient(make_loss(name), surface, place)
    for k, (row, col) in enumerate(place.tolist()):
        rows, cols = torch.meshgrid(torch.arange(12) - row, torch.arange(14) - col, indexing="ij")
        rival = surface[k].masked_fill(rows**2 + cols**2 <= 4, -torch.inf).argmax()
        assert slope[k, row, col] < 0
        assert slope[k].flatten()[rival] > 0


@every
def test_gradient_is_the_losses_own(name):
    surface = random_surface(name, (2, 4, 5), dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(lambda s: make_loss(name)(s, at((1, 2), (3, 4))), (surface,))


@every
def test_descent_on_a_free_surface_brings_its_peak_to_the_place(name):
    loss, place = make_loss(name), (7, 3)
    surface = random_surface(name, (1, 12, 14))
    surface[0, 1, 11] = surface.max() + 0.2
    surface.requires_grad_()
    optimiser = torch.optim.Adam([surface], lr=0.03)
    for _ in range(150):
        optimiser.zero_grad()
        loss(surface, at(place)).backward()
        optimiser.step()
    row, col = divmod(int(surface.argmax()), 14)
    # Losses whose positives are a cross do not tell its pixels apart.
    assert math.dist((row, col), place) <= (1 if name in ("mcgf", "osmnet") else 0)


@every
@pytest.mark.parametrize("place", [(0, 0), (0, 5), (6, 0), (6, 5), (3, 0)])
def test_borders_are_all_alike(name, place):
    """Mirrored surface, mirrored place: the same loss; and a gradient that is finite."""
    loss, surface = make_loss(name), random_surface(name, (1, 7, 6))
    mirrored = loss(surface.flip(1, 2), at((6 - place[0], 5 - place[1])))
    torch.testing.assert_close(loss(surface, at(place)), mirrored)
    assert gradient(loss, surface, at(place)).isfinite().all()


@every
@pytest.mark.parametrize("kind", ["signs", "flat", "at the place", "beside it"])
def test_extreme_surfaces_stay_finite(name, kind):
    surface = torch.full((1, 8, 9), -1e4)
    if kind == "signs":
        surface = 1e4 * torch.randn(1, 8, 9, generator=torch.Generator().manual_seed(0)).sign()
    elif kind != "flat":
        surface[0, 3, 4 if kind == "at the place" else 8] = 1e4
    loss = make_loss(name)
    assert loss(surface, at((3, 4))).isfinite()
    assert gradient(loss, surface, at((3, 4))).isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite() for p in loss.parameters())


@every
def test_batch_counts_by_its_mean(name):
    loss, surface, place = make_loss(name), random_surface(name, (3, 6, 7)), at((0, 0), (3, 3), (5, 1))
    single = [loss(surface[k : k + 1], place[k : k + 1]) for k in range(3)]
    torch.testing.assert_close(loss(surface, place), torch.stack(single).mean())


@every
def test_bfloat16_is_computed_in_float32(name):
    loss, surface, place = make_loss(name), random_surface(name).bfloat16(), at((1, 1), (5, 6))
    result = loss(surface, place)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(surface.float(), place))
    assert gradient(loss, surface, place).dtype == torch.bfloat16


def test_mcgf_by_hand():
    rows = [[0.1, 0.2, 0.9], [0.3, 2.0, -0.4], [0.7, 0.5, -0.6]]
    pull = sum(math.log1p(math.exp(-s)) for s in (0.2, 0.3, 2.0, -0.4, 0.5)) / 5
    push = sum(math.log1p(math.exp(s)) for s in (0.9, 0.7)) / 2
    assert value(make_loss("mcgf", hard_negatives=2), rows, (1, 1)) == pytest.approx(pull + push)
    pull = sum(math.log1p(math.exp(-s)) for s in (0.1, 0.2, 0.3)) / 3
    push = sum(math.log1p(math.exp(s)) for s in (0.9, 2.0, -0.4, 0.7, 0.5, -0.6)) / 6
    assert value(make_loss("mcgf"), rows, (0, 0)) == pytest.approx(pull + push), "corner, fewer negatives than asked"


def test_osmnet_by_hand():
    pull, push = 0.2**2 - M**2, (1 - 0.5) ** 2 - M**2
    expected = math.log(1 + math.exp(2 * (pull + push)) + math.exp(2 * (pull + 0)))  # the third is cut off
    loss = make_loss("osmnet", gamma=2, positive_radius=0)
    assert value(loss, [[-0.2, -0.5, -2.0]], (0, 0)) == pytest.approx(expected)


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


def test_osmnet_positive_energy_is_equation_11():
    squares = torch.linspace(0, 3, 61, dtype=torch.float64)
    energy = make_loss("osmnet").energies(1 - squares)[1]
    torch.testing.assert_close(energy, squares**2 - M**2)
    assert energy.argmin() == 0


def test_osmnet_negative_energy_is_equation_12_and_lowest_at_1():
    squares = torch.linspace(0, 3, 301, dtype=torch.float64).requires_grad_()
    energy = make_loss("osmnet").energies(1 - squares)[0]
    torch.testing.assert_close(energy, torch.where(squares <= 1 + M, (1 - squares) ** 2 - M**2, 0))
    assert squares[energy.argmin()].item() == pytest.approx(1)
    (slope,) = torch.autograd.grad(energy.sum(), squares)
    assert (slope[squares < 0.995] < 0).all(), "pushed away"
    assert slope[100].item() == pytest.approx(0, abs=1e-12), "content"
    assert (slope[(squares > 1.005) & (squares < 1.245)] > 0).all(), "drawn back"
    assert (slope[squares > 1.255] == 0).all(), "left alone"


def test_osmnet_with_detached_weights_repels_up_to_the_cut():
    squares = torch.linspace(0, 3, 301, dtype=torch.float64).requires_grad_()
    energy = make_loss("osmnet", detach_weights=True).energies(1 - squares)[0]
    torch.testing.assert_close(energy, make_loss("osmnet").energies(1 - squares)[0])
    (slope,) = torch.autograd.grad(energy.sum(), squares)
    torch.testing.assert_close(slope, -(1 - squares.detach() + M).clamp_min(0))


@pytest.mark.parametrize(("start", "end"), [(0.2, 1.0), (1.2, 1.0), (1.5, 1.5)])
def test_osmnet_leaves_negatives_at_1(start, end):
    surface = torch.tensor([[[-0.4, -start]]], requires_grad=True)
    loss = make_loss("osmnet", gamma=8, positive_radius=0)
    optimiser = torch.optim.Adam([surface], lr=0.01)
    for _ in range(600):
        optimiser.zero_grad()
        loss(surface, at((0, 0))).backward()
        optimiser.step()
    assert -surface[0, 0, 1].item() == pytest.approx(end, abs=0.02)
    assert -surface[0, 0, 0].item() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("name", ["fft-unet", "cross-corr-ce"])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_cross_entropy_by_hand(name, temperature):
    rows = [[temperature * math.log(k) for k in row] for row in ([1, 2], [3, 4])]
    assert value(make_loss(name, temperature=temperature), rows, (1, 0)) == pytest.approx(math.log(10 / 3))


def test_default_temperatures():
    starts = {"fft-unet": 1 / 96, "maru-net": 1 / 96, "cross-corr-ce": 1.0, "soft-ce": 1 / 30}
    for name, start in starts.items():
        assert make_loss(name).temperature.log_temperature.exp().item() == pytest.approx(start)


@pytest.mark.parametrize(("place", "weights"), [(1, (1 / 4, 1 / 2, 1 / 4)), (0, (16 / 25, 8 / 25, 1 / 25))])
def test_soft_cross_entropy_by_hand(place, weights):
    """A sigma at which the next pixel weighs half as much as the middle one, and the second next a sixteenth."""
    loss = make_loss("soft-ce", sigma=1 / math.sqrt(2 * math.log(2)), temperature=1.0)
    expected = -sum(w * math.log(p / 8) for w, p in zip(weights, (1, 2, 5), strict=True))
    assert value(loss, [[math.log(k) for k in (1, 2, 5)]], (0, place)) == pytest.approx(expected)


def test_soft_cross_entropy_of_a_narrow_gaussian_is_that_of_the_place():
    surface, place = random_surface("soft-ce"), at((5, 6), (0, 13))
    hard = make_loss("cross-corr-ce", temperature=1 / 30)(surface, place)
    torch.testing.assert_close(make_loss("soft-ce", sigma=0.05)(surface, place), hard)


def test_maru_net_by_hand():
    """One positive pixel, one hard negative: p = 3/6 against 1/6 and 2/6."""
    rows = [[math.log(k) for k in (1, 3, 2)]]
    entropy = -math.log(3 / 6) - math.log(5 / 6) - math.log(4 / 6)
    omega = math.log(3) - math.log(2) + 1
    loss = make_loss("maru-net", temperature=1.0, radius=0, hard_negatives=1)
    assert value(loss, rows, (0, 1)) == pytest.approx(entropy - omega)


def test_maru_net_entropy_is_pytorchs_of_softmax():
    surface, place = random_surface("maru-net", dtype=torch.float64), at((5, 6), (0, 13))
    surface[1, 3, 3] = surface[1].max()  # two highest
    truth = torch.zeros_like(surface)
    truth[[0, 1], [5, 0], [6, 13]] = 1
    probability = (surface / 0.05).flatten(1).softmax(1)
    expected = binary_cross_entropy(probability, truth.flatten(1), reduction="none").sum(1)
    result = make_loss("maru-net", temperature=0.05).binary_cross_entropy(surface, place)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_maru_net_entropy_does_not_cancel_where_a_wrong_place_is_all_but_certain():
    surface = torch.zeros(1, 5, 5)
    surface[0, 4, 4] = 40  # in float32 its softmax is 1
    result = make_loss("maru-net", temperature=1.0).binary_cross_entropy(surface, at((0, 0)))
    assert result.item() == pytest.approx(40 + 40 - math.log(24))


@pytest.mark.parametrize(("place", "active"), [((5, 6), 13), ((0, 0), 6), ((11, 6), 9), ((1, 1), 11)])
def test_maru_net_weighs_13_pixels(place, active):
    weight = make_loss("maru-net").weights(random_surface("maru-net", (1, 12, 14)), at(place))[0]
    assert (weight > 0).sum() == active
    assert weight.sum().item() == pytest.approx(1)
    row, col = place
    step = 1 if row < 11 else -1
    assert (weight[row + step, col] / weight[row, col]).item() == pytest.approx(math.exp(-0.5))
    assert (weight[row + step, col + 1] / weight[row, col]).item() == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("kind", ["highest", "lowest"])
def test_maru_net_omega_and_which_negatives_it_takes(kind):
    loss = make_loss("maru-net", negatives=kind)
    assert loss.negatives == kind
    surface = random_surface("maru-net", (1, 12, 14)).requires_grad_()
    outside = (loss.weights(surface, at((5, 6))) == 0).flatten()
    order = surface.detach().flatten().argsort(descending=kind == "highest")
    chosen = order[outside[order]][:16]
    omega = loss.omega(surface, at((5, 6)))[0]
    positive = (loss.weights(surface, at((5, 6))) * surface).sum() / 13
    torch.testing.assert_close(omega, positive - surface.flatten()[chosen].mean() + 1)
    omega.backward()
    slope = surface.grad.flatten()
    assert set((slope < 0).nonzero().flatten().tolist()) == set(chosen.tolist()), "-omega lowers these and no others"
    assert (slope > 0).sum() == 13


@tempered
def test_temperature_is_trained_or_no_parameter(name):
    surface, place = random_surface(name), at((5, 6), (0, 13))
    fixed, trained = make_loss(name, trainable=False), make_loss(name, trainable=True)
    assert not list(fixed.parameters())
    (parameter,) = trained.parameters()
    torch.testing.assert_close(fixed(surface, place), trained(surface, place))
    trained(surface, place).backward()
    assert parameter.grad.abs() > 0


def test_losses_without_temperature_have_no_parameter():
    assert not [*make_loss("mcgf").parameters(), *make_loss("osmnet").parameters()]
    assert list(make_loss("soft-ce").parameters()), "the one that is trained by default"


@tempered
@pytest.mark.parametrize(("far", "limit"), [(-50.0, TEMPERATURES[0]), (50.0, TEMPERATURES[1])])
def test_temperature_that_ran_off_is_brought_back_and_can_move(name, far, limit):
    loss = make_loss(name, trainable=True)
    (parameter,) = loss.parameters()
    parameter.data.fill_(far)
    result = loss(random_surface(name), at((5, 6), (0, 13)))
    result.backward()
    assert parameter.exp().item() == pytest.approx(limit)
    assert parameter.grad.abs() > 0


@every
@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (12, 0), (0, 14)])
def test_place_outside_is_refused(name, place):
    with pytest.raises(ValueError, match="outside the surface"):
        make_loss(name)(random_surface(name), at((0, 0), place))


@pytest.mark.parametrize(
    ("surface", "place"),
    [
        (torch.zeros(4, 4), at((0, 0))),
        (torch.zeros(2, 4, 4), at((0, 0))),
        (torch.zeros(1, 4, 4), torch.tensor([0, 0])),
        (torch.zeros(0, 4, 4), torch.zeros(0, 2, dtype=torch.long)),
        (torch.zeros(1, 4, 4), torch.tensor([[0.5, 0.0]])),
    ],
)
def test_other_shapes_and_types_are_refused(surface, place):
    with pytest.raises(ValueError, match="place"):
        make_loss("fft-unet")(surface, place)


@needs_negatives
def test_surface_of_positives_only_is_refused(name):
    with pytest.raises(ValueError, match="no pixel that is not a positive"):
        make_loss(name)(torch.zeros(1, 1, 2), at((0, 0)))


@every
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_places_may_come_in_small_integers(name, dtype):
    loss, surface, place = make_loss(name), random_surface(name, (1, 30, 30)), at((20, 25))
    torch.testing.assert_close(loss(surface, place.to(dtype)), loss(surface, place))


def test_unknown_names_and_options_say_what_there_is():
    with pytest.raises(ConfigError, match=r"no loss 'dice'; there are: mcgf, osmnet.*soft-ce"):
        make_loss("dice")
    with pytest.raises(ConfigError, match="has no option gama, size; it has: gamma, margin, positive_radius"):
        make_loss("osmnet", size=3, gama=2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mcgf", {"hard_negatives": 0}),
        ("osmnet", {"gamma": 0}),
        ("osmnet", {"margin": -0.1}),
        ("osmnet", {"positive_radius": -1}),
        ("fft-unet", {"temperature": 0}),
        ("cross-corr-ce", {"temperature": math.nan}),
        ("soft-ce", {"temperature": 1e3}),
        ("soft-ce", {"sigma": 0}),
        ("maru-net", {"sigma": 0}),
        ("maru-net", {"radius": -1}),
        ("maru-net", {"hard_negatives": 0}),
        ("maru-net", {"negatives": "middle"}),
        ("maru-net", {"temperature": "1/96"}),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options):
    with pytest.raises(ConfigError):
        make_loss(name, **options)
