"""Heads, priors and perception from files: the open stack, and the published one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from torch import nn

from copo.config import VaeConfig
from copo.errors import CopoError
from copo.formats.checkpoint import load_checkpoint
from copo.head.bfm import BaselFaceModel
from copo.head.open_head import OpenHead
from copo.head.protocol import HeadModel
from copo.networks.build import load
from copo.networks.vae import Vae
from copo.portrait import packaged_folder
from copo.training.config import TrainingConfig
from copo.training.perception import Deep3DReader, OpenReader, Perception
from copo.training.stages import build_stages
from copo.vision.analyser_file import load_analyser
from copo.vision.arcface import ArcFace
from copo.vision.bisenet import BiSeNetParser
from copo.vision.deep3d import Deep3DReconstructor
from copo.vision.dlib_descriptor import DlibDescriptor
from copo.vision.efficientnet import ImageFeatures

Stack = Literal["open", "published"]
Part = TypeVar("Part", bound=nn.Module)
Report = Callable[[str], None]
USERS: dict[str, tuple[str, ...]] = {
    "reader": (
        "imitation.landmarks", "imitation.dense_landmarks", "imitation.light", "imitation.expression", "imitation.pose",
        "contrastive.illumination_landmarks",
    ),
    "recogniser": (
        "reconstruction.identity", "reconstruction.driven_identity", "imitation.identity", "imitation.spread",
        "contrastive.illumination_identity",
        "contrastive.expression_identity", "contrastive.pose_identity",
    ),
    "parser": ("semantics.labels", "semantics.opacity", "semantics.veil"),
    "features": (
        "reconstruction.perceptual", "contrastive.expression_mouth", "contrastive.illumination_detail",
        "adversarial.critic",
    ),
}  # fmt: skip
"""Which losses need which network."""


def load_head(name: str) -> HeadModel:
    """`open`, or the folder of a Basel Face Model."""
    return OpenHead.load() if name == "open" else BaselFaceModel.load(name)


def load_priors(folders: Sequence[Path]) -> dict[str, Vae]:
    """Coefficient priors from checkpoint folders, by factor. A model's prior of noise codes belongs to its generator.

    Raises:
        CopoError: A folder holds none, or two hold the same.
    """
    out: dict[str, Vae] = {}
    for folder in folders:
        stored = {n: v for n, v in load_checkpoint(folder).networks.items() if isinstance(v.config, VaeConfig)}
        if not stored:
            raise CopoError(f"prior {folder}: this checkpoint holds no prior; make one with copo train prior")
        for name, network in stored.items():
            factor = name.removeprefix("prior_")
            if factor in out:
                raise CopoError(f"prior {folder}: a prior of {factor} was given before")
            prior = load(network.config, network.state, name)
            assert isinstance(prior, Vae)
            out[factor] = prior
    return out


def packaged_priors() -> list[Path]:
    """The packaged model, which holds the priors of the open head; none where it was left out."""
    folder = packaged_folder()
    return [folder] if (folder / "config.json").is_file() else []


def load_perception(
    stack: Stack, head: HeadModel, analyser: Path | None, skip_missing: bool, say: Report
) -> Perception:
    """The networks that look at portraits.

    Args:
        stack: open: analyser, dlib's descriptor, EfficientNet-Lite0. published: Deep3DFaceRecon, ArcFace, BiSeNet (your
            files), EfficientNet-Lite0.
        head: Needed by the published reader.
        analyser: Weights of the analyser; by default the packaged ones.
        skip_missing: Go on without networks whose files are not there, saying so.
        say: Gets a line for each that is missing.

    Raises:
        CopoError: A file is missing or damaged.
    """

    def part(make: Callable[[], Part]) -> Part | None:
        try:
            return make()
        except CopoError as error:
            if not skip_missing:
                raise
            say(f"goes on without it: {error}")
            return None

    features = part(ImageFeatures.load)
    if stack == "published":
        deep3d = part(Deep3DReconstructor.load)
        reader = None if deep3d is None else Deep3DReader(deep3d, head)
        return Perception(reader, part(ArcFace.load), part(BiSeNetParser.load), features)
    both = part(lambda: OpenReader(load_analyser(analyser).network))
    return Perception(both, part(DlibDescriptor.load), both, features)


def without_missing(config: TrainingConfig, perception: Perception) -> tuple[TrainingConfig, list[str]]:
    """The same training without the losses whose network is not there, and their names."""
    gone: list[str] = []
    stages = []
    for stage in config.stages:
        for part, losses in USERS.items():
            if getattr(perception, part) is not None:
                continue
            for loss in losses:
                group, name = loss.split(".")
                weights = getattr(stage, group)
                if weights is not None and getattr(weights, name):
                    stage = replace(stage, **{group: replace(weights, **{name: 0.0})})
                    gone.append(f"{stage.name}: {loss}")
        stages.append(stage)
    config = replace(config, stages=tuple(stages))
    build_stages(config, perception)  # nothing may be left that needs a missing network
    return config, gone
