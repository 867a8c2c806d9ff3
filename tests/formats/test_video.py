"""Moving pictures: real encoders, real files, read back."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from copo.errors import CopoError
from copo.formats.pictures import read_metadata
from copo.formats.provenance import Provenance
from copo.formats.video import (
    Picture,
    check_video_path,
    durations,
    frames_done,
    read_video_metadata,
    video_frames,
    video_info,
    write_video,
)

av = pytest.importorskip("av")
MARK = Provenance(metadata={"command": "animate", "seed": 41, "note": "ä<&>"})
COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (230, 180, 150), (128, 128, 128)]


def flat(colours: list[tuple[int, int, int]] = COLOURS, side: int = 48) -> Iterator[Picture]:
    for colour in colours:
        yield np.full((side, side, 3), colour, np.uint8)


def tone(path: Path, seconds: float, rate: int = 16_000) -> Path:
    """A 440 Hz tone as .wav."""
    wave_form = (np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate) * 12_000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(wave_form.tobytes())
    return path


def heard(path: Path) -> tuple[str, float, float, float]:
    """Codec, time of the first sample, seconds, loudest frequency of a file's sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = [(f.time, f.to_ndarray().astype(np.float64)[0], f.sample_rate) for f in container.decode(stream)]
        samples, rate = np.concatenate([f[1] for f in frames]), frames[0][2]
        loudest = np.fft.rfftfreq(len(samples), 1 / rate)[np.abs(np.fft.rfft(samples)).argmax()]
        return stream.codec_context.name, frames[0][0], len(samples) / rate, float(loudest)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_films_keep_colours_times_and_mark(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    assert write_video(path, (c for c in flat() for _ in range(3)), 12.5, MARK) == 15
    info = video_info(path)
    assert (info.width, info.height, info.sound) == (48, 48, False)
    assert info.rate == pytest.approx(12.5) and info.seconds == pytest.approx(15 / 12.5, abs=0.02)
    seen = dict(video_frames(path, [i / 12.5 for i in range(15)]))
    assert len(seen) == 15
    for i, colour in enumerate(COLOURS):
        np.testing.assert_allclose(seen[(3 * i + 1) / 12.5].mean((0, 1)), colour, atol=6)
    assert read_video_metadata(path) == MARK
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_mark_of_an_mp4_is_where_programs_look_for_it(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", flat(), 24, MARK)
    data = (tmp_path / "clip.mp4").read_bytes()
    at = data.index(bytes.fromhex("be7acfcb97a942e89c71999491e3afac"))
    assert data[at - 4 : at] == b"uuid" and int.from_bytes(data[at - 8 : at - 4], "big") == len(data) - at + 8
    assert data.index(b"moov") < data.index(b"mdat"), "a player can start before the whole file is there"
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert "AI-generated" in container.metadata["comment"]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    assert write_video(path, flat(), 20, MARK) == 5
    with Image.open(path) as image:
        assert image.n_frames == 5 and image.info["loop"] == 0
        for i, colour in enumerate(COLOURS):
            image.seek(i)
            np.testing.assert_allclose(np.asarray(image.convert("RGB")).mean((0, 1)), colour, atol=6)
            assert image.info["duration"] == 50
    assert read_video_metadata(path) == MARK


def test_a_gif_without_motion_is_whole(tmp_path: Path) -> None:
    write_video(tmp_path / "still.gif", flat([COLOURS[0]] * 4), 10, MARK)
    with Image.open(tmp_path / "still.gif") as image:
        total = 0
        for i in range(image.n_frames):
            image.seek(i)
            total += image.info["duration"]
    assert total == 400


@given(st.integers(1, 200), st.floats(1, 45), st.sampled_from([1, 10]))
def test_durations_do_not_drift(count: int, rate: float, unit: int) -> None:
    steps = durations(count, rate, unit)
    assert len(steps) == count and all(step % unit == 0 and step > 0 for step in steps)
    assert abs(sum(steps) - 1000 * count / rate) <= unit


def test_odd_sizes(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(0).integers(0, 255, (31, 45, 3), np.uint8)] * 3
    write_video(tmp_path / "odd.mp4", pictures, 24)
    assert (video_info(tmp_path / "odd.mp4").width, video_info(tmp_path / "odd.mp4").height) == (46, 32)


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".webm", "opus")])
def test_sound_is_kept_and_ends_with_the_pictures(tmp_path: Path, suffix: str, codec: str) -> None:
    sound = tone(tmp_path / "tone.wav", 3.0)
    first = tmp_path / f"first{suffix}"
    write_video(first, flat(COLOURS * 4), 10, sound=sound)  # 2 seconds, encoded anew
    assert video_info(first).sound
    name, start, seconds, pitch = heard(first)
    assert name.removeprefix("lib") == codec and abs(start) < 0.03
    assert seconds == pytest.approx(2.0, abs=0.1) and pitch == pytest.approx(440, abs=3)
    again = tmp_path / f"again{suffix}"
    write_video(again, flat(COLOURS * 2), 10, sound=first)  # 1 second, packets as they are
    name, start, seconds, pitch = heard(again)
    assert name.removeprefix("lib") == codec and abs(start) < 0.03
    assert seconds == pytest.approx(1.0, abs=0.1) and pitch == pytest.approx(440, abs=3)


def test_a_video_without_sound_gives_none(tmp_path: Path) -> None:
    write_video(tmp_path / "mute.mp4", flat(), 10)
    write_video(tmp_path / "out.mp4", flat(), 10, sound=tmp_path / "mute.mp4")
    assert not video_info(tmp_path / "out.mp4").sound


def test_folders_of_frames_go_on_where_they_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    assert frames_done(folder, MARK) == 0
    assert write_video(folder, flat(COLOURS[:2]), 24, MARK) == 2
    assert frames_done(folder, MARK) == 2
    assert write_video(folder, flat(COLOURS[2:]), 24, MARK, first=2) == 3
    assert sorted(p.name for p in folder.glob("*.png")) == [f"{i:06d}.png" for i in range(5)]
    assert read_metadata(folder / "000004.png") == MARK
    with pytest.raises(CopoError, match="another clip"):
        frames_done(folder, Provenance(metadata={"seed": 1}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    with pytest.raises(CopoError, match="choose another folder"):
        frames_done(tmp_path / "full", MARK)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "clip.webp"])
def test_nothing_half_written(tmp_path: Path, name: str) -> None:
    def breaks() -> Iterator[Picture]:
        yield from flat()
        raise CopoError("the driving file ended badly")

    with pytest.raises(CopoError, match="ended badly"):
        write_video(tmp_path / name, breaks(), 24)
    with pytest.raises(CopoError, match="without frames"):
        write_video(tmp_path / name, iter(()), 24)
    with pytest.raises(CopoError, match="one size"):
        write_video(tmp_path / name, [*flat(), *flat(side=32)], 24)
    assert not list(tmp_path.iterdir())


def test_bad_inputs(tmp_path: Path) -> None:
    for name, words in (("clip.avi", "end the name in"), ("clip.png", "folder")):
        with pytest.raises(CopoError, match=words):
            check_video_path(tmp_path / name)
    with pytest.raises(CopoError, match="frames a second"):
        write_video(tmp_path / "clip.mp4", flat(), 0)
    with pytest.raises(CopoError, match="quality"):
        write_video(tmp_path / "clip.mp4", flat(), 24, quality=0)
    with pytest.raises(CopoError, match="no such file"):
        video_info(tmp_path / "none.mp4")
    with pytest.raises(CopoError, match="has an end"):
        video_info("/dev/zero")
    (tmp_path / "text.mp4").write_text("not a film")
    with pytest.raises(CopoError, match="cannot be opened"):
        video_info(tmp_path / "text.mp4")
    with pytest.raises(CopoError, match="no picture"):
        video_info(tone(tmp_path / "tone.wav", 0.1))
    with pytest.raises(CopoError, match="too long"):
        big = np.zeros((20_000, 20_000, 3), np.uint8)
        write_video(tmp_path / "big.webp", [big], 24)


def test_a_truncated_film_gives_what_is_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_video(tmp_path / "whole.mp4", (rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(40)), 10)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    times = [i / 10 for i in range(40)]
    assert 0 < len(list(video_frames(tmp_path / "cut.mp4", times))) < 40
