"""How well and how fast `HeadFitter` fits photographs.

    python benchmarks/fitting.py --portraits FOLDER --models FOLDER [--count 300] [--out out/fitting]

FOLDER holds photographs and a manifest.csv with the columns path, set, person, view, expression (the last three may be
empty). Landmarks, scores and masks come from the MediaPipe adapters and are not part of the fit's time. Prints one line
for each set of photographs, the agreement of shapes over photographs of one person (front, neutral against smiling),
and how far exposure and skin tone are told apart; writes fitting.json, and overlay sheets with `--sheets`.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.formats.atomic import write_bytes
from copo.formats.pictures import contact_sheet, load_image, save_image
from copo.formats.provenance import Provenance
from copo.head.open_head import OpenHead
from copo.head.renderer import RasterConfig, render_head
from copo.illumination import exposure
from copo.vision.fitting import Fit, FittingConfig, HeadFitter, Observation
from copo.vision.fitting.appearance import window_pictures
from copo.vision.mediapipe import MediaPipeFaces, MediaPipeMasks
from copo.vision.models import find_model, model

Row = dict[str, str]


def rows_of(portraits: Path, sets: list[str], count: int) -> list[Row]:
    """Rows of the manifest, spread evenly over the sets; people of a set with views come whole."""
    with (portraits / "manifest.csv").open(newline="") as stream:
        table = [row for row in csv.DictReader(stream) if row["set"] in sets]
    if not table:
        raise CopoError(f"--portraits {portraits}: its manifest names no photograph of {', '.join(sets)}")
    out: list[Row] = []
    for name in sets:
        people: dict[str, list[Row]] = defaultdict(list)
        for row in table:
            if row["set"] == name:
                people[row["person"]].append(row)
        wanted, chosen = max(count // len(sets), 1), list(people.values())
        size = sum(map(len, chosen))
        chosen = chosen[:: max(size // wanted, 1)]
        out += [row for person in chosen for row in person]
    return out


def observe(rows: list[Row], portraits: Path, models: Path | None) -> list[tuple[Row, Observation]]:
    """Run the adapters; photographs in which no face is found are left out, but for known profiles."""

    def file(name: str) -> Path:
        found = sorted(models.rglob(model(name).file)) if models else []
        return found[0] if found else find_model(name)

    faces = MediaPipeFaces(file("mediapipe-face"))
    masks = MediaPipeMasks(file("mediapipe-hair"), file("mediapipe-person"))
    out = []
    for row in rows:
        picture = load_image(portraits / row["path"])
        found = faces.landmarks(picture)
        view = row["view"] or None
        if not found and view not in ("left_profile", "right_profile"):
            print(f"{row['path']}: no face found", file=sys.stderr)
            continue
        mask = masks.masks(picture)
        item = Observation(
            picture=picture,
            landmarks=found[0].points if found else None,
            blendshapes=found[0].blendshapes if found else None,
            hair=mask.hair,
            person=mask.person,
            identity=row["person"] if view else None,
            view=view,  # type: ignore[arg-type]
            expression=row["expression"] or None,
        )
        out.append((row, item))
    return out


def batches(found: list[tuple[Row, Observation]], size: int) -> list[list[tuple[Row, Observation]]]:
    """Batches of about `size` in which all photographs of a person stay together."""
    people: dict[object, list[tuple[Row, Observation]]] = defaultdict(list)
    for number, pair in enumerate(found):
        people[pair[1].identity or number].append(pair)
    out: list[list[tuple[Row, Observation]]] = [[]]
    for person in people.values():
        if not any(item.landmarks is not None for _, item in person):
            continue
        if len(out[-1]) >= size:
            out.append([])
        out[-1] += person
    return [batch for batch in out if batch]


def same_person(fitter: HeadFitter, found: list[tuple[Row, Observation]], head: OpenHead) -> dict[str, object]:
    """Are shapes from a neutral and a smiling front closer than shapes of two people? Each photograph fitted alone."""
    fronts: dict[str, dict[str, Observation]] = defaultdict(dict)
    for row, item in found:
        if row["view"] == "front" and item.landmarks is not None:
            fronts[row["person"]][row["expression"]] = Observation(**{**vars(item), "identity": None})
    pairs = [person for person in fronts.values() if {"neutral", "smiling"} <= set(person)]
    if len(pairs) < 2:
        return {}
    shapes = {}
    for name in ("neutral", "smiling"):
        items = [person[name] for person in pairs]
        parts = [fitter.fit(items[i : i + 16]).factors.shape for i in range(0, len(items), 16)]
        rest = torch.zeros(1, head.spec.expression)
        shapes[name] = torch.cat([head.landmarks478(head.vertices(part, rest)).flatten(1) for part in parts])
    distance = torch.cdist(shapes["neutral"], shapes["smiling"])
    same = distance.diagonal()[:, None]
    other = ~torch.eye(len(pairs), dtype=torch.bool)
    return {
        "people": len(pairs),
        "same_closer_than_different": round(float((distance > same)[other].float().mean()), 4),
        "nearest_is_same": round(float((distance.argmin(1) == torch.arange(len(pairs))).float().mean()), 4),
    }


def panels(fit: Fit, items: list[Observation], head: OpenHead, size: int) -> list[np.ndarray]:
    """For each photograph: itself, the mesh's outlines on it, the shaded head in it, the albedo."""
    camera = Camera(fit.camera.cam2world, fit.windows.camera(fit.camera.cam2world).intrinsics)
    photo = window_pictures(items, fit.windows, size, "cpu")[:, :3]
    f, out = fit.factors, []
    for i in range(len(items)):
        albedo = head.albedo(f.albedo[i : i + 1])
        drawn = render_head(
            head, f.shape[i : i + 1], f.expression[i : i + 1], f.albedo[i : i + 1], f.illumination[i : i + 1],
            camera[i], size, attributes={"albedo": albedo}, config=RasterConfig(supersample=2),
        )  # fmt: skip
        assert drawn.labels is not None
        label = drawn.labels[0]
        edge = torch.zeros_like(label, dtype=torch.bool)
        edge[1:] |= label[1:] != label[:-1]
        edge[:, 1:] |= label[:, 1:] != label[:, :-1]
        outline = photo[i].clone()
        outline[:, edge] = torch.tensor([0.0, 1.0, 0.0])[:, None]
        skin = drawn.attributes["albedo"][0] * drawn.alpha[0] + 1 - drawn.alpha[0]
        row = torch.cat([photo[i], outline, drawn.over(photo[i][None])[0], skin], dim=2)
        out.append((row.clamp(0, 1).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
    return out


def summary(rows: list[Row], fits: list[Fit], seconds: float) -> dict[str, object]:
    """Residuals by set, and exposure against tone."""

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(fit, name) for fit in fits])

    marks, photo, visible = joined("landmark_residual"), joined("photometric_residual"), joined("visible")
    known, yaw = joined("from_landmarks"), torch.cat([fit.angles()[:, 0] for fit in fits])
    light = exposure(torch.cat([fit.factors.illumination for fit in fits])).mean(1)
    table: dict[str, object] = {}
    names = np.array([row["set"] for row in rows])
    for name in sorted(set(names)):
        here = torch.from_numpy(names == name)
        near, far = here & known & (yaw.abs() < 20), here & known & (yaw.abs() >= 20)
        table[name] = {
            "photographs": int(here.sum()),
            "landmarks_percent_median": _quantile(marks[here & known], 0.5),
            "landmarks_percent_p95": _quantile(marks[here & known], 0.95),
            "landmarks_percent_median_below_20_degrees": _quantile(marks[near], 0.5),
            "landmarks_percent_median_above_20_degrees": _quantile(marks[far], 0.5),
            "outline_percent_median": _quantile(marks[here & ~known], 0.5),
            "colour_median": _quantile(photo[here], 0.5),
            "visible_median": _quantile(visible[here], 0.5),
            "exposure_mean": round(float(light[here].mean()), 3),
            "exposure_deviation": round(float(light[here].std()), 3),
        }
    return {
        "photographs": len(rows),
        "seconds_per_photograph": round(seconds / len(rows), 4),
        "landmarks_percent_median": _quantile(marks[known], 0.5),
        "sets": table,
    }


def _quantile(values: Tensor, share: float) -> float | None:
    return round(float(values.quantile(share)), 3) if len(values) else None


def main() -> None:
    """Read the options, fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portraits", type=Path, required=True, help="folder with photographs and manifest.csv")
    parser.add_argument("--models", type=Path, help="folder with model files, searched before the cache")
    parser.add_argument("--sets", default="london,us_congress,stock,openpeople,canada,lisa,sd3_synthetic")
    parser.add_argument("--count", type=int, default=300, help="about how many photographs")
    parser.add_argument("--batch", type=int, default=16, help="photographs fitted together")
    parser.add_argument("--quality", choices=["fast", "high"], default="fast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sheets", action="store_true", help="also write overlays")
    parser.add_argument("--out", type=Path, default=Path("out/fitting"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        found = observe(
            rows_of(options.portraits, options.sets.split(","), options.count), options.portraits, options.models
        )
        head = OpenHead.load()
        fitter = HeadFitter(head, FittingConfig(quality=options.quality), options.device)
        parts = batches(found, options.batch)
        fitter.fit([item for _, item in parts[0]])  # warm up
        fits, times = [], []
        for part in parts:
            start = time.perf_counter()
            fits.append(fitter.fit([item for _, item in part]))
            times.append(time.perf_counter() - start)
        rows = [row for part in parts for row, _ in part]
        result = summary(rows, fits, sum(times))
        speeds = [taken / len(part) for taken, part in zip(times, parts, strict=True)]
        result["seconds_per_photograph_median_batch"] = round(statistics.median(speeds), 4)
        result["same_person"] = same_person(fitter, found, head)
        print(json.dumps(result, indent=2))
        write_bytes(options.out / "fitting.json", (json.dumps(result, indent=2) + "\n").encode())
        if options.sheets:
            for number, (part, fit) in enumerate(zip(parts, fits, strict=True)):
                pictures = panels(fit, [item for _, item in part], head, 192)
                captions = [
                    f"{row['path']}  {float(fit.landmark_residual[i]):.1f}%  yaw {float(fit.angles()[i, 0]):.0f}"
                    for i, (row, _) in enumerate(part)
                ]
                sheet = contact_sheet(pictures, columns=2, captions=captions)
                save_image(options.out / f"overlays_{number:03d}.jpg", sheet, Provenance(), 88)
    except CopoError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
