"""Moving pictures in and out: MP4, WebM, animated GIF and WebP, folders of PNG frames, with sound and the mark.

MP4 and WebM go through PyAV (the extra `video`), GIF and WebP through Pillow. Every file says that it is synthetic: as
an XMP packet in MP4 (the `uuid` box of the XMP specification, part 3), GIF (application extension) and WebP, as tags in
WebM, and each PNG frame as `copo.formats.pictures` writes it.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from copo.errors import CopoError
from copo.formats.atomic import atomic_write, write_bytes
from copo.formats.pictures import read_metadata, save_image
from copo.formats.provenance import JSON_KEY, NEWSCODES, SOFTWARE, Provenance, parse_metadata

Picture = NDArray[np.uint8]
VideoFile = str | os.PathLike[str] | bytes
"""A path, or the content of a file."""

VIDEO_FORMATS = (".mp4", ".webm", ".gif", ".webp")
"""Endings that `write_video` knows; a name without an ending is a folder of PNG frames."""

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".flv"})
"""Endings of files that are read as videos."""

LARGEST_ANIMATION = 1 << 30
"""Most bytes of pictures in a GIF or WebP: both are put together in memory."""
FASTEST, SLOWEST = 240.0, 0.1
"""Frames a second that can be written."""

_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
"""The `uuid` of an XMP packet in ISO media files (XMP specification, part 3)."""
_XMP_GIF = b"XMP DataXMP"
_XMP_GIF_END = bytes([1, *range(255, -1, -1), 0])
"""What makes any reader of sub-blocks find the end of a packet (XMP specification, part 3, GIF)."""
_LARGEST_PACKET = 1 << 24
_PALETTE_FRAMES = 24
_FRAME_NAME = re.compile(r"(\d{6})\.png")
_FOLDER_NOTE = "clip.json"


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        seconds: From the first frame to the end of the last.
        rate: Frames a second on average.
        width: Pixels, upright.
        height: Pixels, upright.
        sound: Whether there is a sound track.
    """

    seconds: float
    rate: float
    width: int
    height: int
    sound: bool


def video_info(file: VideoFile, name: str | None = None) -> VideoInfo:
    """Look into a video.

    Args:
        file: Path or content.
        name: What to call it in errors; by default the path.

    Raises:
        CopoError: It cannot be opened, or holds no pictures.
    """
    title = _title(file, name)
    with _opened(file, title) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        first = next(_decoded(container, stream, title))
        width, height = first.width, first.height
        if _turns(first) % 2:
            width, height = height, width
        sound = bool(container.streams.audio)
    return VideoInfo(video_length(file, name), rate, width, height, sound)


def video_length(file: VideoFile, name: str | None = None) -> float:
    """Seconds from the first frame to the end of the last.

    Raises:
        CopoError: It cannot be opened, or holds no pictures.
    """
    title = _title(file, name)
    with _opened(file, title) as (container, stream):
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return container.duration / 1e6
        times = [float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None]
        if not times:
            raise CopoError(f"{title}: a video without frames")
        rate = float(stream.average_rate or 25)
        return max(times) - min(times) + 1 / rate


def video_frames(file: VideoFile, times: Sequence[float], name: str | None = None) -> Iterator[tuple[float, Picture]]:
    """The frames that are shown at these times.

    Args:
        file: Path or content.
        times: Ascending, seconds from the first frame.
        name: What to call it in errors; by default the path.

    Yields:
        Time as asked for, and (H, W, 3) uint8 upright. Times after the last frame are left out, and a damaged part
        ends the video there.

    Raises:
        CopoError: It cannot be opened, or nothing of the wanted part can be decoded.
    """
    title = _title(file, name)
    with _opened(file, title) as (container, stream):
        import av

        start = float((stream.start_time or 0) * stream.time_base)
        half = 0.5 / float(stream.average_rate or 25)
        if times[0] > 1:
            container.seek(int((times[0] + start) / stream.time_base), stream=stream, backward=True)
        wanted = iter(times)
        target = next(wanted)
        found = 0
        try:
            for frame in container.decode(stream):
                now = (frame.time if frame.time is not None else 0.0) - start
                while now >= target - half:
                    yield target, _upright(frame)
                    found += 1
                    following = next(wanted, None)
                    if following is None:
                        return
                    target = following
        except av.error.FFmpegError as error:
            if not found:
                raise CopoError(f"{title}: the video cannot be decoded: {_reason(error)}") from None
        if not found and times[0] == 0:
            raise CopoError(f"{title}: a video without frames")


def read_video_metadata(path: str | os.PathLike[str]) -> Provenance:
    """Read the mark and the metadata of a moving picture (.mp4, .webm, .gif, .webp).

    Returns:
        Provenance: `source_type` is None and `metadata` empty where the file has none.

    Raises:
        CopoError: The file is missing or cannot be read.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    try:
        if suffix == ".gif":
            return Provenance.from_xmp(_gif_packet(file.read_bytes()))
        if suffix in (".mp4", ".m4v", ".mov"):
            return Provenance.from_xmp(_mp4_packet(file))
    except FileNotFoundError:
        raise CopoError(f"{file} does not exist") from None
    except OSError as error:
        raise CopoError(f"{file} cannot be read: {_reason(error)}") from None
    if suffix == ".webp":
        return read_metadata(file)
    with _opened(file, str(file)) as (container, _):
        tags = {key.upper(): value for key, value in container.metadata.items()}
    source = tags.get("DIGITALSOURCETYPE", "").rsplit("/", 1)[-1]
    return Provenance(source or None, parse_metadata(tags.get(JSON_KEY.upper(), "")))


@contextmanager
def _opened(file: VideoFile, title: str) -> Iterator[tuple[Any, Any]]:
    av = _av(title)
    source: Any = io.BytesIO(file) if isinstance(file, bytes) else os.fspath(file)
    if not isinstance(file, bytes) and not Path(file).is_file():
        what = "is not a file that has an end" if Path(file).exists() and not Path(file).is_dir() else "no such file"
        raise CopoError(f"{title}: the video cannot be opened: {what}")
    try:
        container = av.open(source)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise CopoError(f"{title}: the video cannot be opened: {_reason(error)}") from None
    with container:
        if not container.streams.video:
            raise CopoError(f"{title}: there is no picture in this video")
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
        yield container, stream


def _decoded(container: Any, stream: Any, title: str) -> Iterator[Any]:
    import av

    found = False
    try:
        for frame in container.decode(stream):
            found = True
            yield frame
    except av.error.FFmpegError as error:
        if not found:
            raise CopoError(f"{title}: the video cannot be decoded: {_reason(error)}") from None
    if not found:
        raise CopoError(f"{title}: a video without frames")


def _turns(frame: Any) -> int:
    return round(getattr(frame, "rotation", 0) / 90) % 4


def _upright(frame: Any) -> Picture:
    """RGB, turned as the file says (telephones store a rotation)."""
    picture: Picture = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(picture, _turns(frame)))


def _mp4_packet(path: Path) -> bytes:
    """The XMP packet among the outermost boxes of an ISO media file, or nothing."""
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            body = size - 8
            if size == 1:
                large = file.read(8)
                body = struct.unpack(">Q", large)[0] - 16 if len(large) == 8 else -1
            if size == 0 or body < 0:
                return b""
            if kind == b"uuid" and 16 <= body <= _LARGEST_PACKET:
                if file.read(16) == _XMP_BOX:
                    return file.read(body - 16)
                body -= 16
            file.seek(body, os.SEEK_CUR)
    return b""


def _gif_packet(data: bytes) -> bytes:
    start = data.find(_XMP_GIF)
    end = data.find(_XMP_GIF_END, start)
    return data[start + len(_XMP_GIF) : end] if 0 <= start < end else b""


# --- writing ----------------------------------------------------------------------------------------------------------


def check_video_path(path: str | os.PathLike[str]) -> str:
    """The format that a name asks for: one of VIDEO_FORMATS, or "" for a folder of PNG frames.

    Raises:
        CopoError: The ending is none of them, or PyAV is missing for it.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix == ".png":
        raise CopoError(f"{target.name}: PNG frames go into a folder: give a name without an ending")
    if suffix and suffix not in VIDEO_FORMATS:
        known = ", ".join(VIDEO_FORMATS)
        raise CopoError(f"cannot write a video as {target.name!r}: end the name in {known}, or in nothing for frames")
    if suffix in (".mp4", ".webm"):
        _av(target.name)
    return suffix


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[Picture],
    rate: float,
    provenance: Provenance | None = None,
    sound: VideoFile | None = None,
    quality: int = 90,
    first: int = 0,
) -> int:
    """Write pictures as a video; the ending chooses the format, none a folder of PNG frames (000000.png, ...).

    | ending | holds |
    |---|---|
    | .mp4 | H.264 (MPEG-4 where the installed PyAV has no x264), AAC sound, ready to be streamed |
    | .webm | VP9, Opus sound |
    | .gif | one palette of 256 colours for all frames, which repeat for ever; no sound |
    | .webp | full colour, repeating; no sound |
    | none | a folder of PNG frames; `frames_done` tells where to go on |

    A file appears whole or not at all. Sound is copied where the format can hold it as it is and encoded anew
    otherwise; it ends with the pictures.

    Args:
        path: File or folder to make.
        frames: (H, W, 3) uint8 pictures of one size, taken one by one.
        rate: Frames a second.
        provenance: The mark; by default that of a generated picture.
        sound: A video or sound file whose first sound track goes along, from its beginning. One without sound is no
            error.
        quality: 1 to 100, of mp4, webm and webp (100 is lossless there).
        first: Number of the first frame, for folders.

    Returns:
        The number of frames written.

    Raises:
        CopoError: Unknown ending, PyAV is missing, no frames, frames of several sizes, or the file cannot be written.
    """
    suffix = check_video_path(path)
    if not SLOWEST <= rate <= FASTEST:
        raise CopoError(f"{rate:g} frames a second: choose {SLOWEST:g} to {FASTEST:g}")
    if not 1 <= quality <= 100:
        raise CopoError(f"quality {quality}: choose 1 to 100")
    mark = provenance or Provenance()
    checked = _checked(frames, Path(path).name)
    if not suffix:
        return _write_frames(Path(path), checked, mark, first)
    with atomic_write(path) as temporary:
        if suffix in (".gif", ".webp"):
            return _write_animation(temporary, suffix, checked, rate, mark, quality)
        return _write_stream(temporary, suffix, checked, rate, mark, sound, quality)


def frames_done(path: str | os.PathLike[str], provenance: Provenance) -> int:
    """How many frames of a clip a folder holds already, so that writing can go on behind them.

    The folder keeps the mark's metadata in clip.json; it is made here.

    Args:
        path: The folder.
        provenance: Of the clip that shall be written.

    Raises:
        CopoError: The folder holds something else, or cannot be written.
    """
    folder = Path(path)
    note = folder / _FOLDER_NOTE
    wanted = provenance.json()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not note.is_file()):
        raise CopoError(f"{folder} is there already and holds no frames of this program: choose another folder")
    if note.is_file():
        try:
            known = note.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CopoError(f"{note} cannot be read: {_reason(error)}") from None
        if parse_metadata(known) != parse_metadata(wanted):
            raise CopoError(f"{folder} holds the frames of another clip: choose another folder or empty it")
    else:
        write_bytes(note, wanted.encode())
    found = {int(match[1]) for p in folder.iterdir() if (match := _FRAME_NAME.fullmatch(p.name))}
    return next(i for i in itertools.count() if i not in found)


def _write_frames(folder: Path, frames: Iterator[Picture], mark: Provenance, first: int) -> int:
    count = 0
    for picture in frames:
        save_image(folder / f"{first + count:06d}.png", picture, mark)
        count += 1
    return count


def _checked(frames: Iterable[Picture], name: str) -> Iterator[Picture]:
    """The same pictures, refused where they cannot be frames of one video."""
    shape: tuple[int, ...] | None = None
    for picture in frames:
        picture = np.asarray(picture)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise CopoError(f"{name}: a frame of shape {picture.shape} and type {picture.dtype}: give (H, W, 3) uint8")
        if shape is not None and picture.shape != shape:
            raise CopoError(f"{name}: frames of {shape[:2]} and {picture.shape[:2]} pixels: give frames of one size")
        shape = picture.shape
        yield picture


# --- GIF and WebP -----------------------------------------------------------------------------------------------------


def _write_animation(
    path: Path, suffix: str, frames: Iterator[Picture], rate: float, mark: Provenance, quality: int
) -> int:
    bytes_each = 1 if suffix == ".gif" else 4
    images: list[Image.Image] = []
    palette: Image.Image | None = None
    waiting: list[Picture] = []

    def settle() -> None:
        nonlocal palette
        if palette is None:
            palette = _palette(waiting)
        images.extend(Image.fromarray(p).quantize(palette=palette) for p in waiting)
        waiting.clear()

    total = 0
    for picture in frames:
        total += bytes_each * picture.shape[0] * picture.shape[1]
        if total > LARGEST_ANIMATION:
            raise CopoError(f"{path.name}: the clip is too long for {suffix}: use .mp4 or .webm, or a smaller size")
        if suffix == ".webp":
            images.append(Image.fromarray(picture))
            continue
        waiting.append(picture)
        if palette is not None or len(waiting) == _PALETTE_FRAMES:
            settle()
    if waiting:
        settle()
    if not images:
        raise CopoError(f"{path.name}: a video without frames")
    steps = durations(len(images), rate, 10 if suffix == ".gif" else 1)
    head, rest = images[0], images[1:]
    if suffix == ".webp":
        exif = Image.Exif()
        exif[0x010E], exif[0x0131] = mark.description, SOFTWARE
        head.save(path, "WEBP", save_all=True, append_images=rest, duration=steps, loop=0, quality=quality,
                  lossless=quality >= 100, xmp=mark.xmp(), exif=exif.tobytes())  # fmt: skip
        return len(images)
    memory = io.BytesIO()
    comment = f"{mark.description}. {SOFTWARE}".encode()
    head.save(memory, "GIF", save_all=True, append_images=rest, duration=steps, loop=0, comment=comment, optimize=False)
    path.write_bytes(_with_gif_packet(memory.getvalue(), mark.xmp()))
    return len(images)


def durations(count: int, rate: float, unit: int) -> list[int]:
    """Milliseconds of each frame in whole multiples of `unit`, which never drift from the true time.

    GIF counts in hundredths of a second, and viewers slow down frames of less than two of them.
    """
    ends = [max(round((i + 1) * 1000 / rate / unit), i + 1) * unit for i in range(count)]
    steps = [b - a for a, b in itertools.pairwise([0, *ends])]
    return [max(step, 2 * unit) for step in steps] if unit > 1 else steps


def _palette(pictures: Sequence[Picture]) -> Image.Image:
    """One palette for all frames: changing palettes flicker."""
    strips = np.concatenate([p[::2, ::2] for p in pictures], axis=0)
    return Image.fromarray(np.ascontiguousarray(strips)).quantize(256, method=Image.Quantize.MEDIANCUT)


def _with_gif_packet(data: bytes, packet: bytes) -> bytes:
    """The XMP packet behind the global colour table."""
    flags = data[10]
    at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    block = b"\x21\xff\x0b" + _XMP_GIF + packet + _XMP_GIF_END
    return data[:at] + block + data[at:]


# --- MP4 and WebM -----------------------------------------------------------------------------------------------------


def _write_stream(
    path: Path,
    suffix: str,
    frames: Iterator[Picture],
    rate: float,
    mark: Provenance,
    sound: VideoFile | None,
    quality: int,
) -> int:
    av = _av(path.name)
    head = next(frames, None)
    if head is None:
        raise CopoError(f"{path.name}: a video without frames")
    step = Fraction(rate).limit_denominator(1001)
    options = {"movflags": "+faststart"} if suffix == ".mp4" else {}
    try:
        with av.open(str(path), "w", options=options) as container:
            _tag(container, suffix, mark)
            stream = _video_stream(container, suffix, step, head, quality)
            with _sound_track(container, suffix, sound) as track:
                count = 0
                for picture in itertools.chain([head], frames):
                    frame = av.VideoFrame.from_ndarray(_even(picture), format="rgb24")
                    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                    frame.pts, frame.time_base = count, 1 / step
                    container.mux(stream.encode(frame))
                    count += 1
                    track.until(float(count / step))
                container.mux(stream.encode())
                track.finish()
    except av.error.FFmpegError as error:
        raise CopoError(f"cannot write {path.name}: {_reason(error)}") from None
    if suffix == ".mp4":
        packet = mark.xmp()
        with path.open("ab") as file:
            file.write(struct.pack(">I4s", 24 + len(packet), b"uuid") + _XMP_BOX + packet)
    return count


def _tag(container: Any, suffix: str, mark: Provenance) -> None:
    tags = {"comment": mark.description, "title": f"{SOFTWARE}: synthetic portrait"}
    if suffix == ".webm":
        tags |= {"DIGITALSOURCETYPE": NEWSCODES + str(mark.source_type), JSON_KEY.upper(): mark.json()}
    mark.uri()  # refuses a mark that is not ours
    container.metadata.update(tags)


def _video_stream(container: Any, suffix: str, step: Fraction, head: Picture, quality: int) -> Any:
    import av

    name = "libvpx-vp9" if suffix == ".webm" else "libx264"
    if name not in av.codecs_available:
        name = "libvpx" if suffix == ".webm" else "mpeg4"
    # The constant rate factors are near what both encoders' guides call visually lossless at the default of 90.
    factor = round(12 + 0.4 * (100 - quality)) if suffix == ".mp4" else round(20 + 0.4 * (100 - quality))
    settings = {
        "libx264": {"crf": str(factor), "preset": "medium"},
        "libvpx-vp9": {"crf": str(factor), "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
    }
    stream = container.add_stream(name, rate=step, options=settings.get(name, {}))
    stream.width, stream.height = head.shape[1] + head.shape[1] % 2, head.shape[0] + head.shape[0] % 2
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / step
    context.color_primaries, context.color_trc, context.colorspace, context.color_range = 1, 1, 1, 1  # BT.709, limited
    if name not in settings:
        stream.bit_rate = 8_000_000
    return stream


def _even(picture: Picture) -> Picture:
    """Half-resolution colour needs even sides: the last row and column are repeated."""
    pad = ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0))
    return np.ascontiguousarray(picture if pad[0][1] + pad[1][1] == 0 else np.pad(picture, pad, mode="edge"))


class _Track:
    """No sound."""

    def until(self, seconds: float) -> None:
        """Write the sound up to this time."""

    def finish(self) -> None:
        """Write what the encoder still holds."""


class _Copied(_Track):
    """Packets as they are, with times from the first picture on."""

    def __init__(self, container: Any, source: Any, stream: Any, start: float) -> None:
        self.container, self.out = container, container.add_stream_from_template(stream)
        self.start, self.base = start, stream.time_base
        self.packets = (p for p in source.demux(stream) if p.pts is not None)
        self.waiting: Any = None

    def until(self, seconds: float) -> None:
        """See `_Track`."""
        while True:
            packet = self.waiting or next(self.packets, None)
            self.waiting = None
            if packet is None:
                return
            now = float(packet.pts * self.base) - self.start
            if now >= seconds:
                self.waiting = packet
                return
            if now < 0:
                continue
            shift = round(self.start / self.base)
            packet.pts -= shift
            packet.dts = packet.pts
            packet.stream = self.out
            self.container.mux(packet)


class _Encoded(_Track):
    """Sound decoded and encoded anew."""

    def __init__(self, container: Any, source: Any, stream: Any, start: float, codec: str) -> None:
        import av

        self.container, self.start = container, start
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        self.rate = 48_000
        self.out = container.add_stream(codec, rate=self.rate, layout=layout)
        self.out.bit_rate = 128_000
        form = self.out.codec_context.format or "fltp"
        self.resampler = av.AudioResampler(format=form, layout=layout, rate=self.rate)
        self.frames = source.decode(stream)
        self.position: int | None = None
        self.ended = False

    def until(self, seconds: float) -> None:
        """See `_Track`."""
        while not self.ended and (self.position is None or self.position < seconds * self.rate):
            frame = next(self.frames, None)
            if frame is None:
                self.ended = True
                return
            if self.position is None:
                self.position = round(((frame.time or 0.0) - self.start) * self.rate)
            for part in self.resampler.resample(frame):
                part.pts, part.time_base = self.position, Fraction(1, self.rate)
                self.position += part.samples
                if part.pts >= 0:
                    self.container.mux(self.out.encode(part))

    def finish(self) -> None:
        """See `_Track`."""
        if self.position is not None and self.position > 0:
            self.container.mux(self.out.encode())


_COPIES = {".mp4": ({"aac"}, "mp4"), ".webm": ({"opus", "vorbis"}, "webm")}
"""What each format holds as it is, and the kind of file that it must come from."""


@contextmanager
def _sound_track(container: Any, suffix: str, sound: VideoFile | None) -> Iterator[_Track]:
    if sound is None:
        yield _Track()
        return
    import av

    title = _title(sound, None)
    try:
        source = av.open(io.BytesIO(sound) if isinstance(sound, bytes) else os.fspath(sound))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise CopoError(f"{title}: the sound cannot be opened: {_reason(error)}") from None
    with source:
        if not source.streams.audio:
            yield _Track()
            return
        stream = source.streams.audio[0]
        start = 0.0
        if source.streams.video:
            picture = source.streams.video[0]
            start = float((picture.start_time or 0) * (picture.time_base or 0))
        codecs, kind = _COPIES[suffix]
        if stream.codec_context.name.removeprefix("lib") in codecs and kind in source.format.name:
            yield _Copied(container, source, stream, start)
        else:
            codec = "aac" if suffix == ".mp4" else "libopus"
            yield _Encoded(container, source, stream, start, codec)


# --- inside -----------------------------------------------------------------------------------------------------------


def _av(title: str) -> Any:
    try:
        import av
    except ImportError:
        raise CopoError(f"{title}: videos need the package PyAV: pip install 'copo[video]'") from None
    return av


def _title(file: VideoFile, name: str | None) -> str:
    return name or ("the video" if isinstance(file, bytes) else os.fspath(file))


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0].lower()
