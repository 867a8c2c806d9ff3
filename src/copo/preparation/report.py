"""The report: what went in, what did not and why, and what the people, lights, poses and expressions are like."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from copo.factors import Factors
from copo.formats.atomic import write_bytes
from copo.formats.dataset import PortraitDataset
from copo.formats.pictures import contact_sheet, label_picture
from copo.head.open_head import OpenHead
from copo.head.protocol import HeadModel
from copo.head.renderer import render_head
from copo.illumination import exposure
from copo.preparation.assemble import Summary

Picture = NDArray[np.uint8]

SHEET_SIDE, SHEET_COUNT, SHEET_COLUMNS = 96, 240, 20
"""Contact sheets: pixels of a picture, pictures on a sheet, columns."""
OVERLAYS, OVERLAY_SIDE = 24, 192
"""Portraits that are shown with everything that was found in them."""
_MAX_SHEETS = 20
_BLUE = "#3a6ea5"


def write_report(dataset: PortraitDataset, summary: Summary, out: Path, facts: dict[str, str]) -> Path:
    """Write `report.html` and its pictures in the folder `report`.

    Args:
        dataset: The finished data set.
        summary: With the rejections.
        out: Folder.
        facts: Lines for the head of the report, such as the rate.

    Returns:
        Path of report.html.

    Raises:
        CopoError: Something cannot be written.
    """
    head = _head_for(dataset)
    sections = [_facts(dataset, summary, facts), _overlays(dataset, head, out), _histograms(dataset)]
    sections += [_rejections(summary, out), _sheets(dataset, out)]
    title = f"{len(dataset)} portraits"
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>" + "".join(sections) + "</html>\n"
    )
    write_bytes(out / "report.html", page.encode())
    return out / "report.html"


# --- sections ---------------------------------------------------------------------------------------------------


def _facts(dataset: PortraitDataset, summary: Summary, facts: dict[str, str]) -> str:
    people = len(set(dataset.people()))
    licences: dict[str, int] = {}
    for row in dataset.manifest:
        key = row.get("licence") or "not stated"
        licences[key] = licences.get(key, 0) + 1
    lines = {
        "Portraits": str(len(dataset)),
        "People": f"{people} (by the manifest; each portrait counts as one person where it says nothing)",
        "Rejected": f"{len(summary.rejected)}",
        "Other files": f"{summary.ignored} ignored",
        "Licences": "; ".join(f"{name}: {count}" for name, count in sorted(licences.items(), key=lambda i: -i[1])),
        **facts,
    }
    rows = "".join(f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in lines.items())
    return f"<table>{rows}</table>"


def _overlays(dataset: PortraitDataset, head: HeadModel | None, out: Path) -> str:
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(OVERLAYS, len(dataset))).round().astype(int))
    strips = [overlay(dataset, int(i), head) for i in chosen]
    sheet = contact_sheet(strips, columns=2, captions=[dataset.names[i] for i in chosen])
    _save(out / "report" / "overlays.jpg", sheet)
    return (
        "<h2>What was found</h2><p>Portrait; landmarks and outline of the fitted head; labels; the fitted head "
        "under the fitted light.</p>"
        '<img src="report/overlays.jpg" alt="portraits with landmarks, labels and fitted heads">'
    )


def _histograms(dataset: PortraitDataset) -> str:
    columns = (
        ("yaw", "Yaw, degrees"), ("pitch", "Pitch, degrees"), ("roll", "Roll, degrees"), ("sharpness", "Sharpness"),
        ("face", "Distance of the eyes in the photograph, pixels"), ("enlargement", "Enlargement"),
        ("exposure", "Brightness of the face"), ("occlusion", "Covered share of the face"),
        ("residual", "Landmark residual of the fit, percent"), ("photometric_residual", "Colour residual of the fit"),
    )  # fmt: skip
    out = ["<h2>Pose and picture</h2><div class=row>"]
    for key, title in columns:
        values = np.array([float(row[key]) for row in dataset.manifest if row.get(key)])
        if values.size:
            out.append(histogram(values, title))
    out.append("</div>")
    if dataset.factors is not None:
        out.append("<h2>Light</h2><div class=row>")
        out += [histogram(values, title) for title, values in light_numbers(dataset.factors).items()]
        out.append("</div><h2>Expression</h2>")
        names = dataset.factors.spec.expression_names
        mean = dataset.factors.expression.mean(0).numpy()
        high = np.quantile(dataset.factors.expression.numpy(), 0.95, axis=0)
        out.append(bars(names, mean, high))
    return "".join(out)


def _rejections(summary: Summary, out: Path) -> str:
    if not summary.rejected:
        return "<h2>Rejected</h2><p>None.</p>"
    counts = "; ".join(f"{_text(name)}: {count}" for name, count in summary.reasons.items())
    with_pictures = [r for r in summary.rejected if r.thumbnail is not None][: SHEET_COUNT * 2]
    picture = ""
    if with_pictures:
        images = [np.array(Image.open(io.BytesIO(r.thumbnail or b"")).convert("RGB")) for r in with_pictures]
        sheet = contact_sheet(images, columns=12, captions=[r.reasons[0][0] for r in with_pictures])
        _save(out / "report" / "rejected.jpg", sheet)
        picture = '<img src="report/rejected.jpg" alt="rejected photographs">'
    rows = "".join(
        f"<tr><td>{_text(r.name)}</td><td>{_text('; '.join(text for _, text in r.reasons))}</td></tr>"
        for r in summary.rejected
    )
    return f"<h2>Rejected</h2><p>{counts}</p>{picture}<details><summary>All</summary><table>{rows}</table></details>"


def _sheets(dataset: PortraitDataset, out: Path) -> str:
    """At most a few sheets: of large data sets, an even sample."""
    most = SHEET_COUNT * _MAX_SHEETS
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(int))
    parts = ["<h2>Portraits</h2>"]
    for number, start in enumerate(range(0, len(chosen), SHEET_COUNT)):
        small = [_small(dataset.image(int(i)), SHEET_SIDE) for i in chosen[start : start + SHEET_COUNT]]
        path = out / "report" / f"sheet_{number:03d}.jpg"
        _save(path, contact_sheet(small, columns=SHEET_COLUMNS, gap=2))
        parts.append(f'<img loading="lazy" src="report/{path.name}" alt="contact sheet {number + 1}">')
    return "".join(parts)


# --- pictures ---------------------------------------------------------------------------------------------------


def overlay(dataset: PortraitDataset, index: int, head: HeadModel | None) -> Picture:
    """Portrait | landmarks and outline | labels | fitted head, side by side."""
    portrait = dataset.image(index)
    parts = [_small(portrait, OVERLAY_SIDE)]
    marked = Image.fromarray(_small(portrait, OVERLAY_SIDE))
    draw = ImageDraw.Draw(marked)
    scale = OVERLAY_SIDE / portrait.shape[0]
    fitted: Picture | None = None
    if head is not None and dataset.factors is not None:
        f = dataset.factors[index]
        with torch.no_grad():
            render = render_head(
                head, f.shape, f.expression, f.albedo, f.illumination, dataset.cameras[index], OVERLAY_SIDE
            )
        mask = render.mask[0, 0].numpy()
        edge = mask & ~(np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1))
        pixels = np.array(marked)
        pixels[edge] = (255, 220, 0)
        marked = Image.fromarray(pixels)
        draw = ImageDraw.Draw(marked)
        fitted = (render.over(1.0)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    points = dataset.points68[index] if dataset.points68 is not None else np.zeros((0, 2))
    for x, y in points[np.isfinite(points).all(1)] * scale:
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(0, 230, 120))
    parts.append(np.array(marked))
    if dataset.has_labels:
        colours = label_picture(dataset.labels(index))
        parts.append(np.array(Image.fromarray(colours).resize((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.NEAREST)))
    if fitted is not None:
        parts.append(fitted)
    return np.concatenate(parts, axis=1)


def light_numbers(factors: Factors) -> dict[str, NDArray[np.floating]]:
    """Brightness, where the light comes from, and how directed it is, of each portrait."""
    gamma = factors.illumination.reshape(-1, 3, 9).mean(1)
    direction = torch.stack([-gamma[:, 3], -gamma[:, 1], gamma[:, 2]], dim=1)  # basis 1, -y, z, -x
    x, y, z = direction.unbind(1)
    return {
        "Exposure (1 is an average photograph)": exposure(factors.illumination).mean(1).numpy(),
        "Azimuth of the light, degrees (right of the picture is positive)": torch.rad2deg(torch.atan2(x, z)).numpy(),
        "Elevation of the light, degrees": torch.rad2deg(torch.atan2(y, torch.hypot(x, z))).numpy(),
        "Directedness (length of the first-order light)": direction.norm(dim=1).numpy(),
    }


def histogram(values: NDArray[np.floating], title: str, bins: int = 30) -> str:
    """An SVG histogram, from the 0.5th to the 99.5th percentile."""
    low, high = np.quantile(values, [0.005, 0.995])
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(values.clip(low, high), bins=bins, range=(float(low), float(high)))
    width, height = 300, 110
    step = width / bins
    shapes = "".join(
        f'<rect x="{i * step:.1f}" y="{height - height * c / counts.max():.1f}" width="{step - 1:.1f}" '
        f'height="{height * c / counts.max():.1f}"><title>{c}</title></rect>'
        for i, c in enumerate(counts)
    )
    return (
        f'<figure><figcaption>{_text(title)}</figcaption><svg viewBox="0 0 {width} {height + 18}" role="img" '
        f'aria-label="{_text(title)}"><g fill="{_BLUE}">{shapes}</g><text x="0" y="{height + 15}">{low:.3g}</text>'
        f'<text x="{width / 2}" y="{height + 15}" text-anchor="middle">median {np.median(values):.3g}</text>'
        f'<text x="{width}" y="{height + 15}" text-anchor="end">{high:.3g}</text></svg></figure>'
    )


def bars(names: Sequence[str], mean: NDArray[np.floating], high: NDArray[np.floating]) -> str:
    """SVG bars: mean (dark) and 95th percentile (light) of each expression unit, the strongest first."""
    order = np.argsort(-high)
    rows = []
    for i, index in enumerate(order):
        y = i * 15
        scale = 300 / max(float(high.max()), 1e-6)
        rows.append(
            f'<text x="150" y="{y + 11}" text-anchor="end">{_text(names[index])}</text>'
            f'<rect x="156" y="{y + 2}" width="{max(float(high[index]), 0) * scale:.1f}" height="11" fill="#b9cde0"/>'
            f'<rect x="156" y="{y + 2}" width="{max(float(mean[index]), 0) * scale:.1f}" height="11" fill="{_BLUE}"/>'
            f'<text x="{160 + max(float(high[index]), 0) * scale:.1f}" y="{y + 11}">{high[index]:.2f}</text>'
        )
    return (
        "<p>Mean (dark) and 95th percentile (light).</p>"
        f'<svg class="bars" viewBox="0 0 500 {15 * len(names)}" role="img" aria-label="expressions">'
        f"{''.join(rows)}</svg>"
    )


# --- inside -----------------------------------------------------------------------------------------------------

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}"
    "img{max-width:100%;height:auto;margin:.5em 0}table{border-collapse:collapse}"
    "td,th{padding:.15em .8em .15em 0;text-align:left;vertical-align:top}"
    ".row{display:flex;flex-wrap:wrap;gap:1.2em}figure{margin:0;width:270px}figcaption{font-size:13px}"
    "svg text{font-size:11px;fill:#444}svg.bars{max-width:560px}"
)


def _head_for(dataset: PortraitDataset) -> HeadModel | None:
    """The open head, where the coefficients are its own."""
    head: HeadModel = OpenHead.load()
    return head if dataset.factors is not None and dataset.factors.spec.head == head.name else None


def _small(picture: Picture, side: int) -> Picture:
    return np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0))


def _save(path: Path, picture: Picture) -> None:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=88)
    write_bytes(path, out.getvalue())


def _text(value: object) -> str:
    return html.escape(str(value))
