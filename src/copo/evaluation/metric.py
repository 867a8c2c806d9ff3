"""What a metric is: its needs, its figures with their targets, and the register of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from copo.errors import CopoError, unknown_name
from copo.evaluation.plans import Plan
from copo.evaluation.store import Arrays, PictureSet
from copo.formats.dataset import PortraitDataset
from copo.head.protocol import HeadModel

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        key: Short name, the same for ever.
        title: For people.
        value: NaN where it could not be measured.
        count: How many pictures, pairs or portraits it rests on.
        target: What it should reach, or None.
        at_least: Whether the target is a lower bound.
        unit: Of the value, e.g. "degrees".
        note: What to know when reading it.
    """

    key: str
    title: str
    value: float
    count: int
    target: float | None = None
    at_least: bool = False
    unit: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without target or value."""
        if self.target is None or math.isnan(self.value):
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True)
class Table:
    """Rows of text with a heading."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Shown:
    """A picture of the report."""

    name: str
    picture: Picture
    caption: str
    photographs: bool = False


@dataclass(frozen=True)
class Result:
    """What a metric found."""

    figures: tuple[Figure, ...]
    tables: tuple[Table, ...] = ()
    pictures: tuple[Shown, ...] = ()


class Evidence(Protocol):
    """Everything that metrics may ask for."""

    @property
    def head(self) -> HeadModel: ...

    @property
    def data(self) -> PortraitDataset: ...

    def plan(self, name: str) -> Plan:
        """What was asked for in a set."""
        ...

    def pictures(self, name: str) -> PictureSet:
        """Its pictures."""
        ...

    def has(self, name: str) -> bool:
        """Whether a set was rendered."""
        ...

    def seen(self, name: str, instrument: str) -> Arrays:
        """What an instrument saw in them; "dlib" may be answered by "dlib_asked"."""
        ...

    def reals(self, instrument: str) -> Arrays:
        """What it saw in the data set's portraits, row by row."""
        ...

    @property
    def compared(self) -> Sequence[int]:
        """Rows of the data set that quality is compared with."""
        ...

    @property
    def source(self) -> Any:
        """What makes pictures, where it is at hand, or None."""
        ...


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: At the command line.
        title: For people.
        measure: Computes it.
        sets: Picture sets that it needs.
        references: Sets that it uses where they can be made.
        instruments: Instruments and the sets they look at: (instrument, set); "reals" is the data set,
            "photographs" the part of it that quality is compared with.
        data: Whether it needs the data set.
        head: Whether it needs the head model.
        source: Whether it needs the model itself.
        quick: Whether it is part of a first look.
        least: Fewest pictures of the first set (and portraits of the data set) that it makes sense with.
    """

    name: str
    title: str
    measure: Callable[[Evidence], Result]
    sets: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    instruments: tuple[tuple[str, str], ...] = ()
    data: bool = False
    head: bool = False
    source: bool = False
    quick: bool = True
    least: int = 2


METRICS: dict[str, Metric] = {}
"""All metrics by name."""


def register(metric: Metric) -> Metric:
    """Add a metric to the register.

    Raises:
        CopoError: Its name is taken.
    """
    if metric.name in METRICS:
        raise CopoError(f"metric {metric.name} is registered twice")
    METRICS[metric.name] = metric
    return metric


PARTS: tuple[str, ...] = ("quality", "control", "shape", "blending", "privacy", "speed")
"""Modules of this package in the order of the report."""


def every_metric() -> list[Metric]:
    """All registered metrics in the order of the report; those of others come last."""
    places = {f"copo.evaluation.{part}": i for i, part in enumerate(PARTS)}
    return sorted(METRICS.values(), key=lambda m: places.get(m.measure.__module__, len(PARTS)))


def chosen_metrics(names: str, quick: bool) -> list[Metric]:
    """Metrics for a list with commas; "all" for all of them.

    Raises:
        CopoError: A name is unknown.
    """
    wanted = [part.strip() for part in names.split(",") if part.strip()]
    if not wanted:
        raise CopoError("--metrics names nothing: give names with commas, or all")
    if wanted == ["all"]:
        return [m for m in every_metric() if m.quick or not quick]
    for name in wanted:
        if name not in METRICS:
            raise unknown_name("metric", name, [*METRICS, "all"])
    return [m for m in every_metric() if m.name in wanted]


def require(count: int, least: int, metric: str, what: str) -> None:
    """Refuse too little.

    Raises:
        CopoError: Fewer than `least`.
    """
    if count < least:
        raise CopoError(f"metric {metric}: {count} {what} are too few, it needs at least {least}")


def number(value: float, digits: int = 3) -> str:
    """A number for a table."""
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}g}" if abs(value) < 1e4 else f"{value:.0f}"


def to_json(result: Result) -> dict[str, Any]:
    """Plain data, without the pictures."""
    return {
        "results": {f.key: None if math.isnan(f.value) else f.value for f in result.figures},
        "figures": [
            {**{k: v for k, v in vars(f).items() if k != "value"}, "value": None if math.isnan(f.value) else f.value}
            for f in result.figures
        ],
        "tables": [
            {"title": t.title, "columns": list(t.columns), "rows": [list(r) for r in t.rows]} for t in result.tables
        ],
        "pictures": [{"name": p.name, "caption": p.caption} for p in result.pictures],
    }


def figures_from_json(body: Mapping[str, Any]) -> list[Figure]:
    """The figures of a stored result."""
    return [Figure(**{**f, "value": float("nan") if f["value"] is None else f["value"]}) for f in body["figures"]]


@dataclass
class Noted:
    """Figures being collected."""

    figures: list[Figure] = field(default_factory=list)

    def add(self, key: str, title: str, value: float, count: int, **more: Any) -> None:
        """Append one."""
        self.figures.append(Figure(key, title, float(value), int(count), **more))
