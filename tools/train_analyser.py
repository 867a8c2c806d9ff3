"""Train and measure the analyser. Needs PyTorch, NumPy, SciPy, Pillow and safetensors only.

    python -m tools.train_analyser train --stage stage/analyser --out runs/analyser minutes=8 renders=128
    torchrun --nproc-per-node 2 -m tools.train_analyser train --stage ... --out ...
    python -m tools.train_analyser evaluate --stage stage/analyser --weights runs/analyser/analyser.safetensors
    python -m tools.train_analyser sheet --stage stage/analyser --out sheet.jpg

NAME=VALUE sets a field of the training's configuration (copo.training.analyser.config); a part's field is written as
PART.NAME=VALUE, for example weights.expression=40.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from copo.errors import CopoError
from copo.head.open_head import OpenHead
from copo.training.analyser.config import AnalyserTraining
from copo.training.analyser.evaluate import evaluate, speeds, table, to_json
from copo.training.analyser.loop import train
from copo.training.analyser.photos import Stage, load_stage
from copo.training.analyser.sheet import training_sheet
from copo.vision.analyser import Analyser
from copo.vision.analyser_file import load_analyser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "evaluate", "sheet"))
    parser.add_argument("settings", nargs="*", help="NAME=VALUE of the configuration")
    parser.add_argument("--stage", type=Path, help="folder of tools/stage_analyser.py; without it: renders only")
    parser.add_argument("--out", type=Path, help="run folder, JSON file or picture to write")
    parser.add_argument("--backbone", type=Path, help="efficientnet-lite0 .pth or .safetensors; default: in the stage")
    parser.add_argument("--weights", type=Path, help="analyser.safetensors to measure")
    parser.add_argument("--resume", type=Path, help="another run folder to go on from")
    parser.add_argument("--max-minutes", type=float, default=0.0, help="stop and save after this long")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--count", type=int, default=32, help="pictures of the sheet")
    options = parser.parse_intermixed_args()
    try:
        {"train": _train, "evaluate": _evaluate, "sheet": _sheet}[options.command](options)
    except CopoError as error:
        print(f"train_analyser: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def configured(config: AnalyserTraining, settings: list[str]) -> AnalyserTraining:
    """Apply NAME=VALUE settings.

    Raises:
        CopoError: A name is unknown or a value of the wrong kind.
    """
    for setting in settings:
        name, equal, text = setting.partition("=")
        part, _, inner = name.rpartition(".")
        owner = getattr(config, part, None) if part else config
        if not equal or owner is None or not hasattr(owner, inner):
            raise CopoError(f"setting {setting!r}: write NAME=VALUE with a name of the configuration")
        try:
            value = text if isinstance(getattr(owner, inner), str) else json.loads(text)
        except ValueError:
            raise CopoError(f"setting {setting!r}: the value must be a number, true or false") from None
        data = config.to_dict()
        (data[part] if part else data)[inner] = value
        config = AnalyserTraining.from_dict(data)
    return config


def _stage(options: argparse.Namespace) -> Stage | None:
    return load_stage(options.stage) if options.stage else None


def _train(options: argparse.Namespace) -> None:
    if options.out is None:
        raise CopoError("--out is missing: give a run folder")
    config = configured(AnalyserTraining(), options.settings)
    torch.set_float32_matmul_precision("high")
    train(config, options.out, _stage(options), backbone_state(options), options.device, options.max_minutes,
          options.resume, {"settings": options.settings})  # fmt: skip


def backbone_state(options: argparse.Namespace) -> dict[str, torch.Tensor] | None:
    """ImageNet weights from the file that was named, or from the stage."""
    path = options.backbone
    if path is None:
        path = options.stage / "backbone.safetensors" if options.stage else None
        if path is None or not path.is_file():
            return None
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {str(k): v for k, v in state.items()}


def _evaluate(options: argparse.Namespace) -> None:
    stage = _stage(options)
    if stage is None:
        raise CopoError("--stage is missing: the people kept out of training are there")
    file = load_analyser(options.weights)
    figures = evaluate(file.network, stage, OpenHead.load(), options.device)
    photos = stage.part(test=True).photos
    if len(photos):
        picture = np.ascontiguousarray(photos.pictures[0].permute(1, 2, 0).numpy())
        analyser = Analyser(file.network, file.spec, device=options.device)
        figures += speeds(file.network.to(options.device), analyser, picture)
    print(table(figures))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(to_json(figures), indent=1) + "\n", encoding="utf-8")


def _sheet(options: argparse.Namespace) -> None:
    if options.out is None:
        raise CopoError("--out is missing: give a picture file")
    config = configured(AnalyserTraining(), options.settings)
    picture = training_sheet(config, OpenHead.load(), _stage(options), options.count, options.device)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.out, quality=90)


if __name__ == "__main__":
    main()
