"""Pack what the training of a portrait model reads into a small folder, for a GPU machine that has hardly any packages.

    python -m tools.stage_portrait --data set.zip --out stage/portrait

It holds the data set with smaller pictures and label maps, and the networks that losses need, in half precision:
`COPO_MODELS_DIR=stage/portrait/models copo train portrait --data stage/portrait/dataset.zip ...` uses them there.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image
from safetensors.torch import save_file

from copo.formats.dataset import DatasetWriter, Portrait, PortraitDataset
from copo.vision.dlib_descriptor import DlibDescriptor
from copo.vision.efficientnet import ImageFeatures
from copo.vision.models import model


@dataclass
class Command:
    """Pack photographs and networks for the training of a portrait model."""

    data: Path
    """Data set of copo prepare."""
    out: Path = Path("stage/portrait")
    """Folder to write."""
    quality: int = 92
    """JPEG quality of the pictures (chroma not reduced)."""
    label_side: int = 64
    """Side of the label maps: the size of the volume-rendered picture."""

    def run(self) -> None:
        data = PortraitDataset(self.data)
        self.out.mkdir(parents=True, exist_ok=True)
        target = self.out / "dataset.zip"
        cameras = data.cameras.to_eg3d().numpy()
        with DatasetWriter(target) as writer:
            for row in range(len(data)):
                labels = Image.fromarray(data.labels(row)).resize((self.label_side,) * 2, Image.Resampling.NEAREST)
                writer.add(
                    Portrait(
                        _encoded(Image.fromarray(data.image(row)), "JPEG", quality=self.quality, subsampling=0),
                        ".jpg", cameras[row], data.factors[row] if data.factors is not None else None,
                        _encoded(labels, "PNG", optimize=True),
                        manifest={k: v for k, v in data.manifest[row].items() if k != "name"},
                    )
                )  # fmt: skip
        models = self.out / "models"
        models.mkdir(exist_ok=True)
        for name, network in (("dlib-descriptor", DlibDescriptor.load()), ("efficientnet-lite0", ImageFeatures.load())):
            state = {k: v.half() if v.is_floating_point() else v for k, v in network.network.state_dict().items()}
            save_file(state, models / model(name).compact)
        sizes = [f"{p.relative_to(self.out)} {p.stat().st_size / 1e6:.1f} MB" for p in (target, *models.iterdir())]
        print(f"{len(data)} portraits; " + ", ".join(sizes))


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, format=kind, **options)
    return out.getvalue()


if __name__ == "__main__":
    tyro.cli(Command).run()
