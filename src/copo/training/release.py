"""The published program's options, translated: `--warmup1`, `--warmup2`, `--second`, `--set_step`."""

from __future__ import annotations

from dataclasses import replace

from copo.errors import CopoError
from copo.training.config import TrainingConfig, portrait_stages, published_stages

WARMUP1, WARMUP2 = 5_000, 20_000
"""Defaults of the published program, in steps."""


def translate(
    config: TrainingConfig,
    processes: int,
    warmup1: int | None,
    warmup2: int | None,
    second: bool,
    set_step: int,
    warm_start: bool,
) -> tuple[TrainingConfig, int]:
    """A training with the published schedule, counted in photographs instead of steps.

    Args:
        config: To change; only its stages do.
        processes: Processes, which share a step.
        warmup1: Steps until imitation joins; None keeps the configuration's stages, unless another option is given.
        warmup2: Step at which semantics join.
        second: Whether to run the disentanglement stage alone.
        set_step: Step at which the run shall begin.
        warm_start: Whether our reconstruction stages come first; their length is added to the begin.

    Returns:
        The configuration, and the number of photographs that count as shown.

    Raises:
        CopoError: The numbers contradict each other.
    """
    batch = config.batch * processes
    if set_step < 0:
        raise CopoError(f"--set_step {set_step}: give 0 or more")
    if warmup1 is not None or warmup2 is not None or second:
        first = WARMUP1 if warmup1 is None else warmup1
        stages = published_stages(first, max(WARMUP2, first) if warmup2 is None else warmup2, second, batch)
        config = replace(config, stages=stages)
    if warm_start and config.stages[0].reconstruction is None:
        config = replace(config, stages=(*portrait_stages()[:2], *config.stages))
    return config, set_step * batch
