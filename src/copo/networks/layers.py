"""Layers of StyleGAN2-type networks (Karras et al. 2020, appendix B), written for any device and precision.

Weights are stored with unit variance and multiplied at run time by a gain ("equalised learning rate"). Activations run
in the type of the picture that comes in (float32, bfloat16 or float16); latents, styles and demodulation always in
float32. Pictures are kept in channels-last memory. Nothing here depends on the values of tensors, so that everything
can be compiled and captured in CUDA graphs.
"""

from __future__ import annotations

import itertools
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copo.config import Resampling
from copo.errors import CopoError
from copo.networks import pointwise

NoiseMode = Literal["const", "random", "none"]

LRELU_SLOPE = 0.2
LRELU_GAIN = math.sqrt(2.0)
HALF_CLAMP = 256.0
"""Activations of float16 pictures are clamped to +- this (StyleGAN2-ADA's choice); other types are not clamped."""

_DEMODULATION_EPSILON = 1e-8


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context in which automatic mixed precision is off on the device of `x`."""
    kind = x.device.type  # asking is_autocast_available instead would break compiled graphs in torch 2.11
    return torch.autocast(kind, enabled=False) if kind != "meta" else nullcontext()


def lrelu(x: Tensor) -> Tensor:
    """Leaky rectifier of slope 0.2, in place; float16 is clamped against overflow.

    StyleGAN2's gain (`LRELU_GAIN`) is left to the caller, who folds it into the weights before: the rectifier is
    positively homogeneous.
    """
    x = F.leaky_relu(x, LRELU_SLOPE, inplace=True)
    return x.clamp(-HALF_CLAMP, HALF_CLAMP) if x.dtype == torch.float16 else x


def normalise_second_moment(x: Tensor) -> Tensor:
    """(..., C) divided by the root of the mean square over C (+ 1e-8)."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-8)


class Linear(nn.Module):
    """Fully connected layer with a run-time gain: y = x (W m / sqrt(fan_in))^T + b m, in float32.

    Args:
        inputs: Length of the last dimension of the input.
        outputs: Length of the last dimension of the output.
        lr_multiplier: m; the weight is stored divided by it.
        bias_init: Initial effective bias.
        activate: Follow with a leaky rectifier.
    """

    def __init__(
        self, inputs: int, outputs: int, lr_multiplier: float = 1.0, bias_init: float = 0.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(inputs)
        self.bias_gain = lr_multiplier
        self.activate = activate

    def effective(self) -> tuple[Tensor, Tensor]:
        """Weight (outputs, inputs) and bias (outputs,) in float32, gains folded in."""
        return self.weight.float() * self.weight_gain, self.bias.float() * self.bias_gain

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs) float32."""
        gain = LRELU_GAIN if self.activate else 1.0
        with full_precision(x):
            scaled = x.float() * (self.weight_gain * gain)
            y = F.linear(scaled, self.weight.float(), self.bias.float() * (self.bias_gain * gain))
        return lrelu(y) if self.activate else y


# --- resampling ------------------------------------------------------------------------------------------------------


def fir_kernel(gain: float = 1.0, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """(4, 4): the outer product of [1, 3, 3, 1], summing to `gain`.

    Made on the device by arithmetic: a copy from the host could not be captured in a CUDA graph.
    """
    index = torch.arange(4, device=device, dtype=dtype)
    taps = index * (3 - index) + 1
    return torch.outer(taps, taps) * (gain / 64.0)


def _filter(
    x: Tensor, before: int, after: int, gain: float = 1.0, stride: int = 1, bias: Tensor | None = None
) -> Tensor:
    """Zero-pad both sides of both axes, filter every channel with the FIR kernel, take every `stride`-th, add bias."""
    channels = x.shape[1]
    kernel = fir_kernel(gain, x.device, x.dtype).expand(channels, 1, 4, 4)
    if before != after:
        x, before = F.pad(x, (before, after, before, after)), 0
    return F.conv2d(x, kernel, bias, stride=stride, padding=before, groups=channels)


def _fold_upsampling(weight: Tensor) -> Tensor:
    """Fold "insert zeros, convolve with the flipped kernel, FIR" of factor 2 into kernels, along the last dimension.

    Args:
        weight: (..., 3).

    Returns:
        (..., 3, 2): for each of the two output phases, the correlation kernel over input samples i - 1, i, i + 1.
    """
    full = F.pad(weight, (0, 3)) + F.pad(weight, (3, 0)) + 3 * (F.pad(weight, (1, 2)) + F.pad(weight, (2, 1)))
    # Output 2 i + phase meets input i + offset at sample phase + 2 (1 - offset) of the combined kernel of 6 samples.
    return (full / 4).unflatten(-1, (3, 2)).flip(-2)


def upsample_conv_staged(x: Tensor, weight: Tensor, bias: Tensor | None, up: int) -> Tensor:
    """Insert zeros, convolve with the flipped kernel, apply the FIR filter: the published order of operations.

    Args:
        x: (B, I, H, W).
        weight: (O, I, 3, 3) or (O, I, 1, 1).
        bias: (O,) or None.
        up: Factor, at least 2.

    Returns:
        (B, O, up * H, up * W).
    """
    kernel = weight.shape[-1]
    y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=up)
    before = (4 + up - 1) // 2 - (kernel - 1) // 2
    total = up - kernel + 3  # so that the filtered picture is up times the input
    return _filter(y, before, total - before, gain=up * up, bias=bias)


def upsample_conv_folded(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`upsample_conv_staged` for kernel 3 and factor 2 as one 3 x 3 convolution whose channels are the output's phases.

    The zero insertion and the filter are folded into the weights: each of the four output phases is a 3 x 3
    convolution of the input. The channels of a phase stay side by side, so that memory is read and written in order.

    Args:
        x: (B, I, H, W).
        weight: (O, I, 3, 3).
        bias: (O,) or None.

    Returns:
        (B, O, 2 H, 2 W).
    """
    outputs, inputs = weight.shape[:2]
    columns = _fold_upsampling(weight)  # (O, I, 3 rows, 3, 2)
    folded = _fold_upsampling(columns.permute(0, 1, 3, 4, 2))  # (O, I, 3 columns, 2, 3 rows, 2)
    folded = folded.permute(5, 3, 0, 1, 4, 2)
    folded = folded.reshape(4 * outputs, inputs, 3, 3).contiguous(memory_format=torch.channels_last)
    if bias is not None:
        bias = bias.repeat(4)
    y = F.conv2d(x, folded, bias, padding=1).permute(0, 2, 3, 1).unflatten(3, (2, 2, outputs))
    return y.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def downsample_conv_fir(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """FIR filter, then a convolution of stride 2.

    Args:
        x: (B, I, H, W), H and W even.
        weight: (O, I, 3, 3) or (O, I, 1, 1).
        bias: (O,) or None.

    Returns:
        (B, O, H / 2, W / 2).
    """
    if weight.shape[-1] == 1:
        return F.conv2d(_filter(x, 1, 1, stride=2), weight, bias)
    return F.conv2d(_filter(x, 2, 2), weight, bias, stride=2)


def downsample_conv_box(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 2 x 2 box filter, then a convolution of stride 2, as one 4 x 4 convolution of stride 2.

    Arguments and result as `downsample_conv_fir`.
    """
    if weight.shape[-1] == 1:
        if x.device.type == "cpu":
            return F.conv2d(F.avg_pool2d(x, 2), weight, bias)
        # Four times the arithmetic, but the gradient of pooling is an order of magnitude slower than a convolution's.
        return F.conv2d(x, (weight * 0.25).expand(-1, -1, 2, 2), bias, stride=2)
    columns = F.pad(weight, (0, 1)) + F.pad(weight, (1, 0))
    folded = (F.pad(columns, (0, 0, 0, 1)) + F.pad(columns, (0, 0, 1, 0))) * 0.25
    return F.conv2d(x, folded.contiguous(memory_format=torch.channels_last), bias, stride=2, padding=1)


def upsample_picture(x: Tensor, resampling: Resampling) -> Tensor:
    """Double the side of a picture (B, C, H, W) -> (B, C, 2H, 2W).

    Both are bilinear; beyond the border "fir" sees zeros (the published filter), "folded" the nearest pixel. On a GPU
    they are made of shifted sums, whose gradient is many times as fast as that of PyTorch's interpolation.
    """
    if resampling == "folded" and pointwise.fused(x):
        return pointwise.double(x)
    if x.device.type != "cpu":
        x = x.permute(0, 2, 3, 1)
        for axis in (1, 2):
            x = _double_axis(x, axis, resampling)
        return x.permute(0, 3, 1, 2)
    if resampling == "folded":
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    x = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear", align_corners=False)
    return x[:, :, 2:-2, 2:-2]


def _double_axis(x: Tensor, axis: int, resampling: Resampling) -> Tensor:
    """Bilinear upsampling by 2 along one axis: three quarters of a sample and a quarter of its neighbour."""
    size = x.shape[axis]
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, size - 1, 1)
    if resampling == "fir":
        first, last = torch.zeros_like(first), torch.zeros_like(last)
    before = torch.cat([first, x.narrow(axis, 0, size - 1)], dim=axis)
    after = torch.cat([x.narrow(axis, 1, size - 1), last], dim=axis)
    return torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], dim=axis + 1).flatten(axis, axis + 1)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    resampling: Resampling = "fir",
) -> Tensor:
    """Convolution with "same" padding and built-in resampling.

    Upsampling by 2 computes the same function in both modes. On a CPU it runs staged, which needs a quarter of the
    arithmetic; elsewhere as one convolution, which needs fewer launches and is cheap to differentiate, also twice.

    Args:
        x: (B, I, H, W).
        weight: (O, I, k, k), k = 1 or 3, any floating type; used in the type of `x`.
        bias: (O,) or None; used in the type of `x`.
        up: Upsampling factor.
        down: Downsampling factor, 1 or 2; not together with `up`.
        resampling: See `GeneratorConfig.resampling`.

    Returns:
        (B, O, H * up / down, W * up / down).
    """
    weight = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    if up > 1:
        if weight.shape[-1] == 1 and up == 2:
            x = upsample_picture(F.conv2d(x, weight), resampling)
            return x if bias is None else x + bias[:, None, None]
        if up == 2 and x.device.type != "cpu":
            return upsample_conv_folded(x, weight, bias)
        return upsample_conv_staged(x, weight, bias, up)
    if down == 2:
        return (downsample_conv_box if resampling == "folded" else downsample_conv_fir)(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


# --- convolution layers ----------------------------------------------------------------------------------------------


class Conv(nn.Module):
    """Convolution with a run-time gain 1 / sqrt(fan_in), resampling, bias and leaky rectifier.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: 1 or 3.
        up: Upsampling factor.
        down: Downsampling factor, 1 or 2.
        resampling: See `GeneratorConfig.resampling`.
        bias: Whether there is a bias.
        activate: Whether a leaky rectifier (gain sqrt 2) follows.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        up: int = 1,
        down: int = 1,
        resampling: Resampling = "fir",
        bias: bool = True,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.weight_gain = 1.0 / math.sqrt(inputs * kernel * kernel)
        self.up, self.down, self.resampling, self.activate = up, down, resampling, activate

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H * up / down, W * up / down) in the type of `x`, times `gain`."""
        gain = gain * LRELU_GAIN if self.activate else gain
        bias = None if self.bias is None else self.bias * gain
        weight = self.weight * (self.weight_gain * gain)
        if bias is not None and self.activate and pointwise.fused(x):
            x = convolve(x, weight, None, self.up, self.down, self.resampling)
            return pointwise.modulate(x, None, bias, activate=True)
        x = convolve(x, weight, bias, self.up, self.down, self.resampling)
        return lrelu(x) if self.activate else x


class ModulatedConv(nn.Module):
    """Modulated and demodulated 3 x 3 convolution, noise, bias, leaky rectifier (the published formula).

    The published weights w' = s w / sqrt(sum (s w)^2 + 1e-8) are made for a batch of one. For more pictures they are
    applied as demodulation * conv(s * x, w), which needs no weights per picture. There the styles are first brought
    to a mean square of 1 / fan_in, so that half precision cannot overflow; the demodulation takes that out again.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        w_dim: Length of w.
        resolution: Side of the output picture.
        up: Upsampling factor.
        resampling: See `GeneratorConfig.resampling`.
        noise_input: Whether a learned multiple of a noise picture is added.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        resolution: int,
        up: int = 1,
        resampling: Resampling = "fir",
        noise_input: bool = True,
    ) -> None:
        super().__init__()
        self.affine = Linear(w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(())) if noise_input else None
        self.noise_const: Tensor | None
        self.register_buffer("noise_const", torch.randn(resolution, resolution) if noise_input else None)
        self.resolution, self.up, self.resampling = resolution, up, resampling

    def modulated_weight(self, w: Tensor) -> Tensor:
        """The weight of one picture: w (1, w_dim) -> (outputs, inputs, 3, 3), float32."""
        weight = self.weight.float() * self.affine(w).view(1, -1, 1, 1)
        return weight * torch.rsqrt(weight.square().sum(dim=(1, 2, 3), keepdim=True) + _DEMODULATION_EPSILON)

    def channel_scales(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """w (B, w_dim) -> scale of the input channels (B, inputs) and of the output channels (B, outputs), float32."""
        style = self.affine(w)
        with full_precision(w):
            scale = torch.rsqrt(style.square().mean(dim=1, keepdim=True) + _DEMODULATION_EPSILON)
            scale = scale / math.sqrt(self.weight[0].numel())
            energy = self.weight.float().square().sum(dim=(2, 3))
            style = style * scale
            demodulation = torch.rsqrt(style.square() @ energy.T + _DEMODULATION_EPSILON * scale.square())
        return style, demodulation

    def forward(self, x: Tensor, w: Tensor, noise: NoiseMode = "const", gain: float = 1.0) -> Tensor:
        """(B, inputs, H, W), (B, w_dim) -> (B, outputs, H * up, W * up) in the type of `x`, times `gain`."""
        gain = gain * LRELU_GAIN
        bias = self.bias * gain
        if x.shape[0] == 1:
            x = convolve(x, self.modulated_weight(w) * gain, bias, self.up, 1, self.resampling)
        else:
            style, demodulation = self.channel_scales(w)
            x = pointwise.modulate(x, style, None, activate=False)
            x = convolve(x, self.weight, None, self.up, 1, self.resampling)
            noisy = self.noise_strength is not None and noise != "none"
            if not noisy and pointwise.fused(x):
                return pointwise.modulate(x, demodulation * gain, bias, activate=True)
            x = pointwise.modulate(x, demodulation * gain, bias, activate=False)
        if self.noise_strength is not None and self.noise_const is not None and noise != "none":
            picture = self.noise_const
            if noise == "random":
                picture = torch.randn(x.shape[0], 1, *x.shape[2:], device=x.device, dtype=torch.float32)
            elif picture.shape != x.shape[2:]:
                size, wanted = tuple(picture.shape), tuple(x.shape[2:])
                raise CopoError(
                    f"noise pictures are {size}, the layer's output is {wanted}: use noise 'none' or 'random'"
                )
            x = x + (picture.float() * (self.noise_strength.float() * gain)).to(x.dtype)
        return lrelu(x)


class ToPicture(nn.Module):
    """Modulated 1 x 1 convolution without demodulation or activation ("to-RGB").

    Args:
        inputs: Channels in.
        outputs: Channels out.
        w_dim: Length of w.
    """

    def __init__(self, inputs: int, outputs: int, w_dim: int) -> None:
        super().__init__()
        self.affine = Linear(w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight_gain = 1.0 / math.sqrt(inputs)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, inputs, H, W), (B, w_dim) -> (B, outputs, H, W) in the type of `x`."""
        style = self.affine(w) * self.weight_gain
        weight = self.weight
        if x.shape[0] == 1:
            weight = weight.float() * style.view(1, -1, 1, 1)
        else:
            x = pointwise.modulate(x, style, None, activate=False)
        return convolve(x, weight, self.bias)


class Mapping(nn.Module):
    """Mapping network: latent and camera to w, each normalised by second moment first (paper; StyleGAN2).

    Args:
        latent: Length of z; 0 for a network of the camera alone.
        pose: Length of the pose; 0 for a network of the latent alone.
        width: Length of w and of every hidden layer.
        layers: Number of fully connected layers.
        lr_multiplier: Learning-rate multiplier.
    """

    def __init__(self, latent: int, pose: int, width: int, layers: int, lr_multiplier: float = 0.01) -> None:
        super().__init__()
        self.embed = Linear(pose, width) if pose else None
        sizes = [latent + (width if pose else 0)] + [width] * layers
        self.layers = nn.ModuleList(Linear(a, b, lr_multiplier, activate=True) for a, b in itertools.pairwise(sizes))
        self.latent, self.pose = latent, pose

    def forward(self, z: Tensor | None, pose: Tensor | None) -> Tensor:
        """z (B, latent) and pose (B, pose) -> w (B, width) float32. A part of length 0 is passed as None.

        Raises:
            CopoError: A part is missing or has another length.
        """
        parts = []
        for title, value, size in (("latent", z, self.latent), ("pose", pose, self.pose)):
            if (0 if value is None else value.shape[-1]) != size:
                given = "none" if value is None else tuple(value.shape)
                raise CopoError(f"mapping: {title} has shape {given}, expected (batch, {size})")
            if value is not None:
                embedded = self.embed(value) if title == "pose" and self.embed is not None else value.float()
                parts.append(normalise_second_moment(embedded))
        x = torch.cat(parts, dim=1)
        for layer in self.layers:
            x = layer(x)
        return x
