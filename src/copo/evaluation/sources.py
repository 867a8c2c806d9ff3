"""Who makes the pictures that are measured: a portrait model, the open head itself, or a folder of pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors, FactorSpec, seeded_normal
from copo.field.blending import Blend
from copo.field.portrait_field import FRONTAL_POSE, PortraitField, Reference
from copo.formats.checkpoint import CONFIG_NAME
from copo.formats.dataset import PortraitDataset
from copo.formats.pictures import load_image, to_uint8
from copo.head.protocol import PARSER_CLASSES, HeadModel
from copo.head.renderer import RasterConfig, render_head
from copo.illumination import NEUTRAL_LIGHT, rotate_illumination
from copo.networks.vae import Vae
from copo.portrait import Portrait
from copo.training.conditioning import pose_of
from copo.vision.portrait_pose import camera_of
from copo.vision.portrait_pose import pose_of as head_pose

Picture = NDArray[np.uint8]
Conditioning = Literal["frontal", "camera"]
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
BACKGROUND = PARSER_CLASSES.index("background")


@dataclass(frozen=True)
class Request:
    """Pictures that are asked for; B rows of one plan.

    Attributes:
        factors: (B).
        camera: (B).
        blend: What is held still from the reference: "none", or a name that `Blend.of` knows.
        reference: (B) the frame that is held on to; needed unless `blend` is "none".
        condition: (B, 2) pitch and yaw that the planes are conditioned on, or None for the model's own habit.
        maps: Which maps are wanted: depth, alpha, labels.
    """

    factors: Factors
    camera: Camera
    blend: str = "none"
    reference: Factors | None = None
    condition: Tensor | None = None
    maps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rendered:
    """Pictures that were made.

    Attributes:
        pictures: (B, S, S, 3) uint8.
        maps: By name, (B, s, s): depth (float32, metres along the viewing axis), alpha (float32), labels (uint8).
    """

    pictures: Picture
    maps: dict[str, NDArray[np.generic]]


class PortraitSource(Protocol):
    """What is measured. `head` is None where the head model of its factors is not at hand."""

    name: str
    spec: FactorSpec
    head: HeadModel | None
    conditioning: Conditioning
    batch: int
    front: Camera
    """Camera of a frontal portrait."""

    def fingerprint(self) -> str:
        """Differs between sources that make different pictures."""
        ...

    def sample(self, seeds: list[int], view: Camera | None = None) -> Factors:
        """Random portraits; a seed names the same one in every call with the same view.

        Args:
            seeds: One for each.
            view: (len(seeds)) where they will be seen from, for sources that know which light and codes go with it.
        """
        ...

    def render(self, request: Request) -> Rendered:
        """Make pictures."""
        ...


# --- a portrait model -------------------------------------------------------------------------------------------


class FieldSource:
    """A generator with its priors.

    Args:
        field: Renders the generator; its weights' device is where pictures are made.
        spec: Of the factors.
        sample: Random factors for seeds and what they will be seen by.
        head: Head model of the factors, or None.
        name: For reports.
        conditioning: Which pose the planes were conditioned on in training.
        psi: Truncation.
        batch: Pictures rendered together.
        front: Camera of a frontal portrait.
    """

    def __init__(
        self,
        field: PortraitField,
        spec: FactorSpec,
        sample: Callable[[list[int], Camera | None], Factors],
        head: HeadModel | None = None,
        name: str = "model",
        conditioning: Conditioning = "frontal",
        psi: float = 1.0,
        batch: int | None = None,
        front: Camera | None = None,
    ) -> None:
        self.front = Camera.from_degrees() if front is None else front
        self.field, self.spec, self.head, self.name, self.psi = field, spec, head, name, psi
        self.conditioning: Conditioning = conditioning
        self._sample = sample
        self.device = next(field.generator.parameters()).device
        self.batch = batch or (16 if self.device.type == "cuda" else 4)

    def fingerprint(self) -> str:
        """Of the weights, the truncation and the first random portrait."""
        digest = hashlib.sha256(repr((self.psi, self.conditioning, self.field.config)).encode())
        for name, value in sorted(self.field.generator.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        digest.update(self.sample([0]).to_vector().numpy().tobytes())
        return digest.hexdigest()[:16]

    def sample(self, seeds: list[int], view: Camera | None = None) -> Factors:
        """See `PortraitSource`."""
        return self._sample(seeds, view)

    @torch.no_grad()
    def render(self, request: Request) -> Rendered:
        """See `PortraitSource`."""
        return _in_batches(request, self.batch, self._part)

    def _part(self, request: Request, span: slice) -> Rendered:
        config = self.field.config
        noise: Literal["const", "none"] = "const" if config.noise_inputs else "none"
        camera = request.camera[span]
        if request.condition is not None:
            pose = request.condition[span].float()
        elif self.conditioning == "camera":
            pose = pose_of(camera)
        else:
            pose = torch.tensor(FRONTAL_POSE).expand(len(camera), 2)
        pose = pose.to(self.device)

        def planes(factors: Factors):  # type: ignore[no-untyped-def]  # PortraitPlanes
            z = factors[span].to_vector().to(self.device)
            return self.field.planes(z, pose, psi=self.psi, noise=noise)

        blend = Blend.of(request.blend)
        reference = None
        if blend.classes:
            assert request.reference is not None
            reference = Reference(planes(request.reference))
        frame = self.field.render(
            planes(request.factors), camera, blend=blend if blend.classes else None, reference=reference, noise=noise
        )
        maps: dict[str, NDArray[np.generic]] = {}
        if "depth" in request.maps:
            maps["depth"] = frame.depth.float().cpu().numpy()
        if "alpha" in request.maps:
            maps["alpha"] = frame.alpha.float().cpu().numpy()
        if "labels" in request.maps:
            maps["labels"] = frame.classes.argmax(1).to(torch.uint8).cpu().numpy()
        return Rendered(to_uint8(frame.image), maps)


class PriorSampler:
    """Random factors: identity, expression and light from priors, or else recombined from a data set's portraits.

    Without either, identity is standard normal, expression neutral and light plain.

    Args:
        spec: Of the factors.
        priors: By factor: identity, expression, illumination.
        data: Portraits fitted with the same head model, or None.
    """

    def __init__(self, spec: FactorSpec, priors: Mapping[str, Vae], data: PortraitDataset | None = None) -> None:
        self.spec, self.priors = spec, priors
        fits = data is not None and data.factors is not None and same_factors(spec, data.factors.spec)
        self.table = data.factors if data is not None and fits else None

    @torch.no_grad()
    def __call__(self, seeds: list[int], view: Camera | None = None) -> Factors:
        """(len(seeds)) portraits. Light and codes do not follow the view here."""
        light = NEUTRAL_LIGHT if self.spec.illumination == NEUTRAL_LIGHT.numel() else None
        out = Factors.random(self.spec, seeds, light)
        for name in ("identity", "expression", "illumination"):
            if name in self.priors:
                prior = self.priors[name]
                latent = seeded_normal(f"prior {name}", seeds, prior.config.latent)
                value = prior.sample(latent.to(next(prior.parameters()).device)).cpu()
            elif self.table is not None:
                rows = seeded_normal(f"row {name}", seeds, 1)[:, 0]
                share = 0.5 * (1 + torch.erf(rows / 2**0.5))
                value = getattr(self.table, name)[(share * len(self.table)).long().clamp_max(len(self.table) - 1)]
            else:
                continue
            out = out.replace(**{name: value})
        return out


def same_factors(a: FactorSpec, b: FactorSpec) -> bool:
    """Whether two specifications describe the same head model's coefficients (the noise code does not matter)."""
    mine, theirs = ({k: v for k, v in s.sizes.items() if k != "noise"} for s in (a, b))
    return a.head == b.head and mine == theirs


def portrait_source(
    model: Portrait,
    head: HeadModel | None = None,
    data: PortraitDataset | None = None,
    psi: float = 1.0,
    conditioning: Conditioning | None = None,
) -> FieldSource:
    """What a portrait model makes.

    Args:
        model: On the device where it shall render.
        head: Head model that the user gave; by default the model's own, where it is at hand.
        data: Where factors without a prior are taken from, photograph by photograph.
        psi: Truncation.
        conditioning: Pose that the planes were conditioned on; by default what the model's notes say, else frontal.
    """
    known: Conditioning = "camera" if model.notes.get("conditioning") == "camera" else "frontal"
    own = head if head is not None and same_factors(model.spec, head.spec) else None
    if head is None:
        with suppress(CopoError):  # a published model without the user's Basel Face Model
            own = model.head
    sampler = PriorSampler(model.spec, model.priors, data)
    complete = {"identity", "expression", "illumination"} <= set(model.priors)

    def drawn(seeds: list[int], view: Camera | None) -> Factors:
        return model.sample(seeds, view=view)

    return FieldSource(
        model.field,
        model.spec,
        sampler if sampler.table is not None and not complete else drawn,
        own,
        model.name,
        conditioning or known,
        psi,
        front=model.default_camera,
    )


# --- the open head ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leak:
    """What a head source does wrong on purpose. The defaults are perfect control.

    Attributes:
        expression_gain: Share of the asked expression that is shown.
        expression_to_yaw: Radians of yaw for a wholly open jaw: expression turns the head.
        expression_to_background: How far the background's brightness follows the expression.
        identity_from_light: How far the shape follows the light.
        light_gain: Share of the asked light's difference from the neutral one that is shown.
        depth_gain: Factor on the relief of the depth map around its mean (a number below 1 flattens the face).
        depth_tilt: Added to the depth, metres for each picture width: a billboard's defect.
        yaw_offset: Radians that the head is turned too far.
        noise: Standard deviation of grey noise on the pictures, 0..255.
    """

    expression_gain: float = 1.0
    expression_to_yaw: float = 0.0
    expression_to_background: float = 0.0
    identity_from_light: float = 0.0
    light_gain: float = 1.0
    depth_gain: float = 1.0
    depth_tilt: float = 0.0
    yaw_offset: float = 0.0
    noise: float = 0.0


class HeadSource:
    """Renders a head model: control is perfect, so that it shows what instruments are worth; or it leaks as told.

    Args:
        head: Any head model.
        size: Side of the pictures in pixels.
        leak: Its defects.
        data: Where sampled lights and expressions come from; neutral without.
        map_size: Side of the maps.
        device: Where to render.
    """

    conditioning: Conditioning = "frontal"
    batch = 8

    def __init__(
        self,
        head: HeadModel,
        size: int = 256,
        leak: Leak | None = None,
        data: PortraitDataset | None = None,
        map_size: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.head: HeadModel | None = head
        self._head, self.size, self.leak, self.map_size = head, size, leak or Leak(), map_size
        self.spec, self.name, self.device = head.spec, head.name, torch.device(device)
        self.sampler = PriorSampler(head.spec, {}, data)
        self.front = frontal_camera(data)

    def fingerprint(self) -> str:
        """See `PortraitSource`."""
        text = repr((self.name, self.size, self.leak, self.map_size, self.sample([0]).to_vector().tolist()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def sample(self, seeds: list[int], view: Camera | None = None) -> Factors:
        """See `PortraitSource`."""
        return self.sampler(seeds, view)

    @torch.no_grad()
    def render(self, request: Request) -> Rendered:
        """See `PortraitSource`."""
        return _in_batches(request, self.batch, self._part)

    def _part(self, request: Request, span: slice) -> Rendered:
        leak = self.leak
        asked, camera = request.factors[span], request.camera[span]
        strength = asked.expression.mean(1, keepdim=True) * asked.expression.shape[1] ** 0.5
        neutral = NEUTRAL_LIGHT.to(asked.illumination)
        shown = asked.replace(
            expression=asked.expression * leak.expression_gain,
            illumination=neutral + leak.light_gain * (asked.illumination - neutral),
            shape=asked.shape + leak.identity_from_light * (asked.illumination - neutral).mean(1, keepdim=True),
        )
        turn = leak.yaw_offset + leak.expression_to_yaw * strength[:, 0]
        camera, shown = _turned(camera, shown, turn)
        view = self._draw(shown, camera, self.size, supersample=2)
        still = request.reference[span] if request.reference is not None and request.blend != "none" else asked
        held = still.expression.mean(1, keepdim=True) * asked.expression.shape[1] ** 0.5
        behind = self._background(still, held * leak.expression_to_background)
        picture = view.over(behind) * 2 - 1
        if leak.noise:
            picture = (
                picture + torch.randn(picture.shape, generator=torch.Generator().manual_seed(0)) * leak.noise / 127.5
            )
        maps: dict[str, NDArray[np.generic]] = {}
        if request.maps:
            small = self._draw(shown, camera, self.map_size)
            maps = self._maps(small.depth[:, 0], small.mask[:, 0], small.labels, request.maps)
        return Rendered(to_uint8(picture.clamp(-1, 1)), maps)

    def _draw(self, factors: Factors, camera: Camera, size: int, supersample: int = 1):  # type: ignore[no-untyped-def]
        f = factors.to(self.device)
        config = RasterConfig(supersample=supersample, validate=False)
        return render_head(
            self._head, f.shape, f.expression, f.albedo, f.illumination, camera.to(self.device), size, config=config
        )

    def _maps(
        self, depth: Tensor, mask: Tensor, labels: Tensor | None, names: tuple[str, ...]
    ) -> dict[str, NDArray[np.generic]]:
        inside = mask.float()
        mean = (depth * inside).sum((1, 2), keepdim=True) / inside.sum((1, 2), keepdim=True).clamp_min(1)
        across = torch.linspace(-0.5, 0.5, depth.shape[-1], device=depth.device)
        bent = (mean + self.leak.depth_gain * (depth - mean) + self.leak.depth_tilt * across) * inside
        assert labels is not None
        every = {"depth": bent, "alpha": inside, "labels": labels.to(torch.uint8)}
        return {name: every[name].cpu().numpy() for name in names}

    def _background(self, factors: Factors, shift: Tensor) -> Tensor:
        """(B, 3, 1, 1) a colour of the noise code, and what leaks into it."""
        colour = 0.5 + 0.15 * factors.noise[:, :3].tanh() + shift.clamp(-0.4, 0.4)
        return colour.clamp(0, 1)[:, :, None, None].to(self.device)


def _turned(camera: Camera, factors: Factors, yaw: Tensor) -> tuple[Camera, Factors]:
    """The head turned under a camera that stays: the camera walks the other way; the light turns with the head."""
    if not bool((yaw != 0).any()):
        return camera, factors
    c, s = yaw.cos(), yaw.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    back = torch.stack([c, zero, -s, zero, one, zero, s, zero, c], dim=1).view(-1, 3, 3)
    cam2world = camera.cam2world.clone()
    cam2world[:, :3] = back @ camera.cam2world[:, :3]
    light = rotate_illumination(factors.illumination, back)
    return Camera(cam2world, camera.intrinsics), factors.replace(illumination=light)


# --- a folder ---------------------------------------------------------------------------------------------------


class PictureFolder:
    """Pictures of any origin, for the quality metrics. They must be aligned like the data set.

    Args:
        folder: Looked through with its subfolders.

    Raises:
        CopoError: There is no such folder, or no picture in it.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CopoError(f"{folder}: no such folder")
        self.paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
        if not self.paths:
            raise CopoError(f"{folder}: neither a model (config.json) nor a picture lies in this folder")
        self.name = folder.name

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Of names and sizes."""
        rows = [(p.name, p.stat().st_size) for p in self.paths]
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]

    def pictures(self, rows: list[int]) -> list[Picture]:
        """(H, W, 3) uint8 each."""
        return [load_image(self.paths[i]) for i in rows]


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a model."""
    return (folder / CONFIG_NAME).is_file()


def frontal_camera(data: PortraitDataset | None) -> Camera:
    """The camera from the front that frames a head as the data set does; the method's without one.

    It is the mean camera of the portraits within 12 degrees of the front, without their small turns.
    """
    if data is None or not len(data):
        return Camera.from_degrees()
    pose = pose_of(data.cameras)
    near = ((pose - torch.tensor(FRONTAL_POSE)).abs() < np.radians(12)).all(1)
    cameras = data.cameras[near] if int(near.sum()) >= 3 else data.cameras
    _, translation = head_pose(cameras)
    camera = camera_of(torch.eye(3)[None], translation.mean(0, keepdim=True))
    return replace(camera, intrinsics=camera.intrinsics.float())


def _in_batches(request: Request, batch: int, part: Callable[[Request, slice], Rendered]) -> Rendered:
    """A request drawn a few portraits at a time, put together."""
    parts = [part(request, slice(i, i + batch)) for i in range(0, len(request.factors), batch)]
    maps = {name: np.concatenate([p.maps[name] for p in parts]) for name in request.maps}
    return Rendered(np.concatenate([p.pictures for p in parts]), maps)
