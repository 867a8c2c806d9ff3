"""`copo generate`: portraits by seed, with exact labels where wanted."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from copo.cli.options import parse_expression, parse_light, parse_names, parse_shares
from copo.errors import CopoError
from copo.formats.factor_files import load_factors
from copo.formats.pictures import FORMATS
from copo.formats.portrait_file import is_portrait_file, load_portrait_file
from copo.generation.job import ModelSource
from copo.generation.run import Outcome, generate
from copo.generation.seeds import Seeds
from copo.generation.settings import FACTOR_SUFFIXES, FACTORS, DrawSettings, People, file_people
from copo.work.crew import Crew, parse_shard, torchrun_shard


@dataclass
class Command:
    """Draw portraits by seed into a folder: pictures, a grid, a page; with --labels an exact synthetic data set.

    Example: copo generate --seeds 0-63 --out portraits --expression smile=0.7 --yaw 20

    A run that was stopped goes on with the same command. Pictures carry the AI-generated mark and what makes them
    again: copo generate --from portraits/seed000041.png --out again (docs/generate.md).
    """

    out: Path
    """Folder to write to."""
    seeds: str | None = None
    """Numbers and ranges: 0-63,100."""
    portrait: tuple[Path, ...] = ()
    """Portrait files (copo invert) or factor files (.json, .npz, .safetensors, .mat) beside or instead of seeds."""
    from_: Annotated[tuple[Path, ...], tyro.conf.arg(name="from")] = ()
    """Pictures to make again; --expression, --light, --yaw, --pitch, --psi and --size change what they say. A picture
    of a person from a portrait file needs that file as --portrait."""
    factor: str = "identity,expression,light,noise"
    """What the seed changes: identity, expression, light, noise, pose, or all. The rest is that of --base-seed."""
    base_seed: int | None = None
    """Seed of the factors that do not change; by default the first of --seeds."""
    expression: str = ""
    """NAME=VALUE,...: ARKit units such as jawOpen, or combinations such as smile, instead of drawn expressions."""
    yaw: float = 0.0
    """Camera to the right of the face, degrees."""
    pitch: float = 0.0
    """Camera above the face, degrees."""
    light: str | None = None
    """AZIMUTH,ELEVATION of a lamp in degrees, or a panorama (.hdr), instead of drawn light."""
    psi: float = 1.0
    """Truncation of the generator: below 1 more average, and less controlled."""
    factor_psi: str = "1"
    """Truncation of the factors: one number, or identity=0.8,expression=0.5,illumination=1,noise=0.9. Control stays."""
    format: Literal["png", "webp", "jpg"] = "png"
    """Of the pictures."""
    quality: int = 95
    """Of webp and jpg, 1 to 100."""
    size: int | None = None
    """Side in pixels; the model's own by default."""
    maps: str = ""
    """Also write depth (16-bit, metres), normals, semantics, alpha beside each: depth,normals."""
    labels: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write exact labels: NAME.json (factors, camera, 68 and 478 landmarks), NAME_depth.png, NAME_classes.png."""
    map_size: int | None = None
    """Rays per side of maps and labels; by default the picture's size."""
    dataset: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also pack everything as dataset.zip, which copo train reads; with --labels."""
    min_distance: float = 0.0
    """Leave out faces that are nearer than this to a face of the training set (dlib's distance; 0.6 is one person)."""
    shard: str | None = None
    """I/N: draw one of N parts, for batch schedulers; torchrun's processes share the work by themselves."""
    crew: Annotated[Crew, tyro.conf.arg(name="")] = field(default_factory=Crew)
    model: str | None = None
    """Folder of a model (training run, converted checkpoint) or OWNER/NAME on the hub; the packaged one by default."""
    bfm: Path | None = None
    """Folder with your Basel Face Model, for models that were trained with it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what was written as JSON."""

    def run(self) -> None:
        seeds = Seeds.parse(self.seeds) if self.seeds is not None else None
        settings = self._settings(seeds)
        shard = parse_shard(self.shard) if self.shard else torchrun_shard(os.environ)
        source = ModelSource(self.model, None if self.bfm is None else str(self.bfm), self.device)
        model = source.load()
        files = [*self.from_, *(() if self.from_ else self.portrait)]
        for path in self.from_:
            if path.suffix.lower() not in FORMATS:
                raise CopoError(f"--from {path}: give a picture (.png, .jpg, .webp) that this program made")
            if not path.is_file():
                raise CopoError(f"--from {path}: no such file")
        rows = [1] * len(self.from_) + [] if self.from_ else [portrait_rows(path) for path in self.portrait]
        people = People(seeds, file_people(files, rows))
        outcome = generate(people, settings, self.out, source, self.crew, shard, self.dataset, model)
        print(self._told(outcome, model.name))

    def _settings(self, seeds: Seeds | None) -> DrawSettings:
        if self.from_ and (seeds is not None or len(self.portrait) > 1):
            raise CopoError("--from says who is drawn: leave --seeds out, and give at most one --portrait")
        if not (self.from_ or self.portrait or seeds is not None):
            raise CopoError("nobody to draw: give --seeds 0-63, --portrait FILE or --from PICTURE")
        if self.base_seed is not None and self.base_seed < 0:
            raise CopoError(f"--base-seed {self.base_seed}: give 0 or more")
        vary = FACTORS if self.factor.strip() == "all" else parse_names("--factor", self.factor)
        base = self.base_seed if self.base_seed is not None else seeds[0] if seeds is not None else 0
        if set(vary) >= set(FACTORS) - {"pose"}:
            base = 0  # nothing is taken from it, so that more seeds may join the folder
        light = None if self.light is None else tuple(float(v) for v in parse_light(self.light))
        return DrawSettings(
            vary=vary,
            base_seed=base,
            expression=parse_expression(self.expression),
            light=light,
            yaw=self.yaw,
            pitch=self.pitch,
            psi=self.psi,
            factor_psi=parse_shares("--factor-psi", self.factor_psi),
            format=self.format,
            quality=self.quality,
            size=self.size,
            maps=parse_names("--maps", self.maps),
            labels=self.labels,
            map_size=self.map_size,
            min_distance=self.min_distance,
            person=str(self.portrait[0]) if self.from_ and self.portrait else None,
        )

    def _told(self, outcome: Outcome, model: str) -> str:
        if self.json:
            body = {
                "model": model,
                "pictures": len(outcome.pictures),
                "made": outcome.made,
                "kept": outcome.kept,
                "rejected": list(outcome.rejected),
                "missing": outcome.missing,
                "seconds": round(outcome.seconds, 2),
                "per_second": round(outcome.made / outcome.seconds, 3) if outcome.seconds else 0.0,
                "written": [str(path) for path in (*outcome.written, *outcome.pictures[:1000])],
            }
            return json.dumps(body, indent=2)
        lines = []
        if outcome.made:
            rate = outcome.made / max(outcome.seconds, 1e-9)
            what = "portrait" if outcome.made == 1 else "portraits"
            lines.append(f"{outcome.made} {what} in {outcome.seconds:.1f} s: {rate:.2f} a second")
        if outcome.kept:
            lines.append(f"{outcome.kept} portraits were there before")
        if outcome.rejected:
            lines.append(f"{len(outcome.rejected)} left out: too near to a face of the training set")
        if outcome.missing:
            lines.append(f"{outcome.missing} portraits are left to other shards; the last one writes grid and page")
        lines += [f"wrote {path}" for path in outcome.written]
        return "\n".join(lines)


def portrait_rows(path: Path) -> int:
    """Portraits in a portrait file or a factor file; of a portrait file the first photograph counts.

    Raises:
        CopoError: The file is missing, damaged or of another kind.
    """
    if path.suffix.lower() not in FACTOR_SUFFIXES:
        raise CopoError(
            f"--portrait {path}: give a portrait file of copo invert, or factors ({', '.join(FACTOR_SUFFIXES)})"
        )
    if not path.is_file():
        raise CopoError(f"--portrait {path}: no such file")
    if is_portrait_file(path):
        load_portrait_file(path)
        return 1
    return len(load_factors(path).factors)
