"""CoPo: explicitly controllable, 3D-aware portraits."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from copo.camera import Camera as Camera
    from copo.errors import CopoError as CopoError
    from copo.factors import Factors as Factors
    from copo.portrait import Portrait as Portrait

__version__ = "0.1.0"

_OFFERED = {"Portrait": "copo.portrait", "Factors": "copo.factors", "Camera": "copo.camera", "CopoError": "copo.errors"}


def __getattr__(name: str) -> object:
    """`from copo import Portrait` loads what it needs then, so that `import copo` stays cheap."""
    if name in _OFFERED:
        return getattr(importlib.import_module(_OFFERED[name]), name)
    raise AttributeError(f"module 'copo' has no attribute {name!r}")
