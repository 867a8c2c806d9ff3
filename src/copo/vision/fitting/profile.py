"""Profiles, where landmarkers fail: pose from the known view and the outline of the face against the person mask.

Shape comes from the person's other photographs, the expression from the one that is most alike (the same name of the
expression, then the view nearest to the front). What is left is a rigid pose: it starts at the view's yaw, slides over
the picture until the outline of the face matches the mask's edge best, and is refined by Gauss-Newton steps on the
horizontal distance between the two outlines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from copo.errors import CopoError
from copo.head.protocol import HeadModel
from copo.vision.fitting.appearance import face_vertices
from copo.vision.fitting.config import ProfileConfig
from copo.vision.fitting.geometry import Pose
from copo.vision.fitting.observation import Observation, Windows

VIEW_YAW: dict[str, float] = {
    "left_profile": 1.0, "left_3quarter": 0.5, "front": 0.0, "right_3quarter": -0.5, "right_profile": -1.0,
}  # fmt: skip
"""Yaw of the camera as a share of a full profile's; positive at the person's left."""

_ROWS = 96  # points of the outline
_EDGE = 0.5  # person probability at the outline
_HUBER = 3.0  # sigmas
_FAR, _SHOWN = 0.03, 0.6  # share of the face's height at which a point counts as off; share of points to be seen
_STILL = 1e-4  # radians and metres below which the pose has settled
_NUDGE = 1e-6  # step of the numerical derivative, radians and metres
_MIDDLE = 0.03  # metres from the plane of symmetry within which a profile has its outline


@dataclass(frozen=True)
class ProfileFit:
    """Result.

    Attributes:
        pose: Of one photograph.
        windows: All windows, with this photograph's filled in.
        like: The photograph whose expression, focal length and shape were used.
        residual: Mean horizontal distance of the outlines as a share of the inter-ocular distance.
    """

    pose: Pose
    windows: Windows
    like: int
    residual: float


@dataclass(frozen=True)
class _Outline:
    """Edge of the person on the side where the face looks, in pixels of the picture mirrored so that it looks left."""

    rows: Tensor  # (H,) y of each row of the mask
    edge: Tensor  # (H,) x of the edge, NaN where there is none or hair


def fit_profile(
    items: Sequence[Observation], index: int, person: list[int], marked: list[int], poses: Pose, windows: Windows,
    head: HeadModel, config: ProfileConfig,
) -> ProfileFit:  # fmt: skip
    """Pose one photograph that has no landmarks.

    Args:
        items: The batch.
        index: Which photograph.
        person: Person of each photograph.
        marked: Photographs with landmarks, already fitted.
        poses: Their poses.
        windows: Their windows.
        head: The head model, on the CPU.
        config: Priors.

    Raises:
        CopoError: There is no person mask, or it shows no outline.
    """
    item = items[index]
    if item.person is None:
        raise CopoError(
            f"photograph {index} has no landmarks: its person mask is needed to find the outline of the face"
        )
    if abs(VIEW_YAW[item.view or "front"]) < 1:
        raise CopoError(
            f"photograph {index} has no landmarks and its view is {item.view}: only profiles can be fitted without them"
        )
    like = _most_alike(items, index, person, marked)
    device = poses.shape.device
    side = VIEW_YAW[item.view or "front"]
    coefficients = poses.shape[person[index]][None].cpu(), poses.expression[like][None].cpu()
    vertices = head.vertices(*coefficients)[0].double()
    face = vertices[face_vertices(head)]
    face = face[face[:, 0].abs() < _MIDDLE]
    height, width = item.picture.shape[:2]
    focal = float(windows.focal[like]) * height / float(windows.size[like, 1])
    depth = float(poses.translation[like, 2])
    outline = _find_outline(item, mirror=side < 0, index=index)
    if side < 0:  # a right profile is a left profile of the mirrored picture and the mirrored head
        face = face * face.new_tensor([-1, 1, 1])
    interocular = 0.08 * focal / depth
    centre = (width / 2, height / 2)
    start = _search(face, outline, focal, depth, centre, config)
    middle = face.new_tensor([0.0, -0.01, 0.0])
    residual = math.nan
    for _ in range(2):  # the second time with the principal point in the middle of the face
        start, residual = _refine(face, outline, start, focal, depth, centre, config, interocular)
        rotation, translation = _rigid(start, config)
        local = rotation @ middle + translation
        moved = (centre[0] + focal * float(local[0] / local[2]), centre[1] + focal * float(local[1] / local[2]))
        shift = local.new_tensor([(centre[0] - moved[0]) / focal, (centre[1] - moved[1]) / focal])
        start = start.clone()
        start[3:5] += shift * start[5]
        centre = moved
    start, residual = _refine(face, outline, start, focal, depth, centre, config, interocular)
    rotation, translation = _rigid(start, config)
    x = centre[0]
    if side < 0:
        flip = rotation.new_tensor([-1.0, 1.0, 1.0])
        rotation, translation, x = flip[:, None] * rotation * flip, flip * translation, width - x
    new = windows.to("cpu")
    values = {name: value.clone() for name, value in vars(new).items()}
    values["centre"][index] = torch.tensor([x, centre[1]])
    values["focal"][index] = focal
    values["side"][index] = windows.side[like] * height / float(windows.size[like, 1])
    pose = Pose(
        rotation=rotation[None].float().to(device),
        translation=translation[None].float().to(device),
        expression=poses.expression[like][None],
        shape=poses.shape,
    )
    return ProfileFit(pose, Windows(**values), like, residual / interocular)


def _most_alike(items: Sequence[Observation], index: int, person: list[int], marked: list[int]) -> int:
    """The photograph of the same person with the same expression, nearest to the front."""
    own = [j for j in marked if person[j] == person[index]]

    def rank(j: int) -> tuple[bool, float, int]:
        return items[j].expression != items[index].expression, abs(VIEW_YAW[items[j].view or "front"]), j

    return min(own, key=rank)


def _find_outline(item: Observation, mirror: bool, index: int) -> _Outline:
    """The first crossing of the person probability from the side to which the face looks."""
    mask = np.asarray(item.person, np.float64)
    hair = np.zeros_like(mask) if item.hair is None else np.asarray(item.hair, np.float64)
    if mirror:
        mask, hair = mask[:, ::-1], hair[:, ::-1]
    height, width = item.picture.shape[:2]
    edge = np.full(len(mask), np.nan)
    inside = mask > _EDGE
    for row in np.nonzero(inside.any(1))[0]:
        x = int(inside[row].argmax())
        if x == 0:
            continue
        before, after = mask[row, x - 1], mask[row, x]
        place = x - 0.5 + (_EDGE - before) / max(after - before, 1e-6)
        column = int(min((x + 1) / mask.shape[1], 0.999) * hair.shape[1])
        if hair[min(int(row / len(mask) * len(hair)), len(hair) - 1), column] < 0.5:
            edge[row] = place * width / mask.shape[1]
    if np.isfinite(edge).sum() < 16:
        raise CopoError(f"photograph {index}: its person mask shows no outline of a face; leave the photograph out")
    rows = (np.arange(len(mask)) + 0.5) * height / len(mask)
    return _Outline(torch.from_numpy(rows), torch.from_numpy(edge))


def _rigid(state: Tensor, config: ProfileConfig) -> tuple[Tensor, Tensor]:
    """(6,) yaw, lean, nod around the profile (radians) and translation -> rotation head to camera, translation."""
    yaw = math.radians(config.yaw_degrees) + state[0]
    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), state[1].cos(), state[1].sin(), state[2].cos(), state[2].sin()
    zero, one = torch.zeros_like(cy), torch.ones_like(cy)
    turn = torch.stack([cy, zero, -sy, zero, one, zero, sy, zero, cy]).view(3, 3)  # the head turns to the left
    nod = torch.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp]).view(3, 3)
    tilt = torch.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one]).view(3, 3)
    flip = torch.diag(turn.new_tensor([1.0, -1.0, -1.0]))
    return tilt @ nod @ flip @ turn, state[3:]


def _project(face: Tensor, state: Tensor, focal: float, centre: tuple[float, float], config: ProfileConfig) -> Tensor:
    rotation, translation = _rigid(state, config)
    local = face @ rotation.T + translation
    return local[:, :2] / local[:, 2:] * focal + local.new_tensor(centre)


def _silhouette(place: Tensor) -> Tensor:
    """(K, 2) projected face -> indices of the leftmost point in each of `_ROWS` rows."""
    low, high = place[:, 1].min(), place[:, 1].max()
    row = ((place[:, 1] - low) / (high - low) * (_ROWS - 1)).round().long()
    order = np.lexsort((place[:, 0].numpy(), row.numpy()))
    _, first = np.unique(row.numpy()[order], return_index=True)
    return torch.from_numpy(order[first])


def _lookup(outline: _Outline, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Edge and its slope at heights y, and whether there is one."""
    step = float(outline.rows[1] - outline.rows[0])
    place = (y - outline.rows[0]) / step
    low = place.floor().long()
    known = (low >= 0) & (low < len(outline.rows) - 1)
    low = low.clamp(0, len(outline.rows) - 2)
    a, b = outline.edge[low], outline.edge[low + 1]
    share = place - low
    known &= torch.isfinite(a) & torch.isfinite(b) & ((b - a).abs() < 3 * step)
    return torch.where(known, a + share * (b - a), 0), torch.where(known, (b - a) / step, 0), known


def _search(
    face: Tensor, outline: _Outline, focal: float, depth: float, centre: tuple[float, float], config: ProfileConfig
) -> Tensor:
    """The height, nod and side shift at which the outlines agree best."""
    rows = outline.rows[torch.isfinite(outline.edge)]
    best, state = math.inf, torch.zeros(6, dtype=torch.float64)
    for roll in (-0.2, -0.1, 0.0, 0.1, 0.2):
        trial = torch.tensor([0.0, 0.0, roll, 0.0, 0.0, depth], dtype=torch.float64)
        place = _project(face, trial, focal, centre, config)
        line = place[_silhouette(place)]
        span = line[:, 1].max() - line[:, 1].min()
        step = float(span) / _ROWS
        top = torch.arange(float(rows[0]) - 0.4 * float(span), float(rows[-1]) - 0.6 * float(span), step).double()
        down = top - line[:, 1].min()
        edge, _, known = _lookup(outline, line[:, 1] + down[:, None])  # (places, points)
        gap = torch.where(known, edge - line[:, 0], math.nan)
        across = gap.nanmedian(dim=1, keepdim=True).values
        size = ((gap - across).abs() / span).clamp_max(_FAR).nan_to_num(_FAR)  # what the mask does not show is far off
        cost = torch.where(known.double().mean(1) < _SHOWN, math.inf, size.mean(1))
        if len(cost) and float(cost.min()) < best:
            best, at = float(cost.min()), int(cost.argmin())
            state = trial.clone()
            state[3], state[4] = across[at, 0] / focal * depth, down[at] / focal * depth
    if not math.isfinite(best):
        raise CopoError("a profile's person mask shows too little of the face; leave the photograph out")
    return state


def _refine(
    face: Tensor, outline: _Outline, state: Tensor, focal: float, depth: float, centre: tuple[float, float],
    config: ProfileConfig, interocular: float,
) -> tuple[Tensor, float]:  # fmt: skip
    """Gauss-Newton on the horizontal distance of the outlines; also the mean distance in pixels."""
    degrees = state.new_tensor([config.yaw_sigma, config.lean_sigma, config.nod_sigma])
    sigma = torch.cat([torch.deg2rad(degrees), state.new_tensor([1.0, 1.0, 0.05 * depth])])
    expected = state.clone()
    expected[:3], expected[5] = 0, depth
    precision = sigma**-2
    noise = config.sigma * interocular
    distance = math.nan
    for _ in range(config.iterations):
        place = _project(face, state, focal, centre, config)
        line = _silhouette(place)
        edge, slope, known = _lookup(outline, place[line, 1])
        if int(known.sum()) < 12:
            raise CopoError("a profile's outline left the person mask; leave the photograph out")
        points, slope = face[line][known], slope[known]
        steep = (1 + slope.square()).rsqrt()
        error = (place[line, 0] - edge)[known] * steep
        steps = [state + _NUDGE * axis for axis in torch.eye(6, dtype=state.dtype)]
        here = _project(points, state, focal, centre, config)
        moved = [(_project(points, nudged, focal, centre, config) - here) / _NUDGE for nudged in steps]
        jacobian = torch.stack(moved, dim=2)  # (K, 2, 6)
        rows = (jacobian[:, 0] - slope[:, None] * jacobian[:, 1]) * steep[:, None] / noise
        weight = (_HUBER * noise / error.abs().clamp_min(1e-9)).clamp_max(1) * config.independence
        matrix = (rows * weight[:, None]).T @ rows + torch.diag(precision)
        right = (rows * weight[:, None]).T @ (error / noise) + precision * (state - expected)
        step = torch.linalg.solve(matrix, right)
        state = state - step
        distance = float(error.abs().mean())
        if float(step.abs().max()) < _STILL:
            break
    return state, distance
