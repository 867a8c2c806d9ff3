"""What every parametric head offers. Adding FLAME or ICT-FaceKit means writing one class with these members.

Lengths are metres of the scene: the method's unit sphere has a radius of one metre, a Basel face-model unit is
0.1 (METHOD, "Scales"). The head looks along +z, y is up, +x is the head's left (the right of a frontal picture).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from copo.factors import FactorSpec

PARSER_CLASSES: tuple[str, ...] = (
    "background", "skin", "brow_left", "brow_right", "eye_left", "eye_right", "glasses", "ear_left", "ear_right",
    "earring", "nose", "mouth_interior", "lip_upper", "lip_lower", "neck", "necklace", "cloth", "hair", "hat",
)  # fmt: skip
"""The 19 classes of BiSeNet's face parser, in its order (METHOD section 7)."""


@dataclass(frozen=True)
class HeadTopology:
    """What does not change with the coefficients.

    Attributes:
        faces: (F, 3) int64, counter-clockwise seen from outside.
        uv: (U, 2) float32 in [0, 1], v up, or None where the model has no texture layout.
        uv_faces: (F, 3) int64 into `uv`, or None.
        labels: (V,) int64 in 0..18, index into PARSER_CLASSES.
        landmarks68: (68,) int64 vertex indices, iBUG order.
        landmarks478_faces: (478,) int64 triangle of each MediaPipe landmark, or None.
        landmarks478_barycentric: (478, 3) float32, or None.
    """

    faces: Tensor
    uv: Tensor | None
    uv_faces: Tensor | None
    labels: Tensor
    landmarks68: Tensor
    landmarks478_faces: Tensor | None = None
    landmarks478_barycentric: Tensor | None = None

    def to(self, device: str) -> HeadTopology:
        """The same topology with its tensors on `device`."""
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return HeadTopology(**moved)


@runtime_checkable
class HeadModel(Protocol):
    """A parametric head: coefficients to geometry and albedo. Implementations are `torch.nn.Module`s with buffers."""

    name: str
    spec: FactorSpec
    topology: HeadTopology

    def vertices(self, shape: Tensor, expression: Tensor) -> Tensor:
        """(B, n_shape), (B, n_expression) -> (B, V, 3) vertex positions in scene units. Differentiable."""
        ...

    def albedo(self, albedo: Tensor) -> Tensor:
        """(B, n_albedo) -> (B, V, 3) display-referred RGB, nominally in [0, 1]. Differentiable."""
        ...
