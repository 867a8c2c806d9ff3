"""Picture sets: which portraits are rendered, under which changes, and what was asked for in each.

A plan is data. It follows from the source, the counts and the seeds alone, so that it can be rendered in pieces, on
several machines, and measured elsewhere.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from copo.camera import Camera, turn_cameras
from copo.errors import CopoError
from copo.evaluation.sources import PortraitSource, Request, frontal_camera
from copo.factors import Factors, FactorSpec
from copo.formats.atomic import write_bytes
from copo.formats.dataset import PortraitDataset
from copo.formats.factor_files import load_factors, save_factors
from copo.illumination import NEUTRAL_LIGHT, direction_from_angles, directional_light, normalise_exposure
from copo.training.conditioning import pose_of

KEY_UNITS: dict[str, tuple[str, ...]] = {
    "jawOpen": ("jawOpen",),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "eyeBlink": ("eyeBlinkLeft", "eyeBlinkRight"),
    "browInnerUp": ("browInnerUp",),
}
"""The controls whose strength is measured over many people, and their ARKit units."""

YAWS: tuple[float, ...] = (-45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0)
"""Degrees of the pose set; 0 first makes no difference."""

PITCHES: tuple[float, ...] = (-15.0, 15.0)
"""Degrees, at yaw 0."""

LAMPS: tuple[tuple[float, float, tuple[float, float, float]], ...] = (
    (-70.0, 10.0, (1.0, 1.0, 1.0)),
    (70.0, 10.0, (1.0, 1.0, 1.0)),
    (-40.0, 35.0, (1.0, 0.85, 0.7)),
    (40.0, 35.0, (0.75, 0.88, 1.0)),
    (0.0, 75.0, (1.0, 1.0, 1.0)),
    (0.0, -50.0, (1.0, 1.0, 1.0)),
)
"""Azimuth and elevation in degrees, colour. 1 where the intensity is `LAMP` beside an ambient light of `AMBIENT`."""
LAMP, AMBIENT = 0.9, 0.35
"""Of every lamp, before the exposure is brought to `EXPOSURE`."""
EXPOSURE = 0.85
"""Mean shading of the front: bright without burning out light skin."""

TURN = 30.0
"""Degrees of yaw of a changed pose in the identity set."""

SEED_STEP = 1_000_000
"""Sets use seeds of their own: the samples' begin at 0, the others' at multiples of this."""


@dataclass(frozen=True)
class Counts:
    """How much is measured. The defaults are for figures that are published; `Counts.quick` is for a first look."""

    samples: int = 2000
    """Random portraits for quality and privacy."""
    pose_people: int = 220
    """People of the pose set, nine poses each."""
    unit_people: int = 120
    """People over whom each key unit is swept."""
    unit_steps: int = 4
    """Strengths above zero, up to 1."""
    every_unit_people: int = 20
    """People on whom every ARKit unit is tried."""
    every_unit_steps: int = 2
    """Strengths above zero."""
    light_people: int = 220
    """People under lamps and sampled lights."""
    sampled_lights: int = 2
    """Lights from the prior, besides the lamps."""
    identity_people: int = 330
    """People with changed pose, expression and light, six pictures each."""
    groups: int = 50
    """Groups of each factor in which only this factor varies, ten pictures each."""
    clip_people: int = 40
    """People whose expression moves."""
    clip_frames: int = 25
    """Frames of each clip, rendered with and without blending."""
    reference_people: int = 12
    """People of the reference sets, which the head itself renders: what instruments say of perfect control."""

    photographs: int = 0
    """Photographs that quality is compared with, randomly drawn; 0 for all."""

    @classmethod
    def quick(cls) -> Counts:
        """Some hundred pictures in all, for two CPU cores."""
        return cls(150, 6, 6, 2, 1, 1, 5, 1, 12, 3, 2, 7, 2, 400)

    @classmethod
    def scaled(cls, samples: int) -> Counts:
        """All counts in proportion to a number of samples."""
        whole, share = cls(), samples / cls().samples
        some = {k: max(round(v * share), 2) for k, v in vars(whole).items() if k.endswith("people") or k == "groups"}
        return cls(samples=samples, **some)


@dataclass(frozen=True)
class Plan:
    """One picture set.

    Attributes:
        name: Of the set.
        factors: (N) what is asked for.
        camera: (N).
        columns: (N,) numbers that tell what each picture is, such as the person, the yaw in degrees, a strength.
        words: Lists that columns point into (names of units, ...), and the like.
        maps: Maps that are kept beside the pictures.
        reference: (N) frames that blended pictures hold on to, or None.
        condition: (N, 2) pose that planes are conditioned on, or None for the model's own habit.
        blend: What is held still where the column `blended` is 1.
    """

    name: str
    factors: Factors
    camera: Camera
    columns: dict[str, NDArray[np.float64]]
    words: dict[str, Any] = field(default_factory=dict)
    maps: tuple[str, ...] = ()
    reference: Factors | None = None
    condition: Tensor | None = None
    blend: str = "still"

    def __len__(self) -> int:
        return len(self.factors)

    def requests(self, rows: slice) -> list[Request]:
        """The rows as runs of one kind of blending, in order."""
        start, stop, _ = rows.indices(len(self))
        blended = self.columns.get("blended", np.zeros(len(self)))[start:stop] > 0
        edges = [0, *(np.flatnonzero(np.diff(blended.astype(int))) + 1).tolist(), stop - start]
        out = []
        for a, b in itertools.pairwise(edges):
            span = slice(start + a, start + b)
            out.append(
                Request(
                    self.factors[span],
                    self.camera[span],
                    self.blend if blended[a] else "none",
                    None if self.reference is None else self.reference[span],
                    None if self.condition is None else self.condition[span],
                    self.maps,
                )
            )
        return out


# --- building ---------------------------------------------------------------------------------------------------

Builder = Callable[[PortraitSource, Counts, "PortraitDataset | None", str], Plan]


def build_plan(
    name: str, source: PortraitSource, counts: Counts, data: PortraitDataset | None = None, blend: str = "still"
) -> Plan:
    """The picture set of a name.

    Args:
        name: A key of `PLANS`.
        source: Whose random portraits are used.
        counts: How many.
        data: Where cameras come from: poses as photographs have them, and how a head is framed.
        blend: What is held still in the clip set.
    """
    return PLANS[name](source, counts, data, blend)


def _samples(source: PortraitSource, counts: Counts, data: PortraitDataset | None, blend: str) -> Plan:
    seeds = list(range(counts.samples))
    camera = data_cameras(data, counts.samples)
    return Plan("samples", source.sample(seeds, camera), camera, {"seed": np.array(seeds, np.float64)})


def _samples3d(source: PortraitSource, counts: Counts, data: PortraitDataset | None, blend: str) -> Plan:
    plan = _samples(source, counts, data, blend)
    order = torch.randperm(len(plan), generator=torch.Generator().manual_seed(3))
    return Plan("samples3d", plan.factors, plan.camera, plan.columns, condition=pose_of(plan.camera)[order])


def _pose(source: PortraitSource, counts: Counts, data: PortraitDataset | None, blend: str) -> Plan:
    views = [(yaw, 0.0) for yaw in YAWS] + [(0.0, pitch) for pitch in PITCHES]
    people = relaxed(source.sample(_seeds(1, counts.pose_people)))
    return _crossed("pose", people, _front(source, data), views, maps=("depth", "alpha", "labels"))


def _units(source: PortraitSource, counts: Counts, data: PortraitDataset | None, blend: str) -> Plan:
    names = {n: u for n, u in KEY_UNITS.items() if set(u) <= set(source.spec.expression_names)}
    steps = [(i + 1) / counts.unit_steps for i in range(counts.unit_steps)]
    return _swept("units", source, names, steps, counts.unit_people, 2, data)


def _every_unit(source: PortraitSource, counts: Counts, data: PortraitDataset | None, blend: str) -> Plan:
    names: dict[str, tuple[str, ...]] = {n: (n,) for n in source.spec.expression_names}
    steps = [(i + 1) / counts.every_unit_steps for i in range(counts.every_unit_steps)]
    return _swept("every_unit", source, names, steps, counts.every_unit_people, 3, data)


def _swept(
    name: str,
    source: PortraitSource,
    units: dict[str, tuple[str, ...]],
    steps: list[float],
    count: int,
    block: int,
    data: PortraitDataset | None,
) -> Plan:
    """People without expression, and with each unit alone at each strength."""
    spec = source.spec
    index = {n: i for i, n in enumerate(spec.expression_names)}
    high = spec.expression_range[1] if math.isfinite(spec.expression_range[1]) else 1.0
    rows, unit, strength = [torch.zeros(spec.expression)], [-1.0], [0.0]
    for number, members in enumerate(units.values()):
        for step in steps:
            row = torch.zeros(spec.expression)
            row[[index[m] for m in members]] = step * high
            rows.append(row)
            unit.append(float(number))
            strength.append(step * high)
    people = relaxed(source.sample(_seeds(block, count)))
    each = len(rows)
    factors = _repeat(people, each).replace(expression=torch.stack(rows).repeat(count, 1))
    columns = {
        "person": np.repeat(np.arange(count, dtype=np.float64), each),
        "unit": np.tile(unit, count),
        "strength": np.tile(strength, count),
    }
    camera = _front(source, data).expand(len(factors))
    return Plan(name, factors, camera, columns, {"units": {n: list(m) for n, m in units.items()}})


def _light(source: PortraitSource, counts: Counts, data: PortraitDataset | None, blend: str) -> Plan:
    people = relaxed(source.sample(_seeds(4, counts.light_people)))
    lamps = torch.stack([lamp_light(*lamp) for lamp in LAMPS])
    rows, kinds = [], []
    each = 1 + len(lamps) + counts.sampled_lights
    for person in range(counts.light_people):
        seeds = [
            4 * SEED_STEP + counts.light_people + person * counts.sampled_lights + k
            for k in range(counts.sampled_lights)
        ]
        sampled = source.sample(seeds).illumination if seeds else lamps[:0]
        rows.append(torch.cat([NEUTRAL_LIGHT[None], lamps, sampled]))
        kinds += [0.0] + [1.0] * len(lamps) + [2.0] * len(sampled)
    factors = _repeat(people, each).replace(illumination=torch.cat(rows))
    columns = {"person": np.repeat(np.arange(counts.light_people, dtype=np.float64), each), "kind": np.array(kinds)}
    return Plan("light", factors, _front(source, data).expand(len(factors)), columns)


def _identity(source: PortraitSource, counts: Counts, data: PortraitDataset | None, blend: str) -> Plan:
    count = counts.identity_people
    people = source.sample(_seeds(5, count))
    base = relaxed(people).replace(illumination=NEUTRAL_LIGHT[None])
    other = source.sample(_seeds(6, count))
    strong = torch.stack([_strong_expression(source.spec, i) for i in range(count)])
    lamps = torch.stack([lamp_light(*LAMPS[i % len(LAMPS)]) for i in range(count)])
    kinds = ["base", "pose +", "pose -", "expression", "light", "all"]
    variants = [
        base,
        base,
        base,
        base.replace(expression=strong),
        base.replace(illumination=lamps),
        base.replace(expression=other.expression, illumination=other.illumination),
    ]
    front = _front(source, data)
    yaws = [0.0, TURN, -TURN, 0.0, 0.0, TURN]
    each = len(kinds)
    order = torch.arange(each * count).view(each, count).T.reshape(-1)  # person by person
    factors = Factors.cat(variants)[order]
    camera = _turned(front, np.tile(yaws, count), np.zeros(each * count))
    columns = {
        "person": np.repeat(np.arange(count, dtype=np.float64), each),
        "kind": np.tile(np.arange(each, dtype=np.float64), count),
    }
    return Plan("identity", factors, camera, columns, {"kinds": kinds})


VARIED: tuple[str, ...] = ("identity", "expression", "illumination", "pose")
"""Factors of the disentanglement score."""
VARIATIONS = 10
"""Pictures of each group (DiscoFaceGAN, section 4.2)."""


def _groups(source: PortraitSource, counts: Counts, data: PortraitDataset | None, blend: str) -> Plan:
    parts, yaws, pitches, varied, group = [], [], [], [], []
    random = np.random.default_rng(7)
    total = len(VARIED) * counts.groups
    base = source.sample(_seeds(7, total))
    for number in range(total):
        which = VARIED[number // counts.groups]
        seeds = [8 * SEED_STEP + number * VARIATIONS + k for k in range(VARIATIONS)]
        some = _repeat(base[number], VARIATIONS)
        yaw, pitch = np.full(VARIATIONS, random.normal(0, 0.3)), np.full(VARIATIONS, random.normal(0, 0.155))
        if which == "pose":
            yaw, pitch = random.normal(0, 0.3, VARIATIONS), random.normal(0, 0.155, VARIATIONS)
        else:
            some = some.replace(**{which: getattr(source.sample(seeds), which)})
        parts.append(some)
        yaws.append(np.degrees(yaw.clip(-0.7, 0.7)))
        pitches.append(np.degrees(pitch.clip(-0.35, 0.35)))
        varied += [float(VARIED.index(which))] * VARIATIONS
        group += [float(number)] * VARIATIONS
    camera = _turned(_front(source, data), np.concatenate(yaws), np.concatenate(pitches))
    return Plan(
        "groups",
        Factors.cat(parts),
        camera,
        {"varied": np.array(varied), "group": np.array(group)},
        {"factors": list(VARIED)},
    )


def _clip(source: PortraitSource, counts: Counts, data: PortraitDataset | None, blend: str) -> Plan:
    count, frames = counts.clip_people, counts.clip_frames
    people = relaxed(source.sample(_seeds(9, count)))
    phase = torch.linspace(0, 1, frames)
    wave = torch.stack([(0.5 - 0.5 * (2 * math.pi * phase).cos()), phase.mul(2 * math.pi).sin().clamp_min(0)], dim=1)
    first, second = (_expression(source.spec, u) for u in (("jawOpen", 0.7), ("smile", 0.9)))
    moving = wave[:, :1] * first + wave[:, 1:] * second
    low, high = source.spec.expression_range
    moving = moving.clamp(max(low, -10.0), min(high, 10.0))
    each = 2 * frames
    reference = _repeat(people, each)
    factors = reference.replace(expression=moving.repeat(2 * count, 1))
    columns = {
        "person": np.repeat(np.arange(count, dtype=np.float64), each),
        "blended": np.tile(np.repeat([0.0, 1.0], frames), count),
        "frame": np.tile(np.arange(frames, dtype=np.float64), 2 * count),
    }
    camera = _front(source, data).expand(len(factors))
    return Plan("clip", factors, camera, columns, {}, ("labels",), reference, None, blend)


HEAD_SUFFIX = "_head"
"""Sets whose name ends so are rendered by the head model itself."""


def _as_reference(name: str) -> Builder:
    def build(source: PortraitSource, counts: Counts, data: PortraitDataset | None, blend: str) -> Plan:
        few = counts.reference_people
        some = replace(counts, pose_people=min(few, counts.pose_people), unit_people=min(few, counts.unit_people))
        return replace(PLANS[name](source, some, data, blend), name=name + HEAD_SUFFIX, maps=())

    return build


PLANS: dict[str, Builder] = {
    "samples": _samples,
    "samples3d": _samples3d,
    "pose": _pose,
    "units": _units,
    "every_unit": _every_unit,
    "light": _light,
    "identity": _identity,
    "groups": _groups,
    "clip": _clip,
    "pose_head": _as_reference("pose"),
    "units_head": _as_reference("units"),
}
"""Picture sets by name."""


# --- parts ------------------------------------------------------------------------------------------------------


def relaxed(factors: Factors) -> Factors:
    """The same people without expression."""
    return factors.replace(expression=torch.zeros(1, factors.spec.expression))


def lamp_light(azimuth: float, elevation: float, colour: tuple[float, float, float]) -> Tensor:
    """(27,) one of the lamps, azimuth and elevation in degrees."""
    direction = direction_from_angles(math.radians(azimuth), math.radians(elevation))
    return normalise_exposure(directional_light(direction, colour, LAMP, AMBIENT), EXPOSURE)


def data_cameras(data: PortraitDataset | None, count: int) -> Camera:
    """Cameras of randomly drawn portraits, or the method's random poses without a data set."""
    random = torch.Generator().manual_seed(1)
    if data is not None and len(data):
        return data.cameras[torch.randint(len(data), (count,), generator=random)]
    angles = torch.randn(count, 2, generator=random) * torch.tensor([0.155, 0.3]) + math.pi / 2
    return Camera.from_pitch_yaw(angles[:, 0], angles[:, 1])


def _turned(front: Camera, yaws: NDArray[np.float64], pitches: NDArray[np.float64]) -> Camera:
    radians = (torch.tensor(np.radians(v), dtype=torch.float32) for v in (yaws, pitches))
    return turn_cameras(front.expand(len(yaws)), *radians)


def _front(source: PortraitSource, data: PortraitDataset | None) -> Camera:
    """How the data set frames heads from the front, or without one how the model does."""
    return source.front if data is None else frontal_camera(data)


def _crossed(
    name: str,
    people: Factors,
    front: Camera,
    views: list[tuple[float, float]],
    maps: tuple[str, ...],
) -> Plan:
    count, each = len(people), len(views)
    yaws = np.tile([yaw for yaw, _ in views], count)
    pitches = np.tile([pitch for _, pitch in views], count)
    columns = {"person": np.repeat(np.arange(count, dtype=np.float64), each), "yaw": yaws, "pitch": pitches}
    return Plan(name, _repeat(people, each), _turned(front, yaws, pitches), columns, maps=maps)


def _repeat(factors: Factors, times: int) -> Factors:
    return factors[torch.arange(len(factors)).repeat_interleave(times)]


def _seeds(block: int, count: int) -> list[int]:
    return list(range(block * SEED_STEP, block * SEED_STEP + count))


def _expression(spec: FactorSpec, value: tuple[str, float]) -> Tensor:
    """(expression,) a named expression, or the first coefficients of a head without names."""
    name, strength = value
    known = set(spec.expression_names)
    members = KEY_UNITS.get(name, (name,))
    out = torch.zeros(spec.expression)
    if set(members) <= known:
        out[[spec.expression_names.index(m) for m in members]] = strength
    else:
        out[0 if name == "jawOpen" else 1] = strength
    return out


def _strong_expression(spec: FactorSpec, number: int) -> Tensor:
    """(expression,) one of a few clear expressions in turn."""
    turns = [
        [("smile", 0.9)],
        [("jawOpen", 0.6)],
        [("browInnerUp", 0.9), ("jawOpen", 0.3)],
        [("smile", 0.7), ("jawOpen", 0.3)],
    ]
    out = torch.zeros(spec.expression)
    for value in turns[number % len(turns)]:
        out = torch.maximum(out, _expression(spec, value))
    return out


# --- files ------------------------------------------------------------------------------------------------------


def save_plan(folder: Path, plan: Plan) -> None:
    """Write a plan; `plan.json` comes last."""
    save_factors(folder / "asked.safetensors", plan.factors, plan.camera)
    if plan.reference is not None:
        save_factors(folder / "reference.safetensors", plan.reference)
    body = {
        "name": plan.name,
        "columns": {k: v.tolist() for k, v in plan.columns.items()},
        "words": plan.words,
        "maps": list(plan.maps),
        "blend": plan.blend,
        "reference": plan.reference is not None,
        "condition": None if plan.condition is None else plan.condition.tolist(),
    }
    write_bytes(folder / "plan.json", (json.dumps(body) + "\n").encode())


def load_plan(folder: Path) -> Plan:
    """Read a plan.

    Raises:
        CopoError: It is missing or damaged.
    """
    try:
        body = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        asked = load_factors(folder / "asked.safetensors")
        reference = load_factors(folder / "reference.safetensors").factors if body["reference"] else None
        assert asked.camera is not None
        condition = None if body["condition"] is None else torch.tensor(body["condition"])
        columns = {k: np.array(v, np.float64) for k, v in body["columns"].items()}
        return Plan(
            str(body["name"]),
            asked.factors,
            asked.camera,
            columns,
            dict(body["words"]),
            tuple(body["maps"]),
            reference,
            condition,
            str(body["blend"]),
        )
    except FileNotFoundError:
        raise CopoError(f"{folder}: no picture set lies there; render it first (--render-only)") from None
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise CopoError(f"{folder}: plan.json is damaged; remove the folder and render again") from error
