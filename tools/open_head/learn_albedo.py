"""Mean and components of skin from fitted photographs: a principal component analysis over people with gaps.

The colour of a vertex over the fitted light is albedo. Everything happens in L = log(-log albedo), in which the head's
skin is linear. A person's photographs are averaged, and so are the two sides of the face: what is left is symmetric,
and half of the light's error cancels. The components come from expectation maximisation for probabilistic PCA, in which
a vertex that a person does not show (hair, glasses, high lights, the other side) just does not count; so a component's
unit is a standard deviation over people whatever is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .learn_fits import Fits
from .source import Floats, Ints

_ROUNDS = 14
_ROBUST = 3.0  # residual, in noise deviations, at which a vertex keeps a quarter of its weight


@dataclass(frozen=True)
class Skins:
    """One row for each person, on one half of the face. P people, K vertices.

    Attributes:
        value: (P, K, 3) L; 0 where nothing is known.
        weight: (P, K) 0 to 1.
        people: (P,) how much each person counts.
    """

    value: Floats
    weight: Floats
    people: Floats


@dataclass(frozen=True)
class LearnedSkin:
    """Result.

    Attributes:
        mean: (K, 3) L.
        components: (C, K, 3), one standard deviation each, in falling order.
        seen: (K,) share of people who show the vertex.
        noise: Deviation of a vertex around the components.
    """

    mean: Floats
    components: Floats
    seen: Floats
    noise: float


def people_weight(sets: NDArray[np.str_]) -> Floats:
    """(P,) weights, 1 on average: a set counts as the square root of its people, so that no set rules."""
    names, index, count = np.unique(sets, return_inverse=True, return_counts=True)
    weight: Floats = (count**-0.5)[index]
    assert len(names) == len(count)
    return weight / weight.mean()


def gather(fits: Fits, mirror: Ints, worst: tuple[float, float] = (2.5, 0.08)) -> Skins:
    """Average the photographs of each person and the two sides of the face.

    Args:
        fits: Of all photographs.
        mirror: (K, 2) indices into `fits.vertices` of the two sides of each vertex of the half face, equal
            in the middle.
        worst: Landmark residual (percent) and colour residual above which a photograph is left out.
    """
    good = (fits.landmarks.numpy() < worst[0]) & (fits.colour.numpy() < worst[1])
    person = fits.person.numpy()
    names = np.unique(person[good])
    value = np.zeros((len(names), len(mirror), 3))
    weight = np.zeros((len(names), len(mirror)))
    sets = []
    for row, name in enumerate(names):
        here = np.flatnonzero(good & (person == name))
        sets.append(fits.sets[here[0]])
        w = fits.weight[here].astype(np.float64)[:, mirror]  # (n, K, 2)
        level = np.log(-np.log(fits.skin[here].astype(np.float64).clip(0.01, 0.97)))[:, mirror]
        total = w.sum((0, 2))
        value[row] = (w[..., None] * level).sum((0, 2)) / np.maximum(total, 1e-9)[:, None]
        weight[row] = np.minimum(total, 1.0) * (total > 0.3)
    return Skins(value, weight, people_weight(np.array(sets)))


def learn(skins: Skins, count: int, start: Floats, seed: int = 0, say: Callable[[str], None] = print) -> LearnedSkin:
    """Probabilistic PCA with gaps and robust weights.

    Args:
        skins: From `gather`.
        count: Components.
        start: (K, 3) mean to begin with.
        seed: Of the first guess.
        say: Takes a line after the last round.
    """
    people, size = len(skins.value), skins.value.shape[1] * 3
    data = skins.value.reshape(people, size).astype(np.float32)
    base = np.repeat(skins.weight, 3, axis=1).astype(np.float32)
    known = base.sum(0) > 0.5
    rng = np.random.default_rng(seed)
    mean = start.reshape(size).astype(np.float32)
    basis = np.zeros((size, count), np.float32)
    first = (data - mean) * (base > 0)
    basis[:] = 0.05 * (first.T @ rng.standard_normal((people, count)).astype(np.float32)) / np.sqrt(people)
    importance = skins.people.astype(np.float32)[:, None]
    noise, weight = 0.15, base
    for _ in range(_ROUNDS):
        outer = basis[:, :, None] * basis[:, None, :]
        matrix = (weight @ outer.reshape(size, -1)).reshape(people, count, count) / noise**2
        covariance = np.linalg.inv(matrix + np.eye(count, dtype=np.float32))
        code: Floats = np.einsum("pij,pj->pi", covariance, (weight * (data - mean)) @ basis / noise**2)
        # M step: mean and basis of each number together
        second = covariance + code[:, :, None] * code[:, None, :]
        extended = np.zeros((people, count + 1, count + 1), np.float32)
        extended[:, :count, :count], extended[:, count, count] = second, 1
        extended[:, :count, count] = extended[:, count, :count] = code
        w = weight * importance
        left = (w.T @ extended.reshape(people, -1)).reshape(size, count + 1, count + 1)
        left += 2e-1 * np.eye(count + 1, dtype=np.float32)  # numbers that few people show stay at the start
        right = (w * (data - mean)).T @ np.concatenate([code, np.ones((people, 1), np.float32)], 1)
        solved = np.linalg.solve(left, right[..., None])[..., 0]
        basis, mean = np.ascontiguousarray(solved[:, :count]), mean + solved[:, count]
        error = data - mean - code @ basis.T
        noise = float(np.sqrt((w * error**2).sum() / w.sum()))
        far = (error.reshape(people, -1, 3) ** 2).mean(2) / (_ROBUST * noise) ** 2
        weight = base / np.repeat((1 + far) ** 2, 3, axis=1)
    say(f"skin: {people} people, noise {noise:.4f}")
    # coefficients of people should have mean 0 and variance 1: move what is left into mean and basis
    share = importance / importance.sum()
    centre = (share * code).sum(0)
    mean = mean + basis @ centre
    scatter = ((share[:, :, None]) * (covariance + (code - centre)[:, :, None] * (code - centre)[:, None, :])).sum(0)
    basis = basis @ np.linalg.cholesky(scatter)
    value, turnout = np.linalg.eigh(basis.T.astype(np.float64) @ basis)
    basis = (basis @ turnout[:, ::-1]).astype(np.float64)
    basis *= np.where(basis.sum(0) < 0, -1, 1)
    assert bool((value > 0).all()) and bool(known.any())
    components = basis.T.reshape(count, -1, 3)
    seen = (skins.weight > 0.3).mean(0)
    return LearnedSkin(mean.reshape(-1, 3).astype(np.float64), components, seen, noise)
