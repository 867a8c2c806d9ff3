"""The 52 ARKit units as displacements of the control vertices."""

from __future__ import annotations

import numpy as np

from .mesh import EYE_RADIUS, Control
from .source import Floats, Source

FOLDER = "faceunits01/targets/faceunits"
GAIN = {"browInnerUp": 2.5}
"""How much further than in the data a unit moves at 1. MediaPipe, asked about renders of eight people, gives the data's
browInnerUp at 1 a mean of 0.16, at 2 of 0.52, and 0.67 at 2.5; jawOpen reads 0.66, eyeBlink 0.64, and both saturate."""
# Rotation of the eyeball at 1, degrees (the data's own 10 to 15 are too small for ARKit's range): about +y / about +x.
LOOK = {"In": 27.0, "Out": 27.0, "Up": 19.0, "Down": 22.0}


def _turn(unit: str) -> Floats:
    """(3, 3) rotation of one eyeball by an eyeLook unit; the left eye looks In towards -x."""
    direction = next(d for d in LOOK if unit.startswith("eyeLook" + d))
    angle = np.radians(LOOK[direction])
    c, s = np.cos(angle), np.sin(angle)
    if direction in ("Up", "Down"):
        s = -s if direction == "Up" else s
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    towards_plus_x = unit in ("eyeLookOutLeft", "eyeLookInRight")
    s = s if towards_plus_x else -s
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _tongue_follows_jaw(source: Source, control: Control, delta: Floats) -> Floats:
    """Half of the tongue's motion is made that of the lower teeth, so that it lies lower in the open mouth."""
    groups = source.base.quads
    teeth = np.flatnonzero(np.isin(control.used, groups["helper-lower-teeth"]))
    tongue = np.flatnonzero(np.isin(control.used, groups["helper-tongue"]))
    rest = np.c_[control.positions(source.base.vertices), np.ones(control.count)]
    motion = np.linalg.lstsq(rest[teeth], delta[teeth], rcond=None)[0]
    out = delta.copy()
    out[tongue] = 0.5 * delta[tongue] + 0.5 * rest[tongue] @ motion
    return out


def build_expressions(source: Source, control: Control, names: tuple[str, ...]) -> Floats:
    """(52, C, 3) displacements at 1, dm."""
    out = []
    for name in names:
        delta = control.positions(source.target(FOLDER, name))
        for side in (0, 1):
            delta[control.eye(side)] = 0
        if name.startswith("eyeLook"):
            eye = control.eye(0 if name.endswith("Left") else 1)
            arms = np.concatenate([np.zeros((1, 3)), EYE_RADIUS * np.eye(3)])
            delta[eye] = arms @ (_turn(name) - np.eye(3)).T
        if name == "jawOpen":
            delta = _tongue_follows_jaw(source, control, delta)
        out.append(GAIN.get(name, 1.0) * delta)
    return np.stack(out)
