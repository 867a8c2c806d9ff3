"""What the Markdown pages say, so that tests can hold it against what is there: links, headings, code, commands."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import tyro
from markdown_it import MarkdownIt
from markdown_it.token import Token

from copo.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PARSER = MarkdownIt("commonmark").enable("table")
SHELLS = ("", "sh", "bash", "console")
FRAGMENT = re.compile(r"\.\.\.|…|\[|<|(?<!\w)[A-Z]\|")
"""A command with one of these is not meant to be typed as it stands: only its options are looked at."""
OPTION = re.compile(r"^--[A-Za-z][\w.-]*$")
OPTION_IN_HELP = re.compile(r"^(?:[│|] |  )(?:-\w, )?(--[a-z][\w.-]*(?:, --[a-z][\w.-]*)*)", re.M)


@dataclass(frozen=True)
class Page:
    """A Markdown page.

    Attributes:
        path: The file.
        links: Targets of links and pictures.
        anchors: What `#...` can name in it.
        blocks: Code blocks that a shell reads.
        spans: Code within sentences.
    """

    path: Path
    links: tuple[str, ...]
    anchors: frozenset[str]
    blocks: tuple[str, ...]
    spans: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return str(self.path.relative_to(ROOT)) if self.path.is_relative_to(ROOT) else self.path.name


def read_page(path: Path) -> Page:
    """Parse a page as CommonMark with tables."""
    links: list[str] = []
    headings: list[str] = []
    blocks: list[str] = []
    spans: list[str] = []
    heading = False
    for token in _every(PARSER.parse(path.read_text(encoding="utf-8"))):
        if token.type == "heading_open":
            heading = True
        elif token.type == "inline" and heading:
            headings.append("".join(t.content for t in token.children or () if t.type in ("text", "code_inline")))
            heading = False
        elif token.type in ("link_open", "image"):
            links.append(str(token.attrs["href" if token.type == "link_open" else "src"]))
        elif token.type == "code_block" or (token.type == "fence" and token.info.strip() in SHELLS):
            blocks.append(token.content)
        elif token.type == "code_inline":
            spans.append(" ".join(token.content.split()))
        elif token.type in ("html_block", "html_inline"):
            links += re.findall(r"""(?:src|href)=["']([^"']+)""", token.content)
    return Page(path, tuple(links), frozenset(_anchors(headings)), tuple(blocks), tuple(spans))


def pages() -> list[Page]:
    """The README, the changelog, everything in docs/."""
    return [read_page(path) for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))]


# --- links -----------------------------------------------------------------------------------------------------------


def broken_links(page: Page) -> list[str]:
    """Relative links whose file or heading is not there, one sentence each. Addresses are not asked."""
    out = []
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme in ("http", "https", "mailto"):
            if parts.scheme != "mailto" and "." not in parts.netloc and parts.hostname != "localhost":
                out.append(f"{page.name}: {link} is no address")
            continue
        target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
        if parts.scheme or parts.netloc or parts.path.startswith("/") or not target.exists():
            out.append(f"{page.name}: {link} does not exist")
        elif not target.is_relative_to(ROOT) and page.path.is_relative_to(ROOT):
            out.append(f"{page.name}: {link} is outside of the repository")
        elif parts.fragment and (target.suffix != ".md" or parts.fragment not in read_page(target).anchors):
            out.append(f"{page.name}: {link}: there is no such heading")
    return out


def _anchors(headings: list[str]) -> Iterator[str]:
    """As GitHub makes them: lower case, no punctuation, hyphens for spaces, numbers after repeated ones."""
    seen: dict[str, int] = {}
    for heading in headings:
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        yield f"{slug}-{count}" if count else slug


# --- commands --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A command of ours on a page: where it is, and its words after `copo`."""

    page: str
    text: str
    words: tuple[str, ...]
    whole: bool
    """Whether it is meant to be typed as it stands."""


def command_lines(page: Page) -> list[Line]:
    """`copo ...` in code blocks and in code within sentences."""
    texts = [(raw.strip(), True) for b in page.blocks for raw in b.replace("\\\n", " ").splitlines()]
    texts += [(span, False) for span in page.spans]
    out = []
    for text, typed in texts:
        found = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:torchrun .*-m |python3? -m |\S*bin/|nice )?copo (.*)", text)
        if found is None:
            continue
        try:
            words = shlex.split(found[1], comments=True)
        except ValueError:
            words = found[1].split()
        words = words[: next((i for i, w in enumerate(words) if w in ("|", ">", "&&", ";", "&")), len(words))]
        if words:
            out.append(Line(page.name, text, tuple(words), typed and not FRAGMENT.search(text)))
    return out


def wrong_command(line: Line) -> str | None:
    """What is wrong with a command: its name, an option, or, where it is meant to be typed, words that do not parse."""
    name, *rest = line.words
    if name in ("COMMAND", "X", "--help", "--version"):
        return None
    if name not in COMMANDS:
        return f"{line.page}: {line.text}: there is no command {name!r}"
    below = subcommands(name)
    chosen = rest[0] if rest and rest[0] in below else None
    known = options(name, chosen)
    for word in rest:
        option = word.split("=")[0].rstrip(",.;:)")
        if OPTION.match(option) and _plain(option) not in known:
            return f"{line.page}: {line.text}: copo {name} has no option {option}"
    if line.whole and rest and "--help" not in rest and (complaint := _parsed(name, rest)):
        return f"{line.page}: {line.text}: {complaint}"
    return None


@cache
def options(name: str, below: str | None = None) -> frozenset[str]:
    """Options that a command's help shows; with subcommands, those of one or of all."""
    inner = subcommands(name)
    if inner and below is None:
        return frozenset().union(*(options(name, one) for one in inner))
    found = OPTION_IN_HELP.findall(_help(name, *([below] if below else [])))
    return frozenset(_plain(option) for group in found for option in group.split(", "))


@cache
def subcommands(name: str) -> tuple[str, ...]:
    """Words that must follow a command, as `train portrait`."""
    found = re.search(r"^usage: .*?\{([\w,-]+)\}\s*\.*$", _help(name).splitlines()[0])
    return tuple(found[1].split(",")) if found and " " not in found[1] else ()


def every_option() -> frozenset[str]:
    """Of all commands."""
    return frozenset().union(*(options(name) for name in COMMANDS))


def _plain(option: str) -> str:
    """tyro takes hyphens and underscores for the same."""
    return "--" + option[2:].replace("_", "-")


@cache
def _help(*words: str) -> str:
    name, *rest = words
    command = importlib.import_module(f"copo.cli.{name}").Command
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        tyro.cli(command, prog=f"copo {name}", args=[*rest, "--help"])
    return out.getvalue()


@cache
def _command(name: str) -> type:
    found = importlib.import_module(f"copo.cli.{name}").Command
    assert isinstance(found, type)
    return found


def _parsed(name: str, rest: list[str]) -> str | None:
    """What the parser says against these words; they are not run."""
    from copo.cli.main import first_complaint

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            tyro.cli(_command(name), prog=f"copo {name}", args=rest)
    except SystemExit:
        return first_complaint(errors.getvalue()) or "it does not parse"
    return None


def _every(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _every(token.children or [])
