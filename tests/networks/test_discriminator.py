"""The discriminator: minibatch deviation by hand, double backward, precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from copo.config import DISCRIMINATOR_PRESETS, DiscriminatorConfig
from copo.errors import CopoError
from copo.networks.discriminator import Discriminator, DiscriminatorBlock, dual_picture, minibatch_deviation

TINY = DISCRIMINATOR_PRESETS["tiny"]


def test_minibatch_deviation_by_hand() -> None:
    """Four pictures, groups of two: pictures 0 and 2, and 1 and 3, are compared."""
    x = torch.zeros(4, 2, 1, 1)
    x[:, 0, 0, 0] = torch.tensor([0.0, 0.0, 6.0, 0.0])  # group {0, 2}: deviation 3 in one of two channels
    x[:, 1, 0, 0] = torch.tensor([1.0, 5.0, 1.0, 7.0])  # group {1, 3}: deviation 1 in the other
    out = minibatch_deviation(x, 2)
    assert torch.equal(out[:, :2], x)
    torch.testing.assert_close(out[:, 2, 0, 0], torch.tensor([1.5, 0.5, 1.5, 0.5]), atol=1e-3, rtol=0)


def test_groups_of_one_are_constant() -> None:
    """The published program's choice: the deviation of one picture is sqrt(1e-8)."""
    out = minibatch_deviation(torch.randn(3, 4, 2, 2), 1)
    torch.testing.assert_close(out[:, 4], torch.full((3, 2, 2), 1e-4))


@pytest.mark.parametrize(("batch", "used"), [(6, 3), (5, 1), (8, 4), (2, 2)])
def test_group_divides_the_batch(batch: int, used: int) -> None:
    x = torch.randn(batch, 3, 2, 2)
    torch.testing.assert_close(minibatch_deviation(x, 4), minibatch_deviation(x, used))


def inputs(batch: int, config: DiscriminatorConfig = TINY) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(batch, 6, config.resolution, config.resolution), torch.randn(batch, 2)


@pytest.mark.parametrize("resampling", ["fir", "folded"])
def test_outputs_and_gradients(resampling: str) -> None:
    torch.manual_seed(0)
    network = Discriminator(replace(TINY, resampling=resampling))  # type: ignore[arg-type]
    picture, pose = inputs(4)
    out = network(picture, pose)
    assert out.score.shape == (4, 1) and out.pose.shape == (4, 2) and out.latent.shape == (4, TINY.latent)
    (out.score.sum() + out.pose.square().sum() + out.latent.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("resampling", ["fir", "folded"])
def test_double_backward(resampling: str) -> None:
    """R1's gradient of a gradient in the whole network, against finite differences."""
    config = DiscriminatorConfig(
        resolution=16, image_channels=2, latent=1, channel_base=32, channel_max=3, cmap=2, mapping_layers=1,
        minibatch_group=2, resampling=resampling,  # type: ignore[arg-type]
    )  # fmt: skip
    torch.manual_seed(1)
    network = Discriminator(config)
    picture, pose = torch.randn(2, 2, 16, 16), torch.randn(2, 2)

    def penalty(scale: Tensor) -> Tensor:
        """R1 of the picture with the first weight scaled."""
        first = network.from_picture.weight
        score = torch.func.functional_call(network, {"from_picture.weight": first * scale}, (image, pose)).score
        (gradient,) = torch.autograd.grad(score.sum(), image, create_graph=True)
        return gradient.square().sum()

    image = picture.requires_grad_()
    scale = torch.ones((), requires_grad=True)
    value = penalty(scale)
    (slope,) = torch.autograd.grad(value, scale)
    step = 1e-3
    with torch.enable_grad():
        up, down = penalty(torch.tensor(1 + step)), penalty(torch.tensor(1 - step))
    estimate = (up - down) / (2 * step)
    assert value > 0 and abs(float(slope)) > 1e-6
    torch.testing.assert_close(slope, estimate.detach(), rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize("resampling", ["fir", "folded"])
def test_blocks_pass_gradgradcheck(resampling: str) -> None:
    config = DiscriminatorConfig(resolution=16, channel_base=32, channel_max=2, resampling=resampling)  # type: ignore[arg-type]
    torch.manual_seed(0)
    block = DiscriminatorBlock(config, 8).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(block, (x,), fast_mode=True)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = Discriminator(TINY)
    picture, pose = inputs(4)
    full, half = network(picture, pose), network(picture, pose, dtype=dtype)
    for ours, expected in zip(half, full, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - expected).abs().max() < 0.1 * expected.std()


def test_compiled_whole() -> None:
    torch.manual_seed(0)
    network = Discriminator(TINY)
    picture, pose = inputs(4)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for ours, expected in zip(compiled(picture, pose), network(picture, pose), strict=True):
        torch.testing.assert_close(ours, expected)


def test_another_size_is_refused() -> None:
    network: nn.Module = Discriminator(TINY)
    with pytest.raises(CopoError, match=r"picture has shape \(1, 6, 16, 16\), expected"):
        network(torch.zeros(1, 6, 16, 16), torch.zeros(1, 2))


def test_dual_picture() -> None:
    raw, picture = torch.full((2, 3, 4, 4), 0.5), torch.randn(2, 3, 16, 16)
    both = dual_picture(raw, picture)
    assert both.shape == (2, 6, 16, 16)
    assert torch.equal(both[:, 3:], picture)
    torch.testing.assert_close(both[:, :3], torch.full((2, 3, 16, 16), 0.5))
