"""What people look at after a generation: a grid and a page."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from copo.errors import CopoError
from copo.formats.atomic import write_bytes
from copo.formats.pictures import Picture, contact_sheet, load_image, save_image
from copo.formats.provenance import Provenance
from copo.generation.job import MARK, PictureFolder
from copo.generation.settings import DrawSettings, Item

GRID, PAGE = "grid.jpg", "index.html"
_GRID_MOST, _GRID_SIDE, _PAGE_MOST = 256, 256, 2000


def write_grid(folder: PictureFolder, items: Sequence[Item], facts: dict[str, Any]) -> Path | None:
    """A contact sheet of an even sample of the pictures, or None where there are none.

    Raises:
        CopoError: A picture is damaged, or the sheet cannot be written.
    """
    there = [item for item in items if folder.picture(item).is_file()]
    if not there:
        return None
    chosen = np.unique(np.linspace(0, len(there) - 1, min(len(there), _GRID_MOST)).round().astype(int))
    side = _GRID_SIDE if len(chosen) <= 64 else _GRID_SIDE // 2
    tiles = [_small(load_image(folder.picture(there[i])), side) for i in chosen]
    sheet = contact_sheet(tiles, captions=[PurePosixPath(there[i].name).name for i in chosen])
    save_image(folder.out / GRID, sheet, Provenance(metadata=facts), quality=90)
    return folder.out / GRID


def write_page(folder: PictureFolder, items: Sequence[Item], settings: DrawSettings, facts: dict[str, Any]) -> Path:
    """`index.html`, which opens from disk without a network.

    Raises:
        CopoError: It cannot be written.
    """
    shown = [item for item in items if folder.picture(item).is_file()]
    rejected = [note for note in (_note(folder.rejection(item)) for item in items) if note is not None]
    lines = {**{k: v for k, v in facts.items() if isinstance(v, (str, int, float))}, "pictures": len(shown)}
    table = "".join(f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in lines.items())
    figures = "".join(_figure(folder, item, settings) for item in shown[:_PAGE_MOST])
    rest = f"<p>The first {_PAGE_MOST} of {len(shown)}.</p>" if len(shown) > _PAGE_MOST else ""
    left_out = ""
    if rejected:
        rows = "".join(f"<tr><td>{_text(n['name'])}</td><td>{_text(n['distance'])}</td></tr>" for n in rejected)
        left_out = f"<h2>Left out: too near to a face of the training set</h2><table>{rows}</table>"
    title = f"{len(shown)} portraits"
    body = (
        f"<details><summary>How they were made</summary><table>{table}</table></details>"
        f"{rest}<main>{figures}</main>{left_out}"
    )
    write_bytes(folder.out / PAGE, marked_page(title, _STYLE, body).encode())
    return folder.out / PAGE


def marked_page(title: str, style: str, body: str) -> str:
    """A page of generated pictures that says so, to people and to programs.

    Args:
        title: Plain text.
        style: CSS.
        body: HTML below the heading.
    """
    mark = Provenance()
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="{MARK}" content="{mark.uri()}"><title>{_text(title)}</title><style>{style}</style>'
        f"<h1>{_text(title)}</h1><p>{_text(mark.description)}.</p>{body}</html>\n"
    )


def _figure(folder: PictureFolder, item: Item, settings: DrawSettings) -> str:
    picture = folder.picture(item).relative_to(folder.out).as_posix()
    beside = [(name, f"{item.name}_{name}.png") for name in settings.maps]
    if settings.labels:
        more = ["classes"] if "depth" in settings.maps else ["depth", "classes"]
        beside += [(name, f"{item.name}_{name}.png") for name in more] + [("labels", f"{item.name}.json")]
    links = " ".join(f'<a href="{_text(place)}">{_text(name)}</a>' for name, place in beside)
    name = PurePosixPath(item.name).name
    return (
        f'<figure><a href="{_text(picture)}"><img loading="lazy" src="{_text(picture)}" alt="{_text(name)}"></a>'
        f"<figcaption>{_text(name)} {links}</figcaption></figure>"
    )


def _note(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return {"name": note["name"], "distance": note["distance"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CopoError(f"{path} is damaged: delete it and run again") from error


def _small(picture: Picture, side: int) -> Picture:
    if max(picture.shape[:2]) <= side:
        return picture
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def _text(value: object) -> str:
    return html.escape(str(value))


_STYLE = (
    "body{font:14px/1.4 system-ui,sans-serif;margin:1.5rem;color:#222;background:#fff}h1{font-size:1.3rem}"
    "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:12px}figure{margin:0}"
    "img{width:100%;display:block;border-radius:4px}figcaption{font-size:12px;color:#555;overflow-wrap:anywhere}"
    "th{text-align:left;padding-right:1rem;font-weight:600;vertical-align:top}td{overflow-wrap:anywhere}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}figcaption{color:#aaa}a{color:#8bf}}"
)
