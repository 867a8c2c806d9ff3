"""Speed of the vision adapters, and how near our descriptor is to dlib's.

    python benchmarks/vision.py speed --portraits FOLDER [--models FOLDER] [--out out/vision.json]
    python benchmarks/vision.py agreement --portraits FOLDER --count 50

`speed` reads pictures into memory first, runs each adapter once to warm it up, and prints the median time for one
picture with the threads asked for: by the clock, and of processor time over all threads, which other programs on the
machine disturb less. Networks whose weights are not here run with random ones: their time is the same.
`agreement` compares on the first portraits in which dlib finds exactly one face.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from copo.errors import CopoError
from copo.formats.atomic import write_bytes
from copo.formats.pictures import load_image
from copo.vision.arcface import ArcFace
from copo.vision.bisenet import BiSeNetParser
from copo.vision.deep3d import Deep3DReconstructor
from copo.vision.dlib_descriptor import DlibDescriptor
from copo.vision.dlib_faces import DlibFaces
from copo.vision.efficientnet import ImageFeatures
from copo.vision.mediapipe import MediaPipeConfig, MediaPipeFaces, MediaPipeMasks
from copo.vision.models import MODELS, find_model, locate, model
from copo.vision.networks.bisenet import BiSeNet
from copo.vision.networks.deep3d import Deep3DNet
from copo.vision.networks.iresnet import IResNet50
from copo.vision.protocols import Picture, describe_face, to_tensor
from copo.vision.yunet import YuNet, YuNetConfig

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def pictures_in(folder: Path, count: int) -> list[Path]:
    """Evenly spread over the folder and its subfolders."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise CopoError(f"--portraits {folder}: no pictures there")
    step = max(len(paths) // count, 1)
    return paths[::step][:count]


def median_ms(run: Callable[[Picture], object], pictures: list[Picture]) -> tuple[float, float]:
    """Median milliseconds for one picture: by the clock, and of processor time over all threads."""
    run(pictures[0])
    clock, processor = [], []
    for picture in pictures:
        start, used = time.perf_counter(), time.process_time()
        run(picture)
        clock.append(1e3 * (time.perf_counter() - start))
        processor.append(1e3 * (time.process_time() - used))
    return round(statistics.median(clock), 1), round(statistics.median(processor), 1)


def speed(portraits: Path, models: Path | None, count: int, threads: int) -> list[dict[str, object]]:
    """One row for each adapter that can run here."""

    def file(name: str) -> Path:
        found = sorted(models.rglob(model(name).file)) if models else []
        return found[0] if found else find_model(name)

    torch.set_num_threads(threads)
    pictures = [load_image(p) for p in pictures_in(portraits, count)]
    yunet = YuNet(file("yunet"), YuNetConfig(threads=threads))
    pictures = [p for p in pictures if yunet.detect(p)]
    faces = MediaPipeFaces(file("mediapipe-face"), MediaPipeConfig(threads=threads))
    found = {id(p): yunet.detect(p)[0] for p in pictures}
    marks = {id(p): faces.landmarks_at(p, found[id(p)]) for p in pictures}
    pictures = [p for p in pictures if marks[id(p)] is not None]
    masks = MediaPipeMasks(file("mediapipe-hair"), file("mediapipe-person"), threads)
    dlib = DlibFaces(file("dlib-landmarks"))
    descriptor = DlibDescriptor.load(file("dlib-descriptor"))
    features = ImageFeatures.load(file("efficientnet-lite0"))
    deep3d = Deep3DReconstructor(Deep3DNet().eval().requires_grad_(False))
    arcface = ArcFace(IResNet50().eval().requires_grad_(False))
    bisenet = BiSeNetParser(BiSeNet().eval().requires_grad_(False))

    def marked(picture: Picture):  # type: ignore[no-untyped-def]
        return marks[id(picture)]

    cases: list[tuple[str, str, Callable[[Picture], object]]] = [
        ("YuNet, 320 px", "boxes, five points", yunet.detect),
        ("YuNet, 640 px", "boxes, five points", YuNet(file("yunet-640"), YuNetConfig(threads=threads)).detect),
        ("MediaPipe detector", "boxes, eyes", faces.detect),
        ("MediaPipe landmarks", "478 points twice, blendshapes", lambda p: faces.landmarks_at(p, found[id(p)])),
        ("MediaPipe masks", "hair, person", masks.masks),
        ("dlib detector", "boxes", dlib.detect),
        ("dlib 68 landmarks", "68 points in a given box", lambda p: dlib.landmarks_at(p, found[id(p)])),
        ("Deep3DFaceRecon", "crop, 257 coefficients", lambda p: deep3d.reconstruct(p, marked(p).five)),
        ("ArcFace", "crop, 512 numbers", lambda p: describe_face(arcface, p, marked(p))),
        ("dlib descriptor", "chip, 128 numbers", lambda p: describe_face(descriptor, p, marked(p))),
        ("BiSeNet", "19 classes at 512 px", bisenet.parse),
        ("EfficientNet-Lite0", "1280 features", lambda p: features.features(to_tensor(p))),
    ]
    rows: list[dict[str, object]] = []
    with torch.no_grad():
        for name, gives, run in cases:
            clock, processor = median_ms(run, pictures)
            rows.append({"adapter": name, "gives": gives, "ms": clock, "processor_ms": processor})
    return rows


def agreement(portraits: Path, count: int) -> dict[str, float]:
    """Cosine between our descriptor (our chip, our network) and dlib's own, over `count` portraits."""
    import dlib

    faces, descriptor = DlibFaces(), DlibDescriptor.load()
    theirs = dlib.face_recognition_model_v1(str(find_model("dlib-descriptor")))
    whole, network = [], []
    for path in pictures_in(portraits, 4 * count):
        picture = load_image(path)
        found = faces.landmarks(picture)
        if len(found) != 1:
            continue
        points = found[0].points
        parts = [dlib.point(int(x), int(y)) for x, y in points]
        shape = dlib.full_object_detection(dlib.rectangle(0, 0, 1, 1), parts)
        expected = np.array(theirs.compute_face_descriptor(picture, shape))
        chip = to_tensor(dlib.get_face_chip(picture, shape, 150, 0.25))
        with torch.no_grad():
            own = descriptor.align(to_tensor(picture), torch.from_numpy(points)[None])
            for values, crop in ((whole, own), (network, chip)):
                ours = descriptor.raw(crop)[0].double().numpy()
                values.append(float(ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected)))
        if len(whole) == count:
            break
    return {
        "portraits": len(whole),
        "cosine, lowest": min(whole),
        "cosine, mean": statistics.mean(whole),
        "cosine on dlib's own chips, lowest": min(network),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "agreement"])
    parser.add_argument("--portraits", type=Path, required=True, help="folder with photographs")
    parser.add_argument("--models", type=Path, help="folder with model files, searched before the cache")
    parser.add_argument("--count", type=int, default=30, help="number of pictures")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write JSON")
    options = parser.parse_args()
    try:
        if options.what == "speed":
            rows = speed(options.portraits, options.models, options.count, options.threads)
            machine = f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads"
            print(f"{machine}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n")
            print("| adapter | gives | ms for one picture | processor ms |\n|---|---|---|---|")
            for row in rows:
                print(f"| {row['adapter']} | {row['gives']} | {row['ms']} | {row['processor_ms']} |")
            result: object = {"threads": options.threads, "torch": torch.__version__, "rows": rows}
        else:
            result = agreement(options.portraits, options.count)
            for name, value in result.items():
                print(f"{name}: {value:.6g}")
        if options.out:
            write_bytes(options.out, (json.dumps(result, indent=2) + "\n").encode())
    except CopoError as error:
        missing = [entry.name for entry in MODELS if locate(entry) is None]
        raise SystemExit(f"vision benchmark: {error} (not on this machine: {', '.join(missing) or 'none'})") from None


if __name__ == "__main__":
    main()
