"""Layouts of known data sets: what their file names and tables say, as rows of a manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from copo.errors import CopoError
from copo.preparation.sources import Source

RAVDESS_LICENCE = "CC BY-NC-SA 4.0"
_RAVDESS_FIELDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("modality", ("audio-video", "video", "audio")),
    ("channel", ("speech", "song")),
    ("expression", ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")),
    ("intensity", ("normal", "strong")),
    ("statement", ("kids", "dogs")),
    ("repetition", ("1", "2")),
)
"""The seven two-digit numbers of a RAVDESS file name; the last is the actor (Livingstone and Russo 2018)."""
_RAVDESS_NAME = re.compile(r"^(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)\.\w+$")
_FFHQ_TABLE = "ffhq-dataset-v2.json"


def apply_preset(sources: Sequence[Source], preset: str) -> list[Source]:
    """Add what a data set's layout says to the sources, and leave out what it has twice.

    Raises:
        CopoError: Nothing in the inputs looks like that data set, or its table is damaged.
    """
    if preset == "ravdess":
        return _ravdess(sources)
    if preset == "ffhq":
        return _ffhq(sources)
    return list(sources)


def ravdess_info(name: str) -> dict[str, str] | None:
    """`02-01-06-01-02-01-12.mp4` -> modality, channel, expression, intensity, statement, repetition, person, sequence.

    Returns:
        None where the name is not RAVDESS's.
    """
    match = _RAVDESS_NAME.match(name)
    if match is None:
        return None
    numbers = [int(group) for group in match.groups()]
    if not all(1 <= n <= len(names) for n, (_, names) in zip(numbers, _RAVDESS_FIELDS, strict=False)):
        return None
    info = {field: names[n - 1] for n, (field, names) in zip(numbers, _RAVDESS_FIELDS, strict=False)}
    sequence = "-".join(match.groups()[1:])
    return {
        "set": "ravdess",
        "person": f"actor_{numbers[6]:02d}",
        **info,
        "sequence": sequence,
        "licence": RAVDESS_LICENCE,
    }


def _ravdess(sources: Sequence[Source]) -> list[Source]:
    """Each recording once: the files with and without sound show the same pictures, and the one without is smaller."""
    best: dict[str, Source] = {}
    for source in sources:
        info = ravdess_info(PurePosixPath(source.name).name) if source.is_video else None
        if info is None or info["modality"] == "audio":
            continue
        other = best.get(info["sequence"])
        if other is None or (other.info["modality"] != "video" and info["modality"] == "video"):
            best[info["sequence"]] = replace(source, info={**source.info, **info})
    if not best:
        raise CopoError("--preset ravdess: no video named like 01-01-03-02-01-01-12.mp4 in the inputs")
    return sorted(best.values(), key=lambda s: (s.info["person"], s.info["sequence"]))


def _ffhq(sources: Sequence[Source]) -> list[Source]:
    """Licence, author and the face's place from the table; thumbnails are left out, and so are whole photographs where
    the aligned ones are there."""
    pictures = [s for s in sources if not s.is_video and re.search(r"\d{5}\.\w+$", s.name)]
    pictures = [s for s in pictures if "thumbnails128x128" not in PurePosixPath(s.name).parts]
    aligned = [s for s in pictures if "in-the-wild-images" not in PurePosixPath(s.name).parts]
    chosen = aligned or pictures
    if not chosen:
        raise CopoError("--preset ffhq: no picture named like 00000.png in the inputs")
    return [replace(s, info={**s.info, **_ffhq_info(s)}) for s in chosen]


def _ffhq_info(source: Source) -> dict[str, str]:
    number = str(int(PurePosixPath(source.name).stem))
    info = {
        "set": "ffhq",
        "person": f"ffhq_{int(number):05d}",
        "licence": "CC BY-NC-SA 4.0 (FFHQ); see the photograph's own",
    }
    table = _ffhq_table(source.path) if source.member is None else None
    row = (table or {}).get(number)
    if not isinstance(row, dict):
        return info
    meta: dict[str, Any] = row.get("metadata", {})
    info |= {
        "part": str(row.get("category", "")),
        "licence": str(meta.get("license", info["licence"])),
        "licence_url": str(meta.get("license_url", "")),
        "author": str(meta.get("author", "")),
        "url": str(meta.get("photo_url", "")),
    }
    if "in-the-wild-images" in PurePosixPath(source.name).parts:
        rectangle = row.get("in_the_wild", {}).get("face_rect")
        if isinstance(rectangle, list) and len(rectangle) == 4:
            info["face_box"] = " ".join(f"{float(v):g}" for v in rectangle)
    return info


def _ffhq_table(path: str) -> dict[str, Any] | None:
    for folder in Path(path).parents[:4]:
        if (folder / _FFHQ_TABLE).is_file():
            return _load_table(str(folder / _FFHQ_TABLE))
    return None


@lru_cache(maxsize=1)
def _load_table(path: str) -> dict[str, Any]:
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CopoError(f"--preset ffhq: {path} cannot be read: {error}; get it again") from None
    if not isinstance(table, dict):
        raise CopoError(f"--preset ffhq: {path} is not FFHQ's table; get it again")
    return table
