"""Procedural skin: a mean and named components of human colour, until one is learned from photographs.

Colours are kept as the logarithm of optical density, L = log(-log(albedo)), of the display-referred sRGB value.
Pigments act on density (Beer-Lambert), people spread about evenly in its logarithm, and albedo = exp(-exp(L)) stays
within (0, 1) for every coefficient. So albedo(c) = exp(-exp(mean + sum_k c_k component_k)) with c ~ N(0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from .mesh import IRIS_ANGLE, PUPIL_ANGLE
from .occlusion import occlusion, vertex_normals
from .regions import HAIRLINE, JAWLINE, Regions, brow_coordinates, soft_step
from .source import Floats, Ints

SKIN = (0.765, 0.605, 0.51)  # the mean skin, sRGB
TONE = (0.40, 0.33, 0.29)  # one standard deviation of melanin, in L
HAIR = (0.215, 0.165, 0.135)
HAIR_TONE = (0.17, 0.15, 0.12)  # darker hair
HAIR_WARM = (-0.075, 0.0, 0.065)
LIP_SHIFT = (0.42, 0.46, 0.27)
SCLERA = (0.80, 0.765, 0.74)
IRIS_SHIFT = (0.13, 0.26, 0.37)  # darker, browner
TEETH = (0.80, 0.755, 0.665)
GUM = (0.62, 0.33, 0.32)
TONGUE = (0.60, 0.375, 0.37)
MOUTH = (0.30, 0.115, 0.11)
CLOTH = (0.36, 0.39, 0.44)
TEETH_WIDTHS = (0.082, 0.066, 0.075, 0.070, 0.068, 0.09, 0.09)  # dm along the arch, from the middle


def link(colour: tuple[float, float, float] | Floats) -> Floats:
    """sRGB in (0, 1) to the logarithm of optical density."""
    return np.log(-np.log(np.asarray(colour, dtype=np.float64)))


def unlink(value: Floats) -> Floats:
    return np.exp(-np.exp(value))


@dataclass(frozen=True)
class AlbedoSpace:
    """Mean (V, 3), components (K, V, 3) and their names, in L."""

    mean: Floats
    components: Floats
    names: tuple[str, ...]


class _Painter:
    """Soft shapes on the surface, in the symmetric coordinates of the base mesh."""

    def __init__(self, regions: Regions, faces: Ints, seed: int) -> None:
        self.r, self.p = regions, regions.position
        self.x, self.y, self.z = np.abs(self.p[:, 0]), self.p[:, 1], self.p[:, 2]
        self.body = (regions.part == "body").astype(float)
        self.rng = np.random.default_rng(seed)
        n = len(self.p)
        edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        graph = sp.csr_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
        graph = ((graph + graph.T) > 0).astype(float)
        self._smooth = sp.diags(1 / np.maximum(np.asarray(graph.sum(1)).ravel(), 1)) @ graph

    def blur(self, value: Floats, times: int) -> Floats:
        for _ in range(times):
            value = 0.5 * value + 0.5 * (self._smooth @ value)
        return value

    def spot(self, x: float, y: float, rx: float, ry: float, z: float = 0.6) -> Floats:
        """A Gaussian blob on both sides of the face, in front of depth z."""
        shape = np.exp(-0.5 * (((self.x - x) / rx) ** 2 + ((self.y - y) / ry) ** 2))
        return shape * soft_step(self.z, z, 0.2) * self.body

    def noise(self, times: int, symmetric: bool = False) -> Floats:
        """Blurred white noise over the vertices, unit variance on the body."""
        value = self.blur(self.rng.standard_normal(len(self.p)), times)
        return value / value[self.body > 0].std() * self.body

    def waves(self, wavelength: float) -> Floats:
        """Smooth random field in space, unit variance, independent of the mesh's density."""
        k = self.rng.standard_normal((48, 3)) * 2 * np.pi / wavelength
        phase = self.rng.uniform(0, 2 * np.pi, 48)
        return np.cos(self.p @ k.T + phase).sum(1) / np.sqrt(24)


def _teeth(regions: Regions) -> tuple[Floats, Floats]:
    """How much a dental vertex is gum, and how dark it lies (gaps between teeth, depth)."""
    p = regions.position
    gum, dark = np.zeros(len(p)), np.zeros(len(p))
    for name, towards in (("upper_teeth", 1.0), ("lower_teeth", -1.0)):
        on = regions.part == name
        q = p[on]
        x = np.abs(q[:, 0])
        arch = np.arcsin((x / 0.36).clip(0, 1)) * 0.36  # length along the dental arch
        borders = np.cumsum(TEETH_WIDTHS)
        near = np.abs(arch[:, None] - borders).min(1)
        near = np.minimum(near, x)
        close = np.abs(arch[:, None] - arch[None]) < 0.03  # the biting edge differs along the arch
        edge = np.where(close, -towards * q[:, 1], -np.inf).max(1)
        height = towards * q[:, 1] + edge
        gum[on] = soft_step(height, 0.125, 0.05)
        dark[on] = 0.55 * np.exp(-((near / 0.010) ** 2)) + 1.1 * soft_step(-q[:, 2], -1.36, 0.28)
    return gum, dark


def build_albedo(regions: Regions, faces: Ints, seed: int) -> AlbedoSpace:
    """Mean and components over the V vertices."""
    paint = _Painter(regions, faces, seed)
    r, x, y, z, body = regions, paint.x, paint.y, paint.z, paint.body
    skin = body * (1 - r.inside) * (1 - r.cloth)
    brow, scalp = r.brow, 0.86 * r.scalp
    lips = r.lips
    at = brow_coordinates(r.position)
    bare = skin * (1 - brow) * (1 - scalp)

    def blend(base: Floats, colour: tuple[float, float, float], mask: Floats) -> Floats:
        return base + mask[:, None] * (link(colour) - base)

    mean = np.tile(link(SKIN), (len(body), 1))
    mean += lips[:, None] * np.array(LIP_SHIFT)
    red = np.array([0.0, 0.20, 0.14])
    cheeks = paint.spot(0.36, 6.98, 0.15, 0.16)
    nose_tip = paint.spot(0.0, 6.95, 0.12, 0.12, 1.4)
    sockets = paint.spot(0.30, 7.20, 0.16, 0.045, 1.0)
    lids = paint.spot(0.32, 7.38, 0.16, 0.05, 1.0)
    mean += (0.30 * cheeks + 0.35 * nose_tip + 0.25 * sockets + 0.5 * r.ears * body)[:, None] * red
    mean += (0.16 * sockets + 0.10 * lids)[:, None] * np.array([1.0, 0.9, 0.6])
    rim = np.zeros(len(body))
    for side in ("eye_left", "eye_right"):
        on = r.part == side
        centre = (r.position[on].max(0) + r.position[on].min(0)) / 2
        distance = np.linalg.norm(r.position - centre, axis=1)
        rim = np.maximum(rim, body * soft_step(0.166 - distance, 0.0, 0.024) * (z > centre[2] - 0.02))
    upper_rim = rim * soft_step(y, 7.285, 0.03)
    mean += (0.85 * upper_rim + 0.22 * rim)[:, None] * np.array([1.0, 0.8, 0.6])
    corner = rim * np.exp(-0.5 * (((x - 0.175) / 0.02) ** 2 + ((y - 7.255) / 0.03) ** 2))
    mean += corner[:, None] * np.array([-0.1, 0.35, 0.2])
    mean = blend(mean, HAIR, 0.66 * brow)
    mean = blend(mean, HAIR, scalp)
    beard = skin * soft_step(np.interp(z, *np.array(JAWLINE).T) + 0.5 - y, 0.0, 0.35)
    beard *= soft_step(y, 6.0, 0.25) * soft_step(z, 0.62, 0.25) * (1 - lips) * (1 - r.scalp)
    moustache = paint.spot(0.10, 6.765, 0.13, 0.045, 1.2) * (1 - lips) * skin
    chin = paint.spot(0.0, 6.36, 0.15, 0.13, 1.1) * (1 - lips) * skin
    lower_cheek = beard * (1 - soft_step(y, 6.86, 0.22)) * (1 - paint.spot(0.0, 6.45, 0.16, 0.06, 1.0) * 0.3)
    shadow = (lower_cheek + 0.6 * moustache).clip(0, 1)
    blue = np.array([0.34, 0.24, 0.14])
    mean += 0.35 * shadow[:, None] * blue
    mean += paint.spot(0.258, 6.607, 0.022, 0.020, 1.0)[:, None] * np.array([0.45, 0.5, 0.4]) * (1 - lips)[:, None]
    hidden = np.zeros(len(body))
    near_nose = (x < 0.24) & (y > 6.78) & (y < 7.12) & (z > 1.1) & (r.inside < 0.5)
    looked = np.flatnonzero((body > 0) & (near_nose | (r.ears > 0.1)))
    hidden[looked] = occlusion(r.position, vertex_normals(r.position, faces), faces, looked)
    nostril = near_nose * soft_step(hidden, 0.36, 0.22) * soft_step(z, 1.50, 0.03) * soft_step(-y, -6.885, 0.02)
    mean += (1.25 * nostril)[:, None] * np.array([1.0, 1.0, 0.9])
    mean += (0.75 * soft_step(hidden, 0.45, 0.7) * (1 - nostril))[:, None] * np.array([0.9, 1.0, 0.85])
    gum, dark = _teeth(r)
    teeth = np.isin(r.part, ("upper_teeth", "lower_teeth")).astype(float)
    tongue = (r.part == "tongue").astype(float)
    mean = blend(mean, MOUTH, r.inside)
    depth = (r.inside + tongue) * soft_step(-z, -1.15, 0.6)
    mean = blend(mean, TEETH, teeth * (1 - gum))
    mean = blend(mean, GUM, teeth * gum)
    mean += (teeth * dark)[:, None] * np.array([1.0, 0.9, 0.8])
    mean = blend(mean, TONGUE, tongue)
    mean += 0.9 * depth[:, None]
    mean = blend(mean, CLOTH, r.cloth)
    eye = r.eye_angle < np.pi
    angle = np.where(eye, r.eye_angle, 0.0)
    degrees = np.degrees(angle)
    iris = eye * (angle > PUPIL_ANGLE) * (angle < IRIS_ANGLE)
    ball = eye * (angle >= IRIS_ANGLE)
    iris_mean = np.array([0.10, 0.26, 0.44])
    mean = np.where(eye[:, None], link(SCLERA), mean)
    mean += (ball * 0.75 * soft_step(degrees, 55.0, 45.0))[:, None] * np.array([0.8, 1.0, 1.0])
    mean = np.where((iris > 0)[:, None], iris_mean, mean)
    limbal = iris * soft_step(degrees, 19.5, 4.5)
    inner = iris * (1 - soft_step(degrees, 11.5, 5.0))
    mean += (0.35 * limbal - 0.15 * inner)[:, None]
    shade = eye * soft_step(y, 7.335, 0.09)  # under the upper lid
    mean += (0.45 * shade)[:, None]
    pupil = eye * (angle <= PUPIL_ANGLE)
    mean = np.where((pupil > 0)[:, None], 1.15, mean)

    names: list[str] = []
    parts: list[Floats] = []

    def add(name: str, *terms: tuple[Floats, tuple[float, float, float] | float]) -> None:
        total = np.zeros_like(mean)
        for mask, colour in terms:
            total += mask[:, None] * (np.asarray(colour) * np.ones(3))
        names.append(name)
        parts.append(total)

    tone = np.array(TONE)
    hair = brow * 0.8 + scalp
    add("tone", (bare * (1 - 0.35 * lips), tuple(tone)), (hair, (0.26, 0.24, 0.21)), (iris, (0.10, 0.20, 0.28)),
        (teeth * gum + tongue + r.inside, 0.05), (ball, (0.05, 0.07, 0.10)))  # fmt: skip
    add("redness", (bare, (0.005, 0.045, 0.028)), (lips, (0.0, 0.02, 0.01)))
    add("yellowness", (bare, (-0.012, 0.006, 0.045)))
    add("olive", (bare, (0.030, 0.006, 0.018)))
    add("cheek_redness", (cheeks * bare, (0.01, 0.09, 0.065)))
    add("nose_redness", (nose_tip * bare, (0.01, 0.08, 0.055)))
    add("ear_redness", (r.ears * body, (0.01, 0.07, 0.05)))
    add("lip_redness", (lips, (-0.015, 0.065, 0.042)))
    add("lip_darkness", (lips, (0.07, 0.06, 0.045)))
    add("lip_pink", (lips, (0.0, 0.02, -0.045)))
    border = lips * (1 - lips) * 4
    add("lip_border", (border, (0.05, 0.06, 0.04)), (lips, (0.015, 0.015, 0.01)))
    add("lower_lip_lightness", (lips * (1 - r.upper), (-0.05, -0.05, -0.04)), (lips * r.upper, (0.03, 0.03, 0.02)))
    add("hair_darkness", (hair, HAIR_TONE))
    add("hair_warmth", (hair, HAIR_WARM))
    add("hair_grey", (hair, (-0.035, -0.055, -0.085)))
    contrast = link(HAIR) - link(SKIN)
    edge = np.exp(-0.5 * ((np.abs(at.across) - 1.15) / 0.35) ** 2) * skin * soft_step(at.along, -0.02, 0.12)
    edge *= soft_step(1.02 - at.along, 0.0, 0.16)
    add("brow_thickness", (edge, tuple(0.11 * contrast)))
    add("brow_density", (brow, tuple(0.08 * contrast)))
    lift = np.exp(-0.5 * ((at.across - 1.1) / 0.45) ** 2) - np.exp(-0.5 * ((at.across + 1.1) / 0.45) ** 2)
    lift *= skin * soft_step(at.along, 0.0, 0.12) * soft_step(1 - at.along, 0.0, 0.16)
    add("brow_height", (lift, tuple(0.08 * contrast)))
    add("brow_arch", (lift * np.sin(np.pi * (at.along.clip(0, 1) * 1.6 - 0.5)), tuple(0.08 * contrast)))
    tail = np.exp(-0.5 * (at.across / 0.9) ** 2) * skin
    add("brow_tail", (tail * np.exp(-0.5 * ((at.along - 0.98) / 0.10) ** 2), tuple(0.10 * contrast)))
    add("brow_inner", (tail * np.exp(-0.5 * ((at.along + 0.06) / 0.10) ** 2), tuple(0.08 * contrast)))
    add("beard_shadow", (shadow, tuple(blue * 0.62)))
    add("moustache_shadow", (moustache, tuple(blue * 0.28)))
    add("chin_shadow", (chin, tuple(blue * 0.35)), (moustache, tuple(blue * 0.2)))
    jaw_hair = lower_cheek * soft_step(x, 0.42, 0.2)
    add("side_beard", (jaw_hair, tuple(blue * 0.3)))
    freckle_zone = (paint.spot(0.28, 7.02, 0.24, 0.15) + paint.spot(0.0, 7.08, 0.10, 0.12, 1.2)).clip(0, 1) * bare
    freckles = (paint.noise(0).clip(0.6, 2.2) - 0.85) * freckle_zone
    add("freckles", (freckles, (0.085, 0.11, 0.11)))
    add("freckles_wide", ((paint.noise(0).clip(0.9, 2.4) - 1.05) * bare * (z > 0.3), (0.045, 0.06, 0.06)))
    add("mottling", (paint.noise(2) * bare * (1 - lips), (0.010, 0.018, 0.015)))
    add("blotches", (paint.waves(0.45) * bare * (1 - lips), (0.008, 0.016, 0.012)))
    add("unevenness", (paint.waves(0.9) * bare, (0.022, 0.022, 0.018)))
    add("dark_circles", (sockets * bare, (0.09, 0.09, 0.065)))
    add("eyelid_shadow", (lids * bare, (0.06, 0.065, 0.045)))
    add("lash_line", (rim, (0.08, 0.08, 0.07)), (upper_rim, (0.12, 0.12, 0.11)))
    add("sclera_yellow", (ball, (0.0, 0.03, 0.10)))
    add("sclera_red", (ball, (0.02, 0.09, 0.07)))
    add("iris_darkness", (iris, IRIS_SHIFT))
    add("iris_green", (iris, (0.03, -0.04, 0.06)))
    add("iris_ring", (limbal, 0.25), (inner, (-0.10, -0.05, 0.10)))
    add("pupil_size", (inner, 0.20))
    add("teeth_shade", (teeth * (1 - gum), (0.06, 0.08, 0.13)))
    add("mouth_redness", (teeth * gum + tongue + r.inside, (0.02, 0.07, 0.05)))
    forehead = paint.spot(0.0, 7.8, 0.55, 0.22)
    add("forehead_tone", (forehead * bare, (0.035, 0.035, 0.03)))
    add("centre_tone", ((paint.spot(0.0, 7.0, 0.28, 0.5)) * bare, (-0.035, -0.028, -0.024)))
    add("mouth_surround", (paint.spot(0.0, 6.6, 0.30, 0.16, 1.0) * bare * (1 - lips), (0.035, 0.035, 0.03)))
    fold = np.exp(-0.5 * ((x - np.interp(y, (6.45, 6.62, 6.80, 6.92), (0.33, 0.325, 0.27, 0.20))) / 0.022) ** 2)
    fold *= soft_step(y, 6.46, 0.12) * soft_step(-y, -6.92, 0.08) * skin * (z > 1.0)
    add("smile_lines", (fold, (0.06, 0.065, 0.05)))
    lines = np.cos((y - 7.72 - 0.03 * np.cos(6 * x)) * 2 * np.pi / 0.115).clip(0, 1) * paint.spot(
        0.0, 7.80, 0.42, 0.13, 1.0
    )
    feet = np.exp(-0.5 * (((x - 0.53) / 0.05) ** 2 + ((y - 7.27) / 0.09) ** 2)) * skin * (z > 0.8)
    add("wrinkles", (lines * bare, (0.045, 0.05, 0.04)), (feet, (0.045, 0.05, 0.04)))
    add("neck_tone", (r.neck * bare, (0.035, 0.042, 0.035)))
    halves = np.sign(r.position[:, 0]) * soft_step(x, 0.25, 0.5)
    add("side_tone", (halves * bare, (0.02, 0.02, 0.016)))
    line = np.exp(-0.5 * ((y - np.interp(z, *np.array(HAIRLINE).T) + 0.03) / 0.06) ** 2) * skin * (1 - r.ears)
    add("hairline", (line * (1 - r.neck), tuple(0.10 * contrast)))
    add("hair_density", (scalp, tuple(0.07 * contrast)))
    return AlbedoSpace(mean, np.stack(parts), tuple(names))
