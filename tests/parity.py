"""Recorded outputs of the published program, for tests of any module.

The folder is named by the environment variable COPO_PARITY_DIR (by default ../shared/reference/parity beside the
repository). Every variant in it is run: `*_a`, `*_b`, ... Tests are skipped where it does not exist.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

ROOT = Path(os.environ.get("COPO_PARITY_DIR") or Path(__file__).parents[2] / "shared" / "reference" / "parity")
TOLERANCE = 1e-3
"""Largest absolute error, as a share of the recorded tensor's standard deviation."""

needs_parity = pytest.mark.skipif(
    not (ROOT / "deterministic_weights.py").is_file(), reason=f"no recorded outputs in {ROOT} (set COPO_PARITY_DIR)"
)


@dataclass(frozen=True)
class Recording:
    """One recorded file.

    Attributes:
        path: The .npz file.
        stem: Its name without the variant, e.g. "generator".
        variant: "a", "b", ...
    """

    path: Path
    stem: str
    variant: str

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The recorded arrays."""
        with np.load(self.path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}

    def tensor(self, name: str) -> Tensor:
        """A recorded array as a tensor."""
        return torch.from_numpy(self.arrays[name])

    @property
    def config(self) -> dict[str, object]:
        """The configuration stored in the file, or {}."""
        arrays = self.arrays
        return json.loads(str(arrays["config"])) if "config" in arrays else {}

    @property
    def seed(self) -> int:
        """The seed of its weights: its own, or that of the variant's manifest."""
        if "seed" in self.config:
            return int(str(self.config["seed"]))
        for name in (f"manifest_{self.variant}.json", "manifest.json"):
            path = ROOT / name
            if path.is_file():
                manifest = json.loads(path.read_text())
                if isinstance(manifest.get("variants"), dict) and self.variant in manifest["variants"]:
                    return int(manifest["variants"][self.variant]["seed"])
                if manifest.get("variant", self.variant) == self.variant:
                    return int(manifest["seed"])
        for other in sorted(ROOT.glob(f"generator_{self.variant}.npz")):
            return int(str(Recording(other, "generator", self.variant).config["seed"]))
        raise KeyError(f"no seed for {self.path.name}: neither its own nor in a manifest of variant {self.variant}")

    def state(self, network: str, style: str) -> dict[str, Tensor]:
        """The official state dict of a network, with this variant's shapes and deterministic weights.

        Args:
            network: A key of state_dict_shapes_VARIANT.json.
            style: "stylegan" or "plain".
        """
        shapes = json.loads((ROOT / f"state_dict_shapes_{self.variant}.json").read_text())[network]
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        state = {}
        for key, shape in shapes.items():
            if key.endswith("resample_filter"):
                state[key] = torch.outer(taps, taps)
            elif key.endswith("num_batches_tracked"):
                state[key] = torch.zeros(shape, dtype=torch.int64)
            else:
                state[key] = torch.zeros(shape)
        return _weights().fill(state, style, self.seed)


@cache
def _weights() -> ModuleType:
    """The recordings' own rule for filling a state dict."""
    spec = importlib.util.spec_from_file_location("deterministic_weights", ROOT / "deterministic_weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recordings(stem: str) -> list[Recording]:
    """All variants of a recording, e.g. `recordings("generator")`; empty where there is no such folder."""
    found = []
    for path in sorted(ROOT.glob(f"{stem}_*.npz")):
        if match := re.fullmatch(rf"{re.escape(stem)}_([a-z0-9]+)", path.stem):
            found.append(Recording(path, stem, match[1]))
    return found


def parametrize(stem: str) -> pytest.MarkDecorator:
    """Run a test for every variant, as the argument `recording`; one skipped case where there is none."""
    cases = [pytest.param(r, id=f"{r.stem}_{r.variant}") for r in recordings(stem)]
    skip = pytest.mark.skip(reason=f"no {stem}_*.npz in {ROOT} (set COPO_PARITY_DIR)")
    return pytest.mark.parametrize("recording", cases or [pytest.param(None, marks=skip, id=stem)])


def relative_error(ours: Tensor, recorded: Tensor) -> float:
    """Largest absolute error over the recorded tensor's standard deviation."""
    assert ours.shape == recorded.shape, f"shape {tuple(ours.shape)}, recorded {tuple(recorded.shape)}"
    difference = (ours.double() - recorded.double()).abs().max()
    return float(difference / recorded.double().std(correction=0))


def assert_parity(ours: Tensor, recorded: Tensor, name: str = "tensor", tolerance: float = TOLERANCE) -> None:
    """Fail unless the largest error is within `tolerance` of the recorded tensor's standard deviation."""
    error = relative_error(ours, recorded)
    assert error <= tolerance, f"{name}: largest error {error:.2e} of the recorded standard deviation"
