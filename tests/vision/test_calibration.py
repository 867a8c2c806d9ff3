"""Gains of expression units from readings and truth."""

from __future__ import annotations

import numpy as np
import pytest
from tools.calibrate_analyser import Fit, Told, calibrate, fit, gain_of, grouped, table


def test_sides_are_one_unit_but_directions_are_not() -> None:
    groups = grouped(["eyeBlinkLeft", "eyeBlinkRight", "jawLeft", "jawOpen", "jawRight"])
    assert groups == {
        "eyeBlink": ("eyeBlinkLeft", "eyeBlinkRight"),
        "jawLeft": ("jawLeft",),
        "jawOpen": ("jawOpen",),
        "jawRight": ("jawRight",),
    }


def test_the_line_has_an_offset() -> None:
    """0.1 + 2 x reading: the slope is 2, not what a line through zero would have."""
    found = fit(np.array([0.0, 0.1, 0.2]), np.array([0.1, 0.3, 0.5]))
    assert found.slope == pytest.approx(2) and found.correlation == pytest.approx(1) and found.count == 3
    assert fit(np.zeros(4), np.arange(4.0)) == Fit(0, 0, 4)


@pytest.mark.parametrize(
    ("fits", "gain"),
    [
        ([Fit(0.8, 2.4, 9), Fit(0.9, 2.9, 9)], 2.4),  # both agree: the smaller
        ([Fit(0.8, 4.0, 9), Fit(0.9, 3.5, 9)], 3.0),  # the limit
        ([Fit(0.8, 2.4, 9), Fit(0.5, 2.9, 9)], 1.0),  # one does not follow
        ([Fit(0.8, 0.7, 9), Fit(0.9, 3.0, 9)], 1.0),  # one says that it is read too large already
        ([Fit(0.9, 1.1, 9), Fit(0.9, 1.1, 9)], 1.0),  # not needed
    ],
)
def test_a_gain_needs_agreement(fits: list[Fit], gain: float) -> None:
    assert gain_of(fits) == gain


def test_gains_are_measured_on_some_and_judged_on_others() -> None:
    """Jaws are read at half, so the gain is 2. Kept out: 0.3 of 0.5, wrong by 0.2, then by 0.1. NaN says nothing."""
    reading = np.array([[0.0], [0.1], [0.2], [0.3], [0.9]])
    truth = np.array([[0.0], [0.2], [0.4], [0.5], [np.nan]])
    told = Told(reading, truth, np.array([False, False, False, True, True]))
    (unit,) = calibrate([told, told], ["jawOpen"], grouped(["jawOpen"]))
    assert unit.gain == pytest.approx(2)
    np.testing.assert_allclose(unit.errors, [(0.2, 0.1)] * 2)
    line = table([unit]).splitlines()[1].split()
    assert line == ["jawOpen", "1.00", "2.00", "1.00", "2.00", "2.00", *("0.200", ">", "0.100") * 2]
