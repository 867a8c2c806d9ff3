"""Driving clips: what files hold, time, smoothing, heads."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.animation.samples import codes, livelink, mat_folder

from copo.animation.clip import DrivingClip, save_clip, without_gaps
from copo.animation.smoothing import OneEuro, smooth
from copo.animation.sources import natural, pose_of, read_clip
from copo.animation.talk import talk_clip
from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import ARKIT_NAMES, Factors, FactorSpec
from copo.formats.bfm import bfm_spec
from copo.formats.factor_files import save_factors

SPEC = FactorSpec("open_head", 4, 3, ARKIT_NAMES)
JAW = ARKIT_NAMES.index("jawOpen")


def clip(values: list[float], rate: float = 10.0) -> DrivingClip:
    return DrivingClip(("jawOpen",), np.array(values)[:, None], rate, np.array(values)[:, None].repeat(3, 1))


# --- LiveLink Face ----------------------------------------------------------------------------------------------------


def test_a_livelink_recording(tmp_path: Path) -> None:
    values = np.zeros((150, 52))
    values[:, JAW] = np.linspace(0, 1, 150)
    head = np.stack([np.linspace(0, 0.3, 150), np.full(150, -0.1), np.full(150, 0.05)], 1)
    found = read_clip(livelink(tmp_path / "take.csv", values, codes(150, 60), head))
    assert found.rate == 60 and len(found) == 150 and found.names == ARKIT_NAMES and found.source == "take.csv"
    np.testing.assert_allclose(found.expression[:, JAW], values[:, JAW], atol=1e-5)
    assert found.pose is not None
    np.testing.assert_allclose(found.pose, head, atol=1e-5)


@pytest.mark.parametrize("rate", [24, 25, 30, 60])
def test_the_rate_is_that_of_the_timecode(tmp_path: Path, rate: int) -> None:
    count = 2 * rate + 5
    found = read_clip(livelink(tmp_path / "take.csv", np.zeros((count, 52)), codes(count, rate, 3)))
    assert found.rate == rate and len(found) == count


def test_lost_frames_are_filled_in_time(tmp_path: Path) -> None:
    values = np.zeros((130, 52))
    values[:, JAW] = np.arange(130) / 200
    kept = np.r_[0:40, 60:130]  # frames that the app dropped
    values[[70, 71]] = np.nan  # frames in which it saw no face
    all_codes = codes(130, 60)
    path = livelink(tmp_path / "take.csv", values[kept], [all_codes[i] for i in kept])
    found = read_clip(path)
    assert len(found) == 130
    np.testing.assert_allclose(found.expression[:, JAW], np.arange(130) / 200, atol=1e-4)


def test_recordings_that_are_none(tmp_path: Path) -> None:
    good = livelink(tmp_path / "good.csv", np.zeros((70, 52)), codes(70, 60)).read_text(encoding="utf-8-sig")
    lines = good.splitlines()
    bad = {
        "lacks the columns jawOpen": good.replace("JawOpen", "Chin"),
        "and 41 more": "Timecode," + ",".join(n for n in lines[0].split(",")[2:7]) + "\n",
        "no frames": lines[0] + "\n\n",
        "is empty": "",
        "row 3 holds 'wide'": "\n".join([*lines[:2], lines[2].replace("0.000000", "wide", 1)]),
        "not finite": "\n".join([*lines[:2], lines[2].replace("0.000000", "inf", 1)]),
        "timecode": "\n".join([lines[0], lines[1].replace("14:03", "later")]),
        "no face was seen": "\n".join([lines[0], "14:03:52:01.0,0" + "," * 58]),
    }
    for words, text in bad.items():
        (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
        with pytest.raises(CopoError, match=words):
            read_clip(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(CopoError, match="no CSV"):
        read_clip(tmp_path / "bad.csv")


def test_early_recordings_lack_the_tongue(tmp_path: Path) -> None:
    path = livelink(tmp_path / "take.csv", np.zeros((70, 52)), codes(70, 60))
    path.write_text(path.read_text(encoding="utf-8-sig").replace("TongueOut", "Other"), encoding="utf-8")
    assert "tongueOut" not in read_clip(path).names
    assert read_clip(path).for_spec(SPEC).shape == (70, 52)


# --- other files ------------------------------------------------------------------------------------------------------


def test_a_folder_of_the_methods_mat(tmp_path: Path) -> None:
    found = read_clip(mat_folder(tmp_path / "mat", 11))
    assert len(found) == 11 and found.rate == 24 and found.pose is not None
    np.testing.assert_array_equal(found.expression[:, 0], np.arange(1, 12))  # 2.mat before 10.mat
    # METHOD section 6: yaw of the generator = pi/2 + angle_y; below pi/2 the camera moves to +x
    np.testing.assert_allclose(found.pose[:, 0], -0.1 * np.arange(1, 12), atol=1e-5)
    np.testing.assert_allclose(found.pose[:, 1:], 0, atol=0.02)
    assert read_clip(tmp_path / "mat" / "3.mat").expression[0, 0] == 3
    z = Factors.neutral(bfm_spec(), 11).replace(expression=found.for_spec(bfm_spec())).to_vector()
    at = bfm_spec().slices["expression"]
    np.testing.assert_allclose(z[:, at][:, 0], np.clip(np.arange(1, 12), -10, 10) / 4)  # the release: exp / 4
    with pytest.raises(CopoError, match="give --bfm"):
        found.for_spec(SPEC)


def test_clips_survive_their_file(tmp_path: Path) -> None:
    talk = talk_clip(12.5)
    save_clip(tmp_path / "talk.npz", talk)
    found = read_clip(tmp_path / "talk.npz")
    assert found.rate == 12.5 and found.names == talk.names and found.pose is not None and talk.pose is not None
    np.testing.assert_array_equal(found.expression, talk.expression)
    np.testing.assert_array_equal(found.pose, talk.pose)
    assert read_clip(tmp_path / "talk.npz", rate=25).rate == 25
    with pytest.raises(CopoError, match=r"\.npz"):
        save_clip(tmp_path / "talk.csv", talk)


@pytest.mark.parametrize("suffix", [".npz", ".json", ".safetensors"])
def test_factor_files_of_many_frames(tmp_path: Path, suffix: str) -> None:
    people = Factors.neutral(SPEC, 4).replace(expression=torch.rand(4, 52))
    save_factors(tmp_path / f"film{suffix}", people, Camera.from_degrees(30, 10))
    found = read_clip(tmp_path / f"film{suffix}")
    np.testing.assert_array_equal(found.for_spec(SPEC).numpy(), people.expression.numpy())
    assert found.rate == 30 and found.pose is not None
    np.testing.assert_allclose(found.pose, np.tile([math.radians(30), math.radians(10), 0], (4, 1)), atol=1e-5)
    save_factors(tmp_path / f"one{suffix}", people[0])
    with pytest.raises(CopoError, match="one portrait"):
        read_clip(tmp_path / f"one{suffix}")


def test_the_analysis_of_a_video(tmp_path: Path) -> None:
    def face(value: float) -> dict[str, object]:
        return {"expression": {"jawOpen": value}, "pose": {"yaw": 90 * value, "pitch": 0, "roll": 0, "sigma": [1] * 3}}

    frames = [{"time": i / 5, "face": f} for i, f in enumerate([face(0), None, face(1)])]
    (tmp_path / "film.json").write_text(json.dumps({"frames_per_second": 5, "frames": frames}))
    found = read_clip(tmp_path / "film.json")
    assert found.rate == 5 and found.pose is not None
    np.testing.assert_allclose(found.expression[:, 0], [0, 0.5, 1])
    np.testing.assert_allclose(found.pose[:, 0], np.radians([0, 45, 90]), atol=1e-6)
    nobody = {"frames_per_second": 5, "frames": [{"time": 0, "face": None}]}
    (tmp_path / "film.json").write_text(json.dumps(nobody))
    with pytest.raises(CopoError, match="no face"):
        read_clip(tmp_path / "film.json")


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not really")
    np.savez(tmp_path / "half.npz", expression=np.zeros((3, 1)))
    np.savez(tmp_path / "zero.npz", expression=np.zeros((0, 1)), names=np.array(["jawOpen"]), rate=24)
    np.savez(tmp_path / "nan.npz", expression=np.full((2, 1), np.nan), names=np.array(["jawOpen"]), rate=24)
    np.savez(tmp_path / "wide.npz", expression=np.zeros((2, 3)), names=np.array(["jawOpen"]), rate=24)
    np.savez(tmp_path / "code.npz", expression=np.zeros((2, 1)), names=np.array([object()]), rate=24)
    (tmp_path / "broken.json").write_text("{")
    expected = {
        "none.csv": "does not exist", "empty": r"no \.mat", "notes.txt": "unknown kind", "broken.npz": "damaged",
        "half.npz": "lacks names", "zero.npz": "no frames", "nan.npz": "NaN", "wide.npz": "one column",
        "code.npz": "damaged", "broken.json": "damaged",
    }  # fmt: skip
    for name, words in expected.items():
        with pytest.raises(CopoError, match=words):
            read_clip(tmp_path / name)
    with pytest.raises(CopoError, match="rate"):
        read_clip(tmp_path / "half.npz", rate=0)


def test_natural_order() -> None:
    names = ["10.mat", "9.mat", "frame_2.mat", "frame_10.mat", "a.mat"]
    assert sorted(names, key=natural) == ["9.mat", "10.mat", "a.mat", "frame_2.mat", "frame_10.mat"]


# --- time -------------------------------------------------------------------------------------------------------------


def test_other_rates() -> None:
    found = clip([0, 1, 2, 3]).at_rate(20)
    np.testing.assert_allclose(found.expression[:, 0], [0, 0.5, 1, 1.5, 2, 2.5, 3, 3])
    assert found.rate == 20 and found.seconds == pytest.approx(0.4)
    np.testing.assert_allclose(clip([0, 1, 2, 3]).at_rate(5).expression[:, 0], [0, 2])


@given(st.integers(1, 60), st.floats(1, 240), st.floats(1, 120))
def test_rates_keep_the_length(count: int, before: float, after: float) -> None:
    found = clip([0.0] * count, before).at_rate(after)
    assert found.seconds == pytest.approx(count / before, abs=1.01 / after)
    assert found.pose is not None and len(found.pose) == len(found)


def test_beginnings() -> None:
    assert len(clip([0, 1, 2, 3]).first(0.2)) == 2 and len(clip([0, 1]).first(99)) == 2
    assert len(clip([0, 1]).first(None)) == 2
    with pytest.raises(CopoError, match="seconds"):
        clip([0]).first(0)


def test_gaps() -> None:
    values = np.array([[np.nan], [1], [np.nan], [3], [np.nan]])
    np.testing.assert_allclose(without_gaps(values)[:, 0], [1, 1, 2, 3, 3])


# --- smoothing --------------------------------------------------------------------------------------------------------


def test_the_one_euro_filter_by_hand() -> None:
    # rate 1, beta 0, cutoff 1/(2 pi): a share of 1/2 for each sample
    step = OneEuro(1.0, 1 / (2 * math.pi), 0.0)
    assert [float(step(np.array([v]))[0]) for v in (0, 1, 1, 0)] == [0, 0.5, 0.75, 0.375]


def test_trembling_is_calmed_and_blinks_are_kept() -> None:
    random = np.random.default_rng(0)
    still = 0.3 + 0.01 * random.standard_normal((120, 4))
    assert smooth(still, 30).std(0).mean() < 0.5 * still.std(0).mean()
    np.testing.assert_allclose(smooth(still, 30)[30:90].mean(0), still[30:90].mean(0), atol=3e-3)
    blink = np.zeros((60, 1))
    blink[28:33, 0] = (0.5, 1, 1, 0.7, 0.3)
    calm = smooth(blink, 30)
    assert calm.max() > 0.8 and abs(int(calm[:, 0].argmax()) - 29) <= 1, "neither weak nor late"


@settings(max_examples=25)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.floats(0.1, 5))
def test_smoothing_stays_within_the_values(values: list[float], strength: float) -> None:
    samples = np.array(values)[:, None]
    calm = smooth(samples, 30, strength)
    assert calm.min() >= samples.min() - 1e-6 and calm.max() <= samples.max() + 1e-6
    backwards = smooth(samples[::-1], 30, strength)[::-1]
    np.testing.assert_allclose(calm, backwards, atol=1e-6)


def test_smoothing_can_be_left_out() -> None:
    np.testing.assert_array_equal(clip([0, 1, 0]).smoothed(0).expression, clip([0, 1, 0]).expression)
    with pytest.raises(CopoError, match="smoothing"):
        clip([0, 1]).smoothed(-1)


# --- strength and heads -----------------------------------------------------------------------------------------------


def test_strength_and_rest() -> None:
    turned = clip([0, 0.5]).scaled(2, -1)
    np.testing.assert_allclose(turned.expression[:, 0], [0, 1])
    assert turned.pose is not None
    np.testing.assert_allclose(turned.pose[:, 0], [0, -0.5])
    rested = clip([0.2] * 50 + [1.0]).calibrated()
    np.testing.assert_allclose(rested.expression[[0, -1], 0], [0, 1], atol=1e-6)


def test_units_go_to_their_places() -> None:
    values = clip([0.25, 7.0]).for_spec(SPEC)
    assert values.shape == (2, 52) and values[0].sum() == 0.25 and values[0, JAW] == 0.25
    assert values[1, JAW] == 1, "clamped to the head's range"
    with pytest.raises(CopoError, match="jawOpen"):
        clip([0]).for_spec(bfm_spec())


def test_talk_speaks_blinks_and_repeats() -> None:
    talk = talk_clip(30)
    assert 3 <= talk.seconds <= 6 and talk.expression.min() >= 0 and talk.expression.max() <= 1
    jaw, blink = talk.expression[:, JAW], talk.expression[:, ARKIT_NAMES.index("eyeBlinkLeft")]
    opened = np.flatnonzero((jaw[1:-1] > jaw[:-2]) & (jaw[1:-1] >= jaw[2:]) & (jaw[1:-1] > 0.1))
    assert len(opened) >= 5, "syllables"
    assert np.sum((blink[1:] > 0.5) & (blink[:-1] <= 0.5)) == 3
    assert np.abs(talk.expression[0] - talk.expression[-1]).max() < 0.15, "no jump where it repeats"
    assert talk.pose is not None and np.abs(talk.pose[0] - talk.pose[-1]).max() < 0.02
    np.testing.assert_allclose(talk_clip(60).at_rate(30).expression, talk.expression, atol=0.02)


def test_poses_of_cameras() -> None:
    found = pose_of(Camera.from_degrees(20, -10))
    np.testing.assert_allclose(np.degrees(found[0]), [20, -10, 0], atol=1e-4)
