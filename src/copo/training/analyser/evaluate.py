"""How good an analyser is, on photographs of people kept out of training and on renders of people who do not exist."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from copo.factors import ARKIT_NAMES
from copo.head.open_head import OpenHead
from copo.training.analyser.batch import IGNORE
from copo.training.analyser.chance import Chance
from copo.training.analyser.config import KEY_UNITS, CropConfig, LossWeights, SceneConfig
from copo.training.analyser.geometry import Crop
from copo.training.analyser.losses import MEASURED, rotation_error
from copo.training.analyser.mixing import PhotoBatches
from copo.training.analyser.photos import Stage
from copo.training.analyser.scenes import Scenes
from copo.vision.analyser import Analyser, channels_last, fused
from copo.vision.networks.analyser import AnalyserNetwork, AnalyserOutput
from copo.vision.protocols import Face, Picture

VARIES = 0.05
"""Standard deviation of the teacher's values from which a unit counts as varying."""
MAX_YAW = 45.0
"""Degrees up to which landmarks are measured."""
_EYES = (slice(36, 42), slice(42, 48))


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: What it is.
        value: The number; NaN where there is nothing to measure it on.
        target: What the project asks for, or None.
        at_least: Whether larger is better.
        count: Pictures, pairs or units behind it.
    """

    name: str
    value: float
    target: float | None = None
    at_least: bool = False
    count: int = 0

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a target or value."""
        if self.target is None or self.value != self.value:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@torch.no_grad()
def evaluate(
    network: AnalyserNetwork, stage: Stage, head: OpenHead, device: torch.device | str = "cpu", batch: int = 64,
    renders: int = 256,
) -> list[Figure]:  # fmt: skip
    """All figures.

    Args:
        network: The analyser.
        stage: Only its people kept out of training are looked at.
        head: The open head.
        device: Where to compute.
        batch: Pictures at a time.
        renders: Rendered heads for the exact part; 0 leaves it out.
    """
    net = channels_last(fused(network).to(device))
    test = stage.part(test=True).to(device)
    figures = []
    if len(test.photos):
        figures += on_photographs(net, test, batch)
    if renders:
        figures += on_renders(net, head.to(device), test.panoramas, renders, batch)
    return figures


@torch.no_grad()
def on_photographs(network: AnalyserNetwork, stage: Stage, batch: int = 64) -> list[Figure]:
    """Against the teachers: MediaPipe's landmarks and blendshapes, the fits' poses, the prepared label maps."""
    photos, size = stage.photos, network.config.size
    source = PhotoBatches(photos, CropConfig(), LossWeights(), size)
    outputs, overlap = [], _Overlap()
    truths = []
    for low in range(0, len(photos), batch):
        index = torch.arange(low, min(low + batch, len(photos)), device=photos.pictures.device)
        count = len(index)
        still = Crop(*(v.to(index.device) for v in (torch.ones(count), torch.zeros(count, 2), torch.zeros(count))))
        wanted = source.batch(index, torch.zeros(count, dtype=torch.bool, device=index.device), still, None)
        output = network(wanted.pictures.contiguous(memory_format=torch.channels_last))
        overlap.add(output.labels.argmax(1), wanted.labels)
        outputs.append(output)
        truths.append(wanted)
    said = AnalyserOutput(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))
    points = torch.cat([t.points for t in truths])
    turn = torch.cat([t.rotation for t in truths])
    figures = []
    # landmarks
    yaw = torch.where(photos.fitted, photos.yaw, _yaw(said.rotation)).abs().rad2deg()
    seen = photos.marked & (yaw < MAX_YAW)
    apart = _interocular(points[:, :68])
    error = (said.points - points).norm(dim=2) / apart[:, None] * 100
    figures.append(_mean_of("landmarks 478, % of the inter-ocular distance", error[:, 68:].mean(1)[seen], 4.0))
    figures.append(_mean_of("landmarks 68 without jaw, %", error[:, 17:68].mean(1)[seen]))
    for number, name in enumerate(photos.collections):
        figures.append(
            _mean_of(f"  landmarks 478, {name}", error[:, 68:].mean(1)[seen & (photos.collection == number)])
        )
    sigma = said.log_sigma_points.exp() / apart[:, None] * 100
    figures.append(_mean_of("  their own standard deviation, %", sigma[:, 68:].mean(1)[seen]))
    # expression
    figures += correlations(said.expression[photos.marked], photos.units[photos.marked])
    # pose
    angle = rotation_error(said.rotation, turn).norm(dim=1).rad2deg()
    figures.append(_mean_of("pose, degrees from the fit", angle[photos.fitted], 3.0))
    told = said.log_sigma[:, -6:-3].exp().norm(dim=1).rad2deg()
    figures.append(_mean_of("  its own standard deviation, degrees", told[photos.fitted]))
    figures += overlap.figures()
    # identity
    if "london" in photos.collections:
        chosen = (photos.collection == photos.collections.index("london")) & photos.fitted
        identity = torch.cat([said.shape, said.albedo], dim=1)
        figures.append(closer_pairs(identity[chosen], photos.person[chosen]))
    return figures


@torch.no_grad()
def on_renders(
    network: AnalyserNetwork, head: OpenHead, panoramas: Tensor, count: int, batch: int = 64
) -> list[Figure]:
    """Against exact labels: clean renders without photographs, of people who were not drawn in training."""
    size, device = network.config.size, next(network.parameters()).device
    scene = SceneConfig(occluded=0.0, glasses=0.0)
    scenes = Scenes(head, scene, CropConfig(rough=0.0), size, None, panoramas)
    rows: dict[str, list[Tensor]] = {"points": [], "pose": [], "expression": [], "shape": []}
    overlap = _Overlap()
    for number in range(0, count, batch):
        wanted = scenes.draw(min(batch, count - number) // 2 * 2, Chance(device, 987_654, 0, number))
        said = network(wanted.pictures.contiguous(memory_format=torch.channels_last))
        apart = _interocular(wanted.points[:, :68])
        error = (said.points - wanted.points).norm(dim=2) * wanted.points_weight / apart[:, None] * 100
        rows["points"].append(error.sum(1) / wanted.points_weight.sum(1).clamp_min(1))
        rows["pose"].append(rotation_error(said.rotation, wanted.rotation).norm(dim=1).rad2deg())
        rows["expression"].append((said.expression - wanted.expression).abs().mean(1))
        rows["shape"].append((said.shape - wanted.shape)[:, :10].abs().mean(1))
        overlap.add(said.labels.argmax(1), wanted.labels)
    names = {
        "points": "renders: landmarks, % of the inter-ocular distance", "pose": "renders: pose, degrees",
        "expression": "renders: mean error of expression units", "shape": "renders: mean error of the first 10 shapes",
    }  # fmt: skip
    figures = [_mean_of(text, torch.cat(rows[key])) for key, text in names.items()]
    return figures + [
        Figure(f"renders: {f.name}", f.value, None, f.at_least, f.count)
        for f in overlap.figures()
        if f.target is not None
    ]


def correlations(said: Tensor, teacher: Tensor) -> list[Figure]:
    """Pearson's correlation over photographs, of the key units and on average over the units that vary.

    Args:
        said: (B, 52) units, ARKit's in alphabetical order.
        teacher: (B, 52).
    """
    index = {name: i for i, name in enumerate(ARKIT_NAMES)}
    figures = []
    for name, units in KEY_UNITS.items():
        columns = [index[u] for u in units]
        value = pearson(said[:, columns].mean(1), teacher[:, columns].mean(1))
        figures.append(Figure(f"expression, correlation of {name}", value, 0.85, True, len(said)))
    varying = [i for i in range(teacher.shape[1]) if len(teacher) > 1 and float(teacher[:, i].std()) > VARIES]
    values = [pearson(said[:, i], teacher[:, i]) for i in varying]
    mean = float(np.mean(values)) if values else float("nan")
    figures.append(Figure("expression, mean correlation of units that vary", mean, 0.6, True, len(varying)))
    return figures


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two vectors; NaN below two values, 0 where one does not vary."""
    if len(a) < 2:
        return float("nan")
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    size = a.norm() * b.norm()
    return float(a @ b / size) if float(size) > 1e-12 else 0.0


def closer_pairs(identity: Tensor, person: Tensor) -> Figure:
    """Over all pairs of photographs of one person and all photographs of others: how often the pair is closer.

    Args:
        identity: (B, K) coefficients.
        person: (B,).
    """
    distance = torch.cdist(identity.double(), identity.double())
    same = person[:, None] == person
    itself = torch.eye(len(person), dtype=torch.bool, device=person.device)
    won = total = 0
    for row in range(len(person)):
        mates, others = distance[row][same[row] & ~itself[row]], distance[row][~same[row]]
        won += int((mates[:, None] < others).sum())
        total += len(mates) * len(others)
    value = 100 * won / total if total else float("nan")
    return Figure("identity: pairs of one person closer than of two, % (london)", value, 95.0, True, total)


@torch.inference_mode()
def speeds(network: AnalyserNetwork, analyser: Analyser, picture: Picture, seconds: float = 3.0) -> list[Figure]:
    """Photographs a second of the whole adapter, and portraits a second of the network.

    Args:
        network: The network; its own device decides which target holds.
        analyser: The adapter.
        picture: (H, W, 3) uint8 with a face.
        seconds: How long to measure each.
    """
    device = next(network.parameters()).device
    face = analyser.detect(picture)
    # an untrained network finds no face: look in the middle then, which costs as much
    at = None if face else [_middle(picture)]
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        if at is not None:
            analyser.detect(picture)
        analyser.analyse(picture, at)
        count += 1
    adapter = count / (time.perf_counter() - begin)
    net = channels_last(fused(network))
    batch = 256 if device.type == "cuda" else 4
    pictures = torch.zeros(batch, 3, network.config.size, network.config.size, device=device)
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        net(pictures)
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            net(pictures)
            if device.type == "cuda":
                torch.cuda.synchronize()
            count += batch
        rate = count / (time.perf_counter() - begin)
    gpu = device.type == "cuda"
    return [
        Figure("speed: photographs a second, whole adapter", adapter, None if gpu else 10.0, True, 1),
        Figure("speed: portraits a second, network", rate, 1000.0 if gpu else None, True, batch),
    ]


def table(figures: list[Figure]) -> str:
    """Plain text for a person."""
    width = max((len(f.name) for f in figures), default=0)
    lines = []
    for figure in figures:
        target = ""
        if figure.target is not None:
            verdict = {True: "met", False: "NOT met", None: "not measured"}[figure.met]
            target = f"  target {'>=' if figure.at_least else '<='} {figure.target:g}: {verdict}"
        lines.append(f"{figure.name:<{width}}  {figure.value:9.4g}  n={figure.count}{target}")
    return "\n".join(lines)


def to_json(figures: list[Figure]) -> list[dict[str, object]]:
    """Plain data."""
    return [{**asdict(f), "value": None if f.value != f.value else f.value, "met": f.met} for f in figures]


class _Overlap:
    """Sums of intersections and unions."""

    def __init__(self) -> None:
        self._both: dict[str, int] = dict.fromkeys(MEASURED, 0)
        self._either: dict[str, int] = dict.fromkeys(MEASURED, 0)
        self._pictures = 0

    def add(self, said: Tensor, wanted: Tensor) -> None:
        """(B, h, w) classes, twice; `IGNORE` does not count."""
        known = wanted != IGNORE
        self._pictures += int(known.flatten(1).any(1).sum())
        for name, classes in MEASURED.items():
            choice = torch.tensor(classes, device=said.device)
            a, b = torch.isin(said, choice) & known, torch.isin(wanted, choice)
            self._both[name] += int((a & b).sum())
            self._either[name] += int((a | b).sum())

    def figures(self) -> list[Figure]:
        """Each group's intersection over union, and their mean."""
        each = {n: self._both[n] / self._either[n] for n in MEASURED if self._either[n]}
        mean = float(np.mean(list(each.values()))) if len(each) == len(MEASURED) else float("nan")
        out = [Figure("labels, mean IoU", mean, 0.85, True, self._pictures)]
        return out + [Figure(f"  IoU of {name}", value, None, True, self._pictures) for name, value in each.items()]


def _mean_of(name: str, values: Tensor, target: float | None = None) -> Figure:
    return Figure(name, float(values.mean()) if len(values) else float("nan"), target, False, len(values))


def _interocular(points68: Tensor) -> Tensor:
    """(B,) distance of the eyes' centres."""
    left, right = (points68[:, eye].mean(1) for eye in _EYES)
    return (left - right).norm(dim=1).clamp_min(1e-3)


def _yaw(rotation: Tensor) -> Tensor:
    return torch.atan2(-rotation[:, 2, 0], rotation[:, :2, 0].norm(dim=1))


def _middle(picture: Picture) -> Face:
    height, width = picture.shape[:2]
    half = min(height, width) / 2
    box = np.array([width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half], np.float32)
    return Face(box, 1.0)
