"""`copo bench`: speed, memory and fidelity, with the peers' recorded figures beside ours."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from copo.bench import render
from copo.bench.timing import table
from copo.cli.options import parse_device
from copo.errors import CopoError
from copo.formats.atomic import write_bytes


@dataclass
class Command:
    """Measure the portrait field: frames from new latents, blended frames, new cameras, memory, training.

    Weights are random; times are medians of whole calls. The stages' shares and the peers' recorded figures stand
    beside ours.

    Example: copo bench render --preset portrait_256 --device cpu --json bench.json
    """

    what: tyro.conf.Positional[Literal["render"]] = "render"
    """What to measure."""
    preset: str | None = None
    """Generator configuration; by default ffhq_512 on CUDA and portrait_256 on a CPU."""
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
