"""Rendered heads with exact labels: random people, expressions, light and views, in surroundings of photographs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.camera import euler_zyx_angles
from copo.head import classes
from copo.head.open_head import OpenHead
from copo.head.renderer import MeshRender, RasterConfig, render_mesh
from copo.head.shading import sh_shading, vertex_normals
from copo.training.analyser import draw, layers, mirror
from copo.training.analyser.batch import IGNORE, Batch
from copo.training.analyser.chance import Chance
from copo.training.analyser.config import CropConfig, SceneConfig
from copo.training.analyser.degrade import blur
from copo.training.analyser.geometry import Crop, place, warp_grid, warp_pose
from copo.training.analyser.photos import Photos
from copo.vision.portrait_pose import METHOD_FOCAL, as_method_lens, camera_of, project

_FACE = (1, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13)
"""Classes of the rendered head that are drawn into a photograph."""
_NEAREST = 24
"""Photographs among which the lender of hair is drawn, those with the most similar view."""
_CLOSED_MOUTH = 0.15
"""Largest jawOpen of a photograph that a head is drawn into: an open mouth would show below a closed one's chin."""


@dataclass(frozen=True)
class Surroundings:
    """Photographs, cropped like the renders.

    Attributes:
        pictures: (B, 3, S, S) in [0, 1].
        labels: (B, S, S) int64.
    """

    pictures: Tensor
    labels: Tensor


@dataclass(frozen=True)
class _People:
    """What is to be drawn, B of each."""

    shape: Tensor
    albedo: Tensor
    expression: Tensor
    illumination: Tensor
    rotation: Tensor
    translation: Tensor
    focal: Tensor
    person: Tensor


class Scenes:
    """Draws batches."""

    def __init__(
        self,
        head: OpenHead,
        config: SceneConfig,
        crop: CropConfig,
        size: int,
        photos: Photos | None = None,
        panoramas: Tensor | None = None,
        trust: float = 1.0,
    ) -> None:
        """Args:
        head: On the device where pictures are made.
        config: What is rendered.
        crop: How crops stray.
        size: Side of the pictures.
        photos: Of training people; those that were fitted lend surroundings, light and expressions.
        panoramas: (P, 9, 3) light.
        trust: Weight of the expressions.
        """
        self.head, self.config, self.crop, self.size = head, config, crop, size
        self.panoramas, self.trust = panoramas, trust
        usable = None if photos is None else photos[torch.nonzero(photos.fitted)[:, 0]]
        self.photos = usable if usable is not None and len(usable) else None
        if self.photos is not None:
            self._facts, self._yaw = self.photos.facts(), self.photos.yaw
            jaw = head.spec.expression_names.index("jawOpen")
            calm = self.photos.expression[:, jaw] <= _CLOSED_MOUTH
            self.calm = torch.nonzero(calm & (self._yaw.abs().rad2deg() <= config.yaw))[:, 0]

    @torch.no_grad()
    def draw(self, count: int, chance: Chance) -> Batch:
        """A batch of clean pictures with exact labels.

        Args:
            count: Even; pictures 2i and 2i + 1 show one person, where neither is drawn into a photograph.
            chance: Random numbers, on the head's device.
        """
        config = self.config
        crop = draw.crops(count, self.crop, config.roll, chance)
        people = self._strangers(count, crop, chance)
        on_photo = torch.zeros(count, dtype=torch.bool, device=chance.device)
        lender: Surroundings | None = None
        if self.photos is not None:
            on_photo = chance.flag(config.on_photo, count) & bool(len(self.calm))
            people, index, flip = self._guests(people, on_photo, crop, chance)
            lender = surroundings(self.photos, index, flip, crop, self.size)
        vertices = self.head.vertices(people.shape, people.expression)
        render = self._render(vertices, people)
        pictures, labels = self._composed(render, lender, on_photo, people, chance)
        places = torch.cat([self.head.landmarks68(vertices), self.head.landmarks478(vertices)], dim=1)
        points = project(places, people.rotation, people.translation, people.focal)
        pictures, labels = layers.add_glasses(
            pictures, labels, points[:, :68], chance.flag(config.glasses, count), chance
        )
        texture = layers.backdrops(count, self.size, chance)
        if lender is not None:
            texture = torch.where(chance.flag(0.5, count, 1, 1, 1), lender.pictures.roll(1, 0).flip(2), texture)
        covered = chance.flag(config.occluded, count)
        pictures, labels = layers.add_occluder(pictures, labels, covered, texture, chance)
        soft = chance.between(0.3, 0.7, count) * self.size / 256
        ones = pictures.new_ones(count)
        return Batch(
            pictures=blur(pictures.clamp(0, 1) * 2 - 1, soft),
            labels=halved(labels),
            points=points,
            points_weight=inside(points),
            shape=people.shape,
            albedo=people.albedo,
            expression=draw.told_expression(people.expression, self.head.spec.expression_names),
            own_expression=people.expression,
            illumination=people.illumination,
            rotation=people.rotation,
            translation=as_method_lens(people.translation, people.focal / METHOD_FOCAL),
            geometry_weight=ones,
            appearance_weight=ones,
            expression_weight=torch.full_like(people.expression, self.trust),
            person=people.person,
        )

    def _strangers(self, count: int, crop: Crop, chance: Chance) -> _People:
        """People who exist nowhere, in pairs."""
        config, spec = self.config, self.head.spec
        pair = torch.arange(count // 2, device=chance.device).repeat_interleave(2, output_size=count)
        identity = chance.normal(count // 2, 1, spec.shape + spec.albedo).expand(-1, 2, -1).flatten(0, 1)
        shape, albedo = identity.split([spec.shape, spec.albedo], dim=1)
        shape, albedo = config.shape_sigma * shape, config.albedo_sigma * albedo
        expression = draw.expressions(count, spec.expression_names, config, chance)
        light = draw.lights(count, config, chance, self.panoramas)
        if self.photos is not None:
            photo = self._facts[chance.index(len(self.photos), count)]
            jitter = 1 + 0.25 * chance.normal(count, spec.expression)
            own = photo.expression * jitter + 0.05 * chance.unit(count, spec.expression)
            borrowed = chance.flag(config.borrowed_expression, count, 1)
            expression = torch.where(borrowed, own.clamp(0, 1), expression)
            borrowed = chance.flag(config.borrowed_light, count, 1)
            lit = draw.exposed(photo.illumination, torch.exp(0.25 * chance.normal(count)))
            light = torch.where(borrowed, lit, light)
        focal = draw.focals(count, config, chance)
        vertices = self.head.vertices(shape, expression)
        rotation = draw.rotations(count, config, chance)
        rotation, translation = place(self.head.landmarks68(vertices), rotation, crop, focal)
        return _People(shape, albedo, expression, light, rotation, translation, focal, pair)

    def _guests(self, people: _People, on_photo: Tensor, crop: Crop, chance: Chance) -> tuple[_People, Tensor, Tensor]:
        """Give the chosen ones a photograph's shape, skin, light and camera; find a lender of hair for the others.

        Returns:
            The people, (B,) the photograph of each, (B,) bool whether it is mirrored.
        """
        assert self.photos is not None
        photos, count = self.photos, len(on_photo)
        flip = chance.flag(0.5, count)
        yaw = euler_zyx_angles(people.rotation)[:, 1]
        view = torch.where(flip[:, None], -self._yaw, self._yaw)  # (B, N)
        near = (view - yaw[:, None]).abs().topk(min(_NEAREST, len(photos)), dim=1, largest=False).indices
        similar = near.gather(1, chance.index(near.shape[1], count, 1))[:, 0]
        if not len(self.calm):
            return people, similar, flip
        index = torch.where(on_photo, self.calm[chance.index(len(self.calm), count)], similar)
        own = self._facts[index]
        rotation, translation = mirror.mirror_pose(own.rotation, own.translation)
        rotation = torch.where(flip[:, None, None], rotation, own.rotation)
        translation = torch.where(flip[:, None], translation, own.translation)
        rotation, translation = warp_pose(rotation, translation, crop)
        light = torch.where(flip[:, None], mirror.mirror_light(own.illumination), own.illumination)
        bright = torch.exp(0.1 * chance.normal(count, 1))
        spec = self.head.spec
        mine = replace(
            people,
            shape=own.shape + 0.15 * chance.normal(count, spec.shape),
            albedo=own.albedo + 0.2 * chance.normal(count, spec.albedo),
            illumination=light * bright,
            rotation=rotation,
            translation=translation,
            focal=torch.full_like(people.focal, METHOD_FOCAL),
            person=torch.full_like(people.person, -1),
        )
        chosen = {
            name: torch.where(on_photo.view(-1, *([1] * (new.ndim - 1))), new, getattr(people, name))
            for name, new in vars(mine).items()
        }
        return _People(**chosen), index, flip

    def _render(self, vertices: Tensor, people: _People) -> MeshRender:
        topology = self.head.topology
        normals = vertex_normals(vertices, topology.faces)
        colour = self.head.albedo(people.albedo) * sh_shading(normals, people.illumination)
        camera = camera_of(people.rotation, people.translation, people.focal)
        return render_mesh(
            vertices, topology.faces, camera, self.size, {"colour": colour}, topology.labels, normals=normals,
            config=RasterConfig(validate=False),
        )  # fmt: skip

    def _composed(
        self, render: MeshRender, lender: Surroundings | None, on_photo: Tensor, people: _People, chance: Chance
    ) -> tuple[Tensor, Tensor]:
        """Background, head, hair, clothes."""
        assert render.labels is not None
        count, size, config = len(on_photo), self.size, self.config
        drawn = self._skin(render, people, chance)
        background = layers.backdrops(count, size, chance)
        if lender is not None:
            behind = (lender.labels == layers.BACKGROUND).float()[:, None]
            behind = 1 - classes.grown(1 - behind, 2)
            filled = layers.fill_outside(lender.pictures, behind)
            known = (behind.mean((1, 2, 3), keepdim=True) > 0.1) & chance.flag(0.6, count, 1, 1, 1)
            background = torch.where(known, filled.roll(count // 2, 0).flip(3), background)
        # the head alone
        mask = render.mask
        pictures = torch.where(mask, drawn, background)
        labels = render.labels
        hairy = chance.flag(config.drawn_hair, count)[:, None, None]
        grown = layers.grown_hair(render.labels, chance) & hairy
        if lender is not None:
            kept = chance.flag(0.7, count, 1, 1) & on_photo[:, None, None]
            lends = chance.flag(config.borrowed_hair, count)[:, None, None] & ~on_photo[:, None, None]
            grown = grown & ~lends & ~on_photo[:, None, None]
            # into the photograph: its face and neck make room, its hair and clothes stay
            free = ~layers.within(lender.labels, (layers.HAIR, layers.HAT, layers.CLOTH))
            face = layers.within(render.labels, _FACE) & (free | layers.within(render.labels, layers.FEATURES))
            neck = (render.labels == layers.NECK) & layers.within(lender.labels, (1, layers.NECK))
            room = face | neck
            other = chance.flag(0.3, count, 1, 1) & (lender.labels == layers.BACKGROUND)
            base = torch.where(other[:, None] & ~kept[:, None], background, lender.pictures)
            guest = torch.where(room[:, None], drawn, base)
            guest_labels = torch.where(room, render.labels, lender.labels)
            pictures = torch.where(on_photo[:, None, None, None], guest, pictures)
            labels = torch.where(on_photo[:, None, None], guest_labels, labels)
            # hair and clothes of a similar view over the others
            over = (lender.labels == layers.HAIR) & ~layers.within(render.labels, layers.FEATURES)
            over |= (lender.labels == layers.CLOTH) & layers.within(render.labels, (layers.BACKGROUND, layers.CLOTH))
            over &= lends
            pictures = torch.where(over[:, None], lender.pictures, pictures)
            labels = torch.where(over, lender.labels, labels)
        pictures = torch.where(grown[:, None], layers.strands(count, size, chance), pictures)
        return pictures, torch.where(grown, layers.HAIR, labels)

    def _skin(self, render: MeshRender, people: _People, chance: Chance) -> Tensor:
        """The head's colour with fine texture and highlights, which vertex colours do not have."""
        assert render.labels is not None
        count, size, config = len(render.colour), self.size, self.config
        skin = layers.within(render.labels, (1, 7, 8, layers.NOSE, layers.NECK))[:, None]
        grain = chance.normal(count, 1, size, size) + chance.noise(count, 1, size, max(size // 3, 2))
        grain = grain + chance.noise(count, 3, size, max(size // 10, 2))
        colour = render.colour * (1 + skin * config.grain * chance.unit(count, 1, 1, 1) * grain)
        cloth = (render.labels == layers.CLOTH)[:, None]
        colour = torch.where(cloth, layers.backdrops(count, size, chance), colour)
        view = F.normalize(camera_of(people.rotation, people.translation, people.focal).position, dim=1)
        lamp = F.normalize(view + 0.7 * chance.normal(count, 3), dim=1)
        half = F.normalize(view + lamp, dim=1)[:, :, None, None]
        shine = (render.normals * half).sum(1, keepdim=True).clamp_min(0)
        power = 2 ** chance.between(2, 6, count, 1, 1, 1)
        wet = skin | layers.within(render.labels, (4, 5, 12, 13))[:, None]
        return (colour + wet * config.gloss * chance.unit(count, 1, 1, 1).square() * shine.pow(power)).clamp(0, 1)


def surroundings(photos: Photos, index: Tensor, flip: Tensor, crop: Crop, size: int) -> Surroundings:
    """Photographs scaled, turned, shifted and mirrored.

    Args:
        photos: All of them.
        index: (B,) which.
        flip: (B,) bool, mirrored first.
        crop: The change.
        size: Side of the result.
    """
    grid = warp_grid(crop, size)
    outside = (grid.abs() > 1).any(-1)
    side = 1 - 2 * flip.to(grid.dtype)[:, None, None]
    grid = torch.stack([grid[..., 0] * side, grid[..., 1]], dim=-1)
    pictures = photos.pictures[index].float()
    pictures = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False) / 255
    labels = photos.labels[index].float()[:, None]
    nearest = F.grid_sample(labels, grid, mode="nearest", padding_mode="border", align_corners=False)[:, 0].long()
    nearest = torch.where(flip[:, None, None], mirror.on(flip.device, mirror.LABELS)[nearest], nearest)
    known = nearest.masked_fill(outside & (nearest != 0), IGNORE)
    return Surroundings(pictures.clamp(0, 1), known)


def halved(labels: Tensor) -> Tensor:
    """(B, S, S) -> (B, S/2, S/2), one of four."""
    return labels[:, 1::2, 1::2].long()


def inside(points: Tensor) -> Tensor:
    """(B, N, 2) -> (B, N) 1 where a point lies in the picture, where the heat maps can say so."""
    return ((points > 0.01) & (points < 0.99)).all(-1).to(points.dtype)
