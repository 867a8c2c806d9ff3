"""Typed configuration of training: every weight, length and strength, with its source.

"Paper" is Tang et al. 2023 (arXiv 2209.05434) and its published program. "Ours" marks what is not in it;
docs/training.md says why. Lengths of stages are thousands of photographs shown (kimg), over all processes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from copo.config import DISCRIMINATOR_PRESETS, PRESETS, DiscriminatorConfig, GeneratorConfig
from copo.errors import CopoError, unknown_name
from copo.factors import FactorSpec

Precision = Literal["float32", "bfloat16"]
Acceleration = Literal["none", "compile", "graphs"]
FaceFrame = Literal["world", "camera"]


@dataclass(frozen=True)
class ReconstructionWeights:
    """Warm start (ours): photographs are reconstructed from coefficients, camera and a learned code."""

    final: float = 2.0
    """Mean absolute difference of the final picture, in [-1, 1] (ours)."""
    raw: float = 2.0
    """The same of the raw picture (ours)."""
    perceptual: float = 1.0
    """Distance of normalised ImageNet features (ours)."""
    identity: float = 0.0
    """1 - cosine of recognition features of photograph and portrait, up to 45 degrees of yaw (ours): without it people
    come out as average as their coefficients."""
    driven_identity: float = 0.0
    """The same of a person's photograph and its driven portraits (ours): under other light a recogniser took people for
    others in half of the cases."""
    depth: float = 100.0
    """Metres between rendered depth and the fitted head's, on its visible face (ours; a head is 0.25 m deep)."""
    opacity: float = 1.0
    """Opacity against the person's mask (ours)."""
    labels: float = 0.5
    """Cross entropy of the rendered classes against the data set's label maps (ours)."""
    code_norm: float = 1e-3
    """Mean square of the codes (ours)."""
    code_moments: float = 0.1
    """Mean and covariance of a batch of codes against those that leave N(0, 1) after the noise (ours)."""


@dataclass(frozen=True)
class AdversarialWeights:
    """Generator against discriminator."""

    gan: float = 1.0
    """Non-saturating logistic loss (paper)."""
    driven_gan: float = 0.0
    """The same for portraits whose expression, light or pose was driven beyond the photographs; the discriminator is
    never trained on them, so it does not learn to call an open mouth false (ours)."""
    critic: float = 0.0
    """Hinge loss of a second discriminator that looks through a frozen network (ours; Sauer et al. 2021)."""
    pose: float = 10.0
    """Mean square error of the regressed pose, radians (paper)."""
    latent: float = 1.0
    """Mean square error of the regressed latent (paper)."""
    r1: float = 10.0
    """Half of this times the squared gradient at real pictures (paper; Mescheder et al. 2018)."""
    r1_interval: int = 16
    """Steps between two R1 steps, whose weight is multiplied by it (paper; lazy regularisation of StyleGAN2)."""


@dataclass(frozen=True)
class ImitationWeights:
    """What the face must look like: the rendered head of the same factors and camera."""

    colour: float = 10.0
    """Mean over the face of the distance between render and picture (paper)."""
    colour_side: int = 0
    """Side in pixels to which both are reduced first; 0 compares at full size (paper). Small: shading and skin tone are
    imitated, the renderer's texture is not (ours)."""
    identity: float = 10.0
    """1 - cosine of recognition features of the picture, and of the picture with its face replaced by the render
    (paper)."""
    spread: float = 0.0
    """Squared hinge of the recogniser's distance between any two natural portraits (ours): coefficients alone make
    people that a recogniser takes for one."""
    spread_margin: float = 0.85
    """Distance that is enough; photographs of different people lie 0.83 apart on average (dlib), 97% above 0.6."""
    skin: float = 1.0
    """Squared difference of the mean skin colours, each channel for itself (paper; its program summed the channels)."""
    eyes_mouth: float = 0.0
    """Mean distance between render and picture around the eyes and inside the open mouth (ours): photographs hold few
    open mouths and closed lids, and no other loss says of which colour teeth, tongue and lids are."""
    mouth: float = 0.0
    """The same on the lips of driven portraits, around and between them, at half the final size (ours): the
    discriminator, which hardly judges them, drew stripes there that are finer than the raw picture's pixels, and lips
    that could not be told from their shadows."""
    landmarks: float = 10.0
    """Weighted squared distance of the landmarks that the reader finds (paper)."""
    dense_landmarks: float = 0.0
    """Mean absolute difference of MediaPipe's 478 landmarks in percent of the side, where head and reader have them
    (ours)."""
    landmarks_as_read: bool = False
    """Landmarks are compared with those that the reader finds when the head's face is drawn over the portrait's (ours),
    instead of with the head's: a reader that sees wide jaws too narrow would drive lips beyond what was asked."""
    light: float = 1000.0
    """Mean absolute difference of the light that the reader finds (paper)."""
    expression: float = 0.0
    """Mean absolute difference of the expression that the reader finds, in the head model's units (ours)."""
    focus: tuple[str, ...] = ()
    """Units that count more in it: small parts of the picture that would drown in the mean (ours)."""
    focus_factor: float = 1.0
    """How much more."""
    pose: float = 0.0
    """Mean absolute difference of pitch and yaw that the reader finds, radians (ours)."""
    depth: float = 0.0
    """Metres between rendered depth and the head's, on the face that is not covered (ours)."""
    labels: float = 0.0
    """Cross entropy of the rendered classes against the head's, on eyes, brows, nose and mouth, and on lids that
    hide an eye (ours): lids close and lips part in the volume itself, without a network that reads pictures."""
    walls: float = 0.0
    """Mean share of a pixel that is matter of class background (ours): walls belong to the background branch, where no
    camera and no expression moves them."""
    clearance: float = 0.0
    """Opacity of the space from 1 to 12 cm before the bare face (ours): what the front does not give away floats there,
    a faint second face in profiles."""
    hidden: float = 0.0
    """Squared difference of pixels of the background branch that the person hides from what is seen around them (ours):
    photographs from the front say nothing of them, and ghosts of heads were left there that profiles laid open."""


@dataclass(frozen=True)
class SemanticWeights:
    """The semantic field must say what the picture shows."""

    labels: float = 10.0
    """Cross entropy between the rendered classes and the parser's labels of the generated picture (paper)."""
    opacity: float = 0.0
    """Opacity of the volume against the parser's mask of the person (ours): else walls are built behind people, of any
    class, which frontal pictures do not give away."""
    veil: float = 0.0
    """Opacity far from the person (ours): the discriminator wants the background to go with the person, the branch
    knows only the noise code, and a veil of matter before it did what the discriminator asked."""
    smoothness: float = 0.5
    """Difference between neighbouring densities (paper; its program compared the halves of the picture instead)."""
    distance: float = 0.004
    """Metres between neighbours (EG3D's regulariser uses a like share of the box)."""
    points: int = 1000
    """Pairs of neighbours in each portrait (EG3D)."""


@dataclass(frozen=True)
class ContrastiveWeights:
    """Pairs that differ in one factor, seen from the same place."""

    expression_flow: float = 100.0
    """One picture moved by the head's optical flow against the other (paper)."""
    flow_margin: int = -1
    """Pixels of the final picture around eyes and lips that the flow leaves out; negative leaves out nothing (paper).
    Two mouths that differ are right, but two blurred ones are alike (ours)."""
    expression_background: float = 100.0
    """Difference of background, neck, cloth and hair (paper)."""
    expression_hair: float = 50.0
    """Difference of the hair masks (paper)."""
    expression_mouth: float = 50.0
    """Mean and variance of perceptual features inside the mouth (paper)."""
    illumination_background: float = 100.0
    """As for the expression (paper)."""
    illumination_hair: float = 50.0
    """As for the expression (paper)."""
    illumination_identity: float = 10.0
    """1 - cosine of recognition features (paper)."""
    illumination_landmarks: float = 1.0
    """Distance of the landmarks that the reader finds (paper)."""
    illumination_relit: float = 0.0
    """Mean absolute difference, final and raw, from the person in the light and from the side of their photograph, with
    the skin brightened as the head is (ours). Photographs show each side in one light; without it portraits in other
    light have nobody to be like but the smooth head, and grow burnt edges and blurred lips. Only the portrait in
    other light learns from such a pair."""
    illumination_detail: float = 0.0
    """Distance of perceptual features of the same two (ours)."""
    identity_background: float = 100.0
    """As for the expression (paper)."""
    expression_identity: float = 0.0
    """1 - cosine of recognition features: the same person with every expression (ours)."""
    pose_identity: float = 0.0
    """The same from two sides: one portrait, two cameras (ours; the pair is made where this is not 0)."""
    pairs: int = 4
    """Pairs of each factor in a step and process."""
    factors_per_step: int = 3
    """How many of the factors get their pairs in one step; with fewer they take turns, and weights are not changed."""


@dataclass(frozen=True)
class MixConfig:
    """What a generator step draws, as shares of the batch of each process."""

    photographs: float = 0.0
    """The photographs' own coefficients, cameras and codes: reconstruction."""
    natural: float = 1.0
    """Factors from the priors: what the discriminator sees as generated."""
    driven: float = 0.0
    """Factors with expression, light and pose beyond the photographs: imitation alone (ours)."""


@dataclass(frozen=True)
class StageConfig:
    """A part of training: its length and its losses. A group that is None is not computed."""

    name: str
    """Shown in logs."""
    kimg: float
    """Length in thousands of photographs; math.inf for the last stage."""
    mix: MixConfig = field(default_factory=MixConfig)
    """What is drawn."""
    reconstruction: ReconstructionWeights | None = None
    adversarial: AdversarialWeights | None = None
    imitation: ImitationWeights | None = None
    semantics: SemanticWeights | None = None
    contrastive: ContrastiveWeights | None = None
    others: float = 1.0
    """Factor on all groups but the contrastive one (paper: 0.7 in the disentanglement stage)."""
    learning_rate: float = 1.0
    """Factor on both learning rates (ours)."""

    def __post_init__(self) -> None:
        mix = self.mix
        if min(mix.photographs, mix.natural, mix.driven) < 0 or mix.photographs + mix.natural + mix.driven <= 0:
            raise CopoError(f"stage {self.name}: the shares of its mix must not be negative, nor all 0")
        if self.reconstruction is not None and not mix.photographs:
            raise CopoError(f"stage {self.name}: reconstruction needs a share of photographs in the mix")
        if not self.kimg > 0:
            raise CopoError(f"stage {self.name}: its length must be above 0 kimg")


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights move."""

    generator_lr: float = 0.002
    """Adam's rate of the generator (paper)."""
    discriminator_lr: float = 0.0025
    """Adam's rate of the discriminator (paper)."""
    code_lr: float = 0.01
    """Adam's rate of the codes (ours)."""
    beta2: float = 0.99
    """Adam's second decay; the first is 0 (paper)."""
    max_norm: float = 10.0
    """Gradients are scaled down to this norm (paper)."""
    ema_decay: float = 0.999
    """Of the averaged generator, a step (paper)."""


@dataclass(frozen=True)
class AugmentConfig:
    """Adaptive discriminator augmentation (Karras et al. 2020a), our own pipe."""

    enabled: bool = True
    """Whether there is any."""
    mirror: bool = False
    """Whether the discriminators see half of the photographs as mirror images, with mirrored poses (ours): twice as
    many photographs. Nothing else is mirrored, for expressions and light have sides."""
    target: float = 0.6
    """Mean sign of the real scores that the strength aims at (ADA)."""
    speed_kimg: float = 200.0
    """Thousand photographs for the strength to go from 0 to 1 (ADA: 500; small sets overfit sooner)."""
    maximum: float = 0.8
    """Highest strength: beyond, augmentation leaks (ADA)."""
    interval: int = 4
    """Steps between adjustments (ADA)."""
    rotation: float = math.radians(30)
    """Largest turn, radians (ours: faces stay upright, so that pose can be regressed)."""


@dataclass(frozen=True)
class ConditionConfig:
    """Which pose the planes are conditioned on."""

    pose: Literal["camera", "frontal"] = "camera"
    """camera: that of the picture (paper). frontal: always the same, so that planes cannot know the view (ours)."""
    swap: float = 0.5
    """Share of portraits that are conditioned on a random pose instead (paper)."""
    yaw_sigma: float = 0.3
    """Spread of that pose, radians (paper)."""
    pitch_sigma: float = 0.155
    """Spread of that pose, radians (paper)."""


@dataclass(frozen=True)
class DrawConfig:
    """Random factors and cameras."""

    expression_jitter: float = 0.05
    """Standard deviation of what is added to a drawn expression, as a share of its range (ours)."""
    empirical: bool = True
    """Without priors, identity, expression and light are each taken from a random photograph (ours)."""
    random_expression: float = 0.7
    """Share of driven portraits with randomly set units; the others take another photograph's (ours)."""
    units: int = 4
    """Most random units at once, besides a named combination (ours)."""
    turn_light: float = math.radians(90)
    """Largest turn of a driven portrait's light about the vertical, radians (ours)."""
    lamps: float = 0.3
    """Share of driven portraits under one white lamp from any side instead (ours): studios have soft light."""
    light_that_fits: bool = False
    """Whether people from the priors are seen in light as photographs show it on such people from such a side
    (ours; `copo.networks.conditional_priors.LightPrior`)."""
    max_yaw: float = math.radians(60)
    """Largest yaw of a driven portrait's camera from the front, radians (ours)."""
    max_pitch: float = math.radians(20)
    """Likewise of its pitch (ours)."""
    pair_yaw: float = math.radians(30)
    """Largest yaw of the second camera of a pair (ours): recognisers do not know profiles."""


@dataclass(frozen=True)
class CodeConfig:
    """The learned noise code of each person (ours), and what keeps it from carrying what the coefficients say."""

    noise: float = 0.5
    """Standard deviation of the noise that is added on every use."""
    dropout: float = 0.25
    """Share of reconstructions whose code is replaced by a random one; they are compared on the face alone, so the
    coefficients must explain it."""
    by_identity: bool = False
    """Whether people from the priors get codes as people of their identity have them
    (`copo.networks.conditional_priors`): else the generator is asked for any hair and clothes with any face, and the
    discriminators know better."""
    driven_random: float = 0.5
    """Share of driven portraits with a random code instead of a person's: people who were never photographed must
    follow the head too."""


@dataclass(frozen=True)
class RunConfig:
    """Saving, looking, stopping."""

    tick_kimg: float = 4.0
    """Between two lines of statistics."""
    snapshot_ticks: int = 10
    """Ticks between two checkpoints with their sample sheets."""
    keep: int = 2
    """Checkpoints that are kept."""
    shard_mb: float = 512.0
    """Largest file of a checkpoint, MiB."""
    max_rollbacks: int = 3
    """Returns to the last good state before training gives up."""
    score_limit: float = 1000.0
    """Mean absolute score of the discriminator that counts as divergence."""
    skip_share: float = 0.25
    """Share of a tick's steps with non-finite gradients that counts as divergence."""
    sheet_people: int = 4
    """Portraits in the control sheet."""
    cache_gb: float = 8.0
    """Decoded photographs that each process keeps in memory."""
    workers: int = 4
    """Threads that decode photographs, in each process."""
    seed: int = 0
    """Of everything random."""
    test_share: float = 0.05
    """Share of people that are never trained on."""


@dataclass(frozen=True)
class TrainingConfig:
    """A whole training."""

    generator: GeneratorConfig
    discriminator: DiscriminatorConfig
    stages: tuple[StageConfig, ...]
    batch: int = 4
    """Photographs a step, in each process."""
    precision: Precision = "float32"
    """Type of activations; latents, the field and the last layers of the discriminator are always float32."""
    acceleration: Acceleration = "none"
    """compile: torch.compile of each network. graphs: whole steps as CUDA graphs where they can be captured."""
    light_frame: FaceFrame = "world"
    """Where light stands still: with the head, or before the camera (paper)."""
    jitter: Literal["sample", "picture"] = "picture"
    """Whether every sample of a ray is moved for itself (published program), or all of a picture alike (ours): the
    grain of the former is painted into skin and hair, and is missing where portraits are looked at without it."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    draw: DrawConfig = field(default_factory=DrawConfig)
    codes: CodeConfig = field(default_factory=CodeConfig)
    adversarial_ramp_kimg: float = 0.0
    """Over so many thousand photographs the generator's adversarial losses grow to their weight, when the discriminator
    is new (ours: a warm generator must not follow a discriminator that knows nothing yet)."""
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if not self.stages:
            raise CopoError("training: no stages given")
        if self.batch < 1:
            raise CopoError(f"training: a batch of {self.batch} photographs: give at least 1")

    @property
    def uses_critic(self) -> bool:
        """Whether there is a discriminator on features."""
        return any(stage.adversarial is not None and stage.adversarial.critic > 0 for stage in self.stages)

    @property
    def uses_codes(self) -> bool:
        """Whether there are learned codes."""
        return any(stage.mix.photographs > 0 for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for training_options.json; an endless stage has a length of None."""
        data = asdict(self)
        for stage in data["stages"]:
            stage["kimg"] = None if math.isinf(stage["kimg"]) else stage["kimg"]
        return data

    def for_head(self, spec: FactorSpec) -> TrainingConfig:
        """The same training with the factor sizes of a head model."""
        generator = self.generator.for_head(replace(spec, noise=self.generator.noise))
        return replace(self, generator=generator, discriminator=replace(self.discriminator, latent=generator.latent))


_ALL_OFF = MixConfig(photographs=0, natural=1, driven=0)


def published_stages(warmup1: float, warmup2: float, second: bool, batch: int) -> tuple[StageConfig, ...]:
    """The published schedule.

    Args:
        warmup1: Steps of the adversarial stage (paper: 5,000).
        warmup2: Step at which semantics join (paper: 20,000).
        second: Whether the run is the published program's second stage, disentanglement, alone.
        batch: Photographs a step, over all processes: turns steps into kimg.
    """
    if not 0 <= warmup1 <= warmup2:
        raise CopoError(f"--warmup1 {warmup1:g} --warmup2 {warmup2:g}: give 0 <= warmup1 <= warmup2")
    gan, copy, classes = AdversarialWeights(), ImitationWeights(), SemanticWeights()
    if second:
        return (
            StageConfig(
                "disentanglement", math.inf, _ALL_OFF, adversarial=gan, imitation=copy, semantics=classes,
                contrastive=ContrastiveWeights(), others=0.7,
            ),
        )  # fmt: skip
    stages = [
        StageConfig("adversarial", warmup1 * batch / 1000 or 1e-9, _ALL_OFF, adversarial=gan),
        StageConfig("imitation", (warmup2 - warmup1) * batch / 1000 or 1e-9, _ALL_OFF, adversarial=gan, imitation=copy),
        StageConfig("semantics", math.inf, _ALL_OFF, adversarial=gan, imitation=copy, semantics=classes),
    ]
    return tuple(stage for stage in stages if stage.kimg > 1e-6)


def portrait_stages(scale: float = 1.0) -> tuple[StageConfig, ...]:
    """Our schedule: a warm start that already learns control from the head, then the paper's stages, milder.

    Args:
        scale: Factor on all lengths.
    """
    follow = ImitationWeights(
        colour=1.0, colour_side=32, identity=0.0, skin=1.0, eyes_mouth=2.0, mouth=7.0, landmarks=0.05,
        dense_landmarks=2.0, landmarks_as_read=True, light=1.0, expression=6.0, focus=("eyeBlinkLeft", "eyeBlinkRight"),
        focus_factor=6.0, pose=1.0, depth=50.0, labels=2.0, walls=6.0, clearance=100.0, hidden=400.0, spread=8.0,
        spread_margin=0.95,
    )  # fmt: skip
    sharp = replace(follow, colour=0.5)
    photo = ReconstructionWeights()
    gentle = replace(
        photo, final=1.0, raw=1.0, perceptual=1.0, identity=4.0, driven_identity=4.0, depth=50.0, opacity=3.0
    )
    classes = SemanticWeights(labels=0.5, opacity=3.0, veil=10.0, smoothness=0.05)
    # A discriminator that knows 2,000 photographs regresses poses to 25 degrees and a third of the latent: its advice
    # on both is mostly noise, and with the paper's weights its gradient was five times that of all other losses.
    gan = AdversarialWeights(gan=1.0, critic=0.5, driven_gan=0.2, r1=2.0, pose=0.5, latent=0.1)
    pairs = ContrastiveWeights(
        expression_flow=1.0, flow_margin=4, expression_background=5.0, expression_hair=2.0, expression_mouth=0.1,
        illumination_background=0.0, illumination_hair=2.0, illumination_identity=3.0, illumination_landmarks=1.0,
        illumination_relit=10.0, illumination_detail=1.0,
        identity_background=2.0, expression_identity=3.0, pose_identity=2.0, factors_per_step=1,
    )  # fmt: skip
    return (
        StageConfig("reconstruction", 100 * scale, MixConfig(1.0, 0.0, 0.0), reconstruction=photo),
        StageConfig("driving", 400 * scale, MixConfig(0.5, 0.0, 0.5), reconstruction=photo, imitation=follow),
        StageConfig(
            "adversarial", 600 * scale, MixConfig(0.25, 0.5, 0.25), reconstruction=gentle, adversarial=gan,
            imitation=follow,
        ),
        StageConfig(
            "semantics", 1200 * scale, MixConfig(0.25, 0.5, 0.25), reconstruction=gentle, adversarial=gan,
            imitation=sharp, semantics=classes,
        ),
        StageConfig(
            "disentanglement", 1000 * scale, MixConfig(0.125, 0.5, 0.375), reconstruction=gentle,
            adversarial=replace(gan, r1=8.0), imitation=sharp, semantics=classes, contrastive=pairs, learning_rate=0.5,
        ),
    )  # fmt: skip


def training_preset(name: str) -> TrainingConfig:
    """The training that belongs to a generator preset.

    Raises:
        CopoError: There is no such preset.
    """
    if name == "ffhq_512":
        stages = published_stages(5000, 20_000, second=False, batch=4)
        return TrainingConfig(
            PRESETS[name], DISCRIMINATOR_PRESETS[name], stages, batch=4, light_frame="camera", jitter="sample",
            augment=AugmentConfig(enabled=False),
        )  # fmt: skip
    if name == "portrait_256":
        return TrainingConfig(
            PRESETS[name], DISCRIMINATOR_PRESETS[name], portrait_stages(), batch=32, precision="bfloat16",
            acceleration="graphs", condition=ConditionConfig(pose="frontal", swap=0.0), adversarial_ramp_kimg=60.0,
            augment=AugmentConfig(mirror=True, maximum=0.7), codes=CodeConfig(by_identity=True),
            draw=DrawConfig(light_that_fits=True, max_yaw=math.radians(75)),
        )  # fmt: skip
    if name == "tiny":
        return TrainingConfig(
            PRESETS[name], DISCRIMINATOR_PRESETS[name], portrait_stages(1e-4), batch=4,
            codes=CodeConfig(by_identity=True),
            run=RunConfig(tick_kimg=0.016, snapshot_ticks=4, cache_gb=0.1, workers=1),
        )  # fmt: skip
    raise unknown_name("training configuration", name, ["portrait_256", "ffhq_512", "tiny"])
