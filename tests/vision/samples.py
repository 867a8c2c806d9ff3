"""The photographs and model files that these tests run on, where they lie beside the repository.

The folder is named by the environment variable COPO_SHARED_DIR (by default ../shared); tests are skipped without it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from copo.formats.pictures import load_image
from copo.vision.protocols import Picture

ROOT = Path(os.environ.get("COPO_SHARED_DIR") or Path(__file__).parents[3] / "shared")
PORTRAITS = ROOT / "data" / "portraits"
FACE_TASK = ROOT / "models" / "mediapipe" / "face_landmarker_v2_with_blendshapes.task"
HAIR = ROOT / "models" / "mediapipe" / "hair_segmentation.tflite"
PERSON = ROOT / "models" / "mediapipe" / "selfie_segmentation.tflite"
YUNET = ROOT / "models" / "yunet" / "yunet_n_320_320.onnx"
YUNET_640 = ROOT / "models" / "yunet" / "yunet_n_640_640.onnx"
FACE_API = ROOT / "models" / "dlib_face_recognition" / "weights_float32_from_uint8.npz"

FRONTAL = ("canada/0003_neutral_front.jpg", "lisa/0001.jpg", "us_congress/0100.jpg", "sd3_synthetic/0007.jpg")


def needs(*paths: Path, modules: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Skip where a file or a package is absent."""
    missing = [str(p) for p in paths if not p.exists()]
    missing += [m for m in modules if importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"absent: {', '.join(missing)}")


def portrait(name: str) -> Picture:
    """A photograph of the shared set."""
    return load_image(PORTRAITS / name)


def side_by_side(large: Picture, small: Picture) -> Picture:
    """Two pictures in one, the second at half its size on the left."""
    half = small[: small.shape[0] // 2 * 2 : 2, : small.shape[1] // 2 * 2 : 2]
    height = max(half.shape[0], large.shape[0])
    out = np.full((height, half.shape[1] + large.shape[1], 3), 128, np.uint8)
    out[: half.shape[0], : half.shape[1]] = half
    out[: large.shape[0], half.shape[1] :] = large
    return out


def noise(height: int, width: int) -> Picture:
    """A picture without a face."""
    return np.random.default_rng(5).integers(0, 256, (height, width, 3)).astype(np.uint8)
