"""Instruments on pictures: real networks where they are installed, generated weights otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.samples import open_head
from tests.vision.samples import FACE_API, FACE_TASK, needs

from copo.camera import Camera
from copo.errors import CopoError
from copo.evaluation.control import own_measure
from copo.evaluation.geometry import angles_of, camera_rotation, landmarks68, measured_poses
from copo.evaluation.instruments import (
    Context,
    FeatureInstrument,
    InstrumentFiles,
    Looker,
    MediaPipeInstrument,
    open_instrument,
)
from copo.evaluation.plans import Plan
from copo.evaluation.sources import HeadSource, Leak, Request
from copo.evaluation.statistics import correlation, slope
from copo.evaluation.store import CHUNK, PictureSet, write_pictures
from copo.factors import Factors
from copo.illumination import NEUTRAL_LIGHT
from copo.vision.inception import InceptionFeatures
from copo.vision.models import model
from copo.vision.networks.inception_fid import InceptionFid, _average


def test_inception_has_the_published_size_and_reads_a_file(tmp_path: Path) -> None:
    """21,785,568 weights as everywhere, and a last layer of 1,008 classes; features follow the file's weights."""
    torch.manual_seed(0)
    network = InceptionFid()
    assert sum(p.numel() for p in network.parameters()) == 21_785_568 + 2048 * 1008 + 1008
    entry = model("inception-fid")
    assert (
        entry.size is not None and 0 < entry.size / 4 - sum(v.numel() for v in network.state_dict().values()) < 40_000
    )
    path = tmp_path / entry.file
    torch.save(network.state_dict(), path)
    eye = FeatureInstrument(InceptionFeatures.load(path))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.uint8)
    seen = eye.look(pictures, Context(None, {}))["features"]
    assert seen.shape == (2, 2048) and np.isfinite(seen).all()
    again = eye.look(pictures[::-1].copy(), Context(None, {}))["features"]
    assert again[::-1] == pytest.approx(seen, rel=1e-3, abs=1e-5)
    assert np.abs(seen[0] - seen[1]).max() > 0


def test_inceptions_average_does_not_count_its_padding() -> None:
    assert torch.equal(_average(torch.ones(1, 2, 5, 5)), torch.ones(1, 2, 5, 5))


def test_missing_files_are_told(tmp_path: Path) -> None:
    looker = Looker(InstrumentFiles(inception=tmp_path / "none.pth"), torch.device("cpu"))
    assert "no such file" in str(looker.missing("inception"))
    with pytest.raises(CopoError, match="no such file"):
        open_instrument("inception", InstrumentFiles(inception=tmp_path / "none.pth"))


def _shown(yaw: float, leak: Leak) -> tuple[Factors, Camera, np.ndarray]:
    """One person at a pose, with the mouth closed, half open and open."""
    person = Factors.random(open_head().spec, [2] * 3, NEUTRAL_LIGHT)
    jaw = torch.zeros(3, person.spec.expression)
    jaw[:, person.spec.expression_names.index("jawOpen")] = torch.tensor([0.0, 0.5, 1.0])
    asked, camera = person.replace(expression=jaw), Camera.from_degrees(yaw).expand(3)
    return asked, camera, HeadSource(open_head(), size=128, leak=leak).render(Request(asked, camera)).pictures


@needs(FACE_TASK, modules=("ai_edge_litert",))
def test_mediapipe_sees_control_and_its_lack() -> None:
    """Perfect control has the asked pose and a steep slope; a head turned by 12 degrees and half an expression show."""
    eye = MediaPipeInstrument(FACE_TASK)
    found = {}
    for name, leak in (("perfect", Leak()), ("leaking", Leak(expression_gain=0.4, yaw_offset=0.21))):
        asked, camera, pictures = _shown(10, leak)
        seen = eye.look(pictures)
        assert seen["found"].all()
        poses = measured_poses(open_head(), asked, camera, seen["points"])
        error = (angles_of(poses.rotation) - angles_of(camera_rotation(camera)))[:, 0].mean()
        columns = {"unit": np.array([-1.0, 0, 0]), "strength": np.array([0.0, 0.5, 1.0])}
        plan = Plan("units", asked, camera, columns, {"units": {"jawOpen": ["jawOpen"]}})
        strength, measured = own_measure(plan, seen["shapes"], 0)
        found[name] = (float(error), slope(strength, measured), correlation(strength, measured))
    assert abs(found["perfect"][0]) < 3
    assert found["leaking"][0] - found["perfect"][0] == pytest.approx(-np.degrees(0.21), abs=4)
    assert found["perfect"][1] > 0.5 and found["perfect"][2] > 0.85
    assert found["leaking"][1] < 0.4 * found["perfect"][1]


@needs(FACE_API)
def test_dlib_is_aligned_by_what_is_known() -> None:
    asked, camera, pictures = _shown(0, Leak())
    eye = open_instrument("dlib_asked", InstrumentFiles(dlib=FACE_API))
    points = landmarks68(open_head(), asked, camera)
    seen = eye.look(pictures[:2], Context(points[:2], {}))["descriptor"]
    assert 0 < np.linalg.norm(seen[0] - seen[1]) < 0.6  # one person, mouth closed and half open
    assert np.isnan(eye.look(pictures[:1], Context(None, {}))["descriptor"]).all()


def test_work_is_shared_out_and_resumed(tmp_path: Path) -> None:
    """Two processes look at every second file each; what is there is not looked at again."""
    torch.manual_seed(0)
    weights = tmp_path / "inception.pth"
    torch.save(InceptionFid().state_dict(), weights)
    pictures = np.random.default_rng(0).integers(0, 256, (CHUNK + 1, 8, 8, 3)).astype(np.uint8)
    made = PictureSet(tmp_path / "set", len(pictures))
    for number in range(made.chunks):
        write_pictures(made.picture_path(number), pictures[number * CHUNK : (number + 1) * CHUNK], {})
    assert made.chunks == 2 and made.rendered
    assert np.array_equal(np.concatenate([made.pictures(0), made.pictures(1)]), pictures)
    looker = Looker(InstrumentFiles(inception=weights), torch.device("cpu"), say=lambda _: None)
    assert looker.missing("inception") is None
    looker.look(made, "inception", None, rank=1, world=2)
    assert not made.was_seen("inception") and made.seen_path("inception", 1).is_file()
    before = made.seen_path("inception", 1).stat().st_mtime_ns
    made.picture_path(0).unlink()
    write_pictures(made.picture_path(0), pictures[:2], {})  # a small file, so that the test is quick
    looker.look(made, "inception", None)
    assert made.was_seen("inception") and made.seen_path("inception", 1).stat().st_mtime_ns == before
    assert made.seen("inception")["features"].shape == (3, 2048)
