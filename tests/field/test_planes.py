from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from copo.field.planes import BOX_MARGIN, _sample_by_grid, _sample_by_rows, sample_planes

BOX = 0.2
coordinates = st.tuples(*[st.floats(-0.2, 0.2)] * 3)


def linear_planes(size: int) -> Tensor:
    """Channel 0 of plane p holds its width coordinate, channel 1 its height coordinate, in metres; 10^p times."""
    u = torch.linspace(-BOX - BOX_MARGIN, BOX + BOX_MARGIN, size).expand(size, size)
    v = u.T
    return torch.stack([torch.stack([u, v]) * 10**p for p in range(3)])[None]


@given(coordinates, st.integers(2, 9))
def test_linear_functions_are_exact(point: tuple[float, float, float], size: int) -> None:
    """Planes xz, xy, yz: widths run along x, x, y and heights along z, y, z."""
    x, y, z = point
    found = sample_planes(linear_planes(size), torch.tensor([[point]]), BOX)
    expected = torch.tensor([[[x + 10 * x + 100 * y, z + 10 * y + 100 * z]]])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_points_outside_see_the_border() -> None:
    planes = torch.randn(1, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    far = sample_planes(planes, torch.tensor([[[9.0, -9.0, 0.05]]]), BOX)
    edge = sample_planes(planes, torch.tensor([[[0.21, -0.21, 0.05]]]), BOX)
    torch.testing.assert_close(far, edge)


def random_case(batch: int = 2, channels: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    planes = torch.randn(batch, 3, channels, 7, 7, generator=generator)
    points = (torch.rand(batch, 40, 3, generator=generator) - 0.5) * 2.2  # some outside
    return planes, points


@pytest.mark.parametrize("layout", ["contiguous", "texels side by side"])
def test_both_ways_agree_in_value_and_gradient(layout: str) -> None:
    planes, points = random_case()
    if layout != "contiguous":
        planes = planes.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    unit = points.clamp(-1, 1)
    results = []
    for sample in (_sample_by_rows, _sample_by_grid):
        p, u = planes.clone().requires_grad_(), unit.clone().requires_grad_()
        out = sample(p, u)
        weight = torch.linspace(-1, 1, out.numel()).view_as(out)
        inner = (unit.abs() < 1).all(-1, keepdim=True)  # at the border the two choose different one-sided slopes
        gp, gu = torch.autograd.grad((out * weight).sum(), (p, u))
        results.append((out, gp, gu * inner))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_each_portrait_reads_its_own_planes() -> None:
    planes, points = random_case()
    both = sample_planes(planes, points, BOX)
    for b in range(2):
        torch.testing.assert_close(both[b : b + 1], sample_planes(planes[b : b + 1], points[b : b + 1], BOX))
