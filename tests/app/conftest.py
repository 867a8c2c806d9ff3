"""The models that look at photographs."""

from tests.preparation.samples import models_folder

__all__ = ["models_folder"]
