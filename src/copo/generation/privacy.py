"""A look at generated faces before they leave: none may be too near to a face of the training set.

A model may come with `training_descriptors.safetensors`: dlib's descriptors of the people that it was trained on, which
cannot be turned back into pictures. The distance is dlib's own, in which less than 0.6 counts as the same person.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from copo.errors import CopoError
from copo.formats.atomic import atomic_write
from copo.vision.dlib_descriptor import DlibDescriptor

DESCRIPTORS = "training_descriptors.safetensors"
"""File beside the weights of a model."""
FORMAT = "copo-training-descriptors-1"


def save_descriptors(path: Path, descriptors: Tensor, source: str = "") -> None:
    """Write descriptors of training people.

    Args:
        path: A .safetensors file.
        descriptors: (N, 128) as `DlibDescriptor.raw` gives them, not normalised; stored in 16 bits.
        source: Which pictures they are of, for people.

    Raises:
        CopoError: Wrong shape, or the file cannot be written.
    """
    if descriptors.ndim != 2 or descriptors.shape[1] != 128 or not torch.isfinite(descriptors).all():
        raise CopoError(f"descriptors of shape {tuple(descriptors.shape)}: expected (N, 128), all finite")
    with atomic_write(path) as temporary:
        save_file({"descriptors": descriptors.half().contiguous()}, temporary, {"format": FORMAT, "source": source})


def load_descriptors(path: Path) -> Tensor:
    """The inverse of `save_descriptors`, (N, 128) float32.

    Raises:
        CopoError: The file is missing, damaged or of another kind.
    """
    if not path.is_file():
        raise CopoError(
            f"--min-distance: the model has no {DESCRIPTORS} to compare with ({path}); leave the option out, or make it"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            known = (file.metadata() or {}).get("format") == FORMAT
            value: Tensor = file.get_tensor("descriptors").float()
    except (SafetensorError, OSError, ValueError) as error:
        raise CopoError(f"{path} is damaged or no file of descriptors") from error
    if not known or value.ndim != 2 or value.shape[1] != 128 or not len(value) or not torch.isfinite(value).all():
        raise CopoError(f"{path} is no file of training descriptors ({FORMAT}, (N, 128))")
    return value


class Guard:
    """Measures how near generated faces are to training faces."""

    def __init__(self, descriptors: Tensor, network: DlibDescriptor | None = None) -> None:
        """Args: descriptors: (N, 128). network: dlib's; the installed one by default, whose absence is a CopoError."""
        self.descriptors = descriptors
        self.network = network or DlibDescriptor.load()

    @torch.no_grad()
    def distances(self, images: Tensor, points68: Tensor) -> np.ndarray:
        """Least distance of each face to a training face.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            points68: (B, 68, 2) pixels; the head's exact landmarks align the faces.

        Returns:
            (B,) float.
        """
        chips = self.network.align(images.cpu().float(), points68.cpu().float())
        found = self.network.raw(chips)
        return torch.cdist(found, self.descriptors).amin(1).numpy()
