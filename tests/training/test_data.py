"""Order, sharing out, caching and damage of photographs."""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import pytest
import torch
from tests.training.samples import ball_head, open_head, training_set, write_dataset

from copo.errors import CopoError
from copo.formats.dataset import PortraitDataset
from copo.training.data import PhotographStream, TrainingSet, order


def take(stream: PhotographStream, count: int) -> list[list[int]]:
    out = [next(stream).index.tolist() for _ in range(count)]
    stream.close()
    return out


def test_order_shows_every_photograph_once_a_round_and_can_start_anywhere() -> None:
    whole = list(itertools.islice(order(7, seed=3, start=0), 21))
    for begin in (0, 7, 14):
        assert sorted(whole[begin : begin + 7]) == list(range(7))
    assert whole[:7] != whole[7:14]
    assert list(itertools.islice(order(7, 3, 5), 16)) == whole[5:]
    assert list(itertools.islice(order(7, 4, 0), 7)) != whole[:7]


def test_processes_share_a_step_and_together_see_what_one_sees(tmp_path: Path) -> None:
    data = training_set(tmp_path / "d.zip")
    alone = take(PhotographStream(data, 4, 32, 8, True), 5)
    first = take(PhotographStream(data, 2, 32, 8, True, rank=0, world=2), 5)
    second = take(PhotographStream(data, 2, 32, 8, True, rank=1, world=2), 5)
    assert [a + b for a, b in zip(first, second, strict=True)] == alone
    later = take(PhotographStream(data, 4, 32, 8, True, start=8), 3)
    assert later == alone[2:]


def test_batches_hold_what_the_data_set_says(tmp_path: Path) -> None:
    data = training_set(tmp_path / "d.zip")
    stream = PhotographStream(data, 3, 16, 8, True)
    batch = next(stream)
    stream.close()
    assert batch.pictures.shape == (3, 3, 16, 16) and batch.pictures.dtype == torch.uint8
    assert batch.labels is not None and batch.labels.shape == (3, 8, 8)
    row = int(batch.index[1])
    factors = data.dataset.factors
    assert factors is not None
    expected = factors.to_vector()[row, ball_head().spec.noise :]
    assert torch.allclose(batch.coefficients[1], expected)
    assert torch.equal(batch.cam2world[1], data.dataset.cameras.cam2world[row])
    whole = torch.from_numpy(data.dataset.image(row)).permute(2, 0, 1).float()
    small = torch.nn.functional.avg_pool2d(whole, 2)
    assert (batch.pictures[1].float() - small).abs().mean() < 6


def test_views_of_one_person_share_a_code(tmp_path: Path) -> None:
    data = training_set(tmp_path / "d.zip", people=3, views=2)
    assert data.code_count == 3 and data.codes.tolist() == [0, 0, 1, 1, 2, 2]


def test_one_damaged_photograph_costs_one_photograph(tmp_path: Path) -> None:
    path = tmp_path / "d.zip"
    dataset = write_dataset(path, people=12, views=1)
    name = dataset.names[5]
    damage(path, name)
    data = TrainingSet(PortraitDataset(path), ball_head().spec, 0.0, True)
    stream = PhotographStream(data, 6, 32, 8, True)
    seen = [i for _ in range(4) for i in next(stream).index.tolist()]
    stream.close()
    assert list(stream.bad) == [name] and "cannot be decoded" in stream.bad[name]
    assert len(seen) == 24 and 5 not in seen and seen.count(6) == 4  # the next one takes its place


def damage(path: Path, name: str) -> None:
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    content = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(name)
    content[start : start + info.compress_size] = bytes(info.compress_size)
    path.write_bytes(bytes(content))


def test_a_set_that_is_mostly_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.zip"
    for name in write_dataset(path).names[:4]:
        damage(path, name)
    data = TrainingSet(PortraitDataset(path), ball_head().spec, 0.0, True)
    stream = PhotographStream(data, 4, 32, 8, True)
    with pytest.raises(CopoError, match="photographs cannot be read"):
        take(stream, 10)


def test_what_a_training_cannot_use_is_refused_in_one_line(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.zip", labels=False)
    with pytest.raises(CopoError, match=r"coefficients of head 'ball'.*of 'open_head'"):
        TrainingSet(dataset, open_head().spec, 0.0, False)
    with pytest.raises(CopoError, match="no label maps"):
        TrainingSet(dataset, ball_head().spec, 0.0, True)
    TrainingSet(dataset, ball_head().spec, 0.0, False)
    dataset.factors = None
    with pytest.raises(CopoError, match="no coefficients: make it with copo prepare"):
        TrainingSet(dataset, ball_head().spec, 0.0, False)


def test_people_of_the_test_part_are_left_out(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.zip", people=10, views=1)
    data = TrainingSet(dataset, ball_head().spec, 0.3, True)
    assert set(data.rows) == set(dataset.split(0.3, test=False)) and 0 < len(data) < 10
