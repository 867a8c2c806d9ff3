"""Speed of training on this machine: photographs a second, time to the first step, memory, parts of a step.

    PYTHONPATH=src python3 benchmarks/train.py --preset portrait_256 --acceleration compile --json train.json
    PYTHONPATH=src torchrun --nproc-per-node 4 benchmarks/train.py

It measures the plain adversarial step (generator, discriminator, lazy R1). With `--stage NAME` one of the
preset's own stages, without the losses whose networks are not there.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from copo.training.bench import adversarial_only, measure
from copo.training.config import training_preset
from copo.training.distributed import Processes

GOAL, PILOT, PEER = 500.0, 440.0, 24.0
"""Photographs a second on one H100: asked for; the pilot; EG3D's program."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="portrait_256")
    parser.add_argument("--stage", default="", help="one of the preset's stages; default: the plain adversarial step")
    parser.add_argument("--acceleration", default=None, choices=("none", "compile", "graphs"))
    parser.add_argument("--precision", default=None, choices=("float32", "bfloat16"))
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    config = training_preset(options.preset)
    changes = {
        n: getattr(options, n) for n in ("acceleration", "precision", "batch") if getattr(options, n) is not None
    }
    config = replace(config, **changes)
    if options.stage:
        config = replace(config, stages=tuple(s for s in config.stages if s.name == options.stage))
    else:
        config = adversarial_only(config)
    processes = Processes.start(options.device)
    figures = measure(config, processes, options.steps)
    if processes.main:
        print(f"{options.preset}, {figures.stage}, {config.precision}, {config.acceleration}, batch {figures.batch} x "
              f"{figures.processes} on {processes.device}")  # fmt: skip
        print(
            f"photographs a second   {figures.images_per_second:9.1f} "
            f"(asked for {GOAL:g}, pilot {PILOT:g}, EG3D {PEER:g})"
        )
        print(f"first step             {figures.first_step_seconds:9.1f} s (asked for 90)")
        print(f"peak memory            {figures.peak_memory_gb:9.2f} GB")
        for name, value in figures.milliseconds.items():
            print(f"  {name:<22}{value:9.2f} ms")
        if options.json is not None:
            options.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    processes.close()


if __name__ == "__main__":
    main()
