"""The fused pointwise kernels against their plain twins: on a GPU where there is one, otherwise in the interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the fused path needs Triton")

from copo.networks.pointwise import double_fused, modulate_fused, plain_double, plain_modulate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def picture(channels: int, height: int = 11, width: int = 13) -> Tensor:
    x = torch.randn(2, channels, height, width, device=DEVICE).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(True)


def test_by_hand() -> None:
    """One pixel, two channels: 3 * 2 - 1 = 5 stays, 3 * -1 + 0.5 = -2.5 becomes -0.5."""
    x = torch.full((1, 2, 1, 1), 3.0, device=DEVICE)
    y = modulate_fused(x, torch.tensor([[2.0, -1.0]], device=DEVICE), torch.tensor([-1.0, 0.5], device=DEVICE), True)
    assert y.flatten().tolist() == [5.0, -0.5]


@pytest.mark.parametrize("channels", [3, 16, 80])
@pytest.mark.parametrize("scaled,biased,activate", [(True, True, True), (True, False, False), (False, True, True)])
def test_gradients(channels: int, scaled: bool, biased: bool, activate: bool) -> None:
    torch.manual_seed(0)
    x = picture(channels)
    scale = torch.randn(2, channels, device=DEVICE, requires_grad=True) if scaled else None
    bias = torch.randn(channels, device=DEVICE, requires_grad=True) if biased else None
    given = [v for v in (x, scale, bias) if v is not None]
    weights = torch.randn(2, channels, 11, 13, device=DEVICE)
    made, wanted = (f(x, scale, bias, activate) for f in (modulate_fused, plain_modulate))
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)
    mine = torch.autograd.grad((made * weights).sum(), given)
    theirs = torch.autograd.grad((wanted * weights).sum(), given)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_twice_without_a_scale() -> None:
    """The penalty |d sum(act(x + b)^2) / dx|^2 and its gradients in x, b and w, as R1 needs them."""
    torch.manual_seed(1)
    x, w = picture(5), torch.randn(2, 5, 11, 13, device=DEVICE, requires_grad=True)
    bias = torch.randn(5, device=DEVICE, requires_grad=True)
    results = []
    for f in (modulate_fused, plain_modulate):
        y = f(x, None, bias, True)
        (g,) = torch.autograd.grad((y.square() * w).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(g.square().sum(), [x, w, bias]))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 8)])
def test_doubling(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    x = picture(7, *size)
    made, wanted = double_fused(x), plain_double(x)
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(wanted)
    (a,) = torch.autograd.grad((made * weights).sum(), x)
    (b,) = torch.autograd.grad((wanted * weights).sum(), x)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_bfloat16() -> None:
    torch.manual_seed(3)
    x = picture(32).to(torch.bfloat16)
    scale, bias = torch.rand(2, 32, device=DEVICE), torch.randn(32, device=DEVICE)
    made = modulate_fused(x, scale, bias, True)
    exact = plain_modulate(x.float(), scale, bias, True)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), exact, rtol=8e-3, atol=8e-3)
