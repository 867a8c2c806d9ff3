"""`copo export`: a portrait as a mesh, points, splats, a head with blendshapes, or a texture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from copo.cli.subject import Person, Subject
from copo.errors import CopoError
from copo.export.heads import blendshape_head
from copo.export.views import bake_portrait, color_surface, look_around
from copo.field.shapes import ShapeConfig, extract_splats
from copo.formats.mesh import MESH_SUFFIXES, MeshData, save_mesh
from copo.formats.pictures import FORMATS, save_image
from copo.formats.provenance import Provenance
from copo.formats.recipe import Recipe
from copo.formats.splat import save_points, save_splats
from copo.head.protocol import PARSER_CLASSES

What = Literal["mesh", "points", "splats", "head", "texture"]
SUFFIXES: dict[str, tuple[str, ...]] = {
    "mesh": MESH_SUFFIXES,
    "points": (".ply",),
    "splats": (".ply",),
    "head": MESH_SUFFIXES,
    "texture": tuple(FORMATS),
}


@dataclass
class Command:
    """Write a portrait as a file for other programs (docs/export.md).

    Example: copo export --seed 41 --what head --out head.glb

    mesh: the portrait's surface with hair and clothes. points, splats: the same as a cloud. head: the parametric head
    with blendshapes named by ARKit and the portrait's skin. texture: that skin alone.
    """

    out: Path = Path("portrait.glb")
    """File to write: .glb, .obj or .ply; .ply for points and splats; .png, .jpg or .webp for a texture."""
    what: What | None = None
    """mesh, points, splats, head or texture; by default what the ending says: a picture is a texture, else mesh."""
    resolution: int = 192
    """Grid points along each side of the volume, of mesh, points and splats."""
    threshold: float | None = None
    """Density of the surface, per metre; by default what stops half of the light within 5 mm."""
    faces: int | None = None
    """Triangles to simplify a mesh to; by default all."""
    without: str = "background"
    """Classes to leave out of mesh, points and splats, with commas: background,cloth; none keeps all."""
    count: int = 100_000
    """Number of points or splats."""
    colors: Literal["pictures", "field"] = "pictures"
    """Of a mesh: from pictures of several sides (sharper), or from the field itself (one look, quicker)."""
    texture: int = 2048
    """Side of the texture of head and texture in texels; 0 writes colours at the vertices of the head."""
    skin: Literal["pictures", "model"] = "pictures"
    """Of the head: from pictures of the portrait, or the head model's own albedo."""
    blendshapes: bool = True
    """Write the head's blendshapes (.glb). Without, and in .obj and .ply, the head has the portrait's expression."""
    psi: float = 1.0
    """Truncation of the generator: below 1 more average, and less controlled."""
    who: Annotated[Subject, tyro.conf.arg(name="")] = field(default_factory=Subject)
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what was written as JSON."""

    def run(self) -> None:
        suffix = self.out.suffix.lower()
        what = self.what or ("texture" if suffix in FORMATS else "mesh")
        if suffix not in SUFFIXES[what]:
            known = ", ".join(SUFFIXES[what])
            raise CopoError(
                f"--out {self.out}: cannot write {what} as {suffix or 'a name without an ending'!r}; {known}"
            )
        config = self._config()
        if not 16 <= self.texture <= 8192 and (self.texture or what == "texture"):
            raise CopoError(f"--texture {self.texture}: choose 16 to 8192 texels")
        if not 1 <= self.count <= 50_000_000:
            raise CopoError(f"--count {self.count}: choose 1 to 50000000")
        person = self.who.load()
        makers: dict[str, Callable[[Person, ShapeConfig, Provenance], dict[str, int]]] = {
            "mesh": self._mesh,
            "points": self._cloud,
            "splats": self._cloud,
            "head": self._head,
            "texture": self._texture,
        }
        self.what = what
        told = makers[what](person, config, self._mark(person))
        written = [self.out]
        if suffix == ".obj" and what == "head" and self.texture:
            written += [self.out.with_suffix(".mtl"), self.out.with_suffix(".png")]
        if self.json:
            print(json.dumps({"written": [str(path) for path in written], "what": what, **told}, indent=2))
            return
        counts = ", ".join(f"{number} {name}" for name, number in told.items())
        print("\n".join(f"wrote {path}" for path in written) + (f" ({counts})" if counts else ""))

    # --- one for each kind ------------------------------------------------------------------------------------------

    def _mesh(self, person: Person, config: ShapeConfig, mark: Provenance) -> dict[str, int]:
        mesh = person.model.mesh(person.factors, psi=self.psi, config=config)
        if self.colors == "pictures":
            assert mesh.colors is not None and mesh.normals is not None
            own = torch.from_numpy(mesh.colors).float() / 255
            views = look_around(person.model, person.factors, psi=self.psi)
            points, normals = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.normals)
            mesh = replace(mesh, colors=color_surface(views, points, normals, own).numpy())
        save_mesh(self.out, mesh, mark)
        return _sizes(mesh)

    def _cloud(self, person: Person, config: ShapeConfig, mark: Provenance) -> dict[str, int]:
        splats = extract_splats(person.model.volume(person.factors, self.psi), self.count, config)
        if self.what == "splats":
            save_splats(self.out, splats, mark)
        else:
            save_points(self.out, splats.positions, splats.colors, splats.normals, mark)
        return {str(self.what): len(splats)}

    def _head(self, person: Person, config: ShapeConfig, mark: Provenance) -> dict[str, int]:
        pictures = self.skin == "pictures"
        mesh = blendshape_head(person.model, person.factors, self.texture, pictures, self.psi)
        if not self.blendshapes or self.out.suffix.lower() != ".glb":
            moved = person.model.head_mesh(person.factors).vertices
            mesh = replace(mesh, vertices=moved, morphs={}, weights={})
        save_mesh(self.out, mesh, mark)
        return _sizes(mesh) | ({"blendshapes": len(mesh.morphs)} if mesh.morphs else {})

    def _texture(self, person: Person, config: ShapeConfig, mark: Provenance) -> dict[str, int]:
        rest = person.factors.replace(expression=person.factors.expression * 0)
        save_image(self.out, bake_portrait(person.model, rest, self.texture, self.psi).numpy(), mark)
        return {"texels": self.texture**2}

    # --- what is asked for ------------------------------------------------------------------------------------------

    def _config(self) -> ShapeConfig:
        if self.resolution > 1024:
            raise CopoError(f"--resolution {self.resolution}: choose 8 to 1024")
        left_out = {name.strip() for name in self.without.split(",") if name.strip() and name.strip() != "none"}
        for name in left_out:
            if name not in PARSER_CLASSES:
                raise CopoError(f"--without {name!r}: choose from {', '.join(PARSER_CLASSES)}, or none")
        classes = frozenset(PARSER_CLASSES.index(name) for name in left_out)
        config = ShapeConfig(resolution=self.resolution, without=classes, faces=self.faces)
        return config if self.threshold is None else replace(config, threshold=self.threshold)

    def _mark(self, person: Person) -> Provenance:
        model = person.model
        recipe = Recipe(
            factors=person.factors.to("cpu"),
            camera=model.default_camera.to("cpu"),
            model=model.name,
            fingerprint=model.fingerprint,
            seed=person.seed,
            psi=self.psi,
        )
        return recipe.provenance(command="export", what=self.what)


def _sizes(mesh: MeshData) -> dict[str, int]:
    return {"vertices": len(mesh.vertices), "triangles": len(mesh.faces)}
