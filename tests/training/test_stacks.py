"""One step of the stages that look at pictures, with the real networks of both stacks and generated weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.head.test_bfm import face_model
from tests.training.samples import open_head, tiny_config, write_dataset
from torch import nn

from copo.head.bfm import BaselFaceModel
from copo.head.open_head import OpenHead
from copo.head.protocol import HeadModel
from copo.networks.vae import Vae
from copo.training.config import RunConfig, StageConfig, TrainingConfig, published_stages
from copo.training.data import TrainingSet
from copo.training.distributed import Processes
from copo.training.loop import Ingredients, Trainer
from copo.training.perception import Deep3DReader, OpenReader, Perception
from copo.training.stacks import load_priors, packaged_priors
from copo.vision.arcface import ArcFace
from copo.vision.bisenet import BiSeNetParser
from copo.vision.deep3d import Deep3DReconstructor
from copo.vision.dlib_descriptor import DlibDescriptor
from copo.vision.efficientnet import ImageFeatures
from copo.vision.networks.analyser import AnalyserConfig, AnalyserNetwork
from copo.vision.networks.bisenet import BiSeNet
from copo.vision.networks.deep3d import Deep3DNet
from copo.vision.networks.dlib_resnet import DlibResNet
from copo.vision.networks.efficientnet_lite import EfficientNetLite0
from copo.vision.networks.iresnet import IResNet50

CPU = Processes(torch.device("cpu"))
BATCH = 2


def one_step(tmp_path: Path, head: HeadModel, perception: Perception, stage: StageConfig, **changes: object) -> Trainer:
    """Make a data set of this head, train one step, check that it counted."""
    data = TrainingSet(write_dataset(tmp_path / "d.zip", head, people=2, views=1), head.spec, 0.0, True)
    config: TrainingConfig = tiny_config(
        stages=(replace(stage, kimg=BATCH / 1000),), batch=BATCH,
        run=RunConfig(tick_kimg=1, cache_gb=0.1, workers=1, sheet_people=1), **changes,
    )  # fmt: skip
    run = Trainer(config, Ingredients(data, head, perception), tmp_path / "run", CPU)
    before = run.networks.generator.synthesis.const.detach().clone()
    run._show = lambda: None  # type: ignore[method-assign]  # forty renders of the full head; sheets have their own test
    assert run.run().steps == 1
    assert not torch.equal(before, run.networks.generator.synthesis.const)
    taken = run.stats.take(CPU)
    assert taken["Skipped/generator"]["mean"] == 0 and taken["Gradient/generator"]["mean"] > 0
    assert all(abs(v["mean"]) < 1e6 for v in taken.values())
    return run


def published(head: BaselFaceModel) -> Perception:
    torch.manual_seed(0)
    network = Deep3DNet().eval()
    for layer in network.final_layers:
        nn.init.normal_(layer.weight, std=0.002)  # as the published weights: coefficients of a plausible size
    return Perception(
        reader=Deep3DReader(Deep3DReconstructor(network), head),
        recogniser=ArcFace(IResNet50().eval()),
        parser=BiSeNetParser(BiSeNet().eval()),
        features=ImageFeatures(EfficientNetLite0().eval()),
    )


@pytest.mark.parametrize("name", ["imitation", "semantics", "disentanglement"])
def test_published_stack(tmp_path: Path, name: str) -> None:
    """Basel-type head, Deep3DFaceRecon, ArcFace, BiSeNet; light before the camera, planes told the camera's pose."""
    stages = [*published_stages(1, 2, False, BATCH), *published_stages(1, 2, True, BATCH)]
    stage = next(s for s in stages if s.name == name)
    if stage.contrastive is not None:
        stage = replace(stage, contrastive=replace(stage.contrastive, pairs=1))
    head = BaselFaceModel(face_model(), noise=8)
    one_step(tmp_path, head, published(head), stage, light_frame="camera")


def test_open_stack(tmp_path: Path) -> None:
    """Open head, analyser, dlib's descriptor, EfficientNet-Lite0, in the last stage, which has all losses and pairs."""
    torch.manual_seed(0)
    reader = OpenReader(AnalyserNetwork(AnalyserConfig(size=64)).eval())
    looks = Perception(reader, DlibDescriptor(DlibResNet().eval()), reader, ImageFeatures(EfficientNetLite0().eval()))
    stage = tiny_config().stages[-1]
    assert stage.contrastive is not None
    stage = replace(stage, contrastive=replace(stage.contrastive, pairs=1))
    run = one_step(tmp_path, open_head(), looks, stage)
    assert run.spec.head == "open_head" and run.config.generator.expression == 52


def test_priors_of_this_head_draw_the_factors(tmp_path: Path) -> None:
    from tests.training.samples import ball_head, perception

    from copo.config import VaeConfig

    prior = Vae(VaeConfig(coefficients=27, latent=4, hidden=8, blocks=1, scales=(0.85,)))
    head = ball_head()
    data = TrainingSet(write_dataset(tmp_path / "d.zip", head), head.spec, 0.0, True)
    run = Trainer(tiny_config(), Ingredients(data, head, perception(), {"illumination": prior}), tmp_path / "run", CPU)
    run.export(tmp_path / "out")
    assert (tmp_path / "out" / "prior_illumination.safetensors").is_file()


def test_the_packaged_priors_belong_to_the_open_head() -> None:
    priors = load_priors(packaged_priors())
    spec = OpenHead.load().spec
    assert {n: p.config.coefficients for n, p in priors.items()} == {
        "identity": spec.identity, "expression": spec.expression, "illumination": spec.illumination,
    }  # fmt: skip
    drawn = priors["expression"].sample(torch.randn(64, priors["expression"].config.latent))
    smile = drawn[:, spec.expression_names.index("mouthSmileLeft")]
    assert 0.1 < float(smile.mean()) < 0.6 and float(smile.std()) > 0.1  # portraits smile, more or less
