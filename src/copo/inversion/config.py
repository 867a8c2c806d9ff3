"""Every number of inversion and adaptation, with two presets for inversion: full (GPU) and fast (CPU)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from copo.errors import CopoError

Mode = Literal["full", "fast"]


@dataclass(frozen=True)
class PhotoWeights:
    """How far a picture is from a photograph."""

    image: float = 1.0
    """Mean absolute difference of the final pictures, which lie in [-1, 1]."""
    raw: float = 0.5
    """The same before super-resolution."""
    perceptual: float = 1.0
    """Distance of EfficientNet-Lite0's features."""
    identity: float = 0.5
    """1 - cosine of dlib's face descriptors."""
    opacity: float = 0.2
    """Mean absolute difference between opacity and the person's mask: hair belongs to the volume."""
    labels: float = 0.05
    """Cross entropy between rendered classes and the photograph's label map: blending needs them."""
    face: float = 3.0
    """Weight of pixels inside the face, relative to the others."""


@dataclass(frozen=True)
class CodeStage:
    """First stage: the noise code, and how far the factors move from what was analysed."""

    candidates: int = 64
    """Random noise codes among which the start is chosen."""
    steps: int = 150
    noise_rate: float = 0.05
    """Adam's rate of the noise code, whose prior has standard deviation 1."""
    factor_rate: float = 0.02
    """Adam's rate of the factors, each in units of its spread below."""
    spread_shape: float = 0.5
    spread_albedo: float = 0.5
    spread_expression: float = 0.15
    spread_illumination: float = 0.15
    """How far the analysis may err: what a factor moves costs its square in these units."""
    factors: float = 2e-3
    """Weight of that cost (mean over coefficients)."""
    noise: float = 1e-2
    """Weight of the cost of a noise code longer than random ones."""


@dataclass(frozen=True)
class LatentStage:
    """Second stage: one offset of w for each layer, and one for the background."""

    steps: int = 250
    rate: float = 0.01
    """Adam's rate of the offsets."""
    offset: float = 2e-2
    """Weight of the offsets' mean square: far from latents that the mapping makes, controls stop working."""


@dataclass(frozen=True)
class TuningStage:
    """Third stage: pivotal tuning (Roich et al. 2021) by low-rank changes of the weights."""

    steps: int = 250
    rate: float = 2e-3
    """Adam's rate of the changes; weights have unit variance."""
    rank: int = 8
    """Of the change of a layer; smaller layers are changed freely."""
    every: int = 1
    """Steps from one comparison with the untuned generator to the next."""
    depth: float = 20.0
    """Difference of depth, metres."""
    classes: float = 1.0
    """Mean absolute difference of class probabilities."""
    opacity: float = 1.0
    """Mean absolute difference of opacity."""
    change: float = 1.0
    """Difference of what an edit of expression or light changes in the picture."""
    yaw: float = math.radians(40)
    pitch: float = math.radians(15)
    """How far cameras go around the head in comparisons."""
    units: int = 4
    """Most expression units at once in comparisons."""


@dataclass(frozen=True)
class InversionConfig:
    """How photographs are inverted."""

    weights: PhotoWeights = field(default_factory=PhotoWeights)
    code: CodeStage = field(default_factory=CodeStage)
    latent: LatentStage = field(default_factory=LatentStage)
    tuning: TuningStage = field(default_factory=TuningStage)
    seconds: float = 18.0
    """From the first look at the photographs to the last at the result; stages end early to keep it."""
    shares: tuple[float, float, float] = (0.25, 0.35, 0.4)
    """Of the time that is left for stages."""
    at_once: int = 2
    """Photographs in one step."""
    fast_sampling: bool = False
    """Fewer samples along rays."""
    seed: int = 0
    """Of everything random."""

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise CopoError(f"--seconds {self.seconds:g}: give a time above 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a report."""
        data = asdict(self)
        return {**data, "seconds": self.seconds if math.isfinite(self.seconds) else None}


def inversion_config(mode: Mode, seconds: float | None = None, seed: int = 0) -> InversionConfig:
    """A preset.

    Args:
        mode: full, for a GPU within 30 s; fast, for two CPU cores within 2 minutes.
        seconds: Time for all of it, instead of the preset's; infinite for all steps.
        seed: Of everything random.
    """
    config = InversionConfig(seed=seed)
    if mode == "fast":
        config = replace(
            config,
            code=replace(config.code, candidates=12, steps=50),
            latent=replace(config.latent, steps=60, rate=0.02),
            tuning=replace(config.tuning, steps=60, every=3, rate=4e-3),
            seconds=105.0,
            shares=(0.3, 0.35, 0.35),
            at_once=1,
            fast_sampling=True,
        )
    return config if seconds is None else replace(config, seconds=seconds)


@dataclass(frozen=True)
class AdaptConfig:
    """How a generator takes on a style."""

    steps: int = 400
    batch: int = 2
    """Portraits in one step."""
    rate: float = 2e-3
    """Adam's rate of the changes."""
    rank: int = 16
    """Of the change of a layer; smaller layers are changed freely."""
    places: int = 1024
    """Places of each feature map that are compared at once."""
    directions: int = 64
    """Random directions along which features are sorted and compared."""
    levels: int = 4
    """Of EfficientNet-Lite0's five maps, the finest so many."""
    where: float = 1.0
    """How much the place of a feature in the picture counts: 0 compares what is there alone."""
    style: float = 1.0
    """Weight of the features' distance."""
    colour: float = 1.0
    """Weight of the colours' distance."""
    likeness: float = 4.0
    """Weight of the self-similarity: which places of a portrait look alike must stay (Kolkin et al. 2019)."""
    depth: float = 20.0
    classes: float = 1.0
    opacity: float = 1.0
    """Weights of depth, classes and opacity, which must stay those of the source model."""
    change: float = 1.0
    """Weight of what edits of expression change in the brightness, which must stay too."""
    psi: float = 0.8
    """Truncation of the people that are drawn."""
    units: int = 4
    """Most random expression units at once."""
    seed: int = 0
    """Of everything random."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise CopoError(f"--steps {self.steps}, --batch {self.batch}: give at least 1")
