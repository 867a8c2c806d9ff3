"""`copo interpolate`: from one person to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from copo.cli.film import Film
from copo.cli.options import parse_expression, parse_light, parse_names
from copo.errors import CopoError, unknown_name
from copo.factors import expression_vector
from copo.generation.films import Key, interpolated, steps_between
from copo.generation.job import ModelSource, load_person
from copo.portrait import Portrait

MOVING = ("identity", "expression", "light", "noise")


@dataclass
class Command:
    """Go from one person to the next: a film, or a strip of pictures.

    Example: copo interpolate --seeds 1,41,7 --loop --out between.mp4

    Films are .mp4, .webm, .gif, .webp, or a folder of frames; pictures (.png, .jpg) are a strip (docs/relight.md).
    """

    out: Path
    """File to write; its ending chooses what. No ending makes a folder of PNG frames."""
    seeds: str = ""
    """People in this order: 1,41,7."""
    portrait: tuple[Path, ...] = ()
    """Portrait files (copo invert) or factor files, after the seeds."""
    factor: str = "identity,expression,light,noise"
    """What moves; the rest stays that of the first person."""
    expression: str = ""
    """NAME=VALUE,...: one expression for everybody."""
    light: str | None = None
    """AZIMUTH,ELEVATION of a lamp in degrees, or a panorama (.hdr): one light for everybody."""
    seconds: float = 2.0
    """From one person to the next."""
    loop: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Return to the first person."""
    ease: bool = True
    """Slow down at each person."""
    film: Annotated[Film, tyro.conf.arg(name="")] = field(default_factory=Film)
    model: str | None = None
    """Folder of a model (training run, converted checkpoint) or OWNER/NAME on the hub; the packaged one by default."""
    bfm: Path | None = None
    """Folder with your Basel Face Model, for models that were trained with it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def run(self) -> None:
        """Draw and write."""
        strip = self.film.check(self.out)
        vary = parse_names("--factor", self.factor)
        for name in vary:
            if name not in MOVING:
                raise unknown_name("factor", name, MOVING)
        seeds = _ordered(self.seeds)
        people = len(seeds) + len(self.portrait)
        if people < 2:
            raise CopoError("nothing to go between: give at least two of --seeds and --portrait")
        if strip:
            wanted = self.film.steps or 4 * (people - 1) + 1
            parts = people if self.loop else people - 1
            frames = max(-(-(wanted - (0 if self.loop else 1)) // parts), 1)
        else:
            frames = self.film.frames("--seconds", self.seconds)
        model = ModelSource(self.model, None if self.bfm is None else str(self.bfm), self.device).load()
        keys = self._keys(model, seeds)
        steps = steps_between(people, frames, self.loop, self.ease and not strip)
        shown = interpolated(
            keys,
            steps,
            vary,
            model.camera(self.film.yaw, self.film.pitch),
            psi=self.film.psi,
            size=self.film.size,
            rays=self.film.rays,
            sampling=self.film.sampling(model),
        )
        told = {"seeds": seeds, "portraits": len(self.portrait), "factor": list(vary), "frames": len(steps)}
        self.film.write(self.out, shown, len(steps), {"command": "interpolate", "interpolate": told}, strip)

    def _keys(self, model: Portrait, seeds: Sequence[int]) -> list[Key]:
        keys = [Key(model, factors) for factors in (model.sample(seed=seed) for seed in seeds)]
        for path in self.portrait:
            own, factors, _ = load_person(model, path)
            keys.append(Key(own, factors[0]))
        if self.expression:
            value = expression_vector(model.spec, parse_expression(self.expression))
            keys = [replace(key, factors=key.factors.replace(expression=value)) for key in keys]
        if self.light is not None:
            light = parse_light(self.light)
            keys = [replace(key, factors=key.factors.replace(illumination=light)) for key in keys]
        return keys


def _ordered(text: str) -> list[int]:
    """`1,41,7` -> [1, 41, 7], in this order.

    Raises:
        CopoError: A part is no seed.
    """
    out = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        if not part.isdecimal() or len(part) > 15:
            raise CopoError(f"--seeds {text!r}: {part!r} is no seed; write numbers with commas, for example 1,41,7")
        out.append(int(part))
    return out
