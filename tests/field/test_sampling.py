from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from copo.field.sampling import importance_depths, uniform_depths


def test_uniform_depths_include_both_ends() -> None:
    depths = uniform_depths(torch.tensor([0.5, 1.0]), torch.tensor([1.5, 3.0]), 5)
    torch.testing.assert_close(depths, torch.tensor([[0.5, 0.75, 1.0, 1.25, 1.5], [1.0, 1.5, 2.0, 2.5, 3.0]]))


def test_jitter_stays_within_half_a_step_and_follows_the_generator() -> None:
    near, far = torch.zeros(500), torch.ones(500)
    draws = [uniform_depths(near, far, 6, torch.Generator().manual_seed(s), jitter=True) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    offset = draws[0] - uniform_depths(near, far, 6)
    assert offset.abs().max() <= 0.1 + 1e-6
    assert offset.min() < -0.098 and offset.max() > 0.098
    assert (draws[0].diff() >= 0).all()


def test_a_picture_moves_as_a_whole() -> None:
    near, far = torch.zeros(300, 4), torch.ones(300, 4)
    offset = uniform_depths(near, far, 6, torch.Generator().manual_seed(1), jitter="picture") - uniform_depths(
        near, far, 6
    )
    torch.testing.assert_close(offset, offset[:, :1, :1].expand_as(offset))
    assert offset.abs().max() <= 0.1 + 1e-6 and offset.min() < -0.095 and offset.max() > 0.095
    depths = torch.linspace(0, 1, 8).expand(300, 4, 8)
    even = torch.ones(300, 4, 8)
    moved = importance_depths(depths, even, 5, torch.Generator().manual_seed(1), jitter="picture")
    move = moved - importance_depths(depths, even, 5)
    # Uniform weights: quantile steps of 1/4 over bins that span 6/7; ends stay within.
    assert move[:, :, 1:4].abs().max() <= 6 / 7 / 8 + 1e-5
    torch.testing.assert_close(move[:, :, 1:4], move[:, :1, 1:2].expand(300, 4, 3), atol=1e-5, rtol=0)
    assert (moved.diff(dim=-1) >= 0).all()


def test_all_weight_in_one_bin() -> None:
    """Depths 0..4 make bins 0.5, 1.5, 2.5, 3.5; the middle sample owns the bin from 1.5 to 2.5.

    The others keep 2e-5 of the mass each, so u = 0 and u = 1 land on the outer ends of the bins.
    """
    found = importance_depths(torch.arange(5.0), torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]), 5)
    torch.testing.assert_close(found, torch.tensor([0.5, 1.75, 2.0, 2.25, 3.5]), atol=1e-3, rtol=0)


def test_two_bins_share_by_mass() -> None:
    """Mass 3/4 from 0.5 to 1.5 and 1/4 from 1.5 to 2.5; the first and last weight do not count."""
    found = importance_depths(torch.arange(4.0), torch.tensor([9.0, 0.75, 0.25, 9.0]), 5)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5 + 1 / 3, 0.5 + 2 / 3, 1.5, 2.5]), atol=1e-3, rtol=0)


weight_lists = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=12)


@given(weight_lists, st.integers(1, 20))
def test_depths_are_ordered_and_inside_the_bins(weights: list[float], count: int) -> None:
    depths = torch.linspace(0.88, 1.12, len(weights))
    found = importance_depths(depths, torch.tensor(weights), count)
    bins = (depths[1:] + depths[:-1]) / 2
    assert found.shape == (count,)
    assert (found.diff() >= -1e-6).all()
    assert found.min() >= bins[0] - 1e-6 and found.max() <= bins[-1] + 1e-6


@given(weight_lists)
def test_each_bin_gets_its_share(weights: list[float]) -> None:
    depths = torch.linspace(0, 1, len(weights))
    found = importance_depths(depths, torch.tensor(weights), 4001)
    bins = (depths[1:] + depths[:-1]) / 2
    mass = torch.tensor(weights[1:-1]) + 2e-5
    mass = mass / mass.sum()
    counts = torch.stack([((found >= a) & (found <= b)).float().mean() for a, b in itertools.pairwise(bins)])
    torch.testing.assert_close(counts, mass, atol=2e-3, rtol=0)


def test_random_quantiles_are_ordered_and_carry_no_gradient() -> None:
    depths = torch.linspace(0, 1, 8).expand(64, 8)
    weights = torch.rand(64, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = importance_depths(depths, weights, 16, torch.Generator().manual_seed(1), jitter=True)
    assert not found.requires_grad
    assert (found.diff() >= 0).all()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found, importance_depths(depths, weights, 16))
