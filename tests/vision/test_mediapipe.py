"""MediaPipe's models in our pipeline, against numbers of the official package."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.vision.samples import FACE_TASK, FRONTAL, HAIR, PERSON, PORTRAITS, needs, noise, portrait, side_by_side

from copo.errors import CopoError
from copo.vision.mediapipe import BLENDSHAPE_NAMES, BLENDSHAPE_POINTS, MediaPipeConfig, MediaPipeFaces, MediaPipeMasks
from copo.vision.protocols import Face

REFERENCE = json.loads((Path(__file__).parent / "mediapipe_reference.json").read_text())
pytestmark = needs(FACE_TASK, HAIR, PERSON, PORTRAITS, modules=("ai_edge_litert",))


@pytest.fixture(scope="module")
def faces() -> MediaPipeFaces:
    return MediaPipeFaces(FACE_TASK)


@pytest.fixture(scope="module")
def masks() -> MediaPipeMasks:
    return MediaPipeMasks(HAIR, PERSON)


@pytest.mark.parametrize("name", list(REFERENCE["portraits"]))
def test_one_pass_gives_what_the_official_package_gives(name: str) -> None:
    """Landmarks within 0.5 % of the eyes' distance, blendshapes within 0.1. The official numbers count pixels from the
    centre of the first one."""
    expected = REFERENCE["portraits"][name]
    (marks,) = MediaPipeFaces(FACE_TASK, MediaPipeConfig(passes=1)).landmarks(portrait(name))
    where = np.array(expected["points"])
    index = REFERENCE["landmarks"]
    eyes = np.linalg.norm(where[index.index(33)] - where[index.index(263)])
    assert np.linalg.norm(marks.points[index] - 0.5 - where, axis=1).max() < 0.005 * eyes
    assert marks.blendshapes is not None and list(marks.blendshapes) == list(expected["blendshapes"])
    for unit, value in expected["blendshapes"].items():
        assert marks.blendshapes[unit] == pytest.approx(value, abs=0.1)


def test_two_passes_follow_the_face_when_the_picture_moves(faces: MediaPipeFaces) -> None:
    picture = portrait(FRONTAL[0])
    (before,) = faces.landmarks(picture)
    moved = np.pad(picture, ((37, 0), (64, 11), (0, 0)))
    (after,) = faces.landmarks(moved)
    eyes = np.linalg.norm(before.points[33] - before.points[263])
    assert np.linalg.norm(after.points - (64, 37) - before.points, axis=1).mean() < 0.02 * eyes
    assert after.points.shape == (478, 2) and after.depth is not None and after.depth.shape == (478,)
    assert after.depth[4] < after.depth[234]  # the nose tip is nearer than the ear


def test_smiles_are_told_from_neutral_faces(faces: MediaPipeFaces) -> None:
    """Over 45 people of this set the mean is 0.57 smiling and 0.02 neutral."""

    def smile(name: str) -> float:
        (marks,) = faces.landmarks(portrait(name))
        assert marks.blendshapes is not None
        return (marks.blendshapes["mouthSmileLeft"] + marks.blendshapes["mouthSmileRight"]) / 2

    people = ("0002", "0008", "0014", "0033", "0040", "0060")
    smiling, neutral = (
        [smile(f"london/{person}_{how}_front.jpg") for person in people] for how in ("smiling", "neutral")
    )
    assert np.mean(smiling) > 0.35 and np.mean(neutral) < 0.1
    assert all(s > n for s, n in zip(smiling, neutral, strict=True))


def test_upside_down_faces_are_found_from_another_detectors_eyes(faces: MediaPipeFaces) -> None:
    """The region turns with the eyes: a face turned by 90 degrees gives the turned landmarks."""
    picture = portrait(FRONTAL[0])
    (marks,) = faces.landmarks(picture)
    turned = np.ascontiguousarray(np.rot90(picture, k=-1))  # clockwise: (x, y) -> (height - y, x)
    left, top, right, bottom = marks.box
    height = picture.shape[0]
    box = np.array([height - bottom, left, height - top, right], np.float32)
    eyes = np.stack([height - marks.points[[468, 473], 1], marks.points[[468, 473], 0]], axis=1).astype(np.float32)
    found = faces.landmarks_at(turned, Face(box, 1.0, eyes=eyes))
    assert found is not None
    expected = np.stack([height - marks.points[:, 1], marks.points[:, 0]], axis=1)
    distance = np.linalg.norm(eyes[0] - eyes[1])
    assert np.linalg.norm(found.points - expected, axis=1).mean() < 0.03 * distance


def test_two_faces_come_largest_first(faces: MediaPipeFaces) -> None:
    both = side_by_side(portrait(FRONTAL[0]), portrait(FRONTAL[2]))
    found = faces.landmarks(both)
    assert len(found) == 2 and found[0].area > 1.5 * found[1].area
    boxes = faces.detect(both)
    assert [face.area for face in boxes] == sorted((face.area for face in boxes), reverse=True)


def test_pictures_without_faces_tiny_and_grey(faces: MediaPipeFaces) -> None:
    assert faces.landmarks(noise(300, 200)) == []
    assert faces.landmarks(noise(1, 1)) == [] and faces.landmarks(noise(2, 900)) == []
    assert len(faces.landmarks(portrait(FRONTAL[0]).mean(2).astype(np.uint8))) == 1
    nowhere = Face(np.array([5, 5, 5, 5], np.float32), 1.0)
    assert faces.landmarks_at(noise(64, 64), nowhere) is None
    assert faces.landmarks_at(noise(64, 64), Face(np.array([0, 0, 64, 64], np.float32), 1.0)) is None


def test_names_and_points_of_the_blendshapes() -> None:
    assert len(BLENDSHAPE_NAMES) == 51 and "tongueOut" not in BLENDSHAPE_NAMES
    assert len(BLENDSHAPE_POINTS) == 146 == len(set(BLENDSHAPE_POINTS)) and max(BLENDSHAPE_POINTS) == 477


def test_masks_tell_hair_and_person_from_background(masks: MediaPipeMasks, faces: MediaPipeFaces) -> None:
    picture = portrait("london/0033_smiling_front.jpg")
    found = masks.masks(picture)
    assert found.hair.shape == found.person.shape == picture.shape[:2]
    for mask in (found.hair, found.person):
        assert mask.min() >= 0 and mask.max() <= 1
    (marks,) = faces.landmarks(picture)
    nose = tuple(marks.points[4].astype(int)[::-1])
    above = marks.points[10] * 2 - marks.points[9] + (marks.points[10] - marks.points[152]) * 0.12
    assert found.person[nose] > 0.9 and found.hair[nose] < 0.1
    assert found.hair[tuple(above.astype(int)[::-1])] > 0.5
    assert found.person[:20, :20].max() < 0.2 and found.hair[:20, :20].max() < 0.2
    assert 0.05 < found.person.mean() < 0.8 and 0.005 < found.hair.mean() < 0.3


def test_masks_of_odd_pictures(masks: MediaPipeMasks) -> None:
    for height, width in ((1, 1), (3, 500), (700, 2)):
        assert masks.masks(noise(height, width)).hair.shape == (height, width)
    assert masks.masks(noise(40, 30)[:, :, 0]).person.shape == (40, 30)


def test_damaged_and_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    cut = tmp_path / "cut.task"
    cut.write_bytes(FACE_TASK.read_bytes()[:1_000_000])
    other = tmp_path / "other.task"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("pose_detector.tflite", b"")
    swapped = tmp_path / "swapped.task"
    with zipfile.ZipFile(FACE_TASK) as source, zipfile.ZipFile(swapped, "w") as archive:
        archive.writestr("face_detector.tflite", source.read("face_blendshapes.tflite"))
        for name in ("face_landmarks_detector.tflite", "face_blendshapes.tflite"):
            archive.writestr(name, source.read(name))
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(HAIR.read_bytes()[:-1000])
    cases = [
        (lambda: MediaPipeFaces(tmp_path / "none.task"), "no such file"),
        (lambda: MediaPipeFaces(cut), "truncated"),
        (lambda: MediaPipeFaces(other), "face_detector"),
        (lambda: MediaPipeFaces(swapped), "another one"),
        (lambda: MediaPipeMasks(broken, PERSON), "truncated"),
        (lambda: MediaPipeMasks(PERSON, HAIR), "another one"),
    ]
    for make, complaint in cases:
        with pytest.raises(CopoError, match=complaint) as caught:
            make()
        assert "\n" not in str(caught.value)
