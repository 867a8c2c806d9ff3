"""The analyser's weights: one safetensors file with its sizes and its factors' names in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from copo.errors import CopoError, unknown_name
from copo.factors import FactorSpec
from copo.formats.atomic import atomic_write
from copo.formats.checkpoint import check_state
from copo.vision.networks.analyser import AnalyserConfig, AnalyserNetwork

ASSET = "analyser.safetensors"
FORMAT, VERSION = "copo.analyser", 1
LARGEST_GAIN = 3.0
"""Gains of expression units lie between 1 and this: more would make noise of a resting face visible."""
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class AnalyserFile:
    """What the file holds.

    Attributes:
        network: In evaluation mode, float32, on the CPU.
        spec: The factors that it tells.
        notes: Origin: run, data, figures.
        gains: By what the readings of some expression units are multiplied where a film drives a portrait
            (`tools/calibrate_analyser.py`); all others have 1.
    """

    network: AnalyserNetwork
    spec: FactorSpec
    notes: dict[str, Any]
    gains: dict[str, float] = field(default_factory=dict)


def save_analyser(
    path: str | Path,
    network: AnalyserNetwork,
    spec: FactorSpec,
    notes: dict[str, Any] | None = None,
    gains: Mapping[str, float] | None = None,
) -> None:
    """Write the weights in half precision.

    Raises:
        CopoError: A weight is not finite in half precision, a gain is none, or the file cannot be written.
    """
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith(_COUNTER):
            continue
        half = value.detach().cpu().half()
        if not torch.isfinite(half).all():
            raise CopoError(f"analyser: {name} is not finite in half precision; the training diverged")
        state[name] = half.contiguous()
    facts = {
        "format": FORMAT, "version": VERSION, "network": network.config.to_dict(), "factors": spec.to_dict(),
        "notes": notes or {}, "gains": check_gains(gains or {}, spec),
    }  # fmt: skip
    with atomic_write(path) as temporary:
        save_file(state, temporary, metadata={"copo": json.dumps(facts)})


def load_analyser(path: str | Path | None = None) -> AnalyserFile:
    """Read the weights.

    Args:
        path: A file that training made; by default the one in the package.

    Raises:
        CopoError: It is missing, damaged, or something else.
    """
    if path is None:
        with resources.as_file(resources.files("copo") / "assets" / ASSET) as packaged:
            if not packaged.is_file():
                raise CopoError("the analyser's weights are not in this installation: give a file made by training")
            return _read(packaged)
    return _read(Path(path))


def check_gains(gains: Mapping[str, float], spec: FactorSpec) -> dict[str, float]:
    """The same gains.

    Raises:
        CopoError: One belongs to no expression unit, or does not lie between 1 and `LARGEST_GAIN`.
    """
    for name, gain in gains.items():
        if name not in spec.expression_names:
            raise unknown_name("expression", name, spec.expression_names)
        if not 1 <= gain <= LARGEST_GAIN:
            raise CopoError(f"gain of {name}: {gain:g} does not lie between 1 and {LARGEST_GAIN:g}")
    return {name: float(gain) for name, gain in gains.items()}


def _read(path: Path) -> AnalyserFile:
    if not path.is_file():
        raise CopoError(f"analyser weights {path}: no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("copo", "{}"))
            if not isinstance(facts, dict) or facts.get("format") != FORMAT:
                raise CopoError(f"analyser weights {path}: not an analyser's; give a file made by its training")
            if facts.get("version") != VERSION:
                raise CopoError(
                    f"analyser weights {path}: version {facts.get('version')}, this program reads {VERSION}"
                )
            state = {name: file.get_tensor(name).float() for name in list(file.keys())}
        network = AnalyserNetwork(AnalyserConfig(**facts["network"]))
        spec = FactorSpec.from_dict(facts["factors"])
        gains = check_gains(facts.get("gains", {}), spec)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CopoError):
            raise
        raise CopoError(f"analyser weights {path}: truncated or damaged; get the file again") from error
    own = {name: value for name, value in network.state_dict().items() if not name.endswith(_COUNTER)}
    check_state(own, state, f"analyser weights {path}")
    network.load_state_dict(state, strict=False)
    network.eval().requires_grad_(False)  # gradients into pictures remain
    return AnalyserFile(network, spec, dict(facts.get("notes", {})), gains)
