"""`copo`: finds the command, parses its options with tyro, and turns bad input into one line and exit code 2."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import sys
from typing import NoReturn, Protocol

import copo
from copo.errors import CopoError

COMMANDS: dict[str, str] = {
    "portrait": "a first look: a grid, a turntable and a talking clip of the default model",
    "head": "render or export the parametric head (open head, or your Basel Face Model)",
    "generate": "draw portraits by seed: pictures, a page, exact labels, synthetic data sets",
    "animate": "let a portrait move: talk, a LiveLink Face recording, a video of a face; mp4, webm, gif, webp",
    "relight": "one person under other light: a lamp that goes around, a panorama, a photograph's light",
    "interpolate": "from one person to the next, as a film or a strip",
    "export": "write a portrait as a mesh, points, splats, a head with ARKit blendshapes, or a texture",
    "analyze": "read factors, camera, landmarks and labels from photographs and videos",
    "prepare": "turn photographs and videos into a training set: aligned, fitted, labelled, with a report",
    "invert": "find the person of photographs in the model: a portrait file in place of a seed",
    "adapt": "teach the model a style with a few pictures, while its controls stay",
    "view": "look at portraits in the browser and change them live: orbit, sliders, photographs, clips, video",
    "gallery": "one page that shows what a model does: people, each factor alone, shapes, a clip",
    "models": "list the optional networks of others, and fetch them on request",
    "train": "train the priors and the portrait generator, on one GPU or many",
    "evaluate": "measure a model: quality, control by factor, three dimensions, blending, privacy",
    "convert": "turn the published checkpoints (generator.pth, ema.pth, VAEs) into this package's format",
    "bench": "measure speed and memory, with the peers' recorded figures beside ours",
    "doctor": "print versions, devices and optional parts, and how to get what is missing",
}
"""Each command and its line in `copo --help`. The module copo.cli.NAME holds a dataclass `Command` with `run()`."""


class CommandObject(Protocol):
    """What a command module's `Command` must offer: options as fields, and this."""

    def run(self) -> None:
        """Do the work; bad input raises `CopoError`."""
        ...


def usage() -> str:
    """The text of `copo --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  copo {name:<{width}}  {line}" for name, line in COMMANDS.items()]
    return "\n".join(
        [
            "CoPo: explicitly controllable, 3D-aware portraits.",
            "",
            *lines,
            "",
            "copo COMMAND --help explains a command.",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `copo` program.

    Args:
        arguments: Words after `copo`; those of the process by default.

    Raises:
        SystemExit: Code 2 after bad input, with one line on standard error; 130 after Ctrl-C.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if words[0] in ("-V", "--version", "version"):
        print(f"copo {copo.__version__}")
        return
    name = words[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "copo --help lists the commands"
        _fail("copo", f"unknown command {name!r}: {hint}")
    import tyro  # after the cheap answers above: importing it takes a tenth of a second

    module = importlib.import_module(f"copo.cli.{name}")
    parse_errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(parse_errors):
            command: CommandObject = tyro.cli(module.Command, prog=f"copo {name}", args=words[1:])
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        _fail(f"copo {name}", f"{first_complaint(parse_errors.getvalue())} (copo {name} --help)")
    except BrokenPipeError:  # `copo head --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    try:
        command.run()
    except CopoError as error:
        _fail(f"copo {name}", str(error))
    except BrokenPipeError:  # the reader of our output went away (`copo ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"copo {name}: stopped", file=sys.stderr)
        raise SystemExit(130) from None


def first_complaint(text: str) -> str:
    """The first paragraph inside the box that tyro draws around an error, as one line."""
    paragraph: list[str] = []
    for line in text.splitlines()[1:]:
        words = line.strip("│ ").split()
        if not words or set(line) <= set("│╰╯ ─"):
            break
        paragraph += words
    return " ".join(paragraph) or " ".join(text.split())


def _fail(program: str, message: str) -> NoReturn:
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
