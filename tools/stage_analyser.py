"""Pack what the analyser's training reads into one small folder, for a GPU machine that has hardly any packages.

    python -m tools.stage_analyser --data set.zip --photos ../shared/data/portraits \
        --crops ../shared/data/portraits/fairface_crops --panoramas ../shared/data/lighting/hdri_sh9.npz

Fitted portraits come from data sets of `copo prepare` (256 px or more). Their teachers are the fits, the label maps,
MediaPipe's points, and MediaPipe's blendshapes of these points. Crops are photographs that nobody fitted: they get
MediaPipe's points and blendshapes, hair and background where the masks are sure, and no more.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from scipy.spatial import ConvexHull

from copo.errors import CopoError
from copo.formats.dataset import PortraitDataset
from copo.formats.pictures import load_image
from copo.preparation import alignment
from copo.training.analyser.batch import IGNORE
from copo.training.analyser.photos import LABEL_SIZE, SIZE, WIDE_SIZE, Photos, Wide, picture_bytes, save_stage
from copo.vision.litert import LiteModel
from copo.vision.mediapipe import BLENDSHAPE_POINTS, MediaPipeFaces, MediaPipeMasks
from copo.vision.models import find_model
from copo.vision.networks.analyser import TYPICAL_DEPTH
from copo.vision.points import points_68
from copo.vision.portrait_pose import ffhq_square, pose_of
from copo.vision.protocols import Landmarks

Picture = NDArray[np.uint8]
QUALITIES = (95, 90, 85, 80, 75, 70, 65, 60, 55, 50)
"""Qualities that are tried until the stage is small enough."""
_SHAPE, _ALBEDO, _EXPRESSION, _LIGHT = 80, 50, 52, 27
_SEARCH = 640


@dataclass
class Command:
    """Pack photographs and teachers for the analyser's training."""

    data: tuple[Path, ...] = ()
    """Data sets of copo prepare."""
    photos: Path | None = None
    """Folder with the photographs that the data sets were made from, for whole pictures."""
    crops: tuple[Path, ...] = ()
    """Folders of photographs that are only marked, not fitted."""
    panoramas: Path | None = None
    """.npz with `sh` (N, 9, 3)."""
    out: Path = Path("stage/analyser")
    """Folder to write."""
    test_share: float = 0.12
    """Share of people kept out of training."""
    limit_mb: float = 40.0
    """Largest size of everything, 10^6 bytes."""
    kind: Literal["WEBP", "JPEG"] = "WEBP"
    """Of the pictures: WebP is half as large; JPEG where the training machine's Pillow lacks WebP."""
    limit: int = 0
    """Most photographs of each source, for a trial; 0 takes all."""

    def run(self) -> None:
        rows: list[dict[str, object]] = []
        for path in self.data:
            rows += fitted_rows(PortraitDataset(path), self.photos, self.test_share, self.limit)
        for folder in self.crops:
            rows += marked_rows(folder, self.test_share, self.limit)
        if not rows:
            raise CopoError("nothing to pack: give --data or --crops")
        photos, pictures, wide, wholes = gathered(rows)
        sh = np.load(self.panoramas)["sh"] if self.panoramas else np.zeros((0, 9, 3))
        backbone = self._backbone()
        quality = self._quality(pictures, wholes, (self.limit_mb - 0.5) * 1e6 - backbone - 2500 * len(pictures))
        encoded = [picture_bytes(p, quality, self.kind) for p in pictures]
        small = [picture_bytes(p, quality, self.kind) for p in wholes]
        size = save_stage(self.out, photos, encoded, wide, small, torch.from_numpy(sh).float(), {"quality": quality})
        if (size + backbone) / 1e6 > self.limit_mb:
            raise CopoError(f"the stage has {(size + backbone) / 1e6:.1f} MB: raise --limit-mb, or pack less")
        print(
            f"{len(photos)} portraits, {int(photos.fitted.sum())} fitted, {int(photos.test.sum())} of people kept out, "
            f"{len(wholes)} whole pictures, quality {quality}, {(size + backbone) / 1e6:.1f} MB in {self.out}"
        )

    def _quality(self, pictures: list[Picture], wholes: list[Picture], room: float) -> int:
        """The best quality at which everything has room, judged by every twentieth picture."""
        for quality in QUALITIES:
            some = [len(picture_bytes(p, quality, self.kind)) for p in pictures[::20]]
            more = [len(picture_bytes(p, quality, self.kind)) for p in wholes[::20]]
            whole = np.mean(some) * len(pictures) + (np.mean(more) * len(wholes) if more else 0)
            if whole <= room:
                return quality
        return QUALITIES[-1]

    def _backbone(self) -> int:
        """Bytes of the ImageNet weights, without their head, in half precision."""
        state = torch.load(find_model("efficientnet-lite0"), map_location="cpu", weights_only=True)
        kept = {k: v.half().contiguous() for k, v in state.items() if not k.startswith(("_conv_head", "_bn1", "_fc"))}
        kept = {k: v for k, v in kept.items() if not k.endswith("num_batches_tracked")}
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "backbone.safetensors"
        save_file(kept, path)
        return path.stat().st_size


def fitted_rows(data: PortraitDataset, root: Path | None, share: float, limit: int) -> list[dict[str, object]]:
    """A row for each portrait of a data set."""
    if data.factors is None or data.factors.spec.head != "open_head":
        raise CopoError(f"data set {data.path}: it was not fitted with the open head")
    faces = MediaPipeFaces() if root is not None else None
    units = Blendshapes()
    test = set(data.split(share, test=True))
    rotation, translation = pose_of(data.cameras)
    out = []
    people = data.people()
    for i in range(len(data))[: limit or None]:
        picture = data.image(i)
        scale = SIZE / picture.shape[0]
        points = data.points478[i] * scale if data.points478 is not None else np.full((478, 2), np.nan, np.float32)
        marked = bool(np.isfinite(points).all())
        labels = np.full((LABEL_SIZE, LABEL_SIZE), IGNORE, np.uint8)
        if data.has_labels:
            image = Image.fromarray(data.labels(i)).resize((LABEL_SIZE, LABEL_SIZE), Image.Resampling.NEAREST)
            labels = np.array(image)
        row = data.manifest[i]
        factors = data.factors[i]
        whole = None
        if faces is not None and root is not None:
            whole = whole_picture(faces, original(root, row.get("source", "")))
        out.append({
            "picture": resized(picture, SIZE), "labels": labels, "marked": marked,
            "points478": np.nan_to_num(points) / SIZE, "units": units(points) if marked else np.zeros(_EXPRESSION),
            "shape": factors.shape[0].numpy(), "albedo": factors.albedo[0].numpy(),
            "expression": factors.expression[0].numpy(), "illumination": factors.illumination[0].numpy(),
            "rotation": rotation[i].numpy(), "translation": translation[i].numpy(), "fitted": True,
            "person": people[i], "test": i in test, "set": row.get("set") or data.path.stem, "whole": whole,
        })  # fmt: skip
    return out


def marked_rows(folder: Path, share: float, limit: int) -> list[dict[str, object]]:
    """A row for each photograph of a folder in which MediaPipe finds a face."""
    faces, masks, units = MediaPipeFaces(), MediaPipeMasks(), Blendshapes()
    out = []
    names = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    for number, path in enumerate(names[: limit or None]):
        picture = load_image(path)
        found = faces.landmarks(picture)
        if not found:
            continue
        matrix = alignment.ffhq_matrix(points_68(found[0].points), SIZE)
        aligned = alignment.warp(picture, matrix, SIZE)
        points = alignment.apply(matrix, found[0].points)
        labels = sure_labels(masks, aligned, points, matrix, picture.shape)
        test = zlib.crc32(f"{folder.name}/{path.name}".encode()) < int(share * 2**32)
        out.append({
            "picture": aligned, "labels": labels, "marked": True, "points478": points / SIZE, "units": units(points),
            "shape": np.zeros(_SHAPE), "albedo": np.zeros(_ALBEDO), "expression": np.zeros(_EXPRESSION),
            "illumination": np.zeros(_LIGHT), "rotation": np.eye(3), "translation": np.array([0, 0, TYPICAL_DEPTH]),
            "fitted": False, "person": f"{folder.name}/{path.name}", "test": test, "set": folder.name,
            "whole": squared(picture, found[0]) if number % 4 == 0 else None,
        })  # fmt: skip
    return out


def sure_labels(
    masks: MediaPipeMasks,
    aligned: Picture,
    points: NDArray[np.float32],
    matrix: NDArray[np.float64],
    shape: tuple[int, ...],
) -> Picture:
    """(128, 128): hair and background where the masks leave no doubt and the photograph reaches; else unknown."""
    found = masks.masks(aligned)
    labels = np.full((SIZE, SIZE), IGNORE, np.uint8)
    labels[found.person < 0.05] = 0
    labels[found.hair > 0.85] = 17
    face = Image.new("1", (SIZE, SIZE))  # sunglasses and beards are no hair, whatever the mask says
    outline = points[ConvexHull(points).vertices]
    ImageDraw.Draw(face).polygon([(float(x), float(y)) for x, y in outline], fill=1)
    labels[np.asarray(face)] = IGNORE
    back = np.linalg.inv(np.concatenate([matrix, [[0, 0, 1]]]))
    grid = np.stack(np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5), axis=-1)
    where = grid @ back[:2, :2].T + back[:2, 2]
    outside = (where < 0).any(-1) | (where[..., 0] > shape[1]) | (where[..., 1] > shape[0])
    labels[outside] = IGNORE
    return labels[1::2, 1::2]


class Blendshapes:
    """MediaPipe's 51 units from its 478 points, and 0 for tongueOut."""

    def __init__(self) -> None:
        path = find_model("mediapipe-face")
        with zipfile.ZipFile(path) as archive:
            self._model = LiteModel(archive.read("face_blendshapes.tflite"), f"MediaPipe model {path}", 1)

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """(478, 2) in pixels -> (52,)."""
        values = self._model(points[list(BLENDSHAPE_POINTS)][None].astype(np.float32))[(52,)].clip(0, 1)
        return np.append(values[1:], 0).astype(np.float32)


def original(root: Path, source: str) -> Path | None:
    """The photograph of a portrait: the source's longest end that exists below the root."""
    parts = Path(source).parts
    for start in range(len(parts)):
        path = root.joinpath(*parts[start:])
        if path.is_file():
            return path
    return None


def whole_picture(faces: MediaPipeFaces, path: Path | None) -> tuple[Picture, NDArray[np.float64]] | None:
    """A whole photograph in a square of 160 px, and its face's square; None where no single face is found."""
    if path is None:
        return None
    picture = load_image(path)
    scale = min(1.0, _SEARCH / max(picture.shape[:2]))
    if scale < 1:
        size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
        picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    found = faces.landmarks(picture)
    return squared(picture, found[0]) if len(found) == 1 else None


def squared(picture: Picture, marks: Landmarks) -> tuple[Picture, NDArray[np.float64]]:
    """A picture in the middle of a grey square of 160 px, and centre, side, angle of FFHQ's square there."""
    height, width = picture.shape[:2]
    scale = WIDE_SIZE / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    out = np.full((WIDE_SIZE, WIDE_SIZE, 3), 128, np.uint8)
    left, top = (WIDE_SIZE - size[0]) // 2, (WIDE_SIZE - size[1]) // 2
    small = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    out[top : top + size[1], left : left + size[0]] = np.asarray(small)
    centre, side, angle = ffhq_square(torch.from_numpy(marks.points68)[None].double())
    place = (centre[0].numpy() * scale + [left, top]) / WIDE_SIZE
    return out, np.array([*place, float(side) * scale / WIDE_SIZE, float(angle)])


def resized(picture: Picture, size: int) -> Picture:
    """A square picture at another size."""
    if picture.shape[0] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))


def gathered(rows: list[dict[str, object]]) -> tuple[Photos, list[Picture], Wide, list[Picture]]:
    """Rows as tensors. Persons and sets become numbers."""
    sets = tuple(dict.fromkeys(str(r["set"]) for r in rows))
    people = {name: i for i, name in enumerate(dict.fromkeys(str(r["person"]) for r in rows))}

    def stack(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.asarray(r[name], np.float32) for r in rows]))

    def flags(name: str) -> torch.Tensor:
        return torch.tensor([bool(r[name]) for r in rows])

    photos = Photos(
        pictures=torch.zeros(len(rows), 3, 1, 1, dtype=torch.uint8),
        labels=torch.from_numpy(np.stack([np.asarray(r["labels"], np.uint8) for r in rows])),
        **{n: stack(n) for n in ("points478", "units", "shape", "albedo", "expression", "illumination")},
        rotation=stack("rotation"), translation=stack("translation"),
        marked=flags("marked"), fitted=flags("fitted"), test=flags("test"),
        person=torch.tensor([people[str(r["person"])] for r in rows]),
        collection=torch.tensor([sets.index(str(r["set"])) for r in rows]), collections=sets,
    )  # fmt: skip
    with_whole = [r for r in rows if r["whole"] is not None]
    wholes = [r["whole"][0] for r in with_whole]  # type: ignore[index]
    square = np.stack([r["whole"][1] for r in with_whole]) if with_whole else np.zeros((0, 4))  # type: ignore[index]
    empty = torch.zeros(0, 3, WIDE_SIZE, WIDE_SIZE, dtype=torch.uint8)
    wide = Wide(
        empty, torch.from_numpy(square).float(), torch.tensor([bool(r["test"]) for r in with_whole], dtype=torch.bool)
    )
    return photos, [r["picture"] for r in rows], wide, wholes  # type: ignore[misc]


if __name__ == "__main__":
    tyro.cli(Command).run()
