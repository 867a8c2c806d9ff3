"""Draws the pictures of docs/open_head.md.

python tools/open_head_sheets.py --out docs/pictures
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch

from copo.formats.pictures import save_image
from copo.formats.provenance import Provenance
from copo.head import sheets
from copo.head.open_head import OpenHead

SHEETS = {
    "identities": sheets.identity_sheet,
    "expressions": sheets.expression_sheet,
    "albedo": sheets.albedo_sheet,
    "labels": sheets.label_sheet,
    "landmarks": sheets.landmark_sheet,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="folder to write into")
    parser.add_argument("--only", choices=sorted(SHEETS), nargs="*", help="some of the sheets")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    arguments.out.mkdir(parents=True, exist_ok=True)
    head = OpenHead.load()
    for name, draw in SHEETS.items():
        if arguments.only and name not in arguments.only:
            continue
        path = arguments.out / f"open_head_{name}.jpg"
        picture = draw(head)  # type: ignore[arg-type]
        save_image(path, picture, Provenance("algorithmicMedia", {"sheet": name}), quality=82)
        print(f"{path}: {picture.shape[1]} x {picture.shape[0]}, {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
