"""What makes a step fast: pictures through matrices, weights as vectors, and nothing that a GPU would be waited for."""

import traceback
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.training.test_analyser_data import photos
from tests.training.test_analyser_loop import TINY, head, stage
from torch.utils._python_dispatch import TorchDispatchMode

from copo.factors import ARKIT_NAMES
from copo.training.analyser import draw
from copo.training.analyser.chance import Chance
from copo.training.analyser.config import LossWeights
from copo.training.analyser.linear import along, shrinking, spread
from copo.training.analyser.loop import Trainer
from copo.training.analyser.mixing import drawn, rarities, unit_weights
from copo.training.analyser.vector import WeightVector
from copo.training.distributed import Processes

JAW = ARKIT_NAMES.index("jawOpen")


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_matrices_enlarge_as_interpolation_does(mode: Any) -> None:
    knots = torch.rand(2, 3, 6, 9)
    wanted = F.interpolate(knots, size=(40, 40), mode=mode, align_corners=False)
    torch.testing.assert_close(spread(knots, 40, mode), wanted, atol=1e-5, rtol=0)


def test_matrices_shrink_as_interpolation_does() -> None:
    pictures = torch.rand(2, 3, 64, 64)
    large, small = shrinking(torch.tensor([0.5, 0.31]), 64, 0.8)
    for one, size in enumerate((32, 19)):
        less = F.interpolate(pictures[one : one + 1], size=(size, size), mode="bilinear", antialias=True)
        wanted = F.interpolate(less, size=(64, 64), mode="bilinear", align_corners=False)
        made = along(large @ small, pictures)[one : one + 1]
        torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


def test_a_vector_is_the_network() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    vector = WeightVector(net, lambda name, parameter: parameter.ndim > 1)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    # 108 weights and three times 4 numbers, two running statistics, one counter: each filled up to a multiple of 32
    assert len(vector.values) == 128 + 3 * 32 and len(vector.statistics) == 2 * 32 and len(vector.counters) == 32
    assert {k: v.stop - v.start for k, v in vector.groups.items()} == {True: 128, False: 96}
    assert all(p.data_ptr() % 128 == vector.values.data_ptr() % 128 for p in net.parameters())
    # 2 x 9 places each add 1 to a bias's gradient; batch normalisation is not part of this sum
    gradient = vector.split(vector.gradients(net[0](torch.rand(2, 3, 5, 5)).sum()))
    assert gradient["0.weight"].shape == (4, 3, 3, 3)
    torch.testing.assert_close(gradient["0.bias"], torch.full((4,), 18.0))
    assert float(gradient["1.weight"].abs().sum()) == 0
    net(torch.rand(2, 3, 5, 5))  # changes the running statistics
    assert vector.counters[0].item() == 1 and torch.equal(vector.statistics[:4], net.state_dict()["1.running_mean"])
    vector.values.zero_()
    assert all(float(p.detach().abs().sum()) == 0 for p in net.parameters())


class _Watch(TorchDispatchMode):
    """Notes what would make the host wait for a GPU, or a GPU for the host, and who asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str]] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function.name())
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "lift_fresh", "unique", "masked_select")):
            where = [f for f in traceback.extract_stack() if "/copo/" in f.filename]
            self.seen.add((name.removeprefix("aten::"), where[-1].filename.rpartition("/")[2]))
        return function(*args, **(kwargs or {}))


def test_a_step_never_waits() -> None:
    trainer = Trainer(replace(TINY, photos=2), head(), stage())
    trainer.learn()
    with _Watch() as watch:
        trainer._gradients()
    # on a GPU cameras are not checked, and Triton draws the triangles
    waits = {pair for pair in watch.seen if "count_nonzero" not in pair[0]}
    assert {where for _, where in waits} <= {"camera.py", "raster.py"}, waits


def test_a_step_that_went_wrong_changes_nothing_but_the_count() -> None:
    trainer = Trainer(TINY, head())
    trainer.learn()
    before = trainer.vector.values.clone()
    said = trainer._gradients()
    said["gradient"][0] = float("nan")
    trainer._gradients = lambda: said  # type: ignore[method-assign]
    out = trainer.learn()
    assert float(out["skipped"]) == 1 and trainer.step == 2
    assert torch.equal(trainer.vector.values, before)


def test_rare_expressions_are_drawn_more_often_and_count_more() -> None:
    many = photos(64)
    many.units[:] = 0
    many.units[:, JAW] = 0.01 * torch.arange(64) / 64
    many.units[63, JAW] = 0.6
    smile = ARKIT_NAMES.index("mouthSmileLeft")
    many.units[:, smile] = torch.linspace(0, 1, 64)
    weight = rarities(many, 4.0)
    assert float(weight[63]) == pytest.approx(5) and float(weight[:40].max()) < 1.2
    assert torch.equal(rarities(many, 0.0), torch.ones(64))
    chosen = drawn(weight.cumsum(0), 20_000, Chance("cpu", 0))
    assert chosen.min() == 0 and chosen.max() == 63
    assert float((chosen == 63).float().mean()) == pytest.approx(5 / float(weight.sum()), rel=0.1)
    units = unit_weights(many, LossWeights(expression_photo=2, expression_key=3))
    # the spread of jawOpen is 0.075, of the smile 0.29, whose factor is bounded, of the others 0
    assert float(units[JAW]) == pytest.approx(2 * 3 * (0.2 / float(many.units[:, JAW].std())) ** 2, rel=1e-4)
    assert float(units[smile]) == pytest.approx(2 * 3 * 0.5)
    assert float(units[ARKIT_NAMES.index("cheekPuff")]) == pytest.approx(2 * 0.25)


def test_mediapipe_calls_a_jaw_open_late() -> None:
    units = torch.full((3, 52), 0.5)
    units[:, JAW] = torch.tensor([0.05, 0.1, 0.6])
    told = draw.told_expression(units, ARKIT_NAMES)
    torch.testing.assert_close(told[:, JAW], torch.tensor([0.0, 0.0, 0.3]))
    assert torch.equal(told[:, :JAW], units[:, :JAW]) and torch.equal(told[:, JAW + 1 :], units[:, JAW + 1 :])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recorded_step_is_the_step() -> None:
    made = []
    for recorded in (True, False):
        config = replace(TINY, photos=2, acceleration="graphs" if recorded else "none", precision="fp32")
        trainer = Trainer(config, head(), stage(), processes=Processes(torch.device("cuda", 0)))
        said = [trainer.learn()["total"].item() for _ in range(3)]
        assert trainer._recorded.enabled == recorded
        assert trainer.vector.counters.max() == 6  # two looks a step: recording left nothing behind
        made.append((said, trainer.vector.statistics.clone()))
    # Adam's first steps are as long for a gradient of rounding errors as for any other: later losses drift apart (1% on
    # an H200), the first one may not.
    assert made[0][0][0] == pytest.approx(made[1][0][0], rel=2e-3)
    assert made[0][0] == pytest.approx(made[1][0], rel=5e-2)
    torch.testing.assert_close(made[0][1], made[1][1], rtol=5e-2, atol=5e-3)
