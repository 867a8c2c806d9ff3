"""Python blocks of the pages run as they stand, with a tiny model as the default one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from copo.portrait import MODEL_VARIABLE, Portrait

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[tuple[str, str]]:
    """(heading, code) of each Python block."""
    out, heading = [], page
    for part in re.finditer(r"^#+ ([^\n]*)$|^```python\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S):
        if part[2] is None:
            heading = part[1]
        else:
            out.append((f"{page}: {heading}", part[2]))
    return out


EXAMPLES = [*blocks("docs/python.md"), *blocks("README.md")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Portrait.random("tiny", seed=1).save_pretrained(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("code", [code for _, code in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_it_runs(code: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODEL_VARIABLE, str(model))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "<example>", "exec"), {"__name__": "example"})


def test_a_synthetic_set_is_read_back_as_its_page_says(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/synthetic_data.md: its first command for two people, then its Python, one block after the other."""
    from copo.cli.main import main

    monkeypatch.setenv(MODEL_VARIABLE, str(model))
    monkeypatch.chdir(tmp_path)
    main(["generate", "--seeds", "0-1", "--out", "set", "--factor", "all", "--labels", "--dataset", "--device", "cpu"])
    names: dict[str, object] = {}
    for _, code in blocks("docs/synthetic_data.md"):
        exec(compile(code, "<example>", "exec"), names)
    assert names["picture"].shape == (32, 32, 3)  # type: ignore[attr-defined]
    assert names["depth"].shape == names["classes"].shape == (32, 32)  # type: ignore[attr-defined]
    assert names["points"].shape == (68, 2) and isinstance(names["jaw"], float)  # type: ignore[attr-defined]
    assert names["recipe"]["recipe"]["seed"] == 0  # type: ignore[index]
    assert len(names["data"]) == 2  # type: ignore[arg-type]


def test_the_pages_have_examples() -> None:
    assert len(EXAMPLES) >= 10
