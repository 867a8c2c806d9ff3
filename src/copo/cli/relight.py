"""`copo relight`: one person under other light."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from copo.cli.film import Film
from copo.cli.options import panorama_light, parse_numbers
from copo.cli.subject import Subject
from copo.errors import CopoError
from copo.factors import Factors
from copo.generation.films import Lamp, lamp_orbit, turned_light
from copo.illumination import normalise_exposure
from copo.inversion.photographs import read_photographs


@dataclass
class Command:
    """Show one person under other light: a lamp that goes around, a panorama, or the light of a photograph.

    Example: copo relight --seed 41 --out relit.mp4

    Films (.mp4, .webm, .gif, .webp, or a folder of frames) show the light turning once around the head; pictures (.png,
    .jpg) are a strip of --steps places of the light (docs/relight.md).
    """

    out: Path
    """File to write; its ending chooses what. No ending makes a folder of PNG frames."""
    environment: Path | None = None
    """A panorama in Radiance's .hdr format: the light of that place."""
    like: Path | None = None
    """A photograph of a face: the light on it."""
    face: int | None = None
    """Which face of --like, counted from the left, from 1."""
    elevation: float = 25.0
    """Of the lamp above the level, degrees."""
    intensity: float = 1.2
    """Of the lamp: what a white surface that faces it sends out."""
    ambient: float = 0.3
    """Light from everywhere beside the lamp."""
    color: str = "1,1,1"
    """RED,GREEN,BLUE of the lamp, 1 is full."""
    exposure: float | None = None
    """Brightness of the light on the face before it turns; panoramas and photographs have 1 by default."""
    seconds: float = 4.0
    """Of a film."""
    blend: str = "background"
    """What is held still while the light moves: none, background, hair, both, still, or class names with
    commas."""
    film: Annotated[Film, tyro.conf.arg(name="")] = field(default_factory=Film)
    who: Annotated[Subject, tyro.conf.arg(name="")] = field(default_factory=Subject)

    def run(self) -> None:
        """Draw and write."""
        strip = self.film.check(self.out)
        self._check()
        given = self._given()
        count = (
            (self.film.steps or (1 if given is not None else 8))
            if strip
            else self.film.frames("--seconds", self.seconds)
        )
        person = self.who.load()
        if given is None:
            lamp = Lamp(math.radians(self.elevation), self.intensity, self.ambient, self._colour())
            lights = lamp_orbit(count, lamp, closed=not strip)
        else:
            lights = turned_light(given, count)
        if person.model.spec.illumination != 27:
            raise CopoError(f"model {person.model.name} has no light to change")
        lit = Factors.cat([person.factors] * count).replace(illumination=lights.to(person.factors.illumination))
        frames = person.model.animate(
            person.factors,
            lit,
            person.model.camera(self.film.yaw, self.film.pitch),
            blend=self.blend,
            reference=person.factors,
            psi=self.film.psi,
            size=self.film.size,
            rays=self.film.rays,
            sampling=self.film.sampling(person.model),
        )
        source = self.environment or self.like
        told: dict[str, Any] = {
            "light": "lamp" if source is None else source.name,
            "frames": count,
            "seed": person.seed,
        }
        self.film.write(self.out, frames, count, {"command": "relight", "relight": told}, strip)

    def _check(self) -> None:
        if self.environment is not None and self.like is not None:
            raise CopoError("--environment and --like both say which light: give one of them")
        if self.face is not None and self.like is None:
            raise CopoError("--face chooses a face of --like: give a photograph")
        for name, low, high in (("elevation", -90.0, 90.0), ("intensity", 0.0, 10.0), ("ambient", 0.0, 10.0)):
            if not low <= getattr(self, name) <= high:
                raise CopoError(f"--{name} {getattr(self, name):g}: choose {low:g} to {high:g}")
        if self.exposure is not None and not 0 < self.exposure <= 10:
            raise CopoError(f"--exposure {self.exposure:g}: choose above 0, to 10")

    def _colour(self) -> tuple[float, float, float]:
        red, green, blue = parse_numbers("--color", self.color, 3, "1,0.9,0.8")
        if min(red, green, blue) < 0:
            raise CopoError(f"--color {self.color!r}: light cannot be negative")
        return red, green, blue

    def _given(self) -> Tensor | None:
        """(27,) light of the panorama or the photograph, None for the lamp."""
        if self.environment is not None:
            light = panorama_light(self.environment)
        elif self.like is not None:
            light = read_photographs([self.like], 256, self.face).factors.illumination[0].cpu()
        else:
            return None
        return normalise_exposure(light, self.exposure or 1.0) if torch.isfinite(light).all() else light
