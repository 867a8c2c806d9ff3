"""From configurations and state dicts to networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar, overload

from torch import Tensor, nn

from copo.config import DiscriminatorConfig, GeneratorConfig, LightPriorConfig, NoisePriorConfig, VaeConfig
from copo.formats import official
from copo.formats.checkpoint import check_state
from copo.networks.conditional_priors import VIEW, LightPrior, NoisePrior
from copo.networks.discriminator import Discriminator
from copo.networks.generator import Generator
from copo.networks.vae import Vae, VaeDiscriminator

_Module = TypeVar("_Module", bound=nn.Module)


def fill(network: _Module, state: Mapping[str, Tensor], title: str = "weights") -> _Module:
    """Load a state dict into a network, and put it in evaluation mode without gradients.

    Raises:
        CopoError: Names the first entry that does not fit, with both shapes.
    """
    check_state(network.state_dict(), state, title)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


@overload
def load(config: GeneratorConfig, state: Mapping[str, Tensor], title: str = ...) -> Generator: ...
@overload
def load(config: DiscriminatorConfig, state: Mapping[str, Tensor], title: str = ...) -> Discriminator: ...
@overload
def load(config: VaeConfig, state: Mapping[str, Tensor], title: str = ...) -> Vae: ...
@overload
def load(config: NoisePriorConfig, state: Mapping[str, Tensor], title: str = ...) -> NoisePrior: ...
@overload
def load(config: LightPriorConfig, state: Mapping[str, Tensor], title: str = ...) -> LightPrior: ...
def load(
    config: GeneratorConfig | DiscriminatorConfig | VaeConfig | NoisePriorConfig | LightPriorConfig,
    state: Mapping[str, Tensor],
    title: str = "weights",
) -> Generator | Discriminator | Vae | NoisePrior | LightPrior:
    """The network of a configuration with the given weights (a `StoredNetwork`'s two parts), in evaluation mode.

    Weights stored in half precision become float32.

    Raises:
        CopoError: Names the first entry that does not fit the configuration, with both shapes.
    """
    network: Generator | Discriminator | Vae | NoisePrior | LightPrior
    if isinstance(config, GeneratorConfig):
        network = Generator(config)
    elif isinstance(config, DiscriminatorConfig):
        network = Discriminator(config)
    elif isinstance(config, NoisePriorConfig):
        network = NoisePrior(config)
    elif isinstance(config, LightPriorConfig):
        network = LightPrior(config)
    else:
        network = Vae(config)
    return fill(network, state, title)


def load_noise_prior(state: Mapping[str, Tensor], title: str = "weights") -> NoisePrior:
    """The prior of noise codes with the given weights, whose shapes tell its sizes."""
    (people, noise), (places, identity) = state["codes"].shape, state["axes"].shape
    return load(NoisePriorConfig(noise, identity, people, places, len(state["owners"])), state, title)


def load_light_prior(state: Mapping[str, Tensor], title: str = "weights") -> LightPrior:
    """The prior of light for identities with the given weights, whose shapes tell its sizes."""
    illumination, told = state["gain"].shape
    return load(LightPriorConfig(told - VIEW, illumination), state, title)


def load_official_generator(
    state: Mapping[str, Tensor],
    shadow: Sequence[Tensor] | None = None,
    raw_resolution: int | None = None,
    factor_sizes: Mapping[str, int] | None = None,
) -> Generator:
    """Our generator from a published state dict; arguments as `copo.formats.official.convert_generator`."""
    return load(*official.convert_generator(state, shadow, raw_resolution, factor_sizes), "generator")


def load_official_discriminator(state: Mapping[str, Tensor], minibatch_group: int = 1) -> Discriminator:
    """Our discriminator from a published state dict. A group of 1 reproduces the published program."""
    return load(*official.convert_discriminator(state, minibatch_group), "discriminator")


def load_official_vae(state: Mapping[str, Tensor], factor: str = "identity") -> Vae:
    """Our coefficient prior from a published state dict."""
    return load(*official.convert_vae(state, factor), f"{factor} prior")


def load_official_vae_discriminator(state: Mapping[str, Tensor]) -> VaeDiscriminator:
    """Our discriminator of a coefficient prior from a published state dict."""
    config, renamed = official.convert_vae_discriminator(state)
    return fill(VaeDiscriminator(config), renamed, "prior discriminator")
