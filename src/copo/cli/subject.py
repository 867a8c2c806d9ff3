"""Options of commands that work on one portrait: which model, and who."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple, cast

import tyro

from copo.cli.options import parse_expression, parse_light
from copo.errors import CopoError
from copo.factors import Factors, expression_vector
from copo.formats.factor_files import load_factors
from copo.formats.pictures import FORMATS
from copo.formats.portrait_file import is_portrait_file
from copo.formats.recipe import read_recipe
from copo.head.bfm import BaselFaceModel
from copo.head.protocol import HeadModel
from copo.portrait import Portrait


class Person(NamedTuple):
    """One portrait and the model that draws it."""

    model: Portrait
    factors: Factors
    seed: int | None


@dataclass
class Subject:
    """Who is shown, and by which model."""

    seed: int | None = None
    """Who it is: a number. 0 if neither this, --portrait nor --from is given."""
    portrait: Path | None = None
    """Portrait file (copo invert) or factor file (.json, .npz, .safetensors, .mat) in place of --seed."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A picture that this program made: the person in it, in place of --seed."""
    expression: str = ""
    """NAME=VALUE,...: ARKit units such as jawOpen, or combinations such as smile."""
    light: str | None = None
    """AZIMUTH,ELEVATION of a lamp in degrees instead of the person's light."""
    model: str | None = None
    """Folder of a model (training run, converted checkpoint) or OWNER/NAME on the hub; the packaged one by default."""
    bfm: Path | None = None
    """Folder with your Basel Face Model, for models that were trained with it and for its expressions."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def load(self) -> Person:
        """The model and the one person in it.

        Raises:
            CopoError: No such model or person, or more than one of --seed, --portrait, --from.
        """
        if sum(value is not None for value in (self.seed, self.portrait, self.from_)) > 1:
            raise CopoError("--seed, --portrait and --from all say who it is: give one of them")
        if self.seed is not None and self.seed < 0:
            raise CopoError(f"--seed {self.seed}: give 0 or more")
        model = Portrait.from_pretrained(self.model, self.device)
        if self.bfm is not None and model.spec.head == "bfm09":
            model = replace(model, given_head=cast(HeadModel, BaselFaceModel.load(self.bfm, model.spec.noise)))
        seed: int | None = None
        if self.portrait is not None:
            model, factors = self._file(model, self.portrait)
        elif self.from_ is not None:
            if self.from_.suffix.lower() not in FORMATS or not self.from_.is_file():
                raise CopoError(f"--from {self.from_}: give a picture (.png, .jpg, .webp) that this program made")
            recipe = read_recipe(self.from_, model.spec)
            factors, seed = recipe.factors, recipe.seed
        else:
            seed = self.seed or 0
            factors = model.sample(seed=seed)
        if self.expression:
            values = parse_expression(self.expression)
            factors = factors.replace(expression=expression_vector(model.spec, values))
        if self.light is not None:
            factors = factors.replace(illumination=parse_light(self.light))
        return Person(model, factors, seed)

    def _file(self, model: Portrait, path: Path) -> tuple[Portrait, Factors]:
        if not path.is_file():
            raise CopoError(f"--portrait {path}: no such file")
        if is_portrait_file(path):
            return model.load_portrait(path)
        factors = load_factors(path, model.spec).factors
        if len(factors) != 1:
            raise CopoError(f"--portrait {path} holds {len(factors)} portraits: save the one you want alone")
        return model, factors
