"""The loop: every stage runs, stops, resumes to the bit, and survives what goes wrong."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.training.samples import ball_head, perception, tiny_config, training_set

from copo.errors import CopoError
from copo.formats.checkpoint import load_checkpoint
from copo.networks.build import load
from copo.training.checkpoints import latest_state, pack_state
from copo.training.config import (
    AdversarialWeights,
    AugmentConfig,
    ContrastiveWeights,
    ImitationWeights,
    MixConfig,
    RunConfig,
    StageConfig,
    TrainingConfig,
    published_stages,
)
from copo.training.distributed import Processes
from copo.training.loop import Ingredients, Trainer
from copo.training.steps import Counts

CPU = Processes(torch.device("cpu"))
STEP = 0.004
"""Thousand photographs of a step of four."""


def short(config: TrainingConfig, steps: int = 2) -> TrainingConfig:
    """The same stages, each of so many steps."""
    return replace(config, stages=tuple(replace(s, kimg=steps * STEP) for s in config.stages))


def trainer(folder: Path, config: TrainingConfig | None = None, **options: object) -> Trainer:
    data_path = folder.parent / "data.zip"
    data = training_set(data_path)
    return Trainer(config or short(tiny_config()), Ingredients(data, ball_head(), perception()), folder, CPU, **options)  # type: ignore[arg-type]


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.state().tensors.items()}


def stats(folder: Path) -> list[dict[str, dict[str, float]]]:
    return [json.loads(line) for line in (folder / "training_stats.jsonl").read_text().splitlines()]


def test_every_stage_of_our_schedule_takes_two_steps(tmp_path: Path) -> None:
    config = tiny_config(run=RunConfig(tick_kimg=2 * STEP, snapshot_ticks=2, cache_gb=0.1, workers=1))
    run = trainer(tmp_path / "run", short(config))
    before = weights(run)
    outcome = run.run()
    assert outcome.finished and outcome.steps == 10 and outcome.kimg == pytest.approx(0.04)
    after = weights(run)
    for name in (
        "networks/generator.decoder.hidden.weight",
        "networks/discriminator.out.weight",
        "networks/codes.weight",
    ):
        assert not torch.equal(before[name], after[name]), name
    assert all(torch.isfinite(v.float()).all() for v in after.values())
    lines = stats(tmp_path / "run")
    assert len(lines) == 5  # one tick for each stage
    losses = [{k for k in line if k.startswith("Loss/G/")} for line in lines]
    assert "Loss/G/rec_final" in losses[0] and "Loss/G/im_depth" not in losses[0]
    assert {"Loss/G/im_depth", "Loss/G/im_landmarks", "Loss/G/im_labels"} <= losses[1] and "Loss/G/gan" not in losses[1]
    assert {"Loss/G/gan", "Loss/G/driven_gan", "Loss/G/pose", "Loss/G/latent"} <= losses[2]
    assert {"Loss/G/sem_labels", "Loss/G/sem_smoothness"} <= losses[3]
    assert any(k.startswith("Loss/G/pair_") for k in losses[4])
    assert {"Loss/D/d_gan", "Loss/D/d_pose", "Loss/D/d_latent", "Scores/score_real"} <= lines[2].keys()


def test_the_published_schedule_and_all_pairs(tmp_path: Path) -> None:
    """Without codes or photographs in the mix; the second stage makes a pair of each factor in every step."""
    stages = (*published_stages(2, 4, False, 4)[:2], replace(published_stages(2, 4, False, 4)[2], kimg=2 * STEP),
              replace(published_stages(2, 4, True, 4)[0], kimg=2 * STEP))  # fmt: skip
    assert [s.name for s in stages] == ["adversarial", "imitation", "semantics", "disentanglement"]
    config = tiny_config(
        stages=stages, run=RunConfig(tick_kimg=2 * STEP, cache_gb=0.1, workers=1), light_frame="camera"
    )
    run = trainer(tmp_path / "run", config)
    assert run.networks.codes is None
    assert run.run().steps == 8
    lines = stats(tmp_path / "run")
    assert "Loss/G/im_identity" in lines[1] and "Loss/G/im_light" in lines[1]
    assert "Loss/D/d_r1" in lines[0]  # step 0 is an R1 step
    pairs = {k.removeprefix("Loss/G/") for k in lines[3] if k.startswith("Loss/G/pair_")}
    assert pairs == {
        "pair_exp_flow", "pair_exp_background", "pair_exp_hair", "pair_exp_mouth", "pair_light_background",
        "pair_light_hair", "pair_light_identity", "pair_light_landmarks", "pair_id_background",
    }  # fmt: skip


def test_stopping_and_going_on_gives_the_very_same_weights(tmp_path: Path) -> None:
    """Ten steps at once, and four and six in two runs, through three stages with augmentation."""
    base = tiny_config(augment=AugmentConfig(speed_kimg=0.02, interval=2))
    stages = tuple(replace(s, kimg=k * STEP) for s, k in zip(base.stages[1:4], (3, 3, 4), strict=True))
    whole = trainer(tmp_path / "whole", replace(base, stages=stages))
    whole.run()
    start = replace(base, stages=(*stages[:1], replace(stages[1], kimg=1 * STEP)))
    first = trainer(tmp_path / "parts", start)
    assert first.run().steps == 4
    second = trainer(tmp_path / "parts", replace(base, stages=stages))
    assert second.run().steps == 6
    expected, found = weights(whole), weights(second)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert whole.progress.images == second.progress.images == 40
    now, before = (
        json.loads((tmp_path / "parts" / name).read_text())["config"]["stages"]
        for name in ("training_options.json", "training_options-until-000000.json")
    )
    assert len(now) == 3 and len(before) == 2
    assert "strength/strength" in expected and float(expected["strength/strength"]) > 0


def test_a_packed_run_goes_on_with_the_same_weights_in_half_precision(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    run.run(max_minutes=0)
    for _ in range(2):
        run._step(run.stages[0], next(run._stream()))
    run.save()
    folder = latest_state(tmp_path / "run")
    assert folder is not None
    pack_state(folder, tmp_path / "small", shard_mb=0.5)
    other = trainer(tmp_path / "small")
    assert other._resume() and other.progress.images == run.progress.images
    for name, value in run.networks.state_dict().items():
        half = value.half().to(value.dtype) if value.is_floating_point() and value.numel() > 1 else value
        assert torch.equal(other.networks.state_dict()[name], half), name
    other._step(other.stages[0], next(other._stream()))


def test_a_run_folder_has_what_people_of_this_field_look_for(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", metrics={"count": lambda t: {"images": float(t.progress.images)}})
    run.run()
    names = {p.name for p in (tmp_path / "run").iterdir()}
    expected = "training_options.json training_stats.jsonl log.txt reals.png fakes_init.png fakes000000.png"
    assert set(f"{expected} control000000.png metric-count.jsonl network-snapshot checkpoints".split()) <= names
    assert any(n.startswith("events.out.tfevents") for n in names)
    options = json.loads((tmp_path / "run" / "training_options.json").read_text())
    assert options["config"]["batch"] == 4 and options["factors"]["head"] == "ball"
    line = json.loads((tmp_path / "run" / "metric-count.jsonl").read_text().splitlines()[-1])
    assert line["metric"] == "count" and line["results"] == {"images": 40}
    snapshot = load_checkpoint(tmp_path / "run" / "network-snapshot")
    stored = snapshot.networks["generator"]
    generator = load(stored.config, stored.state)  # type: ignore[call-overload]
    torch.testing.assert_close(generator.state_dict(), dict(run.average.state_dict()))
    assert snapshot.factors is not None and snapshot.factors.head == "ball"
    with Image.open(tmp_path / "run" / "control000000.png") as sheet:
        assert sheet.width == 5 * 32 and sheet.height >= 9 * 32


def test_max_minutes_ends_with_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    outcome = run.run(max_minutes=0.0)
    assert not outcome.finished and outcome.steps == 0
    again = trainer(tmp_path / "run").run()
    assert again.finished and again.steps == 10


def test_sigterm_ends_after_the_step_with_a_checkpoint(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    real = run._step

    def step(stage: object, batch: object) -> None:
        real(stage, batch)  # type: ignore[arg-type]
        if run.progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    run._step = step  # type: ignore[assignment]
    assert run.run().steps == 3
    assert (tmp_path / "run" / "checkpoints" / "state-000000012").is_dir()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert trainer(tmp_path / "run").run().steps == 7


def test_a_step_with_a_gradient_that_is_not_finite_moves_nothing(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    before = weights(run)
    parameters = run._parameters["generator"]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    parameters[3].grad = torch.full_like(parameters[3], float("nan"))
    run._finish("generator", 1.0)
    after = weights(run)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert run.stats.take(CPU)["Skipped/generator"]["mean"] == 1


def test_divergence_rolls_back_says_so_and_gives_up_in_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that explodes the weights: the last good state comes back, three times, then one clear line."""
    wild = tiny_config(run=RunConfig(tick_kimg=2 * STEP, snapshot_ticks=100, cache_gb=0.1, workers=1, max_rollbacks=2))
    stages = (
        StageConfig("wild", 40 * STEP, MixConfig(), adversarial=AdversarialWeights(gan=1e38), learning_rate=1e30),
    )
    run = trainer(tmp_path / "run", replace(wild, stages=stages))
    with pytest.raises(CopoError, match=r"training diverged .* and 2 returns to a good state"):
        run.run()
    said = capsys.readouterr().out
    assert said.count("returns to state-000000000") == 2
    assert all(torch.isfinite(v.float()).all() for v in weights(run).values() if v.is_floating_point())


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path / "run").run(max_minutes=0)
    config = tiny_config()
    other = replace(config, generator=replace(config.generator, w_dim=24))
    with pytest.raises(CopoError, match=r"made with generator.w_dim = 16, this run has 24: use another --out"):
        trainer(tmp_path / "run", short(other)).run()


def test_losses_without_their_network_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    config = short(tiny_config())
    data = training_set(tmp_path / "d.zip")
    blind = replace(perception(), reader=None)
    with pytest.raises(CopoError, match=r"loss driving: imitation.landmarks needs a reader"):
        Trainer(config, Ingredients(data, ball_head(), blind), tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()


def test_pairs_take_turns(tmp_path: Path) -> None:
    pairs = ContrastiveWeights(factors_per_step=1, pose_identity=1.0)
    stage = StageConfig("pairs", 1.0, MixConfig(), contrastive=pairs)
    run = trainer(tmp_path / "run", tiny_config(stages=(stage,)))
    turns = [run.stages[0].pair_kinds(step) for step in range(5)]
    assert turns == [("expression",), ("illumination",), ("identity",), ("pose",), ("expression",)]


def test_pairs_of_two_lights_learn_from_the_person_as_photographed(tmp_path: Path) -> None:
    """Where they do, they are seen from their photographs' sides, and the second of each has its light."""
    pairs = ContrastiveWeights(
        factors_per_step=1, pairs=4, illumination_relit=1.0, illumination_detail=1.0, pose_identity=1.0
    )
    stage = StageConfig("pairs", 1.0, MixConfig(0.0, 0.5, 0.5), contrastive=pairs)
    run = trainer(tmp_path / "run", tiny_config(stages=(stage,), precision="float32"))
    built, batch, light = run.stages[0], next(run._stream()), run.sampler.slices["illumination"]
    turns = [built.pair_kinds(step)[0] for step in range(7)]
    assert turns == ["expression", "illumination", "identity", "illumination", "pose", "illumination", "expression"]
    assert Counts.of(built, 4) == Counts(0, 2, 2, 2)  # natural portraits have no photograph
    run.progress.step = 1
    inputs = run.learn_inputs(built, batch)
    assert torch.equal(inputs["view_cam2world"][2:], batch.cam2world[:2])
    assert torch.equal(inputs["pair_illumination"][:, light], batch.coefficients[:2, light])
    rest = [i for i in range(batch.coefficients.shape[1]) if not light.start <= i < light.stop]
    assert torch.equal(inputs["pair_illumination"][:, rest], inputs["coefficients"][2:, rest])
    scene, _ = run.generator_step._scene(built, ("illumination",), inputs)
    (pair,) = scene.pairs
    assert pair.first.frame.image.requires_grad and not pair.second.frame.image.requires_grad
    losses = built.generator_losses(scene)
    assert {"pair_light_relit", "pair_light_detail"} <= losses.keys()
    assert all(losses[name].requires_grad and losses[name] > 0 for name in ("pair_light_relit", "pair_light_detail"))
    run.progress.step = 2  # a pair of identities: cameras are random again
    assert not torch.equal(run.learn_inputs(built, batch)["view_cam2world"][2:], batch.cam2world[:2])


def test_a_portrait_with_the_heads_own_face_is_perfect_whatever_the_reader_makes_of_it(tmp_path: Path) -> None:
    """A reader with random weights is wrong about every landmark, of the head and of portraits alike."""
    face = ImitationWeights(landmarks=1.0, landmarks_as_read=True, mouth=1.0)
    stage = StageConfig("faces", 1.0, MixConfig(0.0, 0.5, 0.5), imitation=face)
    run = trainer(tmp_path / "run", tiny_config(stages=(stage,), precision="float32"))
    built = run.stages[0]
    scene, _ = run.generator_step._scene(built, (), run.learn_inputs(built, next(run._stream())))
    before = built.generator_losses(scene)
    assert before["im_landmarks"] > 1e-3 and before["im_landmarks"].requires_grad
    assert before["im_mouth"] > 1e-3 and before["im_mouth"].requires_grad
    made = scene.imitated
    bare = torch.zeros_like(made.frame.classes)
    bare[:, 1] = 1.0  # skin alone: nothing covers these faces
    full = made.full_view
    image = made.frame.image * (1 - full.face) + full.colour * full.face
    image[: len(scene.natural)] += 0.1 * full.face[: len(scene.natural)]
    same = replace(made, frame=replace(made.frame, image=image, classes=bare))
    after = built.generator_losses(replace(scene, imitated=same))
    assert after["im_mouth"] < 1e-3  # natural portraits are not asked
    image[: len(scene.natural)] -= 0.1 * full.face[: len(scene.natural)]
    exact = built.generator_losses(replace(scene, imitated=replace(same, frame=replace(same.frame, image=image))))
    assert exact["im_landmarks"] < 1e-6 < after["im_landmarks"]


def test_a_new_discriminator_is_listened_to_little_by_little(tmp_path: Path) -> None:
    stages = tuple(replace(s, kimg=0.1) for s in tiny_config().stages[:3])
    run = trainer(tmp_path / "run", tiny_config(stages=stages, adversarial_ramp_kimg=0.05))
    found = []
    for images in (0, 200, 225, 250, 300):
        run.progress.images = images
        found.append(run._ramp())
    assert found == pytest.approx([0, 0, 0.5, 1, 1])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line_and_the_checkpoint_stays(tmp_path: Path) -> None:
    trainer(tmp_path / "run").run(max_minutes=0)
    (tmp_path / "run" / "training_stats.jsonl").symlink_to("/dev/full")
    with pytest.raises(CopoError, match="No space left on device; free the space, the same command goes on"):
        trainer(tmp_path / "run").run()
    (tmp_path / "run" / "training_stats.jsonl").unlink()
    assert trainer(tmp_path / "run").run().steps == 10
