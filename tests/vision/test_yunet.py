"""YuNet in our pipeline: real photographs, and the decoding by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.vision.samples import (
    FACE_TASK,
    FRONTAL,
    HAIR,
    PORTRAITS,
    YUNET,
    YUNET_640,
    needs,
    noise,
    portrait,
    side_by_side,
)

from copo.errors import CopoError
from copo.vision.mediapipe import MediaPipeFaces
from copo.vision.yunet import YuNet, YuNetConfig, _decode

pytestmark = needs(YUNET, PORTRAITS, modules=("onnxruntime",))


@pytest.fixture(scope="module")
def yunet() -> YuNet:
    return YuNet(YUNET)


def test_decoding_by_hand() -> None:
    """Cell (column 2, row 1) of 32 px: centre (2.5, 1.25) cells, size 1 x 2 cells, a point at the cell's left."""
    size, stride, cells = 128, 32, 4
    out = {
        "cls_32": np.zeros((1, cells**2, 1), np.float32),
        "obj_32": np.zeros((1, cells**2, 1), np.float32),
        "bbox_32": np.zeros((1, cells**2, 4), np.float32),
        "kps_32": np.zeros((1, cells**2, 10), np.float32),
    }
    cell = 1 * cells + 2
    out["cls_32"][0, cell], out["obj_32"][0, cell] = 0.81, 0.25
    out["bbox_32"][0, cell] = (0.5, 0.25, 0, np.log(2))
    out["kps_32"][0, cell, :2] = (0, 0.5)
    values, scores = _decode(out, stride, size)
    assert scores[cell] == pytest.approx(0.45)
    assert values[cell, :4] == pytest.approx([64, 8, 96, 72])
    assert values[cell, 4:6] == pytest.approx([64, 48])


@needs(FACE_TASK, YUNET_640, modules=("ai_edge_litert",))
@pytest.mark.parametrize("path", [YUNET, YUNET_640], ids=["320", "640"])
def test_faces_and_points_agree_with_landmarks(path: Path) -> None:
    detector, landmarker = YuNet(path), MediaPipeFaces(FACE_TASK)
    for name in FRONTAL:
        picture = portrait(name)
        (face,) = detector.detect(picture)
        marks = landmarker.landmarks_at(picture, face)
        assert marks is not None and face.five is not None
        eyes = np.linalg.norm(marks.five[0] - marks.five[1])
        assert np.linalg.norm(face.five - marks.five, axis=1).mean() < 0.15 * eyes
        left, top, right, bottom = face.box
        centre = marks.points.mean(0)
        assert left < centre[0] < right and top < centre[1] < bottom


def test_two_faces_come_largest_first(yunet: YuNet) -> None:
    found = yunet.detect(side_by_side(portrait(FRONTAL[0]), portrait(FRONTAL[2])))
    assert len(found) == 2 and found[0].area > found[1].area
    assert found[0].box[0] > found[1].box[0]  # the large one stands at the right


def test_profiles_and_small_faces_are_found(yunet: YuNet) -> None:
    assert len(yunet.detect(portrait("london/0003_neutral_left_profile.jpg"))) == 1
    picture = portrait(FRONTAL[0])
    small = np.full((picture.shape[0] * 3, picture.shape[1] * 3, 3), 90, np.uint8)
    small[: picture.shape[0], : picture.shape[1]] = picture
    assert len(yunet.detect(small)) == 1


def test_a_face_that_fills_the_picture_needs_the_second_look() -> None:
    picture = portrait(FRONTAL[0])
    (face,) = YuNet(YUNET).detect(picture)
    left, top, right, bottom = (int(v) for v in face.box)
    grow = (right - left) // 12
    close = picture[top + grow : bottom - grow, left + grow : right - grow]
    assert len(YuNet(YUNET).detect(close)) == 1
    assert YuNet(YUNET, YuNetConfig(score=0.999)).detect(close) == []


def test_pictures_without_faces_tiny_and_grey(yunet: YuNet) -> None:
    assert yunet.detect(noise(300, 200)) == [] and yunet.detect(noise(1, 1)) == [] and yunet.detect(noise(2, 999)) == []
    assert len(yunet.detect(portrait(FRONTAL[0]).mean(2).astype(np.uint8))) == 1


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(YUNET.read_bytes()[:-5000])
    for path, complaint in ((tmp_path / "none.onnx", "no such file"), (cut, "truncated"), (HAIR, "truncated")):
        with pytest.raises(CopoError, match=complaint) as caught:
            YuNet(path)
        assert "\n" not in str(caught.value)
