"""Joint refinement on the pixels: shape, expression, camera, albedo and light by the differentiable renderer."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.head.protocol import PARSER_CLASSES, HeadModel
from copo.head.renderer import RasterConfig, render_head
from copo.vision.fitting.appearance import FACE_CLASSES, Appearance
from copo.vision.fitting.config import FittingConfig
from copo.vision.fitting.geometry import Pose, Targets, exponential, landmark_cost
from copo.vision.fitting.landmark_model import LandmarkModel
from copo.vision.fitting.observation import Windows

_SCALES = {"turn": 0.01, "shift": 0.002, "shape": 0.3, "expression": 0.1, "albedo": 0.3, "light": 0.05}
"""What a unit of each optimised parameter is: radians, metres, coefficients."""


def refine(
    head: HeadModel, pose: Pose, look: Appearance, pictures: Tensor, windows: Windows, member: Tensor,
    targets: Targets, marked: list[int], model: LandmarkModel, config: FittingConfig,
) -> tuple[Pose, Appearance]:  # fmt: skip
    """Lower the sum of landmark cost, priors and robust colour difference by Adam.

    Args:
        head: The head model.
        pose: Start.
        look: Start.
        pictures: (B, 5, s, s) windows from `window_pictures`.
        windows: Of the photographs.
        member: (B, P) 1 where a photograph shows a person.
        targets: Landmarks of the photographs that have them.
        marked: Which photographs those are.
        model: Their landmark model.
        config: All weights.
    """
    own = config.refine
    image = F.interpolate(pictures, size=(own.size, own.size), mode="bilinear", antialias=True, align_corners=False)
    colour, open_skin = image[:, :3], (1 - image[:, 3:4]).clamp(0, 1) * (image[:, 4:] > 0.99)
    starts = {
        "turn": torch.zeros_like(pose.translation), "shift": torch.zeros_like(pose.translation), "shape": pose.shape,
        "expression": pose.expression, "albedo": look.albedo, "light": look.illumination,
    }  # fmt: skip
    person = member.argmax(1)
    faces = torch.tensor([PARSER_CLASSES.index(name) for name in FACE_CLASSES], device=image.device)
    with torch.enable_grad():
        moves = {name: torch.zeros_like(value, requires_grad=True) for name, value in starts.items()}
        optimiser = torch.optim.Adam(moves.values(), lr=own.rate * 5)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, own.steps)
        for _ in range(own.steps):
            now = {name: starts[name] + _SCALES[name] * moves[name] for name in starts}
            posed, drawn, inside = _draw(head, pose, now, person, windows, own.size, faces)
            error = ((drawn - colour) / own.photo_sigma).square().mean(1, keepdim=True)
            robust = error / (1 + error / 4)
            seen = inside * open_skin
            photo = (robust * seen).sum((1, 2, 3)) / seen.sum((1, 2, 3)).clamp_min(1) * own.photo_weight / 2
            prior = (now["shape"] / config.geometry.shape_sigma).square().sum() / 2
            prior = prior + (now["albedo"] / config.appearance.albedo_sigma).square().sum() / 2
            light = ((now["light"] - look.illumination) / 0.1).square().sum() / 2
            loss = photo.sum() + prior + light + landmark_cost(posed, targets, model, config.geometry, marked)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        now = {name: starts[name] + _SCALES[name] * moves[name] for name in starts}
        posed, drawn, inside = _draw(head, pose, now, person, windows, own.size, faces)
        seen = inside * open_skin
        error = (drawn - colour).square().mean(1, keepdim=True)
        keep = seen / (1 + error / own.photo_sigma**2).square()
        residual = ((keep * error).sum((1, 2, 3)) / keep.sum((1, 2, 3)).clamp_min(1e-6)).sqrt()
    return posed, replace(look, albedo=now["albedo"], illumination=now["light"], residual=residual)


def _draw(
    head: HeadModel, pose: Pose, now: dict[str, Tensor], person: Tensor, windows: Windows, size: int, faces: Tensor
) -> tuple[Pose, Tensor, Tensor]:
    """The posed unknowns, (B, 3, s, s) the drawing, (B, 1, s, s) where it shows the face."""
    posed = Pose(
        rotation=exponential(now["turn"]) @ pose.rotation,
        translation=pose.translation + now["shift"],
        expression=now["expression"].clamp(0, 1),
        shape=now["shape"],
    )
    camera = windows.camera(posed.cam2world())
    drawn = render_head(
        head, posed.shape[person], posed.expression, now["albedo"][person], now["light"], camera, size,
        config=RasterConfig(validate=False),
    )  # fmt: skip
    assert drawn.labels is not None
    return posed, drawn.colour, torch.isin(drawn.labels, faces)[:, None].to(drawn.colour.dtype)
