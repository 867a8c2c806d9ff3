"""Distances between sets of features, and plain statistics. Everything is float64 on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from copo.errors import CopoError
from copo.training.prior import frechet_distance

Array = NDArray[np.float64]
SUBSETS, SUBSET_SIZE = 100, 1000
"""Of the spread of the kernel distance (StyleGAN's numbers)."""
NEIGHBOURS = 5
"""k of the manifold metrics (Naeem et al. 2020)."""


@dataclass(frozen=True)
class Distance:
    """A distance, its spread over random subsets, and the biased value that counts each picture's pair with itself."""

    value: float
    spread: float
    biased: float


def frechet(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Frechet distance of the Gaussians that fit two sets of features (N, n), (M, n) (Heusel et al. 2017)."""
    return frechet_distance(torch.from_numpy(np.asarray(a, np.float64)), torch.from_numpy(np.asarray(b, np.float64)))


def kernel_distance(a: NDArray[Any], b: NDArray[Any], seed: int = 0) -> Distance:
    """Squared maximum mean discrepancy with the kernel (x . y / n + 1)^3, unbiased (Binkowski et al. 2018).

    The value uses all pairs; it has the expectation of the published mean over subsets and less variance. The spread is
    the standard deviation over `SUBSETS` random subsets of at most `SUBSET_SIZE`.

    Args:
        a: (N, n) features.
        b: (M, n) features.
        seed: Of the subsets.

    Raises:
        CopoError: A set has fewer than two rows.
    """
    if len(a) < 2 or len(b) < 2:
        raise CopoError(f"kernel distance of {len(a)} and {len(b)} pictures: give at least 2 of each")
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    size = x.shape[1]
    xx, yy, xy = ((p @ q.T / size + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    biased = float(xx.mean() + yy.mean() - 2 * xy.mean())
    np.fill_diagonal(xx, 0)
    np.fill_diagonal(yy, 0)
    n, m = len(x), len(y)
    value = xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * xy.mean()
    random, some = np.random.default_rng(seed), max(min(n, m, SUBSET_SIZE), 2)
    draws = []
    for _ in range(SUBSETS):
        i, j = random.choice(n, some, replace=False), random.choice(m, some, replace=False)
        within = (xx[np.ix_(i, i)].sum() + yy[np.ix_(j, j)].sum()) / (some * (some - 1))
        draws.append(within - 2 * xy[np.ix_(i, j)].mean())
    return Distance(float(value), float(np.std(draws)), biased)


@dataclass(frozen=True)
class Manifold:
    """How two sets lie to each other: precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem)."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: NDArray[Any], fake: NDArray[Any], k: int = NEIGHBOURS) -> Manifold:
    """Precision, recall, density and coverage by balls that reach to the k-th neighbour.

    Args:
        real: (N, n) features.
        fake: (M, n) features.
        k: Neighbours; the row itself does not count.

    Raises:
        CopoError: A set has no more than k rows.
    """
    if min(len(real), len(fake)) <= k:
        raise CopoError(f"coverage with {len(real)} and {len(fake)} pictures: give more than {k} of each")
    x, y = (torch.from_numpy(np.asarray(v, np.float64)) for v in (real, fake))
    real_reach, fake_reach = _reach(x, k), _reach(y, k)
    between = torch.cdist(x, y)  # (N, M)
    inside = between <= real_reach[:, None]
    return Manifold(
        precision=float(inside.any(0).double().mean()),
        recall=float((between <= fake_reach[None]).any(1).double().mean()),
        density=float(inside.double().sum(0).mean() / k),
        coverage=float((between.amin(1) <= real_reach).double().mean()),
    )


def _reach(rows: torch.Tensor, k: int) -> torch.Tensor:
    """(N,) distance to the k-th other row."""
    distance = torch.cdist(rows, rows)
    distance.fill_diagonal_(-1.0)
    return distance.kthvalue(k + 1, dim=1).values


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's; NaN below three values, 0 where one does not vary."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 3:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 1e-15 else 0.0


def slope(asked: NDArray[Any], measured: NDArray[Any]) -> float:
    """Least-squares slope of measured over asked; NaN where asked does not vary."""
    asked, measured = np.asarray(asked, np.float64), np.asarray(measured, np.float64)
    known = np.isfinite(asked) & np.isfinite(measured)
    a, b = asked[known], measured[known]
    if len(a) < 2 or np.ptp(a) < 1e-9:
        return float("nan")
    a = a - a.mean()
    return float(a @ (b - b.mean()) / (a @ a))


def mean(values: NDArray[Any]) -> float:
    """Mean of the finite values; NaN where there is none."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float("nan")
