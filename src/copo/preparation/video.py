"""Frames of the videos among the sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from copo.formats import video
from copo.formats.video import Picture, VideoFile
from copo.preparation.sources import Source, read_bytes


def video_length(source: Source) -> float:
    """Seconds from the first frame to the end of the last; see `copo.formats.video`."""
    return video.video_length(_file(source), source.name)


def video_frames(source: Source, times: Sequence[float]) -> Iterator[tuple[float, Picture]]:
    """The frames that are shown at these times; see `copo.formats.video`."""
    return video.video_frames(_file(source), times, source.name)


def _file(source: Source) -> VideoFile:
    return source.path if source.member is None else read_bytes(source)
