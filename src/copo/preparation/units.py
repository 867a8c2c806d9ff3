"""Units of work and their results: plain data that any machine can compute and store as one file."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from copo.errors import CopoError
from copo.factors import Factors
from copo.formats.dataset import Portrait, factor_bytes, factors_from_bytes
from copo.preparation.config import PrepareConfig
from copo.preparation.presets import apply_preset
from copo.preparation.sources import Found, Problem, Source, digest, group_sources, person_of
from copo.preparation.video import video_length

_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Unit:
    """What is worked on in one go: one photograph, the photographs of one person, or a piece of a video.

    Attributes:
        id: Follows from names and sizes of the sources, and times.
        sources: Photographs; or one video.
        times: Seconds of the frames to take from the video; empty for photographs.
    """

    id: str
    sources: tuple[Source, ...]
    times: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        """Photographs or frames."""
        return len(self.times) or len(self.sources)

    @classmethod
    def of(cls, sources: Sequence[Source], times: Sequence[float] = ()) -> Unit:
        """A unit with the identifier that follows from its content."""
        parts = [f"{s.name}\n{s.bytes}\n{json.dumps(s.info, sort_keys=True)}" for s in sources]
        return cls(digest([*parts, *(f"{t:.6f}" for t in times)]), tuple(sources), tuple(times))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Unit:
        """The inverse of `to_dict`."""
        return cls(data["id"], tuple(Source(**s) for s in data["sources"]), tuple(data["times"]))


@dataclass(frozen=True)
class Accepted:
    """A photograph that goes into the data set.

    Attributes:
        name: Source, with the time for a frame.
        portrait: Its row.
        mat: The method's .mat, or None.
        mat_picture: PNG in the method's alignment, or None.
    """

    name: str
    portrait: Portrait
    mat: bytes | None = None
    mat_picture: bytes | None = None


@dataclass(frozen=True)
class Rejected:
    """A photograph that does not.

    Attributes:
        name: Source, with the time for a frame.
        reasons: (short name, sentence) each.
        thumbnail: Small JPEG, or None where nothing could be read.
    """

    name: str
    reasons: tuple[tuple[str, str], ...]
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class UnitResult:
    """All photographs of a unit, in its order within each list.

    Attributes:
        unit: Identifier.
        accepted: In the data set.
        rejected: Not in it.
    """

    unit: str
    accepted: tuple[Accepted, ...] = ()
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All units of a preparation, in the order of the data set.

    Attributes:
        units: In order.
        problems: What could not be listed.
        ignored: Files of other kinds.
        config: How they are worked on.
    """

    units: tuple[Unit, ...]
    config: PrepareConfig
    problems: tuple[Problem, ...] = ()
    ignored: int = 0

    @property
    def count(self) -> int:
        """Photographs and frames."""
        return sum(unit.count for unit in self.units)

    @property
    def id(self) -> str:
        """Follows from the units and the choices."""
        return digest([json.dumps(self.config.to_dict(), sort_keys=True), *(unit.id for unit in self.units)])

    def shard(self, index: int, count: int) -> tuple[Unit, ...]:
        """Units of one shard of `count`, 1 <= index <= count: every `count`-th one."""
        return self.units[index - 1 :: count]

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """The inverse of `to_bytes`.

        Raises:
            CopoError: The data are damaged or of another version.
        """
        try:
            body = json.loads(data)
            return cls(
                tuple(Unit.from_dict(u) for u in body["units"]),
                PrepareConfig.from_dict(body["config"]),
                tuple(Problem(**p) for p in body["problems"]),
                body["ignored"],
            )
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, CopoError):
                raise
            raise CopoError(
                "the plan of this work folder is damaged: delete its folder `work`, or use a new --out"
            ) from error


def make_plan(found: Found, config: PrepareConfig) -> Plan:
    """Units for all sources. Videos are opened to learn their length; one that cannot be is a problem, not an error."""
    sources = apply_preset(found.sources, config.preset)
    problems = list(found.problems)
    units: list[Unit] = []
    for group in group_sources(sources, config.share_identity, config.group_limit, person_of):
        if not group[0].is_video:
            units.append(Unit.of(group))
            continue
        try:
            times = frame_times(video_length(group[0]), config)
        except CopoError as error:
            problems.append(Problem(group[0].name, str(error).removeprefix(f"{group[0].name}: ")))
            continue
        pieces: dict[int, list[float]] = {}
        for time in times:
            pieces.setdefault(int(time // config.chunk_seconds), []).append(time)
        units += [Unit.of(group, piece) for piece in pieces.values()]
    return Plan(tuple(units), config, tuple(problems), found.ignored)


def frame_times(seconds: float, config: PrepareConfig) -> list[float]:
    """Times of the frames to take from a video of this length."""
    count = max(math.ceil(seconds * config.frames_per_second - 1e-6), 1)
    times = [round(k / config.frames_per_second, 6) for k in range(count)]
    if config.max_frames and len(times) > config.max_frames:
        times = [times[round(i)] for i in np.linspace(0, len(times) - 1, config.max_frames)]
    return times


# --- results as files -------------------------------------------------------------------------------------------


@dataclass
class _Pack:
    """Members of the file that is being put together."""

    members: dict[str, bytes] = field(default_factory=dict)

    def put(self, name: str, data: bytes | None) -> str | None:
        if data is not None:
            self.members[name] = data
        return None if data is None else name


def result_to_bytes(result: UnitResult) -> bytes:
    """A result as the content of one file; the same result gives the same bytes."""
    pack = _Pack()
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    factors: list[Factors] = []
    accepted = []
    for i, item in enumerate(result.accepted):
        p = item.portrait
        for name in ("points478", "points68"):
            if getattr(p, name) is not None:
                arrays[f"{name}_{i}"] = np.ascontiguousarray(getattr(p, name), np.float32)
        arrays[f"camera_{i}"] = np.asarray(p.camera, np.float32)
        factors += [] if p.factors is None else [p.factors]
        accepted.append(
            {
                "name": item.name,
                "suffix": p.suffix,
                "manifest": dict(p.manifest),
                "fitted": p.factors is not None,
                "picture": pack.put(f"{i}{p.suffix}", p.picture),
                "labels": pack.put(f"{i}.seg", p.labels),
                "mat": pack.put(f"{i}.mat", item.mat),
                "mat_picture": pack.put(f"{i}.mat.png", item.mat_picture),
            }
        )
    rejected = [
        {"name": r.name, "reasons": r.reasons, "thumbnail": pack.put(f"r{i}.jpg", r.thumbnail)}
        for i, r in enumerate(result.rejected)
    ]
    pack.put("unit.json", json.dumps({"unit": result.unit, "accepted": accepted, "rejected": rejected}).encode())
    if arrays:
        pack.put("arrays.safetensors", safetensors.numpy.save(arrays))
    if factors:
        pack.put("factors.safetensors", factor_bytes(Factors.cat(factors)))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in pack.members.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return out.getvalue()


def result_from_bytes(data: bytes) -> UnitResult:
    """The inverse of `result_to_bytes`.

    Raises:
        CopoError: The file is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        body = json.loads(members["unit.json"])
        arrays = safetensors.numpy.load(members["arrays.safetensors"]) if "arrays.safetensors" in members else {}
        factors = factors_from_bytes(members["factors.safetensors"]) if "factors.safetensors" in members else None
        accepted, row = [], 0
        for i, item in enumerate(body["accepted"]):
            mine = None
            if item["fitted"] and factors is not None:
                mine, row = factors[row], row + 1
            portrait = Portrait(
                picture=members[item["picture"]],
                suffix=item["suffix"],
                camera=arrays[f"camera_{i}"],
                factors=mine,
                labels=members[item["labels"]] if item["labels"] else None,
                points478=arrays.get(f"points478_{i}"),
                points68=arrays.get(f"points68_{i}"),
                manifest=item["manifest"],
            )
            mat = members[item["mat"]] if item["mat"] else None
            accepted.append(Accepted(item["name"], portrait, mat, members[item["mat_picture"]] if mat else None))
        rejected = [
            Rejected(
                r["name"], tuple((a, b) for a, b in r["reasons"]), members[r["thumbnail"]] if r["thumbnail"] else None
            )
            for r in body["rejected"]
        ]
        return UnitResult(body["unit"], tuple(accepted), tuple(rejected))
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError, OSError, SafetensorError) as error:
        raise CopoError(
            f"a result in the work folder is damaged ({error}): delete the folder `work` and run again"
        ) from error
