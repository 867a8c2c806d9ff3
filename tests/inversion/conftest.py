"""Fixtures of preparation, where photographs are looked at in the same way."""

from tests.preparation.samples import models, models_folder

__all__ = ["models", "models_folder"]
