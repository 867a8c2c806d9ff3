"""Quality: how random portraits lie to the photographs of a data set."""

from __future__ import annotations

import numpy as np
import torch

from copo.evaluation.metric import Evidence, Figure, Metric, Noted, Result, Shown, register, require
from copo.evaluation.statistics import NEIGHBOURS, frechet, kernel_distance, manifold
from copo.formats.pictures import contact_sheet, from_uint8
from copo.vision.efficientnet import ImageFeatures

SHEET = 64
"""First seeds that the report shows, not picked by hand."""
KID_TARGET, COVERAGE_TARGET = 0.02, 0.5
PAIRS = 300
"""Random pairs of the diversity."""
LABELS = {"efficientnet": "EfficientNet-Lite0", "inception": "Inception"}


def _features(evidence: Evidence, name: str, instrument: str) -> tuple[np.ndarray, np.ndarray]:
    return evidence.seen("photographs", instrument)["features"], evidence.seen(name, instrument)["features"]


def _kid(instrument: str, name: str, title: str):  # type: ignore[no-untyped-def]
    def measure(evidence: Evidence) -> Result:
        real, fake = _features(evidence, name, instrument)
        found = kernel_distance(real, fake)
        order = np.random.default_rng(0).permutation(len(real))
        half = len(real) // 2
        halves = kernel_distance(real[order[:half]], real[order[half:]])
        key = f"{title.lower()}_{instrument}"
        target = KID_TARGET if instrument == "efficientnet" and name == "samples" else None
        notes = Noted()
        notes.add(
            key,
            f"{title} ({LABELS[instrument]})",
            found.value,
            len(fake),
            target=target,
            note=f"spread over subsets {found.spread:.2g}",
        )
        notes.add(
            f"{key}_halves",
            f"{title} of two halves of the data set",
            halves.value,
            len(real),
            note=f"{halves.biased:.2g} where pairs of a picture with itself count",
        )
        pictures: tuple[Shown, ...] = ()
        if name == "samples":
            some = evidence.pictures(name).some(range(min(SHEET, len(fake))))
            sheet = contact_sheet(some, columns=8, gap=2)
            pictures = (Shown("samples", sheet, f"The first {len(some)} random portraits, not picked by hand."),)
        return Result(tuple(notes.figures), pictures=pictures)

    return measure


def _fid(instrument: str, name: str, title: str):  # type: ignore[no-untyped-def]
    def measure(evidence: Evidence) -> Result:
        real, fake = _features(evidence, name, instrument)
        value = frechet(real, fake)
        few = "" if min(len(real), len(fake)) > real.shape[1] else "fewer pictures than features: biased upwards"
        figure = Figure(f"{title.lower()}_{instrument}", f"{title} ({LABELS[instrument]})", value, len(fake), note=few)
        return Result((figure,))

    return measure


for _instrument in ("efficientnet", "inception"):
    for _set, _suffix in (("samples", ""), ("samples3d", "3D")):
        _eyes = ((_instrument, _set), (_instrument, "photographs"))
        _what = " (rendering pose independent of the conditioning pose)" if _suffix else ""
        register(
            Metric(
                f"kid{_suffix.lower()}_{_instrument}",
                f"Kernel distance, {LABELS[_instrument]} features{_what}",
                _kid(_instrument, _set, f"KID{_suffix}"),
                (_set,),
                instruments=_eyes,
                data=True,
                least=20,
                quick=_instrument == "efficientnet" and not _suffix,
            )
        )
        register(
            Metric(
                f"fid{_suffix.lower()}_{_instrument}",
                f"Frechet distance, {LABELS[_instrument]} features{_what}",
                _fid(_instrument, _set, f"FID{_suffix}"),
                (_set,),
                instruments=_eyes,
                data=True,
                least=100,
                quick=False,
            )
        )


def measure_manifold(evidence: Evidence) -> Result:
    """Precision, recall, density, coverage in EfficientNet-Lite0 features."""
    real, fake = _features(evidence, "samples", "efficientnet")
    require(min(len(real), len(fake)), 2 * NEIGHBOURS, "coverage", "pictures")
    found = manifold(real, fake)
    notes = Noted()
    for key in ("precision", "recall", "density", "coverage"):
        target = {"target": COVERAGE_TARGET, "at_least": True} if key == "coverage" else {}
        notes.add(key, key.capitalize(), getattr(found, key), len(fake), **target)
    return Result(tuple(notes.figures))


register(
    Metric(
        "coverage",
        "Precision, recall, density, coverage",
        measure_manifold,
        ("samples",),
        instruments=(("efficientnet", "samples"), ("efficientnet", "photographs")),
        data=True,
        least=2 * NEIGHBOURS,
    )
)


def measure_diversity(evidence: Evidence) -> Result:
    """Mean perceptual distance of random pairs, of samples and of photographs."""
    network = ImageFeatures.load()
    pictures = evidence.pictures("samples")
    rows = evidence.compared
    fakes = _pair_distance(network, lambda i: pictures.some([i])[0], len(pictures))
    reals = _pair_distance(network, lambda i: evidence.data.image(rows[i]), len(rows))
    notes = Noted()
    notes.add("diversity", "Perceptual distance of two samples", fakes.mean(), len(fakes))
    notes.add("diversity_data", "Perceptual distance of two photographs", reals.mean(), len(reals))
    notes.add("diversity_ratio", "Their ratio", fakes.mean() / max(reals.mean(), 1e-12), len(fakes))
    return Result(tuple(notes.figures))


@torch.no_grad()
def _pair_distance(network: ImageFeatures, picture, count: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    out = []
    for _ in range(min(PAIRS, count * (count - 1) // 2)):
        i, j = random.choice(count, 2, replace=False)
        a, b = (_scaled(from_uint8(picture(int(k)))[None]) for k in (i, j))
        out.append(float(network.distance(a, b)[0]))
    return np.array(out)


def _scaled(tensor: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(tensor, (224, 224), mode="bilinear", antialias=True)


register(
    Metric(
        "diversity",
        "Diversity within the samples",
        measure_diversity,
        ("samples",),
        instruments=(("efficientnet", "samples"),),
        data=True,
        quick=False,
        least=10,
    )
)
