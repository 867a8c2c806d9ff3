"""`copo bench`: speed, memory and fidelity, with the peers' recorded figures beside ours."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from copo.bench import render
from copo.bench.timing import table
from copo.cli.options import parse_device
from copo.errors import CopoError
from copo.formats.atomic import write_bytes
from copo.training import bench
from copo.training.config import training_preset
from copo.training.distributed import Processes


@dataclass
class Command:
    """Measure the portrait field: frames from new latents, blended frames, new cameras, memory, training.

    Weights are random; times are medians of whole calls. The stages' shares and the peers' recorded figures stand
    beside ours.

    Example: copo bench render --preset portrait_256 --device cpu --json bench.json
    """

    what: tyro.conf.Positional[Literal["render", "train"]] = "render"
    """What to measure: the portrait field, or a whole training step (generator, discriminator, lazy R1)."""
    preset: str | None = None
    """Generator configuration; by default ffhq_512 on CUDA and portrait_256 on a CPU, and portrait_256 for train."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    repeats: int = 20
    """Timed calls of each figure."""
    threads: int = 2
    """CPU threads."""
    training: bool = True
    """Whether to time a generator training step (CUDA only)."""
    compiled: bool = True
    """Whether the networks of that step are compiled, which takes minutes."""
    json: Path | None = None
    """Also write the figures to this file."""

    def run(self) -> None:
        """Measure, print, write."""
        if self.repeats < 1 or self.threads < 1:
            raise CopoError(f"--repeats {self.repeats} --threads {self.threads}: give numbers of at least 1")
        device = parse_device(self.device)
        torch.set_num_threads(self.threads)
        if self.what == "train":
            self._train(device)
            return
        name = self.preset or ("ffhq_512" if device.type == "cuda" else "portrait_256")
        report = render.measure(name, device, self.repeats, self.training, self.compiled)
        where = ", ".join(f"{key} {value}" for key, value in report.machine.items() if value is not None)
        print(f"{report.preset}: {where}\n")
        print(table(report.figures))
        total = sum(report.stages.values())
        print("\nstages of an exact frame, each alone")
        for stage, value in report.stages.items():
            print(f"  {stage:<18}{value:9.3f} ms  {100 * value / total:5.1f} %")
        if self.json is not None:
            write_bytes(self.json, json.dumps(asdict(report), indent=2).encode() + b"\n")

    def _train(self, device: torch.device) -> None:
        """Measure a training step in this process; `torchrun benchmarks/train.py` measures several."""
        config = bench.adversarial_only(training_preset(self.preset or "portrait_256"))
        config = replace(config, acceleration="compile" if self.compiled and device.type == "cuda" else "none")
        figures = bench.measure(config, Processes(device), max(self.repeats, 2))
        print(f"{figures.stage} step, {config.precision}, batch {figures.batch} on {device}")
        print(f"  {figures.images_per_second:.1f} photographs/s, first step after {figures.first_step_seconds:.1f} s, "
              f"{figures.peak_memory_gb:.2f} GB")  # fmt: skip
        for name, value in figures.milliseconds.items():
            print(f"  {name:<22}{value:9.2f} ms")
        if self.json is not None:
            write_bytes(self.json, json.dumps(asdict(figures), indent=2).encode() + b"\n")
