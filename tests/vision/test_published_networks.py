"""Deep3DFaceRecon, ArcFace and BiSeNet: parity with recorded outputs, through the files that users hold."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.parity import Recording, assert_parity, parametrize
from torch import nn

from copo.camera import Camera
from copo.errors import CopoError
from copo.vision.align import transform
from copo.vision.arcface import ArcFace
from copo.vision.bisenet import IMAGENET_MEAN, IMAGENET_STD, BiSeNetParser
from copo.vision.deep3d import Deep3DReconstructor
from copo.vision.networks.bisenet import BiSeNet
from copo.vision.networks.deep3d import SIZES, Deep3DNet
from copo.vision.networks.iresnet import IResNet50
from copo.vision.points import ARCFACE_FIVE, DEEP3D_FIVE
from copo.vision.protocols import Landmarks, describe_face
from copo.vision.weights import load_weights


@parametrize("deep3d_recon_resnet50")
def test_deep3d_parity_from_the_published_file(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "epoch_20.pth"
    torch.save({"net_recon": recording.state("deep3d_recon_resnet50", "plain"), "opt_00": {"lr": 0.1}}, path)
    reconstructor = Deep3DReconstructor.load(path)
    assert_parity(reconstructor.coefficients(recording.tensor("input") * 2 - 1), recording.tensor("out0"))


@parametrize("arcface_iresnet50")
def test_arcface_parity_from_the_published_file(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    torch.save(recording.state("arcface_iresnet50", "plain"), path)
    recogniser = ArcFace.load(path)
    assert_parity(recogniser.network(recording.tensor("input")), recording.tensor("out0"))
    unit = recording.tensor("out0") / recording.tensor("out0").norm(dim=1, keepdim=True)
    assert torch.allclose(recogniser.describe(recording.tensor("input")), unit, atol=1e-5)


@parametrize("bisenet19")
def test_bisenet_parity_from_the_published_file(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "79999_iter.pth"
    torch.save(recording.state("bisenet19", "plain"), path)
    parser = BiSeNetParser.load(path)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    pictures = (recording.tensor("input") * std + mean) * 2 - 1
    assert_parity(parser.logits(pictures), recording.tensor("out0"))


@pytest.fixture(scope="module")
def reconstructor() -> Deep3DReconstructor:
    torch.manual_seed(0)
    network = Deep3DNet().eval()
    for layer in network.final_layers:
        nn.init.normal_(layer.weight, std=0.002)
    return Deep3DReconstructor(network.requires_grad_(False))


def picture_with_five() -> tuple[np.ndarray, np.ndarray]:
    picture = np.random.default_rng(1).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    return picture, (DEEP3D_FIVE[:, :2] * [60, -60] + [210, 140]).astype(np.float32)


def test_reconstruction_names_its_parts(reconstructor: Deep3DReconstructor) -> None:
    picture, five = picture_with_five()
    result = reconstructor.reconstruct(picture, five)
    sizes = {"shape": 80, "albedo": 80, "expression": 64, "illumination": 27, "noise": 128}
    assert {name: getattr(result.factors, name).shape[1] for name in sizes} == sizes
    assert result.trans_params[0].tolist() == pytest.approx([400, 300, 1.7, 209.5, 159.5], abs=1e-2)
    pose = result.camera.to_deep3d()
    assert torch.allclose(pose.angles, result.angles, atol=1e-5)
    assert torch.allclose(pose.translation, result.translation, atol=1e-4)
    split = torch.arange(257.0)[None].split(list(SIZES.values()), dim=1)
    named = reconstructor.unpack(torch.arange(257.0)[None], torch.zeros(1, 2, 3))
    assert torch.equal(named.factors.shape, split[0]) and torch.equal(named.factors.albedo, split[2])
    assert named.translation.tolist() == [[254, 255, 256]] and named.angles.tolist() == [[224, 225, 226]]


def test_camera_of_the_picture_agrees_with_that_of_the_crop(reconstructor: Deep3DReconstructor) -> None:
    picture, five = picture_with_five()
    result = reconstructor.reconstruct(picture, five)
    points = torch.randn(1, 20, 3) * 0.1
    in_crop = result.camera.project(points)[0] * 224
    whole: Camera = result.picture_camera(400, 300)
    in_picture = whole.project(points)[0] * torch.tensor([400.0, 300.0])
    assert torch.allclose(transform(result.crop, in_picture), in_crop, atol=2e-2)


def test_tensor_crop_shows_what_the_picture_crop_shows(reconstructor: Deep3DReconstructor) -> None:
    """A smooth picture: the differentiable crop and the published one (bicubic, whole pixels) agree."""
    ys, xs = np.mgrid[0:300, 0:400]
    picture = np.stack([xs * 0.6, ys * 0.8, 128 + 60 * np.sin(xs / 30)], axis=-1).clip(0, 255).astype(np.uint8)
    _, five = picture_with_five()
    seen: list[torch.Tensor] = []
    handle = reconstructor.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    result = reconstructor.reconstruct(picture, five)
    handle.remove()
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    cut = reconstructor.align(tensor, result.crop)
    assert (seen[0] * 2 - 1 - cut).abs().mean() < 0.01


def test_arcface_crop_brings_the_five_points_to_the_template() -> None:
    """White dots at the five points of a turned, larger face end up at the template's places."""
    turn = torch.tensor([[[1.2, -0.9, 80.0], [0.9, 1.2, 20.0]]])
    five = transform(turn, torch.from_numpy(ARCFACE_FIVE)[None])
    points = torch.zeros(1, 68, 2)
    for index, place in zip((36, 39, 42, 45, 30, 48, 54), (0, 0, 1, 1, 2, 3, 4), strict=True):
        points[:, index] = five[:, place]
    ys, xs = torch.meshgrid(torch.arange(240) + 0.5, torch.arange(260) + 0.5, indexing="ij")
    network = ArcFace(IResNet50().eval())
    for place in range(5):
        distance = (xs - five[0, place, 0]).square() + (ys - five[0, place, 1]).square()
        picture = (torch.exp(-distance / 18) * 2 - 1).expand(1, 3, 240, 260)
        for given in (points, five):
            cut = network.align(picture, given)[0, 0] + 1
            weights = cut / cut.sum()
            grid = torch.arange(112) + 0.5
            centre = torch.stack([(weights.sum(0) * grid).sum(), (weights.sum(1) * grid).sum()])
            assert centre.numpy() == pytest.approx(ARCFACE_FIVE[place], abs=0.05)
    with pytest.raises(CopoError, match="7 landmarks"):
        network.align(torch.zeros(1, 3, 9, 9), torch.rand(1, 7, 2))


def test_descriptors_have_length_one_and_gradients_reach_the_picture() -> None:
    torch.manual_seed(0)
    recogniser = ArcFace(IResNet50().eval().requires_grad_(False))
    picture = torch.zeros(1, 3, 112, 112, requires_grad=True)
    descriptor = recogniser.describe(recogniser.align(picture, torch.from_numpy(ARCFACE_FIVE)[None]))
    descriptor[0, 0].backward()
    assert float(descriptor.detach().norm()) == pytest.approx(1, abs=1e-5)
    assert picture.grad is not None and picture.grad.abs().max() > 0
    marks = Landmarks(np.random.default_rng(0).uniform(0, 99, (68, 2)).astype(np.float32), 1.0)
    assert describe_face(recogniser, np.zeros((100, 100), np.uint8), marks).shape == (512,)


def test_parser_gives_probabilities_at_the_pictures_size() -> None:
    torch.manual_seed(0)
    parser = BiSeNetParser(BiSeNet().eval().requires_grad_(False))
    parser.size = 64  # the size of the run changes nothing but its speed here
    parsing = parser.parse(np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8))
    assert parsing.labels.shape == (50, 70) and parsing.labels.dtype == np.uint8
    assert parsing.probabilities.shape == (19, 50, 70)
    assert parsing.probabilities.sum(0) == pytest.approx(np.ones((50, 70)), abs=1e-4)
    assert np.array_equal(parsing.probabilities.argmax(0), parsing.labels)


class Hostile:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        import os

        return os.system, ("echo this must not run",)


def test_files_that_are_not_the_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    path = tmp_path / "weights.pth"
    with pytest.raises(CopoError, match="no such file"):
        load_weights(network, path, "test")
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CopoError, match="damaged"):
        load_weights(network, path, "test")
    path.write_bytes(pickle.dumps({"weight": Hostile()}))
    with pytest.raises(CopoError, match="refused"):
        load_weights(network, path, "test")
    torch.save({"weight": Hostile()}, path)
    with pytest.raises(CopoError, match=r"refused, it names [a-z]+\.system"):
        load_weights(network, path, "test")
    torch.save({"weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CopoError, match=r"bias \(2,\) is missing"):
        load_weights(network, path, "test")
    torch.save({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, path)
    with pytest.raises(CopoError, match=r"weight has shape \(2, 3\), expected \(2, 2\)"):
        load_weights(network, path, "test")
    torch.save([1, 2], path)
    with pytest.raises(CopoError, match="not a state dict") as caught:
        load_weights(network, path, "test")
    assert "\n" not in str(caught.value)
    torch.save({"opt": 1}, path)
    with pytest.raises(CopoError, match="no state dict 'net_recon'"):
        load_weights(network, path, "test", key="net_recon")


def test_weights_with_a_training_prefix_and_halves_are_taken(tmp_path: Path) -> None:
    state = {"module.weight": torch.full((2, 2), 0.5).half(), "module.bias": torch.ones(2).half()}
    torch.save(state, tmp_path / "w.pth")
    network = load_weights(nn.Linear(2, 2), tmp_path / "w.pth", "test")
    assert network.weight.dtype == torch.float32 and not network.weight.requires_grad and not network.training
    assert network(torch.ones(1, 2)).tolist() == [[2.0, 2.0]]
