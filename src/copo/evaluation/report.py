"""What people read: an HTML page with pictures, and the figures as a Markdown table."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from copo.evaluation.metric import Figure, Metric, figures_from_json, number
from copo.formats.atomic import write_bytes

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}"
    "img{max-width:100%;height:auto;margin:.3em 0}table{border-collapse:collapse;margin:.6em 0}"
    "td,th{padding:.15em .9em .15em 0;text-align:left;vertical-align:top}th{border-bottom:1px solid #bbb}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}.met{color:#2a7a2a}.missed{color:#b02a1a}"
    "figure{margin:.8em 0}figcaption,.note{font-size:13px;color:#555}h2{margin-top:1.8em}"
)
_VERDICT = {True: "met", False: "missed", None: ""}


def write_report(
    out: Path,
    title: str,
    facts: Mapping[str, str],
    metrics: Sequence[Metric],
    bodies: Mapping[str, Mapping[str, Any]],
    skipped: Mapping[str, str],
) -> None:
    """Write report.html and report.md.

    Args:
        out: Folder; pictures lie in its folder `pictures`.
        title: Of the model.
        facts: Lines for the head.
        metrics: All that were asked for, in order.
        bodies: Stored results by metric.
        skipped: Reasons by metric.
    """
    titles = {m.name: m.title for m in metrics}
    figures = {name: figures_from_json(body) for name, body in bodies.items()}
    write_bytes(out / "report.md", _markdown(title, facts, titles, figures, skipped).encode())
    parts = [f"<h1>{_text(title)}</h1><table>"]
    parts += [f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in facts.items()]
    parts.append("</table><p>Every figure is defined in docs/metrics.md. A target stands where one was set.</p>")
    with_target = [f for some in figures.values() for f in some if f.target is not None]
    if with_target:
        parts.append("<h2>Targets</h2>" + _figure_table(with_target))
    for name, body in bodies.items():
        parts.append(f'<h2 id="{_text(name)}">{_text(titles[name])}</h2>' + _figure_table(figures[name]))
        parts += [_table(t["title"], t["columns"], t["rows"]) for t in body["tables"]]
        for shown in body["pictures"]:
            path = _picture(out, shown["name"])
            parts.append(
                f'<figure><img src="{_text(path)}" alt="{_text(shown["caption"])}" loading="lazy">'
                f"<figcaption>{_text(shown['caption'])}</figcaption></figure>"
            )
    if skipped:
        parts.append("<h2>Not measured</h2>")
        parts.append(_table("", ("metric", "why"), [(titles[n], reason) for n, reason in skipped.items()]))
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{_text(title)}</title><style>{_STYLE}</style>{"".join(parts)}</html>\n'
    )
    write_bytes(out / "report.html", page.encode())


def _picture(out: Path, name: str) -> str:
    return next((f"pictures/{name}.{s}" for s in ("jpg", "png") if (out / "pictures" / f"{name}.{s}").is_file()), "")


def _aim(figure: Figure) -> str:
    if figure.target is None:
        return ""
    return f"{'at least' if figure.at_least else 'at most'} {number(figure.target)}"


def _figure_table(figures: Sequence[Figure]) -> str:
    rows = []
    for f in figures:
        kind = {True: "met", False: "missed", None: ""}[f.met]
        note = f'<div class="note">{_text(f.note)}</div>' if f.note else ""
        rows.append(
            f'<tr><td>{_text(f.title)}{note}</td><td class="n {kind}">{number(f.value)} {_text(f.unit)}</td>'
            f'<td>{_text(_aim(f))}</td><td class="{kind}">{_VERDICT[f.met]}</td><td class="n">{f.count}</td></tr>'
        )
    head = "<tr><th>figure</th><th>value</th><th>target</th><th></th><th>over</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{_text(v)}</td>" for v in row) + "</tr>" for row in rows)
    name = f"<h3>{_text(title)}</h3>" if title else ""
    return f"{name}<table><tr>{head}</tr>{body}</table>"


def _markdown(
    title: str,
    facts: Mapping[str, str],
    titles: Mapping[str, str],
    figures: Mapping[str, Sequence[Figure]],
    skipped: Mapping[str, str],
) -> str:
    lines = [f"# {title}", "", *(f"- {k}: {v}" for k, v in facts.items()), ""]
    lines += ["| metric | figure | value | target | | over |", "|---|---|---|---|---|---|"]
    for name, some in figures.items():
        lines += [
            f"| {name} | {_cell(f.title + (f' ({f.note})' if f.note else ''))} | {number(f.value)} {f.unit} | "
            f"{_aim(f)} | {_VERDICT[f.met]} | {f.count} |"
            for f in some
        ]
    if skipped:
        lines += ["", "Not measured:", "", *(f"- {titles.get(n, n)}: {reason}" for n, reason in skipped.items())]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _text(value: object) -> str:
    return html.escape(str(value))
