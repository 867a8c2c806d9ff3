"""How a picture was made, as plain data that the picture carries: enough to make it again.

The recipe stands in the file's metadata (`copo.formats.provenance`) under "recipe". Numbers are the shortest texts
that read back as the same float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import FACTOR_NAMES, Factors, FactorSpec
from copo.formats.pictures import read_metadata
from copo.formats.provenance import Provenance

VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """One picture.

    Attributes:
        factors: (1) what it shows.
        camera: (1) what it was seen by.
        model: Name of the model.
        fingerprint: Of the model's weights.
        seed: That the factors began with, or None.
        psi: Truncation of the latent w.
        blend: What was held still: fields of `copo.field.blending.Blend` as plain data; empty for nothing.
        reference: (1) factors of the frame they were taken from; None: the same with a neutral expression.
        size: Side in pixels, or None for the model's own.
        rays: Rays per side, or None for the model's own.
        sampling: Fields of `copo.field.sampling.SamplingConfig`; empty for the model's own.
    """

    factors: Factors
    camera: Camera
    model: str
    fingerprint: str
    seed: int | None = None
    psi: float = 1.0
    blend: Mapping[str, Any] = field(default_factory=dict)
    reference: Factors | None = None
    size: int | None = None
    rays: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        out: dict[str, Any] = {
            "version": VERSION,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "head": self.factors.spec.head,
            "seed": self.seed,
            "psi": self.psi,
            "factors": _factors_to_dict(self.factors),
            "camera": short_numbers(self.camera.to_eg3d()[0]),
        }
        if self.blend:
            out["blend"] = dict(self.blend)
            if self.reference is not None:
                out["reference"] = _factors_to_dict(self.reference)
        if self.size is not None:
            out["size"] = self.size
        if self.rays is not None:
            out["rays"] = self.rays
        if self.sampling:
            out["sampling"] = dict(self.sampling)
        return out

    def provenance(self, **more: Any) -> Provenance:
        """The AI-generated mark with this recipe, and whatever else shall stand beside it."""
        return Provenance("trainedAlgorithmicMedia", {"recipe": self.to_dict(), **more})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], spec: FactorSpec) -> Recipe:
        """The inverse of `to_dict`.

        Args:
            data: Plain data, perhaps of an untrusted file.
            spec: Factors of the model that shall make the picture.

        Raises:
            CopoError: Something is missing, malformed, or another head's.
        """
        if data.get("version") != VERSION:
            raise CopoError(f"its recipe is of version {data.get('version')}, this program reads version {VERSION}")
        if data.get("head") != spec.head:
            raise CopoError(f"it was made with head {data.get('head')!r}, this model has {spec.head!r}")
        try:
            numbers = torch.tensor([[float(v) for v in data["camera"]]], dtype=torch.float32)
            seed, size, rays = (data.get(name) for name in ("seed", "size", "rays"))
            return cls(
                factors=_factors_from_dict(data["factors"], spec),
                camera=Camera.from_eg3d(numbers),
                model=str(data["model"]),
                fingerprint=str(data["fingerprint"]),
                seed=None if seed is None else int(seed),
                psi=float(data["psi"]),
                blend=dict(data.get("blend", {})),
                reference=_factors_from_dict(data["reference"], spec) if "reference" in data else None,
                size=None if size is None else int(size),
                rays=None if rays is None else int(rays),
                sampling=dict(data.get("sampling", {})),
            )
        except CopoError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CopoError(f"its recipe is damaged ({type(error).__name__}: {error})") from error


def read_recipe(path: str | Path, spec: FactorSpec, fingerprint: str | None = None) -> Recipe:
    """The recipe of a picture that CoPo made.

    Args:
        path: .png, .jpg or .webp.
        spec: Factors of the model that shall make it again.
        fingerprint: Of that model; None takes recipes of any.

    Raises:
        CopoError: The file is no picture, or carries no recipe or one of another model or head.
    """
    data = read_metadata(path).metadata.get("recipe")
    if not isinstance(data, Mapping):
        raise CopoError(f"{path} carries no recipe: only pictures that this program made, unchanged, can be made again")
    if fingerprint is not None and data.get("fingerprint") != fingerprint:
        raise CopoError(
            f"{path} was made with another model, {str(data.get('model'))[:60]}: give that one with --model, and its "
            "portrait file with --portrait where it shows a person of one"
        )
    try:
        return Recipe.from_dict(data, spec)
    except CopoError as error:
        raise CopoError(f"{path}: {error}") from error


def short_numbers(values: Tensor) -> list[float]:
    """float32 numbers as the doubles with the shortest texts that read back as the same float32."""
    return [float(str(value)) for value in values.detach().cpu().float().numpy()]


def _factors_to_dict(factors: Factors) -> dict[str, list[float]]:
    return {name: short_numbers(getattr(factors, name)[0]) for name in FACTOR_NAMES}


def _factors_from_dict(data: Mapping[str, Any], spec: FactorSpec) -> Factors:
    values = {name: np.asarray([float(v) for v in data[name]], np.float32)[None] for name in FACTOR_NAMES}
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise CopoError(f"its recipe is damaged: {name} holds numbers that are not finite")
    return Factors(spec=spec, **{name: torch.from_numpy(value) for name, value in values.items()})
