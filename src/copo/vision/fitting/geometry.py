"""Landmarks to shape, expression and camera: batched Levenberg-Marquardt with shapes shared by a person's photographs.

The unknowns of a photograph are its camera (6) and expression (E), those of a person the shape (S). The normal
equations of a person's photographs meet in the shape only, so the photographs' own unknowns are eliminated first
(Schur complement). docs/fitting.md has the objective with all its terms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from copo.vision.fitting.config import GeometryConfig
from copo.vision.fitting.landmark_model import LandmarkModel

_RIGID = 6  # three of a small rotation, three of a translation
_SIDEWAYS = 0.03  # metres from the plane of symmetry from which an outline point may march


@dataclass(frozen=True)
class Pose:
    """The unknowns of B photographs of P people.

    Attributes:
        rotation: (B, 3, 3) head to camera.
        translation: (B, 3) metres, head's origin in camera space.
        expression: (B, E).
        shape: (P, S).
    """

    rotation: Tensor
    translation: Tensor
    expression: Tensor
    shape: Tensor

    def cam2world(self) -> Tensor:
        """(B, 4, 4) in the world that rests with the head."""
        out = torch.eye(4, dtype=self.rotation.dtype, device=self.rotation.device).repeat(len(self.rotation), 1, 1)
        turn = self.rotation.mT
        out[:, :3, :3] = turn
        out[:, :3, 3] = -(turn @ self.translation[:, :, None])[:, :, 0]
        return out


@dataclass(frozen=True)
class Targets:
    """What was measured.

    Attributes:
        points: (B, N, 2) landmarks on the image plane at depth 1: (pixel - principal point) / focal length.
        outward: (B, R, 2) unit normal of the outline at its landmarks, out of the face.
        expression: (B, E) prior mean.
        expression_sigma: (B, 1) its standard deviation.
        person: (B,) int64 which person each photograph shows, 0..P-1.
        people: P.
    """

    points: Tensor
    outward: Tensor
    expression: Tensor
    expression_sigma: Tensor
    person: Tensor
    people: int

    def per_person(self, values: Tensor) -> Tensor:
        """Sum (B, ...) over each person's photographs: (P, ...); the same numbers in every run."""
        member = torch.nn.functional.one_hot(self.person, self.people).to(values.dtype)
        return (member.mT @ values.flatten(1)).view(self.people, *values.shape[1:])


@dataclass(frozen=True)
class GeometryFit:
    """Result.

    Attributes:
        pose: The unknowns.
        shape_sigma: (P, S) posterior standard deviations.
        expression_sigma: (B, E).
        rotation_sigma: (B, 3) radians about the camera's axes.
        translation_sigma: (B, 3) metres.
        residual: (B,) mean distance of the landmarks that are no outline, as a share of the inter-ocular distance.
    """

    pose: Pose
    shape_sigma: Tensor
    expression_sigma: Tensor
    rotation_sigma: Tensor
    translation_sigma: Tensor
    residual: Tensor


@dataclass(frozen=True)
class _System:
    """Normal equations at one place: gradient and Gauss-Newton matrix, ordered camera, expression, shape."""

    own: Tensor  # (B, 6 + E, 6 + E)
    mixed: Tensor  # (B, 6 + E, S)
    shared: Tensor  # (P, S, S)
    own_gradient: Tensor  # (B, 6 + E)
    shared_gradient: Tensor  # (P, S)
    cost: Tensor  # (P,)
    pick: Tensor  # (B, R) candidate that stands for each outline landmark


def outline_normals(points: Tensor, model: LandmarkModel) -> Tensor:
    """(B, N, 2) landmarks -> (B, R, 2) unit normals of the outline, pointing away from the middle of the face."""
    ring = points[:, model.ring]
    closed = len(points[0]) != 68
    before, after = ring.roll(1, dims=1), ring.roll(-1, dims=1)
    if not closed:  # the jaw is an open line
        before = torch.cat([ring[:, :1], ring[:, :-1]], dim=1)
        after = torch.cat([ring[:, 1:], ring[:, -1:]], dim=1)
    x, y = (after - before).unbind(-1)
    normal = torch.nn.functional.normalize(torch.stack([y, -x], dim=-1), dim=-1)
    out = ring - points.mean(1, keepdim=True)
    return torch.where((normal * out).sum(-1, keepdim=True) < 0, -normal, normal)


def initial_pose(targets: Targets, model: LandmarkModel) -> Pose:
    """The mean shape with the expected expression, posed by a scaled orthographic camera (linear least squares)."""
    batch = len(targets.points)
    points = model.mean + torch.einsum("nik,bk->bni", model.basis[..., model.shape :], targets.expression)
    inner = torch.ones(len(model.mean), dtype=torch.bool, device=points.device)
    inner[model.ring] = False
    known = torch.cat([points[:, inner], torch.ones_like(points[:, inner, :1])], dim=2).double()
    rows = torch.linalg.lstsq(known, targets.points[:, inner].double()).solution.mT  # (B, 2, 4)
    scale = rows[:, :, :3].norm(dim=2).mean(1)
    first, second = rows[:, 0, :3], rows[:, 1, :3]
    u, _, vt = torch.linalg.svd(torch.stack([first, second, torch.linalg.cross(first, second) / scale[:, None]], 1))
    sign = torch.ones(batch, 3, dtype=u.dtype, device=u.device)
    sign[:, 2] = (u @ vt).det().sign()
    rotation = u @ torch.diag_embed(sign) @ vt
    depth = 1 / scale
    translation = torch.cat([rows[:, :, 3] * depth[:, None], depth[:, None]], dim=1)
    to = targets.points
    shape = to.new_zeros(targets.people, model.shape)
    return Pose(rotation.to(to), translation.to(to), targets.expression.clone(), shape)


def fit_geometry(targets: Targets, model: LandmarkModel, config: GeometryConfig) -> GeometryFit:
    """Minimise the objective from `initial_pose` on.

    Args:
        targets: What was measured.
        model: The head's landmarks.
        config: Weights and iterations.
    """
    pose = initial_pose(targets, model)
    damping = pose.shape.new_full((targets.people,), 1e-2)
    for _ in range(config.iterations):
        system = _linearise(pose, targets, model, config)
        trial = _step(pose, system, damping, targets)
        cost = _cost(trial, targets, model, config, system.pick)
        better = cost < system.cost
        pose = _choose(better, trial, pose, targets.person)
        damping = torch.where(better, damping * 0.2, damping * 10).clamp(1e-6, 1e6)
        if bool((((system.cost - cost).abs() < config.tolerance * system.cost) & better).all()):
            break
    return _summary(pose, targets, model, config)


def landmark_cost(
    pose: Pose, targets: Targets, model: LandmarkModel, config: GeometryConfig, marked: list[int]
) -> Tensor:
    """The objective without the prior of the shape, as one differentiable number.

    Args:
        pose: Of a whole batch.
        targets: Of the photographs with landmarks.
        model: The head's landmarks.
        config: Weights.
        marked: Which photographs of the batch have landmarks.
    """
    part = Pose(pose.rotation[marked], pose.translation[marked], pose.expression[marked], pose.shape)
    with torch.no_grad():
        pick = _pick(part, targets, model)
    residual, _ = _residual(part, targets, model, config, pick)
    units = ((part.expression - targets.expression) / targets.expression_sigma).square() / 2
    return _huber(residual, config.robust)[0].sum() + (units + config.sparsity * part.expression).sum()


def camera_points(pose: Pose, targets: Targets, model: LandmarkModel, pick: Tensor) -> Tensor:
    """(B, N, 3) landmarks in camera space, outline landmarks at their candidates."""
    coefficients = torch.cat([pose.shape[targets.person], pose.expression], dim=1)
    points = model.mean + torch.einsum("nik,bk->bni", model.basis, coefficients)
    sliding = _candidates(coefficients, model)
    chosen = sliding.gather(2, pick[:, :, None, None].expand(-1, -1, 1, 3))[:, :, 0]
    points = points.index_copy(1, model.ring, chosen)
    return points @ pose.rotation.mT + pose.translation[:, None]


def _candidates(coefficients: Tensor, model: LandmarkModel) -> Tensor:
    """(B, R, K, 3) in the head's frame."""
    count = model.candidate_basis.shape[-1]
    moved = coefficients @ model.candidate_basis.reshape(-1, count).mT
    return model.candidate_mean + moved.view(-1, *model.candidate_mean.shape)


def _pick(pose: Pose, targets: Targets, model: LandmarkModel) -> Tensor:
    """(B, R) the candidate that lies farthest out of the face, the landmark's own place among equals."""
    coefficients = torch.cat([pose.shape[targets.person], pose.expression], dim=1)
    local = _candidates(coefficients, model) @ pose.rotation[:, None].mT + pose.translation[:, None, None]
    out = (local[..., :2] / local[..., 2:] * targets.outward[:, :, None]).sum(-1)
    pick = out.argmax(2)
    sideways = model.mean[model.ring, 0].abs() > _SIDEWAYS
    return torch.where(sideways, pick, 0)


def _whiten(values: Tensor, targets: Targets, model: LandmarkModel, config: GeometryConfig, depth: Tensor) -> Tensor:
    """(B, N, 2, ...) on the image plane -> in sigmas, with the outline's two directions weighted apart."""
    extra = (1,) * (values.ndim - 3)
    scale = depth / (config.sigma * model.interocular)
    weight = (model.weight * config.independence).sqrt()
    ring = model.ring
    x, y = targets.outward.view(*targets.outward.shape, *extra).unbind(2)
    u, v = values[:, ring].unbind(2)
    along = model.along[ring].sqrt().view(-1, *extra)
    values = values.index_copy(1, ring, torch.stack([x * u + y * v, along * (x * v - y * u)], dim=2))
    return values * (scale[:, None] * weight).view(len(values), -1, 1, *extra)


def _residual(
    pose: Pose, targets: Targets, model: LandmarkModel, config: GeometryConfig, pick: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, N, 2) in sigmas, and (B, N, 3) the points in camera space."""
    local = camera_points(pose, targets, model, pick)
    error = local[..., :2] / local[..., 2:].clamp_min(1e-3) - targets.points
    return _whiten(error, targets, model, config, pose.translation[:, 2].detach()), local


def _huber(residual: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Cost (B, N) and weight (B, N) of point residuals (B, N, 2)."""
    size = residual.norm(dim=2)
    cost = torch.where(size < limit, 0.5 * size.square(), limit * (size - 0.5 * limit))
    return cost, (limit / size.clamp_min(limit)).detach()


def _prior_cost(pose: Pose, targets: Targets, config: GeometryConfig) -> Tensor:
    """(P,)"""
    units = ((pose.expression - targets.expression) / targets.expression_sigma).square() / 2
    per_photo = (units + config.sparsity * pose.expression).sum(1, keepdim=True)
    return targets.per_person(per_photo)[:, 0] + (pose.shape / config.shape_sigma).square().sum(1) / 2


def _cost(pose: Pose, targets: Targets, model: LandmarkModel, config: GeometryConfig, pick: Tensor) -> Tensor:
    """(P,)"""
    residual, _ = _residual(pose, targets, model, config, pick)
    data = _huber(residual, config.robust)[0].sum(1, keepdim=True)
    return targets.per_person(data)[:, 0] + _prior_cost(pose, targets, config)


def _linearise(pose: Pose, targets: Targets, model: LandmarkModel, config: GeometryConfig) -> _System:
    pick = _pick(pose, targets, model)
    residual, local = _residual(pose, targets, model, config, pick)
    cost, robust = _huber(residual, config.robust)
    jacobian = _jacobian(pose, targets, model, config, pick, local) * robust.sqrt()[..., None, None]
    rows = jacobian.flatten(1, 2)
    error = (residual * robust.sqrt()[..., None]).flatten(1)
    matrix = (rows.mT @ rows).double()
    gradient = (rows.mT @ error[..., None])[..., 0].double()
    own = _RIGID + pose.expression.shape[1]
    precision = targets.expression_sigma.double() ** -2
    prior = torch.zeros_like(gradient[:, :own])
    prior[:, _RIGID:] = precision
    own_gradient = gradient[:, :own].clone()
    own_gradient[:, _RIGID:] += precision * (pose.expression - targets.expression).double() + config.sparsity
    identity = torch.eye(model.shape, dtype=matrix.dtype, device=matrix.device)
    return _System(
        own=matrix[:, :own, :own] + torch.diag_embed(prior),
        mixed=matrix[:, :own, own:],
        shared=targets.per_person(matrix[:, own:, own:]) + identity / config.shape_sigma**2,
        own_gradient=own_gradient,
        shared_gradient=targets.per_person(gradient[:, own:]) + pose.shape.double() / config.shape_sigma**2,
        cost=targets.per_person(cost.sum(1, keepdim=True))[:, 0] + _prior_cost(pose, targets, config),
        pick=pick,
    )


def _jacobian(
    pose: Pose, targets: Targets, model: LandmarkModel, config: GeometryConfig, pick: Tensor, local: Tensor
) -> Tensor:
    """(B, N, 2, 6 + E + S) of the whitened residual."""
    inverse = 1 / local[..., 2:].clamp_min(1e-3)
    flat = local[..., :2] * inverse
    zero = torch.zeros_like(inverse)
    plane = torch.cat([inverse, zero, -flat[..., :1] * inverse, zero, inverse, -flat[..., 1:] * inverse], dim=-1)
    plane = plane.unflatten(-1, (2, 3))  # d(x/z, y/z) / d(x, y, z)
    turned = local - pose.translation[:, None]
    x, y, z = turned.unbind(-1)
    o = torch.zeros_like(x)
    cross = torch.stack([o, z, -y, -z, o, x, y, -x, o], dim=-1).unflatten(-1, (3, 3))  # d(w x p) / dw
    onto = plane @ pose.rotation[:, None]
    units = torch.einsum("bnij,njk->bnik", onto, model.basis)
    sliding = model.candidate_basis[torch.arange(len(model.ring), device=pick.device), pick]  # (B, R, 3, S + E)
    units = units.index_copy(1, model.ring, onto[:, model.ring] @ sliding)
    units = torch.cat([units[..., model.shape :], units[..., : model.shape]], dim=-1)
    whole = torch.cat([plane @ cross, plane, units], dim=-1)
    return _whiten(whole, targets, model, config, pose.translation[:, 2])


def _step(pose: Pose, system: _System, damping: Tensor, targets: Targets) -> Pose:
    """Solve the damped system with units that press against their bounds held there."""
    gradient, own, mixed = system.own_gradient, system.own, system.mixed
    free = torch.ones_like(gradient, dtype=torch.bool)
    slope = gradient[:, _RIGID:]
    free[:, _RIGID:] = ~(((pose.expression <= 0) & (slope > 0)) | ((pose.expression >= 1) & (slope < 0)))
    lam = damping.double()
    own = own + torch.diag_embed(own.diagonal(dim1=1, dim2=2) * lam[targets.person, None])
    own = torch.where(free[:, :, None] & free[:, None, :], own, 0) + torch.diag_embed((~free).to(own))
    mixed = torch.where(free[:, :, None], mixed, 0)
    gradient = torch.where(free, gradient, 0)
    shared = system.shared + torch.diag_embed(system.shared.diagonal(dim1=1, dim2=2) * lam[:, None])
    solved = torch.linalg.solve(own, torch.cat([mixed, gradient[..., None]], dim=2))
    reduced = shared - targets.per_person(mixed.mT @ solved[..., :-1])
    right = system.shared_gradient - targets.per_person((mixed.mT @ solved[..., -1:])[..., 0])
    shape = -torch.linalg.solve(reduced, right)
    step = -(solved[..., -1] + (solved[..., :-1] @ shape[targets.person, :, None])[..., 0])
    step, shape = step.to(pose.shape), shape.to(pose.shape)
    return Pose(
        rotation=exponential(step[:, :3]) @ pose.rotation,
        translation=pose.translation + step[:, 3:_RIGID],
        expression=(pose.expression + step[:, _RIGID:]).clamp(0, 1),
        shape=pose.shape + shape,
    )


def _choose(better: Tensor, trial: Pose, pose: Pose, person: Tensor) -> Pose:
    def pick(name: str, which: Tensor) -> Tensor:
        new, old = getattr(trial, name), getattr(pose, name)
        return torch.where(which.view(-1, *(1,) * (new.ndim - 1)), new, old)

    own = {name: pick(name, better[person]) for name in ("rotation", "translation", "expression")}
    return replace(pose, shape=pick("shape", better), **own)


def exponential(vector: Tensor) -> Tensor:
    """(B, 3) rotation vectors -> (B, 3, 3)."""
    x, y, z = vector.unbind(1)
    o = torch.zeros_like(x)
    skew = torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=1).view(-1, 3, 3)
    return torch.linalg.matrix_exp(skew)


def _summary(pose: Pose, targets: Targets, model: LandmarkModel, config: GeometryConfig) -> GeometryFit:
    system = _linearise(pose, targets, model, config)
    eye = torch.eye(system.own.shape[1], dtype=system.own.dtype, device=system.own.device)
    jitter = eye * 1e-9 * system.own.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    solved = torch.linalg.solve(system.own + jitter, torch.cat([system.mixed, eye.expand_as(system.own)], dim=2))
    weights, inverse = solved.split([model.shape, system.own.shape[1]], dim=2)
    covariance = torch.linalg.inv(system.shared - targets.per_person(system.mixed.mT @ weights))
    spread = inverse.diagonal(dim1=1, dim2=2) + ((weights @ covariance[targets.person]) * weights).sum(2)
    own = spread.clamp_min(0).sqrt().to(pose.shape)
    local = camera_points(pose, targets, model, system.pick)
    error = local[..., :2] / local[..., 2:] - targets.points
    inner = torch.ones(len(model.mean), dtype=torch.bool, device=error.device)
    inner[model.ring] = False
    return GeometryFit(
        pose=pose,
        shape_sigma=covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt().to(pose.shape),
        expression_sigma=own[:, _RIGID:],
        rotation_sigma=own[:, :3],
        translation_sigma=own[:, 3:_RIGID],
        residual=error[:, inner].norm(dim=2).mean(1) * pose.translation[:, 2] / model.interocular,
    )
