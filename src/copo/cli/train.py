"""`copo train`: portrait models and the priors of their factors."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from copo.cli.options import parse_device
from copo.config import GeneratorConfig
from copo.errors import CopoError
from copo.evaluation.sources import frontal_camera
from copo.formats.atomic import write_bytes
from copo.formats.dataset import PortraitDataset
from copo.networks.build import load, load_light_prior, load_noise_prior
from copo.networks.conditional_priors import balance
from copo.portrait import Portrait as PortraitModel
from copo.portrait import with_noise
from copo.training.checkpoints import latest_state, load_state, pack_state
from copo.training.config import Acceleration, Precision, TrainingConfig, training_preset
from copo.training.curves import read_expressions
from copo.training.data import TrainingSet
from copo.training.distributed import Processes
from copo.training.loop import DRAWN, LIGHT_PRIOR, NOISE_PRIOR, OPTIONS_FILE, Ingredients, Trainer, needs_labels
from copo.training.plots import curves_svg, read_curves
from copo.training.prior import FACTORS, factor_rows, prior_config, save_prior, train_prior
from copo.training.release import translate
from copo.training.settings import with_settings
from copo.training.stacks import Stack, load_head, load_perception, load_priors, packaged_priors, without_missing

LOST_WORDS = ("gloo", "Gloo", "NCCL", "nccl", "Connection", "peer", "process group")
"""What PyTorch says when another process is gone."""


@dataclass
class Portrait:
    """Train a portrait model through all its stages (docs/training.md).

    Example: torchrun --nproc-per-node 4 -m copo train portrait --config portrait_256 --data set.zip --out run

    The same command goes on with a run that was stopped.
    """

    data: Path
    """Data set made by copo prepare (.zip)."""
    out: Path
    """Run folder."""
    config: Literal["portrait_256", "ffhq_512", "tiny"] = "portrait_256"
    """Sizes, stages and weights to begin with."""
    set: tuple[str, ...] = ()
    """Changes of single settings, such as optimiser.generator_lr=0.001 or stages.driving.kimg=300."""
    head: str = "open"
    """open, or the folder of your Basel Face Model."""
    stack: Stack = "open"
    """Networks that look at portraits: open, or published (Deep3DFaceRecon, ArcFace, BiSeNet: your files)."""
    analyser: Path | None = None
    """Weights of the analyser; by default the packaged ones."""
    skip_missing: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on without networks whose files are not there, and without the losses that need them."""
    priors: tuple[Path, ...] = ()
    """Folders made by copo train prior; by default the packaged ones of the open head, none for other heads."""
    recombine: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """No priors: identity, expression and light are each taken from a random photograph."""
    kimg: float | None = None
    """Scale all stages so that they are so many thousand photographs together; endless ones are cut to fit."""
    max_minutes: float = math.inf
    """Save and stop after this time."""
    batch: int | None = None
    """Photographs a step and process."""
    precision: Precision | None = None
    """Type of activations."""
    acceleration: Acceleration | None = None
    """none, compile (torch.compile of each network), or graphs (whole steps as CUDA graphs)."""
    device: str = "auto"
    """auto, cpu or cuda."""
    shard_mb: float | None = None
    """Largest file of a checkpoint, MiB."""
    seed: int | None = None
    """Of everything random."""
    warm_start: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Reconstruct photographs first (portrait_256 does so anyway; not in the paper)."""
    warmup1: int | None = None
    """Published option: steps until imitation joins."""
    warmup2: int | None = None
    """Published option: step at which semantics join."""
    second: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Published option: the disentanglement stage alone."""
    set_step: int = 0
    """Published option: the step to begin with."""

    def run(self) -> None:
        """Train; what is told comes from the main process."""
        if not self.max_minutes >= 0:
            raise CopoError(f"--max-minutes {self.max_minutes}: give 0 or more")
        processes = Processes.start(self.device)
        try:
            self._train(processes)
        except RuntimeError as error:
            if processes.world == 1 or not any(word in str(error) for word in LOST_WORDS):
                raise
            raise CopoError(
                "another process of this training stopped: see its message, then start the same command again, which "
                f"goes on from the last checkpoint ({str(error).splitlines()[0][:120]})"
            ) from error
        finally:
            processes.close()

    def _train(self, processes: Processes) -> None:
        say = print if processes.main else _silent
        config, start = self._configured(processes)
        head = load_head(self.head)
        perception = load_perception(self.stack, head, self.analyser, self.skip_missing, say)
        if self.skip_missing:
            config, gone = without_missing(config, perception)
            for name in gone:
                say(f"without the loss {name}")
        data = TrainingSet(PortraitDataset(self.data), head.spec, config.run.test_share, needs_labels(config))
        ingredients = Ingredients(data, head, perception, load_priors(self._priors()))
        Trainer(config, ingredients, self.out, processes, start_images=start).run(self.max_minutes)

    def _priors(self) -> tuple[Path, ...]:
        if self.recombine and self.priors:
            raise CopoError("--recombine and --priors exclude each other: leave one out")
        return () if self.recombine else _given_or_packaged(self.priors, self.head)

    def _configured(self, processes: Processes) -> tuple[TrainingConfig, int]:
        config = training_preset(self.config)
        if self.batch is not None:
            config = replace(config, batch=self.batch)
        if self.precision is not None:
            config = replace(config, precision=self.precision)
        if self.acceleration is not None:
            config = replace(config, acceleration=self.acceleration)
        run = config.run
        run = run if self.shard_mb is None else replace(run, shard_mb=self.shard_mb)
        run = run if self.seed is None else replace(run, seed=self.seed)
        config, start = translate(
            replace(config, run=run), processes.world, self.warmup1, self.warmup2, self.second, self.set_step,
            self.warm_start,
        )  # fmt: skip
        config = with_settings(config, self.set)
        return (config if self.kimg is None else _scaled(config, self.kimg)), start


@dataclass
class Prior:
    """Train the prior of identity, expression or light (docs/training.md).

    Example: copo train prior --factor exp --data set.zip --out priors/expression
    """

    factor: Literal["id", "exp", "light"]
    """Identity (shape and albedo), expression, or light."""
    data: tuple[Path, ...]
    """Data sets made by copo prepare (.zip), one or several of one head model."""
    out: Path
    """Folder for the prior, its report and a sheet of sampled heads."""
    curves: tuple[Path, ...] = ()
    """For exp: animation curves too (LiveLink Face .csv, factor files, .mat sequences or folders of them)."""
    head: str = "open"
    """open, or the folder of your Basel Face Model."""
    steps: int | None = None
    """Steps; published by default (14,000, 20,000, 17,000)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Of everything random."""

    def run(self) -> None:
        """Train, measure, write."""
        factor = FACTORS[self.factor]
        if self.curves and factor != "expression":
            raise CopoError("--curves are expressions: use them with --factor exp")
        if self.steps is not None and self.steps < 1:
            raise CopoError(f"--steps {self.steps}: give at least 1")
        head = load_head(self.head)
        spec = head.spec
        rows = []
        for path in self.data:
            dataset = PortraitDataset(path)
            TrainingSet(dataset, spec, 0.0, needs_labels=False)  # refuses another head's coefficients
            assert dataset.factors is not None
            rows.append(factor_rows(dataset.factors, factor, dataset.people()))
        rows += [read_expressions(path, spec) for path in self.curves]
        config = prior_config(factor, spec, self.steps, self.seed)
        prior, report = train_prior(torch.cat(rows), config, parse_device(self.device), print)
        save_prior(self.out, prior, config, report, spec, head)
        print(
            f"{factor}: error {report.error:.3f} of {report.spread:.3f}, Frechet distance {report.frechet:.3f} "
            f"(two halves of the real ones: {report.frechet_halves:.3f}); wrote {self.out}{os.sep}"
        )


@dataclass
class Pack:
    """Write a small copy of a run's last checkpoint, to go on from on another machine (docs/training.md).

    Example: copo train pack --run run --out carried/run --shard-mb 15
    """

    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    """Run folder."""
    out: Path
    """Run folder to write; copo train portrait --out goes on from it."""
    shard_mb: float = 512.0
    """Largest file, MiB."""

    def run(self) -> None:
        """Pack."""
        folder = _last_state(self.run_folder)
        packed = pack_state(folder, self.out, self.shard_mb)
        size = sum(f.stat().st_size for f in packed.iterdir())
        print(f"{packed}: {size / 2**20:.1f} MiB in {len(list(packed.iterdir()))} files")


@dataclass
class Snapshot:
    """Write the averaged generator of a run's last checkpoint, with priors and camera, as a model for everyone.

    Example: copo train snapshot --run run --data set.zip --out model
    """

    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    """Run folder."""
    out: Path
    """Model folder to write; every command takes it as --model."""
    data: Path | None = None
    """Data set whose portraits from the front give the camera; the method's camera without."""
    head: str = "open"
    """As in training."""
    priors: tuple[Path, ...] = ()
    """As in training."""
    code_power: float = 0.75
    """Noise codes are as frequent as their people's photographs to this power. In training it is 1; with less, people
    of whom there are many photographs lend their hair and clothes to fewer."""

    def run(self) -> None:
        """Write."""
        if not 0 <= self.code_power <= 1:
            raise CopoError(f"--code-power {self.code_power:g}: give a number from 0 (all alike) to 1 (as photographs)")
        folder = _last_state(self.run_folder)
        state, head = load_state(folder), load_head(self.head)
        config = GeneratorConfig.from_dict(state.config["generator"])
        generator = load(config, state.part("average/"), f"checkpoint {folder}")
        priors = load_priors(_given_or_packaged(self.priors, self.head))
        notes = {"training": f"{state.progress['images'] / 1000:.3f} kimg"}
        options = self.run_folder / OPTIONS_FILE
        if options.is_file():
            notes["conditioning"] = json.loads(options.read_text())["config"]["condition"]["pose"]
        camera = frontal_camera(None if self.data is None else PortraitDataset(self.data))
        noise, light = state.part(f"{NOISE_PRIOR}/"), state.part(f"{LIGHT_PRIOR}/")
        model = PortraitModel(
            generator, with_noise(head.spec, config.noise), head, priors, camera, notes, self.out.name,
            light_prior=load_light_prior(light) if light else None,
        )  # fmt: skip
        if noise:
            fitting = load_noise_prior(noise)
            photographs = torch.bincount(fitting.owners.long(), minlength=len(fitting.codes))
            people = model.sample(range(DRAWN)).to_vector()[:, model.spec.slices["identity"]]
            balance(fitting, photographs.double() ** self.code_power, people)
            model.noise_prior = fitting
        print(f"wrote {model.save_pretrained(self.out)}: {notes['training']}")


@dataclass
class Curves:
    """Draw all statistics of a run over the photographs shown, as one SVG picture.

    Example: copo train curves --run run --out curves.svg
    """

    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    """Run folder."""
    out: Path
    """File to write."""

    def run(self) -> None:
        """Draw."""
        if self.out.suffix.lower() != ".svg":
            raise CopoError(f"--out {self.out}: curves are written as .svg")
        title = f"{self.run_folder.resolve().name}: mean of each statistic between two lines of its record"
        write_bytes(self.out, curves_svg(read_curves(self.run_folder), title).encode())
        print(f"wrote {self.out}")


@dataclass
class Command:
    """Train a portrait model, or the prior of one of its factors; pack a run to go on elsewhere, write its model, or
    draw its curves."""

    what: Annotated[
        Annotated[Portrait, tyro.conf.subcommand("portrait")]
        | Annotated[Prior, tyro.conf.subcommand("prior")]
        | Annotated[Pack, tyro.conf.subcommand("pack")]
        | Annotated[Snapshot, tyro.conf.subcommand("snapshot")]
        | Annotated[Curves, tyro.conf.subcommand("curves")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        """Do what was chosen."""
        self.what.run()


def _last_state(run: Path) -> Path:
    """The newest checkpoint of a run folder."""
    folder = latest_state(run)
    if folder is None:
        raise CopoError(f"run {run}: there is no checkpoint in it")
    return folder


def _given_or_packaged(priors: tuple[Path, ...], head: str) -> tuple[Path, ...]:
    """Folders of priors: those that were given, else the packaged ones of the open head."""
    return tuple(packaged_priors()) if head == "open" and not priors else priors


def _silent(_: str) -> None:
    """Processes other than the main one say nothing."""


def _scaled(config: TrainingConfig, kimg: float) -> TrainingConfig:
    """All stages together of a length."""
    if not kimg > 0:
        raise CopoError(f"--kimg {kimg:g}: give a number above 0")
    finite = [s.kimg for s in config.stages if not math.isinf(s.kimg)]
    if len(finite) == len(config.stages):
        stages = tuple(replace(s, kimg=s.kimg * kimg / sum(finite)) for s in config.stages)
        return replace(config, stages=stages)
    rest, stages_out = kimg, []
    for stage in config.stages:
        if rest > 0:
            stages_out.append(replace(stage, kimg=min(stage.kimg, rest)))
            rest -= stage.kimg
    return replace(config, stages=tuple(stages_out))
