"""Learning, stopping, going on, and measuring."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.training.test_analyser_data import photos

from copo.errors import CopoError
from copo.head.open_head import OpenHead
from copo.training.analyser.chance import Chance
from copo.training.analyser.config import AnalyserTraining
from copo.training.analyser.evaluate import closer_pairs, correlations, evaluate, on_renders, pearson, table, to_json
from copo.training.analyser.loop import PART_BYTES, Trainer, learning_rate, train
from copo.training.analyser.photos import Stage, Wide
from copo.vision.analyser_file import load_analyser
from copo.vision.networks.analyser import AnalyserConfig, AnalyserNetwork

TINY = AnalyserTraining(
    network=AnalyserConfig(size=64, width=16, fine_width=8, head=32, hidden=32),
    renders=2, photos=0, wide=2, wide_size=64, steps=4, warmup=2, log_steps=2, exact_moments=True,
)  # fmt: skip


@cache
def head() -> OpenHead:
    return OpenHead.load()


def stage() -> Stage:
    wide = Wide(torch.zeros(2, 3, 160, 160, dtype=torch.uint8), torch.tensor([[0.5, 0.4, 0.6, 0.1]] * 2),
                torch.tensor([False, True]))  # fmt: skip
    return Stage(photos(8), wide, torch.randn(3, 9, 3))


def test_it_learns_a_few_renders_by_heart() -> None:
    trainer = Trainer(replace(TINY, steps=20, learning_rate=3e-3), head())
    fixed = trainer.data.draw(Chance("cpu", 0))
    trainer.data.draw = lambda chance: fixed  # type: ignore[method-assign]
    first = trainer.learn()
    last = first
    for _ in range(11):
        last = trainer.learn()
    assert float(last["total"]) < 0.6 * float(first["total"])
    for name in ("shape", "rotation", "labels", "finder_score"):
        assert float(last[name]) < float(first[name]), name


def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path: Path) -> None:
    config = replace(TINY, photos=2, steps=4)
    whole = train(config, tmp_path / "whole", stage())
    part = Trainer(config, head(), stage().part(test=False))
    for _ in range(2):
        part.learn()
    part.save(tmp_path / "part")
    again = train(config, tmp_path / "part", stage())
    assert again.step == whole.step == 4
    for (name, one), other in zip(whole.network.state_dict().items(), again.network.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    for one, other in zip(whole.average.parameters(), again.average.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_folder_is_complete_and_small(tmp_path: Path) -> None:
    train(replace(TINY, exact_moments=False), tmp_path, None)
    assert AnalyserTraining.from_dict(json.loads((tmp_path / "config.json").read_text())) == replace(
        TINY, exact_moments=False
    )
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4] and all(math.isfinite(row["total"]) for row in rows)
    assert all(path.stat().st_size < 16 << 20 for path in tmp_path.glob("*.safetensors"))
    assert max(path.stat().st_size for path in tmp_path.glob("*.safetensors")) < PART_BYTES + (1 << 20)
    file = load_analyser(tmp_path / "analyser.safetensors")
    assert file.spec == head().spec
    out = file.network(torch.zeros(1, 3, 64, 64))
    assert torch.isfinite(out.points).all()
    again = Trainer(replace(TINY, exact_moments=False), head())
    again.resume(tmp_path)
    assert again.step == 4
    (tmp_path / "state-0.safetensors").write_bytes(b"damaged")
    with pytest.raises(CopoError, match="cannot go on"):
        Trainer(TINY, head()).resume(tmp_path)


def test_minutes_end_a_run(tmp_path: Path) -> None:
    trainer = train(replace(TINY, steps=10_000, minutes=1e-4), tmp_path, None)
    assert trainer.step == 1 and trainer.progress == 1
    stopped = train(replace(TINY, steps=10_000), tmp_path / "other", None, max_minutes=1e-4)
    assert stopped.step == 1 and (tmp_path / "other" / "state.json").is_file()


def test_learning_rate() -> None:
    config = replace(TINY, learning_rate=1.0, warmup=10)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 9, 0.0) == pytest.approx(1.0)
    assert learning_rate(config, 100, 0.5) == pytest.approx(0.505)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.01)


def test_configurations_that_cannot_work() -> None:
    with pytest.raises(CopoError, match="even"):
        replace(TINY, renders=3)
    with pytest.raises(CopoError, match="both 0"):
        replace(TINY, renders=0)
    with pytest.raises(CopoError, match="nonsense"):
        AnalyserTraining.from_dict({"nonsense": 1})


def test_pearson_by_hand() -> None:
    a = torch.tensor([1.0, 2, 3])
    assert pearson(a, 2 * a + 1) == pytest.approx(1) and pearson(a, -a) == pytest.approx(-1)
    assert pearson(a, torch.tensor([1.0, 3, 2])) == pytest.approx(0.5)
    assert pearson(a, torch.ones(3)) == 0 and math.isnan(pearson(a[:1], a[:1]))


def test_closer_pairs_by_hand() -> None:
    identity = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    figure = closer_pairs(identity, torch.tensor([0, 0, 1, 1]))
    # person 0: both pairs (distance 1) beat both others: 4 of 4. person 1 (distance 7): from 3 the others are 3 and 2
    # away: 0 of 2; from 10 they are 10 and 9 away: 2 of 2
    assert figure.value == pytest.approx(100 * 6 / 8) and figure.count == 8 and figure.met is False


def test_perfect_expressions_correlate() -> None:
    units = torch.rand(30, 52)
    figures = correlations(units, units)
    assert len(figures) == 5 and all(f.value == pytest.approx(1) and f.met for f in figures)
    assert figures[-1].count == 52


def test_every_figure_of_the_plan_is_measured() -> None:
    torch.manual_seed(0)
    net = AnalyserNetwork(TINY.network)
    given = stage()
    given.photos.test[:] = True
    figures = evaluate(net, given, head(), batch=4, renders=2)
    asked = [f for f in figures if f.target is not None]
    assert len(asked) == 5 + 1 + 1 + 1 + 1  # expressions, landmarks, pose, labels, identity
    assert all(f.met in (True, False) for f in asked if "IoU" not in f.name)
    text = table(figures)
    assert "NOT met" in text and "inter-ocular" in text
    assert json.dumps(to_json(figures), allow_nan=False)


def test_renders_are_always_the_same_people() -> None:
    net = AnalyserNetwork(TINY.network).eval()
    once, again = ({f.name: f for f in on_renders(net, head(), torch.zeros(0, 9, 3), 2, 2)} for _ in range(2))
    assert once == again and once["renders: pose, degrees"].count == 2
    assert once["renders: pose, degrees"].value > 3  # nothing was learned
