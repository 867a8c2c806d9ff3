"""Speed and memory of the measured model, as it was used here; `copo bench render` measures the rest."""

from __future__ import annotations

import time

import numpy as np
import torch

from copo.evaluation.metric import Evidence, Metric, Noted, Result, register
from copo.evaluation.plans import relaxed
from copo.evaluation.sources import Request, frontal_camera

REPEATS = 5


def measure_speed(evidence: Evidence) -> Result:
    """Whole calls, from factors to a uint8 picture: one portrait, and a batch."""
    source = evidence.source
    notes = Noted()
    cuda = torch.cuda.is_available() and getattr(source, "device", torch.device("cpu")).type == "cuda"
    for count in (1, source.batch):
        people = relaxed(source.sample(list(range(count))))
        request = Request(people, frontal_camera(None).expand(count))
        source.render(request)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(REPEATS):
            begin = time.perf_counter()
            source.render(request)
            times.append(time.perf_counter() - begin)
        middle = float(np.median(times))
        if count == 1:
            notes.add("speed_frame", "A new portrait, one at a time", 1000 * middle, REPEATS, unit="ms")
        else:
            notes.add("speed_batch", f"Portraits a second, {count} at a time", count / middle, REPEATS, unit="1/s")
    if cuda:
        notes.add("memory", "Peak memory of the device", torch.cuda.max_memory_allocated() / 2**30, 1, unit="GiB")
    return Result(tuple(notes.figures))


register(Metric("speed", "Speed and memory", measure_speed, source=True))
