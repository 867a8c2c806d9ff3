"""Take the screenshot of docs/view.md: `python tools/view_screenshot.py --model FOLDER --out docs/pictures/view.jpg`.

Needs Chromium and the packages viser and playwright.
"""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from playwright.sync_api import sync_playwright

from copo.app.viewer import ViewerConfig, start_viewer
from copo.formats.pictures import save_image
from copo.formats.provenance import Provenance
from copo.portrait import Portrait

FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@dataclass
class Settings:
    out: Path
    """Picture to write."""
    model: str | None = None
    """By default the packaged one."""
    seed: int = 41
    """Who is shown."""
    portrait: Path | None = None
    """A portrait file, instead."""
    smile: float = 0.6
    """How much of a smile."""
    tab: str = "Face"
    """Tab that is open."""


def main(settings: Settings) -> None:
    """Serve, look, write."""
    model = Portrait.from_pretrained(settings.model)
    viewer = start_viewer(model, ViewerConfig(port=0), settings.seed, settings.portrait)
    viewer.start()
    try:
        factors = viewer.studio.look.factors
        if settings.smile:
            viewer.studio.change(factors=factors.with_expression(smile=settings.smile))
            viewer.panel.refresh()
        with sync_playwright() as tools:
            browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 760})
            page.goto(viewer.url)
            page.get_by_role("tab", name=settings.tab).click()
            page.wait_for_timeout(2000)
            for button in page.locator("button[aria-label*=lose], .mantine-Notification-closeButton").all():
                button.click()
            page.wait_for_timeout(6000)
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            browser.close()
    finally:
        viewer.stop()
    save_image(settings.out, np.asarray(shot), Provenance("compositeSynthetic", {"command": "view"}), 88)


if __name__ == "__main__":
    main(tyro.cli(Settings))
