"""dlib's faces and descriptor: the real files, and our descriptor against dlib's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.vision.samples import FACE_API, FRONTAL, PORTRAITS, needs, noise, portrait, side_by_side

from copo.errors import CopoError
from copo.formats.dlib_dat import read_network
from copo.vision.dlib_descriptor import CHIP_SIZE, SAME_PERSON, DlibDescriptor
from copo.vision.dlib_faces import DlibFaces
from copo.vision.models import find_model, locate, model
from copo.vision.networks.dlib_resnet import DlibResNet, _padded_sum
from copo.vision.protocols import to_tensor

here = locate(model("dlib-descriptor")) is not None
needs_files = pytest.mark.skipif(not here, reason="absent: the package face-recognition-models")
needs_dlib = needs(PORTRAITS, modules=("dlib", "face_recognition_models"))


def dlib_shape(points: np.ndarray) -> Any:
    """Our landmarks as dlib's own type."""
    import dlib

    parts = [dlib.point(int(x), int(y)) for x, y in points]  # whole pixels; ours lie at their centres
    return dlib.full_object_detection(dlib.rectangle(0, 0, 1, 1), parts)


@pytest.fixture(scope="module")
def descriptor() -> DlibDescriptor:
    return DlibDescriptor.load()


@pytest.fixture(scope="module")
def faces() -> DlibFaces:
    return DlibFaces()


@needs_files
def test_the_file_holds_the_network_that_dlib_documents() -> None:
    network = read_network(find_model("dlib-descriptor"))
    kinds = [layer.kind for layer in network.layers]
    assert kinds.count("con") == 29 and kinds.count("fc") == 1 and kinds.count("add_prev") == 14
    assert network.size == (150, 150) and network.mean == pytest.approx((122.782, 117.001, 104.298))
    assert network.layers[0].arrays["weight"].shape == (32, 3, 7, 7)


@needs_files
@pytest.mark.parametrize("cut", [0, 1, 40, 333, 5000, -1])
def test_truncated_descriptor_files_are_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.dat"
    path.write_bytes(find_model("dlib-descriptor").read_bytes()[:cut])
    with pytest.raises(CopoError, match="truncated"):
        DlibDescriptor.load(path)


@needs_files
def test_descriptor_files_with_more_or_other_content_are_refused(tmp_path: Path) -> None:
    data = bytearray(find_model("dlib-descriptor").read_bytes())
    path = tmp_path / "odd.dat"
    path.write_bytes(bytes(data) + b"x")
    with pytest.raises(CopoError, match="1 bytes behind its end"):
        read_network(path)
    at = data.index(b"con_4")
    path.write_bytes(bytes(data[:at] + b"con_9" + data[at + 5 :]))
    with pytest.raises(CopoError, match="unknown layer 'con_9'"):
        read_network(path)
    first = at + 5 + 10  # the first weight, after the tensor's version and sizes
    path.write_bytes(bytes(data[:first] + b"\xff" * 4 + data[first + 4 :]))
    with pytest.raises(CopoError, match="NaN or infinite"):
        read_network(path)


def test_sum_of_maps_counts_what_is_missing_as_zero() -> None:
    small, large = torch.ones(1, 1, 1, 2), torch.full((1, 2, 2, 2), 10.0)
    assert _padded_sum(small, large).tolist() == [[[[11, 11], [10, 10]], [[10, 10], [10, 10]]]]


def test_network_sizes_follow_dlib() -> None:
    """150 -> 72 -> 35 -> 17 -> 8 -> 3 (shortcut 4) -> 1 (shortcut 2): the last mean is over 2 x 2."""
    network = DlibResNet()
    sizes: list[int] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[2]))
    assert network(torch.zeros(1, 3, 150, 150)).shape == (1, 128)
    assert sizes == [35, 35, 35, 17, 17, 17, 17, 8, 8, 8, 4, 4, 4, 2]


@needs_dlib
def test_descriptor_equals_dlibs_on_dlibs_own_chips(descriptor: DlibDescriptor, faces: DlibFaces) -> None:
    import dlib

    theirs = dlib.face_recognition_model_v1(str(find_model("dlib-descriptor")))
    for name in FRONTAL[:3]:
        picture = portrait(name)
        shape = dlib_shape(faces.landmarks(picture)[0].points)
        chip = dlib.get_face_chip(picture, shape, CHIP_SIZE, 0.25)
        expected = np.array(theirs.compute_face_descriptor(chip))
        with torch.no_grad():
            ours = descriptor.raw(to_tensor(chip))[0].numpy()
        assert ours == pytest.approx(expected, abs=1e-5)


@needs_dlib
def test_descriptor_with_our_chip_is_near_dlibs(descriptor: DlibDescriptor, faces: DlibFaces) -> None:
    """The issue's measure on a few portraits; `python benchmarks/vision.py agreement` runs it on fifty."""
    import dlib

    theirs = dlib.face_recognition_model_v1(str(find_model("dlib-descriptor")))
    for name in FRONTAL:
        picture = portrait(name)
        points = faces.landmarks(picture)[0].points
        expected = np.array(theirs.compute_face_descriptor(picture, dlib_shape(points)))
        with torch.no_grad():
            chip = descriptor.align(to_tensor(picture), torch.from_numpy(points)[None])
            ours = descriptor.raw(chip)[0].numpy()
        assert ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected) >= 0.99
        assert np.linalg.norm(ours - expected) < SAME_PERSON / 4


@needs_dlib
def test_five_point_chip_is_dlibs(descriptor: DlibDescriptor, faces: DlibFaces) -> None:
    import dlib

    inside = Path(str(find_model("dlib-descriptor"))).with_name("shape_predictor_5_face_landmarks.dat")
    predictor = dlib.shape_predictor(str(inside))
    picture = portrait(FRONTAL[0])
    left, top, right, bottom = (int(v) for v in faces.detect(picture)[0].box)
    shape = predictor(picture, dlib.rectangle(left, top, right - 1, bottom - 1))
    chip = dlib.get_face_chip(picture, shape, CHIP_SIZE, 0.25).astype(float)
    points = torch.tensor([[(p.x + 0.5, p.y + 0.5) for p in shape.parts()]])
    ours = (descriptor.align(to_tensor(picture), points)[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.abs(ours - chip).mean() < 4
    shifted = np.abs(np.roll(ours, 3, axis=1) - chip).mean()
    assert np.abs(ours - chip).mean() < 0.5 * shifted


@needs(FACE_API, modules=("face_recognition_models",))
@needs_files
def test_weights_of_face_api_give_nearly_the_same(descriptor: DlibDescriptor) -> None:
    with np.load(FACE_API) as arrays:
        other = DlibDescriptor.from_face_api(dict(arrays))
    chips = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (2, 3, 150, 150)).astype(np.float32))
    with torch.no_grad():
        cosine = (other.describe(chips) * descriptor.describe(chips)).sum(1)
    assert cosine.min() > 0.995


@needs_files
def test_descriptor_is_differentiable(descriptor: DlibDescriptor) -> None:
    """The gradient predicts what a small step along it does."""
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 160, 170) * 2 - 1
    points = torch.rand(1, 68, 2) * 60 + 50
    aim = torch.nn.functional.normalize(torch.randn(1, 128), dim=1)

    def score(value: torch.Tensor) -> torch.Tensor:
        return (descriptor.describe(descriptor.align(value, points)) * aim).sum()

    leaf = picture.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(leaf), leaf)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        change = float(score(picture + step) - score(picture - step))
    assert change == pytest.approx(2 * float((step * gradient).sum()), rel=0.05)
    assert all(not p.requires_grad for p in descriptor.parameters())


def test_chips_need_68_or_five_landmarks() -> None:
    with pytest.raises(CopoError, match="7 landmarks"):
        DlibDescriptor(DlibResNet()).align(torch.zeros(1, 3, 9, 9), torch.rand(1, 7, 2))


@needs_dlib
def test_dlib_finds_faces_and_their_landmarks(faces: DlibFaces) -> None:
    for name in FRONTAL:
        picture = portrait(name)
        (marks,) = faces.landmarks(picture)
        eyes, nose, mouth = marks.five[:2].mean(0), marks.five[2], marks.five[3:].mean(0)
        assert marks.points.shape == (68, 2)
        assert eyes[1] < nose[1] < mouth[1] and marks.five[0, 0] < nose[0] < marks.five[1, 0]
        (face,) = faces.detect(picture)
        again = faces.landmarks_at(picture, face)
        assert again is not None and np.array_equal(again.points, marks.points)


@needs_dlib
def test_dlib_handles_two_none_tiny_and_grey(faces: DlibFaces) -> None:
    both = side_by_side(portrait(FRONTAL[0]), portrait(FRONTAL[2]))
    found = faces.landmarks(both)
    assert len(found) == 2 and found[0].area > found[1].area
    assert faces.landmarks(noise(200, 200)) == [] and faces.detect(noise(1, 1)) == []
    assert len(faces.landmarks(portrait(FRONTAL[0]).mean(2).astype(np.uint8))) == 1


@needs_dlib
def test_wrong_landmark_files_are_refused(tmp_path: Path) -> None:
    real = find_model("dlib-landmarks")
    (tmp_path / "cut.dat").write_bytes(real.read_bytes()[:1_000_000])
    shutil.copy(real.with_name("shape_predictor_5_face_landmarks.dat"), tmp_path / "five.dat")
    for name, complaint in (("none.dat", "no such file"), ("cut.dat", "truncated"), ("five.dat", "5 points instead")):
        with pytest.raises(CopoError, match=complaint):
            DlibFaces(tmp_path / name)
