"""What stages are made of, which one runs when, and how settings and published options change them."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from tests.training.samples import perception, tiny_config

from copo.errors import CopoError
from copo.training.config import (
    AdversarialWeights,
    ContrastiveWeights,
    ImitationWeights,
    MixConfig,
    ReconstructionWeights,
    SemanticWeights,
    StageConfig,
    published_stages,
    training_preset,
)
from copo.training.perception import Perception
from copo.training.release import translate
from copo.training.settings import with_settings
from copo.training.stacks import USERS, without_missing
from copo.training.stages import build_stages, stage_at
from copo.training.steps import Counts


def test_published_weights() -> None:
    gan, like, classes, pairs = AdversarialWeights(), ImitationWeights(), SemanticWeights(), ContrastiveWeights()
    assert (gan.gan, gan.pose, gan.latent, gan.r1, gan.r1_interval) == (1, 10, 1, 10, 16)
    assert (like.colour, like.identity, like.skin, like.landmarks, like.light) == (10, 10, 1, 10, 1000)
    assert (classes.labels, classes.smoothness) == (10, 0.5)
    assert (pairs.expression_flow, pairs.expression_background, pairs.expression_hair) == (100, 100, 50)
    assert (pairs.expression_mouth, pairs.illumination_background, pairs.illumination_hair) == (50, 100, 50)
    assert (pairs.illumination_identity, pairs.illumination_landmarks, pairs.identity_background) == (10, 1, 100)
    ours = ("eyes_mouth", "dense_landmarks", "expression", "pose", "depth", "labels", "walls")
    assert all(getattr(like, name) == 0 for name in ours)
    optimiser = training_preset("ffhq_512").optimiser
    assert (optimiser.generator_lr, optimiser.discriminator_lr, optimiser.ema_decay, optimiser.max_norm) == (
        0.002, 0.0025, 0.999, 10,
    )  # fmt: skip


def test_published_schedule_in_photographs() -> None:
    """5,000 and 15,000 steps of 4 photographs, then semantics without end; the second stage stands alone."""
    stages = training_preset("ffhq_512").stages
    assert [(s.name, s.kimg) for s in stages] == [("adversarial", 20), ("imitation", 60), ("semantics", math.inf)]
    assert all(s.reconstruction is None for s in stages)
    (second,) = published_stages(5000, 20_000, True, 4)
    assert second.contrastive is not None and second.others == 0.7 and math.isinf(second.kimg)
    assert [s.name for s in published_stages(0, 0, False, 4)] == ["semantics"]


def test_the_stage_of_a_moment() -> None:
    built = build_stages(tiny_config(stages=training_preset("ffhq_512").stages), perception())
    names = [stage_at(built, k) for k in (0, 19.999, 20, 79.9, 80, 1e9)]
    assert [s.config.name for s in names if s] == [
        "adversarial", "adversarial", "imitation", "imitation", "semantics", "semantics",
    ]  # fmt: skip
    ours = build_stages(training_preset("portrait_256"), perception())
    total = sum(s.config.kimg for s in ours)
    assert total >= 3000 and stage_at(ours, total) is None


def test_counts_add_up_to_the_batch() -> None:
    def counts(mix: MixConfig, batch: int) -> tuple[int, int, int, int]:
        config = tiny_config(stages=(StageConfig("s", 1, mix, adversarial=AdversarialWeights()),))
        c = Counts.of(build_stages(config, perception())[0], batch)
        return c.photographs, c.natural, c.driven, c.pairs

    assert counts(MixConfig(0.25, 0.5, 0.25), 32) == (8, 16, 8, 0)
    assert counts(MixConfig(0.25, 0.5, 0.25), 4) == (1, 2, 1, 0)
    assert counts(MixConfig(0.125, 0.5, 0.375), 4) == (1, 2, 1, 0)
    assert counts(MixConfig(1, 1, 1), 4)[:3] in {(2, 1, 1), (1, 2, 1), (1, 1, 2)}
    assert counts(MixConfig(0, 1, 0), 5) == (0, 5, 0, 0)
    assert counts(MixConfig(0.125, 0.5, 0.375), 1) == (0, 1, 0, 0)


def test_losses_name_the_network_they_need() -> None:
    stage = published_stages(1, 2, True, 4)
    with pytest.raises(CopoError, match=r"disentanglement: imitation.landmarks needs a reader"):
        build_stages(tiny_config(stages=stage), Perception())
    for part in USERS:
        held = {p: getattr(perception(), p) for p in USERS if p != part}
        config = tiny_config(stages=(*stage, tiny_config().stages[0]))
        with pytest.raises(CopoError, match=f"needs a {part}"):
            build_stages(config, Perception(**held))
        smaller, gone = without_missing(config, Perception(**held))
        assert gone and build_stages(smaller, Perception(**held))


def test_users_are_losses() -> None:
    groups = {
        "adversarial": AdversarialWeights, "imitation": ImitationWeights,
        "contrastive": ContrastiveWeights, "semantics": SemanticWeights,
        "reconstruction": ReconstructionWeights,
    }  # fmt: skip
    for losses in USERS.values():
        for loss in losses:
            group, name = loss.split(".")
            assert name in {f.name for f in fields(groups[group])}


def test_nonsense_stages_are_refused() -> None:
    with pytest.raises(CopoError, match="reconstruction needs a share of photographs"):
        StageConfig("s", 1, reconstruction=ReconstructionWeights())
    with pytest.raises(CopoError, match="shares of its mix"):
        StageConfig("s", 1, MixConfig(0, 0, 0))
    with pytest.raises(CopoError, match="has no losses"):
        build_stages(tiny_config(stages=(StageConfig("s", 1),)), perception())


def test_release_options() -> None:
    config = training_preset("ffhq_512")
    same, start = translate(config, 2, None, None, False, 0, False)
    assert same == config and start == 0
    changed, start = translate(config, 2, 100, 300, False, 50, False)
    assert [s.kimg for s in changed.stages[:2]] == pytest.approx([0.8, 1.6])  # steps of 2 x 4 photographs
    assert start == 400
    second, _ = translate(config, 1, None, None, True, 0, False)
    assert [s.name for s in second.stages] == ["disentanglement"]
    warm, _ = translate(config, 1, None, None, False, 0, True)
    assert [s.name for s in warm.stages] == ["reconstruction", "driving", "adversarial", "imitation", "semantics"]
    with pytest.raises(CopoError, match="0 <= warmup1 <= warmup2"):
        translate(config, 1, 10, 5, False, 0, False)
    with pytest.raises(CopoError, match="--set_step -1"):
        translate(config, 1, None, None, False, -1, False)


def test_single_settings() -> None:
    config = training_preset("portrait_256")
    changed = with_settings(
        config,
        ["optimiser.generator_lr=1", "stages.driving.imitation.depth=7.5", "stages.semantics.semantics=null",
         "generator.sr_channels=[32, 16]", "acceleration=graphs", "augment.enabled=false"],
    )  # fmt: skip
    assert changed.optimiser.generator_lr == 1.0 and changed.acceleration == "graphs" and not changed.augment.enabled
    assert changed.generator.sr_channels == (32, 16)
    driving, semantics = changed.stages[1], changed.stages[3]
    assert driving.imitation is not None and driving.imitation.depth == 7.5 and semantics.semantics is None
    assert config.stages[1].imitation is not None and config.stages[1].imitation.depth != 7.5
    for setting, message in (
        ("optimizer.generator_lr=1", "unknown setting 'optimizer': did you mean 'optimiser'"),
        ("stages.drivng.kimg=1", "did you mean 'driving'"),
        ("batch=many", "wrong type"),
        ("batch", "write NAME=VALUE"),
        ("batch.size=1", "has no parts"),
        ("stages.reconstruction.imitation.depth=1", "switched off"),
    ):
        with pytest.raises(CopoError, match=message):
            with_settings(config, [setting])
