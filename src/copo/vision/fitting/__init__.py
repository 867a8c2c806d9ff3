"""Fitting the head model to photographs: `HeadFitter` (docs/fitting.md)."""

from copo.vision.fitting.config import FittingConfig
from copo.vision.fitting.fitter import Fit, HeadFitter
from copo.vision.fitting.observation import Observation, crop_camera

__all__ = ["Fit", "FittingConfig", "HeadFitter", "Observation", "crop_camera"]
