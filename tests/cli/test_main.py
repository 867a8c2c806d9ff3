"""The command line as a whole: help, errors in one line, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from copo.cli.main import COMMANDS, main


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "copo", *words], capture_output=True, text=True, timeout=120)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    for name, line in COMMANDS.items():
        assert f"copo {name}" in text and line in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code in (0, None)
    text = capsys.readouterr().out
    assert f"copo {name}" in text and "Example: " in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["haed"], "did you mean 'head'?"),
        (["doctor", "--jsom"], "Unrecognized options: --jsom"),
        (["head", "--size", "many"], "--size"),
    ],
)
def test_bad_words_give_one_line_and_code_2(words: list[str], expected: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("copo")
    assert not done.stdout


def test_doctor_reports_this_machine() -> None:
    done = run("doctor", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["packages"]["torch"].startswith("2.")
    assert report["devices"][0].startswith("cpu:")
    for part in report["parts"]:
        assert part["present"] or part["how"]
    text = run("doctor").stdout
    for part in report["parts"]:
        assert part["name"] in text
