from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from copo.field.composite import composite_weights, merged_weights, step_lengths


def test_half_opaque_samples() -> None:
    """Density ln 2 over steps of 1 lets half of the light pass, so the weights halve; the last sample is a wall."""
    steps = step_lengths(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    torch.testing.assert_close(steps, torch.tensor([1.0, 1.0, 1.0, 1e10]))
    weights = composite_weights(torch.full((4,), math.log(2)), steps)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.25, 0.125, 0.125]))


def test_last_step_of_its_own() -> None:
    steps = step_lengths(torch.tensor([[0.0, 2.0, 3.0]]), torch.tensor([0.5]))
    torch.testing.assert_close(steps, torch.tensor([[2.0, 1.0, 0.5]]))
    weights = composite_weights(torch.tensor([[0.0, math.log(2), 2 * math.log(2)]]), steps)
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.5, 0.25]]))


def test_nothing_behind_a_wall() -> None:
    weights = composite_weights(torch.tensor([0.0, 1e6, 50.0]), torch.ones(3))
    torch.testing.assert_close(weights, torch.tensor([0.0, 1.0, 0.0]))


densities = st.lists(st.floats(0, 1e4, width=32), min_size=2, max_size=24)


@given(densities, st.floats(1e-4, 1e10))
def test_weights_are_shares_of_light(values: list[float], last: float) -> None:
    """They add up to 1 - exp(-total thickness)."""
    depths = torch.linspace(0.88, 1.12, len(values), dtype=torch.float64)
    density = torch.tensor(values, dtype=torch.float64)
    steps = step_lengths(depths, last)
    weights = composite_weights(density, steps)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(), 1 - torch.exp(-(density * steps).sum()))


@given(densities, st.randoms(use_true_random=False))
def test_order_of_samples_does_not_matter(values: list[float], random) -> None:  # type: ignore[no-untyped-def]
    depths = torch.linspace(0.88, 1.12, len(values), dtype=torch.float64)
    density = torch.tensor(values, dtype=torch.float64)
    order = list(range(len(values)))
    random.shuffle(order)
    expected = composite_weights(density, step_lengths(depths, 0.01))[order]
    torch.testing.assert_close(merged_weights(depths[order], density[order], 0.01), expected)


def test_gradients() -> None:
    density = torch.tensor([[0.5, 3.0, 0.0, 20.0]], dtype=torch.float64, requires_grad=True)
    steps = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d: composite_weights(d, steps), (density,))
    depths = torch.tensor([[3.0, 1.0, 2.0, 1.5]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d: merged_weights(depths, d, 0.5), (density,))
