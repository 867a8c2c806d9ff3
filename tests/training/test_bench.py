"""The benchmark runs every part and counts what it says it counts."""

from __future__ import annotations

import pytest
import torch
from tests.training.samples import ball_head, tiny_config

from copo.errors import CopoError
from copo.training.bench import adversarial_only, measure
from copo.training.distributed import Processes

CPU = Processes(torch.device("cpu"))


@pytest.mark.parametrize("acceleration", ["none", "graphs"])
def test_adversarial_step(acceleration: str) -> None:
    figures = measure(adversarial_only(tiny_config(acceleration=acceleration)), CPU, steps=2, head=ball_head())
    assert figures.images_per_second > 0 and figures.first_step_seconds > 0 and figures.batch == 4
    assert set(figures.milliseconds) == {
        "data", "inputs", "generator", "generator update", "discriminator", "discriminator with R1",
        "discriminator update",
    }  # fmt: skip


def test_a_stage_of_ours_without_networks() -> None:
    figures = measure(tiny_config(), CPU, steps=2, head=ball_head())
    assert figures.stage == "reconstruction" and "discriminator" not in figures.milliseconds
    with pytest.raises(CopoError, match="give at least 2"):
        measure(tiny_config(), CPU, steps=1, head=ball_head())
