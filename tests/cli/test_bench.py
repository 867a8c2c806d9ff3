"""`copo bench render` from words to figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import tyro

from copo.cli.bench import Command
from copo.errors import CopoError


def run(*words: str) -> None:
    tyro.cli(Command, args=list(words)).run()


def test_figures_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    out = tmp_path / "bench.json"
    run(
        "render", "--preset", "tiny", "--device", "cpu", "--repeats", "1", "--threads", str(threads), "--json", str(out)
    )
    said = capsys.readouterr().out
    assert "new camera, cached planes, exact (6 + 6 samples)" in said
    report = json.loads(out.read_text())
    values = {figure["what"]: figure["value"] for figure in report["figures"]}
    assert len(values) == 7 and all(value > 0 for value in values.values())
    assert values["fast against exact, worst picture"] > 20  # decibels, of a field of fog with 6 + 3 samples
    assert set(report["stages"]) == {"mapping", "backbone", "field", "super-resolution", "background"}
    assert report["machine"]["threads"] == threads


def test_bad_input_is_told() -> None:
    with pytest.raises(CopoError, match="did you mean 'portrait_256'"):
        run("render", "--preset", "portait_256", "--device", "cpu")
    with pytest.raises(CopoError, match="--repeats 0"):
        run("render", "--repeats", "0", "--device", "cpu")
