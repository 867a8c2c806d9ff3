"""The identity space: a PCA over plausible sampled heads, rigid motion removed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .mesh import Control
from .source import LOCAL_FOLDERS, Floats, Source

MACRO = "mpfb2/targets/macrodetails"
RACES = ("african", "asian", "caucasian")
SEXES = ("female", "male")
LEVELS = {"muscle": ("minmuscle", "averagemuscle", "maxmuscle"), "weight": ("minweight", "averageweight", "maxweight")}
AGE_YOUNG, AGE_OLD = 25.0, 90.0  # years: MakeHuman's "young" (0.5) and "old" (1.0); its "child" (0.1875) is about 11
AGE_CHILD, AGE_LOWEST = 11.0, 18.0
# Standard deviation of the local sliders (MakeHuman's run from -1 to 1), by the beginning of the target's name.
# They are cut off at 2.2 standard deviations, and never leave [-1, 1].
SLIDERS: dict[str, float] = {
    "head/head-age": 0.12, "head/head-angle": 0.12, "head/head-back": 0.2, "head/head-fat": 0.18,
    "head/head-scale": 0.17, "head/head-trans": 0.0, "head/head-": 0.22, "forehead/": 0.25, "eyebrows/": 0.18,
    "neck/neck-trans": 0.0, "neck/": 0.18, "eyes/": 0.18, "eyes/eye-scale": 0.13,
    "nose/": 0.24, "mouth/": 0.24, "mouth/mouth-trans": 0.17,
    "ears/": 0.24, "ears/ear-shape": 0.25, "ears/ear-wing": 0.25, "chin/": 0.22, "cheek/": 0.24,
    "cheek/cheek-inner": 0.15,
}  # fmt: skip
ASYMMETRY = 0.07  # standard deviation of half the difference between the two sides' sliders
PAIRS = (
    ("incr", "decr"), ("up", "down"), ("in", "out"), ("forward", "backward"), ("concave", "convex"),
    ("compress", "uncompress"),
)  # fmt: skip


@dataclass(frozen=True)
class IdentitySpace:
    """Mean and scaled principal components on the control vertices, in dm.

    Attributes:
        mean: (C, 3).
        components: (K, C, 3), one standard deviation each.
        explained: (K,) share of the weighted variance.
    """

    mean: Floats
    components: Floats
    explained: Floats


def _pairs(names: list[str]) -> list[tuple[str, str | None]]:
    """Groups target names into sliders: (positive end, negative end or None)."""
    left, sliders = list(names), []
    while left:
        name = left.pop(0)
        partner = None
        for a, b in PAIRS:
            for plus, minus in ((a, b), (b, a)):
                if name.endswith("-" + plus) and name[: -len(plus)] + minus in left:
                    partner = name[: -len(plus)] + minus
        if partner:
            left.remove(partner)
        sliders.append((name, partner))
    return sliders


def _spread(folder: str, name: str) -> float:
    bare = name[2:] if name[:2] in ("l-", "r-") else name
    key = f"{folder}/{bare}"
    return SLIDERS[max((k for k in SLIDERS if key.startswith(k)), key=len)]


def _local_sliders(rng: np.random.Generator, count: int, names: list[str], folder: str) -> dict[str, Floats]:
    """Slider values in [-1, 1] per slider name; both sides of the face get nearly the same."""
    values: dict[str, Floats] = {}
    for name in names:
        spread = _spread(folder, name)
        if name.startswith("r-") and "l-" + name[2:] in values:
            common = values["l-" + name[2:]]
            skew = ASYMMETRY * rng.standard_normal(count) * min(1.0, spread / 0.28)
            values["l-" + name[2:]] = (common + skew).clip(-1, 1)
            values[name] = (common - skew).clip(-1, 1)
        else:
            values[name] = (spread * rng.standard_normal(count).clip(-2.2, 2.2)).clip(-1, 1)
    return values


def _between(value: Floats, anchors: tuple[float, ...]) -> Floats:
    """(S,) -> (S, n) linear interpolation weights between anchors."""
    return np.stack([np.interp(value, anchors, row) for row in np.eye(len(anchors))], 1)


def sample_weights(source: Source, rng: np.random.Generator, count: int) -> tuple[list[tuple[str, str]], Floats]:
    """Target weights of `count` plausible adults: [(folder, name)], (count, targets)."""
    pure = rng.random(count) < 0.6
    race = np.where(pure[:, None], np.eye(3)[rng.integers(0, 3, count)], rng.dirichlet((1, 1, 1), count))
    race = 0.93 * race + 0.07 / 3
    male = np.where(rng.random(count) < 0.5, rng.beta(8, 1.5, count), rng.beta(1.5, 8, count))
    sex = np.stack([1 - male, male], 1)
    years = AGE_LOWEST + (82 - AGE_LOWEST) * rng.beta(1.1, 2.0, count)
    age = _between(years, (AGE_CHILD, AGE_YOUNG, AGE_OLD))
    muscle = _between(rng.normal(0.5, 0.17, count).clip(0.05, 0.95), (0, 0.5, 1))
    weight = _between(rng.normal(0.47, 0.15, count).clip(0.03, 0.97), (0, 0.5, 1))
    ages = ("child", "young", "old")

    targets: list[tuple[str, str]] = []
    columns: list[Floats] = []
    for s, sex_name in enumerate(SEXES):
        for a, age_name in enumerate(ages):
            base = sex[:, s] * age[:, a]
            for r, race_name in enumerate(RACES):
                targets.append((MACRO, f"{race_name}-{sex_name}-{age_name}"))
                columns.append(base * race[:, r])
            for m, muscle_name in enumerate(LEVELS["muscle"]):
                for w, weight_name in enumerate(LEVELS["weight"]):
                    name = f"universal-{sex_name}-{age_name}-{muscle_name}-{weight_name}"
                    if name in source.names(MACRO):
                        targets.append((MACRO, name))
                        columns.append(base * muscle[:, m] * weight[:, w])
    for folder in LOCAL_FOLDERS:
        path = f"mpfb2/targets/{folder}"
        sliders = _pairs(source.names(path))
        values = _local_sliders(rng, count, [plus for plus, _ in sliders], folder)
        for plus, minus in sliders:
            value = values[plus]
            targets.append((path, plus))
            columns.append(value.clip(min=0))
            if minus:
                targets.append((path, minus))
                columns.append((-value).clip(min=0))
    return targets, np.stack(columns, 1)


def _rigid_removed(displacement: Floats, reference: Floats, weight: Floats) -> Floats:
    """Takes translation and small rotation, as measured by weighted vertices, out of (T, C, 3) displacements.

    Size is kept: the scale of a head is part of who it is. Small rotations are linear (cross products with the
    reference), so the alignment is a projection and the space of heads stays linear.
    """
    centred = reference - (weight[:, None] * reference).sum(0) / weight.sum()
    fields = [np.broadcast_to(axis, centred.shape) for axis in np.eye(3)] + [
        np.cross(axis, centred) for axis in np.eye(3)
    ]
    basis = np.stack(fields).reshape(6, -1)
    measure = np.repeat(np.sqrt(weight), 3)
    amount = np.linalg.lstsq(
        (basis * measure).T, (displacement.reshape(len(displacement), -1) * measure).T, rcond=None
    )[0]
    return displacement - (amount.T @ basis).reshape(displacement.shape)


def build_identity(
    source: Source, control: Control, align: Floats, metric: Floats, count: int, components: int, seed: int
) -> IdentitySpace:
    """PCA of sampled heads.

    The heads are linear in the target weights, so the PCA is computed exactly from the covariance of the weights.

    Args:
        source: The wheel.
        control: Control vertices.
        align: (C,) weights of the vertices that define the rigid alignment (upper face and skull).
        metric: (C,) weights of the vertices in the variance that the PCA keeps.
        count: Number of sampled heads.
        components: Number of principal components.
        seed: Of the sampling.
    """
    targets, weights = sample_weights(source, np.random.default_rng(seed), count)
    deltas = np.stack([control.positions(source.target(*t)) for t in targets])
    used = (weights.std(0) > 0) & (np.abs(deltas).max((1, 2)) > 1e-6)
    rest = control.positions(source.base.vertices)
    average = np.einsum("t,tcd->cd", weights.mean(0), deltas)
    reference = rest + average
    mean = rest + _rigid_removed(average[None], reference, align)[0]
    aligned = _rigid_removed(deltas[used], reference, align)
    covariance = np.cov(weights[:, used], rowvar=False)
    value, vector = np.linalg.eigh(covariance)
    root = vector * np.sqrt(value.clip(0))
    spread = np.einsum("tk,tcd->kcd", root, aligned)  # unit-variance directions of the sampled distribution
    scaled = (spread * np.sqrt(metric)[:, None]).reshape(len(spread), -1)
    variance, mixing = np.linalg.eigh(scaled @ scaled.T)
    order = np.argsort(-variance, kind="stable")
    kept = mixing[:, order[:components]]
    basis = np.einsum("tk,tcd->kcd", kept, spread)
    strongest = np.abs(basis.reshape(components, -1)).argmax(1)
    signs = np.sign(basis.reshape(components, -1)[np.arange(components), strongest])
    return IdentitySpace(mean, basis * signs[:, None, None], variance[order[:components]] / variance.clip(0).sum())
