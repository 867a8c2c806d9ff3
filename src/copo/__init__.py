"""CoPo: explicitly controllable, 3D-aware portraits."""

__version__ = "0.1.0"
