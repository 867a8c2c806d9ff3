"""`copo adapt`: a model in the style of a few pictures."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from copo.errors import CopoError
from copo.formats.atomic import write_bytes
from copo.formats.pictures import Picture, contact_sheet, save_image
from copo.formats.provenance import Provenance
from copo.inversion.adapt import TEST_SEEDS, Adapted, Adapter
from copo.inversion.config import AdaptConfig
from copo.inversion.styles import read_styles
from copo.portrait import Portrait
from copo.training.perception import Perception
from copo.vision.efficientnet import ImageFeatures
from copo.work.crew import shared


@dataclass
class Command:
    """Teach the model a style with a few pictures, while its controls stay (docs/adapt.md).

    Example: copo adapt --images drawings --out drawn

    Writes a model folder that every command takes as --model, and comparison.png: people before and after.
    """

    images: tuple[Path, ...]
    """Folders, zips or pictures of the style: drawings, paintings, renderings; 5 to 200 of them."""
    out: Path
    """Folder of the new model."""
    steps: int = 400
    """Of learning."""
    batch: int = 2
    """Portraits in one step."""
    strength: float = 1.0
    """How much the style counts against what must stay: 0.5 is faint, 2 is strong."""
    rate: float = AdaptConfig.rate
    """Of learning."""
    seed: int = 0
    """Of everything random."""
    model: str | None = None
    """The model to begin with: a folder, a training run, or OWNER/NAME on the hub; by default the packaged one."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the report as JSON."""

    def run(self) -> None:
        """Adapt, write, tell."""
        if not 0 < self.strength <= 100:
            raise CopoError(f"--strength {self.strength:g}: choose above 0, to 100")
        if not 0 < self.rate <= 1:
            raise CopoError(f"--rate {self.rate:g}: choose above 0, to 1")
        if (self.out / "config.json").exists():
            raise CopoError(f"--out {self.out}: a model is there already; give another folder")
        config = AdaptConfig(
            steps=self.steps,
            batch=self.batch,
            rate=self.rate,
            style=self.strength,
            colour=self.strength,
            seed=self.seed,
        )
        model = Portrait.from_pretrained(self.model, device=self.device)
        features = ImageFeatures.load()
        Perception(features=features).to(str(model.device))
        styles = read_styles(self.images, model.size)
        began = time.perf_counter()
        with shared("learning the style") as show:
            done = Adapter(model, styles, features, config, show).run()
        seconds = time.perf_counter() - began
        done.model.save_pretrained(self.out)
        save_image(self.out / "comparison.png", comparison(model, done), Provenance())
        report = {
            "pictures": len(styles.pictures),
            "aligned": styles.aligned,
            "distance_before": round(done.before, 5),
            "distance_after": round(done.after, 5),
            "kept_change": round(done.kept.change, 5),
            "depth_mm": round(done.kept.depth, 4),
            "steps": done.steps,
            "seconds": round(seconds, 1),
        }
        write_bytes(self.out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
        if self.json:
            print(json.dumps({"written": str(self.out), **report}, indent=2))
            return
        print(f"{len(styles.pictures)} pictures, {styles.aligned} of them aligned by a face")
        print(f"distance from the style: {done.before:.3f} before, {done.after:.3f} after")
        print(f"controls: {done.kept.change:.0%} of the change kept, depth within {done.kept.depth:.1f} mm")
        print(
            f"wrote {self.out} in {seconds:.0f} s; use it: copo generate --model {self.out} --seeds 0-15 --out pictures"
        )


def comparison(model: Portrait, done: Adapted) -> Picture:
    """Two rows: people of the source model, and the same of the adapted one, each also with a smile and turned."""
    people = model.sample(seeds=list(TEST_SEEDS))
    names = people.spec.expression_names
    rows, captions = [], []
    for title, one in (("before", model), ("after", done.model)):
        for i in range(len(people)):
            rows.append(one.render(people[i]).to_uint8()[0])
            captions.append(title)
            if i < 2 and "mouthSmileLeft" in names:
                rows.append(one.render(people[i].with_expression(smile=0.9, jawOpen=0.3)).to_uint8()[0])
                captions.append("smile")
            if i < 2:
                rows.append(one.render(people[i], model.camera(yaw=25)).to_uint8()[0])
                captions.append("25 degrees")
    return contact_sheet(rows, len(rows) // 2, captions)
