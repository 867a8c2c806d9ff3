"""dlib's face descriptor as a differentiable module: 128 numbers, one person's are near each other.

The weights are public domain (CC0) and come with the Python package `face-recognition-models`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from copo.errors import CopoError
from copo.formats.dlib_dat import DlibLayer, read_network
from copo.vision.align import crop, similarity
from copo.vision.models import find_model
from copo.vision.networks.dlib_resnet import HALVED, WIDTHS, DlibResNet
from copo.vision.points import DLIB_CHIP_POINTS, DLIB_MEAN_FACE, DLIB_MEAN_FIVE
from copo.vision.weights import freeze, load_weights

CHIP_SIZE, CHIP_PADDING = 150, 0.25
"""Side of dlib's chip in pixels, and the margin around the mean face as a share of it (dlib's defaults)."""
MEAN: tuple[float, float, float] = (122.782, 117.001, 104.298)
"""Red, green, blue that dlib subtracts (0..255)."""
SAME_PERSON = 0.6
"""Two faces whose descriptors (not normalised) are nearer than this count as one person (dlib's threshold)."""


class DlibDescriptor(nn.Module):
    """A `copo.vision.protocols.Recogniser`."""

    size = CHIP_SIZE
    mean: Tensor
    chip68: Tensor
    chip5: Tensor

    def __init__(self, network: DlibResNet) -> None:
        """Args: network: With its weights."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("chip68", chip_points(68), persistent=False)
        self.register_buffer("chip5", chip_points(5), persistent=False)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """Read the weights.

        Args:
            path: `dlib_face_recognition_resnet_model_v1.dat` or our compact copy (.safetensors); by default that of the
                installed package or cache.

        Raises:
            CopoError: The file is missing, damaged or another network.
        """
        path = Path(path) if path else find_model("dlib-descriptor")
        if path.suffix == ".safetensors":
            return cls(load_weights(DlibResNet(), path, "dlib descriptor"))
        return cls(_from_layers(read_network(path).layers, path))

    @classmethod
    def from_face_api(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Self:
        """Take the weights in the layout of face-api.js (rows, columns, inputs, outputs), e.g. out of an .npz."""

        def folded(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            scale = arrays[f"{name}/scale/weights"]
            weight = arrays[f"{name}/conv/filters"].transpose(3, 2, 0, 1) * scale[:, None, None, None]
            return weight, arrays[f"{name}/conv/bias"] * scale + arrays[f"{name}/scale/biases"]

        groups: dict[int, int] = {}
        names = ["conv32_down"]
        for index, width in enumerate(WIDTHS):
            if index in HALVED:
                block = f"conv{width}_down" + ("_out" if f"conv{width}_down/conv1" in " ".join(names) else "")
            else:
                groups[width] = groups.get(width, 0) + 1
                block = f"conv{width}_{groups[width]}"
            names += [f"{block}/conv1", f"{block}/conv2"]
        return cls(_network([folded(name) for name in names], arrays["fc"]))

    def align(self, pictures: Tensor, points: Tensor, validate: bool = True) -> Tensor:
        """The chip as dlib cuts it (padding 0.25).

        Args:
            pictures: (B, 3, H, W) in [-1, 1].
            points: (B, 68, 2) landmarks in pixels, or (B, 5, 2): outer and inner corner of the eye at the right of the
                picture, of the one at the left, base of the nose.
            validate: See `copo.vision.align.crop`.

        Returns:
            (B, 3, 150, 150).
        """
        matrix = chip_matrix(points, self.chip68 if points.shape[1] == 68 else self.chip5, validate)
        return crop(pictures + 1, matrix, CHIP_SIZE, validate=validate) - 1  # black around the picture, as in dlib

    def raw(self, chips: Tensor) -> Tensor:
        """(B, 3, 150, 150) chips in [-1, 1] -> (B, 128) as dlib gives them, not normalised (see `SAME_PERSON`)."""
        return self.network(((chips + 1) * 127.5 - self.mean) / 256)

    def describe(self, crops: Tensor) -> Tensor:
        """(B, 3, 150, 150) chips in [-1, 1] -> (B, 128) of length 1."""
        return nn.functional.normalize(self.raw(crops), dim=1)


def chip_points(count: int) -> Tensor:
    """Where dlib's chip has the points that are used of 68, or its 5: (N, 2) pixels."""
    mean = DLIB_MEAN_FACE if count == 68 else DLIB_MEAN_FIVE
    return (torch.from_numpy(mean) + CHIP_PADDING) / (1 + 2 * CHIP_PADDING) * CHIP_SIZE


def chip_matrix(points: Tensor, target: Tensor | None = None, validate: bool = True) -> Tensor:
    """(B, 68, 2) or (B, 5, 2) points (see `DlibDescriptor.align`) -> (B, 2, 3) from picture pixels to chip pixels.

    Args:
        points: Landmarks in pixels.
        target: `chip_points` on the same device, where it is at hand.
        validate: See `copo.vision.align.similarity`.

    Raises:
        CopoError: There are neither 68 nor 5 points, or they coincide.
    """
    if points.shape[1] not in (5, 68):
        raise CopoError(f"dlib chip: {points.shape[1]} landmarks: give 68 (iBUG) or dlib's 5")
    target = chip_points(points.shape[1]) if target is None else target
    used = torch.stack([points[:, k] for k in DLIB_CHIP_POINTS], dim=1) if points.shape[1] == 68 else points
    return similarity(used, target, validate)


def _from_layers(layers: tuple[DlibLayer, ...], path: Path) -> DlibResNet:
    """Fold each affine layer into the convolution before it, and check that the network is the expected one."""
    convolutions: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    last: NDArray[np.float32] | None = None
    shape: list[str] = []
    for layer in layers:
        if layer.kind == "con":
            convolutions.append((layer.arrays["weight"], layer.arrays["bias"]))
            shape.append(f"con{layer.stride[0]}{layer.padding[0]}")
        elif layer.kind == "affine" and convolutions:
            weight, bias = convolutions.pop()
            scale, shift = layer.arrays["scale"], layer.arrays["shift"]
            convolutions.append((weight * scale[:, None, None, None], bias * scale + shift))
        elif layer.kind == "fc":
            last = layer.arrays["weight"]
        elif layer.kind in ("max_pool", "avg_pool"):
            shape.append(f"{layer.kind}{layer.window[0]}{layer.stride[0]}{layer.padding[0]}")
    if shape != _expected_shape() or last is None:
        raise CopoError(f"dlib network {path}: its layers are not those of dlib's face descriptor")
    return _network(convolutions, last, path)


def _expected_shape() -> list[str]:
    out = ["con20", "max_pool320"]
    for index in range(len(WIDTHS)):
        out += ["con20", "con11", "avg_pool220"] if index in HALVED else ["con11", "con11"]
    return [*out, "avg_pool010"]


def _network(
    convolutions: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
    last: NDArray[np.float32],
    path: Path | str = "",
) -> DlibResNet:
    network = DlibResNet()
    names = ["stem", *(f"blocks.{i}.{c}" for i in range(len(WIDTHS)) for c in ("conv1", "conv2"))]
    as_tensor: Callable[[NDArray[np.float32]], Tensor] = lambda a: torch.from_numpy(np.ascontiguousarray(a))  # noqa: E731
    state = {"fc.weight": as_tensor(last.T)}
    for name, (weight, bias) in zip(names, convolutions, strict=True):
        state[f"{name}.weight"], state[f"{name}.bias"] = as_tensor(weight), as_tensor(bias)
    for name, value in network.state_dict().items():
        if state[name].shape != value.shape:
            raise CopoError(f"dlib network {path}: {name} has shape {tuple(state[name].shape)}, "
                            f"expected {tuple(value.shape)}")  # fmt: skip
    return freeze(network, state)
