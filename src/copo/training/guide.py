"""The parametric head as teacher: what the portrait's face must look like under its factors and camera."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from copo.camera import Camera
from copo.factors import FACTOR_NAMES
from copo.head.classes import class_numbers, grown, is_class, share_of
from copo.head.protocol import HeadModel
from copo.head.renderer import FlowRender, RasterConfig, optical_flow, render_mesh
from copo.head.shading import sh_shading, vertex_normals
from copo.training.config import FaceFrame

FEATURES = class_numbers(
    "brow_left", "brow_right", "eye_left", "eye_right", "nose", "mouth_interior", "lip_upper", "lip_lower"
)
"""Parts of the face whose shape is the expression."""
FACE = (*class_numbers("skin"), *FEATURES)
"""What a head model knows of a portrait's colours and shape."""
SKIN = class_numbers("skin", "nose")
MOUTH = class_numbers("mouth_interior")
LIPS = class_numbers("mouth_interior", "lip_upper", "lip_lower")
OPENING = (*class_numbers("eye_left", "eye_right"), *LIPS)
"""What opens and closes: another surface comes to light there, which no flow carries."""
COVER = class_numbers("hair", "hat", "glasses", "cloth")
"""What may lie before a face."""
CLOTH = class_numbers("cloth")
STILL = class_numbers("background", "neck", "necklace", "cloth", "hair", "hat")
"""What expression and light of the face do not move (paper: background, neck, cloth and hair)."""
HAIR = class_numbers("hair")
UNLIT = class_numbers("background", "cloth", "hair", "hat")
"""What keeps its colours when the light on a head changes; a neck does not."""


@dataclass(frozen=True)
class HeadView:
    """A picture of the head, (B, ., h, w).

    Attributes:
        colour: (B, 3, h, w) RGB in [-1, 1], 0 outside the head.
        labels: (B, h, w) int64 classes.
        depth: (B, 1, h, w) metres along the viewing axis.
        face: (B, 1, h, w) 1 where the face is seen.
        landmarks: (B, 68, 2) as shares of the picture's side.
        facing: (B, 68) 1 for landmarks whose surface turns to the camera.
        landmarks478: (B, 478, 2) likewise, or None where the head has none.
        facing478: (B, 478), or None.
    """

    colour: Tensor
    labels: Tensor
    depth: Tensor
    face: Tensor
    landmarks: Tensor
    facing: Tensor
    landmarks478: Tensor | None
    facing478: Tensor | None


DARKEST = 0.05
"""Shading below which nothing of a surface's colour can be told from a photograph."""
BRIGHTENING = (0.3, 3.0)
"""Ratios of two shadings that are asked of a picture."""
EYES = slice(36, 48)
"""The 68 landmarks' points of both eyes."""
EYE_MARGIN = 0.03
"""How far around them an eye and its lids reach, as a share of the picture's side."""


def around_eyes(view: HeadView) -> Tensor:
    """(B, 1, h, w) 1 on eyes and lids of the face, whether open or closed."""
    size = view.labels.shape[-1]
    centre = (torch.arange(size, device=view.labels.device, dtype=torch.float32) + 0.5) / size
    dx = centre[None, None, :] - view.landmarks[:, EYES, :1]
    dy = centre[None, None, :] - view.landmarks[:, EYES, 1:]
    square = dy.square()[..., :, None] + dx.square()[..., None, :]  # (B, 12, h, w)
    near = (square.amin(1, keepdim=True) < EYE_MARGIN**2).float()
    return near * view.face


LOWER_LIP = 57
"""The 68 landmarks' point at the lower edge of the lower lip."""


def below_mouth(view: HeadView) -> Tensor:
    """(B, 1, h, w) 1 on the face below the lower lip: the chin, wherever an open jaw takes it."""
    size = view.labels.shape[-1]
    centre = (torch.arange(size, device=view.labels.device, dtype=torch.float32) + 0.5) / size
    below = centre[None, :] > view.landmarks[:, LOWER_LIP, 1:]
    return below[:, None, :, None].float() * view.face


BORDER = 2
"""Pixels of the raw picture around eyes, brows, nose and mouth that have labels too."""


def labelled(view: HeadView) -> Tensor:
    """(B, 1, h, w) 1 where the head knows which class a portrait's face has: its features, the skin that borders on
    them (else they would grow over it), eyes whether open or closed, and the chin."""
    features = grown(is_class(view.labels, FEATURES), BORDER) * view.face
    return torch.stack([features, around_eyes(view), below_mouth(view)]).amax(0)


LIP_MARGIN = 1 / 64
"""How far around the lips their surroundings reach, as a share of the picture's side."""


def around_lips(view: HeadView) -> Tensor:
    """(B, 1, h, w) 1 on the mouth, its lips and the face that borders on them."""
    pixels = max(round(LIP_MARGIN * view.labels.shape[-1]), 1)
    return grown(is_class(view.labels, LIPS), pixels) * view.face


IN_FRONT = 0.005
"""Metres by which cloth lies before a face that it covers."""


def covered(view: HeadView, classes: Tensor, depth: Tensor) -> Tensor:
    """Share of a face that something covers: hair, a hat, glasses, and cloth that lies before it. A collar behind the
    chin does not: else an open jaw would stop at it.

    Args:
        view: The head.
        classes: (B, K, h, w) class probabilities of the portrait.
        depth: (B, h, w) of the portrait, metres along the viewing axis.

    Returns:
        (B, 1, h, w), without gradients.
    """
    behind = (depth[:, None] > view.depth - IN_FRONT).float()
    return (share_of(classes, COVER) - behind * share_of(classes, CLOTH)).detach()


class HeadGuide:
    """Draws heads for training.

    Args:
        head: Any head model.
        noise: Length of the noise code in front of the coefficients.
        light_frame: Where light stands still: with the head, or before the camera (the published program).
    """

    def __init__(self, head: HeadModel, noise: int, light_frame: FaceFrame = "world") -> None:
        self.head, self.light_frame = head, light_frame
        names = [n for n in FACTOR_NAMES if n != "noise"]
        self._sizes = [head.spec.sizes[n] for n in names]
        self._scales = [head.spec.normaliser(n) for n in names]
        self.noise = noise
        self._config = RasterConfig(validate=False)

    def parts(self, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, n) normalised -> shape, albedo, expression, illumination in the head model's units."""
        split = coefficients.split(self._sizes, dim=1)
        shape, albedo, expression, light = (p * s for p, s in zip(split, self._scales, strict=True))
        return shape, albedo, expression, light

    @torch.no_grad()
    def view(self, coefficients: Tensor, camera: Camera, size: int) -> HeadView:
        """Draw heads.

        Args:
            coefficients: (B, n) normalised factors without the noise code.
            camera: (B).
            size: Side in pixels.
        """
        shape, albedo, expression, light = self.parts(coefficients)
        topology = self.head.topology
        vertices = self.head.vertices(shape, expression)
        normals = vertex_normals(vertices, topology.faces)
        colour = self.head.albedo(albedo) * sh_shading(self._lit(normals, camera), light)
        drawn = render_mesh(
            vertices, topology.faces, camera, size, attributes={"colour": colour}, labels=topology.labels,
            normals=normals, config=self._config,
        )  # fmt: skip
        assert drawn.labels is not None
        landmarks, facing = _seen(vertices[:, topology.landmarks68], normals[:, topology.landmarks68], camera)
        dense = facing478 = None
        if topology.landmarks478_faces is not None and topology.landmarks478_barycentric is not None:
            corners, weights = topology.faces[topology.landmarks478_faces], topology.landmarks478_barycentric[..., None]
            points, directions = ((values[:, corners] * weights).sum(2) for values in (vertices, normals))
            dense, facing478 = _seen(points, directions, camera)
        return HeadView(
            colour=(drawn.colour.clamp(0, 1) * 2 - 1) * drawn.mask,
            labels=drawn.labels,
            depth=drawn.depth,
            face=is_class(drawn.labels, FACE),
            landmarks=landmarks,
            facing=facing,
            landmarks478=dense,
            facing478=facing478,
        )

    def _lit(self, normals: Tensor, camera: Camera) -> Tensor:
        """Normals in the frame in which light stands still."""
        if self.light_frame == "world":
            return normals
        x, y, z = (normals @ camera.cam2world[:, :3, :3]).unbind(-1)
        return torch.stack([x, -y, -z], dim=-1)

    @torch.no_grad()
    def flow(self, before: Tensor, after: Tensor, camera: Camera, size: int) -> FlowRender:
        """Where each pixel of one head goes in another picture of it.

        Args:
            before: (B, n) normalised coefficients.
            after: (B, n).
            camera: (B), the same for both.
            size: Side in pixels.
        """
        first, second = self.vertices(before), self.vertices(after)
        return optical_flow(first, second, self.head.topology.faces, camera, camera, size, config=self._config)

    @torch.no_grad()
    def brightening(self, before: Tensor, after: Tensor, camera: Camera, size: int) -> tuple[Tensor, Tensor]:
        """By how much another light brightens each pixel of a head.

        Args:
            before: (B, n) normalised coefficients.
            after: (B, n) the same heads under other light.
            camera: (B).
            size: Side in pixels.

        Returns:
            (B, 3, size, size) ratios of the shadings, within `BRIGHTENING`, and (B, 1, size, size) 1 where the head,
            with its ears, neck and scalp, is; ratios are 1 elsewhere.
        """
        vertices, faces = self.vertices(before), self.head.topology.faces
        normals = vertex_normals(vertices, faces)
        lit = self._lit(normals, camera)
        shades = {
            name: sh_shading(lit, self.parts(given)[3]).clamp_min(DARKEST)
            for name, given in (("before", before), ("after", after))
        }
        drawn = render_mesh(vertices, faces, camera, size, attributes=shades, normals=normals, config=self._config)
        there = drawn.mask.float()
        ratio = drawn.attributes["after"] / drawn.attributes["before"].clamp_min(DARKEST)
        return ratio.clamp(*BRIGHTENING) * there + (1 - there), there

    def vertices(self, coefficients: Tensor) -> Tensor:
        """(B, n) normalised -> (B, V, 3) metres."""
        shape, _, expression, _ = self.parts(coefficients)
        return self.head.vertices(shape, expression)


def _seen(points: Tensor, normals: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """(B, N, 3) points and normals -> (B, N, 2) shares of the side, and (B, N) 1 where the surface faces the camera."""
    place, _ = camera.project(points)
    towards = camera.position[:, None] - points
    return place, ((towards * normals).sum(-1) > 0).float()
