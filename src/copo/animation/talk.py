"""A short talking clip of our own: mouth shapes of a sentence, blinks, brows and a slight sway; nobody was filmed.

Each sound has a mouth shape (viseme) in ARKit units. The track of sounds is smoothed, which lets neighbours mix as they
do in speech, while closed lips (m, b, p, f, v) keep a track of their own so that smoothing never opens them.
"""

from __future__ import annotations

import math

import numpy as np

from copo.animation.clip import Array, DrivingClip
from copo.factors import ARKIT_NAMES

BUILT_IN = ("talk",)
"""Names that stand for a built-in clip where a driving file is asked for."""


def _both(**units: float) -> dict[str, float]:
    """Units of both sides: smile=0.2 becomes mouthSmileLeft and mouthSmileRight."""
    return {f"mouth{name}{side}": value for name, value in units.items() for side in ("Left", "Right")}


VISEMES: dict[str, dict[str, float]] = {
    "rest": {},
    "aa": {"jawOpen": 0.50, **_both(LowerDown=0.25, UpperUp=0.12)},
    "e": {"jawOpen": 0.30, **_both(Stretch=0.22, Smile=0.15, LowerDown=0.25, UpperUp=0.10)},
    "i": {"jawOpen": 0.14, **_both(Stretch=0.25, Smile=0.35, LowerDown=0.18)},
    "o": {"jawOpen": 0.34, "mouthFunnel": 0.45, "mouthPucker": 0.20},
    "u": {"jawOpen": 0.12, "mouthFunnel": 0.30, "mouthPucker": 0.65},
    "uh": {"jawOpen": 0.24, **_both(LowerDown=0.15)},
    "l": {"jawOpen": 0.18, "tongueOut": 0.05, **_both(LowerDown=0.20, UpperUp=0.05)},
    "k": {"jawOpen": 0.15, **_both(Stretch=0.12, LowerDown=0.12)},
    "n": {"jawOpen": 0.10, **_both(Stretch=0.12, LowerDown=0.15)},
    "s": {"jawOpen": 0.05, **_both(Stretch=0.25, Smile=0.15, LowerDown=0.22, UpperUp=0.05)},
    "r": {"jawOpen": 0.14, "mouthFunnel": 0.25, "mouthPucker": 0.30},
    "m": {"mouthRollLower": 0.25, "mouthRollUpper": 0.25, **_both(Press=0.45)},
    "f": {"jawOpen": 0.05, "mouthRollLower": 0.50, **_both(UpperUp=0.25)},
}
"""Mouth shapes, our own values in ARKit units."""

_CLOSED = ("m", "f")
_SENTENCE: tuple[tuple[str, int], ...] = (
    ("rest", 380),
    ("uh", 60), ("e", 90), ("l", 90), ("o", 210), ("u", 90), ("rest", 330),  # hello
    ("i", 60), ("u", 130), ("k", 70), ("e", 120), ("n", 70),  # you can
    ("m", 100), ("u", 150), ("f", 90), ("m", 100), ("i", 150),  # move me
    ("e", 100), ("s", 80), ("i", 50), ("u", 130), ("l", 80), ("aa", 140), ("i", 70), ("k", 90),  # as you like
    ("rest", 1170),
)  # fmt: skip
"""Mouth shape and milliseconds: "Hello. You can move me as you like." Four seconds in all."""
_OVERSAMPLED = 500
"""Samples a second in which the track is drawn."""
_MIXING, _CLOSING = 0.13, 0.06
"""Seconds over which open mouth shapes, and closed lips, mix with their neighbours."""
_BLINKS = (0.22, 1.62, 3.35)
"""Seconds at which the eyes are closed."""


def talk_clip(rate: float = 30.0) -> DrivingClip:
    """Four seconds of speech without sound, the same at every rate, which repeat without a jump.

    Args:
        rate: Frames a second.
    """
    steps = [(name, round(ms * _OVERSAMPLED / 1000)) for name, ms in _SENTENCE]
    index = {name: i for i, name in enumerate(ARKIT_NAMES)}
    total = sum(count for _, count in steps)
    mouth, shut, lips = (np.zeros((total, n)) for n in (len(ARKIT_NAMES), 1, len(ARKIT_NAMES)))
    start = 0
    for name, count in steps:
        for unit, value in VISEMES[name].items():
            (lips if name in _CLOSED else mouth)[start : start + count, index[unit]] = value
        shut[start : start + count] = name in _CLOSED
        start += count
    closed = _mixed(shut, _CLOSING)
    shape = _mixed(lips, _CLOSING)
    motion = _mixed(_bridged(mouth, shut[:, 0] > 0), _MIXING) * (1 - closed) + shape
    times = np.arange(total) / _OVERSAMPLED
    seconds = total / _OVERSAMPLED
    for unit, curve in _upper_face(times, seconds).items():
        motion[:, index[unit]] += curve
    turn = 2 * math.pi * times / seconds
    pose = np.stack(
        [0.07 * np.sin(turn), 0.035 * np.sin(2 * turn + 0.6) - 0.035 * math.sin(0.6), 0.02 * np.sin(turn)], 1
    )
    at = np.round(np.arange(round(seconds * rate)) / rate * _OVERSAMPLED).astype(np.int64)
    return DrivingClip(ARKIT_NAMES, motion[at].clip(0, 1), rate, pose[at], source="talk")


def _bridged(mouth: Array, shut: Array) -> Array:
    """The open shape behind closed lips is between that before and that behind them, so that jaws do not jump."""
    at, known = np.arange(len(mouth)), np.flatnonzero(~shut)
    return np.stack([np.interp(at, known, mouth[known, i]) for i in range(mouth.shape[1])], axis=1)


def _mixed(track: Array, seconds: float) -> Array:
    """Smoothed over time with a Hann window; the clip is a circle."""
    count = round(seconds * _OVERSAMPLED) | 1
    window = np.hanning(count + 2)[1:-1]
    window /= window.sum()
    half = count // 2
    padded = np.concatenate([track[-half:], track, track[:half]])
    return np.stack([np.convolve(padded[:, i], window, "valid") for i in range(track.shape[1])], axis=1)


def _upper_face(times: Array, seconds: float) -> dict[str, Array]:
    """Blinks (closing in 70 ms, opening in 130), brows at the stressed words, a smile while the mouth rests."""
    blink = np.zeros_like(times)
    for at in _BLINKS:
        since = times - at
        blink = np.maximum(blink, np.where(since < 0, 1 + since / 0.07, 1 - since / 0.13).clip(0, 1))
    blink = blink * blink * (3 - 2 * blink)

    def bump(at: float, width: float) -> Array:
        return np.exp(-(((times - at) / width) ** 2))

    brows = 0.40 * bump(0.62, 0.16) + 0.30 * bump(2.05, 0.22)
    smile = 0.32 * (1 - np.cos(2 * math.pi * (times - seconds * 0.27) / seconds)) / 2 * bump(3.25, 0.6)
    return {
        "eyeBlinkLeft": blink,
        "eyeBlinkRight": blink,
        "browInnerUp": brows,
        "browOuterUpLeft": 0.7 * brows,
        "browOuterUpRight": 0.7 * brows,
        "mouthSmileLeft": smile,
        "mouthSmileRight": smile,
        "cheekSquintLeft": 0.5 * smile,
        "cheekSquintRight": 0.5 * smile,
    }
