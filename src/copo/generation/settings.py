"""What is drawn with each person, and the list of people: plain data that travels to workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from copo.errors import CopoError, unknown_name
from copo.generation.seeds import Seeds
from copo.portrait import MAPS

FACTORS: tuple[str, ...] = ("identity", "expression", "light", "noise", "pose")
"""What may change with the seed."""

PICTURE_FORMATS: tuple[str, ...] = ("png", "webp", "jpg")
FACTOR_SUFFIXES: tuple[str, ...] = (".json", ".npz", ".safetensors", ".mat")
UNIT = 32
"""Portraits of a unit of work."""
FLAT = 5000
"""Larger sets have a folder for every thousand seeds."""


@dataclass(frozen=True)
class DrawSettings:
    """How portraits are drawn. Two runs with the same settings make the same files.

    Attributes:
        vary: Of `FACTORS`, what the seed chooses; the others come from `base_seed`, and pose from `yaw` and `pitch`.
        base_seed: Seed of the factors that do not change.
        expression: Named units instead of drawn ones; empty to draw.
        light: 27 coefficients instead of drawn ones, or None.
        yaw: Degrees, added to the drawn pose.
        pitch: Degrees.
        psi: Truncation of the generator.
        factor_psi: Truncation of the priors, by factor.
        format: Of `PICTURE_FORMATS`.
        quality: Of JPEG and WebP.
        size: Side in pixels; None for the model's own.
        maps: Of `MAPS`, pictures to write beside.
        labels: Whether exact labels are written beside.
        map_size: Rays per side of maps and labels; None for the picture's size.
        min_distance: Least distance of the face to any training face (dlib's descriptor); 0 does not look.
        folders: Whether there is a folder for every thousand seeds.
        person: Portrait file of the person in pictures that are made again, or None.
    """

    vary: tuple[str, ...] = ("identity", "expression", "light", "noise")
    base_seed: int = 0
    expression: Mapping[str, float] = field(default_factory=dict)
    light: tuple[float, ...] | None = None
    yaw: float = 0.0
    pitch: float = 0.0
    psi: float = 1.0
    factor_psi: Mapping[str, float] = field(default_factory=dict)
    format: str = "png"
    quality: int = 95
    size: int | None = None
    maps: tuple[str, ...] = ()
    labels: bool = False
    map_size: int | None = None
    min_distance: float = 0.0
    folders: bool = False
    person: str | None = None

    def __post_init__(self) -> None:
        for name in self.vary:
            if name not in FACTORS:
                raise unknown_name("factor", name, [*FACTORS, "all"])
        for name in self.maps:
            if name not in MAPS:
                raise unknown_name("map", name, MAPS)
        if self.format not in PICTURE_FORMATS:
            raise unknown_name("picture format", self.format, PICTURE_FORMATS)
        if not 1 <= self.quality <= 100:
            raise CopoError(f"--quality {self.quality}: choose 1 to 100")
        if self.size is not None and not 16 <= self.size <= 4096:
            raise CopoError(f"--size {self.size}: choose 16 to 4096 pixels")
        if self.map_size is not None and not 4 <= self.map_size <= 2048:
            raise CopoError(f"--map-size {self.map_size}: choose 4 to 2048")
        if not -180 <= self.yaw <= 180 or not -89 <= self.pitch <= 89:
            raise CopoError(
                f"camera at yaw {self.yaw:g}, pitch {self.pitch:g}: choose -180 to 180 and -89 to 89 degrees"
            )
        if not 0 <= self.psi <= 2:
            raise CopoError(f"--psi {self.psi:g}: choose 0 to 2; 1 does not truncate")
        if not 0 <= self.min_distance < 2:
            raise CopoError(f"--min-distance {self.min_distance:g}: choose 0 to 2; dlib takes 0.6 for the same person")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for generate.json."""
        out = asdict(self)
        out["light"] = None if self.light is None else list(self.light)
        out["vary"], out["maps"] = list(self.vary), list(self.maps)
        return out


@dataclass(frozen=True)
class Item:
    """One picture to make.

    Attributes:
        name: Its file's name without ending, relative to the output folder.
        seed: Its seed, or None.
        file: A portrait file, a factor file, or a picture whose recipe is followed; None for a seed.
        row: Of the portrait within the file.
    """

    name: str
    seed: int | None = None
    file: str | None = None
    row: int = 0


@dataclass(frozen=True)
class Unit:
    """Some pictures, made in one go.

    Attributes:
        id: Names the unit.
        items: What to make; those of one file are together.
    """

    id: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class People:
    """Who is drawn: seeds, then files.

    Attributes:
        seeds: Seeds, or None.
        files: (path, name, rows) each: the rows of a file are portraits of their own.
        folders: See `DrawSettings`.
    """

    seeds: Seeds | None = None
    files: tuple[tuple[str, str, int], ...] = ()
    folders: bool = False

    def __len__(self) -> int:
        return (0 if self.seeds is None else len(self.seeds)) + sum(rows for _, _, rows in self.files)

    def items(self) -> list[Item]:
        """All of them, in order."""
        out = [Item(seed_name(seed, self.folders), seed) for seed in self.seeds or ()]
        for path, name, rows in self.files:
            out += [Item(name if rows == 1 else f"{name}_{row:03d}", None, path, row) for row in range(rows)]
        return out

    def units(self) -> list[Unit]:
        """In pieces of `UNIT` seeds, and a piece for each file."""
        items = self.items()
        count = 0 if self.seeds is None else len(self.seeds)
        out = [Unit(items[i].name, tuple(items[i : min(i + UNIT, count)])) for i in range(0, count, UNIT)]
        start = count
        for _, _, rows in self.files:
            out.append(Unit(items[start].name, tuple(items[start : start + rows])))
            start += rows
        return out


def seed_name(seed: int, folders: bool) -> str:
    """`seed000041`, or `00000/seed000041` with folders."""
    name = f"seed{seed:06d}"
    return f"{seed // 1000:05d}/{name}" if folders else name


def file_people(paths: Sequence[Path], rows: Sequence[int]) -> tuple[tuple[str, str, int], ...]:
    """Files with the names of their pictures.

    Raises:
        CopoError: Two files would make pictures of the same name.
    """
    out: dict[str, tuple[str, str, int]] = {}
    for path, count in zip(paths, rows, strict=True):
        if path.stem in out:
            raise CopoError(f"{path} and {out[path.stem][0]} have the same name: rename one, or give another --out")
        out[path.stem] = (str(path), path.stem, count)
    return tuple(out.values())
