"""The analyser: one small network that reads factors, pose, landmarks and labels from an aligned portrait.

    picture 256 px -> EfficientNet-Lite0 -> maps at 1/2 .. 1/32
        top-down decoder over the maps: heat maps of 68 + 478 points at 1/8 (soft-argmax: Sun et al. 2018, "Integral
            human pose regression"), 19-class labels at 1/2
        pooled maps and the points -> shape, albedo, expression, illumination, rotation (Zhou et al. 2019, "On the
            continuity of rotation representations": six numbers), translation, each with a standard deviation
        finder at 1/16: where in an unaligned picture a face's FFHQ square lies

The camera of an aligned portrait is the method's: field of view 12.6 degrees, centred. The head's rotation is told in
the viewer's frame (x right, y up, z towards the viewer), in which a frontal head has the identity; the head's origin
lies at z (tan_x, tan_y, 1) in the camera's OpenCV frame.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copo.errors import CopoError
from copo.vision.networks.efficientnet_lite import TAP_CHANNELS, TAPS, EfficientNetLite0

POINTS = 68 + 478
"""Landmarks: iBUG's, then MediaPipe's."""
LABELS = 19
"""Classes of the label map (`copo.head.protocol.PARSER_CLASSES`)."""
FINDER_STRIDE = 16
"""Pixels between the finder's cells."""
FINDER_OUTPUTS = 6
"""Logit, centre x and y, logarithm of the side, cosine and sine of the angle."""
TYPICAL_DEPTH = 1.13
"""Metres from the camera to the head in a typical aligned portrait: 0.25 m seen under 12.6 degrees."""
TANGENT_UNIT, DEPTH_UNIT = 0.02, 0.1
"""What one unit of the translation's raw outputs means: a tangent, a logarithm of depth."""
_SIGMA_RANGE = (-6.0, 3.0)
"""Logarithms of standard deviations are kept within."""


@dataclass(frozen=True)
class AnalyserConfig:
    """Sizes of the network."""

    shape: int = 80
    """Shape coefficients (the open head)."""
    albedo: int = 50
    """Albedo coefficients (the open head)."""
    expression: int = 52
    """Expression units."""
    illumination: int = 27
    """Spherical-harmonic light."""
    size: int = 256
    """Side of the aligned portraits in pixels; a multiple of 32."""
    width: int = 64
    """Channels of the decoder at 1/32 to 1/8."""
    fine_width: int = 32
    """Channels of the decoder at 1/4 and 1/2."""
    head: int = 640
    """Channels of the pooled features."""
    hidden: int = 512
    """Width of the layers between pooled features and coefficients."""

    def __post_init__(self) -> None:
        if self.size < 64 or self.size % 32:
            raise CopoError(f"analyser: pictures of {self.size} px: give a multiple of 32, at least 64")

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers that have a standard deviation, in the order of the outputs."""
        names = ("shape", "albedo", "expression", "illumination")
        return {**{name: getattr(self, name) for name in names}, "rotation": 3, "translation": 3}

    def to_dict(self) -> dict[str, int]:
        """Plain data."""
        return asdict(self)


class AnalyserOutput(NamedTuple):
    """What the network says about B portraits."""

    shape: Tensor
    """(B, 80)."""
    albedo: Tensor
    """(B, 50)."""
    expression: Tensor
    """(B, 52) in (0, 1)."""
    illumination: Tensor
    """(B, 27) fixed to the head, as in `copo.illumination`."""
    rotation: Tensor
    """(B, 3, 3) of the head in the viewer's frame; the identity is frontal."""
    translation: Tensor
    """(B, 3) raw, see `decode_translation`: tan_x, tan_y in `TANGENT_UNIT`, log(z / TYPICAL_DEPTH) in `DEPTH_UNIT`."""
    log_sigma: Tensor
    """(B, 215) logarithms of the standard deviations of shape, albedo, expression, illumination, rotation (radians
    about the viewer's axes) and translation (raw units), in this order."""
    points: Tensor
    """(B, 546, 2) as shares of the picture's side, iBUG's 68 first, then MediaPipe's 478."""
    log_sigma_points: Tensor
    """(B, 546) logarithm of each point's standard deviation, same unit."""
    labels: Tensor
    """(B, 19, S/2, S/2) logits."""

    @property
    def points68(self) -> Tensor:
        """(B, 68, 2)."""
        return self.points[:, :68]

    @property
    def points478(self) -> Tensor:
        """(B, 478, 2)."""
        return self.points[:, 68:]


class _Separable(nn.Sequential):
    """Filter each channel, then mix them."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )


def _mixing(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6())


class AnalyserNetwork(nn.Module):
    """Differentiable in the pictures, of one graph for torch.compile."""

    _frontal: Tensor

    def __init__(self, config: AnalyserConfig | None = None) -> None:
        """Args: config: Sizes."""
        super().__init__()
        self.config = config = config or AnalyserConfig()
        self.backbone = EfficientNetLite0()
        for unused in ("_conv_head", "_bn1", "_fc"):  # ImageNet's own head
            delattr(self.backbone, unused)
        half, quarter, eighth, sixteenth, last = TAP_CHANNELS
        wide, fine = config.width, config.fine_width
        self.lateral = nn.ModuleList([nn.Conv2d(c, wide, 1) for c in (eighth, sixteenth, last)])
        self.fine_lateral = nn.ModuleList([nn.Conv2d(c, fine, 1) for c in (half, quarter)])
        self.smooth = nn.ModuleList([_Separable(wide, wide, 5), _Separable(wide, wide, 5)])
        self.narrow = nn.Conv2d(wide, fine, 1)
        self.fine = nn.ModuleList([_Separable(fine, fine), _Separable(fine, fine)])
        self.label_out = nn.Conv2d(fine, LABELS, 1)
        self.point_features = _mixing(wide, 128)
        self.point_out = nn.Conv2d(128, POINTS, 1)
        self.point_sigma = nn.Parameter(torch.stack([torch.ones(POINTS), torch.full((POINTS,), -1.0)]))
        self.pooled = _mixing(last, config.head)
        inputs = config.head + sixteenth + 2 * POINTS
        self.trunk = nn.Sequential(
            nn.LayerNorm(inputs), nn.Linear(inputs, config.hidden), nn.SiLU(), nn.LayerNorm(config.hidden)
        )
        coefficients = sum(config.sizes.values())
        self.values = nn.Linear(config.hidden, coefficients + 3)  # a rotation is six numbers
        self.sigmas = nn.Linear(config.hidden, coefficients)
        cell = nn.Conv2d(64, FINDER_OUTPUTS, 1)
        self.finder = nn.Sequential(_Separable(sixteenth + last, 64, 5), cell)
        self.register_buffer("_frontal", torch.tensor([1.0, 0, 0, 0, 1.0, 0]), persistent=False)
        nn.init.normal_(self.values.weight, std=0.01)
        nn.init.zeros_(self.values.bias)
        nn.init.normal_(self.sigmas.weight, std=0.01)
        nn.init.constant_(self.sigmas.bias, -1.0)
        with torch.no_grad():
            self.point_out.weight.mul_(3)  # heat maps that are not flat learn sooner
            expression = slice(config.shape + config.albedo, config.shape + config.albedo + config.expression)
            self.values.bias[expression] = -2.5  # units are mostly near 0
            assert cell.bias is not None
            cell.bias[0] = -3.0  # most cells hold no face

    def forward(self, pictures: Tensor) -> AnalyserOutput:
        """(B, 3, S, S) aligned portraits in [-1, 1] -> everything."""
        maps = self._maps(pictures)
        coarse, points, log_sigma_points = self._points(maps)
        return self._output(maps, points, log_sigma_points, self._labels(maps, coarse))

    def landmarks(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 546, 2) points only, which is faster."""
        return self._points(self._maps(pictures))[1]

    def find(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) pictures in [-1, 1], sides multiples of 32 -> (B, 6, H / 16, W / 16); see `decode_finder`."""
        maps = self._maps(pictures)
        return self.finder(torch.cat([maps[3], _doubled(maps[4])], dim=1)).float()

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        return self.backbone.maps((pictures * 127.5 + 0.5) / 128)

    def _points(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Decoder to 1/8, points, logarithms of their standard deviations."""
        top = self.lateral[2](maps[4])
        middle = self.smooth[0](self.lateral[1](maps[3]) + _doubled(top))
        coarse = self.smooth[1](self.lateral[0](maps[2]) + _doubled(middle))
        heat = self.point_out(self.point_features(coarse)).float()
        points, spread = soft_argmax(heat)
        scale, shift = self.point_sigma
        return coarse, points, (scale * spread.log() + shift).clamp(*_SIGMA_RANGE)

    def _labels(self, maps: list[Tensor], coarse: Tensor) -> Tensor:
        quarter = self.fine[1](self.fine_lateral[1](maps[1]) + _doubled(self.narrow(coarse)))
        half = self.fine[0](self.fine_lateral[0](maps[0]) + _doubled(quarter))
        return self.label_out(half).float()

    def _output(self, maps: list[Tensor], points: Tensor, log_sigma_points: Tensor, labels: Tensor) -> AnalyserOutput:
        pooled = torch.cat([self.pooled(maps[4]).mean((2, 3)), maps[3].mean((2, 3))], dim=1)
        features = self.trunk(torch.cat([pooled.float(), 10 * (points - 0.5).flatten(1)], dim=1))
        values = self.values(features).float()
        sizes = self.config.sizes
        shape, albedo, expression, light, turn, translation = values.split(
            [*list(sizes.values())[:4], 6, sizes["translation"]], dim=1
        )
        return AnalyserOutput(
            shape=shape,
            albedo=albedo,
            expression=expression.sigmoid(),
            illumination=light,
            rotation=rotation_from_six(turn + self._frontal),
            translation=translation,
            log_sigma=self.sigmas(features).float().clamp(*_SIGMA_RANGE),
            points=points,
            log_sigma_points=log_sigma_points,
            labels=labels,
        )


def soft_argmax(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Mean place and spread of softmax heat maps.

    Args:
        heat: (B, N, H, W) logits; cells cover the picture evenly.

    Returns:
        (B, N, 2) x and y as shares of width and height, and (B, N) the root mean square distance from there.
    """
    height, width = heat.shape[2:]
    weight = heat.flatten(2).softmax(2).view_as(heat)
    columns = (torch.arange(width, device=heat.device, dtype=heat.dtype) + 0.5) / width
    rows = (torch.arange(height, device=heat.device, dtype=heat.dtype) + 0.5) / height
    across, down = weight.sum(2), weight.sum(3)
    x, y = (across * columns).sum(2), (down * rows).sum(2)
    variance = (across * (columns - x[..., None]).square()).sum(2) + (down * (rows - y[..., None]).square()).sum(2)
    return torch.stack([x, y], dim=2), (variance + 1e-8).sqrt()


def rotation_from_six(six: Tensor) -> Tensor:
    """(B, 6) two column vectors -> (B, 3, 3) rotation, by Gram-Schmidt (Zhou et al. 2019, equation 4)."""
    first = F.normalize(six[:, :3], dim=1, eps=1e-6)
    second = six[:, 3:] - (first * six[:, 3:]).sum(1, keepdim=True) * first
    second = F.normalize(second, dim=1, eps=1e-6)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=2)


def decode_translation(raw: Tensor) -> Tensor:
    """(B, 3) raw -> (B, 3) metres, the head's origin in the camera's OpenCV frame."""
    depth = TYPICAL_DEPTH * (raw[:, 2] * DEPTH_UNIT).exp()
    return torch.stack([raw[:, 0] * TANGENT_UNIT * depth, raw[:, 1] * TANGENT_UNIT * depth, depth], dim=1)


def encode_translation(metres: Tensor) -> Tensor:
    """The inverse of `decode_translation`."""
    x, y, z = metres.unbind(1)
    log = (z / TYPICAL_DEPTH).log() / DEPTH_UNIT
    return torch.stack([x / z / TANGENT_UNIT, y / z / TANGENT_UNIT, log], dim=1)


def decode_finder(output: Tensor) -> tuple[Tensor, Tensor]:
    """Cells to squares.

    Args:
        output: (B, 6, h, w) of `AnalyserNetwork.find`.

    Returns:
        (B, h w) scores in [0, 1], and (B, h w, 4) centre x, centre y, side in pixels, angle of the upper edge in
        radians (positive is clockwise).
    """
    height, width = output.shape[2:]
    logit, dx, dy, side, cosine, sine = output.unbind(1)
    columns = torch.arange(width, device=output.device) + 0.5
    rows = torch.arange(height, device=output.device) + 0.5
    x = (columns + 2 * dx) * FINDER_STRIDE
    y = (rows[:, None] + 2 * dy) * FINDER_STRIDE
    length = FINDER_STRIDE * math.e**2 * side.clamp(-4, 4).exp()
    square = torch.stack([x, y, length, torch.atan2(sine, cosine)], dim=-1)
    return logit.sigmoid().flatten(1), square.flatten(1, 2)


def encode_finder(square: Tensor, height: int, width: int) -> Tensor:
    """(B, 4) squares -> (B, 5, h, w) what each cell should say of its picture's square: the inverse of the above."""
    columns = torch.arange(width, device=square.device) + 0.5
    rows = torch.arange(height, device=square.device) + 0.5
    x, y, side, angle = (v[:, None, None] for v in square.unbind(1))
    dx = (x / FINDER_STRIDE - columns).expand(-1, height, -1) / 2
    dy = (y / FINDER_STRIDE - rows[:, None]).expand(-1, -1, width) / 2
    rest = [(side / (FINDER_STRIDE * math.e**2)).log(), angle.cos(), angle.sin()]
    return torch.stack([dx, dy, *(v.expand(-1, height, width) for v in rest)], dim=1)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


assert len(TAPS) == len(TAP_CHANNELS)
