"""Three dimensions: rendered depth against the asked head's, and one view carried into another."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from copo.camera import Camera
from copo.evaluation.geometry import covered, head_picture, shrunk
from copo.evaluation.metric import Evidence, Metric, Noted, Result, Shown, Table, number, register
from copo.evaluation.statistics import correlation, mean
from copo.evaluation.views import strips
from copo.formats.pictures import depth_picture, from_uint8

DEPTH_TARGET = 0.1
SOLID = 0.5
"""Opacity above which a pixel shows the head."""
TOLERANCE = 0.008
"""Metres by which a point may lie behind the surface that the other view shows, and still be seen."""
FEWEST = 40
"""Pixels of a face below which a picture does not count."""
BATCH = 24


def depth_error(
    rendered: NDArray[np.floating], asked: NDArray[np.floating], mask: NDArray[np.bool_]
) -> tuple[float, float]:
    """Relative error of a depth map after the best scale and shift.

    Args:
        rendered: (s, s) metres.
        asked: (s, s) the head's.
        mask: (s, s) pixels that count.

    Returns:
        Mean absolute difference from the asked depth, divided by its range (2nd to 98th percentile) over the mask; and
        the scale that was removed (1 where the relief has the right size, above where it is too flat).
    """
    x, y = rendered[mask].astype(np.float64), asked[mask].astype(np.float64)
    low, high = np.percentile(y, [2, 98])
    centred = x - x.mean()
    power = centred @ centred
    scale = float(centred @ (y - y.mean()) / power) if power > 1e-12 else 0.0
    fitted = y.mean() + scale * centred
    return float(np.abs(fitted - y).mean() / max(high - low, 1e-9)), scale


def measure_depth(evidence: Evidence) -> Result:
    """Depth of the face in the pose set against the asked head's."""
    plan, maps = evidence.plan("pose"), evidence.pictures("pose").all_maps()
    depth, alpha, labels = maps["depth"], maps["alpha"], maps["labels"].astype(np.uint8)
    errors, scales, matches, share = [], [], [], []
    tiles: list[NDArray[np.uint8]] = []
    for start in range(0, len(plan), BATCH):
        span = slice(start, min(start + BATCH, len(plan)))
        drawn = head_picture(evidence.head, plan.factors[span], plan.camera[span], depth.shape[-1])
        face = shrunk(drawn.face & (drawn.depth > 0), 1)
        use = face & (alpha[span] > SOLID) & ~covered(labels[span])
        for i, row in enumerate(range(span.start, span.stop)):
            share.append(use[i].sum() / max(face[i].sum(), 1))
            if use[i].sum() < min(FEWEST, max(face[i].sum() // 2, 8)):
                errors.append(np.nan)
                scales.append(np.nan)
                matches.append(np.nan)
                continue
            error, scale = depth_error(depth[row], drawn.depth[i], use[i])
            errors.append(error)
            scales.append(scale)
            matches.append(correlation(drawn.depth[i][use[i]], depth[row][use[i]]))
            if len(tiles) < 14 and plan.columns["pitch"][row] == 0:
                tiles += [depth_picture(np.where(use[i], v, 0)) for v in (depth[row], drawn.depth[i])]
    error_array, yaw = np.array(errors), plan.columns["yaw"]
    near = np.abs(yaw) <= 30.5
    notes = Noted()
    notes.add(
        "depth_error",
        "Depth of the face, relative error, |yaw| up to 30",
        mean(error_array[near]),
        np.isfinite(error_array[near]).sum(),
        target=DEPTH_TARGET,
    )
    notes.add(
        "depth_error_45",
        "Depth of the face at 45 degrees",
        mean(error_array[np.abs(yaw) > 44]),
        (np.abs(yaw) > 44).sum(),
    )
    notes.add("depth_scale", "Scale that was removed (above 1: too flat)", mean(np.array(scales)), len(scales))
    notes.add("depth_correlation", "Correlation of the depths", mean(np.array(matches)), len(matches))
    notes.add("depth_share", "Share of the asked face that is compared", mean(np.array(share)), len(share))
    rows = tuple(
        (f"{v:g}", number(mean(error_array[(yaw == v) & (plan.columns["pitch"] == 0)]))) for v in sorted(set(yaw))
    )
    shown: tuple[Shown, ...] = ()
    if tiles:
        sheet = strips(tiles, 14 if len(tiles) >= 14 else len(tiles), ["rendered", "asked"] * 7)
        shown = (Shown("depth", sheet, "Rendered depth of the face beside the asked head's, over yaw."),)
    return Result(tuple(notes.figures), (Table("Depth by yaw", ("yaw", "error"), rows),), shown)


register(Metric("depth", "Depth of the face", measure_depth, ("pose",), head=True))


def carry(
    picture: Tensor, depth: Tensor, camera: Camera, other_depth: Tensor, other_camera: Camera
) -> tuple[Tensor, Tensor]:
    """A picture seen from another camera's place, by that camera's depth.

    Args:
        picture: (B, 3, S, S) what `camera` sees.
        depth: (B, s, s) its depth, metres along the viewing axis.
        camera: (B).
        other_depth: (B, s, s) depth that the other camera sees.
        other_camera: (B).

    Returns:
        (B, 3, S, S) colours of `picture` at the other view's pixels, and (B, S, S) bool where they are valid: the
        point lies inside `picture` and is not hidden there.
    """
    side = picture.shape[-1]
    full = F.interpolate(other_depth[:, None].float(), (side, side), mode="bilinear", align_corners=False)[:, 0]
    steps = (torch.arange(side) + 0.5) / side
    x, y = torch.meshgrid(steps, steps, indexing="xy")
    k = other_camera.intrinsics
    ray = torch.stack(
        [
            (x[None] - k[:, 0, 2, None, None]) / k[:, 0, 0, None, None],
            (y[None] - k[:, 1, 2, None, None]) / k[:, 1, 1, None, None],
            torch.ones(len(k), side, side),
        ],
        dim=-1,
    )
    local = (ray * full[..., None]).flatten(1, 2)
    world = local @ other_camera.cam2world[:, :3, :3].mT + other_camera.position[:, None]
    place, away = camera.project(world)
    grid = (place * 2 - 1).view(-1, side, side, 2)
    colour = F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)
    seen = F.grid_sample(depth[:, None].float(), grid, mode="bilinear", padding_mode="border", align_corners=False)[
        :, 0
    ]
    inside = ((grid > -1) & (grid < 1)).all(-1)
    valid = inside & ((away.view_as(seen) - seen).abs() < TOLERANCE)
    return colour, valid


def measure_views(evidence: Evidence) -> Result:
    """Neighbouring views of the pose set, one carried into the other through the rendered depth."""
    plan, pictures = evidence.plan("pose"), evidence.pictures("pose")
    maps = pictures.all_maps()
    depth, alpha = (
        torch.from_numpy(maps["depth"].astype(np.float32)),
        torch.from_numpy(maps["alpha"].astype(np.float32)),
    )
    level = np.flatnonzero(plan.columns["pitch"] == 0)
    pairs = [(a, b) for a, b in itertools.pairwise(level) if plan.columns["person"][a] == plan.columns["person"][b]]
    differences, plain, shares, where = [], [], [], []
    tiles: list[NDArray[np.uint8]] = []
    for start in range(0, len(pairs), 8):
        some = pairs[start : start + 8]
        first, second = ([int(p[i]) for p in some] for i in (0, 1))
        one, two = (from_uint8(np.stack(pictures.some(rows))) for rows in (first, second))
        camera = [plan.camera[torch.tensor(rows)] for rows in (first, second)]
        carried, valid = carry(one, depth[first], camera[0], depth[second], camera[1])
        solid = F.interpolate(alpha[second][:, None], one.shape[-2:], mode="bilinear")[:, 0] > 0.9
        valid = valid & solid
        gap, same = ((v - two).abs().mean(1) / 2 for v in (carried, one))
        for i, row in enumerate(second):
            if valid[i].sum() < 50:
                continue
            differences.append(float(gap[i][valid[i]].mean()))
            plain.append(float(same[i][valid[i]].mean()))
            shares.append(float(valid[i].sum() / solid[i].sum().clamp_min(1)))
            where.append(plan.columns["yaw"][row])
        if len(tiles) < 12:
            shown = torch.where(valid[:, None], carried, torch.ones(()))
            for i in range(min(3, len(some))):
                tiles += [
                    np.asarray(((v[i].permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).byte()) for v in (one, shown, two)
                ]
    notes, count = Noted(), len(differences)
    notes.add(
        "views_difference",
        "Neighbouring views (15 degrees): mean difference after reprojection",
        mean(np.array(differences)),
        count,
        note="0..1; where both views see the point",
    )
    notes.add("views_difference_plain", "The same pixels without reprojection", mean(np.array(plain)), count)
    notes.add("views_share", "Share of the head that both views see by their depths", mean(np.array(shares)), count)
    yaws = np.array(where)
    rows = tuple((f"{v:g}", number(mean(np.array(differences)[yaws == v]))) for v in sorted(set(where)))
    pictures_shown: tuple[Shown, ...] = ()
    if tiles:
        sheet = strips(tiles, 6, ["view", "carried over", "other view"] * 2)
        pictures_shown = (
            Shown("views", sheet, "A view, the same carried into the next by depth (white: hidden), the next."),
        )
    return Result(tuple(notes.figures), (Table("Difference by yaw", ("to yaw", "difference"), rows),), pictures_shown)


register(Metric("views", "Multi-view consistency", measure_views, ("pose",)))
