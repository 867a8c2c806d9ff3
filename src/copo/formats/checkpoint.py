"""Our checkpoints: a folder with `config.json` and one safetensors file for each network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from copo.config import DiscriminatorConfig, GeneratorConfig, LightPriorConfig, NoisePriorConfig, VaeConfig
from copo.errors import CopoError, unknown_name
from copo.factors import FactorSpec
from copo.formats.atomic import atomic_write

State = dict[str, Tensor]
NetworkConfig = GeneratorConfig | DiscriminatorConfig | VaeConfig | NoisePriorConfig | LightPriorConfig

FORMAT = "copo-checkpoint"
VERSION = 1
CONFIG_NAME = "config.json"

_KINDS: dict[str, type[NetworkConfig]] = {
    "generator": GeneratorConfig,
    "discriminator": DiscriminatorConfig,
    "prior_identity": VaeConfig,
    "prior_expression": VaeConfig,
    "prior_illumination": VaeConfig,
    "prior_noise": NoisePriorConfig,
    "prior_light": LightPriorConfig,
}
NETWORK_NAMES: tuple[str, ...] = tuple(_KINDS)
"""The networks that a checkpoint may hold; the file of each is NAME.safetensors."""


@dataclass(frozen=True)
class StoredNetwork:
    """One network as data; `copo.networks.build.load` makes it a module.

    Attributes:
        config: Its configuration.
        state: Its weights and buffers by our names.
    """

    config: NetworkConfig
    state: State


@dataclass
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        networks: By name (`NETWORK_NAMES`).
        factors: The factors that the generator was made for, or None where that is unknown.
        notes: Free text about the origin: source, licence, training run.
    """

    networks: dict[str, StoredNetwork]
    factors: FactorSpec | None = None
    notes: dict[str, str] = field(default_factory=dict)


def check_state(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], title: str) -> None:
    """Compare names and shapes of a state dict with those of a network.

    Args:
        expected: The network's own state dict.
        state: The one to be loaded.
        title: What to call it in errors.

    Raises:
        CopoError: Names the first entry that is missing, unknown or of another shape, with both shapes.
    """
    for key, value in expected.items():
        if key not in state:
            raise CopoError(f"{title}: made for another configuration: {key} {tuple(value.shape)} is missing")
        if state[key].shape != value.shape:
            raise CopoError(
                f"{title}: made for another configuration: {key} has shape {tuple(state[key].shape)}, "
                f"expected {tuple(value.shape)}"
            )
    for key, tensor in state.items():
        if key not in expected:
            raise CopoError(f"{title}: made for another configuration: unknown entry {key} {tuple(tensor.shape)}")


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network's weights, in half precision, so that storing a model in 16 bits keeps its fingerprint.

    Args:
        state: The state dict.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.to(torch.float16).cpu().contiguous().numpy().astype("<f2").tobytes())
    return digest.hexdigest()


def _stored(key: str, value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor as it goes into the file.

    Raises:
        CopoError: It is too large for `dtype`.
    """
    value = value.detach().cpu()
    if dtype is not None and value.is_floating_point():
        if not torch.equal(torch.isfinite(value), torch.isfinite(value.to(dtype))):
            raise CopoError(f"checkpoint: {key} is too large for {dtype}; store it in float32")
        value = value.to(dtype)
    return value.contiguous().clone()


def load_state(path: Path) -> State:
    """Read a safetensors file.

    Raises:
        CopoError: It is missing, truncated or not safetensors.
    """
    if not path.is_file():
        raise CopoError(f"weights {path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CopoError(f"weights {path}: truncated or not safetensors; fetch or convert it again") from error


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint folder, whole or not at all; `config.json` comes last.

    Args:
        checkpoint: What to write.
        folder: Made if it does not exist.
        dtype: Type of the stored weights, e.g. torch.float16; None keeps theirs.

    Raises:
        CopoError: A network has an unknown name, a weight is too large for `dtype`, or the folder cannot be written.
    """
    for name in checkpoint.networks:
        if name not in _KINDS:
            raise unknown_name("network", name, _KINDS)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "factors": checkpoint.factors.to_dict() if checkpoint.factors else None,
        "networks": {name: network.config.to_dict() for name, network in checkpoint.networks.items()},
        "notes": checkpoint.notes,
    }
    with atomic_write(Path(folder) / CONFIG_NAME) as temporary:
        for name, network in checkpoint.networks.items():
            state = {key: _stored(key, value, dtype) for key, value in network.state.items()}
            (temporary.parent / f"{name}.safetensors").write_bytes(save(state))
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_config(folder: str | Path) -> dict[str, object]:
    """The parsed `config.json` of a checkpoint folder.

    Raises:
        CopoError: There is none, or it is not of this format and version.
    """
    path = Path(folder) / CONFIG_NAME
    if not path.is_file():
        raise CopoError(
            f"checkpoint {folder}: no {CONFIG_NAME} there; give a folder made by `copo convert` or training"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CopoError(f"checkpoint {path}: not valid JSON") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT or not isinstance(config.get("networks"), dict):
        raise CopoError(f"checkpoint {path}: not a CoPo checkpoint")
    if config.get("version") != VERSION:
        raise CopoError(f"checkpoint {path}: version {config.get('version')}, this program reads version {VERSION}")
    return config


def load_checkpoint(folder: str | Path, names: tuple[str, ...] | None = None) -> Checkpoint:
    """Read a checkpoint folder onto the CPU.

    Args:
        folder: As `save_checkpoint` made it.
        names: Networks to load; None loads all there are.

    Raises:
        CopoError: A file is missing or damaged, a configuration is invalid, or a wanted network is not there.
    """
    folder = Path(folder)
    config = read_config(folder)
    given = config["networks"]
    assert isinstance(given, dict)
    networks: dict[str, StoredNetwork] = {}
    for name in names if names is not None else tuple(given):
        if name not in _KINDS:
            raise unknown_name("network", name, _KINDS)
        if name not in given:
            raise CopoError(f"checkpoint {folder}: it holds no {name}")
        networks[name] = StoredNetwork(_KINDS[name].from_dict(given[name]), load_state(folder / f"{name}.safetensors"))
    factors, notes = config.get("factors"), config.get("notes")
    return Checkpoint(
        networks,
        FactorSpec.from_dict(factors) if isinstance(factors, Mapping) else None,
        {str(k): str(v) for k, v in notes.items()} if isinstance(notes, Mapping) else {},
    )
