"""Privacy: how near random portraits come to training faces, beside how near people kept out of training do."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from copo.camera import Camera
from copo.evaluation.metric import Evidence, Figure, Metric, Noted, Result, Shown, Table, number, register, require
from copo.evaluation.views import small
from copo.formats.pictures import contact_sheet
from copo.training.conditioning import pose_of

PERCENTILES = (1, 5, 50)
TEST_SHARE = 0.05
"""Share of people that training keeps out (copo.training.config.RunConfig.test_share)."""
CLOSEST = 12
"""Closest pairs that the report shows."""
FRONT = 45.0
"""Degrees of yaw beyond which samples and kept-out portraits are left out: to the recogniser all profiles are alike."""
DRAWS = 500
"""Bootstrap draws of the kept-out people."""


def nearest(rows: NDArray[np.floating], others: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.intp]]:
    """(N, d), (M, d) -> distance to the nearest of the others, and which it is."""
    best, which = np.full(len(rows), np.inf), np.zeros(len(rows), np.intp)
    squares = (others**2).sum(1)
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        distance = np.maximum((part**2).sum(1)[:, None] + squares[None] - 2 * part @ others.T, 0)
        which[start : start + 256] = distance.argmin(1)
        best[start : start + 256] = np.sqrt(distance.min(1))
    return best, which


def measure_privacy(evidence: Evidence) -> Result:
    """Percentiles of the distance to the nearest training face: samples, and people kept out."""
    fake = evidence.seen("samples", "dlib")["descriptor"].astype(np.float64)
    real = evidence.reals("dlib_asked")["descriptor"].astype(np.float64)
    train, test = (set(evidence.data.split(TEST_SHARE, t)) for t in (False, True))
    known = np.asarray(np.isfinite(real).all(1))
    train_at = [i for i in range(len(real)) if i in train and known[i]]
    front = facing(evidence.data.cameras)
    test_at = [i for i in range(len(real)) if i in test and known[i] and front[i]]
    require(len(train_at), 2, "privacy", "training faces")
    require(len(test_at), 2, "privacy", "portraits of people kept out of training")
    seen = np.isfinite(fake).all(1)
    if evidence.has("samples"):
        seen &= facing(evidence.plan("samples").camera)
    good = np.flatnonzero(seen)
    require(len(good), 2, "privacy", "samples with a face")
    ours, which = nearest(fake[good], real[train_at])
    theirs, _ = nearest(real[test_at], real[train_at])
    people = np.array(evidence.data.people())[test_at]
    notes, table = Noted(), []
    for percent in PERCENTILES:
        value, bound = (float(np.percentile(v, percent)) for v in (ours, theirs))
        low, high = _interval(theirs, people, percent)
        notes.add(
            f"privacy_{percent}",
            f"Nearest training face of samples, percentile {percent}",
            value,
            len(ours),
            target=bound,
            at_least=True,
            note=f"kept-out people {bound:.3f}, 90% interval {low:.3f} to {high:.3f}",
        )
        table.append((f"{percent}", number(value), number(bound), f"{low:.3f} to {high:.3f}"))
    order = np.argsort(ours)[:CLOSEST]
    samples = evidence.pictures("samples").some([int(good[i]) for i in order])
    photographs = [evidence.data.image(train_at[int(which[i])]) for i in order]
    pairs = [np.concatenate([small(a), small(b)], axis=1) for a, b in zip(samples, photographs, strict=True)]
    sheet = contact_sheet(pairs, columns=4, captions=[f"seed {good[i]}: {ours[i]:.3f}" for i in order])
    near = float((ours < np.percentile(theirs, 1)).mean())
    notes.add("privacy_nearer", "Samples nearer than the 1st percentile of kept-out people", near, len(ours))
    notes.figures.append(Figure("privacy_people", "People kept out", float(len(set(people))), len(theirs)))
    columns = ("percentile", "samples", "kept-out people", "their 90% interval")
    caption = "The closest pairs: sample left, its nearest training photograph right, dlib distance below."
    return Result(
        tuple(notes.figures),
        (Table("Distance to the nearest training face", columns, tuple(table)),),
        (Shown("privacy_closest", sheet, caption, photographs=True),),
    )


def facing(camera: Camera) -> NDArray[np.bool_]:
    """(N,) whether portraits are seen from the front, up to `FRONT` degrees of yaw."""
    yaw = torch.rad2deg((pose_of(camera)[:, 1] - torch.pi / 2).abs())
    return (yaw <= FRONT).numpy()


def _interval(values: NDArray[np.floating], people: NDArray[np.str_], percent: float) -> tuple[float, float]:
    """90% interval of a percentile over bootstrap draws of people."""
    names = sorted(set(people))
    by_person = {n: values[people == n] for n in names}
    random = np.random.default_rng(0)
    draws = [
        np.percentile(
            np.concatenate([by_person[names[k]] for k in random.integers(len(names), size=len(names))]), percent
        )
        for _ in range(DRAWS)
    ]
    return float(np.percentile(draws, 5)), float(np.percentile(draws, 95))


register(
    Metric(
        "privacy",
        "Nearest training faces (dlib's descriptor)",
        measure_privacy,
        ("samples",),
        instruments=(("dlib", "samples"), ("dlib_asked", "reals")),
        data=True,
        least=10,
    )
)
