"""`copo view`: the live viewer in the browser."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from copo.app.viewer import ViewerConfig, start_viewer
from copo.portrait import Portrait


@dataclass
class Command:
    """Look at the model's portraits in the browser, and change them while you look (docs/view.md).

    Example: copo view --seed 41 --port 8080

    Orbit with the mouse; sliders for who it is, every expression unit, light, truncation and blending; load a
    photograph, play a driving clip, record a video, save factors. Ctrl-C ends it.
    """

    seed: int = 0
    """Who is shown first."""
    portrait: Path | None = None
    """A portrait file (copo invert) or a factor file, instead of a seed."""
    drive: Path | None = None
    """A driving clip to have at hand: LiveLink Face .csv, .npz, .json, a folder of the method's .mat, or a
    video of a face."""
    psi: float = 1.0
    """Truncation: 1 is none."""
    blend: Literal["none", "background", "hair", "both", "still"] = "none"
    """What is held still while the face moves."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is seen by this machine alone; there is no password."""
    port: int = 8080
    """Port to listen on; 0 takes any free one."""
    upload_mb: float = 32.0
    """Largest file that may be uploaded, MiB."""
    identity_sliders: int = 12
    """Components of shape and of albedo that get a slider each."""
    model: str | None = None
    """Folder of a model, a training run, or OWNER/NAME on the hub; by default the packaged one."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def run(self) -> None:
        """Serve until Ctrl-C."""
        config = ViewerConfig(self.host, self.port, self.upload_mb, self.identity_sliders)
        model = Portrait.from_pretrained(self.model, device=self.device)
        viewer = start_viewer(model, config, self.seed, self.portrait, self.drive, self.psi, self.blend)
        try:
            print(f"open {viewer.url} in a browser; Ctrl-C ends it", flush=True)
            if self.host not in ("127.0.0.1", "localhost", "::1"):
                print("anybody who reaches this address can use the viewer: it has no password", file=sys.stderr)
            viewer.wait()
        finally:
            viewer.stop()
