"""Batches of photographs with their teachers' labels, and whole pictures for the finder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.constants import constant
from copo.factors import ARKIT_NAMES
from copo.training.analyser import draw, layers, mirror
from copo.training.analyser.batch import Batch, WideBatch
from copo.training.analyser.chance import Chance
from copo.training.analyser.config import KEY_UNITS, CropConfig, LossWeights
from copo.training.analyser.geometry import Crop, warp_grid, warp_points, warp_pose
from copo.training.analyser.photos import Photos, Wide
from copo.training.analyser.scenes import halved, inside, surroundings
from copo.vision.points import MEDIAPIPE_68
from copo.vision.portrait_pose import ffhq_square

_JAW = 17
"""The first points of the 68, whose two definitions differ."""
_BOTH: Tensor = torch.tensor([*MEDIAPIPE_68, *range(478)])
"""Which of the 478 points stands for each of the 546."""
_EXTREME = 3.0
"""Standard deviations above the mean at which a unit is as rare as it gets."""
_COMMON_SPREAD, _SILENT, _FEW = 0.2, 0.02, 32
"""Standard deviation of a unit of weight 1; below which a unit says nothing; photographs to tell it from."""
_NEW_BACKGROUND = 0.3
"""Share of photographs whose background is replaced."""


class PhotoBatches:
    """Draws photographs, in pairs of one person."""

    def __init__(
        self, photos: Photos, crop: CropConfig, weights: LossWeights, size: int, tilt: float = 15.0, rare: float = 0.0
    ) -> None:
        """Args:
        photos: Of training people, on the device.
        crop: How crops stray.
        weights: Trust in fits.
        size: Side of the pictures.
        tilt: Largest tilt of fine crops in degrees.
        rare: How much more often photographs with an extreme key unit are drawn, less one.
        """
        self.photos, self.crop, self.weights, self.size, self.tilt = photos, crop, weights, size, tilt
        self._facts = photos.facts()
        order = photos.person.argsort(stable=True)
        _, self._person, counts = photos.person.unique(return_inverse=True, return_counts=True)
        self._order, self._count = order, counts
        self._begin = counts.cumsum(0) - counts
        chance = rarities(photos, rare)
        self._any = chance.cumsum(0)
        in_company = chance * (counts[self._person] > 1)
        self._several = in_company.cumsum(0) if float(in_company.sum()) else None
        self._units = unit_weights(photos, weights)

    @torch.no_grad()
    def draw(self, count: int, chance: Chance) -> Batch:
        """Pictures 2i and 2i + 1 show one person where a person with several photographs was drawn.

        Half of the pairs are drawn among people with several photographs.
        """
        first = drawn(self._any, count // 2, chance)
        if self._several is not None:
            other = drawn(self._several, count // 2, chance)
            first = torch.where(chance.flag(0.5, count // 2), other, first)
        person = self._person[first]
        mate = self._order[self._begin[person] + (chance.unit(count // 2) * self._count[person]).long()]
        alone = self._count[person] == 1
        mate = torch.where(alone, chance.index(len(self.photos), count // 2), mate)
        index = torch.stack([first, mate], dim=1).flatten()
        return self.batch(index, chance.flag(0.5, count), draw.crops(count, self.crop, self.tilt, chance), chance)

    @torch.no_grad()
    def batch(self, index: Tensor, flip: Tensor, crop: Crop, chance: Chance | None) -> Batch:
        """Certain photographs, mirrored and cropped; without `chance` the backgrounds stay."""
        own = self._facts[index]
        seen = surroundings(self.photos, index, flip, crop, self.size)
        pictures = seen.pictures
        if chance is not None:
            new = layers.backdrops(len(index), self.size, chance)
            behind = F.avg_pool2d((seen.labels == layers.BACKGROUND).float()[:, None], 3, 1, 1)
            chosen = chance.flag(_NEW_BACKGROUND, len(index)) & own.fitted
            pictures = pictures + behind * chosen[:, None, None, None] * (new - pictures)
        points, marks = photo_points(own, flip, crop)
        turned = mirror.mirror_pose(own.rotation, own.translation)
        rotation = torch.where(flip[:, None, None], turned[0], own.rotation)
        translation = torch.where(flip[:, None], turned[1], own.translation)
        rotation, translation = warp_pose(rotation, translation, crop)
        units = torch.where(own.marked[:, None], own.units, own.expression)
        sides = mirror.on(units.device, mirror.EXPRESSION)
        units = torch.where(flip[:, None], units[:, sides], units)
        fit = own.fitted.float() * self.weights.fit
        return Batch(
            pictures=pictures * 2 - 1,
            labels=halved(seen.labels),
            points=points,
            points_weight=marks * inside(points),
            shape=own.shape,
            albedo=own.albedo,
            expression=units,
            own_expression=torch.where(flip[:, None], own.expression[:, sides], own.expression),
            illumination=torch.where(flip[:, None], mirror.mirror_light(own.illumination), own.illumination),
            rotation=rotation,
            translation=translation,
            geometry_weight=fit,
            appearance_weight=fit,
            expression_weight=(own.marked | own.fitted).float()[:, None] * self._units,
            person=torch.where(own.person >= 0, own.person, -1),
        )


def drawn(cumulative: Tensor, count: int, chance: Chance) -> Tensor:
    """(count,) int64 rows, drawn in proportion to the weights (N,) whose running sums are given."""
    where = chance.unit(count) * cumulative[-1]
    return torch.searchsorted(cumulative, where, right=True).clamp_max(len(cumulative) - 1)


def rarities(photos: Photos, rare: float) -> Tensor:
    """(N,) 1 for a photograph with common expressions, up to 1 + `rare` for one with an extreme key unit."""
    columns = torch.tensor([ARKIT_NAMES.index(u) for units in KEY_UNITS.values() for u in units])
    units = photos.units[:, columns.to(photos.units.device)] * photos.marked[:, None]
    spread = units[photos.marked].std(0) if int(photos.marked.sum()) > 1 else torch.ones_like(units[:1])
    extreme = ((units - units.mean(0)) / spread.clamp_min(0.02) / _EXTREME).clamp(0, 1)
    return 1 + rare * extreme.amax(1).square()


def unit_weights(photos: Photos, weights: LossWeights) -> Tensor:
    """(52,) how much the error of each unit counts in photographs.

    Units that vary little, such as jawOpen, would hardly be learned from squared errors, although their correlation
    counts as much as a smile's. MediaPipe says 0 of some units always, which says nothing about them.
    """
    if int(photos.marked.sum()) < _FEW:
        return torch.full_like(photos.units[0], weights.expression_photo)
    spread = photos.units[photos.marked].std(0)
    factor = (_COMMON_SPREAD / spread.clamp_min(1e-3)).square().clamp(0.5, 8.0)
    factor = torch.where(spread < _SILENT, 0.25, factor)
    key = {name for units in KEY_UNITS.values() for name in units}
    named = torch.tensor([weights.expression_key if name in key else 1.0 for name in ARKIT_NAMES])
    return weights.expression_photo * factor * named.to(factor)


def photo_points(own: Photos, flip: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
    """Landmarks after mirroring and cropping.

    Returns:
        (B, 546, 2) shares of the side, and (B, 546) weights: 0 without teacher, and for iBUG's jaw.
    """
    both = own.points478[:, mirror.on(flip.device, _BOTH)]
    turned = both[:, mirror.on(flip.device, mirror.POINTS)]
    turned = turned * constant((-1.0, 1.0), turned) + constant((1.0, 0.0), turned)
    points = warp_points(torch.where(flip[:, None, None], turned, both), crop)
    return points, own.marked[:, None] * (torch.arange(points.shape[1], device=points.device) >= _JAW).to(points)


class WideBatches:
    """Draws whole pictures: photographs, people cut out and put before backgrounds, and pictures without anybody."""

    EMPTY = 0.12
    """Share without a face."""
    WHOLE = 0.5
    """Share of whole photographs among the others, where there are any."""

    def __init__(self, size: int, wide: Wide | None = None) -> None:
        """Args: size: Side of the pictures. wide: Photographs of training people, on the device."""
        self.size = size
        self.wide = wide if wide is not None and len(wide.pictures) else None

    @torch.no_grad()
    def draw(self, count: int, cutouts: Batch, chance: Chance) -> WideBatch:
        """Pictures for the finder.

        Args:
            count: How many.
            cutouts: At least one aligned picture with labels; people in them are put into new places.
            chance: Random numbers.
        """
        size = self.size
        source = chance.index(len(cutouts), count)
        chosen = cutouts[source]
        centre, side, angle = ffhq_square(chosen.points[:, :68])
        # the person's square gets a side of 0.18 to 1.6 pictures, its centre a place in the picture
        wanted = torch.exp(chance.between(math.log(0.18), math.log(1.6), count))
        turn = 0.2 * chance.normal(count)
        scale = wanted / side.clamp_min(0.1)
        c, s = turn.cos() * scale, turn.sin() * scale
        x, y = (centre - 0.5).unbind(1)
        place = chance.between(0.15, 0.85, count, 2)
        shift = place - 0.5 - torch.stack([c * x - s * y, s * x + c * y], dim=1)
        crop = Crop(scale, shift, turn)
        grid = warp_grid(crop, size)
        known = chosen.labels != layers.BACKGROUND
        person = F.avg_pool2d(known.float()[:, None], 3, 1, 1)
        person = F.grid_sample(person, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        # shoulders go on below the aligned picture
        person = person * ((grid.abs() <= 1).all(-1)[:, None])
        pasted = F.grid_sample(chosen.pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
        background = layers.backdrops(count, size, chance) * 2 - 1
        pictures = background + person * (pasted - background)
        square = torch.cat([place, wanted[:, None], (angle + turn)[:, None]], dim=1)
        if self.wide is not None:
            pictures, square = self._with_photographs(pictures, square, chance)
        empty = chance.flag(self.EMPTY, count)
        pictures = torch.where(empty[:, None, None, None], background, pictures)
        middle = square[:, :2]
        present = ~empty & ((middle > 0.02) & (middle < 0.98)).all(1)
        hidden = ~empty & ~present  # a face whose middle is cut off is neither
        pictures = torch.where(hidden[:, None, None, None], background, pictures)
        return WideBatch(pictures, square * constant((size, size, size, 1.0), square), present)

    def _with_photographs(self, pictures: Tensor, square: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
        assert self.wide is not None
        count = len(pictures)
        index, flip = chance.index(len(self.wide.pictures), count), chance.flag(0.5, count)
        photo = self.wide.pictures[index].float() / 127.5 - 1
        photo = torch.where(flip[:, None, None, None], photo.flip(3), photo)
        x, y, side, angle = self.wide.square[index].unbind(1)
        x, angle = torch.where(flip, 1 - x, x), torch.where(flip, -angle, angle)
        crop = Crop(
            torch.exp(chance.between(-0.7, 0.5, count)), 0.12 * chance.normal(count, 2), 0.15 * chance.normal(count)
        )
        grid = warp_grid(crop, self.size)
        seen = F.grid_sample(photo, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        around = (grid.abs() > 1).any(-1)[:, None] & chance.flag(0.5, count, 1, 1, 1)
        seen = torch.where(around, layers.backdrops(count, self.size, chance) * 2 - 1, seen)
        place = warp_points(torch.stack([x, y], dim=1)[:, None], crop)[:, 0]
        changed = torch.cat([place, (side * crop.scale)[:, None], (angle + crop.angle)[:, None]], dim=1)
        chosen = chance.flag(self.WHOLE, count)
        return torch.where(chosen[:, None, None, None], seen, pictures), torch.where(chosen[:, None], changed, square)
