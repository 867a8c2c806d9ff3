"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from copo.training import losses


def ramp(*shape: int) -> Tensor:
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


def test_masked_mean_counts_masked_pixels_only() -> None:
    values = torch.tensor([[[[1.0, 2.0]], [[3.0, 100.0]]]])  # two channels: means 2 and 51
    mask = torch.tensor([[[[1.0, 0.0]]]])
    assert losses.masked_mean(values, mask).item() == pytest.approx(2.0)
    assert losses.masked_mean(values, torch.zeros_like(mask)).item() == 0


def test_adversarial_losses_at_known_scores() -> None:
    zero, two = torch.zeros(3, 1), torch.full((3, 1), 2.0)
    assert losses.generator_loss(zero).item() == pytest.approx(math.log(2))
    assert losses.generator_loss(two).item() == pytest.approx(math.log(1 + math.exp(-2)))
    both = math.log(1 + math.exp(-2)) + math.log(2)
    assert losses.discriminator_loss(two, zero).item() == pytest.approx(both)


def test_r1_of_a_linear_score_is_half_its_squared_slope() -> None:
    """score = sum of 3 x over 2 x 4 numbers: the gradient has length^2 8 * 9 = 72."""
    picture = ramp(5, 2, 2, 2).requires_grad_(True)
    slope = torch.tensor(3.0, requires_grad=True)
    penalty = losses.r1_penalty((slope * picture).sum((1, 2, 3))[:, None], picture)
    assert penalty.item() == pytest.approx(36)
    penalty.backward()
    assert slope.grad is not None and slope.grad.item() == pytest.approx(8 * 3)  # d/ds of 0.5 * 8 s^2


def test_colour_distance_is_euclidean() -> None:
    picture = torch.zeros(1, 3, 1, 2)
    render = torch.tensor([3.0, 0.0, 4.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    mask = torch.tensor([[[[1.0, 1.0]]]])
    assert losses.colour_distance(picture, render, mask).item() == pytest.approx(5, abs=1e-4)


def test_skin_distance_sees_a_change_of_hue_at_equal_brightness() -> None:
    """The published program added up the channels, where red +0.3, blue -0.3 would cost nothing."""
    picture = torch.zeros(1, 3, 2, 2)
    render = torch.tensor([0.3, 0.0, -0.3]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    mask = torch.ones(1, 1, 2, 2)
    assert losses.skin_distance(picture, render, mask).item() == pytest.approx(2 * 0.09 / 3)


def test_perceptual_distance_of_orthogonal_and_equal_features() -> None:
    a = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    b = torch.tensor([0.0, 7.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert losses.perceptual_distance([a, a], [b, 3 * a]).item() == pytest.approx((2 + 0) / 2, abs=1e-5)
    left = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    half = torch.cat([a[..., :1], b[..., 1:]], dim=3)  # differs from a on the right only
    assert losses.perceptual_distance([a], [half], left).item() == pytest.approx(0, abs=1e-6)


def test_landmark_distance_with_the_papers_weights() -> None:
    weights = losses.landmark_weights()
    assert weights.tolist() == [200 if 17 <= i <= 26 or i >= 58 else 50 if i == 36 else 1 for i in range(68)]
    found, asked = torch.zeros(2, 68, 2), torch.zeros(2, 68, 2)
    found[0, 36, 0] = 2 / 224  # two pixels off at weight 50, in one of two portraits
    expected = 50 * 4 / (2 * 68 * 224)
    assert losses.landmark_distance(found, asked, weights).item() == pytest.approx(expected, rel=1e-5)
    valid = torch.ones(2, 68)
    valid[0, 36] = 0
    assert losses.landmark_distance(found, asked, weights, valid).item() == 0


def test_dense_distance_in_percent_of_the_side() -> None:
    found, asked = torch.zeros(1, 4, 2), torch.zeros(1, 4, 2)
    asked[0, 0] = torch.tensor([0.02, 0.04])  # mean 3 percent at one of two valid points
    valid = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert losses.dense_distance(found, asked, valid).item() == pytest.approx(1.5)


def test_depth_and_opacity() -> None:
    depth, head = torch.full((1, 2, 2), 1.02), torch.ones(1, 1, 2, 2)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert losses.depth_distance(depth, head, mask).item() == pytest.approx(0.02, abs=1e-6)
    alpha, person = torch.tensor([[[0.25, 1.0]]]), torch.tensor([[[0.0, 1.0]]])
    assert losses.opacity_distance(alpha, person).item() == pytest.approx(0.125)


def test_walls_are_the_volumes_own_background() -> None:
    """Half opaque and all background: half is a wall. Opaque hair, and nothing at all, are none: 0.5 / 3."""
    alpha = torch.tensor([[[0.5, 1.0, 0.0]]])
    classes = torch.tensor([[[[1.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]]])
    assert losses.wall_share(classes, alpha).item() == pytest.approx(0.5 / 3)


def test_cross_entropy_takes_probabilities_as_they_are() -> None:
    """The published program fed probabilities to a loss of logits: a certain right answer still cost 2.1 there."""
    probabilities = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    expected = (math.log(2) + math.log(4)) / 2
    assert losses.class_cross_entropy(probabilities, labels).item() == pytest.approx(expected)
    certain = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert losses.class_cross_entropy(certain, torch.zeros(1, 1, 1, dtype=torch.long)).item() == 0


def test_smoothness_compares_neighbours_by_what_they_hide() -> None:
    """1 cm of density 100 / m lets exp(-1) through; inside matter no difference counts."""
    assert losses.smoothness(torch.zeros(1, 1), torch.full((1, 1), 100.0)).item() == pytest.approx(1 - math.exp(-1))
    assert losses.smoothness(torch.full((1, 1), 5e3), torch.full((1, 1), 9e3)).item() == pytest.approx(0, abs=1e-6)


def test_warp_fetches_from_where_pixels_went() -> None:
    """A picture that moved two pixels to the right is moved back by a flow of (2, 0); what came in is lost."""
    before = ramp(1, 1, 3, 6)
    after = torch.zeros_like(before)
    after[..., 2:] = before[..., :4]
    flow = torch.zeros(1, 2, 3, 6)
    flow[:, 0] = 2
    assert torch.allclose(losses.warp(after, flow)[..., :4], before[..., :4], atol=1e-4)
    visible = torch.zeros(1, 1, 3, 6)
    visible[..., :4] = 1
    assert losses.flow_distance(before, after, flow, visible).item() == pytest.approx(0, abs=1e-4)
    assert losses.flow_distance(before, after, -flow, visible).item() > 1


def test_style_distance_compares_statistics_and_leaves_empty_masks_out() -> None:
    a = torch.tensor([0.0, 2.0, 9.0]).view(1, 1, 1, 3)  # inside the mask: mean 1, deviation 1
    b = torch.tensor([4.0, 4.0, 9.0]).view(1, 1, 1, 3)  # mean 4, deviation 0
    mask = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    value = losses.style_distance([a], [b], mask, mask).item()
    assert value == pytest.approx(9 + (1 - 1e-3) ** 2, abs=2e-3)
    both = losses.style_distance([a.repeat(2, 1, 1, 1)], [b.repeat(2, 1, 1, 1)], mask.repeat(2, 1, 1, 1),
                                 torch.cat([mask, 0 * mask]))  # fmt: skip
    assert both.item() == pytest.approx(value)
    assert losses.style_distance([a], [b], mask, 0 * mask).item() == 0


def test_obstruction_is_the_opacity_of_eleven_centimetres() -> None:
    density = torch.tensor([[[0.0, math.log(2) / 0.11], [1e6, 1e6]]])
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert losses.obstruction(density, mask).item() == pytest.approx(0.25)
    assert losses.obstruction(density, torch.zeros_like(mask)).item() == 0


def test_a_veil_counts_far_from_the_person_only() -> None:
    """One person pixel in the corner of 5 x 5: 3 x 3 are near, 16 of 25 far, of which one has an opacity of 0.8."""
    person, alpha = torch.zeros(1, 5, 5), torch.ones(1, 5, 5)
    person[0, 0, 0] = 1
    alpha[:, 3:] = alpha[:, :, 3:] = 0
    alpha[0, 4, 4] = 0.8
    assert losses.veil(alpha, person).item() == pytest.approx(0.8 / 16)
    assert losses.veil(alpha, torch.ones(1, 5, 5)).item() == 0


def test_background_goes_on_where_it_is_hidden() -> None:
    """Columns 0, 1, 2, 3, the last two hidden: the third is told 0 w(2) + 1 w(1) over w(2) + w(1), the fourth 0 w(3) +
    1 w(2) over w(3) + w(2), with w(d) = exp(-0.5 (d / 0.5)^2), for the reach is an eighth of four pixels."""
    ramp = torch.arange(4.0).expand(1, 1, 2, 4)
    alpha = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 2, 4)
    w = [math.exp(-2.0 * d * d) for d in range(4)]
    third, fourth = w[1] / (w[2] + w[1]), w[2] / (w[3] + w[2])
    wanted = ((2 - third) ** 2 + (3 - fourth) ** 2) / 4
    assert losses.hidden_distance(ramp, alpha).item() == pytest.approx(wanted, rel=1e-4)
    assert losses.hidden_distance(ramp.mT, alpha.mT).item() == pytest.approx(wanted, rel=1e-4)
    assert losses.hidden_distance(ramp, torch.zeros(1, 2, 4)).item() == 0
    assert losses.hidden_distance(ramp, torch.ones(1, 2, 4)).item() == 0  # nothing is seen of it
    flat = torch.full((1, 1, 2, 4), 0.3)
    assert losses.hidden_distance(flat, alpha).item() == pytest.approx(0, abs=1e-10)


def test_what_is_seen_of_a_background_is_not_moved() -> None:
    background = torch.randn(1, 2, 4, 4, requires_grad=True)
    alpha = torch.zeros(1, 4, 4)
    alpha[:, 1:3, 1:3] = 1
    losses.hidden_distance(background, alpha).backward()
    moved = background.grad[0].abs().sum(0) > 0
    assert torch.equal(moved, alpha[0].bool())


def test_skin_gets_brighter_as_the_head_does_and_the_rest_keeps_its_colours() -> None:
    """Grey (0, that is half bright): times 1.5 is 0.5; times 3 is more than white; a pixel beside the head takes what
    is next to it; far away and on hair nothing changes; half hair, half of it."""
    picture = torch.zeros(1, 3, 100, 100)
    ratio, head, unlit = torch.ones(1, 3, 100, 100), torch.zeros(1, 1, 100, 100), torch.zeros(1, 1, 100, 100)
    head[..., 20:60] = 1
    ratio[..., 20:60] = 1.5
    ratio[:, 2, :, 20:60] = 3
    unlit[..., 50:60] = 1
    unlit[..., 48:50] = 0.5
    out = losses.relit(picture, ratio, head, unlit)[0, :, 50]
    assert out[:, 40].tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert out[:, 19].tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert out[:, 55].tolist() == [0, 0, 0] and out[:, 90].tolist() == [0, 0, 0]
    assert out[:, 49].tolist() == pytest.approx([0.25, 0.25, 1.0])


def test_people_are_pushed_apart_up_to_the_margin() -> None:
    """Distances 0.3, 0.4 and 0.5; the third person does not count, then does."""
    x = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.0, 0.4]])
    assert losses.spread(x, torch.tensor([1.0, 1.0, 0.0]), 0.5).item() == pytest.approx(0.04)
    assert losses.spread(x, torch.ones(3), 0.5).item() == pytest.approx((0.04 + 0.01 + 0) / 3)
    assert losses.spread(x, torch.ones(3), 0.2).item() == 0
    same = torch.zeros(2, 2, requires_grad=True)
    losses.spread(same, torch.ones(2), 0.5).backward()
    assert torch.isfinite(same.grad).all()


def test_descriptor_distance() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    assert losses.descriptor_distance(a, b).item() == pytest.approx(0.4)
    assert losses.descriptor_distance(a, b, torch.zeros(len(a))).item() == 0


def test_code_moments_are_small_for_the_right_spread_only() -> None:
    torch.manual_seed(0)
    right = torch.randn(4000, 6) * math.sqrt(0.75)
    assert losses.code_moments(right, 0.75).item() < 5e-3
    assert losses.code_moments(2 * right, 0.75).item() > 1
    assert losses.code_moments(0 * right, 0.75).item() == pytest.approx(0.75**2, rel=0.01)
    assert losses.code_moments(right + 1, 0.75).item() == pytest.approx(1, rel=0.05)


def test_small_batches_of_the_right_spread_cost_nothing_on_average() -> None:
    torch.manual_seed(1)
    values = [losses.code_moments(torch.randn(8, 64) * math.sqrt(0.75), 0.75) for _ in range(50)]
    far = losses.code_moments(torch.randn(8, 64) * 2, 0.75)
    assert torch.stack(values).mean() < 0.1 * far


def test_hinge_by_hand() -> None:
    """Real 2 and 0 cost 0 and 1; generated -2 and 0.5 cost 0 and 1.5; the generator wants high scores."""
    real, made = torch.tensor([[2.0, 0.0]]), torch.tensor([[-2.0, 0.5]])
    assert float(losses.critic_loss(real, made)) == 0.5 + 0.75
    assert float(losses.critic_generator_loss(made)) == 0.75
