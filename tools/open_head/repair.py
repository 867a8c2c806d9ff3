"""Three repairs of the base mesh, all linear in its positions.

MakeHuman's oral cavity reaches up behind the upper lip as far as the wings of the nose, and its eye sockets hug the
eyeballs right behind the lids. In some heads these hidden walls would come out through the skin. So the pocket behind
the lip is pulled down to its rim, and the sockets are pulled into the eyeballs, where nobody sees them. The lips of the
base mesh are half a millimetre apart at their corners; a touch of the unit mouthClose in the mean closes them.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve

from .mesh import EYE_RADIUS, Control, Polygons, triangulate
from .occlusion import occlusion, vertex_normals
from .source import Floats, Ints

POCKET_LOW = np.array([-0.34, 6.73, 1.05])  # dm: box in which hidden vertices belong to the pocket
POCKET_HIGH = np.array([0.34, 7.10, 1.515])
POCKET_HIDDEN = 0.55  # occluded share from which a vertex counts as hidden
FLATTEN = 1.0  # 0 keeps the pocket, 1 makes it a membrane on its rim
SOCKET_HIDDEN = 0.9  # occluded share from which a vertex near an eyeball belongs to the socket behind the lids
SOCKET_PULL = 0.22  # of the way to the centre of the eyeball
LIP_SEAL = 0.07  # of the unit mouthClose


def hidden_pocket(position: Floats, faces: Ints) -> Ints:
    """Indices of the vertices in the pocket behind the upper lip."""
    box = np.flatnonzero(((position > POCKET_LOW) & (position < POCKET_HIGH)).all(1))
    hidden = occlusion(position, vertex_normals(position, faces), faces, box)
    return box[hidden > POCKET_HIDDEN]


def repair_weights(mesh: Polygons, control: Control, rest: Floats) -> sp.csr_matrix:
    """(C, C) weights on the control vertices that flatten the pocket and pull in the sockets.

    The pocket's vertices move towards the harmonic membrane on its rim.

    Args:
        mesh: The bust as cut, its first vertices being the control vertices of the base mesh.
        control: The control vertices.
        rest: (C, 3) their positions on the base mesh.
    """
    position = mesh.weights @ rest
    faces, _, part = triangulate(mesh, position)
    skin = faces[np.array(part) == "body"]
    pocket = hidden_pocket(position, skin)
    count = mesh.weights.shape[1]
    edges = np.concatenate([skin[:, [0, 1]], skin[:, [1, 2]], skin[:, [2, 0]]])
    graph = sp.csr_matrix((np.ones(len(edges)), edges.T), shape=(count, count))
    graph = ((graph + graph.T) > 0).astype(float)
    rows = graph[pocket]
    degree = sp.diags(np.asarray(rows.sum(1)).ravel())
    rim = rows.copy().tolil()
    rim[:, pocket] = 0
    membrane = spsolve((degree - rows[:, pocket]).tocsc(), rim.tocsc())
    select = sp.csr_matrix((np.ones(len(pocket)), (np.arange(len(pocket)), pocket)), shape=(len(pocket), count))
    moves = FLATTEN * select.T @ (sp.csr_matrix(membrane) - select)

    normals = vertex_normals(position, faces)
    body = np.unique(skin)
    for side in (0, 1):
        middle = control.eye(side).start
        close = body[np.linalg.norm(position[body] - rest[middle], axis=1) < 1.25 * EYE_RADIUS]
        socket = close[occlusion(position, normals, faces, close) > SOCKET_HIDDEN]
        entries = np.r_[np.full(len(socket), SOCKET_PULL), np.full(len(socket), -SOCKET_PULL)]
        columns = np.r_[np.full(len(socket), middle), socket]
        moves = moves + sp.csr_matrix((entries, (np.r_[socket, socket], columns)), shape=(count, count))
    return (sp.identity(count) + moves).tocsr()
