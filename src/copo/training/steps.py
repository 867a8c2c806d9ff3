"""The two halves of a step, as functions of tensors: fresh gradients and statistics come out, nothing is remembered.

What is random on the CPU is drawn by `StepInputs.draw` from the step's own seed; what is random on the device (jitter,
noise pictures, augmentation, code noise) follows from the device's seed, which the loop sets before every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from copo.camera import Camera
from copo.networks.critic import FeatureCritic
from copo.networks.discriminator import Discriminator, DiscriminatorOutput, dual_picture
from copo.networks.generator import Generator
from copo.training import losses
from copo.training.augment import AdaptiveStrength, mirrored
from copo.training.conditioning import FactorSampler, conditioning_pose, driven_cameras, pose_of
from copo.training.config import TrainingConfig
from copo.training.data import Batch
from copo.training.drawing import TYPES, Painter
from copo.training.perception import FeatureMaps
from copo.training.scene import Pair, Photographs, Portraits, Scene, Sources, Teachers, resize
from copo.training.stages import Disentanglement, Losses, Stage

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Counts:
    """Portraits of each kind in a step of one process."""

    photographs: int
    natural: int
    driven: int
    pairs: int

    @classmethod
    def of(cls, stage: Stage, batch: int) -> Counts:
        """Shares to numbers that add up to the batch; at least one of each kind that is asked for, if it fits."""
        mix = stage.config.mix
        shares = [mix.photographs, mix.natural, mix.driven]
        total = sum(shares)
        counts = [int(batch * s / total) for s in shares]
        for i in sorted(range(3), key=lambda i: -shares[i]):
            if shares[i] and not counts[i] and sum(counts) < batch:
                counts[i] = 1
        while sum(counts) < batch:
            rest = [batch * s / total - c if s else -1.0 for s, c in zip(shares, counts, strict=True)]
            counts[rest.index(max(rest))] += 1
        group = stage.contrastive
        pairs = 0
        if group is not None:  # who learns from a photograph's light must have one
            pairs = min(group.weights.pairs, counts[2] if group.relights else counts[1] + counts[2])
        return cls(counts[0], counts[1], counts[2], pairs)


class Networks(nn.Module):
    """What learns.

    Args:
        config: Of the training.
        code_count: Number of learned codes; 0 for none.
        sight: Frozen network that the critic looks through, where a stage has one.
    """

    def __init__(self, config: TrainingConfig, code_count: int, sight: FeatureMaps | None = None) -> None:
        super().__init__()
        self.generator = Generator(config.generator)
        self.discriminator = Discriminator(config.discriminator)
        self.critic: FeatureCritic | None = None
        if config.uses_critic and sight is not None:
            side = config.generator.output_resolution
            where = next((p.device for p in sight.parameters()), None) if isinstance(sight, nn.Module) else None
            with torch.no_grad():
                maps = sight.maps(torch.zeros(1, 3, side, side, device=where))
            self.critic = FeatureCritic([(m.shape[1], m.shape[3]) for m in maps])
        size = config.generator.noise
        self.codes = nn.Embedding(code_count, size) if code_count and config.uses_codes else None
        if self.codes is not None:
            spread = max(1.0 - config.codes.noise**2, 0.01) ** 0.5
            nn.init.normal_(self.codes.weight, std=spread)


def draw_inputs(
    batch: Batch,
    stage: Stage,
    step: int,
    sampler: FactorSampler,
    cameras: Camera,
    config: TrainingConfig,
    generator: torch.Generator,
    ramp: float = 1.0,
) -> Tensors:
    """Everything a step reads, on the CPU.

    Args:
        batch: Photographs, on the CPU.
        stage: Decides what is drawn.
        step: Number of the step; decides whose turn it is among pairs.
        sampler: Of factors.
        cameras: (N) of the photographs, to draw from.
        config: Of the training.
        generator: Source of randomness, on the CPU.
        ramp: Factor on what the discriminator tells the generator.

    Returns:
        Tensors by name; every camera is two of them.
    """
    counts = Counts.of(stage, len(batch.index))
    noise = config.generator.noise

    photos = slice(0, counts.photographs)
    base = torch.arange(counts.photographs, counts.photographs + counts.driven) % len(batch.index)
    somebody = base.roll(1)
    photo_camera = batch.camera[photos]
    natural_camera = cameras[torch.randint(len(cameras), (counts.natural,), generator=generator)]
    driven_camera = driven_cameras(cameras, counts.driven, config.draw, generator)
    relights = counts.pairs > 0 and stage.relights(step)
    if relights:  # from where their photographs were taken
        others = counts.driven - counts.pairs
        driven_camera = Camera.cat([driven_camera[:others], batch.camera[base[others:]]])
    camera = Camera.cat([photo_camera, natural_camera, driven_camera])
    natural = sampler.natural(counts.natural, generator, natural_camera)
    normal = torch.randn(counts.natural + counts.driven, noise, generator=generator)
    out: Tensors = {
        "pictures": batch.pictures,
        "cam2world": batch.cam2world,
        "intrinsics": batch.intrinsics,
        "coefficients": torch.cat(
            [
                batch.coefficients[photos],
                natural,
                sampler.driven(batch.coefficients[base], generator),
            ]
        ),
        "noise": torch.cat(
            [sampler.fitting(normal[: counts.natural], natural, natural_camera), normal[counts.natural :]]
        ),
        "dropped": (torch.rand(counts.photographs, 1, generator=generator) < config.codes.dropout).float(),
        "driven_free": (torch.rand(counts.driven, 1, generator=generator) < config.codes.driven_random).float(),
        "driven_spare": sampler.fitting(normal[counts.natural :], batch.coefficients[somebody], batch.camera[somebody]),
        "spare_codes": torch.randn(counts.photographs, noise, generator=generator),
        "code": batch.code[photos],
        "driven_code": batch.code[base],
        "base_coefficients": batch.coefficients[base],
        "view_cam2world": camera.cam2world,
        "view_intrinsics": camera.intrinsics,
        "condition": conditioning_pose(camera, config.condition, generator),
        "ramp": torch.tensor(ramp),
    }
    if batch.labels is not None:
        out["labels"] = batch.labels
    if counts.pairs:
        first = len(camera) - counts.pairs
        original = out["coefficients"][first:]
        for kind in stage.pair_kinds(step):
            if kind == "pose":
                limits = replace(config.draw, max_yaw=config.draw.pair_yaw)
                other = driven_cameras(cameras, counts.pairs, limits, generator)
                out["pair_cam2world"], out["pair_intrinsics"] = other.cam2world, other.intrinsics
                continue
            changed = original.clone()
            if kind == "illumination" and relights:
                part = sampler.slices[kind]
                changed[:, part] = out["base_coefficients"][-counts.pairs :, part]
            elif kind == "expression":
                changed = sampler.driven(original, generator)
                changed[:, sampler.slices["illumination"]] = original[:, sampler.slices["illumination"]]
            else:
                changed[:, sampler.slices[kind]] = sampler.factor(kind, counts.pairs, generator)
            out[f"pair_{kind}"] = changed
    return out


class GeneratorStep:
    """Portraits, their losses, and gradients of generator and codes.

    Args:
        networks: What learns.
        painter: Draws with the generator's weights.
        teachers: Head and perception.
        augment: What the discriminator looks through.
        judge: The discriminator, compiled or not.
        config: Of the training.
    """

    def __init__(
        self,
        networks: Networks,
        painter: Painter,
        teachers: Teachers,
        augment: AdaptiveStrength,
        judge: Callable[..., DiscriminatorOutput],
        config: TrainingConfig,
    ) -> None:
        self.networks, self.painter, self.teachers = networks, painter, teachers
        self.augment, self.judge, self.config = augment, judge, config

    def __call__(self, stage: Stage, kinds: tuple[str, ...], inputs: Tensors) -> tuple[Losses, Tensors]:
        """Run it; gradients are added to `.grad`.

        Args:
            stage: Its losses.
            kinds: Which pairs are made.
            inputs: From `draw_inputs`, on the device.

        Returns:
            Losses (detached, with their sum as "total"), and what the discriminator step needs of the portraits.
        """
        scene, ws = self._scene(stage, kinds, inputs)
        terms = stage.generator_losses(scene)
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        shown = [p for p in (scene.reconstructed, scene.natural) if len(p)]
        made: Tensors = {"ws": ws.detach()}
        if shown and stage.adversarial is not None:
            made["dual"] = torch.cat([p.dual for p in shown]).detach()
            made["pose"] = torch.cat([p.pose for p in shown])
            made["z"] = torch.cat([p.z for p in shown]).detach()
        return {"total": total.detach(), **{name: value.detach() for name, value in terms.items()}}, made

    def _scene(self, stage: Stage, kinds: tuple[str, ...], inputs: Tensors) -> tuple[Scene, Tensor]:
        count = Counts.of(stage, len(inputs["pictures"]))
        z, codes = self._latents(inputs, count)
        camera = Camera(inputs["view_cam2world"], inputs["view_intrinsics"])
        planes = self.painter.planes(z, inputs["condition"])
        everyone = Portraits(z, camera, self.painter.render(planes, camera), planes, self.teachers)
        first, second = count.photographs, count.photographs + count.natural
        pictures = inputs["pictures"].float() / 127.5 - 1
        photos = slice(0, first)
        base = torch.arange(first, first + count.driven, device=pictures.device) % len(pictures)
        sources = Sources(
            pictures[base],
            inputs["base_coefficients"],
            Camera(inputs["cam2world"][base], inputs["intrinsics"][base]),
            1 - inputs["driven_free"],
        )
        photographs = Photographs(
            pictures=pictures[photos],
            labels=inputs["labels"][photos].long() if "labels" in inputs else None,
        )
        judged = criticised = None
        if stage.adversarial is not None:
            looked = self.augment(everyone.dual)
            judged = self.judge(looked, everyone.pose, TYPES[self.config.precision])
            if stage.adversarial.weights.critic and second:
                criticised = criticise(self.networks.critic, self.teachers, looked[:second])
        pairs: tuple[Pair, ...] = ()
        if stage.contrastive is not None and count.pairs:
            pairs = self._pairs(stage.contrastive, everyone.part(slice(len(z) - count.pairs, None)), kinds, inputs)
        scene = Scene(
            photographs=photographs,
            reconstructed=everyone.part(photos),
            natural=everyone.part(slice(first, second)),
            driven=everyone.part(slice(second, None)),
            imitated=everyone.part(slice(first, None)),
            codes=codes,
            sources=sources,
            own_code=1 - inputs["dropped"],
            pairs=pairs,
            painter=self.painter,
            judged=judged,
            criticised=criticised,
            ramp=inputs["ramp"],
        )
        return scene, planes.ws

    def _latents(self, inputs: Tensors, count: Counts) -> tuple[Tensor, Tensor | None]:
        """z of all portraits, and the photographs' codes without noise."""
        noise, codes = inputs["noise"], None
        natural, driven = noise.split([count.natural, count.driven])
        own = inputs["spare_codes"]
        if self.networks.codes is not None:
            spread = self.config.codes.noise
            codes = self.networks.codes(inputs["code"])
            blurred = codes + spread * torch.randn_like(codes)
            own = torch.where(inputs["dropped"].bool(), own, blurred)
            theirs = self.networks.codes(inputs["driven_code"]).detach()
            driven = torch.where(inputs["driven_free"].bool(), inputs["driven_spare"], theirs + spread * driven)
        z = torch.cat([torch.cat([own, natural, driven]), inputs["coefficients"]], dim=1)
        return z, codes

    def _pairs(
        self, group: Disentanglement, first: Portraits, kinds: tuple[str, ...], inputs: Tensors
    ) -> tuple[Pair, ...]:
        pairs = []
        condition = inputs["condition"][-len(first) :]
        for kind in kinds:
            if kind == "pose":
                camera = Camera(inputs["pair_cam2world"], inputs["pair_intrinsics"])
                frame = self.painter.render(first.planes, camera)
                pairs.append(Pair(kind, first, Portraits(first.z, camera, frame, first.planes, self.teachers)))
                continue
            z = torch.cat([first.z[:, : self.config.generator.noise], inputs[f"pair_{kind}"]], dim=1)
            with torch.set_grad_enabled(not (kind == "illumination" and group.relights)):
                planes = self.painter.planes(z, condition)
                frame = self.painter.render(planes, first.camera)
            pairs.append(Pair(kind, first, Portraits(z, first.camera, frame, planes, self.teachers)))
        return tuple(pairs)


def criticise(critic: FeatureCritic | None, teachers: Teachers, dual: Tensor) -> Tensor:
    """(B, 6, H, W) what the discriminator sees -> (B, n) the critic's scores of the final pictures."""
    sight = teachers.perception.sight
    assert critic is not None and sight is not None
    with teachers.looking(dual):
        scores: Tensor = critic(sight.maps(dual[:, 3:].float()))
    return scores


class DiscriminatorStep:
    """Photographs against portraits, and gradients of the discriminator.

    Args:
        networks: What learns.
        teachers: Perception, for the critic.
        augment: What the discriminator looks through.
        judge: The discriminator, compiled or not; R1 always uses the plain one, which can be differentiated twice.
        config: Of the training.
    """

    def __init__(
        self,
        networks: Networks,
        teachers: Teachers,
        augment: AdaptiveStrength,
        judge: Callable[..., DiscriminatorOutput],
        config: TrainingConfig,
    ) -> None:
        self.networks, self.teachers = networks, teachers
        self.augment, self.judge, self.config = augment, judge, config

    def __call__(self, stage: Stage, regularise: bool, inputs: Tensors, made: Tensors) -> Losses:
        """Run it; gradients are added to `.grad`.

        Args:
            stage: Its adversarial group has the weights.
            regularise: Whether this is an R1 step.
            inputs: From `draw_inputs`, on the device.
            made: The generator step's portraits.

        Returns:
            Losses (detached), mean scores, and the mean sign of the real scores as "sign".
        """
        group = stage.adversarial
        assert group is not None
        dtype = TYPES[self.config.precision]
        count = min(len(made["dual"]), len(inputs["pictures"]))
        pictures = inputs["pictures"][:count].float() / 127.5 - 1
        raw = resize(pictures, self.config.generator.raw_resolution)
        real_pose = pose_of(Camera(inputs["cam2world"][:count], inputs["intrinsics"][:count]))
        shots = dual_picture(raw, pictures)
        if self.config.augment.mirror:
            shots, real_pose = mirrored(shots, real_pose, torch.rand(count, device=shots.device) < 0.5)
        real = self.augment(shots)
        # One pass each: minibatch statistics must not mix photographs with portraits.
        said_real = self.judge(real, real_pose, dtype)
        shown = self.augment(made["dual"])
        said = self.judge(shown, made["pose"], dtype)
        terms = group.discriminator(said_real, said, real_pose, made["pose"], made["z"])
        if group.weights.critic:
            scores_real, scores_made = (criticise(self.networks.critic, self.teachers, x) for x in (real, shown))
            terms["d_critic"] = losses.critic_loss(scores_real, scores_made)
        torch.stack(list(terms.values())).sum().backward()
        if regularise and group.weights.r1:
            leaf = real.detach().requires_grad_(True)
            penalty = losses.r1_penalty(self.networks.discriminator(leaf, real_pose, dtype).score, leaf)
            term = group.weights.r1 * group.weights.r1_interval * penalty
            term.backward()
            terms["d_r1"] = term / group.weights.r1_interval
        scores: dict[str, Any] = {
            "score_real": said_real.score.float().mean(),
            "score_fake": said.score.float().mean(),
            "sign": said_real.score.float().sign().mean(),
        }
        return {name: value.detach() for name, value in {**terms, **scores}.items()}
