"""What the analyser is trained for: plain functions of its output and a batch's labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.constants import constant
from copo.head.open_head import OpenHead
from copo.training.analyser.batch import IGNORE, Batch, WideBatch
from copo.training.analyser.config import LossWeights
from copo.vision.networks.analyser import AnalyserOutput, decode_translation, encode_finder, encode_translation
from copo.vision.portrait_pose import project

MEASURED: dict[str, tuple[int, ...]] = {
    "background": (0,),
    "skin": (1, 10),
    "hair": (17,),
    "neck with clothes": (14, 15, 16),
}
"""Classes whose overlap is measured. BiSeNet's nose is skin too."""
_WING, _WING_CURVE = 0.02, 0.004
"""Width and curvature of the landmark loss, shares of the side (Feng et al. 2018, "Wing loss", scaled)."""


@dataclass(frozen=True)
class LandmarkGeometry:
    """The head's 478 points as a linear function of shape and expression.

    Attributes:
        mean: (478, 3) metres.
        basis: (478, 3, S + E).
        shape_weight: (S,) weight of each shape coefficient's error, of mean 1.
    """

    mean: Tensor
    basis: Tensor
    shape_weight: Tensor

    @classmethod
    def of(cls, head: OpenHead) -> LandmarkGeometry:
        """From a head, on its device."""
        spec, device = head.spec, next(head.buffers()).device
        with torch.no_grad():
            count = spec.shape + spec.expression
            ones = torch.cat([torch.zeros(1, count, device=device), torch.eye(count, device=device)])
            points = head.landmarks478(head.vertices(ones[:, : spec.shape], ones[:, spec.shape :]))
        weight = head.shape_explained.to(device).sqrt()
        return cls(points[0], (points[1:] - points[0]).permute(1, 2, 0).contiguous(), weight / weight.mean())

    def points(self, shape: Tensor, expression: Tensor) -> Tensor:
        """(B, S), (B, E) -> (B, 478, 3) metres."""
        coefficients = torch.cat([shape, expression], dim=1)
        return self.mean + (coefficients @ self.basis.flatten(0, 1).mT).unflatten(1, self.mean.shape)


def losses(
    output: AnalyserOutput, batch: Batch, geometry: LandmarkGeometry, weights: LossWeights, renders: int
) -> dict[str, Tensor]:
    """Weighted terms; their sum is minimised.

    Args:
        output: Of the network for the batch's pictures.
        batch: Labels.
        geometry: The head's landmarks.
        weights: Weights of the terms.
        renders: How many pictures, the first of the batch, are renders.
    """
    known = batch.points_weight.clone()
    known[:renders, 68:] *= weights.points_render
    point_error = (output.points - batch.points).norm(dim=2)
    turn = rotation_error(output.rotation, batch.rotation)
    raw = encode_translation(batch.translation)
    moved = output.translation - raw
    geo, look, mood = batch.geometry_weight, batch.appearance_weight, batch.expression_weight
    shape_error = output.shape - batch.shape
    light_error, skin_error = output.illumination - batch.illumination, output.albedo - batch.albedo
    mood_error = output.expression - batch.expression
    terms = {
        "points": weights.points * _mean(wing(point_error), known),
        "shape": weights.shape * _mean((geometry.shape_weight * shape_error.square()).mean(1), geo),
        "albedo": weights.albedo * _mean(skin_error.square().mean(1), look),
        "illumination": weights.illumination * _mean(light_error.square().mean(1), look),
        "expression": weights.expression * _mean(mood_error.square(), mood),
        "rotation": weights.rotation * _mean(_smooth(turn, 0.05).sum(1), geo),
        "translation": weights.translation * _mean(_smooth(moved, 0.3).mean(1), geo),
    }
    # what was predicted, seen by the predicted camera; photographs' units are MediaPipe's, which do not move the head
    # as the fits do, so that shape and camera must not learn to make up for the difference
    exact = torch.arange(len(geo), device=geo.device) < renders
    moved_by = torch.where((geo > 0)[:, None], batch.own_expression, output.expression.detach())
    moved_by = torch.where(exact[:, None], batch.own_expression + mood_error, moved_by)
    local = geometry.points(output.shape, moved_by)
    seen = project(local, output.rotation, decode_translation(output.translation.clamp(-20, 20)))
    terms["projection"] = weights.projection * _mean(wing((seen - batch.points[:, 68:]).norm(dim=2)), known[:, 68:])
    unheld = (geo == 0).to(geo)
    size = output.shape.square().mean(1) + output.albedo.square().mean(1) + output.illumination.square().mean(1)
    terms["prior"] = weights.prior * (size * unheld).mean()
    logarithms = output.labels.log_softmax(1)
    cross = F.nll_loss(logarithms, batch.labels, ignore_index=IGNORE, reduction="sum")
    terms["labels"] = weights.labels * cross / torch.count_nonzero(batch.labels != IGNORE).clamp_min(1)
    terms["dice"] = weights.dice * dice(logarithms, batch.labels)
    identity = torch.cat([output.shape, output.albedo], dim=1)
    terms["identity"] = weights.identity * identity_contrast(identity, batch.person, weights.identity_temperature)
    errors = [shape_error, skin_error, mood_error, light_error, turn, moved]
    trusts = [geo[:, None], look[:, None], (mood > 0).to(geo), look[:, None], geo[:, None], geo[:, None]]
    held = torch.cat([t.expand_as(e) for t, e in zip(trusts, errors, strict=True)], dim=1)
    terms["sigma"] = weights.sigma * (
        _mean(laplace(torch.cat(errors, dim=1), output.log_sigma), held)
        + _mean(laplace(point_error, output.log_sigma_points), known)
    )
    return terms


def wing(error: Tensor) -> Tensor:
    """Steep near 0, straight far away; error as a share of the side."""
    offset = _WING - _WING * math.log(1 + _WING / _WING_CURVE)
    return torch.where(error < _WING, _WING * torch.log1p(error / _WING_CURVE), error - offset)


def rotation_error(predicted: Tensor, true: Tensor) -> Tensor:
    """(B, 3, 3) twice -> (B, 3) the rotation from the true to the predicted one about the viewer's axes, radians.

    The skew part of R_p R_t^T is sin(angle) axis; the vector is scaled to the angle itself, also beyond 90 degrees.
    """
    between = predicted @ true.mT
    skew = (
        torch.stack(
            [
                between[:, 2, 1] - between[:, 1, 2],
                between[:, 0, 2] - between[:, 2, 0],
                between[:, 1, 0] - between[:, 0, 1],
            ],
            dim=1,
        )
        / 2
    )
    sine = (skew.square().sum(1) + 1e-12).sqrt()
    cosine = (between.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    return skew * (torch.atan2(sine, cosine) / sine)[:, None]


def laplace(error: Tensor, log_sigma: Tensor) -> Tensor:
    """Negative logarithm of a Laplace density with a standard deviation; the error is taken as given.

    Only the standard deviation learns here, so that it never becomes an excuse for an error.
    """
    scale = log_sigma - 0.5 * math.log(2)  # a Laplace density of scale b has a standard deviation of sqrt(2) b
    return error.detach().abs() * torch.exp(-scale) + scale


def dice(logarithms: Tensor, labels: Tensor) -> Tensor:
    """1 - soft overlap, averaged over the groups of `MEASURED` that occur.

    Args:
        logarithms: (B, 19, h, w) of the probabilities.
        labels: (B, h, w) classes or `IGNORE`.
    """
    classes = logarithms.shape[1]
    groups = constant(_memberships(classes), logarithms).view(-1, classes)
    known = labels != IGNORE
    probability = logarithms.exp() * known[:, None]
    given = probability.sum((0, 2, 3))  # of each class
    # of each group, how many pixels have its labels
    mine = constant(_numbers(), logarithms).long()[labels]  # (B, h, w) number of a pixel's group; 4 is none
    member = mine[:, None] == torch.arange(len(groups), device=labels.device)[:, None, None]
    area = member.sum((0, 2, 3)).to(given)
    inside = torch.einsum("gc,bchw->bghw", groups, probability) * member
    overlap = 2 * inside.sum((0, 2, 3)) / (groups @ given + area).clamp_min(1)
    present = (area > 0).to(given)
    return ((1 - overlap) * present).sum() / present.sum().clamp_min(1)


def _memberships(classes: int) -> tuple[float, ...]:
    """Groups times classes, 1 where a class is in a group."""
    return tuple(float(c in members) for members in MEASURED.values() for c in range(classes))


def _numbers() -> tuple[float, ...]:
    """The number of each label's group; as many as there are groups for labels of none."""
    names = list(MEASURED.values())
    return tuple(float(next((n for n, m in enumerate(names) if c in m), len(names))) for c in range(256))


def identity_contrast(coefficients: Tensor, person: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al. 2018) on mean squared distances: pictures of one person are each other's nearest.

    Args:
        coefficients: (B, K).
        person: (B,) int64; -1 does not take part.
        temperature: Divisor of the distances.
    """
    part = person >= 0
    same = (person[:, None] == person) & part[:, None] & part
    itself = torch.eye(len(person), dtype=torch.bool, device=person.device)
    same = same & ~itself
    product = coefficients @ coefficients.mT
    square = coefficients.square().sum(1)
    distance = (square[:, None] + square - 2 * product).clamp_min(0) / coefficients.shape[1]
    logits = (-distance / temperature).masked_fill(itself | ~part, -1e4)
    chosen = torch.logsumexp(logits.masked_fill(~same, -1e4), dim=1)
    has = same.any(1).float()
    return ((torch.logsumexp(logits, dim=1) - chosen) * has).sum() / has.sum().clamp_min(1)


def finder_losses(output: Tensor, batch: WideBatch, weight: float) -> dict[str, Tensor]:
    """Where the face is: focal cross entropy over cells (Lin et al. 2017), smooth L1 of the square.

    Args:
        output: (B, 6, h, w) of `AnalyserNetwork.find`.
        batch: Squares in pixels.
        weight: Of both terms.
    """
    height, width = output.shape[2:]
    target = encode_finder(batch.square, height, width)
    away = (2 * target[:, :2]).norm(dim=1)  # cells
    reach = (batch.square[:, 2] * 0.08 / 16).clamp_min(0.75)[:, None, None]
    inside = (away <= reach) & batch.present[:, None, None]
    close = (away <= 2.5 * reach) & batch.present[:, None, None]
    logit = output[:, 0]
    wanted = inside.float()
    probability = logit.sigmoid()
    miss = torch.where(inside, 1 - probability, probability).square()
    cross = F.binary_cross_entropy_with_logits(logit, wanted, reduction="none") * miss
    counted = (inside | ~close).float()
    score = (cross * counted).sum() / wanted.sum().clamp_min(1)
    error = _smooth(output[:, 1:] - target, 0.1).sum(1)
    return {
        "finder_score": weight * score,
        "finder_square": weight * (error * wanted).sum() / wanted.sum().clamp_min(1),
    }


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over everything; 0 where all weights are. Values of weight 0 may be anything finite."""
    return (values * weight).sum() / torch.count_nonzero(weight).clamp_min(1)


def _smooth(error: Tensor, beta: float) -> Tensor:
    """Smooth L1."""
    return F.smooth_l1_loss(error, torch.zeros_like(error), beta=beta, reduction="none")
