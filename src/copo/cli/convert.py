"""`copo convert`: the authors' published checkpoints to a checkpoint folder of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from copo.config import GeneratorConfig
from copo.errors import CopoError
from copo.factors import FactorSpec
from copo.formats import official
from copo.formats.bfm import bfm_spec
from copo.formats.checkpoint import Checkpoint, NetworkConfig, State, StoredNetwork, save_checkpoint
from copo.networks.build import load


@dataclass
class Command:
    """Turn the published checkpoints into this package's format: config.json and safetensors files.

    Files are read by a restricted loader: one that tries to run code is refused, and nothing in it is run.

    Example: copo convert --generator generator.pth --ema ema.pth --vae-id vae_id.pth --out models/published
    """

    generator: Path
    """generator.pth: the generator's state dict."""
    out: Path
    """Folder to write; made if it does not exist."""
    ema: Path | None = None
    """ema.pth: averaged weights, used instead of the generator's own (better pictures)."""
    vae_id: Path | None = None
    """The identity prior."""
    vae_exp: Path | None = None
    """The expression prior."""
    vae_gamma: Path | None = None
    """The illumination prior."""
    discriminator: Path | None = None
    """The discriminator's state dict, for training on."""
    raw_resolution: int | None = None
    """Rays per side, which the files do not tell; by default a quarter of the output, as published."""
    half: bool = False
    """Store weights in half precision: half the size, differences below what a display shows."""

    def run(self) -> None:
        """Convert everything, check every shape, then write the folder."""
        shadow = official.read_ema(self.ema) if self.ema else None
        state = official.read_state(self.generator, "generator")
        config, weights = official.convert_generator(state, shadow, self.raw_resolution)
        networks = {"generator": _checked(config, weights, "generator")}
        if self.discriminator:
            judge = official.convert_discriminator(official.read_state(self.discriminator, "discriminator"))
            networks["discriminator"] = _checked(*judge, "discriminator")
        for factor, path in (
            ("identity", self.vae_id),
            ("expression", self.vae_exp),
            ("illumination", self.vae_gamma),
        ):
            if path:
                title = f"{factor} prior"
                prior, prior_weights = official.convert_vae(official.read_vae_state(path, title), factor)
                size = _size(config, factor)
                if factor_spec(config) is not None and prior.coefficients != size:
                    raise CopoError(f"{title} {path}: it has {prior.coefficients} coefficients, the generator {size}")
                networks[f"prior_{factor}"] = _checked(prior, prior_weights, title)
        notes = {"source": "converted from the published checkpoints", "weights": "ema" if self.ema else "last"}
        checkpoint = Checkpoint(networks, factor_spec(config), notes)
        save_checkpoint(checkpoint, self.out, torch.float16 if self.half else None)
        for name, network in networks.items():
            count = sum(value.numel() for value in network.state.values())
            print(f"{name:20} {count / 1e6:7.2f} M numbers  {self.out / name}.safetensors")


def factor_spec(config: GeneratorConfig) -> FactorSpec | None:
    """The factors of a converted generator: BFM09's with the published divisors, or None for other sizes."""
    spec = bfm_spec(config.shape, config.albedo, config.expression, config.noise)
    return spec if config.shape and spec.total == config.latent else None


def _size(config: GeneratorConfig, factor: str) -> int:
    """Coefficients of one prior's factor; identity is shape and albedo together."""
    return config.shape + config.albedo if factor == "identity" else int(getattr(config, factor))


def _checked(config: NetworkConfig, state: State, title: str) -> StoredNetwork:
    """Build the network once, so that no folder is written that cannot be loaded."""
    network: nn.Module = load(config, state, title)
    return StoredNetwork(config, network.state_dict())
