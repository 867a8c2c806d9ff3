"""A generator that is one person: latent offsets and changed weights put into a copy of its networks.

Offsets of w are folded into the biases of the layers that read it: a layer reads `affine(w + d)`, which is
`affine(w) + W d`. A personal generator is therefore an ordinary one, and everything that takes a generator takes it.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from copo.errors import CopoError
from copo.formats.checkpoint import fingerprint
from copo.formats.portrait_file import PortraitFile
from copo.networks.generator import Generator
from copo.networks.layers import Linear, ModulatedConv, ToPicture
from copo.networks.synthesis import SynthesisBlock

Modulated = ModulatedConv | ToPicture


def readers(generator: Generator) -> list[tuple[int, Modulated]]:
    """Every layer that is modulated by the generator's latents, with the index of the w that it reads."""
    out: list[tuple[int, Modulated]] = []
    start = 0
    for block in generator.synthesis.blocks:
        assert isinstance(block, SynthesisBlock)
        layers = [layer for layer in (block.conv0, block.conv1, block.to_planes) if layer is not None]
        out += [(start + i, layer) for i, layer in enumerate(layers)]
        start += 2 if start else 1
    top = generator.super_resolution
    indexed = (
        (0, top.block0.conv0),
        (1, top.block0.conv1),
        (1, top.block1.conv0),
        (2, top.block1.conv1),
        (3, top.to_rgb),
    )
    return out + [(i, layer) for i, layer in indexed if isinstance(layer, (ModulatedConv, ToPicture))]


def background_readers(generator: Generator) -> list[Modulated]:
    """Every layer that is modulated by the background's latent."""
    branch = generator.background_branch
    if branch is None:
        return []
    return [layer for layer in (*branch.blocks, branch.to_features) if isinstance(layer, (ModulatedConv, ToPicture))]


@torch.no_grad()
def fold_offsets(generator: Generator, ws: Tensor | None, background: Tensor | None) -> None:
    """Put offsets of the latents into biases, in place.

    Args:
        generator: To change.
        ws: (ws_count, w_dim) or None.
        background: (background_w_dim,) or None.

    Raises:
        CopoError: An offset has another shape.
    """
    c = generator.config
    for title, value, shape in (("ws", ws, (c.ws_count, c.w_dim)), ("background", background, (c.background_w_dim,))):
        if value is not None and tuple(value.shape) != shape:
            raise CopoError(f"{title} offset has shape {tuple(value.shape)}: this generator expects {shape}")
    if ws is not None:
        for index, layer in readers(generator):
            _shift(layer.affine, ws[index])
    if background is not None:
        for layer in background_readers(generator):
            _shift(layer.affine, background)


def _shift(affine: Linear, offset: Tensor) -> None:
    """bias such that affine(w) is what affine(w + offset) was."""
    weight, _ = affine.effective()
    affine.bias.add_(weight @ offset.to(weight) / affine.bias_gain)


@torch.no_grad()
def personal(generator: Generator, portrait: PortraitFile, title: str = "portrait file") -> Generator:
    """A copy of a generator that is the person of a portrait file.

    The latent towards which truncation goes becomes the person's own: at the file's factors `psi` changes nothing, and
    it tames edits as it tames the factors of a seed.

    Args:
        generator: The one that the file was made with.
        portrait: The person.
        title: What to call the file in errors.

    Raises:
        CopoError: The file belongs to another generator.
    """
    if fingerprint(generator.state_dict()) != portrait.fingerprint:
        raise CopoError(f"{title} belongs to another model: invert the photograph with this one, or give --model")
    made = copy.deepcopy(generator)
    known = dict(made.named_parameters())
    for name, delta in portrait.weights.items():
        if name not in known:
            raise CopoError(f"{title}: the generator has no weight {name!r}; the file is damaged")
        try:
            known[name].add_(delta.to(known[name]))
        except (ValueError, RuntimeError) as error:
            raise CopoError(f"{title}: {name} does not fit ({error}); the file is damaged") from error
    fold_offsets(made, portrait.ws_offset, portrait.background_offset)
    anchor(made, portrait.person.to_vector())
    return made.eval().requires_grad_(False)


@torch.no_grad()
def anchor(generator: Generator, z: Tensor) -> None:
    """Make the latent of one z (1, latent) the one that truncation goes to, in place."""
    average = generator.mapping.w_avg
    pose = torch.full((1, 2), torch.pi / 2, device=average.device)
    average.copy_(generator.mapping.network(z.to(average.device), pose)[0])


def tunable(generator: Generator) -> dict[str, nn.Parameter]:
    """The weights that pivotal tuning changes, by name: all but the mapping networks and what reads the latents."""
    return {
        name: value
        for name, value in generator.named_parameters()
        if ".mapping." not in f".{name}" and ".affine." not in name
    }
