"""Expressions of one head model told in the units of another: ARKit units to a PCA's coefficients and back.

Both heads have the 68 iBUG landmarks. For each frame the coefficients are sought whose landmarks move, from rest, as
those of the other head do; small coefficients are preferred, and the range of the head is kept. What the landmarks do
not show (gaze, tongue, cheeks) stays at rest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from copo.animation.clip import DrivingClip
from copo.factors import FactorSpec
from copo.head.protocol import HeadModel

RIDGE = 0.02
"""Weight of small coefficients, in units of the mean squared motion of a landmark by one coefficient."""
OUTLINE = 0.3
"""Weight of the outline of the face, whose landmarks slide, against brows, eyes, nose and mouth."""
_STEPS = 400


def retarget(clip: DrivingClip, source: HeadModel, target: HeadModel) -> DrivingClip:
    """The clip in the target's units.

    Args:
        clip: Names are the source's.
        source: The head that the clip moves.
        target: The head that shall be moved.

    Raises:
        CopoError: The clip's names are not the source's.
    """
    driven = clip.for_spec(source.spec)
    moves, wanted = landmark_moves(source), landmark_moves(target)
    motion = (driven @ moves.flatten(1)).unflatten(1, (68, 3))
    values = bounded_fit(motion, wanted, target.spec)
    return replace(clip, names=target.spec.expression_names, expression=values.numpy().astype(np.float32))


def landmark_moves(head: HeadModel) -> Tensor:
    """(expression, 68, 3) metres that each coefficient moves the landmarks of the mean head by; on the CPU."""
    spec, chosen = head.spec, head.topology.landmarks68
    device = chosen.device
    units = torch.cat([torch.zeros(1, spec.expression), torch.eye(spec.expression)]).to(device)
    points = []
    with torch.no_grad():
        for row in units:
            points.append(head.vertices(torch.zeros(1, spec.shape, device=device), row[None])[0, chosen])
    stacked = torch.stack(points).float().cpu()
    return stacked[1:] - stacked[:1]


def bounded_fit(motion: Tensor, moves: Tensor, spec: FactorSpec) -> Tensor:
    """(N, 68, 3) landmark motion -> (N, expression) within the range: accelerated projected gradient descent.

    Minimises the weighted squared distance plus a ridge (Beck and Teboulle 2009, without the shrinkage).
    """
    weight = torch.ones(68, 1, dtype=torch.float64)
    weight[:17] = OUTLINE
    basis = (moves.double() * weight).flatten(1)
    wanted = (motion.double() * weight).flatten(1)
    scale = float((basis**2).sum(1).mean()) or 1.0
    gram = basis @ basis.T / scale + RIDGE * torch.eye(len(basis), dtype=torch.float64)
    right = wanted @ basis.T / scale
    step = 1 / float(torch.linalg.eigvalsh(gram)[-1])
    low, high = spec.expression_range
    value = ahead = torch.zeros_like(right)
    momentum = 1.0
    for _ in range(_STEPS):
        following = (ahead - step * (ahead @ gram - right)).clamp(low, high)
        larger = (1 + (1 + 4 * momentum * momentum) ** 0.5) / 2
        ahead = following + (momentum - 1) / larger * (following - value)
        value, momentum = following, larger
    return value.float()
