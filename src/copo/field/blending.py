"""Volume blending: hair, background or any other classes are held still by taking them from a static field.

The paper keeps two fields, that of a reference frame and that of the current one, and replaces the current field's
features and density where the reference's most likely class is to be held (section 3.4; `Blend.published`). Here
  - the decision can be soft: a smooth weight of the reference's class probabilities, so that borders hold still;
  - fine samples are placed by the blended density, so both fields have their say in them;
  - a ray that meets static matter only is taken from the reference picture, which is rendered once per camera;
  - the current field is only decoded at the samples that show it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from copo.errors import CopoError, unknown_name
from copo.field.volume import Heads, Probe, TriPlaneField
from copo.head.protocol import PARSER_CLASSES

BACKGROUND, HAIR = PARSER_CLASSES.index("background"), PARSER_CLASSES.index("hair")

BLEND_MODES: dict[str, frozenset[int]] = {
    "none": frozenset(),
    "background": frozenset({BACKGROUND}),
    "hair": frozenset({HAIR}),
    "both": frozenset({BACKGROUND, HAIR}),
}
"""The paper's modes and the classes that each holds still."""
_UNMOVED = ("hat", "cloth", "necklace", "ear_left", "ear_right", "earring")
ALL_MODES = BLEND_MODES | {"still": BLEND_MODES["both"] | frozenset(map(PARSER_CLASSES.index, _UNMOVED))}
"""The paper's, and "still" (ours): all that a face does not move. An open mouth moves the neck, so it is not in it."""


@dataclass(frozen=True)
class Blend:
    """How two fields become one.

    Attributes:
        classes: Indices into PARSER_CLASSES of what is taken from the static field; empty for no blending.
        mode: "hard": where the most likely static class is one of `classes` (paper). "soft": with a weight that rises
            smoothly with their summed probability p, 0 below 1/2 - softness/2 and 1 above 1/2 + softness/2.
        softness: Width of that rise, in (0, 1].
        proposals: Which density places the fine samples: the "blended" one, or that of the "dynamic" field (paper).
        labels: Whose class probabilities are shown: the "blended" field's, or always the "dynamic" field's (paper).
        styles: Whose w modulates the super-resolution: the "static" frame's, so that its output stays still too, or
            the "dynamic" frame's (paper).
    """

    classes: frozenset[int]
    mode: Literal["hard", "soft"] = "hard"
    softness: float = 0.5
    proposals: Literal["blended", "dynamic"] = "blended"
    labels: Literal["blended", "dynamic"] = "blended"
    styles: Literal["static", "dynamic"] = "static"

    def __post_init__(self) -> None:
        for index in self.classes:
            if not 0 <= index < len(PARSER_CLASSES):
                raise CopoError(f"blend class {index} does not exist: give numbers from 0 to {len(PARSER_CLASSES) - 1}")
        if self.mode not in ("hard", "soft"):
            raise unknown_name("blend mode", self.mode, ["hard", "soft"])
        if not 0 < self.softness <= 1:
            raise CopoError(f"blend softness {self.softness:g} is out of range: give a value above 0, at most 1")

    @classmethod
    def of(
        cls, names: str | Iterable[str | int], mode: Literal["hard", "soft"] = "hard", softness: float = 0.5
    ) -> Self:
        """From a mode's name ("none", "background", "hair", "both", "still") or class names ("hair,cloth" or a list).

        Raises:
            CopoError: A name is neither a mode nor a class (the nearest is suggested).
        """
        if isinstance(names, str):
            names = [part.strip() for part in names.split(",") if part.strip()]
        classes: set[int] = set()
        for name in names:
            if isinstance(name, int):
                classes.add(name)
            elif name in ALL_MODES and name not in PARSER_CLASSES:
                classes |= ALL_MODES[name]
            elif name in PARSER_CLASSES:
                classes.add(PARSER_CLASSES.index(name))
            else:
                raise unknown_name("blend class", name, [*ALL_MODES, *PARSER_CLASSES])
        return cls(frozenset(classes), mode, softness)

    @classmethod
    def published(cls, name: str) -> Self:
        """One of the paper's modes with all of the published program's conventions."""
        if name not in BLEND_MODES:
            raise unknown_name("blend mode", name, BLEND_MODES)
        return cls(BLEND_MODES[name], proposals="dynamic", labels="dynamic", styles="dynamic")

    @property
    def shares_rays(self) -> bool:
        """Whether a ray that meets static matter only is that of the reference picture in every respect."""
        return self.proposals == "blended" and self.labels == "blended"

    def share(self, logits: Tensor) -> Tensor:
        """(..., K) class logits of the static field -> (...) in [0, 1], how far a point belongs to it."""
        members = sorted(self.classes)
        if self.mode == "hard":
            member = torch.zeros(logits.shape[-1], dtype=logits.dtype, device=logits.device)
            member[members] = 1
            return member[logits.argmax(-1)]
        rise = (logits.softmax(-1)[..., members].sum(-1) - 0.5) / self.softness + 0.5
        rise = rise.clamp(0, 1)
        return rise * rise * (3 - 2 * rise)


class StaticField:
    """The reference field, which also says how far each point belongs to it."""

    def __init__(self, field: TriPlaneField, blend: Blend) -> None:
        self.field, self.blend, self.heads = field, blend, field.heads
        self.box, self.texel = field.box, field.texel

    def probe(self, points: Tensor) -> Probe:
        """See `Field`."""
        probe = self.field.probe(points)
        share = self.blend.share(self.heads.class_logits(probe.hidden))
        return Probe(probe.density, probe.hidden, probe.hidden, probe.density, share)

    def __getitem__(self, index: slice) -> StaticField:
        """A part of the batch."""
        return StaticField(self.field[index], self.blend)


class BlendedField:
    """The static field where it shall be seen, the dynamic field elsewhere.

    Where a point belongs to both (soft mode) it holds a mixture of two media: densities are mixed by the share, and
    what they show by the share of the density that each contributes.
    """

    def __init__(self, static: StaticField, dynamic: TriPlaneField) -> None:
        self.static, self.dynamic, self.blend = static, dynamic, static.blend
        self.heads: Heads = dynamic.heads
        self.box, self.texel = dynamic.box, dynamic.texel

    def __getitem__(self, index: slice) -> BlendedField:
        """A part of the batch."""
        return BlendedField(self.static[index], self.dynamic[index])

    def probe(self, points: Tensor) -> Probe:
        """See `Field`."""
        still = self.static.probe(points)
        share = still.static_share
        assert share is not None
        if points.shape[0] == 1 and self.blend.shares_rays and not torch.is_grad_enabled():
            # Decode the dynamic field only where it shows; the static probe's own memory takes the result.
            seen = torch.nonzero(share[0] < 1)[:, 0]
            moving = self.dynamic.probe(points[:, seen])
            density, hidden = _mix(still.density[:, seen], still.hidden[:, seen], moving, share[:, seen])
            density, hidden = still.density.index_copy_(1, seen, density), still.hidden.index_copy_(1, seen, hidden)
            return Probe(density, hidden, hidden, density, share)
        moving = self.dynamic.probe(points)
        density, hidden = _mix(still.density, still.hidden, moving, share)
        label_hidden = moving.hidden if self.blend.labels == "dynamic" else hidden
        proposal = moving.density if self.blend.proposals == "dynamic" else density
        return Probe(density, hidden, label_hidden, proposal, share)


def _mix(density: Tensor, hidden: Tensor, moving: Probe, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mixture of two media. A share of 0 or 1 returns one of them exactly: `lerp` is exact at its ends."""
    part = share * density
    mixed = torch.lerp(moving.density, density, share)
    weight = torch.where((share == 0) | (share == 1), share, part / mixed.clamp_min(1e-12))
    return mixed, torch.lerp(moving.hidden, hidden, weight[..., None])
