"""What keeps the controls while weights change: the changed generator answers edits as the unchanged one does.

A photograph shows one expression from one side. Weights that are tuned to it alone forget what is behind: noses become
flat, and expressions stop moving. So at every comparison one factor is changed at random - expression, light, pose,
identity - and depth, opacity and classes of the changed generator must stay those of the unchanged one; where
expression or light were changed, so must what changed in the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from copo.camera import Camera, about_y, turn_cameras
from copo.factors import Factors
from copo.field.portrait_field import PortraitField, PortraitFrame
from copo.illumination import rotate_illumination
from copo.inversion.config import TuningStage
from copo.training.conditioning import random_expressions
from copo.training.scene import resize

Kind = Literal["expression", "illumination", "pose", "identity"]
KINDS: tuple[Kind, ...] = ("expression", "pose", "illumination", "identity")


@dataclass(frozen=True)
class Edit:
    """One factor changed.

    Attributes:
        kind: Which.
        factors: (1) after the change.
        camera: (1) after the change.
    """

    kind: Kind
    factors: Factors
    camera: Camera


def draw_edit(factors: Factors, camera: Camera, kind: Kind, config: TuningStage, random: torch.Generator) -> Edit:
    """Change one factor of a portrait at random.

    Args:
        factors: (1).
        camera: (1).
        kind: Which factor.
        config: How far.
        random: On the CPU.
    """
    spec = factors.spec
    if kind == "pose":
        turn = (torch.rand(2, generator=random) * 2 - 1) * torch.tensor([config.yaw, config.pitch])
        turn = turn.to(camera.cam2world)
        return Edit(kind, factors, turn_cameras(camera, turn[:1], turn[1:]))
    if kind == "expression":
        drawn = random_expressions(spec, 1, config.units, random)
        return Edit(kind, factors.replace(expression=drawn.to(factors.expression)), camera)
    if kind == "illumination":
        angle = math.pi * (torch.rand(1, generator=random) * 2 - 1)
        light = factors.illumination
        if spec.illumination == 27:
            light = rotate_illumination(light, about_y(angle).to(light))
        return Edit(kind, factors.replace(illumination=light), camera)
    moved = {
        name: getattr(factors, name) + torch.randn(1, spec.sizes[name], generator=random).to(factors.shape)
        for name in ("shape", "albedo")
    }
    return Edit(kind, factors.replace(**moved), camera)


class Controls:
    """Compares a generator that is being changed with the one it was.

    Args:
        before: The unchanged one.
        config: Weights.
    """

    def __init__(self, before: PortraitField, config: TuningStage) -> None:
        self.before, self.config = before, config

    @torch.no_grad()
    def answer(self, factors: Factors, camera: Camera) -> PortraitFrame:
        """What the unchanged generator shows."""
        return self.before.render(self.before.planes(factors.to_vector()), camera)

    def losses(
        self, edit: Edit, old: PortraitFrame, new: PortraitFrame, base_old: Tensor, base_new: Tensor
    ) -> dict[str, Tensor]:
        """How far the changed generator answers otherwise.

        Args:
            edit: What was changed.
            old: (1) the unchanged generator's answer.
            new: (1) the changed generator's.
            base_old: (1, 3, S, S) the unchanged generator's picture before the edit.
            base_new: (1, 3, S, S) the changed generator's.
        """
        c = self.config
        seen = old.alpha
        out = {
            "keep_depth": c.depth * ((new.depth - old.depth).abs() * seen).sum() / seen.sum().clamp_min(1.0),
            "keep_opacity": c.opacity * (new.alpha - old.alpha).abs().mean(),
            "keep_classes": c.classes * (new.classes - old.classes).abs().sum(1).mean(),
        }
        if edit.kind in ("expression", "illumination"):
            out["keep_change"] = c.change * (change(base_new, new) - change(base_old, old)).abs().mean()
        return out


def change(base: Tensor, frame: PortraitFrame) -> Tensor:
    """What an edit changed in the picture, at the size of the volume-rendered one: (1, 3, h, w)."""
    return resize(frame.image - base, frame.raw.shape[-1])


@dataclass(frozen=True)
class Kept:
    """How much of the controls is left, on edits that were not trained on.

    Attributes:
        change: Correlation of what edits of expression and light change in the picture, before and after; 1 is all.
        depth: Mean difference of depth over all edits, millimetres.
    """

    change: float
    depth: float


@torch.no_grad()
def measure(
    before: PortraitField, after: PortraitField, factors: Factors, camera: Camera, config: TuningStage, seed: int,
    rounds: int = 2,
) -> Kept:  # fmt: skip
    """Compare two generators on random edits of one portrait.

    Args:
        before: The unchanged one.
        after: The changed one.
        factors: (1).
        camera: (1).
        config: How far edits go.
        seed: Of the edits.
        rounds: Edits of each kind.
    """
    random = torch.Generator().manual_seed(seed)

    def show(field: PortraitField, edit: Edit) -> PortraitFrame:
        return field.render(field.planes(edit.factors.to_vector()), edit.camera)

    base = Edit("pose", factors, camera)
    old_base, new_base = show(before, base), show(after, base)
    changes: list[tuple[Tensor, Tensor]] = []
    depths = []
    for kind in KINDS * rounds:
        edit = draw_edit(factors, camera, kind, config, random)
        old, new = show(before, edit), show(after, edit)
        weight = old.alpha
        depths.append(float(((new.depth - old.depth).abs() * weight).sum() / weight.sum().clamp_min(1.0)))
        if kind in ("expression", "illumination"):
            changes.append((change(old_base.image, old).flatten(), change(new_base.image, new).flatten()))
    a, b = (torch.cat([pair[i] for pair in changes]) for i in (0, 1))
    same = float((a @ b) / (a.norm() * b.norm()).clamp_min(1e-12))
    return Kept(change=same, depth=1000 * sum(depths) / len(depths))
