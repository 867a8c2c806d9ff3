"""The analyser's network: sizes, ranges, and the small functions around it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from copo.errors import CopoError
from copo.vision.networks.analyser import (
    TYPICAL_DEPTH,
    AnalyserConfig,
    AnalyserNetwork,
    decode_finder,
    decode_translation,
    encode_finder,
    encode_translation,
    rotation_from_six,
    soft_argmax,
)

SMALL = AnalyserConfig(size=64, width=16, fine_width=8, head=32, hidden=32)


@pytest.fixture(scope="module")
def network() -> AnalyserNetwork:
    torch.manual_seed(0)
    return AnalyserNetwork(SMALL).eval()


def test_shapes_and_ranges(network: AnalyserNetwork) -> None:
    out = network(torch.rand(2, 3, 64, 64) * 2 - 1)
    assert out.shape.shape == (2, 80) and out.albedo.shape == (2, 50) and out.expression.shape == (2, 52)
    assert out.illumination.shape == (2, 27) and out.translation.shape == (2, 3)
    assert out.log_sigma.shape == (2, 80 + 50 + 52 + 27 + 3 + 3)
    assert out.points68.shape == (2, 68, 2) and out.points478.shape == (2, 478, 2)
    assert out.log_sigma_points.shape == (2, 546)
    assert out.labels.shape == (2, 19, 32, 32)
    assert out.expression.min() > 0 and out.expression.max() < 1
    assert out.points.min() > 0 and out.points.max() < 1
    torch.testing.assert_close(out.rotation @ out.rotation.mT, torch.eye(3).expand(2, 3, 3), atol=1e-5, rtol=0)
    assert network.find(torch.zeros(1, 3, 64, 96)).shape == (1, 6, 4, 6)


def test_the_weights_take_less_than_ten_megabytes_in_half_precision() -> None:
    state = AnalyserNetwork().state_dict()
    assert sum(v.numel() for v in state.values() if v.is_floating_point()) * 2 < 10e6


def test_gradients_reach_the_picture_from_every_output(network: AnalyserNetwork) -> None:
    picture = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    out = network(picture)
    for name, value in out._asdict().items():
        (gradient,) = torch.autograd.grad(value.square().sum(), picture, retain_graph=True)
        if name == "rotation":  # its squares sum to 3 whatever it is
            (gradient,) = torch.autograd.grad(value[0, 0, 2], picture, retain_graph=True)
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0, name


def test_it_is_one_graph(network: AnalyserNetwork) -> None:
    picture = torch.rand(1, 3, 64, 64)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for one, other in zip(compiled(picture), network(picture), strict=True):
        torch.testing.assert_close(one, other)


def test_points_only_are_those_of_the_whole(network: AnalyserNetwork) -> None:
    picture = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(network.landmarks(picture), network(picture).points)


def test_soft_argmax_by_hand() -> None:
    heat = torch.full((1, 2, 4, 4), -1e4)
    heat[0, 0, 1, 2] = 0  # one certain cell: column 2, row 1
    heat[0, 1, 0, 0] = heat[0, 1, 0, 3] = 0  # two equal ones in the first row, three cells apart
    points, spread = soft_argmax(heat)
    torch.testing.assert_close(points[0], torch.tensor([[2.5 / 4, 1.5 / 4], [0.5, 0.5 / 4]]))
    torch.testing.assert_close(spread[0], torch.tensor([1e-4, 1.5 / 4]), atol=1e-5, rtol=0)


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_six_numbers_are_a_rotation(numbers: list[float]) -> None:
    six = torch.tensor([numbers], dtype=torch.float64)
    if torch.linalg.cross(six[:, :3], six[:, 3:]).norm() < 1e-3:
        return  # no plane is spanned
    turn = rotation_from_six(six)[0]
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert float(turn.det()) == pytest.approx(1)
    torch.testing.assert_close(rotation_from_six(torch.cat([turn[:, 0], turn[:, 1]])[None])[0], turn)


def test_translation_by_hand_and_back() -> None:
    torch.testing.assert_close(decode_translation(torch.zeros(1, 3)), torch.tensor([[0, 0, TYPICAL_DEPTH]]))
    # raw 5 in x is a tangent of 0.1; raw 1 in depth is a factor of e^0.1
    got = decode_translation(torch.tensor([[5.0, 0, 1.0]]))
    depth = TYPICAL_DEPTH * math.exp(0.1)
    torch.testing.assert_close(got, torch.tensor([[0.1 * depth, 0, depth]]))
    torch.testing.assert_close(encode_translation(got), torch.tensor([[5.0, 0, 1.0]]), atol=1e-5, rtol=1e-5)


@settings(max_examples=30)
@given(st.floats(0, 96), st.floats(0, 64), st.floats(8, 400), st.floats(-3, 3))
def test_finder_cells_tell_the_square(x: float, y: float, side: float, angle: float) -> None:
    square = torch.tensor([[x, y, side, angle]])
    target = encode_finder(square, 4, 6)
    scores, squares = decode_finder(torch.cat([torch.zeros(1, 1, 4, 6), target], dim=1))
    assert torch.all(scores == 0.5)
    torch.testing.assert_close(squares, square[:, None].expand(1, 24, 4), atol=1e-3, rtol=1e-4)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CopoError, match="100 px"):
        AnalyserConfig(size=100)
