"""training.dual_encoder: steps of both phases, what they compare with what, and what validation counts."""

import math

import pytest
import torch
from support.tasks import without_trainer
from torch import nn
from torch.nn.functional import cross_entropy, normalize, pixel_unshuffle

from sn9reg.matchers.dual_encoder.network import CELL, WIDTHS, Encoded
from sn9reg.training import dual_encoder
from sn9reg.training.data import Source
from sn9reg.training.dual_encoder import DualConfig, DualTask, Phase, PhaseOptimiser, _turned
from sn9reg.training.dual_losses import contrastive, matching, placed
from sn9reg.training.sample import Geometry, Sample

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
