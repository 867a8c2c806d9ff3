"""Control: does each factor do its work, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from copo.evaluation.geometry import (
    angles_of,
    camera_rotation,
    head_picture,
    head_points,
    measured_poses,
    reduced,
    shrunk,
    turn_between,
)
from copo.evaluation.metric import Evidence, Metric, Noted, Result, Shown, Table, number, register
from copo.evaluation.plans import KEY_UNITS, VARIED, Plan
from copo.evaluation.statistics import correlation, mean, slope
from copo.evaluation.views import heat_map, strips
from copo.factors import Factors
from copo.head.protocol import HeadModel
from copo.head.shading import sh_shading
from copo.vision.dlib_descriptor import SAME_PERSON
from copo.vision.mediapipe import BLENDSHAPE_NAMES

Array = NDArray[Any]
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
SIDE = 64
"""Side of the pictures in which shading is compared: finer detail is not light."""
_INDEX = {name: i for i, name in enumerate(BLENDSHAPE_NAMES)}
POSE_TARGET, CORRELATION_TARGET, SLOPE_TARGET, CROSS_TARGET, LIGHT_TARGET = 3.0, 0.85, 0.6, 1 / 3, 0.8
SAME_TARGET, DIFFERENT_TARGET = 0.9, 0.95


# --- pose -------------------------------------------------------------------------------------------------------


def _pose_errors(evidence: Evidence, name: str) -> tuple[Array, Array, Array]:
    """Angle of the error (N,), its yaw, pitch, roll (N, 3), and whether a face was found (N,)."""
    plan, seen = evidence.plan(name), evidence.seen(name, "mediapipe")
    poses = measured_poses(evidence.head, plan.factors, plan.camera, seen["points"].astype(np.float32))
    asked = camera_rotation(plan.camera)
    known = seen["found"].astype(bool) & np.isfinite(poses.residual.numpy())
    error = turn_between(poses.rotation, asked).numpy()
    parts = (angles_of(poses.rotation) - angles_of(asked)).numpy()
    error[~known], parts[~known] = np.nan, np.nan
    return error, parts, seen["found"].astype(bool)


def measure_pose(evidence: Evidence) -> Result:
    """Angle between the asked camera and the one that MediaPipe's landmarks and the asked head give."""
    plan = evidence.plan("pose")
    error, parts, found = _pose_errors(evidence, "pose")
    yaw, near = plan.columns["yaw"], np.abs(plan.columns["yaw"]) <= 30.5
    notes = Noted()
    notes.add(
        "pose_error",
        "Pose error, |yaw| up to 30 degrees",
        mean(error[near]),
        near.sum(),
        target=POSE_TARGET,
        unit="degrees",
    )
    for i, part in enumerate(("yaw", "pitch", "roll")):
        notes.add(f"pose_{part}_error", f"Of which {part}", mean(np.abs(parts[near, i])), near.sum(), unit="degrees")
    far = np.abs(yaw) > 44
    notes.add("pose_error_45", "Pose error at 45 degrees", mean(error[far]), far.sum(), unit="degrees")
    notes.add("face_found", "Face found, |yaw| up to 30 degrees", mean(found[near]), near.sum())
    notes.add("face_found_45", "Face found at 45 degrees", mean(found[far]), far.sum())
    reference = None
    if evidence.has("pose_head"):
        reference, _, _ = _pose_errors(evidence, "pose_head")
        some = np.abs(evidence.plan("pose_head").columns["yaw"]) <= 30.5
        notes.add(
            "pose_error_perfect",
            "The same for perfect control (the head's own renders)",
            mean(reference[some]),
            some.sum(),
            unit="degrees",
        )
    rows = []
    for value in sorted(set(yaw)):
        here = (yaw == value) & (plan.columns["pitch"] == 0)
        rows.append((f"{value:g}", number(mean(error[here])), number(mean(parts[here, 0])), number(mean(found[here]))))
    table = Table("Pose by yaw", ("yaw", "error", "yaw error (signed)", "face found"), tuple(rows))
    each = int((plan.columns["person"] == 0).sum())
    some_rows = list(range(min(4, len(plan) // each) * each))
    sheet = strips(evidence.pictures("pose").some(some_rows), each, [f"yaw {y:g}" for y in yaw[:each]])
    return Result(tuple(notes.figures), (table,), (Shown("pose", sheet, "The first people under every asked pose."),))


register(
    Metric(
        "pose",
        "Pose (MediaPipe)",
        measure_pose,
        ("pose",),
        ("pose_head",),
        (("mediapipe", "pose"), ("mediapipe", "pose_head")),
        head=True,
    )
)


# --- expression -------------------------------------------------------------------------------------------------


def unit_slopes(plan: Plan, shapes: Array) -> Array:
    """(U, 51) slope of every measured unit over the asked strength of every control of a plan."""
    out = np.full((len(plan.words["units"]), shapes.shape[1]), np.nan)
    for number_ in range(len(out)):
        rows = (plan.columns["unit"] == number_) | (plan.columns["unit"] < 0)
        for unit in range(shapes.shape[1]):
            out[number_, unit] = slope(plan.columns["strength"][rows], shapes[rows, unit])
    return out


def own_measure(plan: Plan, shapes: Array, control: int) -> tuple[Array, Array]:
    """Asked strengths of one control and what was measured of its own units."""
    members = list(plan.words["units"].values())[control]
    columns = [_INDEX[m] for m in members if m in _INDEX]
    rows = (plan.columns["unit"] == control) | (plan.columns["unit"] < 0)
    measured = shapes[rows][:, columns].mean(1) if columns else np.full(int(rows.sum()), np.nan)
    return plan.columns["strength"][rows], measured


def measure_expression(evidence: Evidence) -> Result:
    """Asked against measured strength of the controls, over people, and what else moves."""
    plan, seen = evidence.plan("units"), evidence.seen("units", "mediapipe")
    shapes = seen["shapes"].astype(np.float64)
    slopes = unit_slopes(plan, shapes)
    reference = None
    if evidence.has("units_head"):
        other = evidence.plan("units_head")
        reference = unit_slopes(other, evidence.seen("units_head", "mediapipe")["shapes"].astype(np.float64))
    notes, rows = Noted(), []
    names = list(plan.words["units"])
    for i, name in enumerate(names):
        asked, measured = own_measure(plan, shapes, i)
        main, count = slope(asked, measured), len(asked)
        members = [_INDEX[m] for m in plan.words["units"][name] if m in _INDEX]
        others = [u for u in range(len(BLENDSHAPE_NAMES)) if u not in members]
        ratio = np.abs(slopes[i]) / max(abs(main), 1e-9)
        controls = [u for u in others if any(BLENDSHAPE_NAMES[u] in KEY_UNITS.get(n, ()) for n in names)]
        worst = others[int(np.nanargmax(ratio[others]))] if np.isfinite(ratio[others]).any() else others[0]
        notes.add(
            f"{name}_correlation",
            f"{name}: correlation of asked and measured",
            correlation(asked, measured),
            count,
            target=CORRELATION_TARGET,
            at_least=True,
        )
        notes.add(f"{name}_slope", f"{name}: slope", main, count, target=SLOPE_TARGET, at_least=True)
        raw = float(ratio[worst])
        if reference is None:
            notes.add(
                f"{name}_cross",
                f"{name}: largest cross-talk",
                raw,
                count,
                target=CROSS_TARGET,
                note=f"{BLENDSHAPE_NAMES[worst]}; share of the main effect",
            )
        else:
            asked_r, measured_r = own_measure(
                evidence.plan("units_head"), evidence.seen("units_head", "mediapipe")["shapes"], i
            )
            perfect = slope(asked_r, measured_r)
            excess = ratio - np.abs(reference[i]) / max(abs(perfect), 1e-9)
            most = others[int(np.nanargmax(excess[others]))] if np.isfinite(excess[others]).any() else others[0]
            notes.add(
                f"{name}_cross",
                f"{name}: largest cross-talk beyond perfect control's",
                max(float(excess[most]), 0.0),
                count,
                target=CROSS_TARGET,
                note=f"{BLENDSHAPE_NAMES[most]}; share of the main effect",
            )
            notes.add(
                f"{name}_cross_raw",
                f"{name}: largest cross-talk as measured",
                raw,
                count,
                note=f"{BLENDSHAPE_NAMES[worst]}",
            )
            notes.add(f"{name}_slope_perfect", f"{name}: slope of perfect control", perfect, len(asked_r))
        notes.add(
            f"{name}_cross_controls",
            f"{name}: largest cross-talk on the other controls",
            float(np.nanmax(ratio[controls])) if controls and np.isfinite(ratio[controls]).any() else float("nan"),
            count,
            target=CROSS_TARGET,
        )
        levels = sorted(set(asked))
        rows.append((name, *(number(mean(measured[asked == v])) for v in levels)))
    notes.add("expression_face_found", "Face found", mean(seen["found"]), len(plan))
    strengths = sorted(set(plan.columns["strength"]))
    table = Table("Measured strength by asked strength", ("control", *(f"{v:g}" for v in strengths)), tuple(rows))
    each = int((plan.columns["person"] == 0).sum())
    titles = [
        "neutral",
        *(
            f"{names[int(u)]} {s:g}"
            for u, s in zip(plan.columns["unit"][1:each], plan.columns["strength"][1:each], strict=True)
        ),
    ]
    sheet = strips(evidence.pictures("units").some(range(min(3, len(plan) // each) * each)), each, titles)
    matrix = heat_map(slopes, names, list(BLENDSHAPE_NAMES))
    shown = (
        Shown("expression_sweeps", sheet, "The first people under every asked strength."),
        Shown("expression_matrix", matrix, "Slope of every measured unit (columns) over every control (rows)."),
    )
    return Result(tuple(notes.figures), (table,), shown)


register(
    Metric(
        "expression",
        "Expression controls (MediaPipe)",
        measure_expression,
        ("units",),
        ("units_head",),
        (("mediapipe", "units"), ("mediapipe", "units_head")),
    )
)


def measure_every_unit(evidence: Evidence) -> Result:
    """Every ARKit unit alone: is it seen, and what else is."""
    plan, seen = evidence.plan("every_unit"), evidence.seen("every_unit", "mediapipe")
    shapes = seen["shapes"].astype(np.float64)
    slopes = unit_slopes(plan, shapes)
    names = list(plan.words["units"])
    rows, correlations, first = [], [], []
    for i, name in enumerate(names):
        if name not in _INDEX:
            continue
        asked, measured = own_measure(plan, shapes, i)
        value, own = correlation(asked, measured), slopes[i, _INDEX[name]]
        correlations.append(value)
        order = np.argsort(-np.nan_to_num(np.abs(slopes[i])))
        first.append(order[0] == _INDEX[name])
        others = [u for u in order if u != _INDEX[name]][:3]
        rows.append(
            (name, number(value), number(own), ", ".join(f"{BLENDSHAPE_NAMES[u]} {slopes[i, u]:.2f}" for u in others))
        )
    notes = Noted()
    notes.add("unit_correlation", "Mean correlation over all units", mean(np.array(correlations)), len(rows))
    notes.add("unit_first", "Share of units whose own effect is the largest", mean(np.array(first, float)), len(rows))
    table = Table("Every unit", ("unit", "correlation", "slope", "what else moves"), tuple(rows))
    matrix = heat_map(slopes, names, list(BLENDSHAPE_NAMES))
    return Result(
        tuple(notes.figures),
        (table,),
        (Shown("units_matrix", matrix, "Slope of every measured unit (columns) over every asked one (rows)."),),
    )


register(
    Metric(
        "units",
        "All ARKit units (MediaPipe)",
        measure_every_unit,
        ("every_unit",),
        instruments=(("mediapipe", "every_unit"),),
        quick=False,
    )
)


# --- light ------------------------------------------------------------------------------------------------------


def shading_pairs(head: HeadModel, factors: Factors, camera, pictures: NDArray[np.uint8], neutral: int = 0):  # type: ignore[no-untyped-def]
    """Measured and asked shading of one person under several lights, relative to one of them.

    The measured shading of a pixel is its colour divided by its colour under the neutral light, so that the skin's own
    colour drops out; the asked one is the ratio of the two spherical-harmonic shadings at the asked head's normal.

    Args:
        head: Head model.
        factors: (L) one person under L lights.
        camera: (L) the same camera.
        pictures: (L, S, S, 3) uint8.
        neutral: Row of the neutral light.

    Returns:
        measured (L, P, 3), asked (L, P, 3), normals (P, 3), neutral shading (P, 3), where P pixels of skin are neither
        burnt out nor black in any of the pictures.
    """
    drawn = head_picture(head, factors[neutral], camera[neutral], SIDE)
    colour = reduced(pictures, SIDE)
    sane = ((colour > 0.02) & (colour < 0.98)).all(1).all(0)
    mask = shrunk(drawn.skin, 1)[0] & sane
    normals = torch.from_numpy(drawn.normals[0][:, mask].T.copy())
    shading = sh_shading(normals[None].expand(len(factors), -1, -1), factors.illumination).numpy()
    measured = colour[:, :, mask].transpose(0, 2, 1)
    base, first = measured[neutral].clip(1e-3), shading[neutral].clip(1e-3)
    return measured / base, shading / first, normals.numpy(), first


def light_direction(shading: Array, normals: Array) -> Array:
    """(P,) brightness over (P, 3) normals -> (3,) the first-order part of a least-squares fit."""
    system = np.concatenate([np.ones((len(normals), 1)), normals], axis=1)
    found, *_ = np.linalg.lstsq(system, shading, rcond=None)
    return found[1:]


def measure_light(evidence: Evidence) -> Result:
    """Shading relative to a neutral light, asked against measured in pictures."""
    plan, pictures = evidence.plan("light"), evidence.pictures("light")
    people = int(plan.columns["person"].max()) + 1
    each = len(plan) // people
    measured, asked, level, hue, angles, lamps = [], [], [], [], [], []
    for person in range(people):
        rows = list(range(person * each, (person + 1) * each))
        seen = np.stack(pictures.some(rows))
        m, a, normals, first = shading_pairs(
            evidence.head, plan.factors[rows[0] : rows[-1] + 1], plan.camera[rows[0] : rows[-1] + 1], seen
        )
        if m.shape[1] < 30:
            continue
        bright_m, bright_a, bright_0 = m @ LUMINANCE, a @ LUMINANCE, first @ LUMINANCE
        for k in range(1, each):
            measured.append(bright_m[k])
            asked.append(bright_a[k])
            level.append((bright_m[k].mean(), bright_a[k].mean()))
            hue += [
                (x - bright_m[k].mean(), y - bright_a[k].mean())
                for x, y in zip(m[k].mean(0), a[k].mean(0), strict=True)
            ]
            lamps.append(plan.columns["kind"][rows[k]] == 1)
            one, two = (light_direction(v * bright_0, normals) for v in (bright_m[k], bright_a[k]))
            cosine = float(one @ two) / max(float(np.linalg.norm(one) * np.linalg.norm(two)), 1e-9)
            angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    count = len(measured)
    notes = Noted()
    if not count:
        notes.add(
            "light_correlation",
            "Shading: correlation of asked and measured",
            float("nan"),
            0,
            target=LIGHT_TARGET,
            at_least=True,
            note="too little skin was neither black nor burnt out",
        )
        return Result(tuple(notes.figures))
    lamp = np.array(lamps)
    all_m, all_a = np.concatenate(measured), np.concatenate(asked)
    centred_m, centred_a = (np.concatenate([v - v.mean() for v in s]) for s in (measured, asked))
    notes.add(
        "light_correlation",
        "Shading: correlation of asked and measured",
        correlation(all_a, all_m),
        count,
        target=LIGHT_TARGET,
        at_least=True,
    )
    notes.add(
        "light_pattern_correlation",
        "Shading without each picture's mean",
        correlation(centred_a, centred_m),
        count,
        target=LIGHT_TARGET,
        at_least=True,
    )
    notes.add("light_slope", "Shading: slope", slope(all_a, all_m), count)
    for name, kind in (("lamps", True), ("sampled", False)):
        some = np.flatnonzero(lamp == kind)
        if len(some):
            pair = (np.concatenate([s[i] - s[i].mean() for i in some]) for s in (asked, measured))
            notes.add(f"light_{name}_correlation", f"The same under {name} lights", correlation(*pair), len(some))
    levels, hues = np.array(level), np.array(hue)
    notes.add("light_level_correlation", "Brightness of the face", correlation(levels[:, 1], levels[:, 0]), count)
    notes.add("light_hue_correlation", "Colour of the light", correlation(hues[:, 1], hues[:, 0]), count)
    notes.add(
        "light_direction",
        "Direction of the lamps: mean error",
        mean(np.array(angles)[lamp]),
        int(lamp.sum()),
        unit="degrees",
    )
    sheet = strips(
        pictures.some(range(min(4, people) * each)), each, ["neutral", *[f"light {k}" for k in range(1, each)]]
    )
    return Result(tuple(notes.figures), pictures=(Shown("light", sheet, "The first people under every light."),))


register(Metric("light", "Light (shading in pictures)", measure_light, ("light",), head=True))


# --- identity ---------------------------------------------------------------------------------------------------


def measure_identity(evidence: Evidence) -> Result:
    """Whether a recogniser says that a person stays the same, and that people differ."""
    plan, seen = evidence.plan("identity"), evidence.seen("identity", "dlib")["descriptor"].astype(np.float64)
    kinds = plan.words["kinds"]
    by_kind = {kind: seen[plan.columns["kind"] == i] for i, kind in enumerate(kinds)}
    base = by_kind["base"]
    notes, rows, single = Noted(), [], []
    for kind in kinds[1:]:
        distance = np.linalg.norm(by_kind[kind] - base, axis=1)
        distance = distance[np.isfinite(distance)]
        if kind != "all":
            single.append(distance)
        rows.append(
            (
                kind,
                number(float((distance < SAME_PERSON).mean()) if len(distance) else float("nan")),
                number(mean(distance)),
            )
        )
    pooled = np.concatenate(single)
    known = base[np.isfinite(base).all(1)]
    between = np.linalg.norm(known[:, None] - known[None], axis=-1)[np.triu_indices(len(known), 1)]
    notes.add(
        "identity_same",
        "Same person under another pose, expression or light",
        mean(pooled < SAME_PERSON),
        len(pooled),
        target=SAME_TARGET,
        at_least=True,
    )
    notes.add(
        "identity_different",
        "Different people told apart",
        mean(between >= SAME_PERSON),
        len(between),
        target=DIFFERENT_TARGET,
        at_least=True,
    )
    notes.add("identity_distance_same", "Mean distance of one person", mean(pooled), len(pooled))
    notes.add("identity_distance_different", "Mean distance of two people", mean(between), len(between))
    table = Table("By change", ("change", "same person", "mean distance"), tuple(rows))
    each = len(kinds)
    sheet = strips(evidence.pictures("identity").some(range(min(6, len(base)) * each)), each, kinds)
    return Result(tuple(notes.figures), (table,), (Shown("identity", sheet, "The first people under every change."),))


register(
    Metric(
        "identity", "Identity (dlib's descriptor)", measure_identity, ("identity",), instruments=(("dlib", "identity"),)
    )
)


def measure_identity_yaw(evidence: Evidence) -> Result:
    """Identity seen from the side against the same person's front."""
    plan, seen = evidence.plan("pose"), evidence.seen("pose", "dlib")["descriptor"].astype(np.float64)
    level = plan.columns["pitch"] == 0
    front = {int(p): d for p, d in zip(plan.columns["person"], seen, strict=True)}
    for row in np.flatnonzero(level & (plan.columns["yaw"] == 0)):
        front[int(plan.columns["person"][row])] = seen[row]
    base = np.stack([front[int(p)] for p in plan.columns["person"]])
    distance = np.linalg.norm(seen - base, axis=1)
    notes, rows = Noted(), []
    for yaw in sorted(set(plan.columns["yaw"])):
        here = distance[level & (plan.columns["yaw"] == yaw)]
        same = mean((here < SAME_PERSON)[np.isfinite(here)])
        rows.append((f"{yaw:g}", number(mean(here)), number(same)))
    for limit in (15, 30, 45):
        here = distance[level & (np.abs(plan.columns["yaw"]) == limit)]
        here = here[np.isfinite(here)]
        notes.add(
            f"identity_yaw_{limit}", f"Same person at {limit} degrees of yaw", mean(here < SAME_PERSON), len(here)
        )
    return Result(tuple(notes.figures), (Table("Identity by yaw", ("yaw", "distance", "same person"), tuple(rows)),))


register(Metric("identity_yaw", "Identity over yaw", measure_identity_yaw, ("pose",), instruments=(("dlib", "pose"),)))


# --- disentanglement --------------------------------------------------------------------------------------------


def disentanglement(values: dict[str, Array], varied: Array, group: Array, factors: list[str]) -> dict[str, float]:
    """Disentanglement scores (Deng et al. 2020, section 4.2).

    In groups of pictures that differ in factor i only, s_j is the standard deviation of what is measured of factor j,
    averaged over the groups and divided by its deviation over all pictures. The score of i is the product of s_i / s_j
    over the other factors j.

    Args:
        values: Of each factor, (N, d) measured numbers; rows with NaN are left out.
        varied: (N,) index of the factor that varies in the picture's group.
        group: (N,) group of the picture.
        factors: Their names in the order of the indices.
    """
    total = {f: np.sqrt(np.nanvar(values[f], axis=0).sum()) for f in factors}
    out = {}
    for i, name in enumerate(factors):
        spread = {}
        for other in factors:
            inside = []
            for g in np.unique(group[varied == i]):
                rows = values[other][group == g]
                rows = rows[np.isfinite(rows).all(1)]
                if len(rows) > 1:
                    inside.append(np.sqrt(rows.var(axis=0, ddof=1).sum()))
            spread[other] = float(np.mean(inside)) / max(total[other], 1e-12) if inside else float("nan")
        out[name] = float(np.prod([spread[name] / max(spread[o], 1e-6) for o in factors if o != name]))
    return out


def measure_disentanglement(evidence: Evidence) -> Result:
    """Scores by MediaPipe (expression, pose), dlib (identity) and shading (light)."""
    plan = evidence.plan("groups")
    seen = evidence.seen("groups", "mediapipe")
    poses = measured_poses(evidence.head, plan.factors, plan.camera, seen["points"].astype(np.float32))
    angles = angles_of(poses.rotation).numpy()[:, :2]
    angles[~np.isfinite(poses.residual.numpy())] = np.nan
    values = {
        "identity": evidence.seen("groups", "dlib")["descriptor"].astype(np.float64),
        "expression": seen["shapes"].astype(np.float64),
        "illumination": _gradients(evidence, plan),
        "pose": angles,
    }
    scores = disentanglement(values, plan.columns["varied"], plan.columns["group"], list(VARIED))
    notes = Noted()
    for name, value in scores.items():
        notes.add(f"ds_{name}", f"Disentanglement score of {name}", value, len(plan) // len(VARIED))
    return Result(tuple(notes.figures))


def _gradients(evidence: Evidence, plan: Plan) -> Array:
    """(N, 3) how the brightness of the skin follows the asked head's normals, divided by its mean."""
    out = np.full((len(plan), 3), np.nan)
    pictures = evidence.pictures("groups")
    for start in range(0, len(plan), 40):
        rows = list(range(start, min(start + 40, len(plan))))
        span = slice(rows[0], rows[-1] + 1)
        drawn = head_picture(evidence.head, plan.factors[span], plan.camera[span], SIDE)
        light = np.tensordot(reduced(np.stack(pictures.some(rows)), SIDE), LUMINANCE, axes=(1, 0))
        mask = shrunk(drawn.skin, 1)
        for i, row in enumerate(rows):
            bright = light[i][mask[i]]
            if len(bright) >= 30 and bright.mean() > 1e-3:
                out[row] = light_direction(bright / bright.mean(), drawn.normals[i][:, mask[i]].T)
    return out


register(
    Metric(
        "disentanglement",
        "Disentanglement (independent instruments)",
        measure_disentanglement,
        ("groups",),
        instruments=(("mediapipe", "groups"), ("dlib", "groups")),
        head=True,
        quick=False,
    )
)


# --- by landmarks and by the analyser ----------------------------------------------------------------------------


def measure_keypoints(evidence: Evidence) -> Result:
    """Distance of MediaPipe's landmarks from the asked head's, over random portraits."""
    plan, seen = evidence.plan("samples"), evidence.seen("samples", "mediapipe")
    asked = head_points(evidence.head, plan.factors, plan.camera, dense=True)
    if asked.points.shape[1] != 478:
        return Result(())
    place, _ = plan.camera.project(asked.points)
    away = np.linalg.norm(seen["points"] - place.numpy(), axis=-1) * 256
    away[asked.facing.numpy() < 0.1] = np.nan
    notes = Noted()
    notes.add(
        "akd_mediapipe", "AKD: landmarks from the asked head's, pixels at 256", mean(away), len(plan), unit="pixels"
    )
    notes.add("samples_face_found", "Face found in random portraits", mean(seen["found"]), len(plan))
    return Result(tuple(notes.figures))


register(
    Metric(
        "keypoints",
        "Landmarks (MediaPipe)",
        measure_keypoints,
        ("samples",),
        instruments=(("mediapipe", "samples"),),
        head=True,
        quick=False,
    )
)


def measure_analyser(evidence: Evidence) -> Result:
    """AED, APD, AKD and light error by the analyser, which training also uses: read the independent ones beside."""
    plan, said = evidence.plan("samples"), evidence.seen("samples", "analyser")
    notes, count = Noted(), len(plan)
    asked = plan.factors
    notes.add(
        "aed_analyser",
        "AED: mean difference of expression units",
        mean(np.abs(said["expression"] - asked.expression.numpy())),
        count,
    )
    turned = torch.from_numpy(said["rotation"].astype(np.float64))
    asked_turn = camera_rotation(plan.camera) * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)[:, None]
    notes.add(
        "apd_analyser",
        "APD: mean angle between the poses",
        mean(turn_between(turned, asked_turn).numpy()),
        count,
        unit="degrees",
    )
    place, _ = plan.camera.project(head_points(evidence.head, asked, plan.camera, dense=False).points)
    away = np.linalg.norm(said["points"][:, :68] - place.numpy(), axis=-1) * 256
    notes.add("akd_analyser", "AKD: mean distance of 68 landmarks, pixels at 256", mean(away), count, unit="pixels")
    notes.add(
        "light_error_analyser",
        "Light: mean difference of coefficients",
        mean(np.abs(said["illumination"] - asked.illumination.numpy())),
        count,
    )
    first = _first_order(said["illumination"]), _first_order(asked.illumination.numpy())
    cosine = (first[0] * first[1]).sum(1) / np.maximum(
        np.prod([np.linalg.norm(v, axis=1) for v in first], axis=0), 1e-9
    )
    notes.add(
        "light_direction_analyser",
        "Light: mean error of the direction",
        mean(np.degrees(np.arccos(cosine.clip(-1, 1)))),
        count,
        unit="degrees",
    )
    units = [
        correlation(asked.expression.numpy()[:, i], said["expression"][:, i])
        for i in range(asked.spec.expression)
        if float(asked.expression[:, i].std()) > 0.02
    ]
    notes.add(
        "expression_correlation_analyser", "Mean correlation of units that vary", mean(np.array(units)), len(units)
    )
    return Result(tuple(notes.figures))


def _first_order(light: Array) -> Array:
    grey = np.asarray(light, np.float64).reshape(len(light), 3, 9).mean(1)
    return np.stack([-grey[:, 3], -grey[:, 1], grey[:, 2]], axis=1)


register(
    Metric(
        "analyser",
        "AED, APD, AKD and light by the analyser",
        measure_analyser,
        ("samples",),
        instruments=(("analyser", "samples"),),
        head=True,
    )
)
