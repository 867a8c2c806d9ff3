"""One generator step's portraits, with everything that losses ask about them, computed once and only when asked."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.camera import Camera
from copo.field.planes import sample_planes
from copo.field.portrait_field import PortraitFrame, PortraitPlanes
from copo.field.rays import camera_rays
from copo.head.classes import share_of
from copo.head.renderer import FlowRender
from copo.networks.discriminator import DiscriminatorOutput, dual_picture
from copo.training import losses
from copo.training.conditioning import pose_of
from copo.training.drawing import Painter
from copo.training.guide import UNLIT, HeadGuide, HeadView, covered
from copo.training.perception import Perception, Reading


@dataclass(frozen=True)
class Teachers:
    """What losses compare with.

    Attributes:
        guide: The parametric head.
        perception: Networks that look at portraits.
        dtype: Type of their activations on a GPU.
    """

    guide: HeadGuide
    perception: Perception
    dtype: torch.dtype = torch.float32

    def describe(self, pictures: Tensor, landmarks: Tensor) -> Tensor:
        """(B, 3, H, W) pictures, (B, 68, 2) landmarks as shares of the side -> (B, D) whom they show."""
        recogniser = self.perception.recogniser
        assert recogniser is not None
        crops = recogniser.align(pictures, landmarks.float() * pictures.shape[-1], validate=False)
        with self.looking(pictures):
            return recogniser.describe(crops)

    def looking(self, pictures: Tensor) -> AbstractContextManager[object]:
        """The context in which perception runs."""
        kind = pictures.device.type
        return torch.autocast(kind, self.dtype, enabled=kind == "cuda" and self.dtype != torch.float32)


def resize(pictures: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side), smooth also where it gets smaller."""
    if pictures.shape[-1] == side:
        return pictures
    shrinks = pictures.shape[-1] > side
    return F.interpolate(pictures.float(), (side, side), mode="bilinear", align_corners=False, antialias=shrinks)


@dataclass(frozen=True, eq=False)
class Portraits:
    """Generated portraits and what is known or found of them.

    Attributes:
        z: (B, latent) what the generator was given.
        camera: (B) what they are seen by.
        frame: Their pictures.
        planes: Their fields.
        teachers: What to compare with.
    """

    z: Tensor
    camera: Camera
    frame: PortraitFrame
    planes: PortraitPlanes
    teachers: Teachers

    def __len__(self) -> int:
        return len(self.z)

    def part(self, span: slice) -> Portraits:
        """Some of them."""
        f = self.frame
        frame = PortraitFrame(
            f.image[span], f.raw[span], f.features[span], f.depth[span], f.alpha[span], f.classes[span], None
        )
        return Portraits(self.z[span], self.camera[span], frame, self.planes[span], self.teachers)

    @property
    def coefficients(self) -> Tensor:
        """(B, n) normalised factors without the noise code."""
        return self.z[:, self.teachers.guide.noise :]

    @cached_property
    def view(self) -> HeadView:
        """The head at the size of the raw picture."""
        return self.teachers.guide.view(self.coefficients.detach(), self.camera, self.frame.raw.shape[-1])

    @cached_property
    def full_view(self) -> HeadView:
        """The head at the size of the final picture."""
        return self.teachers.guide.view(self.coefficients.detach(), self.camera, self.frame.image.shape[-1])

    @cached_property
    def hidden(self) -> Tensor:
        """(B, 1, h, w) share of the head's face that something covers, at the size of the raw picture."""
        return covered(self.view, self.frame.classes, self.frame.depth)

    def with_face(self, mask: Tensor) -> Tensor:
        """(B, 3, H, W) the final pictures with the head drawn over them where a mask (B, 1, H, W) says so."""
        return self.frame.image.float() * (1 - mask) + self.full_view.colour * mask

    @cached_property
    def reading(self) -> Reading:
        """What the reader finds in the final pictures."""
        assert self.teachers.perception.reader is not None
        with self.teachers.looking(self.frame.image):
            return self.teachers.perception.reader.read(self.frame.image.float())

    @cached_property
    def perfect_reading(self) -> Reading:
        """What the reader finds where the head is drawn over the bare face of the final pictures; no gradients."""
        reader, full = self.teachers.perception.reader, self.full_view
        assert reader is not None
        with torch.no_grad(), self.teachers.looking(self.frame.image):
            return reader.read(self.with_face(full.face * (1 - resize(self.hidden, full.face.shape[-1]))))

    @cached_property
    def features(self) -> list[Tensor]:
        """Perceptual maps of the final pictures."""
        assert self.teachers.perception.features is not None
        with self.teachers.looking(self.frame.image):
            return self.teachers.perception.features.maps(self.frame.image.float())

    @cached_property
    def parsed(self) -> Tensor:
        """(B, h, w) classes that the parser finds in the final pictures, at the size of the raw ones; no gradients."""
        parser = self.teachers.perception.parser
        assert parser is not None
        with torch.no_grad(), self.teachers.looking(self.frame.image):
            found = parser.probabilities(self.frame.image.float())
            return resize(found, self.frame.classes.shape[-1]).argmax(1)

    @cached_property
    def descriptor(self) -> Tensor:
        """(B, D) whom the final pictures show; aligned by the head's landmarks."""
        return self.describe(self.frame.image.float())

    @cached_property
    def pose(self) -> Tensor:
        """(B, 2) pitch and yaw of the cameras."""
        return pose_of(self.camera)

    @property
    def dual(self) -> Tensor:
        """(B, 6, H, W) what the discriminator sees."""
        return dual_picture(self.frame.raw, self.frame.image)

    def describe(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) of these portraits -> (B, D), aligned by the head's landmarks."""
        return self.teachers.describe(pictures, self.view.landmarks)


@dataclass(frozen=True)
class Photographs:
    """The photographs of a step, on the device.

    Attributes:
        pictures: (B, 3, S, S) in [-1, 1].
        labels: (B, s, s) int64 classes at the raw picture's size, or None.
    """

    pictures: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Sources:
    """Whom the driven portraits show: a photograph for each.

    Attributes:
        pictures: (B, 3, S, S) in [-1, 1].
        coefficients: (B, n) normalised, of the photographs.
        camera: (B) of the photographs.
        own_code: (B, 1) 1 where the portrait has the person's own code, 0 where it has a random one.
    """

    pictures: Tensor
    coefficients: Tensor
    camera: Camera
    own_code: Tensor


@dataclass(frozen=True, eq=False)
class Pair:
    """Two portraits each that differ in one factor, seen from the same place (or one seen from two).

    Attributes:
        kind: Which factor: expression, illumination, identity or pose.
        first: Portraits.
        second: Portraits; without gradients where the first learn from them.
    """

    kind: str
    first: Portraits
    second: Portraits

    def flow(self) -> FlowRender:
        """The head's motion from the first to the second picture, at the final picture's size."""
        guide = self.first.teachers.guide
        side = self.first.frame.image.shape[-1]
        return guide.flow(self.first.coefficients.detach(), self.second.coefficients.detach(), self.first.camera, side)

    @torch.no_grad()
    def relit(self) -> Tensor:
        """(B, 3, H, W) the second picture in the light of the first."""
        a, b, side = self.first, self.second, self.first.frame.image.shape[-1]
        ratio, head = a.teachers.guide.brightening(b.coefficients, a.coefficients, a.camera, side)
        return losses.relit(b.frame.image, ratio, head, resize(share_of(b.frame.classes, UNLIT), side))


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything of one generator step.

    Attributes:
        photographs: Those of the reconstructed portraits, row by row.
        reconstructed: Portraits made from the photographs' own coefficients; may be empty.
        natural: Portraits of factors from the priors; may be empty.
        driven: Portraits beyond the photographs; may be empty.
        imitated: `natural` and `driven` together.
        codes: (B, noise) codes of the reconstructed portraits before noise, or None.
        sources: Photographs of the people in `driven`.
        own_code: (B, 1) 1 where a reconstruction used its photograph's code, 0 where the code was dropped.
        pairs: Contrastive pairs.
        painter: Draws more.
        judged: What the discriminator says of `reconstructed`, `natural` and `driven`, in this order, or None.
        criticised: The critic's scores of `reconstructed` and `natural`, or None.
        ramp: Scalar factor on the generator's adversarial losses.
    """

    photographs: Photographs
    reconstructed: Portraits
    natural: Portraits
    driven: Portraits
    imitated: Portraits
    codes: Tensor | None
    sources: Sources
    own_code: Tensor
    pairs: tuple[Pair, ...]
    painter: Painter
    judged: DiscriminatorOutput | None
    criticised: Tensor | None
    ramp: Tensor

    def densities(self, count: int, distance: float) -> tuple[Tensor, Tensor]:
        """Densities (B, count) at random points of the box of the imitated portraits, and at neighbours of these.

        Args:
            count: Points in each portrait.
            distance: Metres to the neighbour, in a random direction.
        """
        planes, generator = self.imitated.planes.planes, self.painter.generator
        box = generator.config.box
        points = (torch.rand(len(planes), count, 3, device=planes.device) * 2 - 1) * (box - distance)
        steps = F.normalize(torch.randn_like(points), dim=-1) * distance
        features = sample_planes(planes, torch.cat([points, points + steps], dim=1), box)
        first, second = generator.decoder.density(features)[..., 0].split(count, dim=1)
        return first, second

    def clearance(self, made: Portraits, least: float, most: float) -> Tensor:
        """(B, h, w) densities before the head's surface: one on the ray of each pixel, at a random distance from it,
        of which each doubling is as likely: a second face lies close before the first.

        Args:
            made: Portraits of this scene.
            least: Smallest distance towards the camera, metres.
            most: Largest.
        """
        generator, depth = self.painter.generator, made.view.depth
        side = depth.shape[-1]
        rays = camera_rays(made.camera, side, generator.config.pixel_grid)
        away = least * (most / least) ** torch.rand_like(depth)
        along = depth.flatten(1) / rays.axis_share - away.flatten(1)
        points = rays.origins + along[..., None] * rays.directions
        features = sample_planes(made.planes.planes, points, generator.config.box)
        return generator.decoder.density(features)[..., 0].unflatten(1, (side, side))
