"""Measure how the analyser reads expression units, and store gains for those that it reads too small.

    python -m tools.calibrate_analyser --data sets/portraits/dataset.zip --out analyser.safetensors

Truth is told twice: by the fits of a data set, in near frontal portraits; and by what portraits of a model were asked
for, one unit (of both sides) at a time. A unit gets a gain only where both agree that it needs one; then it is the
smaller of the two slopes of truth over reading. It has no offset, so that a resting face rests. Gains are measured on
one part of the people, errors on the other. They serve films that drive portraits alone (`copo.animation.follow`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from copo.errors import CopoError
from copo.evaluation.statistics import correlation, slope
from copo.formats.dataset import PortraitDataset
from copo.portrait import Portrait, neutral
from copo.vision.analyser import Analyser
from copo.vision.analyser_file import LARGEST_GAIN, load_analyser, save_analyser
from copo.vision.protocols import Picture, to_tensor

Array = NDArray[np.float64]
GOOD = 0.6
"""Correlation from which a slope is believed."""
NEEDED = 1.2
"""Slope from which a gain is needed."""
FRONTAL = 30.0
"""Degrees of yaw up to which pictures count: in profiles readings of jaws hardly follow the fits."""
ASKED = (0.5, 1.0)
"""Values that portraits are asked for, beside rest."""
_ONE_SIDED = ("jaw", "mouth")
"""Units to the left and to the right that are not two sides of one."""


@dataclass(frozen=True)
class Told:
    """What the analyser read in pictures, and the truth.

    Attributes:
        reading: (N, E).
        truth: (N, E); NaN where a picture says nothing about a unit.
        held: (N,) whether the picture shows one of the people on whom errors are measured.
    """

    reading: Array
    truth: Array
    held: NDArray[np.bool_]


@dataclass(frozen=True)
class Fit:
    """How truth follows the reading of one unit: correlation, slope, and pictures behind them."""

    correlation: float
    slope: float
    count: int


@dataclass(frozen=True)
class Unit:
    """One unit, or both sides of one.

    Attributes:
        name: Without its side where both are meant.
        names: The units.
        fits: One for each source.
        gain: 1 where none is needed or the sources do not agree.
        errors: For each source the root mean squared error on people kept out, as read and with the gain.
    """

    name: str
    names: tuple[str, ...]
    fits: tuple[Fit, ...]
    gain: float
    errors: tuple[tuple[float, float], ...]


@dataclass
class Command:
    """Measure how the analyser reads expression units, and store gains for those that it reads too small."""

    data: Path
    """Data set of copo prepare."""
    out: Path | None = None
    """analyser.safetensors to write: the same weights with the gains."""
    weights: Path | None = None
    """analyser.safetensors to measure; by default the one in the package."""
    model: str | None = None
    """Whose portraits are read; by default the packaged one."""
    people: int = 10
    """Portraits that are asked for expressions; errors are measured on every second."""
    seed: int = 200
    """Of the first of them."""
    test_share: float = 0.12
    """Share of the data set's people on whom errors are measured."""

    def run(self) -> None:
        """Measure, print, write."""
        torch.set_num_threads(1)
        analyser = Analyser.load(self.weights)
        groups = grouped(analyser.spec.expression_names)
        seeds = range(self.seed, self.seed + self.people)
        sources = [
            of_data(analyser, PortraitDataset(self.data), self.test_share),
            of_portraits(analyser, Portrait.from_pretrained(self.model), groups, seeds),
        ]
        units = calibrate(sources, analyser.spec.expression_names, groups)
        print(table(units))
        if self.out is not None:
            file = load_analyser(self.weights)
            gains = {name: round(unit.gain, 3) for unit in units if unit.gain > 1 for name in unit.names}
            save_analyser(self.out, file.network, file.spec, file.notes, gains)
            print(f"wrote {self.out} with gains {gains}")


def grouped(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Units by their name without its side."""
    groups: dict[str, tuple[str, ...]] = {}
    for name in names:
        stem = name.removesuffix("Left").removesuffix("Right")
        key = name if stem in _ONE_SIDED else stem
        groups[key] = (*groups.get(key, ()), name)
    return groups


def of_data(analyser: Analyser, data: PortraitDataset, test_share: float) -> Told:
    """Readings of a data set's near frontal portraits, and their fits."""
    if data.factors is None or data.factors.spec.expression_names != analyser.spec.expression_names:
        raise CopoError(f"data set {data.path}: it has no fits in the units of the analyser")
    place = data.cameras.position
    near = torch.atan2(place[:, 0], place[:, 2]).rad2deg().abs() < FRONTAL
    rows = near.nonzero()[:, 0].tolist()
    held = set(data.split(test_share, test=True))
    reading = np.concatenate([read(analyser, data.image(row)) for row in rows])
    truth = data.factors.expression.double().numpy()[rows]
    return Told(reading, truth, np.array([row in held for row in rows]))


def of_portraits(analyser: Analyser, model: Portrait, groups: dict[str, tuple[str, ...]], seeds: Sequence[int]) -> Told:
    """Readings of a model's portraits, and what they were asked for.

    Gaze is left out: both eyes do not look outwards.
    """
    names = list(analyser.spec.expression_names)
    asked = [(units, value) for key, units in groups.items() if not key.startswith("eyeLook") for value in ASKED]
    reading, truth, held = [], [], []
    for number, seed in enumerate(seeds):
        person = neutral(model.sample(seed=seed))
        for units, value in [((), 0.0), *asked]:
            picture = model.render(person.with_expression(**dict.fromkeys(units, value)), model.camera()).to_uint8()[0]
            reading.append(read(analyser, picture)[0])
            row = np.full(len(names), np.nan if units else 0.0)
            row[[names.index(unit) for unit in units]] = value
            truth.append(row)
            held.append(number % 2 == 1)
    return Told(np.stack(reading), np.stack(truth), np.array(held))


@torch.inference_mode()
def read(analyser: Analyser, picture: Picture) -> Array:
    """(S, S, 3) aligned portrait -> (1, E) units."""
    spec = analyser.spec
    found = analyser.coefficients(to_tensor(picture).to(analyser.device))
    return found[:, spec.identity : spec.identity + spec.expression].double().cpu().numpy()


def calibrate(sources: Sequence[Told], names: Sequence[str], groups: dict[str, tuple[str, ...]]) -> list[Unit]:
    """Gains of all units."""
    out = []
    for key, units in groups.items():
        columns = [list(names).index(unit) for unit in units]
        fits = tuple(fit(*_pairs(source, columns, held=False)) for source in sources)
        gain = gain_of(fits)
        errors = []
        for source in sources:
            reading, truth = _pairs(source, columns, held=True)
            errors.append((_error(reading, truth), _error((gain * reading).clip(max=1), truth)))
        out.append(Unit(key, units, fits, gain, tuple(errors)))
    return out


def fit(reading: Array, truth: Array) -> Fit:
    """The least squares line of truth over reading, (n) and (n)."""
    if len(reading) < 3 or reading.std() < 1e-6 or truth.std() < 1e-6:
        return Fit(0.0, 0.0, len(reading))
    return Fit(correlation(reading, truth), slope(reading, truth), len(reading))


def gain_of(fits: Sequence[Fit]) -> float:
    """The smallest slope where all are good and ask for a gain, at most `LARGEST_GAIN`; otherwise 1."""
    least = min(found.slope for found in fits)
    good = all(found.correlation >= GOOD for found in fits)
    return min(least, LARGEST_GAIN) if good and least >= NEEDED else 1.0


def table(units: Sequence[Unit]) -> str:
    """Columns: correlation and slope by the data set and by portraits, gain, errors before and after by each."""
    data, portraits = f"{'data: corr':>11}{'slope':>7}", f"{'portraits':>11}{'slope':>7}"
    lines = [f"{'unit':18}{data}{portraits}{'gain':>6}   errors: read > with gain"]
    for unit in units:
        said = "".join(
            f"{found.correlation:11.2f}{found.slope:7.2f}" if found.slope else f"{'-':>18}" for found in unit.fits
        )
        errors = "   ".join(
            f"{before:.3f} > {after:.3f}" if unit.gain > 1 else f"{before:.3f}" for before, after in unit.errors
        )
        lines.append(f"{unit.name:18}{said}{unit.gain:6.2f}   {errors}")
    return "\n".join(lines)


def _pairs(source: Told, columns: list[int], held: bool) -> tuple[Array, Array]:
    """(n) readings and (n) truths of units in the one part of the people."""
    rows = source.held == held
    reading, truth = source.reading[rows][:, columns].ravel(), source.truth[rows][:, columns].ravel()
    known = np.isfinite(truth)
    return reading[known], truth[known]


def _error(reading: Array, truth: Array) -> float:
    return float(np.sqrt(np.mean((reading - truth) ** 2))) if len(reading) else float("nan")


if __name__ == "__main__":
    try:
        tyro.cli(Command).run()
    except CopoError as error:
        print(f"calibrate_analyser: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
