"""Write the API reference: a Markdown page for each module, from its docstrings and signatures.

Example: python tools/api_reference.py --out docs/api

Modules are imported, not run. A public name without a docstring is counted, and is an error with --strict.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro

import copo
from copo.errors import CopoError
from copo.formats.atomic import write_bytes

OPTIONAL = ("triton", "nvdiffrast", "ray")
"""Packages without which a module of ours may not be importable here."""
MARK = "<!-- written by tools/api_reference.py -->"


@dataclass
class Command:
    """Write a page for each module of copo, and index.md."""

    out: Path = Path("docs/api")
    """Folder to write; pages of an earlier run in it are replaced."""
    strict: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fail if a public class or function has no docstring."""

    def run(self) -> None:
        """Write, and tell how much."""
        if self.out.exists() and any(self.out.iterdir()):
            index = self.out / "index.md"
            if not index.is_file() or MARK not in index.read_text(encoding="utf-8"):
                raise CopoError(f"--out {self.out}: holds other files; choose an empty folder")
            shutil.rmtree(self.out)
        rows, bare, count = [], [], 0
        for name in module_names():
            module = imported(name)
            if module is None:
                rows.append(f"- `{name}`: not importable here")
                continue
            text, names, without = module_page(module)
            write_bytes(self.out / f"{name}.md", text.encode())
            rows.append(f"- [{name}]({name}.md): {summary(module)}")
            bare += [f"{name}.{n}" for n in without]
            count += names
        write_bytes(self.out / "index.md", "\n".join([MARK, "", "# Modules", "", *rows, ""]).encode())
        print(f"{self.out}: {len(rows)} modules, {count} public names, {len(bare)} without a docstring")
        if self.strict and bare:
            raise CopoError(f"without a docstring: {', '.join(bare)}")


def module_names() -> Iterator[str]:
    """All modules of the package, sorted; private ones and `__main__` left out."""
    yield "copo"
    found = [info.name for info in pkgutil.walk_packages(copo.__path__, "copo.", onerror=lambda _: None)]
    yield from sorted(n for n in found if not any(part.startswith("_") for part in n.split(".")))


def imported(name: str) -> ModuleType | None:
    """A module, or None where it needs a package that is not here.

    Raises:
        ImportError: It is broken otherwise.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").split(".")[0] in OPTIONAL:
            return None
        raise


def module_page(module: ModuleType) -> tuple[str, int, list[str]]:
    """The page, the number of public names, and those without a docstring."""
    lines = [MARK, "", f"# {module.__name__}", "", *_prose(inspect.getdoc(module)), ""]
    names, bare = 0, []
    for name, value in _public(module):
        names += 1
        written = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
        if not written or written.startswith(f"{name}("):  # dataclasses write their signature where there is none
            bare.append(name)
        kind = "class " if inspect.isclass(value) else ""
        lines += [f"## `{kind}{name}`", "", *_code(f"{name}{_signature(value)}"), ""]
        lines += [*_prose(written and inspect.cleandoc(written)), ""]
        if inspect.isclass(value):
            for method, function in _methods(value):
                lines += [f"### `{name}.{method}`", "", *_code(f"{method}{_signature(function)}"), ""]
                lines += [*_prose(inspect.getdoc(function)), ""]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"
    return text, names, bare


def summary(module: ModuleType) -> str:
    """First sentence of a module's docstring."""
    return re.split(r"\.?\n\n", inspect.getdoc(module) or "", maxsplit=1)[0].replace("\n", " ")


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if not name.startswith("_") and own and (inspect.isclass(value) or inspect.isfunction(value)):
            yield name, value


def _methods(owner: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(owner).items():
        if isinstance(value, classmethod | staticmethod):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        if not name.startswith("_") and inspect.isfunction(value) and value.__doc__:
            yield name, value


def _signature(value: Any) -> str:
    """As written, without the addresses of default objects."""
    if inspect.isclass(value) and issubclass(value, tuple) and not dataclasses.is_dataclass(value):
        return ""
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _code(text: str) -> list[str]:
    return ["```python", text, "```"]


def _prose(text: str | None) -> list[str]:
    """A docstring as Markdown: its lists `Args:` and the like as code blocks, which keep their lines."""
    if not text:
        return []
    out, block = [], False
    for line in text.splitlines():
        starts = bool(re.match(r"(Args|Returns|Raises|Yields|Attributes|Example|Source)s?:\s*$", line))
        if starts or (block and line and not line.startswith(" ")):
            if block:
                out += ["```", ""]
            block = starts
            if starts:
                out += ["", "```text"]
        out.append(line)
    return [*out, "```"] if block else out


if __name__ == "__main__":
    try:
        tyro.cli(Command).run()
    except CopoError as error:
        sys.exit(f"api_reference: error: {error}")
