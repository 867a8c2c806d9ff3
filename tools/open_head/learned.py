"""What was learned from photographs (learn_open_head.py), as a small file, and how the build uses it.

The file holds statistics over more than a thousand people, nothing of any one of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from safetensors import safe_open
from safetensors.numpy import save
from scipy.spatial import cKDTree

from .albedo import AlbedoSpace
from .assemble import Bust
from .regions import Regions
from .source import Floats, Ints

LEARNED = Path(__file__).with_name("learned.safetensors")
FORMAT = "copo.open_head.learned.1"
RIGID_PARTS = ("eye_left", "eye_right", "upper_teeth", "lower_teeth", "tongue")
DRAWN = (
    "ear_redness", "neck_tone", "side_tone", "hair_darkness", "hair_warmth", "hair_grey", "hairline", "hair_density",
    "iris_darkness", "iris_green", "iris_ring", "pupil_size", "sclera_yellow", "sclera_red", "teeth_shade",
    "mouth_redness",
)  # fmt: skip
"""Drawn components that stay: what photographs of 256 pixels do not show well."""
COMPONENTS = 50
SKIN_TERMS = ("tone", "redness", "yellowness", "olive")
HAIR_TERMS = ("hair_darkness", "hair_warmth", "hair_grey")
_BROW_SHARE = 0.6  # how far the hair's colour follows that of the brows, which are part skin
_DRAWN_SHADE = 0.5  # share of the drawn mean in the brightness of the mean's bare skin: see docs/open_head.md
_INWARD, _OUTWARD = 6, 40  # rounds of blur over which the learned skin ends, and over which it fades outside


@dataclass(frozen=True)
class Learned:
    """Everything that the build takes from photographs.

    Attributes:
        shape_mean: (80,) what the mean moves along the drawn components.
        shape_scale: (80,) factor on each component.
        field: (C, 3) metres, further displacement of the mean's control vertices.
        landmarks68: (68, 2) texture coordinates.
        landmarks478: (478, 2).
        vertices: (K,) vertices of the half face x >= 0 that the skin was learned on.
        mirror: (K,) those of the other side.
        skin_mean: (K, 3) L.
        skin: (34, K, 3), one standard deviation each.
        skin_seen: (K,) share of people who show the vertex.
        facts: Plain data: people, photographs, sets, statistics.
    """

    shape_mean: Floats
    shape_scale: Floats
    field: Floats
    landmarks68: Floats
    landmarks478: Floats
    vertices: Ints
    mirror: Ints
    skin_mean: Floats
    skin: Floats
    skin_seen: Floats
    facts: dict[str, object]

    def save(self, path: Path) -> None:
        """Write as safetensors; components with 8 bits."""
        scale = np.abs(self.skin).max((1, 2)) / 127
        arrays = {
            "shape_mean": self.shape_mean.astype(np.float32),
            "shape_scale": self.shape_scale.astype(np.float32),
            "field": self.field.astype(np.float16),
            "landmarks68": self.landmarks68.astype(np.float32),
            "landmarks478": self.landmarks478.astype(np.float32),
            "vertices": self.vertices.astype(np.uint16),
            "mirror": self.mirror.astype(np.uint16),
            "skin_mean": self.skin_mean.astype(np.float16),
            "skin": np.round(self.skin / scale[:, None, None]).astype(np.int8),
            "skin_scale": scale.astype(np.float32),
            "skin_seen": np.round(self.skin_seen * 255).astype(np.uint8),
        }
        arrays = {name: np.ascontiguousarray(value) for name, value in sorted(arrays.items())}
        facts = {"format": FORMAT, **self.facts}
        path.write_bytes(save(arrays, {"copo": json.dumps(facts, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path = LEARNED) -> Learned:
        """Read the file of `save`."""
        with safe_open(str(path), framework="np") as file:
            facts = json.loads(file.metadata()["copo"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.pop("format") != FORMAT:
            raise SystemExit(f"{path} is not what learn_open_head.py writes: restore it or learn again")
        scale = arrays.pop("skin_scale")[:, None, None]
        values = {name: value.astype(np.float64) for name, value in arrays.items()}
        values["skin"] = values["skin"] * scale
        values["skin_seen"] = values["skin_seen"] / 255
        whole = {name: arrays[name].astype(np.int64) for name in ("vertices", "mirror")}
        return cls(**{**values, **whole}, facts=facts)


def apply(bust: Bust, learned: Learned) -> Bust:
    """The drawn bust with the learned mean, spread and skin."""
    identity = bust.identity
    mean = identity.mean + np.einsum("k,kcd->cd", learned.shape_mean, identity.components) + 10 * learned.field
    components = identity.components * learned.shape_scale[:, None, None]
    albedo = blend_skin(bust.albedo, bust.regions, bust.faces, learned)
    return replace(bust, identity=replace(identity, mean=mean, components=components), albedo=albedo)


def rigid_field(bust: Bust, field: Floats) -> Floats:
    """(C, 3) the same field with eyeballs, teeth and tongue moved as wholes."""
    out = field.copy()
    for name in RIGID_PARTS:
        own = np.unique(bust.weights[bust.regions.part == name].nonzero()[1])
        out[own] = field[own].mean(0)
    return (out + 0.0).astype(np.float64)


def even_sides(drawn: Bust, learned: Learned) -> Floats:
    """(C, 3) metres: the field that, with the learned mean of the components, moves both sides alike."""
    rest = drawn.identity.mean
    distance, other = cKDTree(rest).query(rest * [-1, 1, 1])
    moved = np.einsum("k,kcd->cd", learned.shape_mean, drawn.identity.components)
    total = moved + 10 * learned.field
    even = (total + total[other] * [-1, 1, 1]) / 2
    field: Floats = (np.where((distance < 0.02)[:, None], even, total) - moved) / 10
    left, right = (np.unique(drawn.weights[drawn.regions.part == name].nonzero()[1]) for name in RIGID_PARTS[:2])
    ball = (total[left].mean(0) + total[right].mean(0) * [-1, 1, 1]) / 2
    field[left] = (ball - moved[left].mean(0)) / 10  # one displacement each: balls stay round
    field[right] = (ball * [-1, 1, 1] - moved[right].mean(0)) / 10
    return field


def seat_eyes(drawn: Bust, learned: Learned) -> Floats:
    """(C, 3) metres: the field with the eyeballs moved so that the lids lie on them as on the drawn mean.

    Lids and eyeballs follow different landmarks; a millimetre between them would let the balls come through the lids.
    """
    field = learned.field.copy()
    before = drawn.weights @ drawn.identity.mean
    moved = np.einsum("k,kcd->cd", learned.shape_mean, drawn.identity.components) + 10 * field
    after = drawn.weights @ (drawn.identity.mean + moved)
    body = drawn.regions.part == "body"
    moves, balls = [], []
    for name in ("eye_left", "eye_right"):
        ball = drawn.regions.part == name
        centre = (before[ball].max(0) + before[ball].min(0)) / 2
        start = (after[ball].max(0) + after[ball].min(0)) / 2
        away = before - centre
        distance = np.linalg.norm(away, axis=1)
        radius = float(np.median(distance[ball]))
        lids = body & (distance > radius - 0.005) & (distance < 1.2 * radius) & (away[:, 2] > 0.3 * radius)
        move = np.zeros(3)  # up and forward only; the irises say how far apart eyes are
        for _ in range(8):
            arm = after[lids] - start - move
            length = np.linalg.norm(arm, axis=1)
            slope = -arm[:, 1:] / length[:, None]
            move[1:] += np.linalg.solve(slope.T @ slope, slope.T @ (distance[lids] - length))
        moves.append(move)
        balls.append(np.unique(drawn.weights[ball].nonzero()[1]))
    for own in balls:
        field[own] += np.mean(moves, axis=0) / 10
    return field


def blend_skin(drawn: AlbedoSpace, regions: Regions, faces: Ints, learned: Learned) -> AlbedoSpace:
    """Learned skin on the face, continued over ears, neck, scalp and eyes by what it says about tone and hair.

    Where nobody was seen, a component is the mixture of the drawn skin terms (tone, redness, yellowness, olive) that is
    nearest to it on the face, and, over the hair, of the drawn hair terms that is nearest to it on the brows. What is
    left fades out over the border.
    """
    index = {name: k for k, name in enumerate(drawn.names)}
    count = len(drawn.mean)
    on = np.zeros(count)
    seen = learned.skin_seen > 0.3
    on[learned.vertices[seen]] = on[learned.mirror[seen]] = 1.0
    on[regions.inside > 0.02] = 0.0
    blur = _blur(faces, count)
    inner = (2 * blur(on[:, None], _INWARD)[:, 0] - 1).clip(0, 1)
    inner = inner * inner * (3 - 2 * inner) * on
    spread = blur(on[:, None], _OUTWARD)[:, 0]
    body = (regions.part == "body") * (1 - regions.inside) * (1 - regions.cloth) * (1 - 0.9 * regions.scalp)
    bare = np.flatnonzero((inner > 0.5) & np.isin(regions.labels, (1, 10)) & (regions.brow < 0.05))
    brows = np.flatnonzero((inner > 0.5) & (regions.brow > 0.7))
    skin_terms = np.stack([drawn.components[index[n]] for n in SKIN_TERMS])
    hair_terms = np.stack([drawn.components[index[n]] for n in HAIR_TERMS])

    def complete(face: Floats, hair: bool) -> Floats:
        """(K, 3) difference to the drawn mean, or a component, on the half face -> (V, 3)."""
        value = np.zeros((count, 3))
        value[learned.mirror], value[learned.vertices] = face, face
        share = _mixture(skin_terms, value, bare)
        whole = np.einsum("k,kvd->vd", share, skin_terms)
        if hair:
            of_hair = _mixture(hair_terms, value - whole, brows)
            whole += _BROW_SHARE * np.einsum("k,kvd->vd", of_hair, hair_terms)
        else:
            whole *= (1 - regions.scalp)[:, None]
        left = (value - whole) * on[:, None]
        fading = blur(left, _OUTWARD) / np.maximum(spread, 0.02)[:, None] * (spread.clip(0, 1) * body)[:, None]
        return whole + inner[:, None] * left + (1 - inner)[:, None] * fading

    face = shade_mean(drawn.mean[learned.vertices], learned.skin_mean, _bare(regions)[learned.vertices])
    mean = drawn.mean + complete(face - drawn.mean[learned.vertices], hair=False)
    parts = [complete(component, hair=True) for component in learned.skin]
    names = ["tone", *(f"skin_{k:02d}" for k in range(2, len(parts) + 1))]
    no_brow = (1 - inner)[:, None]
    for name in DRAWN:
        own = drawn.components[index[name]]
        parts.append(own * no_brow if name in HAIR_TERMS else own)
        names.append(name)
    assert len(names) == COMPONENTS
    return AlbedoSpace(mean, np.stack(parts), tuple(names))


def shade_mean(drawn: Floats, learned: Floats, bare: Floats) -> Floats:
    """(K, 3) the learned mean with half of its own differences in brightness over bare skin.

    What nine harmonics cannot light (the dark of the eye sockets, the bounce under the nose) is in the learned mean as
    much as paler and darker skin is; nothing in the photographs tells them apart.

    Args:
        drawn: (K, 3) L.
        learned: (K, 3) L.
        bare: (K,) 1 where there is neither brow nor lip.
    """
    grey = (np.exp(drawn) - np.exp(learned)).mean(1)  # of the log albedo, relative to the drawn
    level = np.average(grey, weights=bare)
    share = _DRAWN_SHADE * bare * (grey - level)
    return np.log((np.exp(learned) + share[:, None]).clip(0.02, None))


def _bare(regions: Regions) -> Floats:
    bare: Floats = (1 - regions.brow) * (1 - regions.lips) * (1 - regions.scalp) * np.isin(regions.labels, (1, 10))
    return bare


def _mixture(terms: Floats, value: Floats, where: Ints) -> Floats:
    """(k,) the least-squares mixture of (k, V, 3) terms that gives (V, 3) at some vertices."""
    a = terms[:, where].reshape(len(terms), -1).T
    gram = a.T @ a + 1e-3 * len(where) * np.diag((a**2).mean(0))
    return np.linalg.solve(gram, a.T @ value[where].reshape(-1))


def _blur(faces: Ints, count: int):  # type: ignore[no-untyped-def]
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    graph = sp.csr_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    graph = ((graph + graph.T) > 0).astype(float)
    step = sp.diags(1 / np.maximum(np.asarray(graph.sum(1)).ravel(), 1)) @ graph

    def blur(value: Floats, times: int) -> Floats:
        for _ in range(times):
            value = 0.5 * value + 0.5 * (step @ value)
        return value

    return blur
