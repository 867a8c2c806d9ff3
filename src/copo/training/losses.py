"""The losses as plain functions of tensors. All are means, so that no weight depends on a batch's or picture's size.

A mask of shape (B, 1, H, W) weighs pixels; where it is empty a masked mean is 0. "Class probabilities" are composited
probabilities (B, K, h, w), never logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.head.classes import grown

LANDMARK_SIDE = 224.0
"""Landmark distances are in pixels of a picture of this side (paper)."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, C, H, W) over the channels and over the pixels of all pictures, weighted by (B, 1, H, W)."""
    mask = mask.to(values.dtype)
    return (values.mean(1, keepdim=True) * mask).sum() / mask.sum().clamp_min(1e-6)


# --- adversarial ----------------------------------------------------------------------------------------------------


def generator_loss(score: Tensor) -> Tensor:
    """Non-saturating: mean of log(1 + exp(-score)) over generated scores (B, 1)."""
    return F.softplus(-score.float()).mean()


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Mean of log(1 + exp(-real)) plus mean of log(1 + exp(generated)), scores (B, 1)."""
    return F.softplus(-real.float()).mean() + F.softplus(generated.float()).mean()


def critic_generator_loss(scores: Tensor) -> Tensor:
    """Minus the mean of all scores (B, n) of generated pictures (hinge loss of the generator)."""
    return -scores.float().mean()


def critic_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Hinge: mean of max(0, 1 - real) plus mean of max(0, 1 + generated), scores (B, n)."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + generated.float()).mean()


def r1_penalty(score: Tensor, picture: Tensor) -> Tensor:
    """Half the mean squared length of the scores' gradient in real pictures (Mescheder et al. 2018).

    Args:
        score: (B, 1), made from `picture`.
        picture: (B, C, H, W) that requires a gradient.
    """
    (gradient,) = torch.autograd.grad(score.sum(), picture, create_graph=True)
    return 0.5 * gradient.float().square().sum(dim=(1, 2, 3)).mean()


# --- pictures -------------------------------------------------------------------------------------------------------


def picture_distance(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of (B, C, H, W), over the mask where there is one."""
    difference = (a.float() - b.float()).abs()
    return difference.mean() if mask is None else masked_mean(difference, mask)


def colour_distance(picture: Tensor, render: Tensor, mask: Tensor) -> Tensor:
    """Mean over the mask of the Euclidean distance between colours (paper: imitation).

    Args:
        picture: (B, 3, H, W).
        render: (B, 3, H, W).
        mask: (B, 1, H, W).
    """
    squared = (picture.float() - render.float()).square().sum(1, keepdim=True)
    return masked_mean((squared + 1e-8).sqrt(), mask)


LIGHT_REACH = 0.02
"""How far skin takes its light from, where the head is not: standard deviation as a share of the side."""


def relit(picture: Tensor, ratio: Tensor, head: Tensor, unlit: Tensor) -> Tensor:
    """A picture of the same head, seen from the same place, under other light.

    Args:
        picture: (B, 3, H, W) in [-1, 1].
        ratio: (B, 3, H, W) by how much the head gets brighter.
        head: (B, 1, H, W) 1 where that is known; skin beside it gets the ratio that is next to it.
        unlit: (B, 1, H, W) share of what keeps its colours.

    Returns:
        (B, 3, H, W) in [-1, 1].
    """
    around, found = _carried(ratio.float(), head.float(), LIGHT_REACH)
    factor = torch.where(head > 0, ratio.float(), torch.where(found, around, 1.0))
    factor = unlit + (1 - unlit) * factor
    return ((picture.float().clamp(-1, 1) + 1) * factor - 1).clamp(-1, 1)


def skin_distance(picture: Tensor, render: Tensor, mask: Tensor) -> Tensor:
    """Squared difference of the two mean colours over the mask, for each picture and channel.

    (The published program added up the channels first, which constrains brightness only.)
    """
    mask = mask.float()
    weight = mask.sum(dim=(2, 3)).clamp_min(1e-6)
    mean_a = (picture.float() * mask).sum(dim=(2, 3)) / weight
    mean_b = (render.float() * mask).sum(dim=(2, 3)) / weight
    return (mean_a - mean_b).square().mean()


def perceptual_distance(a: Sequence[Tensor], b: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Mean over maps of the squared distance of features brought to length 1 (Zhang et al. 2018, no learned weights).

    Args:
        a: Feature maps (B, C_i, h_i, w_i).
        b: Likewise.
        mask: (B, 1, H, W), reduced to each map's size.
    """
    total = a[0].new_zeros((), dtype=torch.float32)
    for x, y in zip(a, b, strict=True):
        distance = (F.normalize(x.float(), dim=1) - F.normalize(y.float(), dim=1)).square().sum(1, keepdim=True)
        total = total + (distance.mean() if mask is None else masked_mean(distance, _reduce(mask, distance)))
    return total / len(a)


def descriptor_distance(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of 1 - cosine of descriptors (B, D), weighted by (B,) where given; 0 where all weights are."""
    distance = 1 - F.cosine_similarity(a.float(), b.float(), dim=1)
    return distance.mean() if weight is None else (distance * weight).sum() / weight.sum().clamp_min(1e-6)


def spread(descriptors: Tensor, weight: Tensor, margin: float) -> Tensor:
    """How much nearer than a margin different people are to each other: mean square over their pairs.

    Args:
        descriptors: (B, D) of B different people.
        weight: (B,) 1 where one counts; a pair counts as the product.
        margin: Euclidean distance from which on two are different enough.
    """
    first, second = torch.triu_indices(len(weight), len(weight), 1, device=weight.device)
    x = descriptors.float()
    distance = (x[first] - x[second]).square().sum(1).clamp_min(1e-8).sqrt()
    pair = weight[first] * weight[second]
    return ((margin - distance).clamp_min(0).square() * pair).sum() / pair.sum().clamp_min(1e-6)


# --- the head -------------------------------------------------------------------------------------------------------


def landmark_weights(device: torch.device | None = None) -> Tensor:
    """(68,): 1; brows (17-26) 200; 36: 50; the last ten, the lower lip and the inner mouth: 200 (paper)."""
    index = torch.arange(68, device=device)
    brows, mouth = (index >= 17) & (index <= 26), index >= 58
    return 1.0 + 199.0 * (brows | mouth) + 49.0 * (index == 36)


def landmark_distance(found: Tensor, asked: Tensor, weights: Tensor, valid: Tensor | None = None) -> Tensor:
    """Weighted squared distance of landmarks over batch x 68 x 224 (paper).

    Args:
        found: (B, 68, 2) as shares of the picture's side.
        asked: (B, 68, 2).
        weights: (68,).
        valid: (B, 68) 1 for landmarks that count; by default all.
    """
    squared = ((found - asked).float() * LANDMARK_SIDE).square().sum(-1) * weights
    if valid is not None:
        squared = squared * valid
    return squared.sum() / (found.shape[0] * found.shape[1] * LANDMARK_SIDE)


def dense_distance(found: Tensor, asked: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute difference of landmarks in percent of the picture's side.

    Args:
        found: (B, N, 2) as shares of the side.
        asked: (B, N, 2).
        valid: (B, N) 1 for landmarks that count.
    """
    distance = (found - asked).float().abs().mean(-1) * valid
    return 100 * distance.sum() / valid.sum().clamp_min(1)


def depth_distance(depth: Tensor, head: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of depths (B, h, w), (B, 1, h, w), in metres, over the mask (B, 1, h, w)."""
    return masked_mean((depth.float().unflatten(0, (-1, 1)) - head.float()).abs(), mask)


def opacity_distance(alpha: Tensor, person: Tensor) -> Tensor:
    """Mean absolute difference between opacity (B, h, w) and a mask of the person (B, h, w)."""
    return (alpha.float() - person.float()).abs().mean()


FAR = 2
"""Pixels of the raw picture between a person and what counts as far from it."""


def veil(alpha: Tensor, person: Tensor) -> Tensor:
    """Mean opacity far from the person, where there is air and the background branch.

    Args:
        alpha: (B, h, w) opacity of the volume.
        person: (B, h, w) 1 where the picture shows the person.
    """
    near = grown(person.float()[:, None], FAR)[:, 0]
    return (alpha.float() * (1 - near)).sum() / (1 - near).sum().clamp_min(1)


def wall_share(classes: Tensor, alpha: Tensor) -> Tensor:
    """Mean share of the volume's own matter of class background.

    Args:
        classes: (B, K, h, w) probabilities with what lies behind the volume counted as class 0.
        alpha: (B, h, w) opacity of the volume.
    """
    return (classes[:, 0].float() - (1 - alpha.float())).clamp_min(0).mean()


CLEARANCE = (0.01, 0.12)
"""Metres before the bare face that hold nothing: heads are fitted to a few millimetres, the camera is beyond."""


def obstruction(density: Tensor, mask: Tensor) -> Tensor:
    """Mean opacity that the space before faces would have if it were as dense throughout as at these points.

    Args:
        density: (B, h, w) per metre, each at a random distance within `CLEARANCE` before the face.
        mask: (B, 1, h, w) 1 where the face is seen.
    """
    opacity = 1 - torch.exp(-density.float() * (CLEARANCE[1] - CLEARANCE[0]))
    seen = mask[:, 0].float()
    return (opacity * seen).sum() / seen.sum().clamp_min(1)


HIDDEN_REACH = 0.125
"""Standard deviation of the Gaussian that carries what is seen of a background to where it is hidden, of the side."""


def hidden_distance(background: Tensor, alpha: Tensor) -> Tensor:
    """Mean squared difference between a background that a person hides and what is seen of it round about, which a
    Gaussian carries there (normalised convolution). Smoothness alone left soft ghosts of heads.

    Args:
        background: (B, F, h, w) features of the background branch.
        alpha: (B, h, w) opacity of the volume in front of it; no gradient flows into it, nor into what is seen.
    """
    hidden, values = alpha.detach().float()[:, None].clamp(0, 1), background.float()
    seen = 1 - hidden
    around, found = _carried(values.detach(), seen, HIDDEN_REACH)
    return (hidden * found * (values - around).square()).mean()


def _carried(values: Tensor, known: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """What a Gaussian carries from where values are known (normalised convolution).

    Args:
        values: (B, C, h, w).
        known: (B, 1, h, w) weights.
        reach: Standard deviation, as a share of the side.

    Returns:
        (B, C, h, w), and (B, 1, h, w) where something arrived.
    """
    rows, columns = (_gaussian(n, reach, values.device) for n in values.shape[2:])
    weight = rows @ known @ columns
    return rows @ (values * known) @ columns / weight.clamp_min(1e-6), weight > 1e-6


def _gaussian(count: int, reach: float, device: torch.device) -> Tensor:
    """(n, n) weights between pixels of a line."""
    at = torch.arange(count, dtype=torch.float32, device=device)
    return torch.exp(-0.5 * ((at[:, None] - at) / (reach * count)) ** 2)


# --- semantics ------------------------------------------------------------------------------------------------------


def class_cross_entropy(probabilities: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of -log p(label).

    Args:
        probabilities: (B, K, h, w) composited; numbers below 1e-4 count as that.
        labels: (B, h, w) int64.
        mask: (B, 1, h, w).
    """
    chosen = probabilities.float().gather(1, labels[:, None])
    loss = -chosen.clamp_min(1e-4).log()
    return loss.mean() if mask is None else masked_mean(loss, mask)


def smoothness(density: Tensor, neighbour: Tensor) -> Tensor:
    """Mean absolute difference of the opacities 1 - exp(-density * 1 cm) at neighbouring points.

    Density itself is unbounded: inside a head its differences mean nothing.
    """
    return ((-0.01 * density.float()).exp() - (-0.01 * neighbour.float()).exp()).abs().mean()


# --- pairs ----------------------------------------------------------------------------------------------------------


def warp(picture: Tensor, flow: Tensor) -> Tensor:
    """Fetch what each pixel moved to.

    Args:
        picture: (B, C, H, W) the picture after the motion.
        flow: (B, 2, H, W) pixels, x to the right, y down, from the picture before to the one after.

    Returns:
        (B, C, H, W): at pixel p the colour of `picture` at p + flow(p), bilinear, borders repeated.
    """
    height, width = picture.shape[2:]
    columns = torch.arange(width, device=flow.device, dtype=torch.float32) + 0.5
    rows = torch.arange(height, device=flow.device, dtype=torch.float32) + 0.5
    x = (columns + flow[:, 0].float()) * (2 / width) - 1
    y = (rows[:, None] + flow[:, 1].float()) * (2 / height) - 1
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(picture.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def flow_distance(before: Tensor, after: Tensor, flow: Tensor, visible: Tensor) -> Tensor:
    """Mean absolute difference between a picture and another one moved back to it, where both show the same surface."""
    return picture_distance(before, warp(after, flow), visible)


def style_distance(a: Sequence[Tensor], b: Sequence[Tensor], mask_a: Tensor, mask_b: Tensor) -> Tensor:
    """Squared differences of mean and standard deviation of features inside two masks (paper: mouth interior).

    Pairs where one mask is empty are left out.

    Args:
        a: Feature maps (B, C_i, h_i, w_i).
        b: Likewise.
        mask_a: (B, 1, H, W).
        mask_b: (B, 1, H, W).
    """
    both = ((mask_a.sum(dim=(1, 2, 3)) > 0) & (mask_b.sum(dim=(1, 2, 3)) > 0)).float()
    total = both.new_zeros(())
    for x, y in zip(a, b, strict=True):
        mean_x, spread_x = _statistics(x.float(), mask_a)
        mean_y, spread_y = _statistics(y.float(), mask_b)
        distance = (mean_x - mean_y).square().mean(1) + (spread_x - spread_y).square().mean(1)
        total = total + (distance * both).sum() / both.sum().clamp_min(1)
    return total / len(a)


def _statistics(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C) mean and standard deviation of features inside a mask."""
    weight = _reduce(mask, features)
    total = weight.sum(dim=(2, 3)).clamp_min(1e-6)
    mean = (features * weight).sum(dim=(2, 3)) / total
    variance = ((features - mean[:, :, None, None]).square() * weight).sum(dim=(2, 3)) / total
    return mean, (variance + 1e-6).sqrt()


def _reduce(mask: Tensor, like: Tensor) -> Tensor:
    """(B, 1, H, W) averaged down to the size of feature maps."""
    return F.adaptive_avg_pool2d(mask.float(), (like.shape[2], like.shape[3]))


# --- codes ----------------------------------------------------------------------------------------------------------


def code_moments(codes: Tensor, variance: float) -> Tensor:
    """Distance of a batch's mean from 0, and of its covariance from `variance` times the identity.

    Codes of this spread plus noise of variance 1 - `variance` are like N(0, 1), from which samples are drawn later.
    Both terms are corrected for what they would be for a perfect batch of this size.

    Args:
        codes: (B, n), B > 1.
        variance: Wanted variance of each number.
    """
    batch, size = codes.shape
    mean = codes.mean(0)
    centred = codes - mean
    covariance = centred.T @ centred / (batch - 1)
    wanted = variance * torch.eye(size, device=codes.device, dtype=codes.dtype)
    expected_mean = variance / batch
    expected_covariance = variance * variance * (size + 1) / (batch - 1)
    off_mean = (mean.square().mean() - expected_mean).clamp_min(0)
    off_covariance = ((covariance - wanted).square().sum() / size - expected_covariance).clamp_min(0)
    return off_mean + off_covariance
