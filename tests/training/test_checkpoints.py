"""Checkpoints: exact, in small pieces, whole or absent."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from copo.errors import CopoError
from copo.training import checkpoints
from copo.training.checkpoints import TrainingState, check_config, latest_state, load_state, pack_state, save_state


def state(step: int = 1) -> TrainingState:
    torch.manual_seed(step)
    tensors = {
        "large": torch.randn(300, 700),
        "half": torch.randn(5, 3, 2).half(),
        "scalar": torch.tensor(float(step)),
        "number": torch.tensor([step, 2**40]),
        "none": torch.zeros(0, 4),
        "sliced": torch.randn(6, 6).T[1:3],
    }
    return TrainingState(tensors, {"step": step}, {"a": {"x": 1, "y": [1, 2]}})


def test_what_comes_back_is_what_went_in_whatever_the_piece_size(tmp_path: Path) -> None:
    given = state()
    for megabytes in (100, 0.125):
        folder = save_state(tmp_path, given, 7, megabytes, keep=2)
        back = load_state(folder)
        assert back.progress == given.progress and back.config == given.config
        assert back.tensors.keys() == given.tensors.keys()
        for name, value in given.tensors.items():
            assert back.tensors[name].dtype == value.dtype and torch.equal(back.tensors[name], value), name
        files = list(folder.glob("shard-*"))
        assert max(f.stat().st_size for f in files) <= megabytes * 2**20
        assert len(files) == (1 if megabytes == 100 else 7)


def test_the_last_good_ones_are_kept(tmp_path: Path) -> None:
    for images in (5, 100, 20_000):
        save_state(tmp_path, state(), images, 1, keep=2)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["state-000000100", "state-000020000"]
    newest = latest_state(tmp_path)
    assert newest is not None and newest.name == "state-000020000"


def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = save_state(tmp_path, state(1), 10, 1, keep=1)
    real = checkpoints.save_file

    def full(tensors: Any, path: Path) -> None:
        if "0001" in Path(path).name:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CopoError, match="No space left on device; free the space"):
        save_state(tmp_path, state(2), 20, 0.125, keep=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [good.name]
    assert load_state(good).progress == {"step": 1}


def test_a_run_killed_while_saving_is_resumed_from_the_one_before(tmp_path: Path) -> None:
    good = save_state(tmp_path, state(1), 10, 1, keep=1)
    half = tmp_path / "checkpoints" / ".state-000000020.tmp"
    half.mkdir()
    (half / "shard-0000.safetensors").write_bytes(b"half")
    assert latest_state(tmp_path) == good
    assert latest_state(tmp_path / "nothing") is None


def test_damage_is_told_in_one_line(tmp_path: Path) -> None:
    folder = save_state(tmp_path, state(), 10, 1, keep=1)
    shard = next(folder.glob("shard-*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CopoError, match="is damaged: remove it to resume from the one before"):
        load_state(folder)
    (folder / "state.json").write_text("{}")
    with pytest.raises(CopoError, match="another version"):
        load_state(folder)


def test_another_configuration_is_told_by_its_first_difference(tmp_path: Path) -> None:
    check_config({"generator": {"noise": 4}}, {"generator": {"noise": 4}}, tmp_path)
    with pytest.raises(CopoError, match=r"made with generator.noise = 4, this run has 5"):
        check_config({"generator": {"noise": 4}}, {"generator": {"noise": 5}}, tmp_path)


def test_a_packed_checkpoint_has_half_the_weights_and_no_moments(tmp_path: Path) -> None:
    given = {
        "networks/w": torch.randn(50, 60),
        "strength/s": torch.tensor(0.3),
        "adam_generator/0/exp_avg_sq": torch.ones(9),
    }
    folder = save_state(tmp_path / "run", TrainingState(given, {"step": 3}, {}), 5000, 100, keep=1)
    packed = pack_state(folder, tmp_path / "small", shard_mb=0.125)
    back = load_state(packed)
    assert packed.name == folder.name and back.progress == {"step": 3}
    assert back.tensors.keys() == {"networks/w", "strength/s"}
    assert torch.equal(back.tensors["networks/w"], given["networks/w"].half())
    assert torch.equal(back.tensors["strength/s"], given["strength/s"])


def test_a_weight_beyond_half_precision_is_not_packed(tmp_path: Path) -> None:
    folder = save_state(tmp_path, TrainingState({"networks/w": torch.full((2,), 1e6)}, {}, {}), 1, 100, keep=1)
    with pytest.raises(CopoError, match="networks/w"):
        pack_state(folder, tmp_path / "small", 100)


def test_a_run_may_change_what_styles_its_pictures_and_nothing_else(tmp_path: Path) -> None:
    saved = {"generator": {"noise": 128}}
    check_config(saved, {"generator": {"noise": 128, "styled_by": ["noise"]}}, tmp_path)
    with pytest.raises(CopoError, match="noise = 128, this run has 64"):
        check_config(saved, {"generator": {"noise": 64, "styled_by": ["noise"]}}, tmp_path)
    with pytest.raises(CopoError, match="made with"):
        check_config(saved, {"generator": {}}, tmp_path)
