"""Stages are lists of groups of losses; each group turns a scene into named, weighted losses.

The loop adds up whatever a stage's groups return and does not know which they are. A loss whose weight is 0 is not
computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from copo.constants import constant
from copo.errors import CopoError
from copo.field.portrait_field import FRONTAL_POSE
from copo.head.classes import grown, is_class, share_of
from copo.networks.discriminator import DiscriminatorOutput
from copo.training import losses
from copo.training.conditioning import pose_of
from copo.training.config import (
    AdversarialWeights,
    ContrastiveWeights,
    ImitationWeights,
    ReconstructionWeights,
    SemanticWeights,
    StageConfig,
    TrainingConfig,
)
from copo.training.guide import (
    COVER,
    HAIR,
    MOUTH,
    OPENING,
    SKIN,
    STILL,
    around_eyes,
    around_lips,
    labelled,
)
from copo.training.perception import Perception, Reading
from copo.training.scene import Pair, Photographs, Portraits, Scene, resize

Losses = dict[str, Tensor]
PAIR_KINDS = ("expression", "illumination", "identity", "pose")


class LossGroup(Protocol):
    """Some losses of the generator."""

    def needs(self) -> list[tuple[str, str]]:
        """(part of `Perception`, loss that needs it) for each."""
        ...

    def __call__(self, scene: Scene) -> Losses:
        """Named losses with their weights applied."""
        ...


def weighted(terms: Sequence[tuple[str, float, Callable[[], Tensor]]]) -> Losses:
    """Compute the terms whose weight is not 0."""
    return {name: weight * term() for name, weight, term in terms if weight}


@dataclass(frozen=True)
class Reconstruction:
    """Photographs from their coefficients, camera and code (warm start; ours).

    Args:
        weights: Of the losses.
        code_variance: Variance that codes are to have before noise is added.
    """

    weights: ReconstructionWeights
    code_variance: float

    def needs(self) -> list[tuple[str, str]]:
        """See `LossGroup`."""
        w = self.weights
        pairs = (("features", "perceptual"), ("recogniser", "identity"), ("recogniser", "driven_identity"))
        return [(network, f"reconstruction.{name}") for network, name in pairs if getattr(w, name)]

    def __call__(self, scene: Scene) -> Losses:
        """See `LossGroup`."""
        w, made, photos = self.weights, scene.reconstructed, scene.photographs
        if not len(made):
            return {}
        side = made.frame.raw.shape[-1]
        full = made.frame.image.shape[-1]
        # Where the code was dropped only the face can be right: hair, clothes and background are the code's.
        face = torch.maximum(_seen_face(made, photos), scene.own_code[:, :, None, None])
        large = resize(face, full)
        return weighted(
            [
                ("rec_final", w.final, lambda: losses.picture_distance(made.frame.image, photos.pictures, large)),
                ("rec_raw", w.raw, lambda: losses.picture_distance(
                    made.frame.raw, resize(photos.pictures, side), face)),
                ("rec_perceptual", w.perceptual, lambda: _perceptual(made, photos.pictures, large)),
                ("rec_identity", w.identity, lambda: self._identity(scene)),
                ("rec_driven_identity", w.driven_identity if len(scene.driven) else 0.0, lambda: self._driven(scene)),
                ("rec_depth", w.depth, lambda: losses.depth_distance(
                    made.frame.depth, made.view.depth, _seen_face(made, photos))),
                ("rec_opacity", w.opacity, lambda: self._opacity(scene)),
                ("rec_labels", w.labels, lambda: losses.class_cross_entropy(
                    made.frame.classes, _labels(photos), face)),
                ("code_norm", w.code_norm, lambda: _codes(scene).square().mean()),
                ("code_moments", w.code_moments if len(made) > 1 else 0.0, lambda: losses.code_moments(
                    _codes(scene), self.code_variance)),
            ]
        )  # fmt: skip

    @staticmethod
    def _identity(scene: Scene) -> Tensor:
        made = scene.reconstructed
        with torch.no_grad():
            theirs = made.describe(scene.photographs.pictures.float())
        return losses.descriptor_distance(made.descriptor, theirs, _towards(made.pose) * scene.own_code[:, 0])

    @staticmethod
    def _driven(scene: Scene) -> Tensor:
        made, source = scene.driven, scene.sources
        with torch.no_grad():
            view = made.teachers.guide.view(source.coefficients, source.camera, made.frame.raw.shape[-1])
            theirs = made.teachers.describe(source.pictures.float(), view.landmarks)
        weight = _towards(made.pose) * _towards(pose_of(source.camera)) * source.own_code[:, 0]
        return losses.descriptor_distance(made.descriptor, theirs, weight)

    @staticmethod
    def _opacity(scene: Scene) -> Tensor:
        person = (_labels(scene.photographs) != 0).float()
        keep = scene.own_code[:, :, None].bool()
        alpha = scene.reconstructed.frame.alpha.float()
        return losses.opacity_distance(alpha, torch.where(keep, person, alpha.detach()))


@dataclass(frozen=True)
class Adversarial:
    """Generator against discriminator, which also regresses pose and latent (paper).

    Args:
        weights: Of the losses.
    """

    weights: AdversarialWeights

    def needs(self) -> list[tuple[str, str]]:
        """See `LossGroup`."""
        if not self.weights.critic:
            return []
        return [("features", "adversarial.critic")]

    def __call__(self, scene: Scene) -> Losses:
        """See `LossGroup`."""
        w, said = self.weights, scene.judged
        assert said is not None
        plain = len(scene.reconstructed) + len(scene.natural)
        portraits = [p for p in (scene.reconstructed, scene.natural, scene.driven) if len(p)]
        pose = torch.cat([p.pose for p in portraits])[:plain]
        z = torch.cat([p.z for p in portraits])[:plain].detach()
        some = plain > 0
        terms = weighted(
            [
                ("gan", w.gan if some else 0.0, lambda: losses.generator_loss(said.score[:plain])),
                ("driven_gan", w.driven_gan if len(scene.driven) else 0.0,
                 lambda: losses.generator_loss(said.score[plain:])),
                ("critic", w.critic if some and scene.criticised is not None else 0.0,
                 lambda: losses.critic_generator_loss(_given(scene.criticised))),
                ("pose", w.pose if some else 0.0, lambda: (said.pose[:plain] - pose).square().mean()),
                ("latent", w.latent if some else 0.0, lambda: (said.latent[:plain] - z).square().mean()),
            ]
        )  # fmt: skip
        return {name: scene.ramp * value for name, value in terms.items()}

    def discriminator(
        self, real: DiscriminatorOutput, generated: DiscriminatorOutput, real_pose: Tensor, pose: Tensor, z: Tensor
    ) -> Losses:
        """The discriminator's losses.

        Args:
            real: Said of photographs.
            generated: Said of generated portraits.
            real_pose: (B, 2) of the photographs.
            pose: (B, 2) of the portraits.
            z: (B, latent) of the portraits.
        """
        w = self.weights
        both = torch.cat([real.pose - real_pose, generated.pose - pose])
        return weighted(
            [
                ("d_gan", w.gan, lambda: losses.discriminator_loss(real.score, generated.score)),
                ("d_pose", w.pose, lambda: both.square().mean()),
                ("d_latent", w.latent, lambda: (generated.latent - z).square().mean()),
            ]
        )


@dataclass(frozen=True)
class Imitation:
    """The face looks as the head of the same factors does (paper; depth, labels, expression and pose are ours).

    Args:
        weights: Of the losses.
    """

    weights: ImitationWeights

    def needs(self) -> list[tuple[str, str]]:
        """See `LossGroup`."""
        w = self.weights
        read = [
            ("landmarks", w.landmarks),
            ("dense_landmarks", w.dense_landmarks),
            ("light", w.light),
            ("expression", w.expression),
            ("pose", w.pose),
        ]
        out = [("reader", f"imitation.{name}") for name, weight in read if weight]
        return out + [("recogniser", f"imitation.{name}") for name in ("identity", "spread") if getattr(w, name)]

    def __call__(self, scene: Scene) -> Losses:
        """See `LossGroup`."""
        w, made = self.weights, scene.imitated
        if not len(made):
            return {}
        guide = made.teachers.guide
        _, _, expression, light = guide.parts(made.coefficients.detach())
        free = _free(made)
        return weighted(
            [
                ("im_colour", w.colour, lambda: self._colour(made)),
                ("im_identity", w.identity, lambda: self._identity(made)),
                ("im_spread", w.spread if len(scene.natural) > 1 else 0.0, lambda: losses.spread(
                    scene.natural.descriptor, _towards(scene.natural.pose), w.spread_margin)),
                ("im_skin", w.skin, lambda: losses.skin_distance(
                    made.frame.raw, made.view.colour, is_class(made.view.labels, SKIN) * free)),
                ("im_eyes_mouth", w.eyes_mouth, lambda: losses.colour_distance(
                    resize(made.frame.image, made.view.colour.shape[-1]), made.view.colour,
                    torch.maximum(is_class(made.view.labels, MOUTH), around_eyes(made.view)) * free)),
                ("im_mouth", w.mouth if len(scene.driven) else 0.0, lambda: self._mouth(made, len(scene.natural))),
                ("im_landmarks", w.landmarks, lambda: losses.landmark_distance(
                    _found(made.reading.landmarks68, "landmarks"), _found(self._asked(made).landmarks68, "landmarks"),
                    losses.landmark_weights(made.z.device), made.view.facing)),
                ("im_dense_landmarks", w.dense_landmarks, lambda: self._dense(made)),
                ("im_light", w.light, lambda: (
                    _found(made.reading.illumination, "light") - light).abs().mean()),
                ("im_expression", w.expression, lambda: self._expression(made, expression)),
                ("im_pose", w.pose, lambda: (_found(made.reading.pose, "pose") - made.pose).abs().mean()),
                ("im_depth", w.depth, lambda: losses.depth_distance(made.frame.depth, made.view.depth, free)),
                ("im_labels", w.labels, lambda: losses.class_cross_entropy(
                    made.frame.classes, made.view.labels, labelled(made.view) * free)),
                ("im_walls", w.walls, lambda: losses.wall_share(made.frame.classes, made.frame.alpha)),
                ("im_clearance", w.clearance, lambda: losses.obstruction(
                    scene.clearance(made, *losses.CLEARANCE), free)),
                ("im_hidden", w.hidden if made.planes.background is not None else 0.0, lambda: losses.hidden_distance(
                    _given(made.planes.background), made.frame.alpha)),
            ]
        )  # fmt: skip

    def _colour(self, made: Portraits) -> Tensor:
        side = self.weights.colour_side
        if not side:
            full = made.full_view
            return losses.colour_distance(made.frame.image, full.colour, full.face)
        mask = resize(made.view.face, side)
        whole = (mask > 0.99).float()  # pixels that show the face and nothing else
        return losses.colour_distance(resize(made.frame.image, side), resize(made.view.colour, side), whole)

    @staticmethod
    def _mouth(made: Portraits, natural: int) -> Tensor:
        """Of those after the natural ones."""
        image, full, side = made.frame.image[natural:], made.full_view, made.frame.image.shape[-1] // 2
        inside = resize(around_lips(full)[natural:], side)
        bare = (inside > 0.99).float() * (1 - resize(made.hidden[natural:], side))
        return losses.colour_distance(resize(image, side), resize(full.colour[natural:], side), bare)

    def _asked(self, made: Portraits) -> Reading:
        """Landmarks of the head, or of what the reader takes it for."""
        view = made.view
        return made.perfect_reading if self.weights.landmarks_as_read else Reading(view.landmarks, view.landmarks478)

    def _dense(self, made: Portraits) -> Tensor:
        """Distance of the 478 landmarks; 0 where head or reader lack them."""
        found, asked, facing = made.reading.landmarks478, self._asked(made).landmarks478, made.view.facing478
        if found is None or asked is None or facing is None:
            return made.frame.image.new_zeros(())
        return losses.dense_distance(found, asked, facing)

    def _expression(self, made: Portraits, asked: Tensor) -> Tensor:
        difference = (_found(made.reading.expression, "expression") - asked).abs()
        names, focus = made.teachers.guide.head.spec.expression_names, self.weights.focus
        if not focus or not names:
            return difference.mean()
        factors = [self.weights.focus_factor if name in focus else 1.0 for name in names]
        return (difference * constant(tuple(factors), difference)).mean()

    @staticmethod
    def _identity(made: Portraits) -> Tensor:
        return losses.descriptor_distance(made.descriptor, made.describe(made.with_face(made.full_view.face)))


@dataclass(frozen=True)
class Semantics:
    """The semantic field says what the picture shows, and matter is smooth (paper).

    Args:
        weights: Of the losses.
    """

    weights: SemanticWeights

    def needs(self) -> list[tuple[str, str]]:
        """See `LossGroup`."""
        w = self.weights
        return [("parser", f"semantics.{n}") for n in ("labels", "opacity", "veil") if getattr(w, n)]

    def __call__(self, scene: Scene) -> Losses:
        """See `LossGroup`."""
        w, made = self.weights, scene.imitated
        if not len(made):
            return {}
        return weighted(
            [
                ("sem_labels", w.labels, lambda: losses.class_cross_entropy(made.frame.classes, made.parsed)),
                (
                    "sem_opacity",
                    w.opacity,
                    lambda: losses.opacity_distance(made.frame.alpha, (made.parsed != 0).float()),
                ),
                ("sem_veil", w.veil, lambda: losses.veil(made.frame.alpha, made.parsed != 0)),
                ("sem_smoothness", w.smoothness, lambda: losses.smoothness(*scene.densities(w.points, w.distance))),
            ]
        )


@dataclass(frozen=True)
class Disentanglement:
    """Pairs that differ in one factor differ in nothing else (paper; identity terms of expression and pose are ours).

    Args:
        weights: Of the losses.
    """

    weights: ContrastiveWeights

    def needs(self) -> list[tuple[str, str]]:
        """See `LossGroup`."""
        w = self.weights
        out: list[tuple[str, str]] = []
        for name in ("expression_mouth", "illumination_detail"):
            if getattr(w, name):
                out.append(("features", f"contrastive.{name}"))
        if w.illumination_landmarks:
            out.append(("reader", "contrastive.illumination_landmarks"))
        for name in ("illumination_identity", "expression_identity", "pose_identity"):
            if getattr(w, name):
                out.append(("recogniser", f"contrastive.{name}"))
        return out

    @property
    def relights(self) -> bool:
        """Whether pairs of two lights learn from the person as photographed."""
        return self.weights.illumination_relit > 0 or self.weights.illumination_detail > 0

    def kinds(self) -> tuple[str, ...]:
        """Factors that get pairs, in their turns; light every second time where it learns from photographs."""
        kinds = tuple(k for k in PAIR_KINDS if any(v for name, v in vars(self.weights).items() if name.startswith(k)))
        others = [k for k in kinds if k != "illumination"]
        if not self.relights or not others:
            return kinds
        return tuple(kind for other in others for kind in (other, "illumination"))

    def __call__(self, scene: Scene) -> Losses:
        """See `LossGroup`."""
        out: Losses = {}
        for pair in scene.pairs:
            out |= getattr(self, f"_{pair.kind}")(pair)
        return out

    def _expression(self, pair: Pair) -> Losses:
        w, a, b = self.weights, pair.first, pair.second

        def flow() -> Tensor:
            moved = pair.flow()
            seen = moved.visible * a.full_view.face
            if w.flow_margin >= 0:
                opens = is_class(a.full_view.labels, OPENING)
                seen = seen * (1 - grown(opens, w.flow_margin))
            return losses.flow_distance(a.frame.image, b.frame.image, moved.flow, seen)

        def mouth() -> Tensor:
            inside = [is_class(p.view.labels, MOUTH) for p in (a, b)]
            return losses.style_distance(a.features, b.features, *inside)

        return weighted(
            [
                ("pair_exp_flow", w.expression_flow, flow),
                ("pair_exp_background", w.expression_background, lambda: _still(a, b)),
                ("pair_exp_hair", w.expression_hair, lambda: _hair(a, b)),
                ("pair_exp_mouth", w.expression_mouth, mouth),
                ("pair_exp_identity", w.expression_identity,
                 lambda: losses.descriptor_distance(a.descriptor, b.descriptor)),
            ]
        )  # fmt: skip

    def _illumination(self, pair: Pair) -> Losses:
        w, a, b = self.weights, pair.first, pair.second
        relit = pair.relit() if self.relights else None

        def pictures() -> Tensor:
            target, raw = _given(relit), a.frame.raw
            return losses.picture_distance(a.frame.image, target) + losses.picture_distance(
                raw, resize(target, raw.shape[-1])
            )

        return weighted(
            [
                ("pair_light_relit", w.illumination_relit, pictures),
                ("pair_light_detail", w.illumination_detail, lambda: _perceptual(a, _given(relit))),
                ("pair_light_background", w.illumination_background, lambda: _still(a, b)),
                ("pair_light_hair", w.illumination_hair, lambda: _hair(a, b)),
                ("pair_light_identity", w.illumination_identity,
                 lambda: losses.descriptor_distance(a.descriptor, b.descriptor)),
                ("pair_light_landmarks", w.illumination_landmarks, lambda: losses.landmark_distance(
                    _found(a.reading.landmarks68, "landmarks"), _found(b.reading.landmarks68, "landmarks"),
                    losses.landmark_weights(a.z.device))),
            ]
        )  # fmt: skip

    def _identity(self, pair: Pair) -> Losses:
        a, b = pair.first, pair.second
        return weighted([("pair_id_background", self.weights.identity_background, lambda: _background(a, b))])

    def _pose(self, pair: Pair) -> Losses:
        a, b = pair.first, pair.second
        return weighted(
            [("pair_pose_identity", self.weights.pose_identity,
              lambda: losses.descriptor_distance(a.descriptor, b.descriptor))]
        )  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A stage at work.

    Attributes:
        config: Its length, mix and weights.
        groups: Its losses; those before the last contrastive group are scaled by `config.others`.
        start: Thousand photographs before it begins.
    """

    config: StageConfig
    groups: tuple[LossGroup, ...]
    start: float

    @property
    def adversarial(self) -> Adversarial | None:
        """The group that trains the discriminator, if there is one."""
        return next((g for g in self.groups if isinstance(g, Adversarial)), None)

    @property
    def contrastive(self) -> Disentanglement | None:
        """The group that needs pairs, if there is one."""
        return next((g for g in self.groups if isinstance(g, Disentanglement)), None)

    def generator_losses(self, scene: Scene) -> Losses:
        """All named losses of a scene."""
        out: Losses = {}
        for group in self.groups:
            factor = 1.0 if isinstance(group, Disentanglement) else self.config.others
            out |= {name: factor * value for name, value in group(scene).items()}
        return out

    def relights(self, step: int) -> bool:
        """Whether a step's pairs of two lights learn from the person as photographed."""
        group = self.contrastive
        return group is not None and group.relights and "illumination" in self.pair_kinds(step)

    def pair_kinds(self, step: int) -> tuple[str, ...]:
        """Which factors get pairs in a step: all, or so many in turns."""
        group = self.contrastive
        if group is None:
            return ()
        kinds = group.kinds()
        count = min(group.weights.factors_per_step, len(set(kinds)))
        return tuple(dict.fromkeys(kinds[(step * count + i) % len(kinds)] for i in range(count)))


def build_stages(config: TrainingConfig, perception: Perception) -> tuple[Stage, ...]:
    """Stages from their configuration.

    Raises:
        CopoError: A loss needs a network that is not there.
    """
    out, start = [], 0.0
    for c in config.stages:
        groups: list[LossGroup] = []
        if c.reconstruction is not None:
            groups.append(Reconstruction(c.reconstruction, max(1.0 - config.codes.noise**2, 0.0)))
        if c.adversarial is not None:
            groups.append(Adversarial(c.adversarial))
        if c.imitation is not None:
            groups.append(Imitation(c.imitation))
        if c.semantics is not None:
            groups.append(Semantics(c.semantics))
        if c.contrastive is not None:
            groups.append(Disentanglement(c.contrastive))
        if not groups:
            raise CopoError(f"stage {c.name} has no losses: give it at least one group of weights")
        for group in groups:
            for part, why in group.needs():
                perception.require(part, f"{c.name}: {why}")
        out.append(Stage(c, tuple(groups), start))
        start += c.kimg
    return tuple(out)


def stage_at(stages: Sequence[Stage], kimg: float) -> Stage | None:
    """The stage after so many thousand photographs; None when all are over."""
    for stage in stages:
        if kimg < stage.start + stage.config.kimg - 1e-9:
            return stage
    return None


# --- helpers --------------------------------------------------------------------------------------------------------


def _labels(photos: Photographs) -> Tensor:
    if photos.labels is None:
        raise CopoError("this stage compares with label maps, which the data set has not: prepare it with a parser")
    return photos.labels


def _towards(pose: Tensor) -> Tensor:
    """(B, 2) pitch and yaw -> (B,) 1 for less than 45 degrees of yaw: recognisers do not know profiles."""
    return ((pose[:, 1] - FRONTAL_POSE[1]).abs() < math.radians(45)).float()


def _seen_face(made: Portraits, photos: Photographs) -> Tensor:
    """(B, 1, h, w) where a photograph shows the fitted head's face, and no hair or hat before it."""
    face = made.view.face
    return face if photos.labels is None else face * (1 - is_class(photos.labels, COVER))


def _codes(scene: Scene) -> Tensor:
    return _given(scene.codes)


def _given(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _found(value: Tensor | None, what: str) -> Tensor:
    if value is None:
        raise CopoError(f"the reader of this training does not find {what}: set the weight of that loss to 0")
    return value


def _perceptual(made: Portraits, pictures: Tensor, mask: Tensor | None = None) -> Tensor:
    """Perceptual distance of the final pictures from others, which get no gradients."""
    features = made.teachers.perception.features
    assert features is not None
    with torch.no_grad(), made.teachers.looking(pictures):
        theirs = features.maps(pictures)
    return losses.perceptual_distance(made.features, theirs, mask)


def _free(made: Portraits) -> Tensor:
    """(B, 1, h, w) where the head's face is to be seen."""
    return made.view.face * (1 - made.hidden)


def _still(a: Portraits, b: Portraits) -> Tensor:
    """Difference of what is background, neck, clothes or hair in both pictures."""
    return _difference(a, b, STILL)


def _background(a: Portraits, b: Portraits) -> Tensor:
    return _difference(a, b, (0,))


def _difference(a: Portraits, b: Portraits, classes: tuple[int, ...]) -> Tensor:
    """Over what is of these classes in both, and is the face of neither: a chin comes down before neck and collar."""
    shares = torch.minimum(share_of(a.frame.classes, classes), share_of(b.frame.classes, classes)).detach()
    shares = shares * (1 - torch.maximum(_free(a), _free(b)))
    return losses.picture_distance(a.frame.image, b.frame.image, resize(shares, a.frame.image.shape[-1]))


def _hair(a: Portraits, b: Portraits) -> Tensor:
    return losses.picture_distance(share_of(a.frame.classes, HAIR), share_of(b.frame.classes, HAIR))
