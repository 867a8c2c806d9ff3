"""How fast training is: photographs a second of whole steps, time to the first step, memory, and who takes the time."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.formats.dataset import DatasetWriter, Portrait, PortraitDataset
from copo.head.open_head import OpenHead
from copo.head.protocol import HeadModel
from copo.illumination import NEUTRAL_LIGHT
from copo.training.config import AdversarialWeights, MixConfig, StageConfig, TrainingConfig
from copo.training.data import Batch, PhotographStream, TrainingSet
from copo.training.distributed import Processes
from copo.training.loop import Ingredients, Trainer, needs_labels
from copo.training.perception import Perception
from copo.training.stacks import without_missing

PHOTOGRAPHS = 64
"""In the made-up data set."""


@dataclass(frozen=True)
class TrainFigures:
    """What was measured.

    Attributes:
        stage: Name of the stage.
        processes: How many took part.
        batch: Photographs a step and process.
        images_per_second: Of all processes together, R1 steps included at their share.
        first_step_seconds: From the start of building the trainer to the end of the first step.
        peak_memory_gb: Of one process's GPU; 0 on a CPU.
        milliseconds: Of a step's parts, each waited for: data, inputs, generator, generator update, discriminator,
            discriminator with R1, discriminator update. Waiting makes their sum longer than a step.
    """

    stage: str
    processes: int
    batch: int
    images_per_second: float
    first_step_seconds: float
    peak_memory_gb: float
    milliseconds: dict[str, float]


def adversarial_only(config: TrainingConfig) -> TrainingConfig:
    """The plain adversarial step: generator, discriminator, lazy R1; nothing but generated factors."""
    stage = StageConfig("adversarial", 1e9, MixConfig(), adversarial=AdversarialWeights())
    return replace(config, stages=(stage,))


def measure(
    config: TrainingConfig,
    processes: Processes,
    steps: int = 64,
    head: HeadModel | None = None,
    perception: Perception | None = None,
) -> TrainFigures:
    """Train the first stage of a configuration on made-up photographs and take the time.

    Args:
        config: Whose first stage counts; losses whose networks are missing are left out.
        processes: All of them must call this.
        steps: Timed steps; a multiple of the R1 interval counts R1 at its share.
        head: Open head by default.
        perception: Networks that look at portraits; none by default.

    Raises:
        CopoError: Too few steps.
    """
    if steps < 2:
        raise CopoError(f"bench: {steps} steps: give at least 2")
    head = OpenHead.load() if head is None else head
    perception = perception or Perception()
    config, _ = without_missing(config, perception)
    config = replace(config, stages=(replace(config.stages[0], kimg=1e9), *config.stages[1:]))
    with tempfile.TemporaryDirectory() as folder:
        data = TrainingSet(_made_up(Path(folder) / "d.zip", head, config), head.spec, 0.0, needs_labels(config))
        began = time.perf_counter()
        trainer = Trainer(config, Ingredients(data, head, perception), Path(folder) / "run", processes)
        stream = trainer._stream()
        stage = trainer.stages[0]
        try:
            batches = list(islice(stream, 4))
            supply: Iterator[Batch] = cycle(batches)
            trainer._step(stage, next(supply))
            _wait(processes)
            first = time.perf_counter() - began
            interval = stage.adversarial.weights.r1_interval if stage.adversarial is not None else 1
            for _ in range(min(interval, steps)):  # meets every kind of step once
                trainer._step(stage, next(supply))
            _wait(processes)
            began = time.perf_counter()
            for _ in range(steps):
                trainer._step(stage, next(supply))
            _wait(processes)
            rate = steps * trainer.world_batch / (time.perf_counter() - began)
            device = processes.device
            memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
            parts = _parts(trainer, stream, supply)
        finally:
            stream.close()
    return TrainFigures(stage.config.name, processes.world, config.batch, rate, first, memory, parts)


def _parts(trainer: Trainer, stream: PhotographStream, supply: Iterator[Batch], repeats: int = 8) -> dict[str, float]:
    """Median milliseconds of each part of a step, waiting after each."""
    stage = trainer.stages[0]
    kinds = stage.pair_kinds(trainer.progress.step)
    group = stage.adversarial
    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], object]) -> None:
        began = time.perf_counter()
        call()
        _wait(trainer.processes)
        times.setdefault(name, []).append((time.perf_counter() - began) * 1e3)

    for _ in range(repeats):
        timed("data", lambda: next(stream))
        timed("inputs", lambda: trainer.learn_inputs(stage, next(supply)))
        inputs = trainer.learn_inputs(stage, next(supply))
        timed("generator", lambda given=inputs: trainer.learn_generator(stage, kinds, given))  # type: ignore[misc]
        timed("generator update", lambda: trainer._finish("generator", 1.0))
        made, _ = trainer.learn_generator(stage, kinds, inputs)
        trainer._finish("generator", 1.0)
        if group is None or "dual" not in made:
            continue
        for name, regularise in (("discriminator", False), ("discriminator with R1", True)):
            timed(name, lambda r=regularise, i=inputs, m=made: trainer.learn_discriminator(stage, r, i, m))  # type: ignore[misc]
            timed("discriminator update", lambda: trainer._finish("discriminator", 1.0))
    return {name: statistics.median(values) for name, values in times.items()}


def _wait(processes: Processes) -> None:
    if processes.device.type == "cuda":
        torch.cuda.synchronize(processes.device)


def _made_up(path: Path, head: HeadModel, config: TrainingConfig) -> PortraitDataset:
    """Smooth random pictures with random factors: speed does not depend on what they show."""
    side = config.generator.output_resolution
    random = np.random.default_rng(0)
    factors = Factors.random(head.spec, list(range(PHOTOGRAPHS)), NEUTRAL_LIGHT)
    yaw = torch.pi / 2 + torch.linspace(-0.4, 0.4, PHOTOGRAPHS)
    camera = Camera.from_pitch_yaw(torch.full((PHOTOGRAPHS,), torch.pi / 2), yaw).to_eg3d().numpy()
    labels = io.BytesIO()
    Image.fromarray(np.ones((side, side), np.uint8)).save(labels, format="PNG")
    with DatasetWriter(path) as writer:
        for i in range(PHOTOGRAPHS):
            small = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            picture = io.BytesIO()
            small.resize((side, side), Image.Resampling.BICUBIC).save(picture, format="JPEG", quality=90)
            writer.add(Portrait(picture.getvalue(), ".jpg", camera[i], factors[i], labels.getvalue()))
    return PortraitDataset(path)
