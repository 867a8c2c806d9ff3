"""Typed configuration of the networks, and the presets.

Sources named in the comments: "paper" is Tang et al. 2023 (arXiv 2209.05434) and its published program; "StyleGAN2" is
Karras et al. 2020. Angles are radians, lengths are in the scene's unit (the unit sphere of cameras has radius 1).
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

from copo.errors import CopoError, unknown_name
from copo.factors import FACTOR_NAMES, FactorSpec

Resampling = Literal["fir", "folded"]
PixelGrid = Literal["corners", "centers"]


def _is_power_of_two(value: int) -> bool:
    return value >= 1 and value & (value - 1) == 0


def _conforms(value: object, kind: Any) -> bool:
    """Whether a value read from JSON fits a field's type (bool is not an int; an int is a float)."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value in typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_conforms(value, part) for part in typing.get_args(kind))
    if origin is tuple:
        return isinstance(value, tuple) and all(_conforms(v, typing.get_args(kind)[0]) for v in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


class _Config:
    """Plain-data conversion shared by the configurations below."""

    LATER: ClassVar[frozenset[str]] = frozenset()
    """Keys that files of earlier versions lack; their defaults are what those versions did."""

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON; tuples become lists."""
        data = asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            CopoError: A key is missing or unknown, or a value has the wrong type or is out of range.
        """
        title = cls.__name__
        if not isinstance(data, Mapping):
            raise CopoError(f"{title}: expected an object of settings, got {type(data).__name__}")
        kinds = typing.get_type_hints(cls)
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        for key in data:
            if key not in known:
                raise unknown_name(f"{title} key", str(key), known)
        values: dict[str, object] = {}
        for name in known:
            if name not in data and name in cls.LATER:
                continue
            if name not in data:
                raise CopoError(f"{title} lacks the key {name!r}: the file was written by another version or edited")
            value = data[name]
            value = tuple(value) if isinstance(value, list) else value
            if not _conforms(value, kinds[name]):
                raise CopoError(f"{title}.{name} = {value!r} is not a valid value")
            values[name] = value
        return cls(**values)


@dataclass(frozen=True)
class GeneratorConfig(_Config):
    """Sizes of the generator and the scene it was trained for. Defaults are the published ones (FFHQ at 512)."""

    LATER: ClassVar[frozenset[str]] = frozenset({"styled_by"})

    noise: int = 128
    """Length of the noise code: hair, background, clothes (paper, section 3.1)."""
    shape: int = 80
    """Number of shape coefficients of the head model (BFM09: 80)."""
    albedo: int = 80
    """Number of albedo coefficients of the head model (BFM09: 80)."""
    expression: int = 64
    """Number of expression coefficients of the head model (BFM09 with Guo et al.'s basis: 64)."""
    illumination: int = 27
    """Number of light coefficients: 9 spherical harmonics x 3 colours."""

    w_dim: int = 512
    """Length of the intermediate latent w (StyleGAN2)."""
    mapping_layers: int = 8
    """Fully connected layers of the mapping network (paper)."""
    mapping_lr_multiplier: float = 0.01
    """Learning-rate multiplier of the mapping network: its weights are stored divided by it (StyleGAN2)."""
    styled_by: tuple[str, ...] = FACTOR_NAMES
    """Factors that the mapping network sees (paper: all). With a guide, expression and light may come by its maps
    alone: a latent changes the whole picture, maps change what they show."""

    channel_base: int = 32768
    """Backbone channels at resolution r are min(channel_base // r, channel_max) (StyleGAN2)."""
    channel_max: int = 512
    """Upper bound of the backbone's channels (StyleGAN2)."""
    plane_resolution: int = 256
    """Side of each of the three feature planes, in texels: a power of two, at least 8 (paper)."""
    plane_channels: int = 32
    """Channels of each plane (paper)."""
    noise_inputs: bool = True
    """Whether every modulated convolution adds a learned multiple of a per-pixel noise picture (StyleGAN2)."""
    resampling: Resampling = "fir"
    """"fir": StyleGAN2's [1, 3, 3, 1] filters. "folded": the same filters inside the convolutions, executed as one
    convolution each, and edge-replicating bilinear upsampling of pictures."""

    decoder_hidden: int = 64
    """Width of the point decoder's hidden layer (paper)."""
    feature_channels: int = 32
    """Composited features of a ray: 3 colours and feature_channels - 3 others (paper: 3 + 29)."""
    class_count: int = 19
    """Classes of the semantic field: BiSeNet's face parser (paper)."""

    guide_channels: int = 0
    """Channels of the head's maps that the backbone looks at besides w (`copo.head.maps`; ours); 0: none (paper)."""
    guide_resolution: int = 0
    """Side of these maps, at most that of the planes; they enter there and, reduced, at smaller sides from 8 on."""

    raw_resolution: int = 128
    """Rays per side of the volume-rendered picture (paper)."""
    output_resolution: int = 512
    """Side of the final picture in pixels (paper)."""
    sr_channels: tuple[int, ...] = (64, 64)
    """Channels of the two super-resolution blocks, at half and at full output size (paper)."""
    sr_styles: bool = True
    """Whether super-resolution is modulated by w (paper: yes). Without, it is a local function of the features, so
    pixels whose features stay still stay still."""
    sr_skip: bool = False
    """Whether the upsampled raw picture is added to the output (paper: no)."""

    background_channels: tuple[int, ...] = ()
    """Channels of the image-space background branch at sides 4, 8, ... raw_resolution; empty: none (paper)."""
    background_w_dim: int = 0
    """Length of the background branch's own latent, made from the noise code alone; 0 without the branch."""

    box: float = 0.185
    """Half width of the cube that the planes span, scene units (paper)."""
    fov: float = math.radians(12.6)
    """Field of view across the picture, radians (paper)."""
    near: float = 0.88
    """Distance along the ray of the first sample, scene units (paper)."""
    far: float = 1.12
    """Distance along the ray of the last sample, scene units (paper; 1.15 for its videos)."""
    pixel_grid: PixelGrid = "corners"
    """Where the outermost rays pass: through the picture's corners (paper), or the centres of the corner pixels."""
    coarse_samples: int = 48
    """Uniform samples of each ray (paper)."""
    fine_samples: int = 48
    """Importance samples of each ray (paper)."""

    def __post_init__(self) -> None:
        for name in FACTOR_NAMES:
            if getattr(self, name) < 0:
                raise CopoError(f"GeneratorConfig.{name} = {getattr(self, name)}: a factor cannot have a negative size")
        unknown = [name for name in self.styled_by if name not in FACTOR_NAMES]
        if unknown or not self.styled_by:
            raise CopoError(f"GeneratorConfig.styled_by = {self.styled_by}: choose from {', '.join(FACTOR_NAMES)}")
        if self.latent < 1:
            raise CopoError("GeneratorConfig: every factor has size 0; give at least one of them a size")
        for name in (
            "w_dim", "mapping_layers", "channel_base", "channel_max", "plane_channels", "decoder_hidden", "class_count",
            "raw_resolution", "coarse_samples",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise CopoError(f"GeneratorConfig.{name} = {getattr(self, name)}: it must be at least 1")
        if self.guide_channels < 0 or (self.guide_channels and self.guide_resolution not in self.plane_levels[1:]):
            raise CopoError(
                f"GeneratorConfig.guide_resolution = {self.guide_resolution}: use a power of two from 8 to "
                f"{self.plane_resolution}"
            )
        if self.feature_channels < 3:
            raise CopoError(f"GeneratorConfig.feature_channels = {self.feature_channels}: the first 3 are colours")
        if self.fine_samples < 0:
            raise CopoError(f"GeneratorConfig.fine_samples = {self.fine_samples}: it must not be negative")
        if self.plane_resolution < 8 or not _is_power_of_two(self.plane_resolution):
            raise CopoError(f"GeneratorConfig.plane_resolution = {self.plane_resolution}: use a power of two from 8 on")
        if self.channel_base < self.plane_resolution:
            raise CopoError(f"GeneratorConfig.channel_base = {self.channel_base}: less than one channel at full size")
        if len(self.sr_channels) != 2 or min(self.sr_channels) < 1:
            raise CopoError(f"GeneratorConfig.sr_channels = {self.sr_channels}: give the widths of two blocks")
        if self.output_resolution % 2 or (self.output_resolution // 2) % self.raw_resolution:
            raise CopoError(
                f"GeneratorConfig: output_resolution {self.output_resolution} must be 2, 4, 6, ... times "
                f"raw_resolution {self.raw_resolution}"
            )
        if self.background_channels:
            if self.raw_resolution != 4 * 2 ** (len(self.background_channels) - 1):
                raise CopoError(
                    f"GeneratorConfig.background_channels: {len(self.background_channels)} widths end at side "
                    f"{4 * 2 ** (len(self.background_channels) - 1)}, not at raw_resolution {self.raw_resolution}"
                )
            if self.background_w_dim < 1 or self.noise < 1 or min(self.background_channels) < 1:
                raise CopoError("GeneratorConfig: a background branch needs noise, background_w_dim and widths above 0")
        if not (self.box > 0 and 0 < self.near < self.far and 0 < self.fov < math.pi):
            raise CopoError("GeneratorConfig: need box > 0, 0 < near < far and 0 < fov < pi")

    @property
    def latent(self) -> int:
        """Length of z = [noise | shape | albedo | expression | illumination]."""
        return sum(getattr(self, name) for name in FACTOR_NAMES)

    @property
    def plane_levels(self) -> tuple[int, ...]:
        """Resolutions of the backbone's blocks: 4, 8, ..., plane_resolution."""
        return tuple(2**k for k in range(2, self.plane_resolution.bit_length()))

    @property
    def ws_count(self) -> int:
        """Number of w vectors: one for each convolution of the backbone and one for its last to-planes layer, and at
        least the four that super-resolution reads."""
        return max(2 * len(self.plane_levels), 4)

    def channels(self, resolution: int) -> int:
        """Backbone channels at a resolution."""
        return min(self.channel_base // resolution, self.channel_max)

    def for_head(self, spec: FactorSpec) -> GeneratorConfig:
        """This configuration with the factor sizes of a head model."""
        return replace(
            self,
            noise=spec.noise,
            shape=spec.shape,
            albedo=spec.albedo,
            expression=spec.expression,
            illumination=spec.illumination,
        )


@dataclass(frozen=True)
class DiscriminatorConfig(_Config):
    """Sizes of the dual discriminator. Defaults are the published ones (FFHQ at 512)."""

    resolution: int = 512
    """Side of the input picture: a power of two, at least 16 (paper)."""
    image_channels: int = 6
    """Channels of the input: the raw picture upsampled, then the final picture (paper)."""
    latent: int = 379
    """Length of the latent that the last layer regresses (paper)."""
    pose: int = 2
    """Pose numbers that the last layer regresses and the score is conditioned on: pitch and yaw (paper)."""
    channel_base: int = 32768
    """Channels at resolution r are min(channel_base // r, channel_max) (StyleGAN2)."""
    channel_max: int = 512
    """Upper bound of the channels (StyleGAN2)."""
    cmap: int = 512
    """Length of the mapped camera that the score is projected on (StyleGAN2)."""
    mapping_layers: int = 8
    """Fully connected layers of the camera mapping (paper)."""
    mapping_lr_multiplier: float = 0.01
    """Learning-rate multiplier of the camera mapping: its weights are stored divided by it (StyleGAN2)."""
    minibatch_group: int = 4
    """Pictures of one minibatch-deviation group. The published program uses 1, which switches the statistic off."""
    resampling: Resampling = "fir"
    """"fir": StyleGAN2's [1, 3, 3, 1] filter before a strided convolution. "folded": a 2 x 2 box filter inside it."""

    def __post_init__(self) -> None:
        if self.resolution < 16 or not _is_power_of_two(self.resolution):
            raise CopoError(f"DiscriminatorConfig.resolution = {self.resolution}: use a power of two from 16 on")
        for name in ("image_channels", "channel_base", "channel_max", "cmap", "mapping_layers", "minibatch_group"):
            if getattr(self, name) < 1:
                raise CopoError(f"DiscriminatorConfig.{name} = {getattr(self, name)}: it must be at least 1")
        if self.pose < 1 or self.latent < 0:
            raise CopoError(f"DiscriminatorConfig: pose {self.pose} or latent {self.latent} is too small")
        if self.channel_base < self.resolution:
            raise CopoError(
                f"DiscriminatorConfig.channel_base = {self.channel_base}: less than one channel at full size"
            )

    @property
    def levels(self) -> tuple[int, ...]:
        """Input resolutions of the residual blocks: resolution, ..., 16, 8."""
        return tuple(2**k for k in range(self.resolution.bit_length() - 1, 2, -1))

    def channels(self, resolution: int) -> int:
        """Channels at a resolution."""
        return min(self.channel_base // resolution, self.channel_max)


@dataclass(frozen=True)
class VaeConfig(_Config):
    """Sizes of one coefficient prior (paper, section 3.2). Defaults are the published identity prior."""

    LATER: ClassVar[frozenset[str]] = frozenset({"longest"})

    coefficients: int = 160
    """Number of coefficients of the factor."""
    latent: int = 128
    """Length of the Gaussian latent."""
    hidden: int = 512
    """Width of the three blocks of encoder, decoder and discriminator."""
    blocks: int = 3
    """Number of blocks (Linear, BatchNorm1d, LeakyReLU)."""
    scales: tuple[float, ...] = field(default=(4.2,) * 80 + (9.0,) * 80)
    """Divisor of each coefficient before the encoder, multiplier after the decoder; one per coefficient, or one for
    all (paper: shape 4.2, albedo 9.0, light 0.85; expression 4.0, as its generator uses it: see decisions)."""
    encoder_slope: float = 0.01
    """Negative slope of the encoder's and the discriminator's activation."""
    decoder_slope: float = 0.2
    """Negative slope of the decoder's activation."""
    longest: float = 0.0
    """Largest Euclidean norm of a sample before the multipliers, that of the rows it was trained on (ours): one sample
    in a thousand would be far beyond all of them. Longer ones are scaled down to it; 0 sets no limit."""

    def __post_init__(self) -> None:
        for name in ("coefficients", "latent", "hidden", "blocks"):
            if getattr(self, name) < 1:
                raise CopoError(f"VaeConfig.{name} = {getattr(self, name)}: it must be at least 1")
        if len(self.scales) not in (1, self.coefficients) or min(self.scales) <= 0:
            raise CopoError(f"VaeConfig.scales: give 1 or {self.coefficients} positive numbers, not {len(self.scales)}")


@dataclass(frozen=True)
class NoisePriorConfig(_Config):
    """Sizes of the prior of noise codes (`copo.networks.conditional_priors`)."""

    noise: int
    """Length of the noise code."""
    identity: int
    """Number of coefficients of shape and albedo."""
    people: int
    """Number of people whose codes it knows."""
    places: int
    """Numbers in which their identities are compared."""
    photographs: int
    """Number of photographs of which it knows the side they were taken from."""

    def __post_init__(self) -> None:
        _all_positive(self)


@dataclass(frozen=True)
class LightPriorConfig(_Config):
    """Sizes of the prior of light for identities (`copo.networks.conditional_priors`)."""

    identity: int
    """Number of coefficients of shape and albedo."""
    illumination: int
    """Number of coefficients of light."""

    def __post_init__(self) -> None:
        _all_positive(self)


def _all_positive(config: NoisePriorConfig | LightPriorConfig) -> None:
    for name, value in vars(config).items():
        if value < 1:
            raise CopoError(f"{type(config).__name__}.{name} = {value}: it must be at least 1")


PRESETS: dict[str, GeneratorConfig] = {
    "ffhq_512": GeneratorConfig(),
    "portrait_256": GeneratorConfig(
        albedo=50,
        expression=52,
        mapping_layers=4,
        styled_by=("noise", "shape", "albedo"),
        channel_base=12288,
        channel_max=256,
        plane_resolution=128,
        noise_inputs=False,
        resampling="folded",
        guide_channels=16,
        guide_resolution=128,
        raw_resolution=64,
        output_resolution=256,
        sr_channels=(64, 48),
        sr_styles=False,
        sr_skip=True,
        background_channels=(128, 96, 64, 48, 32),
        background_w_dim=128,
        pixel_grid="centers",
        coarse_samples=24,
        fine_samples=24,
    ),
    "tiny": GeneratorConfig(
        noise=8,
        shape=4,
        albedo=3,
        expression=5,
        w_dim=16,
        mapping_layers=2,
        channel_base=256,
        channel_max=16,
        plane_resolution=16,
        plane_channels=8,
        decoder_hidden=16,
        feature_channels=8,
        resampling="folded",
        raw_resolution=8,
        output_resolution=32,
        sr_channels=(8, 8),
        background_channels=(8, 8),
        background_w_dim=8,
        pixel_grid="centers",
        coarse_samples=6,
        fine_samples=6,
    ),
}
"""Generators by name: the published one, ours, and one for tests."""

DISCRIMINATOR_PRESETS: dict[str, DiscriminatorConfig] = {
    "ffhq_512": DiscriminatorConfig(),
    "portrait_256": DiscriminatorConfig(
        resolution=256,
        latent=PRESETS["portrait_256"].latent,
        channel_base=8192,
        channel_max=384,
        cmap=128,
        mapping_layers=2,
        resampling="folded",
    ),
    "tiny": DiscriminatorConfig(
        resolution=32,
        latent=PRESETS["tiny"].latent,
        channel_base=256,
        channel_max=16,
        cmap=8,
        mapping_layers=2,
        resampling="folded",
    ),
}
"""The discriminator that trains the generator of the same name."""

VAE_PRESETS: dict[str, VaeConfig] = {
    "identity": VaeConfig(),
    "expression": VaeConfig(coefficients=64, latent=32, hidden=256, scales=(4.0,)),
    "illumination": VaeConfig(coefficients=27, latent=16, hidden=128, scales=(0.85,)),
}
"""The published coefficient priors (BFM09 sizes)."""


def preset(name: str) -> GeneratorConfig:
    """The generator configuration of that name.

    Raises:
        CopoError: There is no such preset.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]
