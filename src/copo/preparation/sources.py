"""What there is to prepare: folders, zips, pictures and videos, under names that no machine changes."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from copo.errors import CopoError
from copo.formats.dataset import read_table
from copo.formats.video import VIDEO_SUFFIXES

PICTURE_SUFFIXES = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".gif",
        ".ppm",
        ".pgm",
        ".pnm",
        ".jp2",
        ".j2k",
        ".avif",
        ".heic",
        ".tga",
    }
)
MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Source:
    """A picture or a video file.

    Attributes:
        name: Input's name and the path inside it, with slashes: the same on every machine.
        path: The file on this machine; the zip where `member` is given.
        member: Name inside the zip, or None.
        bytes: Size of the file.
        info: What the input's manifest says of it: set, person, view, expression, licence, ...
    """

    name: str
    path: str
    member: str | None
    bytes: int
    info: dict[str, str] = field(default_factory=dict)

    @property
    def is_video(self) -> bool:
        """Whether it holds frames."""
        return PurePosixPath(self.name).suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Problem:
    """Something that could not even be listed."""

    name: str
    reason: str


@dataclass
class Found:
    """All sources of the inputs, in the order of the inputs and of their names."""

    sources: list[Source] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    ignored: int = 0
    """Files that are neither pictures nor videos."""


def find_sources(inputs: Sequence[Path], exclude: Sequence[str] = ()) -> Found:
    """List the pictures and videos of the inputs.

    Args:
        inputs: Folders (with their subfolders), zips, single pictures or videos.
        exclude: Patterns such as `fairface_crops/*`; a name, or its end after a slash, that matches is left out.

    Raises:
        CopoError: An input does not exist, is of another kind, or there is nothing in any of them.
    """
    found = Found()
    seen: set[Path] = set()
    labels: dict[str, int] = {}
    for given in inputs:
        path = given.resolve()
        if path in seen:
            continue
        seen.add(path)
        label = path.name or "root"
        labels[label] = labels.get(label, 0) + 1
        if labels[label] > 1:
            label = f"{label}~{labels[label]}"
        suffix = path.suffix.lower()
        if path.is_dir():
            _folder(path, label, found)
        elif not path.exists():
            raise CopoError(f"--images {given}: no such file or folder")
        elif suffix == ".zip":
            _archive(path, label, found)
        elif suffix in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
            found.sources.append(Source(label, str(path), None, path.stat().st_size))
        else:
            raise CopoError(f"--images {given}: give a folder, a .zip, a picture or a video")
    found.sources = [s for s in found.sources if not _excluded(s.name, exclude)]
    if not found.sources and not found.problems:
        raise CopoError(f"--images {' '.join(map(str, inputs))}: no pictures or videos in there")
    return found


def group_sources(
    sources: Sequence[Source], share: bool, limit: int, key: Callable[[Source], str | None]
) -> list[tuple[Source, ...]]:
    """Photographs that are worked on together, in the order of their first.

    Args:
        sources: What there is.
        share: Whether photographs of one person share an identity.
        limit: Most photographs in one group; more are split.
        key: Who a photograph shows, or None.
    """
    groups: dict[str, list[Source]] = {}
    for number, source in enumerate(sources):
        person = key(source) if share and not source.is_video else None
        groups.setdefault(person or f"\0{number}", []).append(source)
    return [tuple(group[i : i + limit]) for group in groups.values() for i in range(0, len(group), limit)]


def person_of(source: Source) -> str | None:
    """The set and person of the manifest; None where it says nothing."""
    person = source.info.get("person")
    return f"{source.info.get('set', '')}/{person}" if person else None


def digest(parts: Iterator[str] | Sequence[str]) -> str:
    """A short name that depends on all parts."""
    out = hashlib.sha256()
    for part in parts:
        out.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return out.hexdigest()[:20]


def read_bytes(source: Source) -> bytes:
    """The file.

    Raises:
        CopoError: It is gone, may not be read, or the zip is damaged.
    """
    try:
        if source.member is None:
            return Path(source.path).read_bytes()
        with zipfile.ZipFile(source.path) as archive:
            return archive.read(source.member)
    except OSError as error:
        raise CopoError(f"{source.name}: {(error.strerror or str(error)).lower()}") from None
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CopoError(f"{source.name}: cannot be taken out of the zip: {reason}") from None


# --- inside -----------------------------------------------------------------------------------------------------


def _folder(root: Path, label: str, found: Found) -> None:
    rows = _manifest_of(root)
    files: list[Path] = []

    def fail(error: OSError) -> None:
        place = Path(error.filename or root)
        name = label if place == root else f"{label}/{place.relative_to(root).as_posix()}"
        found.problems.append(Problem(_printable(name), (error.strerror or "cannot be read").lower()))

    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        files += [Path(folder) / name for name in names if not _hidden(name)]
    for path in sorted(files, key=lambda p: p.relative_to(root).parts):
        inner = path.relative_to(root).as_posix()
        if not _wanted(inner, found):
            continue
        name = _printable(f"{label}/{inner}")
        try:
            status = path.stat()
        except OSError as error:
            found.problems.append(Problem(name, (error.strerror or "cannot be read").lower()))
            continue
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
            found.problems.append(Problem(name, "not a regular file"))
            continue
        found.sources.append(Source(name, str(path), None, status.st_size, rows.get(inner, {})))


def _archive(path: Path, label: str, found: Found) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = sorted((e for e in archive.infolist() if not e.is_dir()), key=lambda e: e.filename)
            names = {e.filename for e in entries}
            rows = _rows(archive.read(MANIFEST)) if MANIFEST in names else {}
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise CopoError(f"--images {path}: not a zip, or damaged ({error}); get it again") from None
    for entry in entries:
        if any(_hidden(part) for part in PurePosixPath(entry.filename).parts) or not _wanted(entry.filename, found):
            continue
        info = rows.get(entry.filename, {})
        found.sources.append(Source(f"{label}/{entry.filename}", str(path), entry.filename, entry.file_size, info))


def _wanted(name: str, found: Found) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
        return True
    found.ignored += PurePosixPath(name).name != MANIFEST
    return False


def _manifest_of(root: Path) -> dict[str, dict[str, str]]:
    """Rows by path below `root`, from the manifest in it or in the folder above it."""
    try:
        if (root / MANIFEST).is_file():
            return _rows((root / MANIFEST).read_bytes())
        if (root.parent / MANIFEST).is_file():
            rows = _rows((root.parent / MANIFEST).read_bytes())
            return {k.removeprefix(f"{root.name}/"): v for k, v in rows.items() if k.startswith(f"{root.name}/")}
    except OSError as error:
        raise CopoError(f"--images {root}: its {MANIFEST} cannot be read: {error.strerror}") from None
    return {}


def _rows(data: bytes) -> dict[str, dict[str, str]]:
    out = {}
    for row in read_table(data):
        key = row.pop("path", "") or row.pop("file", "") or row.pop("filename", "")
        if key:
            out[key] = row
    return out


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _excluded(name: str, patterns: Sequence[str]) -> bool:
    parts = name.split("/")
    tails = ["/".join(parts[i:]) for i in range(len(parts))]
    return any(fnmatch.fnmatchcase(tail, pattern) for tail in tails for pattern in patterns)


def _printable(name: str) -> str:
    """File names with bytes that are no UTF-8 can be opened, but not written into a table: escape those bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
