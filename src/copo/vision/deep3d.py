"""Deep3DFaceRecon: Basel Face Model coefficients of a photograph, as the published system prepares its data."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from copo.camera import Camera
from copo.factors import Factors
from copo.formats.bfm import bfm_spec
from copo.vision.align import DEEP3D_SIZE, crop, deep3d_crop
from copo.vision.models import find_model
from copo.vision.networks.deep3d import SIZES, Deep3DNet
from copo.vision.protocols import Picture, Points, Reconstruction, as_picture, to_tensor
from copo.vision.weights import load_weights


class Deep3DReconstructor(nn.Module):
    """A `copo.vision.protocols.Reconstructor`; differentiable in the pictures, its weights are frozen."""

    size = DEEP3D_SIZE

    def __init__(self, network: Deep3DNet) -> None:
        """Args: network: With its weights."""
        super().__init__()
        self.network = network

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """Read the weights.

        Args:
            path: `epoch_20.pth`; by default the fetched one.

        Raises:
            CopoError: The file is missing, damaged or of another network.
        """
        path = Path(path) if path else find_model("deep3d")
        return cls(load_weights(Deep3DNet(), path, "Deep3DFaceRecon", key="net_recon"))

    def reconstruct(self, picture: Picture, five: Points) -> Reconstruction:
        """Coefficients of the face with these five points, from the crop of the published preprocessing.

        Args:
            picture: (H, W, 3) uint8.
            five: (5, 2) eyes, nose tip, mouth corners in pixels (`Landmarks.five`).

        Raises:
            CopoError: The points give no alignment.
        """
        picture = as_picture(picture)
        height, width = picture.shape[:2]
        place = deep3d_crop(five, width, height)
        left, top = (round(-float(v)) for v in place.matrix[:, 2])
        small = Image.fromarray(picture).resize(
            (max(int(width * place.scale), 1), max(int(height * place.scale), 1)), Image.Resampling.BICUBIC
        )
        cut = np.asarray(small.crop((left, top, left + self.size, top + self.size)))
        with torch.no_grad():
            values = self.coefficients(to_tensor(cut))
        return self.unpack(values, torch.from_numpy(place.matrix)[None], torch.from_numpy(place.trans_params)[None])

    def align(self, pictures: Tensor, matrix: Tensor) -> Tensor:
        """Crops of pictures, differentiable: (B, 3, H, W) and (B, 2, 3) of `deep3d_crop` -> (B, 3, 224, 224)."""
        return crop(pictures + 1, matrix, self.size) - 1  # black around the picture, as in the published crops

    def coefficients(self, crops: Tensor) -> Tensor:
        """(B, 3, 224, 224) crops in [-1, 1] -> (B, 257), in the order of `copo.vision.networks.deep3d.SIZES`."""
        return self.network((crops + 1) / 2)

    def unpack(self, coefficients: Tensor, matrix: Tensor, trans_params: Tensor | None = None) -> Reconstruction:
        """Name the coefficients.

        Args:
            coefficients: (B, 257).
            matrix: (B, 2, 3) from picture pixels to crop pixels.
            trans_params: (B, 5) published alignment record, where there is one.
        """
        parts = dict(zip(SIZES, coefficients.split(list(SIZES.values()), dim=1), strict=True))
        spec = bfm_spec(SIZES["shape"], SIZES["albedo"], SIZES["expression"])
        named = {name: parts[name] for name in ("shape", "albedo", "expression", "illumination")}
        factors = Factors(spec=spec, noise=coefficients.new_zeros(len(coefficients), spec.noise), **named)
        translation = torch.cat([parts["shift"], parts["z"]], dim=1)
        camera = Camera.from_deep3d(parts["angles"], translation)
        record = coefficients.new_zeros(len(coefficients), 5) if trans_params is None else trans_params
        return Reconstruction(factors, camera, parts["angles"], translation, matrix, record)
