"""`copo head`: pictures and files of the parametric head."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import torch
import tyro

from copo.camera import Camera
from copo.cli.options import parse_device, parse_expression, parse_light
from copo.errors import CopoError
from copo.factors import Factors, expression_vector
from copo.formats.factor_files import load_factors, save_factors
from copo.formats.mesh import MESH_SUFFIXES, MeshData, save_mesh
from copo.formats.pictures import FORMATS, label_picture, normal_picture, save_depth, save_image
from copo.formats.provenance import Provenance
from copo.head.bfm import BaselFaceModel
from copo.head.open_head import OpenHead
from copo.head.protocol import HeadModel
from copo.head.renderer import MeshRender, RasterConfig, render_head
from copo.head.sheets import expression_sheet, identity_sheet
from copo.head.texture import bake_texture
from copo.illumination import NEUTRAL_LIGHT

Map = Literal["depth", "normals", "labels", "mask"]


@dataclass
class Command:
    """Render or export the parametric head: a picture (.png, .jpg, .webp) or a mesh (.glb, .obj, .ply).

    Example: copo head --seed 3 --expression jawOpen=0.6,smile=0.8 --yaw 20 --light 45,30 --out head.png
    """

    out: Path = Path("head.png")
    """File to write; its ending chooses the format."""
    seed: int | None = None
    """Random identity; without it, the mean head."""
    expression: str = ""
    """NAME=VALUE,...: ARKit units such as jawOpen, or combinations such as smile (docs/factors.md)."""
    factors: Path | None = None
    """Start from a factor file (.json, .npz, .safetensors, .mat) instead of --seed."""
    yaw: float = 0.0
    """Camera to the right of the face, degrees."""
    pitch: float = 0.0
    """Camera above the face, degrees."""
    fov: float = 20.0
    """Field of view, degrees. 20 shows the whole head, 12.6 is the method's crop."""
    distance: float = 1.0
    """Camera distance from the centre of the head, metres."""
    light: str | None = None
    """AZIMUTH,ELEVATION of a lamp in degrees: 0,0 is in front, 90,0 at the right of the picture, 0,90 above."""
    size: int = 512
    """Side of the picture in pixels."""
    maps: str = ""
    """Also write depth, normals, labels, mask beside the picture, e.g. --maps depth,normals."""
    texture: int = 0
    """For meshes: side of a colour texture in pixels; 0 writes vertex colours."""
    sheet: Literal["identities", "expressions"] | None = None
    """Draw a contact sheet: 32 random identities, or every expression."""
    bfm: Path | None = None
    """Folder with your Basel Face Model (docs/formats.md), used instead of the open head."""
    save_factors: Path | None = None
    """Also write the factors (.json, .npz, .safetensors)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print what was written as JSON."""

    def run(self) -> None:
        device = parse_device(self.device)
        suffix = self.out.suffix.lower()
        if suffix not in FORMATS and suffix not in MESH_SUFFIXES:
            known = ", ".join([*FORMATS, *MESH_SUFFIXES])
            raise CopoError(f"--out {self.out}: unknown ending {suffix!r}; choose one of {known}")
        if not 1 <= self.size <= 8192:
            raise CopoError(f"--size {self.size}: choose 1 to 8192 pixels")
        maps = self._maps()
        head = self._head(device)
        if self.sheet:
            if suffix not in FORMATS:
                raise CopoError(f"--out {self.out}: a sheet is a picture; choose one of {', '.join(FORMATS)}")
            written = self._sheet(head)
        else:
            factors, camera = self._factors(head, device), self._camera().to(device)
            if suffix in MESH_SUFFIXES:
                written = self._mesh(head, factors)
            else:
                written = self._picture(head, factors, camera, maps)
            if self.save_factors:
                save_factors(self.save_factors, factors.to("cpu"), camera.to("cpu"))
                written.append(self.save_factors)
        if self.json:
            print(json.dumps({"written": [str(p) for p in written], "head": head.spec.to_dict()}, indent=2))
        else:
            print("\n".join(f"wrote {path}" for path in written))

    def _maps(self) -> list[Map]:
        names = [name.strip() for name in self.maps.split(",") if name.strip()]
        for name in names:
            if name not in ("depth", "normals", "labels", "mask"):
                raise CopoError(f"--maps {name!r}: choose from depth, normals, labels, mask")
        return cast(list[Map], names)

    def _head(self, device: torch.device) -> HeadModel:
        head: OpenHead | BaselFaceModel = OpenHead.load() if self.bfm is None else BaselFaceModel.load(self.bfm)
        return cast(HeadModel, head.to(device))

    def _camera(self) -> Camera:
        if not self.distance > 0.3:
            raise CopoError(
                f"--distance {self.distance:g}: the camera must stand outside of the head, beyond 0.3 metres"
            )
        return Camera.from_degrees(self.yaw, self.pitch, self.fov, self.distance)

    def _factors(self, head: HeadModel, device: torch.device) -> Factors:
        light = NEUTRAL_LIGHT if self.light is None else parse_light(self.light)
        if self.factors is not None:
            if self.seed is not None:
                raise CopoError("--seed and --factors both say who it is: give one of them")
            factors, _ = load_factors(self.factors, head.spec)
            if self.light is not None:
                factors = factors.replace(illumination=light)
        elif self.seed is None:
            factors = Factors.neutral(head.spec, illumination=light)
        else:
            factors = Factors.random(head.spec, self.seed, light)
        if self.expression:
            factors = factors.replace(expression=expression_vector(head.spec, parse_expression(self.expression)))
        if len(factors) != 1:
            raise CopoError(f"--factors {self.factors}: holds {len(factors)} portraits; save the one you want alone")
        return factors.to(device)

    def _provenance(self, factors: Factors) -> Provenance:
        """The mark, with what makes the picture again; paths of the user's machine stay out of it."""
        options = {k: v for k, v in vars(self).items() if isinstance(v, (str, int, float)) and v not in ("", False)}
        return Provenance("algorithmicMedia", {"command": "head", "head": factors.spec.head, "options": options})

    def _picture(self, head: HeadModel, factors: Factors, camera: Camera, maps: list[Map]) -> list[Path]:
        def draw(supersample: int) -> MeshRender:
            return render_head(
                head, factors.shape, factors.expression, factors.albedo, factors.illumination, camera, self.size,
                config=RasterConfig(supersample=supersample),
            )  # fmt: skip

        mark = self._provenance(factors)
        picture = draw(2 if self.size <= 2048 else 1)
        save_image(self.out, (picture.over(1.0)[0] * 255).round().byte().movedim(0, -1).cpu().numpy(), mark)
        written = [self.out]
        exact = draw(1) if maps else picture  # values at pixel centres: averages at borders would belong to no surface
        for name in maps:
            path = self.out.with_name(f"{self.out.stem}_{name}.png")
            if name == "depth":
                save_depth(path, exact.depth[0, 0].cpu().numpy(), mark)
            else:
                save_image(path, MAP_PICTURES[name](exact), mark)
            written.append(path)
        return written

    def _mesh(self, head: HeadModel, factors: Factors) -> list[Path]:
        vertices = head.vertices(factors.shape, factors.expression)[0].cpu().numpy()
        albedo = head.albedo(factors.albedo)[0].clamp(0, 1)
        topology = head.topology
        textured = self.texture > 0
        if textured and topology.uv is None:
            raise CopoError(f"--texture: head {head.name!r} has no texture layout; leave --texture out")
        mesh = MeshData(
            vertices=vertices,
            faces=topology.faces.cpu().numpy(),
            colors=None if textured else albedo.cpu().numpy(),
            uv=topology.uv.cpu().numpy() if textured and topology.uv is not None else None,
            uv_faces=topology.uv_faces.cpu().numpy() if textured and topology.uv_faces is not None else None,
            texture=bake_texture(albedo, topology, self.texture).cpu().numpy() if textured else None,
            labels=topology.labels.cpu().numpy(),
        )
        save_mesh(self.out, mesh, self._provenance(factors))
        return [self.out]

    def _sheet(self, head: HeadModel) -> list[Path]:
        draw = identity_sheet if self.sheet == "identities" else expression_sheet
        save_image(self.out, draw(head), Provenance("algorithmicMedia", {"command": "head", "sheet": self.sheet}))
        return [self.out]


def _labels(render: MeshRender) -> np.ndarray:
    assert render.labels is not None
    return label_picture(render.labels[0].cpu().numpy())


MAP_PICTURES: dict[str, Callable[[MeshRender], np.ndarray]] = {
    "normals": lambda r: normal_picture(r.normals[0].movedim(0, -1).cpu().numpy(), r.mask[0, 0].cpu().numpy()),
    "labels": _labels,
    "mask": lambda r: np.repeat((r.mask[0, 0].cpu().numpy() * 255).astype(np.uint8)[..., None], 3, axis=-1),
}
"""How a map becomes a picture; depth has a format of its own."""
