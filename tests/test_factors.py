"""Factors: slices, normalisers, interpolation, named expressions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from copo.errors import CopoError
from copo.factors import (
    ARKIT_NAMES,
    EXPRESSION_COMBINATIONS,
    FACTOR_NAMES,
    Factors,
    FactorSpec,
    expression_vector,
    interpolate,
    slerp,
)

BFM = FactorSpec(
    "bfm09", 80, 80, tuple(f"exp_{i:02d}" for i in range(64)), expression_range=(-6.0, 6.0),
    normalisers={"shape": 4.2, "albedo": 9.0, "expression": 4.0, "illumination": 0.85},
)  # fmt: skip
OPEN = FactorSpec("open_head", 80, 40, ARKIT_NAMES, noise=16)


def test_published_layout() -> None:
    assert BFM.total == 379
    assert BFM.slices["noise"] == slice(0, 128)
    assert BFM.slices["identity"] == slice(128, 288)
    assert BFM.slices["expression"] == slice(288, 352)
    assert BFM.slices["illumination"] == slice(352, 379)


def test_vector_divides_by_the_normalisers_and_comes_back() -> None:
    factors = Factors.random(BFM, [3, 4]).replace(expression=torch.full((1, 64), 2.0))
    z = factors.to_vector()
    torch.testing.assert_close(z[:, BFM.slices["expression"]], torch.full((2, 64), 0.5))
    torch.testing.assert_close(z[:, BFM.slices["shape"]], factors.shape / 4.2)
    torch.testing.assert_close(factors.to_vector(normalise=False)[:, BFM.slices["albedo"]], factors.albedo)
    back = Factors.from_vector(BFM, z)
    for name in FACTOR_NAMES:
        torch.testing.assert_close(getattr(back, name), getattr(factors, name))


def test_a_seed_names_the_same_shape_whatever_the_other_sizes() -> None:
    wide = FactorSpec("open_head", 80, 60, ARKIT_NAMES, noise=64)
    assert torch.equal(Factors.random(OPEN, 7).shape, Factors.random(wide, 7).shape)
    assert not torch.equal(Factors.random(OPEN, 7).shape, Factors.random(OPEN, 8).shape)
    assert torch.equal(Factors.random(OPEN, [7, 8])[1].noise, Factors.random(OPEN, 8).noise)


def test_replacing_one_factor_keeps_the_others() -> None:
    factors = Factors.random(OPEN, [1, 2])
    changed = factors.with_expression(jawOpen=0.6)
    assert float(changed.expression[1, ARKIT_NAMES.index("jawOpen")]) == pytest.approx(0.6)
    for name in ("shape", "albedo", "illumination", "noise"):
        assert torch.equal(getattr(changed, name), getattr(factors, name))
    identity = torch.ones(120)
    assert torch.equal(factors.replace(identity=identity).identity, identity.expand(2, -1))


def test_combinations_name_real_units_and_add_up() -> None:
    for units in EXPRESSION_COMBINATIONS.values():
        assert set(units) <= set(ARKIT_NAMES)
    vector = expression_vector(OPEN, {"smile": 0.5, "mouthSmileLeft": 0.8, "jawOpen": 0.25})[0]
    assert float(vector[ARKIT_NAMES.index("mouthSmileLeft")]) == 1.0  # 0.5 + 0.8, clamped to the range
    assert float(vector[ARKIT_NAMES.index("mouthSmileRight")]) == 0.5
    assert float(vector[ARKIT_NAMES.index("cheekSquintLeft")]) == pytest.approx(0.2)
    assert float(vector[ARKIT_NAMES.index("jawOpen")]) == 0.25


def test_bad_expressions() -> None:
    with pytest.raises(CopoError, match="did you mean 'jawOpen'"):
        expression_vector(OPEN, {"jawopn": 0.5})
    with pytest.raises(CopoError, match="out of range: give a value from 0 to 1"):
        expression_vector(OPEN, {"jawOpen": 1.5})
    with pytest.raises(CopoError, match="unknown expression 'smile'"):
        expression_vector(BFM, {"smile": 0.5})


def test_bad_shapes_and_batches() -> None:
    factors = Factors.random(OPEN, [1, 2])
    with pytest.raises(CopoError, match="factor shape"):
        factors.replace(shape=torch.zeros(2, 3))
    with pytest.raises(CopoError, match="expected"):
        factors.replace(noise=torch.zeros(3, 16))
    with pytest.raises(CopoError, match="expected \\(B, 379\\)"):
        Factors.from_vector(BFM, torch.zeros(1, 378))
    with pytest.raises(CopoError, match="cannot be joined"):
        Factors.cat([factors, Factors.random(BFM, 1)])
    with pytest.raises(CopoError, match="unknown factor"):
        factors.replace(expresion=torch.zeros(2, 52))
    with pytest.raises(IndexError):
        factors[2]
    with pytest.raises(CopoError, match="negative"):
        Factors.random(OPEN, -1)


def test_spec_survives_json() -> None:
    assert FactorSpec.from_dict(BFM.to_dict()) == BFM
    with pytest.raises(CopoError, match="did you mean 'albedo'"):
        FactorSpec.from_dict({**BFM.to_dict(), "albedoo": 3})


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1))
def test_interpolation_ends_and_middle(t: float) -> None:
    a, b = Factors.random(OPEN, 1), Factors.random(OPEN, 2).with_expression(jawOpen=1.0)
    for mode in ("linear", "spherical"):
        middle = interpolate(a, b, t, mode)  # type: ignore[arg-type]
        assert float(middle.expression[0, ARKIT_NAMES.index("jawOpen")]) == pytest.approx(t, abs=1e-6)
        ends = interpolate(a, b, torch.tensor([0.0, 1.0]), mode)  # type: ignore[arg-type]
        torch.testing.assert_close(ends.shape, torch.cat([a.shape, b.shape]))
    length = interpolate(a, b, t, "spherical").noise.norm()
    expected = (1 - t) * a.noise.norm() + t * b.noise.norm()
    torch.testing.assert_close(length, expected, rtol=1e-4, atol=1e-4)


def test_slerp_by_hand() -> None:
    half = slerp(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]]), torch.tensor([[0.5]]))
    torch.testing.assert_close(half, torch.tensor([[3.0, 3.0]]) / 2**0.5)
    same = slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]), torch.tensor([[0.5]]))
    torch.testing.assert_close(same, torch.tensor([[2.0, 0.0]]))
