"""19-class label maps without a face parser: hair and person masks, the fitted head, and a model of this face's skin.

Who decides, from the strongest: outside of the person is background; eyes, brows and mouth are the fitted head's; the
hair mask wins over the head's skin where the colour is that of this person's hair; the fitted head labels the face;
what is left of the person is skin, ear or neck where it looks like this face's skin and touches it, else a hat above
the brows, else cloth. Specks join what is around them. Glasses and jewellery are not found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2lab

from copo.head.protocol import PARSER_CLASSES

Picture = NDArray[np.uint8]
Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

BACKGROUND, SKIN, NECK, CLOTH, HAIR, HAT = (
    PARSER_CLASSES.index(name) for name in ("background", "skin", "neck", "cloth", "hair", "hat")
)
EAR_LEFT, EAR_RIGHT, NOSE = (PARSER_CLASSES.index(name) for name in ("ear_left", "ear_right", "nose"))
FEATURES = tuple(
    PARSER_CLASSES.index(name)
    for name in ("brow_left", "brow_right", "eye_left", "eye_right", "mouth_interior", "lip_upper", "lip_lower")
)
"""Small parts of the face, which the fitted head knows better than any mask."""


@dataclass(frozen=True)
class LabelConfig:
    """Thresholds of the label maps. Lengths are shares of the side of the picture."""

    hair: float = 0.5
    """Probability from which a pixel is hair."""
    person: float = 0.5
    """Probability from which a pixel is the person."""
    skin_distance: float = 3.0
    """Robust standard deviations within which a colour is this face's skin."""
    hair_distance: float = 2.2
    """Robust standard deviations from this face's skin from which a colour beside the face may be hair."""
    bald: float = 0.3
    """Share of the hair mask beside the face that must have such a colour; below, the head is bald."""
    darkness: float = 2.0
    """Extra tolerance towards darker skin (the shadow of the chin), as a factor on the brightness."""
    ear: float = 0.03
    """How far around the head model's ears skin is taken for an ear."""
    smooth: float = 0.004
    """Radius of the majority filter at borders."""
    speck: float = 0.01
    """Smallest connected patch of one class, as a share of the face; smaller ones join what is around them."""
    hat: float = 0.1
    """Smallest hat, likewise: the edge of a hair-do is not one."""


@dataclass(frozen=True)
class SkinModel:
    """Colours of one face's skin in CIELAB: a robust Gaussian.

    Attributes:
        mean: (3,) median.
        inverse: (3, 3) inverse covariance.
        darkness: Factor by which colours darker than the mean are brought nearer.
        log_volume: Half the logarithm of the covariance's determinant.
    """

    mean: NDArray[np.float64]
    inverse: NDArray[np.float64]
    darkness: float
    log_volume: float

    def distance(self, lab: NDArray[np.floating]) -> NDArray[np.float64]:
        """(..., 3) CIELAB colours -> (...) distances in robust standard deviations."""
        offset = lab - self.mean
        offset[..., 0] = np.where(offset[..., 0] < 0, offset[..., 0] / self.darkness, offset[..., 0])
        return np.sqrt(np.einsum("...i,ij,...j->...", offset, self.inverse, offset).clip(0))


def skin_model(
    lab: NDArray[np.floating], seed: Mask, config: LabelConfig | None = None, darkness: float | None = None
) -> SkinModel | None:
    """Learn a face's skin colours from the pixels that the fitted head calls skin.

    The covariance is that of the half of the pixels nearest to the median, scaled to the whole (a one-step minimum
    covariance estimate), with a floor that a well-lit face would have: beards, glasses and hands do not widen it.

    Args:
        lab: (S, S, 3) CIELAB.
        seed: (S, S) skin of the fitted head without hair.
        config: Thresholds.
        darkness: Instead of the configuration's.

    Returns:
        None where there are too few pixels.
    """
    config = config or LabelConfig()
    pixels = lab[seed].astype(np.float64)
    if len(pixels) < 50:
        return None
    mean = np.median(pixels, axis=0)
    scale = 1.4826 * np.median(np.abs(pixels - mean), axis=0).clip(1.0)
    near = pixels[(((pixels - mean) / scale) ** 2).sum(1) < 4]
    if len(near) >= 50:
        mean = np.median(near, axis=0)
        spread = np.cov((near - mean).T) * 1.8
    else:
        spread = np.diag(scale**2)
    covariance = spread + np.diag([36.0, 4.0, 6.0])
    inverse, log_volume = np.linalg.inv(covariance).astype(np.float64), 0.5 * float(np.linalg.slogdet(covariance)[1])
    return SkinModel(mean, inverse, config.darkness if darkness is None else darkness, log_volume)


def to_lab(picture: Picture) -> NDArray[np.float32]:
    """(S, S, 3) uint8 sRGB -> CIELAB."""
    return rgb2lab(picture.astype(np.float32) / 255).astype(np.float32)


def label_map(
    lab: NDArray[np.floating],
    hair: NDArray[np.floating],
    person: NDArray[np.floating],
    mesh: NDArray[np.integer],
    points68: NDArray[np.floating],
    skin: SkinModel | None,
    config: LabelConfig | None = None,
) -> Labels:
    """Put the label map together.

    Args:
        lab: (S, S, 3) the aligned picture in CIELAB.
        hair: (S, S) probability.
        person: (S, S) probability.
        mesh: (S, S) labels of the fitted head, 0 where it is not.
        points68: (68, 2) landmarks in pixels.
        skin: Colours of this face's skin; None leaves everything outside of the head's face to cloth.
        config: Thresholds.

    Returns:
        (S, S) uint8, classes 0..18.
    """
    config = config or LabelConfig()
    size = mesh.shape[0]
    features, face = np.isin(mesh, FEATURES), np.isin(mesh, (SKIN, NOSE))
    area = float(face.sum())
    is_hair, is_person = _believed(lab, hair >= config.hair, face, skin, config), person >= config.person
    is_person = is_person | is_hair | features | (face & ndimage.binary_erosion(face, iterations=max(size // 64, 1)))
    chin = float(points68[8, 1])
    brows = float(points68[17:27, 1].min())
    tall = max(chin - brows, 1.0)
    rows = np.arange(size)[:, None] + 0.5 + np.zeros((1, size))

    like = skin.distance(lab) <= config.skin_distance if skin is not None else np.zeros_like(is_hair)
    like = _smoothed(like, size)
    out = np.full((size, size), CLOTH, np.uint8)
    above = rows < brows
    out[above] = HAT
    bare = _touching(like & is_person & ~is_hair, face | (mesh == NECK))
    low = (rows > chin) | ((rows > chin - 0.25 * tall) & ~ndimage.binary_dilation(face, iterations=max(size // 128, 1)))
    out[bare & low] = NECK
    out[bare & ~low] = SKIN
    at_ear = np.isin(mesh, (EAR_LEFT, EAR_RIGHT))
    reach = max(round(config.ear * size), 1)
    for ear in (EAR_LEFT, EAR_RIGHT):
        out[bare & ~low & ~_inside(face, size) & ndimage.binary_dilation(mesh == ear, iterations=reach)] = ear
    out[at_ear & like] = mesh[at_ear & like]
    out[face] = mesh[face]
    out[(mesh == NECK) & like] = NECK
    out[is_hair & ~features] = HAIR
    out[features] = mesh[features]
    out[~is_person] = BACKGROUND
    specks = _small(out == HAT, config.hat * area, None) | _small(out == CLOTH, config.speck * area, None)
    specks |= _small(np.isin(out, (SKIN, NECK)) & ~face, config.speck * area, face)
    specks |= (out == CLOTH) & _hanging(out == CLOTH, rows > chin)
    out = _absorbed(out, specks, np.isin(out, (SKIN, NECK, HAIR, HAT, CLOTH, NOSE)) & ~specks)
    return _majority(out, features, max(round(config.smooth * size), 1))


def _believed(lab: NDArray[np.floating], hair: Mask, face: Mask, skin: SkinModel | None, config: LabelConfig) -> Mask:
    """What of a hair mask is hair. Hair masks take stubble, shadows and bald heads for hair, most of all in profiles.

    On the fitted head's face a pixel must look more like this person's hair than like this person's skin; the hair's
    colours are those of the mask beside the face, as far as they are not skin's. Where none are left, the head is bald
    and nothing on the face is hair.
    """
    size, area = len(hair), float(face.sum())
    believed = hair.copy()
    if skin is not None:
        from_skin = replace(skin, darkness=1.0).distance(lab)
        beside = hair & ~face
        unlike = beside & (from_skin > config.hair_distance)
        bald = unlike.sum() < config.bald * beside.sum()
        model = None if bald else skin_model(lab, unlike, config, darkness=1.0)
        if model is None:
            believed &= ~face
        else:
            excess = 0.5 * (from_skin**2 - model.distance(lab) ** 2) + skin.log_volume - model.log_volume
            vote = ndimage.gaussian_filter(excess.clip(-4, 4), max(size / 100, 0.7))
            believed &= ~face | (vote > 0)
    return believed & ~_small(believed, config.speck * area, None)


def _touching(mask: Mask, core: Mask) -> Mask:
    """The connected parts of `mask` that touch `core`."""
    parts, _ = ndimage.label(mask | core, structure=np.ones((3, 3)))
    wanted = np.unique(parts[core])
    return mask & np.isin(parts, wanted[wanted > 0])


def _small(mask: Mask, pixels: float, core: Mask | None) -> Mask:
    """Connected parts of a mask (joined with `core`) that cover fewer pixels than that."""
    parts, count = ndimage.label(mask if core is None else mask | core, structure=np.ones((3, 3)))
    areas = np.bincount(parts.ravel(), minlength=count + 1)
    return mask & (areas[parts] < pixels)


def _hanging(mask: Mask, low: Mask) -> Mask:
    """Connected parts of a mask that do not reach `low`: no cloth hangs in the air beside a face."""
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    return mask & ~np.isin(parts, np.unique(parts[mask & low]))


def _absorbed(labels: Labels, wrong: Mask, source: Mask) -> Labels:
    """Give the pixels of `wrong` the label of the nearest pixel of `source`."""
    if not wrong.any() or not source.any():
        return labels
    nearest = ndimage.distance_transform_edt(~source, return_distances=False, return_indices=True)
    return np.where(wrong, labels[tuple(nearest)], labels).astype(np.uint8)


def _inside(mask: Mask, size: int) -> Mask:
    return ndimage.binary_fill_holes(ndimage.binary_closing(mask, iterations=max(size // 64, 1)))


def _smoothed(mask: Mask, size: int) -> Mask:
    """Majority within a small Gaussian window."""
    return ndimage.gaussian_filter(mask.astype(np.float32), max(size / 200, 0.7)) > 0.5


def _majority(labels: Labels, keep: Mask, radius: int) -> Labels:
    """Replace single pixels by the most frequent class around them; `keep` stays."""
    classes = np.unique(labels)
    votes = np.stack([ndimage.uniform_filter((labels == c).astype(np.float32), 2 * radius + 1) for c in classes])
    return np.where(keep, labels, classes[votes.argmax(0)]).astype(np.uint8)
