"""Portrait files: one person as a model sees them, made by inversion of photographs.

A safetensors file with the factors of each photograph, offsets of the latents, what was changed in the generator's
weights, and the fingerprint of the model it belongs to. It holds numbers alone: it cannot run code, and it does not
hold the photographs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import FACTOR_NAMES, Factors, FactorSpec
from copo.formats.atomic import write_bytes

FORMAT, VERSION = "copo-portrait", 1
_HEADER = "copo"
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class WeightDelta:
    """What is added to a weight: a tensor of its shape, or the product of two thin matrices.

    Attributes:
        full: The whole difference, or None.
        left: (O, r), or None; the weight is seen as a matrix (O, everything else).
        right: (r, I), or None.
    """

    full: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None

    def to(self, like: Tensor) -> Tensor:
        """The difference in shape, type and place of a weight.

        Raises:
            ValueError: It does not have the weight's size.
        """
        if self.full is not None:
            out = self.full
        elif self.left is not None and self.right is not None:
            out = self.left.float() @ self.right.float()
        else:
            raise ValueError("neither a whole difference nor its two parts")
        if out.numel() != like.numel():
            raise ValueError(f"{out.numel()} numbers for a weight of {like.numel()}")
        return out.reshape(like.shape).to(like)


@dataclass(frozen=True)
class PortraitFile:
    """One person in one model.

    Attributes:
        factors: (N) factors of the N photographs, on the CPU; shape, albedo and noise are the same in all of them.
        camera: (N) cameras that see the person as the aligned photographs do.
        fingerprint: Of the generator that this file belongs to (`copo.formats.checkpoint.fingerprint`).
        ws_offset: (ws_count, w_dim) added to the latents after the mapping network, or None.
        background_offset: (background_w_dim,) added to the background's latent, or None.
        weights: Changes of the generator's weights by name of the parameter.
        report: Plain data: errors, times, settings.
    """

    factors: Factors
    camera: Camera
    fingerprint: str
    ws_offset: Tensor | None = None
    background_offset: Tensor | None = None
    weights: Mapping[str, WeightDelta] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def person(self) -> Factors:
        """The first photograph's factors: who it is, with the expression and light of that photograph."""
        return self.factors[0]


def save_portrait_file(path: str | Path, portrait: PortraitFile) -> None:
    """Write a portrait file: float32 factors and offsets, float16 weights.

    Args:
        path: A name that ends in .safetensors; made atomically.
        portrait: What to write.

    Raises:
        CopoError: Another suffix, numbers that are not finite or too large for float16, or the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".safetensors":
        raise CopoError(f"portrait file {target.name!r}: end the name in .safetensors")
    tensors = {f"factors.{name}": getattr(portrait.factors, name).float() for name in FACTOR_NAMES}
    tensors |= {"camera.cam2world": portrait.camera.cam2world, "camera.intrinsics": portrait.camera.intrinsics}
    for name, value in (("ws", portrait.ws_offset), ("background", portrait.background_offset)):
        if value is not None:
            tensors[f"offset.{name}"] = value.float()
    for name, delta in portrait.weights.items():
        for part, value in vars(delta).items():
            if value is not None:
                tensors[f"{part}.{name}"] = value.to(torch.float16)
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise CopoError(f"portrait file {target.name}: {name} holds numbers that are not finite; invert again")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": portrait.fingerprint,
        "spec": portrait.factors.spec.to_dict(),
        "report": dict(portrait.report),
    }
    ready = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_bytes(target, save(ready, metadata={_HEADER: json.dumps(header)}))


def is_portrait_file(path: str | Path) -> bool:
    """Whether a file is a safetensors file that says it is a portrait (whatever else may be wrong with it)."""
    try:
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= _LONGEST_HEADER:
                return False
            return f'\\"{FORMAT}\\"'.encode() in file.read(length)
    except OSError:
        return False


def load_portrait_file(path: str | Path) -> PortraitFile:
    """Read a portrait file.

    Raises:
        CopoError: It is missing, damaged, something else, or of another version.
    """
    target = Path(path)
    if not target.is_file():
        raise CopoError(f"portrait file {target} does not exist: make one with copo invert PHOTO --out DIR")
    try:
        with safe_open(str(target), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "null"))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise CopoError(f"{target} is no portrait file: give one that copo invert made")
            if header.get("version") != VERSION:
                raise CopoError(
                    f"portrait file {target}: version {header.get('version')}, this program reads version {VERSION}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _assemble(header, tensors)
    except CopoError as error:
        raise error if str(target) in str(error) else CopoError(f"portrait file {target}: {error}") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CopoError(f"portrait file {target} is truncated or damaged: invert the photograph again") from error


def _assemble(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PortraitFile:
    for name, value in tensors.items():
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise CopoError(f"{name} holds something else than finite numbers: invert the photograph again")
    spec = FactorSpec.from_dict(header["spec"])
    factors = Factors(spec=spec, **{name: tensors[f"factors.{name}"].float() for name in FACTOR_NAMES})
    camera = Camera(tensors["camera.cam2world"].float(), tensors["camera.intrinsics"].float())
    if len(camera) != len(factors) or not len(factors):
        raise CopoError(f"{len(factors)} portraits and {len(camera)} cameras: invert the photograph again")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, weight = name.partition(".")
        if part in ("full", "left", "right"):
            parts.setdefault(weight, {})[part] = value
    return PortraitFile(
        factors=factors,
        camera=camera,
        fingerprint=str(header["fingerprint"]),
        ws_offset=tensors.get("offset.ws"),
        background_offset=tensors.get("offset.background"),
        weights={name: WeightDelta(**delta) for name, delta in parts.items()},
        report=dict(header.get("report") or {}),
    )
