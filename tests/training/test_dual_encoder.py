"""training.dual_encoder: crops, steps of both phases, what they compare with what, and what validation counts."""

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support.tasks import without_trainer
from torch import nn
from torch.nn.functional import cross_entropy, normalize, pixel_unshuffle

from sn9reg.matchers.dual_encoder.network import CELL, WIDTHS, Encoded
from sn9reg.raster.scene import Patch
from sn9reg.training import dual_encoder
from sn9reg.training.config import read
from sn9reg.training.data import Source
from sn9reg.training.dual_encoder import DualConfig, DualTask, Phase, PhaseOptimiser, _turned
from sn9reg.training.losses import contrastive
from sn9reg.training.sample import Geometry, Photometry, Sample

matching, placed = dual_encoder.matching, dual_encoder.placed
PHASES = ["pretraining", "finetuning"]


def config(**options):
    small = {"geometry": Geometry(48, 32), "cells": 16, "dropout": 0.0, "precision": "32-true"}
    phases = {name: Phase(steps=10, batch=2, accumulate=1, optimiser=PhaseOptimiser()) for name in PHASES}
    return DualConfig(**{"sources": (Source("unused"),)} | phases | small | options)


def alone(phase, **options):
    torch.manual_seed(0)
    made = config(**options)
    return without_trainer(DualTask(made, getattr(made, phase), phase))


def batch_of(places, seed=0, noise=0.0):
    """Optical noise of 48 px, and SAR crops of 32 px that are parts of it, at the (row, col) places."""
    generator = torch.Generator().manual_seed(seed)
    optical = torch.randn(len(places), 1, 48, 48, generator=generator)
    sar = torch.stack([image[:, r : r + 32, c : c + 32] for image, (r, c) in zip(optical, places, strict=True)])
    sar = sar + noise * torch.randn(sar.shape, generator=generator)
    return Sample(optical.repeat(1, 3, 1, 1), sar, torch.tensor(places))


class Pixels(nn.Module):
    """A network whose embedding of a cell are its pixels: what turns with the image, and is the same in both sensors.
    confidence: of all SAR cells."""

    def __init__(self, confidence=1.0):
        super().__init__()
        self.confidence, self.log_variance = confidence, nn.Parameter(torch.tensor([1.0, 4.0]))
        self.seen = []

    def forward(self, image, modality):
        self.seen.append(image)
        embedding = normalize(pixel_unshuffle(image[:, :1], CELL), dim=1)
        features = image.mean(dim=1, keepdim=True)[:, :, ::CELL, ::CELL].repeat(1, WIDTHS[modality], 1, 1)
        return Encoded(features, embedding, torch.zeros_like(embedding[:, :1]))

    def confidences(self, optical, sar):
        return 1 - optical.uncertainty, torch.full_like(sar.uncertainty, self.confidence)


def with_pixels(phase, confidence=1.0, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dual_encoder, "build", lambda options: Pixels(confidence))
        return alone(phase, **options)


def compared(task, batch):
    """What the network makes of both images, and what is compared with what."""
    encoded = task.network(batch.optical, "optical"), task.network(batch.sar, "sar")
    return encoded, task._compared(*encoded, batch.place)


@pytest.fixture
def turns(monkeypatch):
    """The quarters by which images and embeddings are turned, in order."""
    seen = []
    monkeypatch.setattr(dual_encoder, "_turned", lambda *given: seen.append(given[1].clone()) or _turned(*given))
    return seen


def learning(task):
    """Names of the parts whose parameters get a gradient, all of them finite."""
    named = {name: parameter.grad for name, parameter in task.named_parameters() if parameter.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in named.values())
    return {name for name, gradient in named.items() if gradient.abs().max() > 0}


def parts(names):
    return {".".join(name.split(".")[: 3 if name.startswith("network.") else 2]) for name in names}


ENCODERS = {f"network.{part}.{kind}" for part in ("encoders", "project") for kind in ("optical", "sar")}
HEADS, LIFT = {"rotation.optical", "rotation.sar"}, {"network.structure.lift"}
TURNED, MATCHED = {"rotation_optical", "rotation_sar"}, {"matching", "placed"}
UNSURE = {"network.maps.optical", "network.maps.sar", "network.fusion.hidden", "network.fusion.weigh"}


@pytest.mark.parametrize(
    ("phase", "options", "expected", "logged"),
    [
        ("pretraining", {}, ENCODERS | HEADS, TURNED),
        ("pretraining", {"contrastive": False}, {e for e in ENCODERS if "encoders" in e} | HEADS, TURNED),
        ("pretraining", {"rotation": False, "structure": True}, ENCODERS | LIFT, set()),
        ("finetuning", {}, ENCODERS | UNSURE | {"network.log_variance", "scale"}, MATCHED | {"uncertainty"}),
        ("finetuning", {"aleatoric": False, "structure": True}, ENCODERS | LIFT | {"scale"}, MATCHED),
    ],
    ids=["both", "rotation alone", "contrastive alone", "fine-tuning", "without uncertainty"],
)
def test_a_step_has_a_loss_and_gradients_where_they_belong(phase, options, expected, logged):
    task = alone(phase, **options)
    loss = task.training_step(batch_of([(4, 8), (0, 13)], noise=0.5), 0)
    loss.backward()
    assert loss.item() > 0
    assert task.logged["loss"] == pytest.approx(loss.item())
    assert task.logged.keys() == logged | {"loss"}
    assert all(map(math.isfinite, task.logged.values()))
    names = learning(task)
    assert parts(names) == expected
    assert {f"network.encoders.{kind}.stem.weight" for kind in WIDTHS} < names


def test_network_and_heads_see_images_that_are_turned_alike(turns):
    task, batch, given = with_pixels("pretraining"), batch_of([(4, 8)] * 24), {}
    for kind, head in task.rotation.items():
        head.register_forward_pre_hook(lambda head, args, kind=kind: given.update({kind: args[0]}))
    task.training_step(batch, 0)
    quarter = turns[0]
    assert set(quarter.tolist()) == {0, 1, 2, 3}
    assert turns[1].equal(quarter)
    for kind, seen, image in zip(given, list(task.network.seen), (batch.optical, batch.sar), strict=True):
        assert all(a.equal(torch.rot90(b, int(k), (1, 2))) for a, b, k in zip(seen, image, quarter, strict=True))
        assert given[kind].equal(task.network(seen, kind).features.mean(dim=(2, 3)))
    upright = with_pixels("pretraining", rotation=False)
    upright.training_step(batch, 0)
    assert upright.network.seen[0].equal(batch.optical)
    assert upright.network.seen[1].equal(batch.sar)


def test_the_rotation_loss_is_the_mean_of_both_heads_against_the_turns(turns, monkeypatch):
    """The heads are the paper's (section 3.3.2): two layers, 256 and 4 wide."""
    task, generator = with_pixels("pretraining", contrastive=False), torch.Generator().manual_seed(1)
    answers = {kind: torch.randn(12, 4, generator=generator) for kind in ("optical", "sar")}
    for kind, answer in answers.items():
        assert [layer.out_features for layer in task.rotation[kind] if isinstance(layer, nn.Linear)] == [256, 4]
        monkeypatch.setattr(task.rotation[kind], "forward", lambda features, answer=answer: answer)
    loss = task.training_step(batch_of([(4, 8)] * 12), 0)
    expected = {kind: cross_entropy(answer, turns[0]).item() for kind, answer in answers.items()}
    assert loss.item() == pytest.approx(sum(expected.values()) / 2, rel=1e-5)
    for kind, answer in answers.items():
        right = (answer.argmax(dim=1) == turns[0]).float().mean().item()
        assert task.logged[f"rotation_{kind}"] == pytest.approx(right)


def test_drawn_cells_show_the_same_place():
    """Embeddings hold the pixel of the cell's centre in the optical crop: x and y differ by half a cell at most."""

    def centres(side, row=0, col=0):
        y, x = torch.meshgrid(*[torch.arange(side // CELL) * CELL + (CELL - 1) / 2] * 2, indexing="ij")
        return torch.stack([y + row, x + col])

    places = [(0, 0), (16, 16), (3, 14), (6, 1), (9, 2), (16, 0)]
    optical = torch.stack([centres(48) + 1000 * k for k in range(6)])  # each pair is told from the others
    sar = torch.stack([centres(32, *place) + 1000 * k for k, place in enumerate(places)])
    one, other = with_pixels("pretraining", cells=200)._drawn(optical, sar, torch.tensor(places))
    assert one.shape == other.shape == (6 * 200, 2)
    assert (one - other).abs().max() <= CELL / 2
    for k, (row, col) in enumerate(places):
        drawn = one[200 * k : 200 * (k + 1)] - 1000 * k
        assert len(drawn.unique(dim=0)) > 50
        assert drawn.amin(dim=0).tolist() == [row + 1.5, col + 1.5]
        assert drawn.amax(dim=0).tolist() == [row + 29.5, col + 29.5]


@pytest.mark.parametrize("rotation", [True, False])
def test_the_contrastive_loss_is_of_cells_drawn_from_what_is_turned_back(rotation, monkeypatch):
    task, batch, given, drawn = with_pixels("pretraining", rotation=rotation), batch_of([(4, 8), (0, 16)] * 4), [], []
    original = task._drawn
    monkeypatch.setattr(task, "_drawn", lambda *all: given.extend(all) or drawn.append(original(*all)) or drawn[0])
    loss = task.training_step(batch, 0)
    optical, sar, place = given
    assert place.equal(batch.place)
    for seen, image in ((optical, batch.optical), (sar, batch.sar)):
        # The pixels of a cell are turned within it, and so each channel is another; their sum is not.
        cells = normalize(pixel_unshuffle(image[:, :1], CELL), dim=1).sum(dim=1)
        torch.testing.assert_close(seen.sum(dim=1), cells, atol=1e-5, rtol=1e-4)
    if not rotation:
        assert loss.item() == pytest.approx(contrastive(*drawn[0], task.config.temperature).item(), rel=1e-5)


@pytest.mark.parametrize("window", [1, 3])
def test_a_window_of_cells_is_seen_as_its_mean(window):
    embedding = normalize(torch.randn(2, 8, 6, 7), dim=1)
    pooled = with_pixels("pretraining", window=window)._pooled(embedding)
    reach = window // 2
    for row, col in ((3, 3), (0, 0), (5, 6)):  # at the border, of those that there are
        around = embedding[:, :, max(row - reach, 0) : row + reach + 1, max(col - reach, 0) : col + reach + 1]
        torch.testing.assert_close(pooled[:, :, row, col], normalize(around.mean(dim=(2, 3)), dim=1))


def test_sar_cells_are_compared_with_where_they_lie_and_back():
    similarity, truth, back = compared(with_pixels("finetuning"), batch_of([(4, 8), (6, 1)]))[1]
    assert similarity.shape == (2, 8 * 8, 12 * 12)
    assert truth[0, 0].tolist() == [2, 1]
    assert truth[0, 8 * 3 + 5].tolist() == [2 + 5, 1 + 3]
    assert truth[1, 8 * 3 + 5].tolist() == [0.25 + 5, 1.5 + 3]
    assert back[0, 12 * 4 + 7].tolist() == [7 - 2, 4 - 1]
    best = similarity[0].argmax(dim=1)
    assert best.equal((truth[0, :, 1] * 12 + truth[0, :, 0]).long())
    inside = ((back[0] >= 0) & (back[0] <= 7)).all(dim=1)
    assert inside.sum() == 64
    assert similarity[0].argmax(dim=0)[inside].equal((back[0, :, 1] * 8 + back[0, :, 0]).long()[inside])


def test_similarities_are_weighed_by_confidence():
    strong, weak = (compared(with_pixels("finetuning", c), batch_of([(4, 8)]))[1][0] for c in (1.0, 0.5))
    torch.testing.assert_close(weak, strong / 2)


def test_the_loss_is_of_matching_both_ways_and_of_the_whole_and_of_the_uncertainty():
    task, batch = with_pixels("finetuning", uncertainty=0.3, temperature=0.2), batch_of([(4, 8), (6, 1)], noise=1.0)
    (optical, sar), (similarity, truth, back) = compared(task, batch)
    there, again = matching(similarity, truth, (12, 12), 0.2), matching(similarity.mT, back, (8, 8), 0.2)
    whole = placed(optical.embedding, sar.embedding, torch.tensor([[2.0, 1.0], [0.25, 1.5]]), task.scale.exp())[0]
    loss = task.training_step(batch, 0)
    assert task.logged["matching"] == pytest.approx(((there + again) / 2).item(), rel=1e-5)
    assert task.logged["placed"] == pytest.approx(whole.item(), rel=1e-5)
    expected = ((there + again) / 2 + whole) / 2 + 0.3 * task.logged["uncertainty"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert min(there, again, whole) > 0.1


def test_doubt_raises_the_variance_that_is_expected():
    """The pixels of both images agree: what is far off is nothing, and the variance all that is lost."""
    logged = []
    for confidence in (1.0, 0.5):
        task = with_pixels("finetuning", confidence)
        task.training_step(batch_of([(4, 8)]), 0)
        logged.append(task.logged["uncertainty"])
    # ln of the variance: 1 without doubt, 4 more for doubt of one.
    assert logged == pytest.approx([1.0, 3.0], abs=0.1)


def validated(places, true, phase="finetuning"):
    task = with_pixels(phase)
    task.validation_step(batch_of(places)._replace(place=torch.tensor(true)), 0)
    return task.logged


@pytest.mark.parametrize("phase", PHASES)
def test_validation_counts_what_agrees(phase):
    for places, true, share in (
        ([(4, 8), (0, 16), (12, 0)], [(4, 8), (0, 16), (12, 0)], 1),
        ([(4, 12), (0, 16)], [(12, 4), (16, 0)], 0),  # rows are not columns
        ([(4, 8), (0, 16), (12, 0), (8, 8)], [(4, 8), (0, 0), (0, 0), (8, 8)], 0.5),
    ):
        assert validated(places, true, phase) == {"matched": share, "whole": share}


def test_within_three_pixels_is_right_and_beyond_is_not():
    """3 px themselves are left out: it is a matter of rounding."""
    for shift, right in ((2, 1), (4, 0)):
        for true in ((8 + shift, 8), (8, 8 + shift), (8 - shift, 8), (8, 8 - shift)):
            assert validated([(8, 8)], [true]) == {"matched": right, "whole": right}, true


def textured(side=90, seed=0, valid=None):
    """A pair whose SAR image is the optical one."""
    ground = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side + 10)), 1.5)
    values = (100 + 20 * (ground - ground.mean()) / ground.std()).astype(np.float32)[None]
    return (Patch(values, np.ones(ground.shape, bool) if valid is None else valid),) * 2


def made(pair, seed=0, train=True, zoom=(1.0, 1.0), **options):
    drawn = Source("unused", zoom=zoom), *pair, np.random.default_rng(seed), train
    return config(**{"photometry": Photometry()} | options).crops(*drawn)


@pytest.mark.parametrize(
    ("side", "geometry"), [(90, Geometry(48, 32, tilt=30.0)), (90, Geometry(48, 48)), (30, Geometry(48, 32))]
)
def test_the_sar_crop_lies_at_its_place_and_small_images_are_magnified_to_the_crop(side, geometry):
    crop = made(textured(side), 1, geometry=geometry, zoom=(0.8, 1.5))
    assert (crop.optical.shape, crop.sar.shape) == ((3, 48, 48), (1, geometry.sar, geometry.sar))
    assert (crop.optical.dtype, crop.sar.dtype, crop.place.dtype) == (torch.float32, torch.float32, torch.int64)
    alike_at = cv2.matchTemplate(crop.optical[0].numpy(), crop.sar[0].numpy(), cv2.TM_CCOEFF_NORMED)
    assert np.unravel_index(alike_at.argmax(), alike_at.shape) == tuple(crop.place.tolist())
    assert alike_at.max() > 0.98


def test_what_is_not_valid_is_nil_in_both():
    valid = np.zeros((90, 100), bool)
    valid[:, :50] = True
    for seed in range(4):
        crop = made(
            textured(valid=valid), seed, photometry=Photometry(tone=1.0, gain=0.5, speckle=1.0, blur=2.0, noise=0.5)
        )
        row, col = crop.place.tolist()
        part = (crop.optical[:, row : row + 32, col : col + 32] == 0).all(dim=0)
        assert part.equal(crop.sar[0] == 0)


def test_in_training_grey_values_are_changed_and_else_they_are_not():
    changed, plain, again = (
        made(textured(), 1, train, photometry=Photometry(tone=1.0, gain=0.5, speckle=1.0, blur=2.0, noise=0.5))
        for train in (True, False, False)
    )
    assert all(a.equal(b) for a, b in zip(plain, again, strict=True))
    for band in (*changed.optical, *changed.sar):
        assert torch.stack([band.mean(), band.std()]).tolist() == pytest.approx([0, 1], abs=0.1)
    assert changed.place.equal(plain.place)
    assert min((a - b).abs().mean() for a, b in zip(changed[:2], plain[:2], strict=True)) > 0.1


@pytest.mark.parametrize(("colours", "low", "high"), [(0.0, 0, 0), (0.5, 2, 10), (1.0, 12, 12)])
def test_optical_bands_differ_in_as_many_samples_as_asked_but_show_the_same_ground(colours, low, high):
    pair, differing = textured(), 0
    for seed in range(12):
        optical = made(pair, seed, colours=colours, photometry=Photometry(gain=0.3, noise=0.1)).optical
        equal = [optical[a].equal(optical[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        assert all(equal) or not any(equal)
        assert np.corrcoef(optical.flatten(1).numpy()).min() > 0.8
        differing += not any(equal)
    assert low <= differing <= high


def test_the_recipe_of_the_paper_turns_bands_and_makes_noise_in_both_images():
    """Seen in the samples: patches as large as their images, upright but for quarters if nothing turned them."""
    recipe = read(Path(__file__).parents[2] / "pipelines/training/uncertainty.yaml")
    y, x = np.mgrid[:256, :256].astype(np.float32)
    ramps = Patch(np.stack([100 + x, 400 + y, 900 - x - y]), np.ones((256, 256), bool)), Patch((100 + y)[None], x >= 0)
    angles, rough = [], []
    for seed in range(20):
        crop = recipe.crops(Source("unused"), *ramps, np.random.default_rng(seed), train=True)
        rows, cols = (np.median(np.diff(crop.optical[0].numpy(), axis=axis)) for axis in (0, 1))
        angles.append((np.rad2deg(np.arctan2(rows, cols)) + 45) % 90 - 45)
        assert np.abs(np.corrcoef(crop.optical.flatten(1))[np.triu_indices(3, 1)]).max() < 0.95
        rough.append([float(np.diff(side[0].numpy(), 2, axis=1).std()) for side in (crop.optical, crop.sar)])
    assert -30.5 < min(angles) < -15 < 15 < max(angles) < 30.5
    assert (np.max(rough, axis=0) > 5e-3).all()
    silent = replace(recipe, photometry=Photometry()).crops(Source("unused"), *ramps, np.random.default_rng(0), True)
    assert max(float(np.diff(side[0].numpy(), 2, axis=1).std()) for side in (silent.optical, silent.sar)) < 3e-3


SHAPE = (5, 7)  # height, width
CELLS = 5 * 7


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def index(x, y):
    return y * SHAPE[1] + x


def test_embeddings_are_guessed_perfect_or_swapped():
    basis = torch.eye(16)
    assert contrastive(basis[:8], basis[8:], 0.07).item() == pytest.approx(math.log(8), rel=1e-5)
    assert contrastive(basis[:8], basis[:8], 0.07).item() == pytest.approx(7 * math.exp(-1 / 0.07), rel=0.1)
    assert contrastive(basis[:8], basis[:8].roll(1, 0), 0.07).item() == pytest.approx(1 / 0.07, rel=1e-3)
    losses = [contrastive(basis[:8], basis[:8], temperature).item() for temperature in (0.07, 0.2, 1.0, 100.0)]
    assert losses == sorted(losses), "a higher temperature makes them less sure"


def test_neither_sensor_counts_more():
    """Two of the one like one of the other: asked from either side it is not the same."""
    one, other = torch.eye(3)[[0, 0, 2]], torch.eye(3)
    logits = one @ other.T / 0.3
    there, back = (cross_entropy(x, torch.arange(3)).item() for x in (logits, logits.T))
    assert abs(there - back) > 0.1
    for pair in ((one, other), (other, one)):
        assert contrastive(*pair, 0.3).item() == pytest.approx((there + back) / 2, rel=1e-5)


SHARES = {
    (0.0, 0.0): {(0, 0): 1.0},
    (6.0, 4.0): {(6, 4): 1.0},
    (2.0, 3.0): {(2, 3): 1.0},
    (2.0, 1.25): {(2, 1): 0.75, (2, 2): 0.25},
    (5.5, 3.5): {(5, 3): 0.25, (6, 3): 0.25, (5, 4): 0.25, (6, 4): 0.25},
    (1.2, 0.3): {(1, 0): 0.56, (2, 0): 0.14, (1, 1): 0.24, (2, 1): 0.06},
}


def test_matching_is_the_cross_entropy_of_the_cells_around_by_their_nearness():
    """x is the column. At the border, too, where there are no four cells around."""
    similarity, total = random(2, 3, CELLS), 0.0
    for scores, shares in zip(similarity.flatten(0, 1), SHARES.values(), strict=True):
        total += sum(share * cross_entropy(scores / 0.07, torch.tensor(index(*c))) for c, share in shares.items())
    places = torch.tensor(list(SHARES)).reshape(2, 3, 2)
    assert matching(similarity, places, SHAPE, 0.07).item() == pytest.approx(total.item() / 6, rel=1e-5)


def test_places_outside_the_map_do_not_count():
    similarity, inside = random(1, 7, CELLS).requires_grad_(), [(0.5, 2.0), (6.0, 3.5)]
    outside = [(-0.1, 2.0), (2.0, -0.1), (6.1, 2.0), (2.0, 4.1), (900.0, 2.0)]
    alone = matching(similarity[:, :2], torch.tensor([inside]), SHAPE, 0.07)
    beside = matching(similarity, torch.tensor([inside + outside]), SHAPE, 0.07)
    assert beside.item() == pytest.approx(alone.item(), rel=1e-6)
    assert alone > 1
    nothing = matching(similarity[:, 2:], torch.tensor([outside]), SHAPE, 0.07)
    nothing.backward()
    assert nothing.item() == 0
    assert (similarity.grad == 0).all()


def hill(x, y, width):
    """(H W) similarities that fall with the distance from a place."""
    rows, cols = torch.meshgrid(torch.arange(SHAPE[0]), torch.arange(SHAPE[1]), indexing="ij")
    return (-((cols - x) ** 2 + (rows - y) ** 2) / (2 * width**2)).flatten()


@pytest.mark.parametrize(
    ("places", "width", "within"),
    [
        ([[(3.0, 2.0), (3.3, 2.0), (3.0, 2.4)], [(2.7, 1.8), (3.45, 2.45), (4.0, 3.0)]], 0.6, 0.03),
        ([[(0.0, 0.0), (6.0, 0.0), (0.0, 4.0), (6.0, 4.0)]], 0.3, 0.01),  # the border, and never beyond
    ],
)
def test_places_are_found_within_the_cell(places, width, within):
    similarity = torch.stack([torch.stack([hill(*xy, width) for xy in row]) for row in places])
    best, xy = dual_encoder.found(similarity, SHAPE, 1.0)
    assert best.tolist() == [[index(round(x), round(y)) for x, y in row] for row in places]
    torch.testing.assert_close(xy, torch.tensor(places), atol=within, rtol=0)


PLACES = torch.tensor([[3.0, 1.0], [0.0, 2.0], [4.0, 0.0]])  # x, y


def maps():
    """Optical maps of 6 x 9 cells, and noisy SAR maps of 4 x 5 that are parts of them, at PLACES."""
    optical = normalize(random(3, 16, 6, 9), dim=1)
    sar = torch.stack([o[:, y : y + 4, x : x + 5] for o, (x, y) in zip(optical, PLACES.int().tolist(), strict=True)])
    return optical, normalize(sar + random(*sar.shape, seed=1) / 2, dim=1)


def test_a_map_is_placed_by_the_mean_similarity_of_its_cells_and_x_is_the_column():
    optical, sar = maps()
    windows = optical.unfold(2, 4, 1).unfold(3, 5, 1)
    surface = (windows * sar[:, :, None, None]).sum(dim=1).mean(dim=(3, 4)).flatten(1)
    expected = cross_entropy(20 * surface, torch.tensor([1 * 5 + 3, 2 * 5 + 0, 0 * 5 + 4]))
    loss, best = placed(optical, sar, PLACES, torch.tensor(20.0))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert best.equal(PLACES.long())


def test_likelihood_is_that_of_two_normal_axes_but_for_a_constant():
    distance, variance = torch.tensor([0.5, 3.0, 1.0]), torch.tensor([1.0, 4.0, 0.25])
    normal = torch.distributions.Normal(0.0, variance.sqrt())
    expected = -(normal.log_prob(distance) + normal.log_prob(torch.zeros(3))).mean() - math.log(2 * math.pi)
    assert dual_encoder.likelihood(distance, variance.log()).item() == pytest.approx(expected.item(), abs=5e-3)


def test_neither_distance_nor_certainty_counts_without_limit():
    ten, more, less = (dual_encoder.likelihood(torch.tensor([d]), torch.zeros(1)).item() for d in (10.0, 1000.0, 9.0))
    assert ten == more > less + 5
    sure, surer = (dual_encoder.likelihood(torch.zeros(1), torch.tensor([v])).item() for v in (-20.0, -80.0))
    assert sure == pytest.approx(surer, abs=1e-4)
    log_variance = torch.tensor([-80.0], requires_grad=True)
    dual_encoder.likelihood(torch.tensor([9.0]), log_variance).backward()
    assert torch.isfinite(log_variance.grad).all()
