"""Every number of the analyser's training. Angles are degrees here, lengths shares of the picture's side."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from copo.errors import CopoError
from copo.vision.networks.analyser import AnalyserConfig

KEY_UNITS: dict[str, tuple[str, ...]] = {
    "jawOpen": ("jawOpen",),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "eyeBlink": ("eyeBlinkLeft", "eyeBlinkRight"),
    "browInnerUp": ("browInnerUp",),
}
"""Units whose correlation is measured one by one; left and right are averaged first."""


@dataclass(frozen=True)
class SceneConfig:
    """What is rendered. Ranges are those the issue's measurements need, with a margin."""

    yaw: float = 60.0
    """Largest turn of the head to a side."""
    pitch: float = 25.0
    """Largest nod."""
    roll: float = 15.0
    """Largest tilt that the alignment leaves."""
    shape_sigma: float = 1.0
    """Standard deviation of the shape coefficients (the open head: 1 for people)."""
    albedo_sigma: float = 1.0
    """Standard deviation of the albedo coefficients."""
    neutral: float = 0.15
    """Share of heads with hardly any expression."""
    combined: float = 0.3
    """Share of heads with a named combination (smile, blink, surprise, ...) beside single units."""
    open_mouth: float = 0.2
    """Share whose jaw is open by at least some random amount."""
    largest_units: int = 6
    """Most single units at once."""
    borrowed_light: float = 0.3
    """Share of heads under a light that was fitted to a photograph, where there are photographs."""
    panorama_light: float = 0.4
    """Share under a panorama's light, turned at random, where there are panoramas; lamps light the rest."""
    borrowed_expression: float = 0.25
    """Share with the expression of a photograph, changed a little."""
    on_photo: float = 0.35
    """Share drawn into a photograph, with its fitted shape and camera, under its hair, before its background."""
    borrowed_hair: float = 0.45
    """Share of the others with the hair and clothes of a photograph with a similar view."""
    drawn_hair: float = 0.35
    """Share of what is left with procedural hair."""
    glasses: float = 0.08
    """Share with procedural glasses."""
    occluded: float = 0.25
    """Share with something in front of the face; its pixels have no label."""
    grain: float = 0.06
    """Largest standard deviation of the skin's fine texture, which vertex colours do not have."""
    gloss: float = 0.35
    """Largest brightness of the highlight on the skin."""
    fov: tuple[float, float] = (9.0, 22.0)
    """Fields of view of the cameras that are not the method's; depth is told as seen with the method's lens."""
    other_lens: float = 0.35
    """Share of heads seen through another lens than the method's (12.6 degrees)."""


@dataclass(frozen=True)
class CropConfig:
    """How far crops stray from FFHQ's square."""

    scale: float = 0.05
    """Standard deviation of the logarithm of the size."""
    shift: float = 0.02
    """Standard deviation of the place."""
    turn: float = 3.0
    """Standard deviation of the angle, degrees."""
    rough: float = 0.3
    """Share of crops that stray by `rough_factor` times as much: the first look of the adapter."""
    rough_factor: float = 3.5
    """How much more they stray; the tilt is then not limited by `SceneConfig.roll`."""


@dataclass(frozen=True)
class DegradeConfig:
    """What cameras and networks do to pictures. Each number is a largest strength or a probability."""

    brightness: float = 0.25
    """Largest change of the mean, of a range of 2."""
    contrast: float = 0.35
    """Largest logarithm of the contrast's factor."""
    saturation: float = 0.6
    """Largest logarithm of the saturation's factor."""
    tint: float = 0.12
    """Largest logarithm of one channel's factor."""
    grey: float = 0.04
    """Probability of a grey picture."""
    blur: float = 2.0
    """Largest standard deviation of a blur, pixels of 256."""
    blurred: float = 0.35
    """Probability of a blur."""
    reduced: float = 0.3
    """Probability that the picture was small once: 0.2 to 0.8 of its size."""
    noise: float = 0.10
    """Largest standard deviation of noise, of a range of 2."""
    noisy: float = 0.4
    """Probability of noise."""
    jpeg: float = 0.5
    """Probability of JPEG blocks, of quality 15 to 90."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses' terms (copo.training.analyser.losses)."""

    points: float = 40.0
    """Distance of landmarks as a share of the picture's side, Wing-like (robust) mean over points."""
    points_render: float = 0.5
    """Factor on the 478 points of renders, whose definition differs a little from MediaPipe's."""
    shape: float = 1.0
    """Squared error of shape coefficients, weighted by the root of their share of variance."""
    albedo: float = 0.5
    """Squared error of albedo coefficients."""
    expression: float = 30.0
    """Squared error of expression units."""
    expression_photo: float = 2.0
    """Factor on the expressions of photographs, beside a factor of each unit (`mixing.unit_weights`)."""
    expression_key: float = 2.0
    """Factor on the units that are measured one by one (`config.KEY_UNITS`), in photographs."""
    expression_render: float = 0.5
    """Factor on the expressions of renders, whose units are not quite MediaPipe's."""
    illumination: float = 2.0
    """Squared error of light coefficients."""
    rotation: float = 20.0
    """Angle between rotations, radians (smooth L1)."""
    translation: float = 0.5
    """Smooth L1 of the raw translation."""
    projection: float = 10.0
    """Distance of the 478 points that the predicted shape, expression and camera project to."""
    labels: float = 1.0
    """Cross entropy of the labels."""
    dice: float = 0.5
    """1 - soft overlap of background, skin, hair, neck and clothes."""
    identity: float = 0.3
    """Contrast of persons within a batch (InfoNCE on the identity coefficients)."""
    identity_temperature: float = 0.5
    """Divisor of mean squared coefficient distances in that contrast."""
    prior: float = 0.02
    """Squared size of coefficients where nothing else holds them (photographs without a fit)."""
    sigma: float = 0.02
    """Negative logarithm of the likelihood of standard deviations, given the errors."""
    finder: float = 1.0
    """The finder: where faces lie in whole pictures."""
    fit: float = 0.5
    """Factor on coefficients and poses of fitted photographs, which are estimates."""


@dataclass(frozen=True)
class AnalyserTraining:
    """A training run. Give `steps` or `minutes` as its length; the learning rate follows whichever is farther."""

    network: AnalyserConfig = field(default_factory=AnalyserConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    rare_expressions: float = 4.0
    """How much more often a photograph with an extreme key unit (open mouth, closed eyes, ...) is drawn, less one."""
    renders: int = 48
    """Rendered heads in a batch of one device, an even number: two of each person."""
    photos: int = 64
    """Photographs in a batch of one device, an even number: pairs of one person where there are any."""
    wide: int = 24
    """Whole pictures for the finder in a batch of one device."""
    wide_size: int = 192
    """Their side in pixels; a multiple of 32."""
    steps: int = 40_000
    """Length of the run."""
    minutes: float = 0.0
    """Length of the run in minutes over all its parts; 0 counts steps only."""
    learning_rate: float = 1.5e-3
    """Peak of AdamW's learning rate; falls to 1% as a cosine."""
    backbone_rate: float = 0.5
    """Factor on the learning rate of the ImageNet weights."""
    warmup: int = 300
    """Steps over which the learning rate rises."""
    weight_decay: float = 0.02
    """AdamW."""
    clip: float = 5.0
    """Largest norm of the gradient."""
    ema: float = 0.999
    """Decay of the averaged weights, which are what is kept."""
    seed: int = 0
    """Random numbers are those of (seed, device, step), so that a run goes on as if it had not stopped."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the network's arithmetic on a GPU; always fp32 on a CPU."""
    acceleration: Literal["graphs", "compile", "none"] = "graphs"
    """On a GPU: record whole steps as CUDA graphs, compile the network (slow to start), or neither."""
    exact_moments: bool = False
    """Keep the optimiser's moments in fp32 in checkpoints: resuming is then exact, and they are twice as large."""
    save_minutes: float = 3.0
    """Minutes between checkpoints."""
    log_steps: int = 50
    """Steps between lines of the log."""

    def __post_init__(self) -> None:
        for name in ("renders", "photos"):
            if getattr(self, name) % 2 or getattr(self, name) < 0:
                raise CopoError(f"analyser training: {name}={getattr(self, name)}: give an even number")
        if self.renders + self.photos == 0:
            raise CopoError("analyser training: renders and photos are both 0")
        if self.wide_size % 32 or self.wide_size < 64:
            raise CopoError(f"analyser training: wide_size={self.wide_size}: give a multiple of 32, at least 64")
        if self.steps < 1:
            raise CopoError(f"analyser training: steps={self.steps}: at least 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the run folder."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AnalyserTraining:
        """The inverse of `to_dict`.

        Raises:
            CopoError: A key is unknown.
        """
        parts = {
            "network": AnalyserConfig, "scene": SceneConfig, "crop": CropConfig, "degrade": DegradeConfig,
            "weights": LossWeights,
        }  # fmt: skip
        try:
            values = {k: parts[k](**_tuples(v)) if k in parts else v for k, v in data.items()}
            return cls(**values)
        except TypeError as error:
            raise CopoError(f"analyser training configuration: {error}") from error


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
