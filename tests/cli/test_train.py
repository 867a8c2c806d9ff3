"""`copo train` from words to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tyro
from tests.training.samples import open_head, write_dataset

from copo.cli.train import Command
from copo.errors import CopoError
from copo.portrait import Portrait


def train(*words: str) -> None:
    tyro.cli(Command, args=list(words)).run()


def test_portrait_trains_stops_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without any fetched weights: losses that need them are left out, and said to be."""
    write_dataset(tmp_path / "d.zip", open_head(), people=3, views=1)
    words = ["portrait", "--config", "tiny", "--data", str(tmp_path / "d.zip"), "--out", str(tmp_path / "run"),
             "--device", "cpu", "--stack", "published", "--skip-missing", "--set", "batch=2",
             "run.sheet_people=1", "stages.reconstruction.kimg=0.002", "stages.driving.kimg=0.002",
             "stages.adversarial.kimg=0.002", "stages.semantics.kimg=0.002",
             "stages.disentanglement.kimg=0.002"]  # fmt: skip
    train(*words, "--max-minutes", "0")
    said = capsys.readouterr().out
    assert "stopped, the same command goes on" in said
    assert "without the loss driving: imitation.landmarks" in said
    train(*words)
    assert "all stages are over: 0.010 kimg, 5 steps" in capsys.readouterr().out
    options = json.loads((tmp_path / "run" / "training_options.json").read_text())
    assert options["config"]["stages"][1]["imitation"]["landmarks"] == 0
    where = ["--run", str(tmp_path / "run"), "--data", str(tmp_path / "d.zip")]
    with pytest.raises(CopoError, match="--code-power 2: give a number from 0"):
        train("snapshot", *where, "--out", str(tmp_path / "model"), "--code-power", "2")
    train("snapshot", *where, "--out", str(tmp_path / "model"))
    assert "wrote" in capsys.readouterr().out
    model = Portrait.from_pretrained(tmp_path / "model")
    assert model.noise_prior is not None and model.noise_prior.codes.shape == (3, 8)
    assert model.render(model.sample(seed=1)).image.shape == (1, 3, 32, 32)


def test_prior_writes_checkpoint_report_and_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "d.zip", open_head(), people=20, views=1)
    train("prior", "--factor", "light", "--data", str(tmp_path / "d.zip"), "--out", str(tmp_path / "p"), "--steps", "3",
          "--device", "cpu")  # fmt: skip
    assert "illumination: error" in capsys.readouterr().out
    names = {p.name for p in (tmp_path / "p").iterdir()}
    assert names == {"config.json", "prior_illumination.safetensors", "report.json", "samples.png"}


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.zip")
    out = str(tmp_path / "run")
    with pytest.raises(CopoError, match="does not exist"):
        train("portrait", "--data", missing, "--out", out, "--device", "cpu", "--config", "tiny", "--skip-missing")
    with pytest.raises(CopoError, match="use them with --factor exp"):
        train("prior", "--factor", "id", "--data", missing, "--out", out, "--curves", "x.csv")
    with pytest.raises(CopoError, match="--kimg 0"):
        train("portrait", "--data", missing, "--out", out, "--device", "cpu", "--kimg", "0")
    with pytest.raises(CopoError, match="--max-minutes -1"):
        train("portrait", "--data", missing, "--out", out, "--max-minutes", "-1")
    assert not (tmp_path / "run").exists()
