"""The generator's picture networks for inference: weights cast once to half precision, nothing between the convolutions
but one fused kernel each. The plain twins are `copo.networks.synthesis` and `copo.networks.super_resolution`.

These objects hold copies of the weights as they were when they were made. Pictures inside are (B, H, W, C).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from copo.config import GeneratorConfig
from copo.field.fused import picture_kernels as kernels
from copo.networks.generator import GeneratorMapping
from copo.networks.layers import LRELU_GAIN, Conv, Linear, ModulatedConv, ToPicture
from copo.networks.super_resolution import SuperResolution
from copo.networks.synthesis import Synthesis, SynthesisBlock

HALF = torch.float16
"""Type of activations and convolution weights. Styles, demodulation and sums inside a kernel are float32."""

_BRANCH_GAIN = math.sqrt(0.5)
_BLOCK_ROWS = 16


def pictures_obstacle(config: GeneratorConfig) -> str | None:
    """Why the fused picture networks cannot run this configuration, or None if they can."""
    widths = [config.channels(r) for r in config.plane_levels] + [*config.sr_channels, config.feature_channels]
    if any(width % 16 for width in widths):
        return f"channel counts {widths} are not all multiples of 16"
    if config.output_resolution != 4 * config.raw_resolution:
        return f"super-resolution from {config.raw_resolution} to {config.output_resolution} is not two doublings"
    return None


def phase_weights(weight: Tensor) -> Tensor:
    """An upsampling convolution as a plain one whose channels are the four output phases.

    A transposed convolution of stride 2 followed by the filter f = [1, 3, 3, 1] / 4 is, along one axis, a transposed
    convolution with the six taps g = k * f. Output 2 i + p reads the input i + o, o = -1, 0, 1, with tap
    g[p + 2 - 2 o], so each phase p is a convolution with three taps.

    Args:
        weight: (O, I, 3, 3).

    Returns:
        (4 O, I, 3, 3), channels ordered (row phase, column phase, O).
    """
    outputs, inputs = weight.shape[:2]
    f = weight.new_tensor([1.0, 3.0, 3.0, 1.0]) / 4
    g = F.conv2d(weight.reshape(-1, 1, 3, 3), torch.outer(f, f)[None, None], padding=3)
    g = g.view(outputs, inputs, 6, 6)
    taps = [[p + 4, p + 2, p] for p in (0, 1)]
    return torch.cat([g[:, :, rows][:, :, :, columns] for rows in taps for columns in taps])


class _Style(NamedTuple):
    """Where a layer finds its vectors in a bank's output; None where it has none."""

    style: slice | None
    demodulation: slice | None


class StyleBank:
    """Styles and demodulations of many layers in two launches.

    Args:
        device: Where the bank lives.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._rows: list[Tensor] = []
        self._biases: list[Tensor] = []
        self._energies: list[Tensor] = []
        self._picks: list[int] = []
        self._table: list[list[int]] = []
        self.styles = self.outputs = 0
        self._widest = 1

    def add(self, layer: ModulatedConv | ToPicture, w: int) -> _Style:
        """Take in a layer that reads the w-th intermediate latent."""
        gain = layer.weight_gain if isinstance(layer, ToPicture) else 1.0
        weight, bias = (v * gain for v in layer.affine.effective())
        style = slice(self.styles, self.styles + len(bias))
        self._rows.append(weight)
        self._biases.append(bias)
        self._picks += [w] * (len(bias) // _BLOCK_ROWS)
        self.styles += len(bias)
        self._widest = max(self._widest, len(bias))
        if isinstance(layer, ToPicture):
            return _Style(style, None)
        energy = layer.weight.float().square().sum(dim=(2, 3))
        outputs = len(energy)
        start = sum(e.numel() for e in self._energies)
        for row in range(0, outputs, _BLOCK_ROWS):
            entry = [style.start, len(bias), start + row * len(bias), self.outputs + row, int(row == 0)]
            self._table.append(entry)
        self._energies.append(energy)
        self.outputs += outputs
        return _Style(style, slice(self.outputs - outputs, self.outputs))

    def close(self) -> None:
        """Bring what was added into the kernels' layout."""
        like: dict[str, Any] = {"device": self.device, "dtype": torch.int32}
        if self._rows:
            self.weight, self.bias = torch.cat(self._rows), torch.cat(self._biases)
        if self._energies:
            self.energy = torch.cat([e.flatten() for e in self._energies])
        self.picks = torch.tensor(self._picks, **like)
        self.table = torch.tensor(self._table, **like)
        self._rows, self._biases, self._energies = [], [], []

    def __call__(self, ws: Tensor) -> Vectors:
        """ws (B, n, w_dim) float32, the last dimension contiguous -> every layer's vectors."""
        batch = ws.shape[0]
        like: dict[str, Any] = {"device": self.device, "dtype": torch.float32}
        plain, scaled = torch.empty(2, batch, self.styles, **like)
        demodulation = torch.empty(batch, self.outputs, **like)
        if self.styles:
            kernels.dense[len(self.picks), batch](
                ws, self.picks, self.weight, self.bias, plain, self.styles, ws.shape[2], ws.stride(0), ws.stride(1),
                ROWS=_BLOCK_ROWS, INPUTS=triton.next_power_of_2(ws.shape[2]), ACTIVATE=False,
            )  # fmt: skip
        if self.outputs:
            kernels.demodulate[len(self.table), batch](
                plain, self.table, self.energy, scaled, demodulation, self.styles, self.outputs,
                ROWS=_BLOCK_ROWS, INPUTS=triton.next_power_of_2(self._widest),
            )  # fmt: skip
        return Vectors(plain, scaled, demodulation)


class Vectors(NamedTuple):
    """A bank's output: styles as they are (for to-picture layers), styles scaled for convolutions, demodulations."""

    plain: Tensor
    scaled: Tensor
    demodulation: Tensor


class _Vector(NamedTuple):
    """One vector per picture and the distance from one picture's to the next in memory (0: shared by all)."""

    values: Tensor
    stride: int


class _Convolution:
    """A 3 x 3 layer. Modulated ones take their vectors from a bank, plain ones have constants."""

    def __init__(self, layer: ModulatedConv | Conv, bank: StyleBank, w: int, gain: float = 1.0) -> None:
        weight = layer.weight.float() if isinstance(layer, ModulatedConv) else layer.weight.float() * layer.weight_gain
        self.inputs, self.outputs = weight.shape[1], weight.shape[0]
        self.up, self.gain = layer.up == 2, LRELU_GAIN * gain
        self.weight = (phase_weights(weight) if self.up else weight).to(HALF)
        self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        zeros = torch.zeros(self.outputs, device=weight.device)
        self.bias = zeros if layer.bias is None else layer.bias.float().contiguous()
        self.noise: Tensor | None = None
        self.place = _Style(None, None)
        if isinstance(layer, ModulatedConv):
            self.place = bank.add(layer, w)
            if layer.noise_strength is not None and layer.noise_const is not None:
                self.noise = (layer.noise_const.float() * layer.noise_strength.float()).contiguous()
        else:
            self.demodulation_constant = torch.ones_like(zeros)
            self.style_constant = torch.ones(self.inputs, device=weight.device)

    def style(self, vectors: Vectors) -> _Vector:
        """What the input is multiplied by."""
        if self.place.style is None:
            return _Vector(self.style_constant, 0)
        return _Vector(vectors.scaled[:, self.place.style], vectors.scaled.stride(0))

    def demodulation(self, vectors: Vectors) -> _Vector:
        """What the output is multiplied by."""
        if self.place.demodulation is None:
            return _Vector(self.demodulation_constant, 0)
        return _Vector(vectors.demodulation[:, self.place.demodulation], vectors.demodulation.stride(0))

    def __call__(self, x: Tensor) -> Tensor:
        """(B, H, W, I), already multiplied by the style -> (B, H, W, O), or (B, H, W, 4 O) of phases."""
        y = F.conv2d(x.permute(0, 3, 1, 2), self.weight, padding=1).permute(0, 2, 3, 1)
        return y.contiguous()


class _Picture(NamedTuple):
    """A 1 x 1 layer: weight (C, columns padded) half, bias (columns padded), number of columns, style slice."""

    weight: Tensor
    bias: Tensor
    columns: int
    style: slice | None

    @classmethod
    def of(cls, layer: ToPicture | Conv, bank: StyleBank, w: int, gain: float = 1.0) -> _Picture:
        """From a to-picture layer, or a plain 1 x 1 convolution whose output is multiplied by `gain`."""
        weight = layer.weight.float()[:, :, 0, 0].T
        place = None
        if isinstance(layer, ToPicture):
            place = bank.add(layer, w).style
        else:
            weight = weight * (layer.weight_gain * gain)
        columns = weight.shape[1]
        padding = max(16, triton.next_power_of_2(columns)) - columns
        bias = weight.new_zeros(columns) if layer.bias is None else layer.bias.float()
        return cls(F.pad(weight, (0, padding)).to(HALF).contiguous(), F.pad(bias, (0, padding)), columns, place)


def _expand(y: Tensor, layer: _Convolution, following: _Vector, vectors: Vectors) -> Tensor:
    """(B, h, w, 4 C) of `layer` -> (B, 2h, 2w, C), activated, times the style that follows."""
    batch, height, width = y.shape[0], 2 * y.shape[1], 2 * y.shape[2]
    channels = layer.outputs
    out = torch.empty(batch, height, width, channels, device=y.device, dtype=HALF)
    pixels, part = min(32, height * width), _part(channels)
    d = layer.demodulation(vectors)
    kernels.expand[height * width // pixels, channels // part, batch](
        y, d.values, layer.bias, y if layer.noise is None else layer.noise, following.values, out,
        width, d.stride, following.stride, layer.gain,
        C=channels, PIXELS=pixels, CHANNELS=part, NOISE=layer.noise is not None,
    )  # fmt: skip
    return out


def _finish(
    y: Tensor,
    layer: _Convolution | None,
    following: _Vector | None,
    picture: _Picture,
    vectors: Vectors,
    edge: bool,
    residual: Tensor | None = None,
    below: Tensor | None = None,
    dtype: torch.dtype = HALF,
) -> tuple[Tensor | None, Tensor]:
    """(B, H, W, C) of `layer` (None: y needs no activation) -> what `kernels.finish` says: (next input, picture)."""
    batch, height, width, channels = y.shape
    out = None if following is None else torch.empty(batch, height, width, channels, device=y.device, dtype=HALF)
    shown = torch.empty(batch, height, width, picture.columns, device=y.device, dtype=dtype)
    pixels = min(64, height * width)
    padded = picture.weight.shape[1]
    columns = min(padded, 32) if height * width <= 4096 else padded  # small pictures: more programs, each less to do
    d = layer.demodulation(vectors) if layer is not None else _Vector(picture.bias, 0)
    style = following or d
    picture_style = picture.bias if picture.style is None else vectors.plain[:, picture.style]
    noise = None if layer is None else layer.noise
    stride_s = max(
        0 if following is None else following.stride, 0 if picture.style is None else vectors.plain.stride(0)
    )
    kernels.finish[height * width // pixels, padded // columns, batch](
        y, d.values, picture.bias if layer is None else layer.bias, y if noise is None else noise,
        y if residual is None else residual, style.values, y if out is None else out,
        picture.weight, picture_style, picture.bias, y if below is None else below, shown,
        width, d.stride, stride_s, 1.0 if layer is None else layer.gain,
        C=channels, N=picture.columns, PIXELS=pixels, CHANNELS=_part(channels), COLUMNS=columns,
        ACTIVATE=layer is not None, NOISE=noise is not None, RESIDUAL=residual is not None, OUT=out is not None,
        STYLED=picture.style is not None, BELOW=below is not None, EDGE=edge,
    )  # fmt: skip
    return out, shown


def _part(channels: int) -> int:
    return math.gcd(channels, 64)


class FusedMapping:
    """z and pose to w (see `GeneratorMapping`)."""

    @torch.no_grad()
    def __init__(self, mapping: GeneratorMapping) -> None:
        network = mapping.network
        assert network.embed is not None
        self.latent, self.w_avg, self.ws_count = network.latent, mapping.w_avg.float(), mapping.ws_count
        self.embed = network.embed.effective()
        # The rectifier's gain goes into the weights: it commutes with positive factors.
        self.layers: list[tuple[Tensor, Tensor]] = []
        for layer in network.layers:
            assert isinstance(layer, Linear)
            weight, bias = layer.effective()
            self.layers.append((weight * LRELU_GAIN, bias * LRELU_GAIN))
        widest = max(weight.shape[0] for weight, _ in self.layers)
        self.picks = torch.zeros(triton.cdiv(widest, 4), dtype=torch.int32, device=self.w_avg.device)

    def __call__(self, z: Tensor, pose: Tensor, psi: Tensor) -> Tensor:
        """z (B, latent), pose (B, 2), psi (B, 1) -> ws (B, ws_count, w_dim)."""
        batch, width = z.shape[0], len(self.w_avg)
        x = torch.empty(batch, self.latent + len(self.embed[1]), device=z.device)
        kernels.mapping_input[(batch,)](
            z, pose, *self.embed, x, self.latent, len(self.embed[1]),
            Z=triton.next_power_of_2(self.latent), W=triton.next_power_of_2(len(self.embed[1])),
        )  # fmt: skip
        for weight, bias in self.layers:
            y = torch.empty(batch, len(bias), device=z.device)
            kernels.dense[triton.cdiv(len(bias), 4), batch](
                x, self.picks, weight, bias, y, len(bias), x.shape[1], x.stride(0), 0,
                ROWS=4, INPUTS=triton.next_power_of_2(x.shape[1]), ACTIVATE=True,
            )  # fmt: skip
            x = y
        return torch.lerp(self.w_avg, x, psi)[:, None].expand(batch, self.ws_count, width)


class FusedSynthesis:
    """ws to planes (see `Synthesis`)."""

    @torch.no_grad()
    def __init__(self, synthesis: Synthesis) -> None:
        config = synthesis.config
        self.config, self.edge = config, config.resampling == "folded"
        self.const = synthesis.const.to(HALF).permute(1, 2, 0).contiguous()
        self.bank = StyleBank(synthesis.const.device)
        self.blocks: list[tuple[_Convolution | None, _Convolution, _Picture]] = []
        w = 0
        for block in synthesis.blocks:
            assert isinstance(block, SynthesisBlock)
            conv0 = None
            if block.conv0 is not None:
                conv0 = _Convolution(block.conv0, self.bank, w)
                w += 1
            conv1 = _Convolution(block.conv1, self.bank, w)
            w += 1
            self.blocks.append((conv0, conv1, _Picture.of(block.to_planes, self.bank, w)))
        self.bank.close()

    def __call__(self, ws: Tensor) -> Tensor:
        """ws (B, n, w_dim) -> planes (B, 3, C, R, R) in half precision, channels of a texel side by side."""
        vectors = self.bank(ws)
        first = self.blocks[0][1].style(vectors)
        x = (self.const * first.values[:, None, None]).to(HALF)
        planes: Tensor | None = None
        for index, (conv0, conv1, picture) in enumerate(self.blocks):
            if conv0 is not None:
                x = _expand(conv0(x), conv0, conv1.style(vectors), vectors)
            following = self.blocks[index + 1][0] if index + 1 < len(self.blocks) else None
            style = None if following is None else following.style(vectors)
            dtype = torch.float32 if following is not None else HALF
            out, planes = _finish(conv1(x), conv1, style, picture, vectors, self.edge, below=planes, dtype=dtype)
            x = x if out is None else out
        assert planes is not None
        return planes.permute(0, 3, 1, 2).unflatten(1, (3, self.config.plane_channels))


class FusedSuperResolution:
    """Features to the final picture (see `SuperResolution`), for pictures of the configuration's size."""

    @torch.no_grad()
    def __init__(self, network: SuperResolution, config: GeneratorConfig) -> None:
        self.edge, self.add_raw = config.resampling == "folded", config.sr_skip
        self.bank = StyleBank(network.block0.skip.weight.device)
        first, second = network.block0, network.block1
        self.convolutions = [
            _Convolution(first.conv0, self.bank, 0),
            _Convolution(first.conv1, self.bank, 1, _BRANCH_GAIN),
            _Convolution(second.conv0, self.bank, 1),
            _Convolution(second.conv1, self.bank, 2, _BRANCH_GAIN),
        ]
        self.skips = [_Picture.of(block.skip, self.bank, 0, _BRANCH_GAIN) for block in (first, second)]
        self.to_rgb = _Picture.of(network.to_rgb, self.bank, 3)
        self.bank.close()

    def __call__(self, features: Tensor, ws: Tensor) -> Tensor:
        """features (B, h, w, F), ws (B, n, w_dim) -> picture (B, 3, 4h, 4w) float32."""
        vectors = self.bank(ws)
        a, b, c, d = self.convolutions
        x, skip = _finish(features, None, a.style(vectors), self.skips[0], vectors, self.edge)
        x = _expand(a(_given(x)), a, b.style(vectors), vectors)
        x, skip = _finish(b(x), b, c.style(vectors), self.skips[1], vectors, self.edge, residual=skip)
        x = _expand(c(_given(x)), c, d.style(vectors), vectors)
        _, picture = _finish(d(x), d, None, self.to_rgb, vectors, self.edge, residual=skip, dtype=torch.float32)
        picture = picture.permute(0, 3, 1, 2)
        if self.add_raw:
            raw = features[..., :3].permute(0, 3, 1, 2).float() * 2 - 1
            picture = picture + F.interpolate(raw, size=picture.shape[2:], mode="bilinear", align_corners=False)
        return picture


def _given(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
