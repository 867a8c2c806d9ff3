"""The losses, by hand."""

import math

import pytest
import torch

from copo.camera import euler_zyx
from copo.head.open_head import OpenHead
from copo.training.analyser.batch import IGNORE, Batch, WideBatch
from copo.training.analyser.config import LossWeights
from copo.training.analyser.losses import (
    LandmarkGeometry,
    dice,
    finder_losses,
    identity_contrast,
    laplace,
    losses,
    rotation_error,
    wing,
)
from copo.vision.networks.analyser import AnalyserOutput, encode_finder, encode_translation
from copo.vision.portrait_pose import project


def truth() -> tuple[Batch, AnalyserOutput, LandmarkGeometry]:
    """Two heads, and an output that tells exactly what they are."""
    torch.manual_seed(0)
    head = OpenHead.load()
    geometry = LandmarkGeometry.of(head)
    shape, expression = torch.randn(2, 80), torch.rand(2, 52)
    rotation = euler_zyx(torch.tensor([[0.1, 0.5, 0], [0, -0.2, 0.1]]))
    translation = torch.tensor([[0.01, 0.0, 1.1], [0.0, 0.02, 1.2]])
    vertices = head.vertices(shape, expression)
    places = torch.cat([head.landmarks68(vertices), head.landmarks478(vertices)], dim=1)
    points = project(places, rotation, translation)
    labels = torch.randint(0, 19, (2, 32, 32))
    one = torch.ones(2)
    batch = Batch(
        torch.zeros(2, 3, 64, 64), labels, points, torch.ones(2, 546), shape, torch.randn(2, 50), expression,
        expression, torch.randn(2, 27), rotation, translation, one, one, torch.ones(2, 52), torch.tensor([-1, -1]),
    )  # fmt: skip
    logits = 40 * torch.nn.functional.one_hot(labels, 19).permute(0, 3, 1, 2).float()
    output = AnalyserOutput(
        shape, batch.albedo, expression, batch.illumination, rotation, encode_translation(translation),
        torch.zeros(2, 215), points, torch.zeros(2, 546), logits,
    )  # fmt: skip
    return batch, output, geometry


def test_the_truth_costs_nothing() -> None:
    batch, output, geometry = truth()
    terms = losses(output, batch, geometry, LossWeights(), renders=2)
    assert set(terms) >= {"points", "shape", "rotation", "projection", "labels", "dice", "sigma"}
    for name, value in terms.items():
        if name != "sigma":
            assert float(value) == pytest.approx(0, abs=2e-3), name


def test_every_term_notices_its_error() -> None:
    batch, output, geometry = truth()
    changes = {
        "points": {"points": output.points + 0.01}, "shape": {"shape": output.shape + 0.3},
        "albedo": {"albedo": output.albedo + 0.3}, "expression": {"expression": output.expression + 0.1},
        "illumination": {"illumination": output.illumination + 0.1},
        "rotation": {"rotation": output.rotation @ euler_zyx(torch.tensor([[0.0, 0.1, 0.0]]))},
        "translation": {"translation": output.translation + 0.5}, "projection": {"shape": output.shape * 0},
        "labels": {"labels": -output.labels}, "dice": {"labels": -output.labels},
    }  # fmt: skip
    for name, change in changes.items():
        terms = losses(output._replace(**change), batch, geometry, LossWeights(), renders=2)
        assert float(terms[name]) > 0.01, name


def test_labels_that_are_missing_do_not_count() -> None:
    batch, output, geometry = truth()
    nothing = torch.zeros(2)
    blind = Batch(**{
        **vars(batch), "points_weight": torch.zeros(2, 546), "geometry_weight": nothing, "appearance_weight": nothing,
        "expression_weight": torch.zeros(2, 52), "labels": torch.full_like(batch.labels, IGNORE),
    })  # fmt: skip
    wrong = output._replace(shape=output.shape + 1, points=output.points + 0.1, labels=-output.labels)
    terms = losses(wrong, blind, geometry, LossWeights(), renders=0)
    for name, value in terms.items():
        if name == "prior":
            assert float(value) > 0
        else:
            assert float(value) == 0, name


def test_rotation_error_is_the_angle() -> None:
    start = euler_zyx(torch.tensor([[0.3, -0.4, 0.2]]))
    for axis, angle in ((0, 0.2), (1, -1.0), (2, 2.8)):
        angles = torch.zeros(1, 3)
        angles[0, axis] = angle
        error = rotation_error(euler_zyx(angles) @ start, start)[0]
        wanted = torch.zeros(3)
        wanted[axis] = angle
        torch.testing.assert_close(error, wanted, atol=2e-3, rtol=0)
    still = start.clone().requires_grad_()
    rotation_error(still, start).square().sum().backward()
    assert still.grad is not None and torch.isfinite(still.grad).all()


def test_wing_is_continuous_and_steep_near_zero() -> None:
    low, high = wing(torch.tensor([0.02 - 1e-6, 0.02 + 1e-6]))
    assert float(low) == pytest.approx(float(high), abs=1e-5)
    assert float(wing(torch.tensor(0.0))) == 0
    assert float(wing(torch.tensor(0.004))) == pytest.approx(0.02 * math.log(2), rel=1e-4)
    assert float(wing(torch.tensor(1.02)) - wing(torch.tensor(0.02))) == pytest.approx(1.0, rel=1e-4)


def test_the_likelihood_is_best_where_sigma_is_the_error() -> None:
    """E|e| = b for a Laplace density of scale b, whose standard deviation is sqrt(2) b."""
    guesses = torch.linspace(-3, 1, 401)
    best = guesses[laplace(torch.tensor(0.1), guesses).argmin()]
    assert float(best) == pytest.approx(math.log(0.1 * math.sqrt(2)), abs=0.011)
    error = torch.tensor(0.1, requires_grad=True)
    assert not laplace(error, torch.zeros(())).requires_grad  # never an excuse for the error itself


def test_dice_by_hand() -> None:
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    labels[0, 0] = 17  # half hair, half background
    sure = 60 * torch.nn.functional.one_hot(labels, 19).permute(0, 3, 1, 2).float()
    assert float(dice(sure.log_softmax(1), labels)) == pytest.approx(0, abs=1e-6)
    all_hair = torch.zeros(1, 19, 2, 2)
    all_hair[:, 17] = 60
    # hair: 2 * 2 / (4 + 2) = 2/3; background: 0; skin and clothes do not occur
    assert float(dice(all_hair.log_softmax(1), labels)) == pytest.approx(1 - (2 / 3) / 2, abs=1e-5)


def test_identity_contrast() -> None:
    apart = torch.tensor([[0.0, 0], [0.1, 0], [5, 5], [5, 5.1]])
    person = torch.tensor([0, 0, 1, 1])
    near = identity_contrast(apart, person, 0.5)
    mixed = identity_contrast(apart, torch.tensor([0, 1, 0, 1]), 0.5)
    assert float(near) < 0.01 < 10 < float(mixed)
    assert float(identity_contrast(apart, torch.tensor([-1, -1, -1, -1]), 0.5)) == 0
    # three at equal distances, two of them one person: each of the two has its mate among two equals
    corner = torch.eye(3)
    assert float(identity_contrast(corner, torch.tensor([0, 0, 1]), 1.0)) == pytest.approx(math.log(2), rel=1e-4)


def test_finder() -> None:
    square = torch.tensor([[40.0, 24, 64, 0.1], [0, 0, 50, 0]])
    batch = WideBatch(torch.zeros(2, 3, 64, 64), square, torch.tensor([True, False]))
    target = encode_finder(square, 4, 4)
    logit = torch.full((2, 1, 4, 4), -20.0)
    logit[0, 0, 1, 2] = 20  # the cell around (40, 24)
    right = finder_losses(torch.cat([logit, target], dim=1), batch, 1.0)
    assert all(float(v) < 1e-3 for v in right.values())
    missed = finder_losses(torch.cat([-logit.abs(), target + 0.5], dim=1), batch, 1.0)
    assert float(missed["finder_score"]) > 5 and float(missed["finder_square"]) > 1
    false = logit.clone()
    false[1, 0, 0, 0] = 20
    assert float(finder_losses(torch.cat([false, target], dim=1), batch, 1.0)["finder_score"]) > 5
