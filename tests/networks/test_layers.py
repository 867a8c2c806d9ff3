"""Layers against their published definitions, written out the slow way."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from copo.config import Resampling
from copo.errors import CopoError
from copo.networks import layers

torch.set_num_threads(2)

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8


def zero_inserted(x: Tensor, up: int) -> Tensor:
    y = x.new_zeros(*x.shape[:2], x.shape[2] * up, x.shape[3] * up)
    y[:, :, ::up, ::up] = x
    return y


def fir(x: Tensor) -> Tensor:
    """Valid filtering with the outer product of the taps."""
    kernel = torch.outer(TAPS, TAPS).to(x).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, groups=x.shape[1])


def upsampled(x: Tensor, weight: Tensor, up: int) -> Tensor:
    """Zero insertion, padding, true convolution (flipped kernel), filter: the definition."""
    kernel = weight.shape[-1]
    before, after = (4 + up - 1) // 2 + kernel // 2, (4 - up) // 2 + kernel // 2
    y = F.pad(zero_inserted(x, up), (before, after, before, after))
    return fir(F.conv2d(y, weight.flip(2, 3))) * up * up


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3), inputs=st.integers(1, 4), outputs=st.integers(1, 4), height=st.integers(1, 9),
    width=st.integers(1, 9), kernel=st.sampled_from([1, 3]), up=st.sampled_from([2, 3, 4]), seed=st.integers(0, 99),
)  # fmt: skip
def test_upsampling_convolution(
    batch: int, inputs: int, outputs: int, height: int, width: int, kernel: int, up: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, inputs, height, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64)
    expected = upsampled(x, weight, up) + bias[:, None, None]
    assert expected.shape == (batch, outputs, up * height, up * width)
    torch.testing.assert_close(layers.upsample_conv_staged(x, weight, bias, up), expected)
    if up == 2 and kernel == 3:
        torch.testing.assert_close(layers.upsample_conv_folded(x, weight, bias), expected)
    if up == 2 and kernel == 1:
        torch.testing.assert_close(layers.convolve(x, weight, bias, up=2), expected)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3), inputs=st.integers(1, 4), outputs=st.integers(1, 4), height=st.integers(1, 5),
    width=st.integers(1, 5), kernel=st.sampled_from([1, 3]), seed=st.integers(0, 99),
)  # fmt: skip
def test_downsampling_convolution(
    batch: int, inputs: int, outputs: int, height: int, width: int, kernel: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, inputs, 2 * height, 2 * width, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator, dtype=torch.float64)
    pad = kernel // 2 + 1
    filtered = fir(F.pad(x, (pad, pad, pad, pad)))
    expected = F.conv2d(filtered, weight, stride=2)
    torch.testing.assert_close(layers.downsample_conv_fir(x, weight, None), expected)
    half = kernel // 2
    boxed = F.avg_pool2d(F.pad(x, (half, half, half, half)), 2, stride=1)
    torch.testing.assert_close(layers.downsample_conv_box(x, weight, None), F.conv2d(boxed, weight, stride=2))
    assert expected.shape == (batch, outputs, height, width)


def test_upsampled_picture_is_bilinear() -> None:
    x = torch.tensor([[[[0.0, 4.0]]]])
    # Each new sample is 3/4 of the nearer and 1/4 of the farther old one; rows repeat or fade.
    torch.testing.assert_close(layers.upsample_picture(x, "folded")[0, 0], torch.tensor([[0.0, 1.0, 3.0, 4.0]] * 2))
    torch.testing.assert_close(layers.upsample_picture(x, "fir")[0, 0], 0.75 * torch.tensor([[0.0, 1.0, 3.0, 3.0]] * 2))
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64)[:, :, None, None]
    torch.testing.assert_close(layers.upsample_picture(x, "fir"), upsampled(x, identity, 2))


@pytest.mark.parametrize("resampling", ["fir", "folded"])
def test_shifted_sums_are_bilinear_upsampling(resampling: Resampling) -> None:
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    sums = layers._double_axis(layers._double_axis(x, 1, resampling), 2, resampling)
    torch.testing.assert_close(sums.permute(0, 3, 1, 2), layers.upsample_picture(x.permute(0, 3, 1, 2), resampling))


def published_modulation(layer: layers.ModulatedConv, x: Tensor, w: Tensor) -> Tensor:
    """One weight per picture, as in the paper's formula."""
    pictures = []
    for picture, latent in zip(x, w, strict=True):
        style = latent @ (layer.affine.weight.T / math.sqrt(latent.numel())) + layer.affine.bias
        weight = layer.weight * style[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        y = upsampled(picture[None], weight, 2) if layer.up == 2 else F.conv2d(picture[None], weight, padding=1)
        assert layer.noise_const is not None and layer.noise_strength is not None
        y = y + layer.noise_const * layer.noise_strength + layer.bias[:, None, None]
        pictures.append(F.leaky_relu(y, 0.2) * math.sqrt(2))
    return torch.cat(pictures)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("resampling", ["fir", "folded"])
def test_modulated_convolution(batch: int, up: int, resampling: str) -> None:
    torch.manual_seed(batch)
    layer = layers.ModulatedConv(6, 4, 7, 8 * up, up, resampling)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.bias.normal_()
        layer.noise_strength.fill_(0.7)  # type: ignore[union-attr]
        layer.affine.bias.normal_()
    x, w = torch.randn(batch, 6, 8, 8), torch.randn(batch, 7)
    torch.testing.assert_close(layer(x, w), published_modulation(layer, x, w), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x, w, gain=0.5), 0.5 * layer(x, w), rtol=1e-4, atol=1e-5)


def test_noise_modes() -> None:
    torch.manual_seed(0)
    layer = layers.ModulatedConv(3, 3, 4, 6)
    x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 4)
    assert torch.equal(layer(x, w, "const"), layer(x, w, "none"))  # its strength starts at zero
    with torch.no_grad():
        layer.noise_strength.fill_(1.0)  # type: ignore[union-attr]
    assert torch.equal(layer(x, w, "const"), layer(x, w, "const"))
    assert not torch.equal(layer(x, w, "random"), layer(x, w, "random"))
    with pytest.raises(CopoError, match=r"noise pictures are \(6, 6\), the layer's output is \(5, 6\)"):
        layer(x[:, :, 1:], w)
    assert layer(x[:, :, 1:], w, "random").shape == (2, 3, 5, 6)
    without = layers.ModulatedConv(3, 3, 4, 6, noise_input=False)
    without.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("noise")})
    assert torch.equal(without(x, w, "const"), layer(x, w, "none"))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_and_finite(batch: int, dtype: torch.dtype) -> None:
    """Huge styles, as a trained network has: float16 would overflow without the normalisation."""
    torch.manual_seed(0)
    layer = layers.ModulatedConv(512, 32, 16, 8)
    with torch.no_grad():
        layer.affine.bias.fill_(300.0)
    x, w = 50 * torch.randn(batch, 512, 8, 8), torch.randn(batch, 16)
    full, half = layer(x, w), layer(x.to(dtype), w)
    assert half.dtype == dtype and torch.isfinite(half).all()
    error = (half.float() - full.clamp(-256, 256)).abs().max() / full.std()
    assert error < (0.02 if dtype == torch.float16 else 0.15)


def test_float16_is_clamped() -> None:
    x = torch.tensor([3e4, -6e4, 1.0])
    assert layers.lrelu(x.half()).tolist() == [256.0, -256.0, 1.0]
    torch.testing.assert_close(layers.lrelu(x.clone()), torch.tensor([3e4, -1.2e4, 1.0]))


def test_linear_gain() -> None:
    layer = layers.Linear(4, 2, lr_multiplier=0.01, bias_init=1.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[100.0, 0, 0, 0], [0, 200.0, 0, 0]]))
    # W * 0.01 / sqrt(4): 0.5 and 1; the stored bias 100 counts as 1.
    x = torch.tensor([[2.0, 3.0, 9.0, 9.0]])
    torch.testing.assert_close(layer(x), torch.tensor([[2.0, 4.0]]))
    weight, bias = layer.effective()
    torch.testing.assert_close(F.linear(x, weight, bias), layer(x))
    assert layer(x.half()).dtype == torch.float32


def test_autocast_leaves_latents_in_full_precision() -> None:
    torch.manual_seed(0)
    mapping = layers.Mapping(5, 2, 16, 3)
    z, pose = torch.randn(4, 5), torch.randn(4, 2)
    expected = mapping(z, pose)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mapping(z, pose), expected)


def test_mapping_normalises_its_inputs() -> None:
    torch.manual_seed(0)
    mapping = layers.Mapping(5, 2, 16, 2)
    z, pose = torch.randn(3, 5), torch.randn(3, 2)
    torch.testing.assert_close(mapping(z, pose), mapping(7 * z, pose), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mapping(z, pose), mapping(z, pose + 1))


@pytest.mark.parametrize(
    ("z", "pose", "complaint"),
    [
        (torch.zeros(2, 4), torch.zeros(2, 2), r"latent has shape \(2, 4\), expected \(batch, 5\)"),
        (None, torch.zeros(2, 2), r"latent has shape none, expected \(batch, 5\)"),
        (torch.zeros(2, 5), torch.zeros(2, 3), r"pose has shape \(2, 3\), expected \(batch, 2\)"),
    ],
)
def test_mapping_refuses_other_sizes(z: Tensor | None, pose: Tensor, complaint: str) -> None:
    with pytest.raises(CopoError, match=complaint):
        layers.Mapping(5, 2, 16, 2)(z, pose)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("up", [1, 2])
def test_memory_stays_channels_last(batch: int, up: int) -> None:
    x = torch.randn(batch, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    outputs = [
        layers.ModulatedConv(16, 8, 4, 8 * up, up, "folded")(x, torch.randn(batch, 4)),
        layers.Conv(16, 8, 3, up=up, resampling="folded")(x),
        layers.Conv(16, 8, 1, up=up, resampling="folded", bias=False, activate=False)(x),
        layers.Conv(16, 8, 3, down=2, resampling="folded")(x),
        layers.ToPicture(16, 8, 4)(x, torch.randn(batch, 4)),
    ]
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in outputs)
