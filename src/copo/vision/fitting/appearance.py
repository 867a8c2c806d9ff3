"""Colours of the photograph at the visible vertices to albedo and light.

The method's model of a colour is albedo x shading (display-referred): linear in the light, smooth in the albedo
coefficients. A few Gauss-Newton steps (ridge regressions with the priors of docs/fitting.md) with robust weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from copo.camera import Camera
from copo.head.protocol import PARSER_CLASSES, HeadModel
from copo.head.shading import vertex_normals
from copo.illumination import BAND_FACTORS, BAND_OF, BASE_LIGHT, sh_basis
from copo.vision.fitting.config import AppearanceConfig
from copo.vision.fitting.observation import Observation, Windows

FACE_CLASSES: tuple[str, ...] = ("skin", "brow_left", "brow_right", "nose", "lip_upper", "lip_lower")
"""Labels whose vertices are read. Eyes and mouth lie too deep, ears and neck are too often hidden."""

_GRID, _STEP_BEHIND = 64, 0.012  # cells a side of the visibility grid; metres a visible vertex may lie behind the front
_REACH = 0.09  # metres behind the nose tip that the face reaches
_STEP, _FARTHEST = 1.5, 4.0  # longest step and largest value of an albedo coefficient


@dataclass(frozen=True)
class Appearance:
    """Result.

    Attributes:
        albedo: (P, A) coefficients.
        illumination: (B, 27) in the head's world.
        residual: (B,) weighted root mean square of the colour difference, 0 to 1; NaN where nothing is visible.
        visible: (B,) share of the face's vertices that the picture shows free of hair and outliers.
    """

    albedo: Tensor
    illumination: Tensor
    residual: Tensor
    visible: Tensor


def window_pictures(
    observations: Sequence[Observation], windows: Windows, size: int, device: torch.device | str
) -> Tensor:
    """(B, 5, size, size): RGB in [0, 1], hair, and what lies inside the picture, of every window.

    Args:
        observations: Checked.
        windows: Their windows.
        size: Side in pixels.
        device: Where the result lies.
    """
    out = []
    for item, centre, side in zip(observations, windows.centre.tolist(), windows.side.tolist(), strict=True):
        picture = torch.from_numpy(item.picture.copy() if not item.picture.flags.writeable else item.picture)
        colour = _cut(picture.permute(2, 0, 1), centre, side, size, picture.shape[:2]) / 255
        hair = torch.zeros(1, size, size)
        if item.hair is not None:
            mask = torch.from_numpy(np.ascontiguousarray(item.hair, np.float32))
            hair = _cut(mask[None], centre, side, size, picture.shape[:2])
        inside = _cut(torch.ones(1, 8, 8), centre, side, size, picture.shape[:2])
        out.append(torch.cat([colour, hair, inside]))
    return torch.stack(out).to(device)


def _cut(image: Tensor, centre: list[float], side: float, size: int, picture: torch.Size) -> Tensor:
    """(C, h, w), which covers the whole picture, -> (C, size, size) of the window; 0 outside."""
    height, width = image.shape[1:]
    sx, sy = width / picture[1], height / picture[0]
    left, top = (centre[0] - side / 2) * sx, (centre[1] - side / 2) * sy
    right, bottom = left + side * sx, top + side * sy
    x0, y0 = max(math.floor(left) - 1, 0), max(math.floor(top) - 1, 0)
    x1, y1 = min(math.ceil(right) + 1, width), min(math.ceil(bottom) + 1, height)
    if x1 <= x0 or y1 <= y0:
        return torch.zeros(image.shape[0], size, size)
    part = image[:, y0:y1, x0:x1].float()[None]
    block = max(min(int(side * sx / size), *part.shape[2:]), 1)
    if block > 1:
        part = F.avg_pool2d(part, block)
    extent = torch.tensor([part.shape[3] * block, part.shape[2] * block])
    steps = (torch.arange(size) + 0.5) / size
    x = (left + steps * (right - left) - x0) / extent[0] * 2 - 1
    y = (top + steps * (bottom - top) - y0) / extent[1] * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    return F.grid_sample(part, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def face_vertices(head: HeadModel) -> Tensor:
    """(K,) int64 vertices of the face, on the CPU."""
    labels = head.topology.labels.cpu()
    wanted = torch.isin(labels, torch.tensor([PARSER_CLASSES.index(name) for name in FACE_CLASSES]))
    mean = head.vertices(torch.zeros(1, head.spec.shape), torch.zeros(1, head.spec.expression))[0].detach().cpu()
    nose = mean[labels == PARSER_CLASSES.index("nose"), 2].amax()
    return torch.nonzero(wanted & (mean[:, 2] > nose - _REACH))[:, 0]


def visible_vertices(vertices: Tensor, normals: Tensor, camera: Camera, subset: Tensor, facing: float) -> Tensor:
    """(B, K) bool: which vertices of a subset the camera sees.

    A vertex is seen when its normal turns to the camera and no vertex of the head lies clearly before it in its cell of
    a coarse depth grid. On meshes with several vertices a cell that is enough to find what nose, cheek and brow hide.

    Args:
        vertices: (B, V, 3) world.
        normals: (B, V, 3) unit.
        camera: B cameras, centred on the window.
        subset: (K,) int64.
        facing: Least cosine between normal and direction to the camera.
    """
    place, depth = camera.project(vertices)
    cell = (place * _GRID).floor().long()
    inside = ((cell >= 0) & (cell < _GRID)).all(-1)
    index = torch.where(inside, cell[..., 1] * _GRID + cell[..., 0], _GRID * _GRID)
    front = torch.full((len(vertices), _GRID * _GRID + 1), math.inf, dtype=depth.dtype, device=depth.device)
    front = front.scatter_reduce(1, index, depth, "amin")
    seen = inside & (depth < front.gather(1, index) + _STEP_BEHIND)
    towards = F.normalize(camera.position[:, None] - vertices[:, subset], dim=-1)
    return seen[:, subset] & ((normals[:, subset] * towards).sum(-1) > facing)


def fit_appearance(
    head: HeadModel,
    vertices: Tensor,
    cameras: Camera,
    pictures: Tensor,
    member: Tensor,
    subset: Tensor,
    basis: tuple[Tensor, Tensor],
    config: AppearanceConfig,
) -> Appearance:
    """Albedo of each person and light of each photograph.

    Args:
        head: Gives the mesh.
        vertices: (B, V, 3) fitted, world.
        cameras: B cameras of the windows.
        pictures: (B, 5, size, size) from `window_pictures`.
        member: (B, P) 1 where the photograph shows the person.
        subset: (K,) from `face_vertices`.
        basis: `albedo_model` of the head at the subset.
        config: Priors.
    """
    normals = vertex_normals(vertices, head.topology.faces)
    shown = visible_vertices(vertices, normals, cameras, subset, config.facing)
    place, _ = cameras.project(vertices[:, subset])
    sampled = F.grid_sample(pictures, (place * 2 - 1)[:, None], mode="bilinear", align_corners=False)[:, :, 0].mT
    colour, hair, inside = sampled[..., :3], sampled[..., 3], sampled[..., 4]
    shown = shown & (inside > 0.99) & (hair < 0.5)
    towards = F.normalize(cameras.position[:, None] - vertices[:, subset], dim=-1)
    cosine = (normals[:, subset] * towards).sum(-1).clamp_min(0)
    base = shown.to(colour.dtype) * (1 - hair).clamp(0, 1) * cosine
    harmonics = sh_basis(normals[:, subset]) * colour.new_tensor([BAND_FACTORS[b] for b in BAND_OF])

    scale = config.independence / config.sigma**2
    front = normals[:, subset, 2:].clamp_min(0)
    prior = _light_prior(config, (harmonics * front).sum(1) / front.sum(1))
    albedo = colour.new_zeros(member.shape[1], basis[1].shape[-1])
    light = prior[0].expand(len(vertices), -1, -1)
    weight = base
    for turn in range(config.iterations):
        light, albedo = _step(colour, harmonics, weight * scale, light, albedo, basis, prior, member, config)
        skin, _ = _skin(basis, albedo)
        drawn = _of_photograph(skin, member) * (harmonics @ light.mT)
        error = ((drawn - colour).square().sum(-1) / 3).sqrt()
        if turn + 1 < config.iterations:
            weight = base / (1 + (error / (config.sigma * config.robust)).square()).square()
    total = weight.sum(1)
    residual = ((weight * error.square()).sum(1) / total).sqrt()
    gamma = light.clone()
    gamma[..., 0] -= BASE_LIGHT
    return Appearance(albedo, gamma.flatten(1), residual, (weight > 0.25 * base.clamp_min(0.1)).float().mean(1))


def albedo_model(head: HeadModel, subset: Tensor) -> tuple[Tensor, Tensor]:
    """(K, 3) mean and (K, 3, A) basis of log(-log albedo), in which the heads' albedo is linear (or nearly so).

    For a head whose albedo is linear itself (Basel) this is its tangent at the mean skin.
    """
    count = head.spec.albedo
    with torch.no_grad():
        mean = _warp(head.albedo(torch.zeros(1, count))[0, subset])
        step = 0.5
        plus = torch.stack([_warp(head.albedo(row[None] * step)[0, subset]) for row in torch.eye(count)])
        minus = torch.stack([_warp(head.albedo(row[None] * -step)[0, subset]) for row in torch.eye(count)])
    return mean, ((plus - minus) / (2 * step)).permute(1, 2, 0).contiguous()


def _warp(albedo: Tensor) -> Tensor:
    return torch.log(-torch.log(albedo.clamp(1e-4, 1 - 1e-4)))


def _skin(basis: tuple[Tensor, Tensor], albedo: Tensor) -> tuple[Tensor, Tensor]:
    """(P, K, 3) albedo and its slope with respect to the argument of the double exponential."""
    density = torch.exp(basis[0] + torch.einsum("kca,pa->pkc", basis[1], albedo))
    skin = torch.exp(-density)
    return skin, -skin * density


def _light_prior(config: AppearanceConfig, face: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (3, 9) and precision (B, 27, 27) of gamma with the base light added; brightness and colour vary apart.

    Args:
        config: Standard deviations.
        face: (B, 9) harmonics with band factors, averaged over the face; times the light they give its exposure.
    """
    mean = torch.zeros(3, 9)
    mean[:, 1], mean[:, 2] = config.from_above, config.from_front
    of = torch.tensor(BAND_OF)
    bands = torch.tensor([config.ambient_sigma, config.gradient_sigma, config.contrast_sigma])[of].to(face)
    mean = mean.to(face)
    typical = face.mean(0)
    mean[:, 0] = (config.exposure - typical[1:] @ mean[0, 1:]) / typical[0]
    identity = torch.eye(3).to(face)
    grey = torch.full_like(identity, 1 / 3)  # projects RGB on its brightness
    ridge = torch.diag(bands**-2)
    level = face[:, :, None] * face[:, None]  # (B, 9, 9)
    bright = ridge + level / config.exposure_sigma**2
    tint = ridge / config.chroma_share**2 + level / config.colour_sigma**2
    # the mean of three colours has a third of the variance of each; their distances from it have 2 / 3 in all 3
    level_part = torch.einsum("cd,bkl->bckdl", grey / 3, bright)
    tint_part = torch.einsum("cd,bkl->bckdl", (identity - grey) / 1.5, tint)
    precision = level_part + tint_part
    return mean, precision.reshape(-1, 27, 27)


def _of_photograph(values: Tensor, member: Tensor) -> Tensor:
    """(P, ...) of the people -> (B, ...) of their photographs."""
    return (member @ values.flatten(1)).view(len(member), *values.shape[1:])


def _step(
    colour: Tensor, harmonics: Tensor, weight: Tensor, light: Tensor, albedo: Tensor, basis: tuple[Tensor, Tensor],
    prior: tuple[Tensor, Tensor], member: Tensor, config: AppearanceConfig,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One Gauss-Newton step on light (B, 3, 9) and albedo (P, A) together.

    In turns they would creep: a darker skin under a brighter light looks almost the same. The light is eliminated
    photograph by photograph. The albedo basis is one for all, so that the matrix of a person is the sum over vertices
    and colours of h basis basis^T, with h summed over the photographs first.
    """
    batch, people = len(light), len(albedo)
    skin, slope = _skin(basis, albedo)
    skin, slope = _of_photograph(skin, member), _of_photograph(slope, member)
    shade = (harmonics @ light.mT).clamp_min(0.02)
    error = colour - skin * (harmonics @ light.mT)
    tilt = slope * shade  # d colour / d argument of the double exponential
    mean, precision = prior
    own = precision.clone().view(batch, 3, 9, 3, 9)
    own_right = -(precision @ (light - mean).flatten(1)[..., None]).view(batch, 3, 9)
    mixed = []
    for c in range(3):
        lit = harmonics * (weight * skin[..., c])[..., None]  # (B, K, 9)
        own[:, c, :, c] += (lit * skin[..., c, None]).mT @ harmonics
        own_right[:, c] += (lit.mT @ error[..., c, None])[..., 0]
        mixed.append((lit * tilt[..., c, None]).mT @ basis[1][:, c])
    flat = basis[1].flatten(0, 1)  # (3K, A)
    curvature = member.mT @ (tilt.square() * weight[..., None]).flatten(1)
    shared = torch.stack([(flat * row[:, None]).mT @ flat for row in curvature])
    shared_right = (member.mT @ (tilt * error * weight[..., None]).flatten(1)) @ flat - albedo / config.albedo_sigma**2
    identity = torch.eye(flat.shape[1], dtype=torch.float64, device=flat.device)
    mixed_all = torch.stack(mixed, 1).view(batch, 27, -1).double()
    right = own_right.reshape(batch, 27, 1).double()
    solved = torch.linalg.solve(own.view(batch, 27, 27).double(), torch.cat([mixed_all, right], dim=2))
    into = member.mT.double()
    count = flat.shape[1]
    inner = (into @ (mixed_all.mT @ solved[..., :-1]).flatten(1)).view(people, count, count)
    pull = into @ (mixed_all.mT @ solved[..., -1:])[..., 0]
    reduced = shared.double() + identity / config.albedo_sigma**2 - inner
    step = torch.linalg.solve(reduced, shared_right.double() - pull)
    step = step.clamp(-_STEP, _STEP)
    move = solved[..., -1] - (solved[..., :-1] @ (member.double() @ step)[..., None])[..., 0]
    return light + move.to(light).view(batch, 3, 9), (albedo + step.to(albedo)).clamp(-_FARTHEST, _FARTHEST)
