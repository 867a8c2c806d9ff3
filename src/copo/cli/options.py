"""Options that several commands share: how words become expressions, light, cameras, devices."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from copo.errors import CopoError, unknown_name
from copo.formats.environment import SUFFIXES, load_panorama, radiance_of
from copo.illumination import (
    direction_from_angles,
    directional_light,
    illumination_from_radiance,
    normalise_exposure,
)


def parse_expression(text: str) -> dict[str, float]:
    """`jawOpen=0.6,smile=0.8` -> {"jawOpen": 0.6, "smile": 0.8}; an empty text is no expression.

    Raises:
        CopoError: A part is not NAME=NUMBER, or a name stands twice.
    """
    values: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, number = (p.strip() for p in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            raise CopoError(f"--expression {part!r}: write NAME=VALUE, for example jawOpen=0.6,smile=0.8") from None
        if not math.isfinite(value):
            raise CopoError(f"--expression {part!r}: the value must be a finite number")
        if name in values:
            raise CopoError(f"--expression names {name!r} twice: give it once")
        values[name] = value
    return values


def parse_numbers(option: str, text: str, count: int, example: str) -> list[float]:
    """`45,30` -> [45.0, 30.0].

    Raises:
        CopoError: There are not `count` finite numbers.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise CopoError(f"{option} {text!r}: write {count} numbers with commas, for example {example}")
    return numbers


def parse_names(option: str, text: str) -> tuple[str, ...]:
    """`depth,normals` -> ("depth", "normals"), each once; an empty text is none.

    Raises:
        CopoError: A name stands twice.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if names.count(name) > 1:
            raise CopoError(f"{option} names {name!r} twice: give it once")
    return names


def parse_shares(option: str, text: str) -> dict[str, float]:
    """`0.8`, or `identity=0.8,noise=0.9` -> truncation by factor (identity, expression, illumination, noise).

    Raises:
        CopoError: A factor is unknown, or a value is no number from 0 to 2.
    """
    names = ("identity", "expression", "illumination", "noise")
    parts = [p.strip() for p in text.split(",") if p.strip()]
    pairs = [(name, parts[0]) for name in names] if len(parts) == 1 and "=" not in parts[0] else []
    pairs = pairs or [(p.partition("=")[0].strip(), p.partition("=")[2]) for p in parts]
    out: dict[str, float] = {}
    for name, number in pairs:
        name = "illumination" if name == "light" else name
        if name not in names:
            raise unknown_name(f"factor in {option}", name, names)
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 2:
            raise CopoError(f"{option} {text!r}: write a number from 0 to 2, or identity=0.8,noise=0.9")
        out[name] = value
    return out


def parse_light(text: str) -> Tensor:
    """`AZIMUTH,ELEVATION` in degrees -> (27,) illumination of a white lamp with some ambient light.

    Azimuth 0 is in front, 90 is at the right of the frontal picture; elevation 90 is above. The name of a panorama
    (.hdr) gives the light of that place instead, at exposure 1.

    Raises:
        CopoError: It is neither.
    """
    if text.lower().endswith(SUFFIXES):
        return panorama_light(Path(text))
    azimuth, elevation = (math.radians(v) for v in parse_numbers("--light", text, 2, "45,30"))
    return directional_light(direction_from_angles(azimuth, elevation), intensity=1.2, ambient=0.4)


def panorama_light(path: Path) -> Tensor:
    """(27,) the light of a panorama, brought to exposure 1.

    Raises:
        CopoError: The file is missing or no Radiance picture, or nothing shines on the face.
    """
    return normalise_exposure(illumination_from_radiance(radiance_of(load_panorama(path))))


def parse_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:1` -> a device that exists.

    Raises:
        CopoError: The name is unknown or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CopoError(f"--device {name!r}: choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise CopoError(f"--device {name!r}: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CopoError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device
