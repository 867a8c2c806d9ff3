"""Cuts the bust out of the base mesh, replaces the eyeballs, and refines the quads that are too large for the face.

Everything is linear in the positions of the control vertices: fine = subdivision @ control. So mean, identity and
expression bases are kept on the control vertices and carried along.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from .source import BaseMesh, Floats, Ints

EYE_GROUPS = ("helper-l-eye", "helper-r-eye")
MOUTH_GROUPS = ("helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
CUT_LOW, CUT_SIDE = 5.0, 1.9  # dm: the bust keeps the body's quads above the one and within the other
EYE_RADIUS = 0.1495  # dm, of the eyeball in the base mesh
EYE_CONVERGENCE = np.radians(1.7)  # each eye turned inward: the gaze meets about one metre in front
# Half angles seen from the centre of the eyeball, radians: iris 5.7 mm and pupil 2.1 mm in radius.
IRIS_ANGLE, PUPIL_ANGLE = np.radians(22.5), np.radians(8.0)
EYE_RINGS = np.radians([0, 4.2, 7.3, 8.7, 12, 16, 20, 21.7, 23.3, 29, 36, 46, 55, 66, 80, 96, 115, 138, 180])
EYE_SECTORS = 24


@dataclass
class Polygons:
    """A polygon mesh during refinement.

    Attributes:
        faces: vertex indices of each polygon, counter-clockwise from outside.
        uv_faces: indices into `uv`, same layout.
        uv: (U, 2).
        weights: (V, C) sparse, vertices = weights @ control.
        part: name of the part of each polygon ("body", "eye_left", ...).
    """

    faces: list[list[int]]
    uv_faces: list[list[int]]
    uv: Floats
    weights: sp.csr_matrix
    part: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Control:
    """The control vertices: the used ones of the base mesh, then four per eyeball.

    The four are the centre, and the centre plus the radius along x, y and z.

    Attributes:
        used: (C - 8,) indices into the base mesh.
        eye_vertices: per eye, the (72,) base-mesh indices of the eyeball.
        eye_fit: per eye, (4, 72): least-squares affine motion of the eyeball, as weights on its vertices.
    """

    used: Ints
    eye_vertices: tuple[Ints, Ints]
    eye_fit: tuple[Floats, Floats]

    @property
    def count(self) -> int:
        return len(self.used) + 8

    def positions(self, base: Floats) -> Floats:
        """(N, 3) base-mesh positions or displacements -> (C, 3) of the control vertices."""
        eyes = [fit @ base[index] for fit, index in zip(self.eye_fit, self.eye_vertices, strict=True)]
        return np.concatenate([base[self.used], *eyes])

    def eye(self, side: int) -> slice:
        """Where the four control vertices of the left (0) or right (1) eyeball lie."""
        return slice(len(self.used) + 4 * side, len(self.used) + 4 * side + 4)


def _eye_control(vertices: Floats) -> Floats:
    """(72, 3) of the eyeball at rest -> (4, 72) weights that carry its affine motion to the four control vertices."""
    centre = vertices.mean(0)
    frame = np.concatenate([centre[None], centre + EYE_RADIUS * np.eye(3)])
    homogeneous = np.c_[vertices, np.ones(len(vertices))]
    return np.c_[frame, np.ones(4)] @ np.linalg.pinv(homogeneous)


def _eyeball(side: int) -> tuple[Floats, list[list[int]], Floats, list[list[int]]]:
    """An eyeball of rings around the line of sight: (V, 3) directions, faces, (U, 2) UV in the unit disc, UV faces."""
    turn = -EYE_CONVERGENCE if side == 0 else EYE_CONVERGENCE
    sectors = np.arange(EYE_SECTORS) * 2 * np.pi / EYE_SECTORS
    points = [np.array([[0.0, 0.0, 1.0]])]
    for ring in EYE_RINGS[1:-1]:
        points.append(
            np.c_[np.sin(ring) * np.cos(sectors), np.sin(ring) * np.sin(sectors), np.full(EYE_SECTORS, np.cos(ring))]
        )
    points.append(np.array([[0.0, 0.0, -1.0]]))
    unit = np.concatenate(points)
    angle = np.repeat(EYE_RINGS, [1, *[EYE_SECTORS] * (len(EYE_RINGS) - 2), 1])
    direction = np.concatenate([[0.0], np.tile(sectors, len(EYE_RINGS) - 2), [0.0]])
    disc = np.c_[angle * np.cos(direction), angle * np.sin(direction)] / np.pi
    turned = unit @ np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]])
    last = len(unit) - 1
    faces: list[list[int]] = []
    uv_faces: list[list[int]] = []
    rim = np.c_[np.cos(sectors), np.sin(sectors)]  # the pole at the back is the whole rim of the disc
    rings = len(EYE_RINGS) - 2
    for s in range(EYE_SECTORS):
        t = (s + 1) % EYE_SECTORS
        faces.append([0, 1 + s, 1 + t])
        for r in range(rings - 1):
            a, b = 1 + r * EYE_SECTORS, 1 + (r + 1) * EYE_SECTORS
            faces.append([a + s, b + s, b + t, a + t])
        outer = 1 + (rings - 1) * EYE_SECTORS
        uv_faces += [*faces[len(uv_faces) :], [outer + s, last + s, outer + t]]
        faces.append([outer + s, last, outer + t])
    return turned, faces, np.concatenate([disc[:-1], rim]), uv_faces


def cut_bust(base: BaseMesh) -> tuple[Control, Polygons]:
    """The bust as polygons over its control vertices, not yet refined."""
    body = base.quads["body"]
    corners = base.vertices[body]
    kept = (corners[..., 1].min(1) > CUT_LOW) & (np.abs(corners[..., 0]).max(1) < CUT_SIDE)
    groups = {"body": (body[kept], base.quad_uv["body"][kept])}
    groups |= {g: (base.quads[g], base.quad_uv[g]) for g in MOUTH_GROUPS}
    used = np.unique(np.concatenate([q.reshape(-1) for q, _ in groups.values()]))
    eyes = [np.unique(base.quads[g]) for g in EYE_GROUPS]
    control = Control(
        used, (eyes[0], eyes[1]), (_eye_control(base.vertices[eyes[0]]), _eye_control(base.vertices[eyes[1]]))
    )

    new_index = np.full(len(base.vertices), -1)
    new_index[used] = np.arange(len(used))
    faces: list[list[int]] = []
    uv_faces: list[list[int]] = []
    part: list[str] = []
    for name, (quads, quad_uv) in groups.items():
        faces += new_index[quads].tolist()
        uv_faces += quad_uv.tolist()
        part += [name.removeprefix("helper-").replace("-", "_")] * len(quads)
    blocks = [sp.hstack([sp.identity(len(used)), sp.csr_matrix((len(used), 8))])]
    uv, start = [base.uv], len(used)
    uv_start = len(base.uv)
    for side in (0, 1):
        unit, eye_faces, disc, eye_uv_faces = _eyeball(side)
        weights = np.zeros((len(unit), control.count))
        weights[:, control.eye(side)] = np.c_[1 - unit.sum(1), unit]
        blocks.append(sp.csr_matrix(weights))
        faces += [[v + start for v in f] for f in eye_faces]
        uv_faces += [[v + uv_start for v in f] for f in eye_uv_faces]
        patch = base.uv[base.quad_uv[EYE_GROUPS[side]].reshape(-1)]
        middle, half = (patch.max(0) + patch.min(0)) / 2, (patch.max(0) - patch.min(0)).min() / 2
        uv.append(middle + half * 0.98 * disc)
        part += [("eye_left", "eye_right")[side]] * len(eye_faces)
        start, uv_start = start + len(unit), uv_start + len(disc)
    return control, Polygons(faces, uv_faces, np.concatenate(uv), sp.csr_matrix(sp.vstack(blocks)), part)


def subdivide(mesh: Polygons, chosen: set[int]) -> Polygons:
    """Catmull-Clark on the chosen quads alone; the new edge points become corners of their neighbours.

    Vertices whose faces are all chosen are smoothed, edges between two chosen quads too; the rest of the surface stays
    exactly where it was, so no crack opens.
    """
    count = mesh.weights.shape[0]
    vertex_faces: dict[int, list[int]] = {}
    edge_faces: dict[tuple[int, int], list[int]] = {}
    for f, corners in enumerate(mesh.faces):
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
            vertex_faces.setdefault(a, []).append(f)
            edge_faces.setdefault((min(a, b), max(a, b)), []).append(f)
    face_point = {f: count + i for i, f in enumerate(sorted(chosen))}
    split = sorted(e for e, fs in edge_faces.items() if any(f in chosen for f in fs))
    edge_point = {e: count + len(face_point) + i for i, e in enumerate(split)}
    rows: dict[int, dict[int, float]] = {v: {v: 1.0} for v in range(count)}
    centre = {f: dict.fromkeys(mesh.faces[f], 0.25) for f in chosen}
    rows.update({face_point[f]: centre[f] for f in chosen})

    def mix(*terms: tuple[float, dict[int, float]]) -> dict[int, float]:
        total: dict[int, float] = {}
        for scale, row in terms:
            for v, w in row.items():
                total[v] = total.get(v, 0.0) + scale * w
        return total

    for edge in split:
        middle = dict.fromkeys(edge, 0.5)
        sides = edge_faces[edge]
        smooth = len(sides) == 2 and all(f in chosen for f in sides)
        rows[edge_point[edge]] = mix((0.5, middle), *((0.25, centre[f]) for f in sides)) if smooth else middle
    neighbours: dict[int, list[tuple[int, int]]] = {}
    for edge in split:
        for v in edge:
            neighbours.setdefault(v, []).append(edge)
    for v, fs in vertex_faces.items():
        closed = len(neighbours.get(v, [])) == len(fs) and all(len(edge_faces[e]) == 2 for e in neighbours[v])
        if closed and all(f in chosen for f in fs):
            n = len(fs)
            spread = [(1 / n / n, centre[f]) for f in fs] + [(2 / n / n, dict.fromkeys(e, 0.5)) for e in neighbours[v]]
            rows[v] = mix(((n - 3) / n, {v: 1.0}), *spread)

    total = count + len(face_point) + len(edge_point)
    entries = [(r, c, w) for r in range(total) for c, w in sorted(rows[r].items())]
    r, c, w = zip(*entries, strict=True)
    step = sp.csr_matrix((w, (r, c)), shape=(total, count))

    uv = list(mesh.uv)
    uv_edge: dict[tuple[int, int], int] = {}

    def uv_middle(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in uv_edge:
            uv_edge[key] = len(uv)
            uv.append((mesh.uv[a] + mesh.uv[b]) / 2)
        return uv_edge[key]

    faces, uv_faces, part = [], [], []
    for f, (corners, uvs) in enumerate(zip(mesh.faces, mesh.uv_faces, strict=True)):
        ring, uv_ring = [], []
        for a, b, ua, ub in zip(corners, corners[1:] + corners[:1], uvs, uvs[1:] + uvs[:1], strict=True):
            ring.append(a)
            uv_ring.append(ua)
            edge = (min(a, b), max(a, b))
            if edge in edge_point:
                ring.append(edge_point[edge])
                uv_ring.append(uv_middle(ua, ub))
        if f in chosen:
            middle_uv = len(uv)
            uv.append(mesh.uv[uvs].mean(0))
            for k in range(0, 8, 2):
                faces.append([ring[k], ring[k + 1], face_point[f], ring[k - 1]])
                uv_faces.append([uv_ring[k], uv_ring[k + 1], middle_uv, uv_ring[k - 1]])
                part.append(mesh.part[f])
        else:
            faces.append(ring)
            uv_faces.append(uv_ring)
            part.append(mesh.part[f])
    return Polygons(faces, uv_faces, np.array(uv), sp.csr_matrix(step @ mesh.weights), part)


def _fan(points: Floats) -> list[tuple[int, int, int]]:
    """Triangulates a small polygon so that its smallest angle is as large as it can be (dynamic programming)."""
    n = len(points)

    def quality(a: int, b: int, c: int) -> float:
        p = points[[a, b, c]]
        sides = np.linalg.norm(p - np.roll(p, -1, 0), axis=1) + 1e-12
        area = np.linalg.norm(np.cross(p[1] - p[0], p[2] - p[0]))
        return float(area / sides.max() ** 2)

    best: dict[tuple[int, int], tuple[float, int]] = {}
    for width in range(2, n):
        for a in range(n - width):
            c = a + width
            options = []
            for b in range(a + 1, c):
                left = best[a, b][0] if b - a > 1 else np.inf
                right = best[b, c][0] if c - b > 1 else np.inf
                options.append((round(min(left, right, quality(a, b, c)), 9), -b))
            score, b = max(options)
            best[a, c] = (score, -b)
    triangles, stack = [], [(0, n - 1)]
    while stack:
        a, c = stack.pop()
        if c - a > 1:
            b = best[a, c][1]
            triangles.append((a, b, c))
            stack += [(a, b), (b, c)]
    return triangles


def triangulate(mesh: Polygons, positions: Floats) -> tuple[Ints, Ints, list[str]]:
    """(F, 3) vertex indices, (F, 3) UV indices, part of each triangle; diagonals are chosen on `positions` (V, 3)."""
    faces, uv_faces, part = [], [], []
    for corners, uvs, name in zip(mesh.faces, mesh.uv_faces, mesh.part, strict=True):
        for a, b, c in _fan(positions[corners]):
            faces.append([corners[a], corners[b], corners[c]])
            uv_faces.append([uvs[a], uvs[b], uvs[c]])
            part.append(name)
    return np.array(faces), np.array(uv_faces), part
