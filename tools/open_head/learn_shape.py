"""What fits to people say of the head's shape: its mean, its spread, and where the 478 points really lie.

Three corrections come from the fits. (1) The mean of people's coefficients moves the mean; their spread, with the
uncertainty of each fit added back, scales the components. (2) What is left of the landmark residuals after the fit
and is the same for all people is solved for as a 3D displacement of each landmark, from all views together. (3) Its
part along the surface's normal, smooth over the face, is a fault of the mean shape; what is left of it along the
surface is a fault of where the landmark was placed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from copo.head.open_head import OpenHead
from copo.vision.fitting.landmark_model import EYES, FOREHEAD, LIPS, OVAL

from .learn_albedo import people_weight
from .learn_fits import Fits
from .place_landmarks import LOWER_LIP, UPPER_LIP, closest, mirror_pairs
from .source import Floats, Ints

_NOISE = 0.0015  # metres: a landmark of one person, pose and expression taken out
_FIELD = 0.003  # metres: how far the mean may be off, before looking
_REACH = 0.022  # metres over which the mean's fault is alike
_SAMPLE = 0.0008  # metres: how far a landmark's displacement is from the smooth field
_SAMPLE_OVAL = 0.003  # the same of the face's oval, which slides
_FARTHEST = 0.005  # metres a landmark may be moved along the surface
_FARTHEST_OVAL = 0.010  # the same of the oval: from the front its points lie on slopes, and depth was a guess
_SPREAD = (0.5, 1.1)  # limits of a component's new scale


@dataclass(frozen=True)
class People:
    """Statistics of the shape coefficients over people: mean and standard deviation (80,)."""

    mean: Floats
    deviation: Floats


def people(fits: Fits, worst: float = 2.5) -> People:
    """Mean and deviation of the coefficients over people.

    The fit draws a coefficient that the pictures do not determine towards 0. Its posterior variance is added back to
    the variance over people, so that this does not pass for people being alike (the M step of expectation
    maximisation).

    Args:
        fits: Of all photographs.
        worst: Landmark residual, percent, above which a photograph's person does not count.
    """
    person = fits.person.numpy()
    first = np.unique(person, return_index=True)[1]
    bad = np.unique(person[fits.landmarks.numpy() > worst])
    first = first[~np.isin(person[first], bad)]
    shape, sigma = fits.factors.shape[first].double().numpy(), fits.shape_sigma[first].double().numpy()
    weight = people_weight(fits.sets[first])[:, None]
    mean = (weight * shape).mean(0)
    deviation = np.sqrt((weight * ((shape - mean) ** 2 + sigma**2)).mean(0))
    return People(mean, deviation.clip(*_SPREAD))


def resting_expression(fits: Fits) -> Floats:
    """(52,) what the fits give to people who show no expression, the same on both sides; gaze and tongue stay at 0.

    The landmarker's scores do not begin at 0 (lids that rest count as half a blink), and the shape gives way: its mean
    comes out with wide eyes. A face at rest is the mean of what was fitted, shape and expression together.
    """
    names = fits.factors.spec.expression_names
    here = np.flatnonzero(fits.neutral)
    weight = 1.0 / np.bincount(fits.person.numpy()[here])[fits.person.numpy()[here]]
    value = (weight[:, None] * fits.factors.expression[here].double().numpy()).sum(0) / weight.sum()
    other = [_other_side(name) for name in names]
    value = (value + value[[names.index(name) for name in other]]) / 2
    kept = [not name.startswith(("eyeLook", "tongue", "jawLeft", "jawRight")) for name in names]
    return value * np.array(kept)


def _other_side(name: str) -> str:
    if name.endswith("Left"):
        return name.removesuffix("Left") + "Right"
    return name.removesuffix("Right") + "Left" if name.endswith("Right") else name


def displacements(head: OpenHead, fits: Fits, worst: float = 2.5) -> tuple[Floats, Floats]:
    """(478, 3) metres: how far each landmark lies from where people have it; (478, 3) its uncertainty.

    Solved for each landmark from the residuals in all photographs, every person with the same weight, photographs from
    the side with more: they alone tell depth.
    """
    good = torch.nonzero(fits.landmarks < worst)[:, 0]
    factors, camera = fits.factors[good], fits.camera[good]
    with torch.no_grad():
        points = head.landmarks478(head.vertices(factors.shape, factors.expression)).double()
    world = torch.linalg.inv(camera.cam2world.double())
    turn, local = world[:, :3, :3], points @ world[:, :3, :3].mT + world[:, None, :3, 3]
    x, y, z = local.unbind(-1)
    focal = camera.intrinsics[:, 0, 0].double()[:, None]
    centre = camera.intrinsics[:, None, :2, 2].double()
    error = (fits.measured[good].double() - centre) - focal[..., None] * torch.stack([x, y], -1) / z[..., None]
    zero = torch.zeros_like(x)
    plane = torch.stack([torch.stack([1 / z, zero, -x / z**2], -1), torch.stack([zero, 1 / z, -y / z**2], -1)], -2)
    plane = focal[..., None, None] * plane @ turn[:, None]  # (N, 478, 2, 3) of the picture's side to a metre
    metre = z / focal  # metres at the face to a side of the picture
    error, plane = error * metre[..., None], plane * metre[..., None, None]
    yaw = torch.atan2(camera.position[:, 0], camera.position[:, 2]).abs()
    person = fits.person[good]
    weight = 1.0 / torch.bincount(person)[person].double() * torch.where(yaw > np.radians(20), 3.0, 1.0)
    robust = torch.ones_like(z)
    delta = torch.zeros(points.shape[1], 3, dtype=torch.float64)
    ridge = torch.eye(3, dtype=torch.float64) / _FIELD**2
    seen = _seen(head, fits, good)
    for _ in range(5):
        w = weight[:, None] * robust * seen / _NOISE**2 * 0.02  # 0.02: people's residuals share causes
        matrix = torch.einsum("nk,nkij,nkil->kjl", w, plane, plane) + ridge
        right = torch.einsum("nk,nkij,nki->kj", w, plane, error)
        delta = torch.linalg.solve(matrix, right[..., None])[..., 0]
        left = (error - torch.einsum("nkij,kj->nki", plane, delta)).norm(dim=-1)
        robust = 1 / (1 + (left / (2 * _NOISE)) ** 2)
    spread = torch.linalg.inv(matrix).diagonal(dim1=1, dim2=2).sqrt()
    pairs = mirror_pairs(head.landmarks478(_mean(head))[0].double().numpy())
    found = delta.numpy()
    return (found + found[pairs] * [-1, 1, 1]) / 2, spread.numpy()


def _seen(head: OpenHead, fits: Fits, good: Tensor) -> Tensor:
    """(N, 478) 1 where the landmark's place on the mean head turns to the camera, else 0."""
    normals = landmark_normals(head)
    towards = fits.camera.position[good].double()
    towards = towards / towards.norm(dim=1, keepdim=True)
    seen = (towards @ torch.from_numpy(normals).mT) > 0.1
    seen[:, list(LIPS + EYES)] = True  # narrow and curled: the normal of one triangle says little
    return seen.double()


def _mean(head: OpenHead) -> Tensor:
    return head.vertices(torch.zeros(1, head.spec.shape), torch.zeros(1, head.spec.expression)).detach()


def landmark_normals(head: OpenHead) -> Floats:
    """(478, 3) normals of the mean head at the landmarks, smoothed by blending the corners'."""
    from copo.head.shading import vertex_normals

    faces, weights = head.topology.landmarks478_faces, head.topology.landmarks478_barycentric
    assert faces is not None and weights is not None
    normals = vertex_normals(_mean(head), head.topology.faces)[0]
    blended = (normals[head.topology.faces[faces]] * weights[..., None]).sum(1).double()
    return (blended / blended.norm(dim=1, keepdim=True)).numpy()


def smooth_field(head: OpenHead, delta: Floats, points: Floats) -> Floats:
    """The displacement of the mean at (N, 3) points: kernel regression of the normal parts of the landmarks' own.

    It is 0 far from all landmarks, and equal on both sides.

    Args:
        head: The head of `delta`.
        delta: (478, 3) from `displacements`.
        points: (N, 3) metres, in the frame of the head.
    """
    at = head.landmarks478(_mean(head))[0].double().numpy()
    normals = landmark_normals(head)
    part = (delta * normals).sum(1, keepdims=True) * normals
    kept = np.array([i for i in range(468) if i not in FOREHEAD])
    noise = np.full(len(at), _SAMPLE)
    noise[list(OVAL)] = _SAMPLE_OVAL
    kernel = _kernel(at[kept], at[kept]) + np.diag((noise[kept] / _FIELD) ** 2)
    return _kernel(points, at[kept]) @ np.linalg.solve(kernel, part[kept])


def _kernel(a: Floats, b: Floats) -> Floats:
    square = ((a[:, None] - b[None]) ** 2).sum(2)
    return np.exp(-square / (2 * _REACH**2))


def replaced(
    head: OpenHead, delta: Floats, field: Floats, rest: Floats, labels: Ints, faces: Ints
) -> tuple[Ints, Floats]:
    """Triangles (478,) and weights (478, 3) of the landmarks moved along the surface by what the field leaves.

    Args:
        head: The head of `delta`.
        delta: (478, 3).
        field: (478, 3) the smooth field at the landmarks.
        rest: (V, 3) metres, the mean head with the field added.
        labels: (V,) parser classes.
        faces: (F, 3).
    """
    old_face = head.topology.landmarks478_faces
    old_weight = head.topology.landmarks478_barycentric
    assert old_face is not None and old_weight is not None
    face, weight = old_face.numpy().copy(), old_weight.double().numpy().copy()
    here = (rest[faces[face]] * weight[..., None]).sum(1)
    normals = landmark_normals(head)
    move = delta - field
    move -= (move * normals).sum(1, keepdims=True) * normals
    length = np.linalg.norm(move, axis=1, keepdims=True)
    limit = np.full((len(move), 1), _FARTHEST)
    limit[list(OVAL)] = _FARTHEST_OVAL
    move *= np.minimum(1, limit / np.maximum(length, 1e-9))
    corner = labels[faces]
    inside = (corner == 11).all(1) | np.isin(corner, (4, 5)).any(1)
    upper, lower = (corner == 12).any(1) & ~(corner == 13).any(1), (corner == 13).any(1) & ~(corner == 12).any(1)
    allowed = {**dict.fromkeys(UPPER_LIP, upper & ~inside), **dict.fromkeys(LOWER_LIP, lower & ~inside)}
    for k in range(468):
        if k in FOREHEAD or length[k] < 1e-5:
            continue
        index = np.flatnonzero(allowed.get(k, ~inside))
        f, w = closest(here[k] + move[k], rest[faces[index]])
        face[k], weight[k] = index[f], w
    return face, weight
