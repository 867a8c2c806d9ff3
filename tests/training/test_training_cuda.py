"""Training on a GPU: recorded and compiled steps do what plain ones do, and resuming works there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.samples import BallHead, open_head, perception, tiny_config, training_set, write_dataset

from copo.head.open_head import OpenHead
from copo.training.acceleration import RecordedStep
from copo.training.bench import adversarial_only
from copo.training.config import PRESETS, RunConfig, TrainingConfig, training_preset
from copo.training.data import TrainingSet
from copo.training.distributed import Processes
from copo.training.loop import Ingredients, Trainer
from copo.training.perception import Perception

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def wide_config(**changes: object) -> TrainingConfig:
    """Tiny, but with widths that the fused kernels can serve."""
    generator = replace(PRESETS["tiny"], plane_channels=32, decoder_hidden=64)
    return tiny_config(generator=generator, **changes)


def test_a_recorded_step_sees_new_inputs_and_gives_new_gradients() -> None:
    """Gradient of sum(w x) is x: a replay with other inputs must give other gradients, also through a second graph."""
    w = torch.ones(4, device="cuda", requires_grad=True)
    v = torch.ones(4, device="cuda", requires_grad=True)
    first, second = RecordedStep([w], True), RecordedStep([v], True)

    def make(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        made = w * given["x"]
        made.sum().backward()
        return {"made": made.detach()}

    def judge(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        loss = (v * given["made"]).sum()
        loss.backward()
        return {"loss": loss.detach()}

    for scale in (1.0, 2.0, 3.0):
        x = torch.arange(4.0, device="cuda") * scale
        made = first("make", make, {"x": x})
        assert w.grad is not None and torch.equal(w.grad, x)
        loss = second("judge", judge, made)["loss"]
        assert v.grad is not None and torch.equal(v.grad, x) and float(loss) == float(x.sum())
    assert first.enabled and second.enabled


@pytest.mark.parametrize("acceleration", ["none", "graphs", "compile"])
def test_stages_run_and_resume(tmp_path: Path, acceleration: str) -> None:
    config = wide_config(acceleration=acceleration, precision="bfloat16",
                         run=RunConfig(tick_kimg=0.008, snapshot_ticks=1, cache_gb=0.1, workers=1))  # fmt: skip
    config = replace(config, stages=tuple(replace(s, kimg=0.012) for s in config.stages))
    data = training_set(tmp_path / "d.zip")
    head = BallHead().to("cuda")
    processes = Processes(torch.device("cuda", 0))
    for minutes in (0.0, 60.0):
        run = Trainer(config, Ingredients(data, head, perception()), tmp_path / "run", processes)
        outcome = run.run(max_minutes=minutes)
    assert outcome.finished
    assert all(torch.isfinite(v.float()).all() for v in run.networks.state_dict().values())


def test_portrait_256_adversarial_step_in_bfloat16(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.zip", open_head(), people=4, views=1)
    head = OpenHead.load().to("cuda")
    config = adversarial_only(training_preset("portrait_256"))
    config = replace(config, batch=4, acceleration="none", run=RunConfig(test_share=0.0))
    data = TrainingSet(dataset, head.spec, 0.0, False)
    run = Trainer(config, Ingredients(data, head, Perception()), tmp_path / "run", Processes(torch.device("cuda", 0)))
    stream = run._stream()
    for _ in range(2):
        run._step(run.stages[0], next(stream))
    stream.close()
    taken = run.stats.take(run.processes)
    assert taken["Skipped/generator"]["mean"] == 0 and taken["Skipped/discriminator"]["mean"] == 0
