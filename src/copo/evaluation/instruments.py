"""What looks at pictures. An instrument turns pictures into arrays, one row each, that are kept on disk.

| instrument | what it says | where it runs |
|---|---|---|
| mediapipe | 478 landmarks, 51 blendshapes, whether there is a face | CPU, any number of processes |
| dlib | identity, 128 numbers; aligned by MediaPipe's landmarks, or by the asked head's where it sees no face | any |
| dlib_asked | the same, aligned by the asked head's landmarks: where MediaPipe is not installed | any |
| efficientnet | 1280 image features | any |
| inception | 2048 image features | any; the user's file |
| analyser | factors, pose and landmarks by the network of this project | any; trained weights |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from copo.errors import CopoError
from copo.evaluation.store import CHUNK, Arrays, PictureSet, read_arrays, read_pictures, write_arrays
from copo.formats.pictures import from_uint8
from copo.vision.analyser_file import load_analyser
from copo.vision.dlib_descriptor import DlibDescriptor
from copo.vision.efficientnet import ImageFeatures
from copo.vision.inception import InceptionFeatures
from copo.vision.mediapipe import BLENDSHAPE_NAMES, MediaPipeConfig, MediaPipeFaces
from copo.vision.points import MEDIAPIPE_68

Picture = NDArray[np.uint8]
Say = Callable[[str], None]
NEEDS: dict[str, tuple[str, ...]] = {"dlib": ("mediapipe",)}
"""Instruments that others read."""
ORDER = ("mediapipe", "dlib", "dlib_asked", "efficientnet", "inception", "analyser")


@dataclass(frozen=True)
class InstrumentFiles:
    """Files of the user instead of the fetched or packaged ones."""

    mediapipe: Path | None = None
    """The .task file."""
    dlib: Path | None = None
    """dlib_face_recognition_resnet_model_v1.dat, or face-api's weights as .npz."""
    efficientnet: Path | None = None
    """efficientnet-lite0-57934424.pth."""
    inception: Path | None = None
    """pt_inception-2015-12-05-6726825d.pth."""
    analyser: Path | None = None
    """analyser.safetensors."""


@dataclass(frozen=True)
class Context:
    """What is known of pictures besides themselves.

    Attributes:
        points68: (n, 68, 2) where the asked head's landmarks are, as shares of the side, or None.
        earlier: What instruments before saw in the same pictures.
    """

    points68: NDArray[np.float32] | None
    earlier: Mapping[str, Arrays]


class Instrument(Protocol):
    """Looks at pictures."""

    def look(self, pictures: Picture, context: Context) -> Arrays:
        """(n, S, S, 3) uint8 -> arrays of n rows."""
        ...


class MediaPipeInstrument:
    """Landmarks and blendshapes of the largest face; NaN where there is none."""

    def __init__(self, path: Path | None = None, threads: int = 1) -> None:
        self.faces = MediaPipeFaces(path, MediaPipeConfig(threads=threads))

    def look(self, pictures: Picture, context: Context | None = None) -> Arrays:
        """`found` (n,) bool, `points` (n, 478, 2) shares of the side, `shapes` (n, 51)."""
        count, side = len(pictures), pictures.shape[1]
        found = np.zeros(count, bool)
        points = np.full((count, 478, 2), np.nan, np.float32)
        shapes = np.full((count, len(BLENDSHAPE_NAMES)), np.nan, np.float32)
        for row, picture in enumerate(pictures):
            marks = self.faces.landmarks(picture)
            if not marks:
                continue
            found[row], points[row] = True, marks[0].points / side
            assert marks[0].blendshapes is not None
            shapes[row] = [marks[0].blendshapes[name] for name in BLENDSHAPE_NAMES]
        return {"found": found, "points": points, "shapes": shapes}


class DlibInstrument:
    """Descriptors by which two pictures of one person lie nearer than 0.6."""

    def __init__(self, network: DlibDescriptor, device: torch.device | str = "cpu", measured: bool = True) -> None:
        """Args: measured: Align by MediaPipe's landmarks where it saw a face."""
        self.network, self.device, self.measured = network.to(device), torch.device(device), measured

    @torch.no_grad()
    def look(self, pictures: Picture, context: Context) -> Arrays:
        """`descriptor` (n, 128); NaN where neither landmarks were found nor asked for."""
        points = np.full((len(pictures), 68, 2), np.nan, np.float32)
        if context.points68 is not None:
            points = context.points68.astype(np.float32).copy()
        if self.measured and "mediapipe" in context.earlier:
            seen = context.earlier["mediapipe"]
            rows = seen["found"].astype(bool)
            points[rows] = seen["points"][rows][:, list(MEDIAPIPE_68)]
        known = np.isfinite(points).all((1, 2))
        out = np.full((len(pictures), 128), np.nan, np.float32)
        if known.any():
            tensor = from_uint8(pictures[known]).to(self.device)
            where = torch.from_numpy(points[known] * pictures.shape[1]).to(self.device)
            out[known] = self.network.raw(self.network.align(tensor, where)).float().cpu().numpy()
        return {"descriptor": out}


class FeatureInstrument:
    """Image features of a network with `features`."""

    def __init__(self, network: ImageFeatures | InceptionFeatures, device: torch.device | str = "cpu") -> None:
        self.network, self.device = network.to(device), torch.device(device)

    @torch.no_grad()
    def look(self, pictures: Picture, context: Context) -> Arrays:
        """`features` (n, ...)."""
        tensor = from_uint8(pictures).to(self.device)
        return {"features": self.network.features(tensor).float().cpu().numpy()}


class AnalyserInstrument:
    """Factors, pose and landmarks of aligned portraits by the analyser's network."""

    def __init__(self, path: Path | None = None, device: torch.device | str = "cpu") -> None:
        self.network, self.device = load_analyser(path).network.eval().to(device), torch.device(device)

    @torch.no_grad()
    def look(self, pictures: Picture, context: Context) -> Arrays:
        """shape, albedo, expression, illumination, rotation (n, 3, 3), points (n, 546, 2)."""
        tensor, size = from_uint8(pictures).to(self.device), self.network.config.size
        if tensor.shape[-1] != size:
            tensor = torch.nn.functional.interpolate(tensor, (size, size), mode="bilinear", antialias=True)
        said = self.network(tensor)
        names = ("shape", "albedo", "expression", "illumination", "rotation", "points")
        return {name: getattr(said, name).float().cpu().numpy() for name in names}


def open_instrument(name: str, files: InstrumentFiles, device: torch.device | str = "cpu") -> Instrument:
    """Make an instrument ready.

    Raises:
        CopoError: A file or package is missing; the message says how to get it.
    """
    if name == "mediapipe":
        return MediaPipeInstrument(files.mediapipe)
    if name in ("dlib", "dlib_asked"):
        return DlibInstrument(_dlib(files.dlib), device, measured=name == "dlib")
    if name == "efficientnet":
        return FeatureInstrument(ImageFeatures.load(files.efficientnet), device)
    if name == "inception":
        return FeatureInstrument(InceptionFeatures.load(files.inception), device)
    return AnalyserInstrument(files.analyser, device)


def _dlib(path: Path | None) -> DlibDescriptor:
    if path is not None and path.suffix == ".npz":
        return DlibDescriptor.from_face_api({k: np.asarray(v, np.float32) for k, v in read_arrays(path).items()}).eval()
    return DlibDescriptor.load(path)


@dataclass
class Looker:
    """Instruments that are opened when they are first needed, and what is known to be missing.

    Attributes:
        files: Files of the user.
        device: Of the networks; MediaPipe runs on the CPU.
        workers: Processes for MediaPipe.
        say: Gets lines of progress.
    """

    files: InstrumentFiles
    device: torch.device
    workers: int = 1
    say: Say = print

    def __post_init__(self) -> None:
        self._open: dict[str, Instrument] = {}
        self._missing: dict[str, str] = {}

    def missing(self, name: str) -> str | None:
        """Why an instrument cannot be used, or None."""
        if name not in self._missing and name not in self._open:
            try:
                self._open[name] = open_instrument(name, self.files, self.device)
            except CopoError as error:
                self._missing[name] = str(error)
        for needed in NEEDS.get(name, ()):
            if why := self.missing(needed):
                return why
        return self._missing.get(name)

    def look(
        self, pictures: PictureSet, name: str, points68: NDArray[np.float32] | None, rank: int = 0, world: int = 1
    ) -> None:
        """Measure what is not measured yet of this process's files of a set."""
        todo = [i for i in range(rank, pictures.chunks, world) if not pictures.seen_path(name, i).is_file()]
        if not todo:
            return
        workers = min(self.workers, len(todo) // _WORTH)
        if name == "mediapipe" and workers > 1 and type(pictures) is PictureSet:
            self._look_together(pictures, todo, workers)
            return
        instrument = self._open[name]
        for done, number in enumerate(todo):
            rows = slice(number * CHUNK, (number + 1) * CHUNK)
            earlier = {n: pictures.seen_chunk(n, number) for n in NEEDS.get(name, ())}
            context = Context(None if points68 is None else points68[rows], earlier)
            write_arrays(pictures.seen_path(name, number), instrument.look(pictures.pictures(number), context))
            if done % 20 == 19:
                self.say(f"  {name}: {done + 1} of {len(todo)} files")

    def _look_together(self, pictures: PictureSet, todo: list[int], workers: int) -> None:
        jobs = [(self.files.mediapipe, pictures.picture_path(i), pictures.seen_path("mediapipe", i)) for i in todo]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for done, _ in enumerate(pool.map(_mediapipe_job, *zip(*jobs, strict=True), chunksize=1)):
                if done % 20 == 19:
                    self.say(f"  mediapipe: {done + 1} of {len(todo)} files")


_WORTH = 4
"""Files for which another process is worth its start."""
_WORKER: dict[Path | None, MediaPipeInstrument] = {}


def _mediapipe_job(model: Path | None, source: Path, target: Path) -> None:
    """One file in a worker process."""
    if model not in _WORKER:
        torch.set_num_threads(1)
        _WORKER[model] = MediaPipeInstrument(model)
    write_arrays(target, _WORKER[model].look(read_pictures(source)))
