"""Descriptors of the people of a training set, for `copo generate --min-distance` (docs/generate.md).

python -m tools.training_descriptors set.zip src/copo/assets/portrait/training_descriptors.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from copo.errors import CopoError
from copo.formats.dataset import PortraitDataset
from copo.formats.pictures import from_uint8
from copo.generation.privacy import save_descriptors
from copo.vision.dlib_descriptor import DlibDescriptor
from copo.work.crew import progress

BATCH = 32


@torch.no_grad()
def descriptors(data: PortraitDataset, network: DlibDescriptor) -> Tensor:
    """(N, 128) of all portraits with landmarks.

    Raises:
        CopoError: The data set has no landmarks.
    """
    points = data.points68
    known = [] if points is None else np.nonzero(np.isfinite(points).all((1, 2)))[0].tolist()
    if points is None or not known:
        raise CopoError(f"data set {data.path}: no landmarks; prepare it with copo prepare")
    out = []
    with progress(len(known), "portraits") as advance:
        for start in range(0, len(known), BATCH):
            rows = known[start : start + BATCH]
            pictures = torch.stack([from_uint8(data.image(row)) for row in rows])
            out.append(network.raw(network.align(pictures, torch.from_numpy(points[rows]))))
            advance(len(rows))
    return torch.cat(out)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    found = descriptors(PortraitDataset(source), DlibDescriptor.load())
    save_descriptors(target, found, source.name)
    print(f"wrote {target}: {len(found)} portraits")
