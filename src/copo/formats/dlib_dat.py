"""dlib's `.dat` files: the face descriptor's network, read with nothing but this page.

dlib writes a network from the outside in and from the inside out: first the loss, then one version number for each
layer from the last to the first, then the input layer, then each layer's own data from the first to the last. Integers
are a length byte (its top bit is the sign) and that many bytes, least significant first; floating-point numbers are two
such integers, mantissa and exponent of 2; tensors are a version, four sizes and float32 values; strings and flags are
plain bytes. The reader knows the layers of dlib's face descriptor and refuses everything else.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from copo.errors import CopoError

_LAYER, _TAG, _FIRST_LAYER = 2, 1, 3
"""Version numbers that stand for a layer, a tag (a name that residual connections point to), the first layer."""
_MAX_LAYERS = 1000


@dataclass(frozen=True)
class DlibLayer:
    """One layer.

    Attributes:
        kind: "con", "affine", "relu", "max_pool", "avg_pool", "add_prev", "fc" or "tag".
        arrays: con: "weight" (filters, channels, rows, columns) and "bias" (filters,); affine: "scale" and "shift";
            fc: "weight" (inputs, outputs). float32.
        window: Rows and columns of a convolution or pool; (0, 0) is the whole picture.
        stride: Vertical and horizontal step of a convolution or pool.
        padding: Vertical and horizontal padding of a convolution or pool.
    """

    kind: str
    arrays: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    window: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class DlibNetwork:
    """A network as stored.

    Attributes:
        mean: Red, green, blue that are subtracted from the picture (0..255); the rest is divided by 256.
        size: Rows and columns of the input picture.
        layers: From the picture to the descriptor.
    """

    mean: tuple[float, float, float]
    size: tuple[int, int]
    layers: tuple[DlibLayer, ...]


def read_network(path: str | os.PathLike[str]) -> DlibNetwork:
    """Read a metric-learning network (`dlib_face_recognition_resnet_model_v1.dat`).

    Raises:
        CopoError: The file is missing, truncated, has something behind its end, holds numbers that are not finite, or
            is another kind of file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CopoError(f"dlib network {path}: {(error.strerror or 'cannot be read').lower()}") from None
    reader = _Reader(data)
    try:
        network = _network(reader)
        if reader.at != len(data):
            raise _NotThat(f"{len(data) - reader.at} bytes behind its end")
    except _NotThat as problem:
        raise CopoError(
            f"dlib network {path}: truncated or not a dlib face descriptor ({problem}); get "
            "dlib_face_recognition_resnet_model_v1.dat again"
        ) from None
    return network


class _NotThat(Exception):
    """The bytes are not what they should be."""


class _Reader:
    """dlib's basic types out of a byte string."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise _NotThat(f"it ends at byte {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def integer(self) -> int:
        control = self.take(1)[0]
        length = control & 0x7F
        if not 1 <= length <= 8:
            raise _NotThat(f"no integer at byte {self.at - 1}")
        value = int.from_bytes(self.take(length), "little")
        return -value if control & 0x80 else value

    def expect(self, value: int, what: str) -> None:
        found = self.integer()
        if found != value:
            raise _NotThat(f"{what} is {found}, expected {value}")

    def number(self) -> float:
        mantissa, exponent = self.integer(), self.integer()
        try:
            return math.ldexp(float(mantissa), exponent)
        except OverflowError:
            raise _NotThat(f"no finite number at byte {self.at}") from None

    def text(self) -> str:
        length = self.integer()
        if not 0 < length <= 64:
            raise _NotThat(f"no name at byte {self.at}")
        return self.take(length).decode("latin-1")

    def flag(self) -> bool:
        value = self.take(1)
        if value not in (b"0", b"1"):
            raise _NotThat(f"no flag at byte {self.at - 1}")
        return value == b"1"

    def shape(self) -> tuple[int, ...]:
        sizes = tuple(self.integer() for _ in range(4))
        if min(sizes) < 0:
            raise _NotThat(f"a tensor of shape {sizes}")
        return sizes

    def tensor(self) -> NDArray[np.float32]:
        """All values of a tensor, flat."""
        self.expect(2, "a tensor's version")
        values = np.frombuffer(self.take(4 * math.prod(self.shape())), "<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise _NotThat("it holds NaN or infinite numbers")
        return values

    def alias(self) -> tuple[int, ...]:
        """The shape of a part of a tensor."""
        self.expect(1, "a part's version")
        return self.shape()


def _network(reader: _Reader) -> DlibNetwork:
    reader.expect(1, "the loss layer's version")
    if (loss := reader.text()) != "loss_metric_2":
        raise _NotThat(f"its loss is {loss!r}, expected metric learning")
    reader.number(), reader.number()  # margin and threshold of the loss: for training only
    versions: list[int] = []
    while not versions or versions[-1] != _FIRST_LAYER:
        versions.append(reader.integer())
        if versions[-1] not in (_LAYER, _TAG, _FIRST_LAYER) or len(versions) > _MAX_LAYERS:
            raise _NotThat(f"unknown layer version {versions[-1]}")
    if (kind := reader.text()) != "input_rgb_image_sized":
        raise _NotThat(f"its input is {kind!r}")
    mean = (reader.number(), reader.number(), reader.number())
    size = (reader.integer(), reader.integer())
    layers = []
    for version in reversed(versions):
        if version == _TAG:
            layers.append(DlibLayer("tag"))
            continue
        layers.append(_layer(reader))
        for _ in range(3):
            reader.flag()  # training state
        for _ in range(3):
            reader.tensor()  # cached outputs and gradients, empty in published files
        if version == _FIRST_LAYER:
            reader.expect(1, "the number of inputs for each sample")
    return DlibNetwork(mean, size, tuple(layers))


def _layer(reader: _Reader) -> DlibLayer:
    match reader.text():
        case "con_4":
            values = reader.tensor()
            filters = reader.integer()
            window, stride, padding = _pair(reader), _pair(reader), _pair(reader)
            weight, bias = _parts(values, reader.alias(), reader.alias())
            _multipliers(reader)
            if weight.shape[0] != filters or weight.shape[2:] != window or bias.size != filters:
                raise _NotThat(f"a convolution of {filters} filters with weights {weight.shape}")
            return DlibLayer("con", {"weight": weight, "bias": bias.reshape(-1)}, window, stride, padding)
        case "affine_":
            scale, shift = _parts(reader.tensor(), reader.alias(), reader.alias())
            reader.integer()  # for convolutions or for vectors: the sizes say it
            return DlibLayer("affine", {"scale": scale.reshape(-1), "shift": shift.reshape(-1)})
        case "relu_":
            return DlibLayer("relu")
        case "add_prev_":
            return DlibLayer("add_prev")
        case "max_pool_2":
            return DlibLayer("max_pool", {}, _pair(reader), _pair(reader), _pair(reader))
        case "avg_pool_2":
            return DlibLayer("avg_pool", {}, _pair(reader), _pair(reader), _pair(reader))
        case "fc_2":
            outputs, inputs = _pair(reader)
            weight, bias = _parts(reader.tensor(), reader.alias(), reader.alias())
            reader.integer()  # with or without a bias: the sizes say it
            _multipliers(reader)
            if weight.size != outputs * inputs or bias.size:
                raise _NotThat("a last layer with a bias or of another size")
            return DlibLayer("fc", {"weight": weight.reshape(inputs, outputs)})
        case other:
            raise _NotThat(f"unknown layer {other!r}")


def _pair(reader: _Reader) -> tuple[int, int]:
    return reader.integer(), reader.integer()


def _multipliers(reader: _Reader) -> None:
    for _ in range(4):
        reader.number()  # learning rates


def _parts(
    values: NDArray[np.float32], first: tuple[int, ...], second: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut one block of values into two tensors."""
    cut = math.prod(first)
    if cut + math.prod(second) != values.size:
        raise _NotThat(f"{values.size} values for parts {first} and {second}")
    return values[:cut].reshape(first), values[cut:].reshape(second)
