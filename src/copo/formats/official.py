"""The authors' published checkpoints: from their files to our configurations and names.

`generator.pth` is a state dict, `ema.pth` a torch_ema state (`shadow_params` in parameter order), and the coefficient
priors are whole pickled modules (class path `vaes.vaes.VAE`). Pickles can run code, so every file is read by PyTorch's
restricted unpickler (`weights_only`), which builds tensors and plain containers only. For the priors it is given inert
stand-ins for `vaes.vaes.VAE` and the classes of `torch.nn.modules`; any other class or function is refused before
anything of it runs.
"""

from __future__ import annotations

import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from copo.config import DiscriminatorConfig, GeneratorConfig, VaeConfig
from copo.errors import CopoError
from copo.factors import FACTOR_NAMES
from copo.formats.checkpoint import State

_BUFFERS = ("resample_filter", "noise_const", "w_avg")
"""Last parts of the generator's keys that name buffers, not parameters."""


# --- reading files ---------------------------------------------------------------------------------------------------


class _Inert:
    """Stands in for a pickled module: keeps its attributes as plain data and has no behaviour."""


def _stand_ins() -> list[tuple[Any, str]]:
    """The class paths that a pickled prior may name, all mapped to the inert class."""
    names = {
        f"{cls.__module__}.{cls.__qualname__}"
        for _, cls in inspect.getmembers(nn, inspect.isclass)
        if issubclass(cls, nn.Module)
    }
    names.add("vaes.vaes.VAE")
    return [(_Inert, name) for name in sorted(names)]


def _load(path: Path, title: str, stand_ins: Sequence[tuple[Any, str]] = ()) -> object:
    """Read a torch.save file with nothing run.

    Raises:
        CopoError: The file is missing, broken, or names something that is not allowed.
    """
    if not path.is_file():
        raise CopoError(f"{title} {path}: no such file")
    try:
        with torch.serialization.safe_globals(list(stand_ins)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # anything a hostile or broken file can provoke is the same to the user
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it names {named[1]}, which is not allowed" if named else "damaged, or not a file of this kind"
        if "persistent_load of storage" in str(error):
            why = "it pickles a module in the format of before PyTorch 1.6; save its state_dict() there and give that"
        raise CopoError(f"{title} {path}: refused: {why}; nothing in it was run") from error


def _tensors(data: object, title: str) -> State:
    """Check that `data` is a flat dict of tensors; drop the "module." prefix of data-parallel training."""
    if not isinstance(data, Mapping) or not data:
        raise CopoError(f"{title}: expected a state dict (names to tensors), found {type(data).__name__}")
    for key, value in data.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CopoError(f"{title}: entry {key!r} is {type(value).__name__}, expected a tensor: not a state dict")
    prefix = "module." if all(key.startswith("module.") for key in data) else ""
    return {key.removeprefix(prefix): value for key, value in data.items()}


def read_state(path: str | Path, title: str = "checkpoint") -> State:
    """Read a state dict saved by torch.save, in its own key order.

    Args:
        path: The file.
        title: What to call it in errors.

    Raises:
        CopoError: The file is missing, broken, not a state dict, or tries to run code.
    """
    return _tensors(_load(Path(path), title), f"{title} {path}")


def _module_state(module: object, title: str, prefix: str = "", depth: int = 0) -> State:
    """Flatten a tree of inert modules into a state dict, in PyTorch's order."""
    attributes = getattr(module, "__dict__", {})
    parts = [attributes.get(name) for name in ("_parameters", "_buffers", "_modules")]
    if not isinstance(module, _Inert) or depth > 16 or not all(isinstance(part, dict) for part in parts):
        raise CopoError(f"{title}: {prefix or 'the top'} is not a pickled torch module")
    parameters, buffers, modules = (dict(part) for part in parts if part is not None)
    state: State = {}
    for name, value in [*parameters.items(), *buffers.items()]:
        if isinstance(value, Tensor):
            state[f"{prefix}{name}"] = value.detach()
        elif value is not None:
            raise CopoError(f"{title}: {prefix}{name} is {type(value).__name__}, expected a tensor")
    for name, child in modules.items():
        if child is not None:
            state.update(_module_state(child, title, f"{prefix}{name}.", depth + 1))
    return state


def read_vae_state(path: str | Path, title: str = "prior") -> State:
    """Read a coefficient prior: a whole pickled module `vaes.vaes.VAE` (zip format), or its state dict (any format).

    Raises:
        CopoError: The file is missing, broken, holds something else, or tries to run code.
    """
    data = _load(Path(path), title, _stand_ins())
    if isinstance(data, _Inert):
        return _module_state(data, f"{title} {path}")
    return _tensors(data, f"{title} {path}")


def read_ema(path: str | Path) -> list[Tensor]:
    """Read the averaged parameters of a torch_ema state, in parameter order.

    Raises:
        CopoError: The file is missing, broken, not a torch_ema state, or tries to run code.
    """
    data = _load(Path(path), "EMA state")
    shadow = data.get("shadow_params") if isinstance(data, Mapping) else None
    if not isinstance(shadow, (list, tuple)) or not all(isinstance(p, Tensor) for p in shadow):
        raise CopoError(f"EMA state {path}: it has no list of tensors 'shadow_params'; give the ema.pth of the release")
    return list(shadow)


def apply_ema(state: State, shadow: Sequence[Tensor]) -> State:
    """A generator's state dict with its parameters replaced by averaged ones.

    The averages carry no names; their order is that of the module's parameters, which is the order of the state dict
    without its buffers.

    Args:
        state: Official names, in the order of the file.
        shadow: Averages in parameter order.

    Raises:
        CopoError: The numbers or the shapes disagree.
    """
    keys = [key for key in state if key.rsplit(".", 1)[-1] not in _BUFFERS]
    if len(keys) != len(shadow):
        raise CopoError(f"EMA state: it has {len(shadow)} tensors, the generator has {len(keys)} parameters")
    out = dict(state)
    for key, average in zip(keys, shadow, strict=True):
        if average.shape != state[key].shape:
            raise CopoError(f"EMA state: {key} has shape {tuple(average.shape)}, expected {tuple(state[key].shape)}")
        out[key] = average.to(state[key].dtype)
    return out


# --- configuration from shapes ---------------------------------------------------------------------------------------


def _shape(state: Mapping[str, Tensor], key: str, dims: int, title: str) -> tuple[int, ...]:
    """The shape of an entry.

    Raises:
        CopoError: The entry is missing or has another number of dimensions.
    """
    if key not in state:
        raise CopoError(f"{title}: it lacks {key!r}: not a checkpoint of the published program")
    shape = tuple(state[key].shape)
    if len(shape) != dims:
        raise CopoError(f"{title}: {key} has shape {shape}, expected {dims} dimensions")
    return shape


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... are there."""
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count


def _levels(state: Mapping[str, Tensor], pattern: str, title: str) -> list[int]:
    """Sorted resolutions r for which a key matches `pattern`; they must be consecutive powers of two."""
    found = sorted({int(m[1]) for key in state if (m := re.match(pattern, key))})
    if not found or any(b != 2 * a for a, b in itertools.pairwise(found)):
        raise CopoError(f"{title}: its blocks have resolutions {found}, expected 4, 8, 16, ...")
    return found


def _channel_rule(channels: Mapping[int, int], title: str) -> tuple[int, int]:
    """The (channel_base, channel_max) whose rule min(base // r, max) gives `channels`, a mapping of r to channels."""
    most = max(channels.values())
    low = max(c * r for r, c in channels.items())
    free = {r: c for r, c in channels.items() if c < most}
    high = min(((c + 1) * r for r, c in free.items()), default=low + 1)
    published = 32768
    base = published if low <= published < high or (not free and low <= published) else low
    wrong = [r for r, c in channels.items() if min(base // r, most) != c]
    if wrong:
        raise CopoError(f"{title}: {channels[wrong[0]]} channels at {wrong[0]} do not follow min(base / r, max)")
    return base, most


def _check_filters(state: Mapping[str, Tensor], title: str) -> None:
    """Warn when a resampling filter is not [1, 3, 3, 1]: the pictures would differ from the authors' program."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    expected = torch.outer(taps, taps)
    for key, value in state.items():
        if key.endswith("resample_filter") and (
            value.shape != expected.shape or not torch.allclose(value.float(), expected, atol=1e-4)
        ):
            warnings.warn(f"{title}: {key} is not the published filter [1, 3, 3, 1], which is used", stacklevel=3)
            return


def _published_sizes(latent: int) -> dict[str, int]:
    """Factor sizes of a latent: BFM09's with what is left as noise, or all noise if it is too short for them."""
    sizes = {"shape": 80, "albedo": 80, "expression": 64, "illumination": 27}
    rest = latent - sum(sizes.values())
    return {"noise": rest, **sizes} if rest >= 0 else {"noise": latent, **dict.fromkeys(sizes, 0)}


def infer_generator_config(
    state: Mapping[str, Tensor], raw_resolution: int | None = None, factor_sizes: Mapping[str, int] | None = None
) -> GeneratorConfig:
    """The whole configuration of a published generator from the shapes in its state dict.

    Args:
        state: Official names.
        raw_resolution: Rays per side, which leaves no trace in the weights; by default a quarter of the output, as
            published.
        factor_sizes: Sizes of noise, shape, albedo, expression and illumination; by default BFM09's.

    Raises:
        CopoError: A needed entry is missing, or shapes contradict each other.
    """
    title = "generator"
    synthesis = "encoder.synthesis"
    levels = _levels(state, rf"{re.escape(synthesis)}\.b(\d+)\.conv1\.weight$", title)
    channels = {r: _shape(state, f"{synthesis}.b{r}.conv1.weight", 4, title)[0] for r in levels}
    base, most = _channel_rule(channels, title)
    planes, _, _, _ = _shape(state, f"{synthesis}.b{levels[0]}.torgb.weight", 4, title)
    w_dim, pose = _shape(state, "encoder.mapping.embed.weight", 2, title)
    latent = _shape(state, "encoder.mapping.fc0.weight", 2, title)[1] - w_dim
    hidden, _ = _shape(state, "decoder.base_network.0.weight", 2, title)
    classes, _ = _shape(state, "decoder.mask_head.weight", 2, title)
    half, features, _, _ = _shape(state, "sr.block0.conv0.weight", 4, title)
    full = _shape(state, "sr.block1.conv0.weight", 4, title)[0]
    noise = "sr.block1.conv0.noise_const" in state
    output = _shape(state, "sr.block1.conv0.noise_const", 2, title)[0] if noise else 4 * (raw_resolution or 0)
    if pose != 2 or levels[0] != 4 or planes % 3:
        raise CopoError(f"{title}: pose {pose}, first block {levels[0]}, {planes} plane channels; expected 2, 4, 3 x C")
    if not output:
        raise CopoError(f"{title}: it stores no noise pictures, so its output size is unknown; give raw_resolution")
    sizes = dict(factor_sizes) if factor_sizes is not None else _published_sizes(latent)
    if set(sizes) != set(FACTOR_NAMES) or sum(sizes.values()) != latent:
        raise CopoError(f"{title}: factor sizes {sizes}: give {', '.join(FACTOR_NAMES)} with the sum {latent}")
    return GeneratorConfig(
        noise=sizes["noise"],
        shape=sizes["shape"],
        albedo=sizes["albedo"],
        expression=sizes["expression"],
        illumination=sizes["illumination"],
        w_dim=w_dim,
        mapping_layers=_count(state, "encoder.mapping.fc{}.weight"),
        channel_base=base,
        channel_max=most,
        plane_resolution=levels[-1],
        plane_channels=planes // 3,
        noise_inputs=noise,
        decoder_hidden=hidden,
        feature_channels=features,
        class_count=classes,
        raw_resolution=raw_resolution or output // 4,
        output_resolution=output,
        sr_channels=(half, full),
    )


def infer_discriminator_config(
    state: Mapping[str, Tensor], pose: int = 2, minibatch_group: int = 1
) -> DiscriminatorConfig:
    """The configuration of a published discriminator from the shapes in its state dict.

    Args:
        state: Official names.
        pose: Regressed pose numbers.
        minibatch_group: See `DiscriminatorConfig`; 1 reproduces the published program.

    Raises:
        CopoError: A needed entry is missing, or shapes contradict each other.
    """
    title, root = "discriminator", "discriminator_img"
    levels = _levels(state, rf"{root}\.b(\d+)\.conv0\.weight$", title)
    channels = {r: _shape(state, f"{root}.b{r}.conv0.weight", 4, title)[0] for r in levels}
    channels[4] = _shape(state, f"{root}.b4.conv.weight", 4, title)[0]
    base, most = _channel_rule(channels, title)
    cmap, given = _shape(state, f"{root}.mapping.embed.weight", 2, title)
    outputs, _ = _shape(state, f"{root}.b4.out.weight", 2, title)
    if levels[0] != 8 or given != pose or outputs < cmap + pose:
        raise CopoError(
            f"{title}: blocks from {levels[0]}, pose of {given}, {outputs} outputs; expected 8, {pose}, more"
        )
    return DiscriminatorConfig(
        resolution=levels[-1],
        image_channels=_shape(state, f"{root}.b{levels[-1]}.fromrgb.weight", 4, title)[1],
        latent=outputs - cmap - pose,
        pose=pose,
        channel_base=base,
        channel_max=most,
        cmap=cmap,
        mapping_layers=_count(state, root + ".mapping.fc{}.weight"),
        minibatch_group=minibatch_group,
    )


PUBLISHED_SCALES: dict[str, Callable[[int], tuple[float, ...]]] = {
    "identity": lambda n: (4.2,) * (n // 2) + (9.0,) * (n - n // 2),
    "expression": lambda n: (4.0,),
    "illumination": lambda n: (0.85,),
}
"""Normalisers of the published priors, by factor, as functions of the number of coefficients."""


def infer_vae_config(state: Mapping[str, Tensor], factor: str = "identity") -> VaeConfig:
    """The configuration of a published prior from the shapes in its state dict.

    Args:
        state: Official names.
        factor: "identity", "expression" or "illumination": chooses the normalisers.

    Raises:
        CopoError: A needed entry is missing.
    """
    hidden, coefficients = _shape(state, "encoder.0.0.weight", 2, "prior")
    latent, _ = _shape(state, "fc_mu.weight", 2, "prior")
    blocks = _count(state, "encoder.{}.0.weight")
    scales = PUBLISHED_SCALES[factor](coefficients)
    return VaeConfig(coefficients=coefficients, latent=latent, hidden=hidden, blocks=blocks, scales=scales)


# --- names -----------------------------------------------------------------------------------------------------------


def _rename(
    state: Mapping[str, Tensor], rules: Sequence[tuple[str, Callable[[re.Match[str]], str]]], title: str
) -> State:
    """Rename entries by the first rule that matches a whole key; FIR filters are dropped.

    Raises:
        CopoError: No rule matches a key.
    """
    out: State = {}
    for key, value in state.items():
        if key.endswith("resample_filter"):
            continue
        for pattern, name in rules:
            if match := re.fullmatch(pattern, key):
                out[name(match)] = value.detach()
                break
        else:
            raise CopoError(f"{title}: unknown entry {key!r}: not a checkpoint of the published program")
    return out


_CONV = r"(weight|bias|noise_strength|noise_const|affine\.weight|affine\.bias)"

_GENERATOR_RULES: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (r"encoder\.synthesis\.b4\.const", lambda m: "synthesis.const"),
    (
        rf"encoder\.synthesis\.b(\d+)\.(conv[01])\.{_CONV}",
        lambda m: f"synthesis.blocks.{int(m[1]).bit_length() - 3}.{m[2]}.{m[3]}",
    ),
    (
        rf"encoder\.synthesis\.b(\d+)\.torgb\.{_CONV}",
        lambda m: f"synthesis.blocks.{int(m[1]).bit_length() - 3}.to_planes.{m[2]}",
    ),
    (r"encoder\.mapping\.w_avg", lambda m: "mapping.w_avg"),
    (r"encoder\.mapping\.embed\.(weight|bias)", lambda m: f"mapping.network.embed.{m[1]}"),
    (r"encoder\.mapping\.fc(\d+)\.(weight|bias)", lambda m: f"mapping.network.layers.{m[1]}.{m[2]}"),
    (r"decoder\.base_network\.0\.(weight|bias)", lambda m: f"decoder.hidden.{m[1]}"),
    (r"decoder\.image_head\.(weight|bias)", lambda m: f"decoder.picture.{m[1]}"),
    (r"decoder\.mask_head\.(weight|bias)", lambda m: f"decoder.semantic.{m[1]}"),
    (rf"sr\.(block[01])\.(conv[01]|skip)\.{_CONV}", lambda m: f"super_resolution.{m[1]}.{m[2]}.{m[3]}"),
    (rf"sr\.block1\.torgb\.{_CONV}", lambda m: f"super_resolution.to_rgb.{m[1]}"),
]


def _discriminator_rules(top: int) -> list[tuple[str, Callable[[re.Match[str]], str]]]:
    root = r"discriminator_img\."
    top_bits = top.bit_length()
    return [
        (rf"{root}b{top}\.fromrgb\.(weight|bias)", lambda m: f"from_picture.{m[1]}"),
        (
            rf"{root}b(\d+)\.(conv[01]|skip)\.(weight|bias)",
            lambda m: f"blocks.{top_bits - int(m[1]).bit_length()}.{m[2]}.{m[3]}",
        ),
        (rf"{root}mapping\.embed\.(weight|bias)", lambda m: f"mapping.embed.{m[1]}"),
        (rf"{root}mapping\.fc(\d+)\.(weight|bias)", lambda m: f"mapping.layers.{m[1]}.{m[2]}"),
        (rf"{root}b4\.conv\.(weight|bias)", lambda m: f"conv.{m[1]}"),
        (rf"{root}b4\.fc\.(weight|bias)", lambda m: f"hidden.{m[1]}"),
        (rf"{root}b4\.out\.(weight|bias)", lambda m: f"out.{m[1]}"),
    ]


_VAE_RULES: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (r"(encoder|decoder)\.(\d+)\.([01])\.(\w+)", lambda m: f"{m[1]}.{3 * int(m[2]) + int(m[3])}.{m[4]}"),
    (r"fc_mu\.(weight|bias)", lambda m: f"mean.{m[1]}"),
    (r"fc_var\.(weight|bias)", lambda m: f"log_variance.{m[1]}"),
    (r"final_layer\.(weight|bias)", lambda m: f"out.{m[1]}"),
    (r"model\.(\d+)\.([01])\.(\w+)", lambda m: f"blocks.{3 * int(m[1]) + int(m[2])}.{m[3]}"),
]


# --- conversion ------------------------------------------------------------------------------------------------------


def convert_generator(
    state: Mapping[str, Tensor],
    shadow: Sequence[Tensor] | None = None,
    raw_resolution: int | None = None,
    factor_sizes: Mapping[str, int] | None = None,
) -> tuple[GeneratorConfig, State]:
    """Configuration and renamed weights of a published generator.

    Args:
        state: Official names, in the order of the file.
        shadow: Averaged parameters in parameter order, used instead of the trained ones.
        raw_resolution: See `infer_generator_config`.
        factor_sizes: See `infer_generator_config`.

    Raises:
        CopoError: Names or shapes are not those of a published generator.
    """
    config = infer_generator_config(state, raw_resolution, factor_sizes)
    _check_filters(state, "generator")
    if shadow is not None:
        state = apply_ema(dict(state), shadow)
    return config, _rename(state, _GENERATOR_RULES, "generator")


def convert_discriminator(state: Mapping[str, Tensor], minibatch_group: int = 1) -> tuple[DiscriminatorConfig, State]:
    """Configuration and renamed weights of a published discriminator; see `infer_discriminator_config`."""
    config = infer_discriminator_config(state, minibatch_group=minibatch_group)
    _check_filters(state, "discriminator")
    return config, _rename(state, _discriminator_rules(config.resolution), "discriminator")


def convert_vae(state: Mapping[str, Tensor], factor: str = "identity") -> tuple[VaeConfig, State]:
    """Configuration and renamed weights of a published prior; see `infer_vae_config`."""
    return infer_vae_config(state, factor), _rename(state, _VAE_RULES, f"{factor} prior")


def convert_vae_discriminator(state: Mapping[str, Tensor]) -> tuple[VaeConfig, State]:
    """Configuration and renamed weights of the discriminator of a published prior."""
    title = "prior discriminator"
    hidden, coefficients = _shape(state, "model.0.0.weight", 2, title)
    blocks = _count(state, "model.{}.0.weight")
    config = VaeConfig(coefficients=coefficients, hidden=hidden, blocks=blocks, scales=(1.0,))
    return config, _rename(state, _VAE_RULES, title)
