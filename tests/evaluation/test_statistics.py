"""Distances and statistics against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copo.errors import CopoError
from copo.evaluation.control import disentanglement
from copo.evaluation.privacy import nearest
from copo.evaluation.statistics import correlation, frechet, kernel_distance, manifold, mean, slope


def test_frechet_distance_of_two_gaussians() -> None:
    """One dimension: (m1 - m2)^2 + (s1 - s2)^2; the sample deviation of -1, 1 is sqrt 2."""
    a = np.array([[-1.0], [1.0]])
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + 3) == pytest.approx(9)
    assert frechet(a, 2 * a) == pytest.approx(2)


def test_frechet_distance_of_random_gaussians() -> None:
    random = np.random.default_rng(0)
    a = random.normal(0, 1, (20_000, 2))
    b = random.normal(0, 1, (20_000, 2)) * [2.0, 1.0] + [1.0, 0.0]
    assert frechet(a, b) == pytest.approx(1 + 1, rel=0.05)


def test_kernel_distance_by_hand() -> None:
    """k(x, y) = (x y + 1)^3: within zeros 1, within ones 8, between 1; 1 + 8 - 2 = 7."""
    found = kernel_distance(np.zeros((3, 1)), np.ones((3, 1)))
    assert found.value == pytest.approx(7)
    assert found.biased == pytest.approx(7)


def test_kernel_distance_is_unbiased() -> None:
    random = np.random.default_rng(1)
    values = [kernel_distance(*random.normal(size=(2, 40, 8)), seed=i) for i in range(30)]
    found, biased = np.array([v.value for v in values]), np.array([v.biased for v in values])
    assert abs(found.mean()) < 3 * found.std() / 30**0.5
    assert biased.mean() > 3 * found.std()
    with pytest.raises(CopoError, match="at least 2"):
        kernel_distance(np.zeros((1, 3)), np.zeros((5, 3)))


def test_manifold_of_equal_and_of_distant_sets() -> None:
    rows = np.random.default_rng(2).normal(size=(60, 4))
    same = manifold(rows, rows)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    far = manifold(rows, rows + 100)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_manifold_by_hand() -> None:
    """Balls to the nearest neighbour (k = 1) have radius 1 around 0, 1 and 9 around 10."""
    real, fake = np.array([[0.0], [1.0], [10.0]]), np.array([[0.5], [0.6], [30.0]])
    found = manifold(real, fake, k=1)
    assert found.precision == pytest.approx(2 / 3)  # 30 lies in no ball
    assert found.recall == pytest.approx(2 / 3)  # 1 and 10 lie in the ball of 30, whose radius is 29.4
    assert found.density == pytest.approx((2 + 2) / 3)  # 0.5 and 0.6 lie in the balls of 0 and of 1
    assert found.coverage == pytest.approx(2 / 3)  # 10 reaches to 1, no fake is that near
    with pytest.raises(CopoError, match="more than 5"):
        manifold(real, fake)


@given(st.floats(-3, 3), st.floats(-5, 5), st.integers(0, 1000))
def test_correlation_and_slope_of_a_line(gain: float, shift: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=12)
    assert slope(x, gain * x + shift) == pytest.approx(gain, abs=1e-9)
    if abs(gain) > 1e-3:
        assert correlation(x, gain * x + shift) == pytest.approx(np.sign(gain))


def test_values_that_are_not_known_are_left_out() -> None:
    x, y = np.array([0.0, 1.0, np.nan, 2.0]), np.array([0.0, 2.0, 5.0, 4.0])
    assert slope(x, y) == pytest.approx(2)
    assert mean(x) == pytest.approx(1)
    assert np.isnan(correlation(x[:2], y[:2]))
    assert np.isnan(slope(np.ones(4), y))


def test_nearest_rows() -> None:
    rows, others = np.array([[0.0, 0.0], [5.0, 0.0]]), np.array([[0.0, 3.0], [5.0, 1.0], [9.0, 9.0]])
    distance, which = nearest(rows, others)
    assert distance == pytest.approx([3, 1])
    assert which.tolist() == [0, 1]


def _groups(leak: float) -> dict[str, float]:
    """Two factors: what is measured of each follows itself, and the other with a leak."""
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 10)
    varied = np.repeat([0, 1], 200)
    latent = {f: random.normal(size=(40, 1)).repeat(10, 0).reshape(-1, 1) for f in ("a", "b")}
    for i, name in enumerate(("a", "b")):
        rows = varied == i
        latent[name][rows] = random.normal(size=(200, 1))
    noise = 0.1 * random.normal(size=(400, 1))
    values = {"a": latent["a"] + leak * latent["b"] + noise, "b": latent["b"] + leak * latent["a"] + noise}
    return disentanglement(values, varied, group, ["a", "b"])


def test_disentanglement_falls_with_leakage() -> None:
    """Without leakage the ratio is that of signal to noise, about sqrt(1 + 0.01) / 0.1; with a full leak it is 1."""
    clean, leaking, mixed = _groups(0.0), _groups(0.5), _groups(1.0)
    assert all(8 < v < 13 for v in clean.values())
    assert all(1.5 < v < 2.6 for v in leaking.values())
    assert all(v == pytest.approx(1, abs=0.1) for v in mixed.values())
