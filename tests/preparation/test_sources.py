"""What counts as input, under which name; what known data sets' names say; videos."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from copo.errors import CopoError
from copo.preparation.config import PrepareConfig
from copo.preparation.presets import apply_preset, ravdess_info
from copo.preparation.sources import Source, find_sources, group_sources, person_of, read_bytes
from copo.preparation.units import Plan, Unit, frame_times, make_plan
from copo.preparation.video import video_frames, video_length


def touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(*inputs: Path, exclude: tuple[str, ...] = ()) -> list[str]:
    return [s.name for s in find_sources(inputs, exclude).sources]


def test_folders_zips_and_single_files(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.webp", "notes.txt", ".hidden/3.png", "c/größe 顔.jpg", "clip.mp4", "._a.png"):
        touch(tmp_path / "set" / name)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("x/9.png", b"abc")
        archive.writestr("__MACOSX/9.png", b"")
        archive.writestr("manifest.csv", "path,person,licence\nx/9.png,anna,CC0\n")
    found = find_sources([tmp_path / "set", tmp_path / "more.zip", tmp_path / "set" / "a.webp", tmp_path / "set"])
    assert [s.name for s in found.sources] == [
        "set/a.webp", "set/b/1.png", "set/b/2.JPG", "set/c/größe 顔.jpg", "set/clip.mp4", "more.zip/x/9.png", "a.webp",
    ]  # fmt: skip
    assert found.ignored == 1 and not found.problems
    packed = found.sources[5]
    assert packed.info == {"person": "anna", "licence": "CC0"} and packed.bytes == 3 and read_bytes(packed) == b"abc"
    assert [s.is_video for s in found.sources] == [False] * 4 + [True] + [False] * 2
    assert names(tmp_path / "set", exclude=("b/*", "*.mp4")) == ["set/a.webp", "set/c/größe 顔.jpg"]


def test_inputs_of_one_name_do_not_collide(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "images" / "1.png")
    touch(tmp_path / "y" / "images" / "1.png")
    assert names(tmp_path / "x" / "images", tmp_path / "y" / "images") == ["images/1.png", "images~2/1.png"]


def test_manifest_in_the_folder_or_above(tmp_path: Path) -> None:
    touch(tmp_path / "sets" / "manifest.csv", "path,set,person,view\nlondon/1.jpg,london,p1,front\nother/1.jpg,o,,\n")
    touch(tmp_path / "sets" / "london" / "1.jpg")
    touch(tmp_path / "sets" / "london" / "2.jpg")
    for given in (tmp_path / "sets", tmp_path / "sets" / "london"):
        first, second = find_sources([given]).sources
        assert first.info == {"set": "london", "person": "p1", "view": "front"} and second.info == {}
    assert person_of(first) == "london/p1" and person_of(second) is None


def test_bad_inputs(tmp_path: Path) -> None:
    touch(tmp_path / "empty" / "notes.txt")
    touch(tmp_path / "broken.zip")
    for given, words in (
        (tmp_path / "none", "no such file"), (tmp_path / "empty", "no pictures or videos"),
        (tmp_path / "broken.zip", "not a zip"), (tmp_path / "empty" / "notes.txt", "give a folder"),
    ):  # fmt: skip
        with pytest.raises(CopoError, match=words):
            find_sources([given])


def test_what_cannot_be_listed_is_reported(tmp_path: Path) -> None:
    touch(tmp_path / "set" / "1.png")
    (tmp_path / "set" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "set" / "pipe.png")
    (tmp_path / "set" / os.fsdecode(b"caf\xe9.png")).write_text("x")
    found = find_sources([tmp_path / "set"])
    assert [s.name for s in found.sources] == ["set/1.png", "set/caf\\xe9.png"]
    assert read_bytes(found.sources[1]) == b"x"
    assert {(p.name, p.reason) for p in found.problems} == {
        ("set/gone.png", "no such file or directory"),
        ("set/pipe.png", "not a regular file"),
    }


@contextmanager
def nobody() -> Iterator[None]:
    """Without the superuser's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folders_and_files_without_permission() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "set"
        closed = touch(root / "closed.png")
        touch(root / "locked" / "1.png")
        touch(root / "open.png")
        os.chmod(name, 0o755)
        os.chmod(closed, 0)
        os.chmod(root / "locked", 0)
        try:
            with nobody():
                found = find_sources([root])
                with pytest.raises(CopoError, match=r"set/closed\.png: permission denied"):
                    read_bytes(found.sources[0])
        finally:
            os.chmod(root / "locked", 0o755)
    assert [s.name for s in found.sources] == ["set/closed.png", "set/open.png"]
    assert [(p.name, p.reason) for p in found.problems] == [("set/locked", "permission denied")]


def test_groups() -> None:
    def source(name: str, person: str = "") -> Source:
        return Source(name, name, None, 1, {"set": "s", "person": person})

    photos = [source("1.png", "a"), source("2.png"), source("3.png", "b"), source("4.png", "a"), source("5.png", "a")]
    groups = group_sources(photos, True, 2, person_of)
    assert [[s.name for s in g] for g in groups] == [["1.png", "4.png"], ["5.png"], ["2.png"], ["3.png"]]
    assert [len(g) for g in group_sources(photos, False, 2, person_of)] == [1] * 5


def test_units_and_plans() -> None:
    photos = [Source(f"s/{i}.png", f"/x/{i}.png", None, 10 + i, {}) for i in range(7)]
    units = [Unit.of([photo]) for photo in photos]
    assert len({u.id for u in units}) == 7
    moved = Unit.of([Source("s/0.png", "/elsewhere/0.png", None, 10, {})])
    assert moved.id == units[0].id, "a unit's name must not depend on the machine"
    assert Unit.of([Source("s/0.png", "/x/0.png", None, 11, {})]).id != units[0].id
    plan = Plan(tuple(units), PrepareConfig(size=256))
    again = Plan.from_bytes(plan.to_bytes())
    assert again == plan and again.id == plan.id
    parts = [plan.shard(i, 3) for i in (1, 2, 3)]
    assert sorted(u.id for part in parts for u in part) == sorted(u.id for u in units)
    with pytest.raises(CopoError, match="damaged"):
        Plan.from_bytes(b"{}")
    assert PrepareConfig.from_dict(PrepareConfig(size=128).to_dict()) == PrepareConfig(size=128)
    for bad in ({"size": 8}, {"group_limit": 0}, {"frames_per_second": 0.0}, {"reconstructor": "deep3d"}):
        with pytest.raises(CopoError, match="--"):
            PrepareConfig(**bad)  # type: ignore[arg-type]


# --- known data sets --------------------------------------------------------------------------------------------


def test_ravdess_names() -> None:
    """02-01-06-01-02-01-12: video, speech, fearful, normal, "dogs", first repetition, actor 12."""
    info = ravdess_info("02-01-06-01-02-01-12.mp4")
    assert info is not None
    assert {k: info[k] for k in ("modality", "channel", "expression", "intensity", "statement", "repetition")} == {
        "modality": "video", "channel": "speech", "expression": "fearful", "intensity": "normal",
        "statement": "dogs", "repetition": "1",
    }  # fmt: skip
    assert info["person"] == "actor_12" and info["sequence"] == "01-06-01-02-01-12" and "NC" in info["licence"]
    assert ravdess_info("02-01-09-01-02-01-12.mp4") is None and ravdess_info("holiday.mp4") is None


def test_ravdess_takes_each_recording_once() -> None:
    files = [
        "Actor_02/01-01-03-01-01-01-02.mp4",
        "Actor_02/02-01-03-01-01-01-02.mp4",
        "Actor_01/01-01-05-02-01-02-01.mp4",
        "Actor_01/03-01-05-02-01-02-01.wav",
        "Actor_01/03-01-01-01-01-01-01.mp4",
        "other.mp4",
    ]
    out = apply_preset([Source(f, f, None, 1) for f in files], "ravdess")
    assert [s.name for s in out] == [files[2], files[1]]
    assert [s.info["expression"] for s in out] == ["angry", "happy"]
    with pytest.raises(CopoError, match="--preset ravdess"):
        apply_preset([Source("a.mp4", "a.mp4", None, 1)], "ravdess")


def test_ffhq_layout(tmp_path: Path) -> None:
    row = {
        "category": "training",
        "metadata": {
            "license": "Attribution License",
            "license_url": "http://x",
            "author": "A",
            "photo_url": "http://y",
        },
        "in_the_wild": {"face_rect": [10, 20, 110.5, 140]},
    }
    touch(tmp_path / "ffhq" / "ffhq-dataset-v2.json", json.dumps({"3": row}))
    wild = touch(tmp_path / "ffhq" / "in-the-wild-images" / "00000" / "00003.png")
    touch(tmp_path / "ffhq" / "thumbnails128x128" / "00000" / "00003.png")
    (only,) = apply_preset(find_sources([tmp_path / "ffhq"]).sources, "ffhq")
    assert only.path == str(wild) and only.info["face_box"] == "10 20 110.5 140"
    assert only.info["licence"] == "Attribution License" and only.info["part"] == "training"
    aligned = touch(tmp_path / "ffhq" / "images1024x1024" / "00000" / "00003.png")
    (only,) = apply_preset(find_sources([tmp_path / "ffhq"]).sources, "ffhq")
    assert only.path == str(aligned) and "face_box" not in only.info and only.info["person"] == "ffhq_00003"
    touch(tmp_path / "bad" / "ffhq-dataset-v2.json", "{")
    touch(tmp_path / "bad" / "00003.png")
    with pytest.raises(CopoError, match="--preset ffhq"):
        apply_preset(find_sources([tmp_path / "bad"]).sources, "ffhq")


# --- videos -----------------------------------------------------------------------------------------------------


def make_video(path: Path, count: int, rate: int = 10) -> Source:
    """Frame k has the grey value 8 k + 16."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.bit_rate, stream.gop_size = 64, 48, 4_000_000, 7
        for k in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * k + 16, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return Source(path.name, str(path), None, path.stat().st_size)


def shown(source: Source, times: list[float]) -> list[tuple[float, int]]:
    return [(t, round((float(p.mean()) - 16) / 8)) for t, p in video_frames(source, times)]


def test_frames_at_their_times(tmp_path: Path) -> None:
    video = make_video(tmp_path / "clip.mp4", 25)
    assert video_length(video) == pytest.approx(2.5, abs=0.01)
    assert shown(video, [0.0, 0.4, 1.0]) == [(0.0, 0), (0.4, 4), (1.0, 10)]
    assert shown(video, [1.8, 2.4]) == [(1.8, 18), (2.4, 24)], "after a seek"
    assert shown(video, [2.3, 9.0]) == [(2.3, 23)], "nothing after the end"
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as archive:
        archive.write(tmp_path / "clip.mp4", "d/clip.mp4")
    packed = find_sources([tmp_path / "v.zip"]).sources[0]
    assert shown(packed, [0.5, 1.5]) == [(0.5, 5), (1.5, 15)]


@pytest.mark.parametrize(("degrees", "bright"), [(90, "bottom"), (-90, "top"), (180, "right"), (0, "left")])
def test_telephone_videos_are_turned_upright(tmp_path: Path, degrees: int, bright: str) -> None:
    """The left half is bright as stored; turned by 90 degrees counter-clockwise, the left comes to the bottom."""
    av = pytest.importorskip("av")
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:, :32] = 220
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a rotation")
        stream.set_display_rotation(degrees)
        for packet in [*stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")), *stream.encode()]:
            container.mux(packet)
    source = Source("clip.mp4", str(tmp_path / "clip.mp4"), None, 1)
    ((_, picture),) = video_frames(source, [0.0])
    height, width = picture.shape[:2]
    halves = {
        "top": picture[: height // 2], "bottom": picture[height // 2 :],
        "left": picture[:, : width // 2], "right": picture[:, width // 2 :],
    }  # fmt: skip
    assert (height, width) == ((64, 48) if degrees % 180 else (48, 64))
    assert max(halves, key=lambda side: float(halves[side].mean())) == bright and halves[bright].mean() > 150


def test_frame_times_and_pieces(tmp_path: Path) -> None:
    config = PrepareConfig(frames_per_second=4.0, chunk_seconds=1.0)
    assert frame_times(1.0, config) == [0.0, 0.25, 0.5, 0.75]
    assert frame_times(0.01, config) == [0.0]
    assert frame_times(10.0, PrepareConfig(frames_per_second=4.0, max_frames=3)) == [0.0, 5.0, 9.75]
    make_video(tmp_path / "set" / "clip.mp4", 25)
    touch(tmp_path / "set" / "broken.mp4", "no video")
    plan = make_plan(find_sources([tmp_path / "set"]), config)
    assert [unit.times for unit in plan.units] == [(0, 0.25, 0.5, 0.75), (1, 1.25, 1.5, 1.75), (2.0, 2.25)]
    assert plan.count == 10 and [p.name for p in plan.problems] == ["set/broken.mp4"]
    assert "cannot be opened" in plan.problems[0].reason


def test_a_cut_off_video_gives_what_it_has(tmp_path: Path) -> None:
    video = make_video(tmp_path / "clip.mkv", 25)
    data = Path(video.path).read_bytes()
    Path(video.path).write_bytes(data[: len(data) * 2 // 3])
    got = shown(video, [0.0, 0.5, 2.0])
    assert [t for t, _ in got][:1] == [0.0] and len(got) < 3
