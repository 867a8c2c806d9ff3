"""Frames of videos, through PyAV (an optional extra)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copo.errors import CopoError
from copo.preparation.sources import Source, read_bytes

Picture = NDArray[np.uint8]


def video_length(source: Source) -> float:
    """Seconds from the first frame to the end of the last.

    Raises:
        CopoError: It cannot be opened, or holds no pictures.
    """
    with _opened(source) as (container, stream):
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return container.duration / 1e6
        times = [float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None]
        if not times:
            raise CopoError(f"{source.name}: a video without frames")
        rate = float(stream.average_rate or 25)
        return max(times) - min(times) + 1 / rate


def video_frames(source: Source, times: Sequence[float]) -> Iterator[tuple[float, Picture]]:
    """The frames that are shown at these times.

    Args:
        source: The video.
        times: Ascending, seconds from the first frame.

    Yields:
        Time as asked for, and (H, W, 3) uint8 upright. Times after the last frame are left out, and a damaged part
        ends the video there.

    Raises:
        CopoError: It cannot be opened, or nothing of the wanted part can be decoded.
    """
    with _opened(source) as (container, stream):
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
                raise CopoError(f"{source.name}: the video cannot be decoded: {_reason(error)}") from None
        if not found and times[0] == 0:
            raise CopoError(f"{source.name}: a video without frames")


@contextmanager
def _opened(source: Source) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ImportError:
        raise CopoError(f"{source.name}: videos need the package PyAV: pip install 'copo[video]'") from None
    file: Any = source.path if source.member is None else io.BytesIO(read_bytes(source))
    try:
        container = av.open(file)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise CopoError(f"{source.name}: the video cannot be opened: {_reason(error)}") from None
    with container:
        if not container.streams.video:
            raise CopoError(f"{source.name}: there is no picture in this video")
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
        yield container, stream


def _upright(frame: Any) -> Picture:
    """RGB, turned as the file says (telephones store a rotation)."""
    picture: Picture = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns))


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0].lower()
