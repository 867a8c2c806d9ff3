"""`copo evaluate`: is it a good portrait, is it three-dimensional, does each control do its work and nothing else."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from copo.errors import CopoError
from copo.evaluation.instruments import InstrumentFiles, Looker
from copo.evaluation.metric import chosen_metrics, every_metric
from copo.evaluation.plans import Counts
from copo.evaluation.run import Evaluation
from copo.evaluation.sources import (
    HeadSource,
    PictureFolder,
    PortraitSource,
    is_checkpoint,
    portrait_source,
)
from copo.formats.dataset import PortraitDataset
from copo.head.open_head import OpenHead
from copo.head.protocol import HeadModel
from copo.portrait import SNAPSHOT, Portrait
from copo.training.distributed import Processes
from copo.training.stacks import load_head

OPEN_HEAD = "open_head"
"""Model name for which the head itself is measured: what the instruments say of perfect control."""


@dataclass
class Command:
    """Measure a portrait model (docs/metrics.md): quality, control, three dimensions, blending, privacy.

    Example: copo evaluate runs/portrait --data set.zip --metrics kid_efficientnet,pose --out figures

    The same command goes on where it was stopped. `torchrun --nproc-per-node N -m copo evaluate ...` shares the work.
    """

    model: Annotated[str | None, tyro.conf.Positional] = None
    """Model folder, training run, or folder of pictures; `open_head` measures the head's own renders. By default the
    packaged model."""
    data: Path | None = None
    """Data set made by copo prepare (.zip): photographs to compare with, and cameras."""
    metrics: str = "all"
    """Names with commas, or all; --list shows them."""
    out: Path | None = None
    """Folder for figures and report."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Some hundred pictures and the metrics that make sense with them: minutes on two CPU cores."""
    samples: int | None = None
    """Random portraits, 2000 by default; the other sets are scaled in proportion."""
    psi: float = 1.0
    """Truncation. Figures are meant without (1)."""
    max_yaw: float = 180.0
    """Compare quality with photographs up to this yaw only (degrees), and draw cameras from these."""
    blend: str = "still"
    """What is held still where blending is measured: still, both, hair, background, or class names with commas."""
    conditioning: Literal["auto", "frontal", "camera"] = "auto"
    """Pose that the planes are conditioned on; auto is what the model's notes say, else frontal."""
    head: str = "open"
    """open (the model's own where it brings one), an open_head.safetensors, or the folder of your Basel Face Model."""
    device: str = "auto"
    """auto, cpu or cuda."""
    workers: int | None = None
    """Processes for MediaPipe; by default one for each CPU core."""
    mediapipe: Path | None = None
    """MediaPipe's .task file; by default the fetched one."""
    dlib: Path | None = None
    """dlib's recogniser (.dat, or face-api's weights as .npz); by default the installed one."""
    efficientnet: Path | None = None
    """EfficientNet-Lite0's weights; by default the installed ones."""
    inception: Path | None = None
    """Inception weights for published FID and KID; by default the fetched ones."""
    analyser: Path | None = None
    """Weights of the analyser; by default the packaged ones."""
    render_only: Path | None = None
    """Only render the pictures that the metrics need, into this folder, to be measured on another machine."""
    pictures: Path | None = None
    """Measure the pictures that --render-only made, instead of a model."""
    picture_quality: int = 100
    """100 stores pictures without loss; below, as JPEG of that quality (95 travels light)."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the metrics and stop."""

    def run(self) -> None:
        """Render, look, measure, report."""
        if self.list:
            for metric in every_metric():
                needs = sorted({i for i, _ in metric.instruments} | ({"data"} if metric.data else set()))
                print(
                    f"{metric.name:<22}{'quick  ' if metric.quick else '       '}{metric.title}"
                    f"{' [' + ', '.join(needs) + ']' if needs else ''}"
                )
            return
        self._check()
        processes = Processes.start(self.device)
        try:
            self._evaluate(processes)
        finally:
            processes.close()

    def _check(self) -> None:
        if self.render_only is None and self.out is None:
            raise CopoError("--out is missing: give a folder for figures and report")
        if self.pictures is not None and (self.model is not None or self.render_only is not None):
            raise CopoError("--pictures measures what was rendered before: give neither a model nor --render-only")
        if self.samples is not None and self.samples < 1:
            raise CopoError(f"--samples {self.samples}: give at least 1")
        if not 1 <= self.picture_quality <= 100:
            raise CopoError(f"--picture-quality {self.picture_quality}: give 1 to 100")
        if self.workers is not None and self.workers < 1:
            raise CopoError(f"--workers {self.workers}: give at least 1")
        if not 0 < self.max_yaw <= 180:
            raise CopoError(f"--max-yaw {self.max_yaw:g}: give degrees above 0, to 180")

    def _evaluate(self, processes: Processes) -> None:
        say = print if processes.main else _silent
        metrics = chosen_metrics(self.metrics, self.quick)
        counts = Counts.quick() if self.quick else Counts.scaled(self.samples) if self.samples else Counts()
        if self.quick and self.samples:
            counts = replace(counts, samples=self.samples)
        data = None if self.data is None else PortraitDataset(self.data)
        head: HeadModel = OpenHead.load(self.head) if self.head.endswith(".safetensors") else load_head(self.head)
        if isinstance(head, torch.nn.Module):
            head.to(processes.device)
        source, folder = self._source(head, data, processes)
        files = InstrumentFiles(self.mediapipe, self.dlib, self.efficientnet, self.inception, self.analyser)
        workers = self.workers or max((os.cpu_count() or 1) // processes.world, 1)
        own = source.head if source is not None else head
        out = self.out or self.render_only
        assert out is not None
        evaluation = Evaluation(
            metrics,
            counts,
            self.render_only or self.pictures or out / "sets",
            out,
            Looker(files, processes.device, workers, say),
            processes,
            source,
            folder,
            data,
            own,
            self.blend,
            self.picture_quality,
            self.max_yaw,
            strict=self.metrics != "all",
            say=say,
        )
        if self.render_only is not None:
            if source is None:
                raise CopoError("--render-only needs a model")
            evaluation.leave_out()
            for name, reason in evaluation.skipped.items():
                say(f"{name}: skipped, {reason}")
            evaluation.render()
            say(
                f"wrote {self.render_only}{os.sep}; go on with copo evaluate --pictures {self.render_only} --out FOLDER"
            )
            return
        evaluation.run()
        say(f"wrote {out / 'report.html'} and report.md")

    def _source(
        self, head: HeadModel, data: PortraitDataset | None, processes: Processes
    ) -> tuple[PortraitSource | None, PictureFolder | None]:
        if self.pictures is not None:
            return None, None
        if self.model == OPEN_HEAD:
            return HeadSource(head, data=data, device=processes.device), None
        folder = None if self.model is None else Path(self.model)
        if (
            folder is not None
            and folder.is_dir()
            and not is_checkpoint(folder)
            and not is_checkpoint(folder / SNAPSHOT)
        ):
            return None, PictureFolder(folder)
        given = None if self.head == "open" else head
        model = Portrait.from_pretrained(self.model, processes.device, given)
        conditioning = None if self.conditioning == "auto" else self.conditioning
        return portrait_source(model, given, data, self.psi, conditioning), None


def _silent(_: str) -> None:
    """Processes other than the main one say nothing."""
