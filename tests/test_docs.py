"""The pages and what they name: links, headings, commands, options, files, Python names."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from tests.documents import (
    ROOT,
    Page,
    broken_links,
    command_lines,
    every_option,
    options,
    pages,
    read_page,
    subcommands,
    wrong_command,
)

from copo.cli.main import COMMANDS
from copo.errors import CopoError

PAGES = pages()
LINES = [line for page in PAGES for line in command_lines(page)]
OTHERS_OPTIONS = frozenset((
    "--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint",  # torchrun
    "--curriculum", "--load_dir", "--output_dir", "--render_dir", "--blend_mode", "--seeds",  # the release
    "--image_dir", "--img_output_dir", "--mat_output_dir", "--weight", "--factor",
    "--warmup1", "--warmup2", "--set_step", "--second",
))  # fmt: skip
"""Options of other programs that the pages name on their own."""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def written(tmp_path: Path, text: str) -> Page:
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    return read_page(tmp_path / "page.md")


# --- the pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Page) -> None:
    assert not broken_links(page)


def test_commands_that_pages_name_exist_and_parse() -> None:
    assert not [wrong for line in LINES if (wrong := wrong_command(line))]


def test_options_that_sentences_name_exist() -> None:
    """`--option` on its own belongs to one of our commands, to a script that the page names, or to another program."""
    known = every_option() | {"--help", "--version"}
    wrong = []
    for page in PAGES:
        text = page.path.read_text(encoding="utf-8")
        scripts = re.findall(r"(?:benchmarks|tools)[/.]\w+", text)
        theirs = {o for s in scripts for o in re.findall(r'"(--[\w-]+)"', _script(s))}
        for span in page.spans:
            for option in re.findall(r"(?<![\w-])--[A-Za-z][\w-]*(?:\.[a-z][\w-]*)*", span) if span[0] == "-" else ():
                plain = "--" + option[2:].replace("_", "-")
                if plain not in known and option not in theirs | OTHERS_OPTIONS and plain != "--quality.NAME":
                    wrong.append(f"{page.name}: {option}")
    assert not wrong


def test_files_that_pages_name_exist() -> None:
    """Paths of the repository in code within sentences, scripts and make targets in code blocks."""
    wrong = []
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # tells what was
            continue
        code = [*page.spans, *(line.split("#")[0] for block in page.blocks for line in block.splitlines())]
        for text in code:
            for path in re.findall(r"(?<![\w/.-])(?:src/copo|docs|tools|tests|benchmarks)/[\w./-]*\w", text):
                if not (ROOT / path).exists() and not path.startswith("docs/api"):
                    wrong.append(f"{page.name}: {path}")
            for module in re.findall(r"python3? -m ((?:tools|copo)\.\w+(?:\.\w+)*)", text):
                if not (ROOT / "src" / module.replace(".", "/")).with_suffix(".py").exists() and not (
                    (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
                ):
                    wrong.append(f"{page.name}: {module}")
            if (target := re.match(r"\s*make ([a-z]+)\b", text)) and not re.search(
                rf"^{target[1]}:", (ROOT / "Makefile").read_text(), re.M
            ):
                wrong.append(f"{page.name}: make {target[1]}")
    assert not wrong


def test_python_names_that_pages_name_exist() -> None:
    wrong = []
    count = 0
    for page in PAGES:
        for span in page.spans:
            for name in re.findall(r"^copo(?:\.\w+)+$", span.removesuffix("()")):
                count += 1
                if not _is_there(name):
                    wrong.append(f"{page.name}: {name}")
    assert not wrong and count > 10


def test_every_command_is_documented() -> None:
    """Each stands in the README or on a page, with an option."""
    shown = {line.words[0] for line in LINES}
    assert set(COMMANDS) <= shown


def test_every_page_is_linked_from_the_readme_or_a_page() -> None:
    linked = {(page.path.parent / link.split("#")[0]).resolve() for page in PAGES for link in page.links}
    alone = [p.name for p in PAGES if p.path.parent.name != "decisions" and p.path not in linked]
    assert set(alone) <= {"README.md", "CHANGELOG.md"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_help_parse(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"copo.cli.{name}")
    texts = [str(value.__doc__) for value in vars(module).values() if isinstance(value, type) and value.__doc__]
    found = re.findall(r"^ *Example: (.+(?:\n +(?!\n).+)*)", "\n".join(texts), re.M)
    lines = [line for text in found for line in command_lines(written(tmp_path, f"```\n{' '.join(text.split())}\n```"))]
    assert any(line.words[0] == name for line in lines), "its docstring has no example"
    assert not [wrong for line in lines if (wrong := wrong_command(line))]


def test_the_reference_of_all_modules_is_built(tmp_path: Path) -> None:
    """Every public class and function has a docstring; the index leads to every page."""
    from tools.api_reference import Command

    Command(tmp_path / "api", strict=True).run()
    index = read_page(tmp_path / "api" / "index.md")
    assert not broken_links(index) and {"copo.portrait.md", "copo.camera.md"} <= set(index.links)
    text = (tmp_path / "api" / "copo.camera.md").read_text()
    assert "### `Camera.from_degrees`" in text and "A batch of pinhole cameras." in text
    (tmp_path / "api" / "index.md").write_text("mine")
    with pytest.raises(CopoError, match="holds other files"):
        Command(tmp_path / "api").run()


# --- the check itself ------------------------------------------------------------------------------------------------


def test_it_looks_at_something() -> None:
    """Pages, links, commands, options: as many as there are at least."""
    assert len(PAGES) >= 30
    assert sum(not link.startswith("http") for page in PAGES for link in page.links) >= 60
    assert sum(line.whole for line in LINES) >= 60
    assert all(len(options(name)) >= 2 for name in COMMANDS) and len(every_option()) > 150
    assert subcommands("train") == ("portrait", "prior", "pack", "snapshot", "curves") and not subcommands("bench")
    assert "--set-step" in options("train", "portrait") and "--factor" not in options("train", "portrait")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a](nowhere.md)", "nowhere.md does not exist"),
        ("![a](nowhere.png)", "nowhere.png does not exist"),
        ('<img src="nowhere.png">', "nowhere.png does not exist"),
        ("[a][b]\n\n[b]: nowhere.md", "nowhere.md does not exist"),
        ("# One `two`, three!\n[a](#one-two)", "no such heading"),
        ("[a](/etc)", "/etc does not exist"),
        ("[a](ftp://a.org/b)", "does not exist"),
        ("[a](http://nowhere)", "no address"),
        ("| a |\n|---|\n| [b](nowhere.md) |", "nowhere.md does not exist"),
    ],
)
def test_broken_links_are_found(text: str, complaint: str, tmp_path: Path) -> None:
    (found,) = broken_links(written(tmp_path, text))
    assert complaint in found


def test_good_links_pass(tmp_path: Path) -> None:
    text = "# One `two`, three!\n## Again\n## Again\n[a](#one-two-three) [b](page.md#again-1) `[c](no.md)` [d](https://a.org)"
    assert broken_links(written(tmp_path, text)) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("`copo haed`", "no command 'haed'"),
        ("`copo head --sead 3`", "no option --sead"),
        ("```\ncopo head --out a.png \\\n  --sead 3\n```", "no option --sead"),
        ("    torchrun --nproc-per-node 2 -m copo train portrait --factor id ...", "no option --factor"),
        ("```sh\ncopo head --size many\n```", "--size"),
        ("```\ncopo convert --out x\n```", "--generator"),
        ("```\ncopo train portrait --data a.zip --out b --config large\n```", "--config"),
    ],
)
def test_wrong_commands_are_found(text: str, complaint: str, tmp_path: Path) -> None:
    (line,) = command_lines(written(tmp_path, text))
    wrong = wrong_command(line)
    assert wrong is not None and complaint in wrong


def test_other_languages_are_not_taken_for_commands(tmp_path: Path) -> None:
    assert command_lines(written(tmp_path, "```python\ncopo = 3\n```\n`copo`\n\ncopo haed")) == []


def _script(name: str) -> str:
    path = (ROOT / name.replace(".", "/")).with_suffix(".py")
    return path.read_text() if path.is_file() else ""


def _is_there(name: str) -> bool:
    parts = name.split(".")
    for depth in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:depth]))
        except ImportError:
            continue
        for part in parts[depth:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False
