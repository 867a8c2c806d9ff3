"""The one object that users hold: a generator, its head model and its priors.

    from copo.portrait import Portrait

    model = Portrait.from_pretrained()
    person = model.sample(seed=41)
    picture = model.render(person.with_expression(smile=0.8), model.camera(yaw=20), maps=("depth",))
    picture.save("smile.png")

Angles are degrees in `camera` and radians elsewhere, lengths metres, pictures (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from copo.animation.clip import DrivingClip
from copo.animation.paths import camera_path
from copo.animation.sources import read_clip
from copo.camera import Camera, turn_cameras
from copo.config import preset
from copo.errors import CopoError, unknown_name
from copo.factors import Factors, FactorSpec, seeded_normal, seeded_uniform
from copo.field.blending import Blend
from copo.field.graphs import fast_field
from copo.field.portrait_field import PortraitField, PortraitFrame, PortraitPlanes, Reference
from copo.field.sampling import SamplingConfig
from copo.field.shapes import ShapeConfig, extract_mesh
from copo.field.volume import Heads, TriPlaneField
from copo.formats.atomic import write_bytes
from copo.formats.checkpoint import Checkpoint, StoredNetwork, fingerprint, load_checkpoint, save_checkpoint
from copo.formats.mesh import MeshData
from copo.formats.pictures import Picture, depth_picture, label_picture, normal_picture, save_image, to_uint8
from copo.formats.portrait_file import load_portrait_file
from copo.formats.provenance import Provenance
from copo.formats.recipe import Recipe
from copo.head.open_head import OpenHead
from copo.head.protocol import HeadModel
from copo.illumination import direction_from_angles, directional_light, normalise_exposure
from copo.networks.build import load
from copo.networks.conditional_priors import LightPrior, NoisePrior
from copo.networks.generator import Generator
from copo.networks.layers import NoiseMode
from copo.networks.personal import personal
from copo.networks.vae import Vae

MAPS: tuple[str, ...] = ("depth", "normals", "semantics", "alpha")
"""What `Portrait.render` gives beside the picture."""

PRIOR_NAMES: tuple[str, ...] = ("identity", "expression", "illumination")
"""Factors that may have a learned prior."""

PACKAGED = "portrait"
"""Folder of the default model in copo/assets."""

MODEL_VARIABLE = "COPO_MODEL"
"""Environment variable that names another default model."""

SNAPSHOT = "network-snapshot"
"""Folder of the averaged generator in a training run."""

OPEN_HEAD_FILE = "open_head.safetensors"
"""A model folder may hold the head that it was trained with."""

YAW_SIGMA, PITCH_SIGMA = 0.3, 0.155
"""Radians; spread of random cameras (paper, section 4: cameras of FFHQ)."""

Subject = Factors | PortraitPlanes
Psi = float | Mapping[str, float]


@dataclass(frozen=True)
class PortraitPicture:
    """Pictures of a batch of portraits. Maps that were not asked for are None.

    Attributes:
        image: (B, 3, H, W) RGB in [-1, 1].
        camera: (B) what they were seen by.
        depth: (B, h, w) metres along the viewing axis; the far end of the volume where the background shows.
        normals: (B, 3, h, w) unit normals in the world.
        semantics: (B, h, w) int64 parser classes.
        alpha: (B, h, w) opacity of the head in [0, 1].
        recipes: How to make each again, or empty where planes were given instead of factors.
    """

    image: Tensor
    camera: Camera
    depth: Tensor | None = None
    normals: Tensor | None = None
    semantics: Tensor | None = None
    alpha: Tensor | None = None
    recipes: tuple[Recipe, ...] = ()

    def __len__(self) -> int:
        return self.image.shape[0]

    def __getitem__(self, index: int) -> PortraitPicture:
        """One of them, as a batch of one."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} out of range for {len(self)} pictures")
        part = slice(index, index + 1 or None)
        maps = {name: None if getattr(self, name) is None else getattr(self, name)[part] for name in MAPS}
        return PortraitPicture(self.image[part], self.camera[part], recipes=self.recipes[part], **maps)

    def to_uint8(self) -> Picture:
        """(B, H, W, 3) uint8."""
        return to_uint8(self.image)

    def provenance(self, index: int = 0) -> Provenance:
        """The AI-generated mark with the recipe of one picture."""
        return self.recipes[index].provenance() if self.recipes else Provenance()

    def save(self, path: str | os.PathLike[str], index: int = 0, quality: int = 95) -> None:
        """Write one picture with its mark and recipe.

        Args:
            path: .png, .jpg or .webp.
            index: Which of the batch.
            quality: Of JPEG and WebP.

        Raises:
            CopoError: Unknown suffix, or the file cannot be written.
        """
        save_image(path, self.to_uint8()[index], self.provenance(index), quality)

    def map_picture(self, name: str, index: int = 0) -> Picture:
        """One map as a picture for people, (h, w, 3) uint8.

        Raises:
            CopoError: The map is unknown or was not asked for.
        """
        if name not in MAPS:
            raise unknown_name("map", name, MAPS)
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise CopoError(f"map {name} was not rendered: ask for it with maps=({name!r},)")
        array = value[index].float().cpu().numpy() if name != "semantics" else value[index].cpu().numpy()
        if name == "depth":
            return depth_picture(array)
        if name == "normals":
            return normal_picture(np.moveaxis(array, 0, -1), np.abs(array).max(0) > 0)
        if name == "semantics":
            return label_picture(array)
        grey = np.rint(array.clip(0, 1) * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)

    @classmethod
    def cat(cls, parts: Sequence[PortraitPicture]) -> PortraitPicture:
        """Several batches as one. All must have the same maps and sizes."""
        maps = {
            name: None if getattr(parts[0], name) is None else torch.cat([getattr(p, name) for p in parts])
            for name in MAPS
        }
        recipes = tuple(r for p in parts for r in p.recipes)
        return cls(torch.cat([p.image for p in parts]), Camera.cat([p.camera for p in parts]), recipes=recipes, **maps)


@dataclass
class Portrait:
    """A portrait model. Make one with `from_pretrained`, or with `random` for tests; parts are given to the rest.

    Attributes:
        generator: Its networks, in evaluation mode, on `device`.
        spec: The factors that it reads: those of its head, with its own length of the noise code.
        priors: Learned priors by factor (`PRIOR_NAMES`), on the CPU, where they give the same numbers everywhere. A
            factor without one is drawn by a simple rule (docs/python.md).
        noise_prior: Which noise codes go with whom, on the CPU; any with anybody where there is none.
        light_prior: Which light goes with whom, seen from where; likewise.
        default_camera: The camera of a frontal portrait, framed as in training.
        notes: Free text about the origin.
        name: What to call it in files: a hub id, the folder's name, or "portrait" for the packaged one.
    """

    generator: Generator
    spec: FactorSpec
    given_head: HeadModel | None = None
    priors: Mapping[str, Vae] = field(default_factory=dict)
    default_camera: Camera = field(default_factory=Camera.from_degrees)
    notes: Mapping[str, str] = field(default_factory=dict)
    name: str = "unnamed"
    noise_prior: NoisePrior | None = None
    light_prior: LightPrior | None = None

    def __post_init__(self) -> None:
        check_spec(self.generator, self.spec, self.name)
        for what, part, fitting in (
            ("noise codes", "noise", self.noise_prior),
            ("light for identities", "illumination", self.light_prior),
        ):
            if fitting is None:
                continue
            theirs, mine = ((getattr(sizes, part), sizes.identity) for sizes in (fitting.config, self.spec))
            if theirs != mine:
                raise CopoError(
                    f"model {self.name}: its prior of {what} has {theirs[0]} numbers for {theirs[1]} coefficients, its "
                    f"generator reads {mine[0]} and {mine[1]}"
                )
            fitting.cpu().eval().requires_grad_(False)
        sizes = {name: getattr(self.spec, name) for name in PRIOR_NAMES}
        for name, prior in self.priors.items():
            if name not in sizes:
                raise unknown_name("prior", name, PRIOR_NAMES)
            if prior.config.coefficients != sizes[name]:
                raise CopoError(
                    f"model {self.name}: the prior of {name} has {prior.config.coefficients} coefficients, its "
                    f"generator reads {sizes[name]}"
                )
            prior.cpu().eval().requires_grad_(False)
        if self.given_head is not None:
            check_head(self.given_head.spec, self.spec, self.name)
        self.generator.eval().requires_grad_(False)
        self.field = PortraitField(self.generator, head=self.given_head)

    # --- where it comes from ----------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        device: str | torch.device = "auto",
        head: HeadModel | None = None,
        revision: str | None = None,
    ) -> Self:
        """Load a model.

        Args:
            source: A checkpoint folder (`copo convert`, `save_pretrained`, a training's `network-snapshot`), a training
                run that has one, or OWNER/NAME on the Hugging Face hub. By default the packaged model, or what the
                environment variable COPO_MODEL names.
            device: auto, cpu, cuda or cuda:N.
            head: The head model that it was trained with, where that is not the open head: a Basel Face Model is never
                in the box.
            revision: Of a model on the hub.

        Raises:
            CopoError: There is no such model, it is damaged, it holds no generator, or it was made for another head.
        """
        folder, name = find_model(source, revision)
        checkpoint = load_checkpoint(folder)
        stored = checkpoint.networks.get("generator")
        if stored is None:
            raise CopoError(f"model {folder}: it holds no generator; give a folder made by copo train or copo convert")
        if head is None and (folder / OPEN_HEAD_FILE).is_file():
            head = cast(HeadModel, OpenHead.load(folder / OPEN_HEAD_FILE))
        spec = checkpoint.factors
        if spec is None:
            if head is None:
                raise CopoError(f"model {folder}: it does not say which head it was made for; give the head")
            spec = with_noise(head.spec, stored.config.noise)  # type: ignore[union-attr]
        generator = cast(Generator, load(stored.config, stored.state, f"model {name}"))
        priors = {
            n.removeprefix("prior_"): cast(Vae, load(s.config, s.state, f"model {name}, {n}"))
            for n, s in checkpoint.networks.items()
            if n.removeprefix("prior_") in PRIOR_NAMES
        }
        fitting = {
            n: load(s.config, s.state, f"model {name}, {n}")
            for n, s in checkpoint.networks.items()
            if n in ("prior_noise", "prior_light")
        }
        noise_prior = cast(NoisePrior | None, fitting.get("prior_noise"))
        light_prior = cast(LightPrior | None, fitting.get("prior_light"))
        camera = _noted_camera(checkpoint.notes, folder) or Camera.from_degrees(fov=math.degrees(generator.config.fov))
        return cls(generator, spec, head, priors, camera, checkpoint.notes, name, noise_prior, light_prior).to(device)

    @classmethod
    def random(
        cls, name: str = "tiny", seed: int = 0, device: str | torch.device = "cpu", head: HeadModel | None = None
    ) -> Self:
        """A preset with random weights, for tests of everything but the look of pictures.

        Args:
            name: tiny, portrait_256 or ffhq_512.
            seed: Of the weights.
            device: As in `from_pretrained`.
            head: The open head by default.

        Raises:
            CopoError: There is no such preset.
        """
        config = preset(name)
        if head is None:
            head = cast(HeadModel, OpenHead.load())
        spec = with_noise(head.spec, config.noise)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = Generator(config.for_head(spec))
        camera = Camera.from_degrees(fov=math.degrees(config.fov))
        return cls(generator, spec, head, {}, camera, {"training": "none: random weights"}, f"random-{name}").to(device)

    def save_pretrained(self, folder: str | os.PathLike[str], half: bool = True) -> Path:
        """Write a folder that `from_pretrained` reads: config.json, weights, and a README for people.

        Args:
            folder: Made where it does not exist.
            half: Store weights in 16 bits.

        Returns:
            The folder.

        Raises:
            CopoError: It cannot be written.
        """
        target = Path(folder)
        networks = {"generator": StoredNetwork(self.generator.config, self.generator.state_dict())}
        for name, prior in self.priors.items():
            networks[f"prior_{name}"] = StoredNetwork(prior.config, prior.state_dict())
        for name, fitting in (("noise", self.noise_prior), ("light", self.light_prior)):
            if fitting is not None:
                networks[f"prior_{name}"] = StoredNetwork(fitting.config, fitting.state_dict())
        notes = {**self.notes, "camera": json.dumps(self.default_camera.to_eg3d()[0].tolist())}
        save_checkpoint(Checkpoint(networks, self.spec, notes), target, torch.float16 if half else None)
        write_bytes(target / "README.md", self._card().encode())
        return target

    def push_to_hub(
        self, repository: str, private: bool = True, token: str | None = None, revision: str | None = None
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub.

        Args:
            repository: OWNER/NAME; made where it does not exist.
            private: Whether a new repository is private.
            token: Of the hub; by default the one that `hf auth login` stored.
            revision: Branch; made where it does not exist.

        Returns:
            Address of the commit.

        Raises:
            CopoError: huggingface_hub is not installed, or the hub refuses or cannot be reached.
        """
        hub = _hub(f"push_to_hub({repository!r})")
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            try:
                api = hub.HfApi(token=token)
                api.create_repo(repository, private=private, exist_ok=True)
                if revision is not None:
                    api.create_branch(repository, branch=revision, exist_ok=True)
                commit = api.upload_folder(repo_id=repository, folder_path=folder, revision=revision)
            except Exception as error:  # the hub's client raises errors of several libraries
                raise _hub_error(repository, error) from error
        return str(commit)

    # --- parts ------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        return self.generator.mapping.w_avg.device

    @cached_property
    def head(self) -> HeadModel:
        """The head model, on the generator's device.

        Raises:
            CopoError: The model was made for a head that is not in the box and was not given.
        """
        if self.given_head is not None:
            head = self.given_head
        elif self.spec.head == "open_head":
            head = cast(HeadModel, OpenHead.load())
            check_head(head.spec, self.spec, self.name)
        else:
            raise CopoError(
                f"model {self.name} was made for head {self.spec.head!r}, which is not in the box: give head="
                "BaselFaceModel.load(FOLDER), or --bfm FOLDER"
            )
        return cast(HeadModel, cast(torch.nn.Module, head).to(self.device))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the generator's weights in half precision: the same after `save_pretrained`."""
        return fingerprint(self.generator.state_dict())

    @property
    def size(self) -> int:
        """Side of a picture in pixels."""
        return self.generator.config.output_resolution

    def to(self, device: str | torch.device) -> Self:
        """Move the networks (in place) to a device: auto, cpu, cuda or cuda:N.

        Raises:
            CopoError: There is no such device.
        """
        self.generator.to(choose_device(device))
        self.__dict__.pop("head", None)
        return self

    def with_generator(self, generator: Generator, name: str | None = None) -> Self:
        """The same head, priors and camera with another generator of the same factors, such as a personal one."""
        return replace(self, generator=generator.to(self.device), name=name or self.name)

    def fast(self) -> Self:
        """The same model for interactive use and films: on a GPU it draws with half-precision kernels and recorded
        CUDA graphs (`copo.field.graphs`); elsewhere it is as it was. The first call of each kind takes seconds."""
        if self.device.type != "cuda":
            return self
        out = replace(self)
        out.field = fast_field(out.generator)
        return out

    def load_portrait(self, path: str | os.PathLike[str]) -> tuple[Self, Factors]:
        """A person that `invert` found: use both in place of the model and of `sample(seed=...)`.

        Args:
            path: The portrait file.

        Returns:
            The personal model, and factors (1) with the expression and light of the (first) photograph.

        Raises:
            CopoError: The file is damaged, none, or belongs to another model.
        """
        file = load_portrait_file(Path(path))
        return self.with_generator(personal(self.generator, file, f"portrait file {path}")), file.person

    def invert(self, photographs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], **options: Any) -> Any:
        """Find the person of one or several photographs in this model (docs/invert.md).

        Args:
            photographs: Files; all show the same person.
            options: Of `copo.inversion.service.invert_photographs`: mode, face, seconds, seed, progress.

        Returns:
            `copo.inversion.service.Inverted`: its `model` and `factors` take the place of model and sample;
            `save_inverted` writes it to a folder.

        Raises:
            CopoError: A photograph shows no face or several, cannot be read, or a network's file is missing.
        """
        paths = [photographs] if isinstance(photographs, (str, os.PathLike)) else list(photographs)
        service = importlib.import_module("copo.inversion.service")  # of a layer above, which holds what it needs
        return service.invert_photographs(self, paths, **options)

    # --- factors ----------------------------------------------------------------------------------------------------

    def sample(
        self,
        seeds: Sequence[int] | int | None = None,
        *,
        seed: int | None = None,
        psi: Psi = 1.0,
        people: Factors | None = None,
        view: Camera | None = None,
    ) -> Factors:
        """Random people with expression, light, hair and background, one for each seed.

        Every factor has its own stream of random numbers. Noise code and light are drawn for the identity where the
        model knows which hair, clothes and background, and which light, go with whom
        (`copo.networks.conditional_priors`); they can be given to anybody. The numbers do not depend on the device
        or on the other seeds.

        Args:
            seeds: Non-negative seeds.
            seed: The same as `seeds=[seed]`.
            psi: Truncation of the priors: 1 draws as the priors do, 0 the average of each factor. A number for all
                factors, or by factor ("identity", "expression", "illumination", "noise"; 1 where left out). It tames
                the factors themselves, so that what was asked for is still what is shown; the psi of `render` tames
                what the generator makes of them.
            people: (1 or B) whose identities are taken instead of new ones.
            view: (1 or B) cameras that light and noise code are drawn for: photographers light the side that they see,
                and not everybody was photographed from the side. By default the front. To see one person from several
                sides, render the same factors by several cameras.

        Returns:
            Factors (B) on the CPU, expression within its range.

        Raises:
            CopoError: No seed, a negative one, or a psi that is no number from 0 to 2.
        """
        chosen = _seeds(seeds, seed)
        share = _shares(psi)
        out = Factors.neutral(self.spec, len(chosen))
        drawn = {name: self._draw(name, chosen, share[name]) for name in PRIOR_NAMES}
        if people is not None:
            self._check(people)
            drawn["identity"] = people.identity.cpu().expand(len(chosen), -1)
        out = out.replace(**drawn)
        direction = (self.default_camera if view is None else view).direction.float().cpu().expand(len(chosen), 3)
        out = self._fitting_light(out, direction)
        return out.replace(noise=self._noise_codes(chosen, out, direction) * share["noise"])

    def sample_cameras(
        self, seeds: Sequence[int] | int, yaw_sigma: float = YAW_SIGMA, pitch_sigma: float = PITCH_SIGMA
    ) -> Camera:
        """Random cameras around the head, one for each seed, clamped to 3 sigma.

        Args:
            seeds: Non-negative seeds.
            yaw_sigma: Standard deviation in radians.
            pitch_sigma: Likewise.
        """
        chosen = _seeds(seeds, None)
        turn = seeded_normal("camera", chosen, 2).clamp(-3, 3)
        return turn_cameras(self.default_camera.expand(len(chosen)), turn[:, 0] * yaw_sigma, turn[:, 1] * pitch_sigma)

    def camera(self, yaw: float = 0.0, pitch: float = 0.0, fov: float | None = None) -> Camera:
        """The default camera after a walk around the head.

        Args:
            yaw: Degrees; positive moves the camera to the right of the frontal picture.
            pitch: Degrees; positive moves it up.
            fov: Field of view in degrees instead of the model's.
        """
        out = turn_cameras(self.default_camera, torch.tensor([math.radians(yaw)]), torch.tensor([math.radians(pitch)]))
        if fov is None:
            return out
        if not 0 < fov < 180:
            raise CopoError(f"field of view {fov:g} degrees: give one between 0 and 180")
        intrinsics = out.intrinsics.clone()
        scale = 0.5 / math.tan(math.radians(fov) / 2) / intrinsics[:, 1, 1]
        intrinsics[:, 0, 0] *= scale
        intrinsics[:, 1, 1] *= scale
        return Camera(out.cam2world, intrinsics)

    # --- pictures ---------------------------------------------------------------------------------------------------

    def planes(self, factors: Factors, psi: float = 1.0) -> PortraitPlanes:
        """What the networks make of factors, once for any number of cameras; `render` takes it in place of factors.

        Args:
            factors: (B) portraits.
            psi: Truncation towards the average latent, 0 to 1. It makes pictures more average and weakens control.

        Raises:
            CopoError: The factors are another head's, or psi is out of range.
        """
        self._check(factors)
        if not 0 <= psi <= 2:
            raise CopoError(f"psi {psi:g} is out of range: give a number from 0 to 2")
        with torch.no_grad():
            own = replace(factors, spec=self.spec)  # the same sizes, but the model's own divisors
            return self.field.planes(own.to_vector().to(self.device), psi=psi, noise=self._noise())

    def reference(self, subject: Subject, psi: float = 1.0) -> Reference:
        """A frame whose hair or background is held still in others; keep it over the frames of a film.

        Args:
            subject: (1) or (B) portraits.
            psi: Truncation, where factors are given.
        """
        return Reference(self.planes(subject, psi) if isinstance(subject, Factors) else subject)

    def render(
        self,
        subject: Subject,
        camera: Camera | None = None,
        size: int | None = None,
        *,
        psi: float = 1.0,
        blend: str | Blend = "none",
        reference: Subject | Reference | None = None,
        maps: Sequence[str] = (),
        rays: int | None = None,
        map_rays: int | None = None,
        sampling: SamplingConfig | None = None,
        seeds: Sequence[int] | None = None,
        batch: int | None = None,
    ) -> PortraitPicture:
        """Look at portraits. Gradients are not kept; `field` is there for those who need them.

        Args:
            subject: (B) factors, or planes that `planes` made.
            camera: One, or one for each portrait (or several for one portrait); `default_camera` if left out.
            size: Side of the pictures in pixels: the model's own, or the picture resized to it.
            psi: Truncation, see `planes`; not for planes.
            blend: What is held still: none, background, hair, both, still (clothes and ears too), class names with
                commas, or a `Blend`.
            reference: The frame that it is taken from; by default each portrait's own with a neutral expression.
            maps: Of `MAPS`, what to give beside the picture; "normals" costs most.
            rays: Rays per side instead of the model's own: fewer for a quick look. The picture gets smaller in the same
                proportion unless `size` says otherwise.
            map_rays: Rays per side of the maps; by default those of the picture. Exact labels at the picture's size
                have map_rays = size.
            sampling: Instead of the model's own, e.g. `model.field.sampling.fast()`.
            seeds: Of the portraits, for the record in the file.
            batch: Pictures drawn together; chosen by the device if left out.

        Raises:
            CopoError: Factors of another head, a camera that sees nothing, unknown maps or blend classes.
        """
        for name in maps:
            if name not in MAPS:
                raise unknown_name("map", name, MAPS)
        if size is not None and not 1 <= size <= 8192:
            raise CopoError(f"size {size}: choose 1 to 8192 pixels")
        for title, value in (("rays", rays), ("map_rays", map_rays)):
            if value is not None and not 4 <= value <= 2048:
                raise CopoError(f"{title} {value}: choose 4 to 2048")
        view = self.default_camera if camera is None else camera
        count = max(len(subject), len(view))
        if len(subject) not in (1, count):
            raise CopoError(f"{len(subject)} portraits for {count} cameras: give one, or one for each")
        mixture = Blend.of(blend) if isinstance(blend, str) else blend
        view = view.expand(count)
        step = batch or (16 if self.device.type == "cuda" else 1)
        holder = self._reference(reference, psi) if mixture.classes and reference is not None else None
        if mixture.classes and holder is None and not isinstance(subject, Factors):
            raise CopoError("blending planes needs a reference: give reference=, or factors instead of planes")
        parts = []
        shared = self.planes(subject, psi) if isinstance(subject, Factors) and len(subject) == 1 else subject
        for start in range(0, count, step):
            some = slice(start, start + step)
            who: Subject = shared if len(subject) == 1 else subject[some]
            planes = self.planes(who, psi) if isinstance(who, Factors) else who
            still = holder
            if mixture.classes and still is None:
                assert isinstance(subject, Factors)
                own = subject if len(subject) == 1 else subject[some]
                still = self._reference(neutral(own), psi)
                holder = still if len(subject) == 1 else None
            if still is not None and len(still.planes) > 1 and len(still.planes) == count:
                still = Reference(still.planes[some])
            parts.append(self._draw_frames(planes, view[some], size, mixture, still, maps, rays, map_rays, sampling))
        out = PortraitPicture.cat(parts)
        return replace(
            out, camera=view, recipes=self._recipes(subject, view, psi, mixture, reference, size, rays, sampling, seeds)
        )

    def remake(self, recipe: Recipe, maps: Sequence[str] = (), map_rays: int | None = None) -> PortraitPicture:
        """The picture of a recipe: the same bits on a CPU, up to rounding on a GPU.

        Args:
            recipe: From `copo.formats.recipe.read_recipe`.
            maps: As in `render`.
            map_rays: As in `render`.

        Raises:
            CopoError: It was made with another model.
        """
        if recipe.fingerprint != self.fingerprint:
            raise CopoError(
                f"the picture was made with another model, {recipe.model} ({recipe.fingerprint[:12]}): this is "
                f"{self.name} ({self.fingerprint[:12]}); give --model"
            )
        return self.render(
            recipe.factors,
            recipe.camera,
            recipe.size,
            psi=recipe.psi,
            blend=_blend_from_dict(recipe.blend),
            reference=recipe.reference,
            rays=recipe.rays,
            maps=maps,
            map_rays=map_rays,
            sampling=_sampling_from_dict(recipe.sampling),
            seeds=None if recipe.seed is None else [recipe.seed],
        )

    def animate(
        self,
        factors: Factors,
        drive: Factors | Tensor | DrivingClip | str | os.PathLike[str] | None = None,
        camera: Camera | str | None = None,
        *,
        blend: str | Blend = "still",
        reference: Subject | Reference | None = None,
        psi: float = 1.0,
        size: int | None = None,
        rays: int | None = None,
        sampling: SamplingConfig | None = None,
        batch: int | None = None,
    ) -> Iterator[PortraitPicture]:
        """Frames of a film, one after the other; `copo.formats.video.write_video` makes a file of them.

        Args:
            factors: (1) who it is, with light and hair.
            drive: (T, expression) coefficients, or Factors (T) whose expression and, where they were changed by the
                caller, light are followed, or a driving clip or its file (docs/animate.md); None for a still face
                before a moving camera.
            camera: One, or T of them, or the name of a path (`copo.animation.paths`): ellipse, orbit, drive, ...
            blend: What is held still, taken from `reference`.
            reference: By default `factors` with a neutral expression.
            psi: Truncation, see `planes`.
            size: Side in pixels.
            rays: As in `render`.
            sampling: As in `render`.
            batch: Frames drawn together.

        Yields:
            Batches of one picture.

        Raises:
            CopoError: Drive and camera have different lengths, or the drive is another head's.
        """
        if len(factors) != 1:
            raise CopoError(f"animate: {len(factors)} portraits: give one")
        clip = read_clip(drive) if isinstance(drive, (str, os.PathLike)) else drive
        drive = clip.for_spec(self.spec) if isinstance(clip, DrivingClip) else clip
        if isinstance(camera, str):
            if drive is None:
                raise CopoError(f"animate: a camera path {camera!r} needs a drive, which says how long it is")
            pose = clip.pose if isinstance(clip, DrivingClip) else None
            camera = camera_path(camera, self.default_camera, len(drive), pose=pose)
        view = self.default_camera if camera is None else camera
        if drive is not None and not len(drive):
            raise CopoError("animate: the drive has no frames")
        if isinstance(drive, Tensor):
            drive = Factors.cat([factors] * len(drive)).replace(expression=drive.to(factors.expression))
        frames = factors if drive is None else drive
        count = max(len(frames), len(view))
        view = view.expand(count)
        if len(frames) not in (1, count):
            raise CopoError(f"animate: {len(frames)} driven frames for {count} cameras: give as many of both")
        step = batch or (8 if self.device.type == "cuda" else 1)
        mixture = Blend.of(blend) if isinstance(blend, str) else blend
        still = neutral(factors) if reference is None else reference
        holder = self._reference(still, psi) if mixture.classes else None
        noted = None if reference is None and not isinstance(clip, Factors) else still
        planes = self.planes(frames, psi) if len(frames) == 1 else None
        for start in range(0, count, step):
            some: slice | Tensor = slice(start, start + step)
            if start and start + step > count:  # as many as before: a recorded graph has one batch size
                some = torch.arange(start, start + step).clamp(max=count - 1)
            subject: Subject = planes if planes is not None else frames[some]
            drawn = self.render(
                subject,
                view[some],
                size,
                psi=psi,
                blend=mixture,
                reference=holder,
                rays=rays,
                sampling=sampling,
                batch=step,
            )
            seen = frames if planes is not None else frames[some]
            drawn = replace(
                drawn, recipes=self._recipes(seen, view[some], psi, mixture, noted, size, rays, sampling, None)
            )
            yield from (drawn[i] for i in range(min(step, count - start)))

    # --- shapes -----------------------------------------------------------------------------------------------------

    def volume(self, subject: Subject, psi: float = 1.0) -> TriPlaneField:
        """The field of one portrait, for `copo.field.shapes`."""
        if len(subject) != 1:
            raise CopoError(f"a shape of {len(subject)} portraits: give one")
        planes = self.planes(subject, psi) if isinstance(subject, Factors) else subject
        return TriPlaneField(planes.planes, Heads(self.generator.decoder), self.generator.config.box)

    def mesh(
        self, subject: Subject, resolution: int = 192, *, psi: float = 1.0, config: ShapeConfig | None = None
    ) -> MeshData:
        """The surface of one portrait with colours and parser classes, metres.

        Args:
            subject: One portrait.
            resolution: Grid points along each side of the volume.
            psi: Truncation.
            config: More settings, instead of `resolution`.

        Raises:
            CopoError: There is no surface.
        """
        return extract_mesh(self.volume(subject, psi), config or ShapeConfig(resolution=resolution))

    def head_mesh(self, factors: Factors) -> MeshData:
        """The parametric head of one portrait, metres."""
        self._check(factors)
        if len(factors) != 1:
            raise CopoError(f"a mesh of {len(factors)} portraits: give one")
        head, person = self.head, factors.to(self.device)
        with torch.no_grad():
            vertices = head.vertices(person.shape, person.expression)[0].cpu().numpy()
            colors = head.albedo(person.albedo)[0].clamp(0, 1).cpu().numpy()
        topology = head.topology
        return MeshData(
            vertices=vertices,
            faces=topology.faces.cpu().numpy(),
            colors=colors,
            labels=topology.labels.cpu().numpy(),
        )

    # --- inside -----------------------------------------------------------------------------------------------------

    def _noise(self) -> NoiseMode:
        plain = type(self.field) is PortraitField
        return "const" if self.generator.config.noise_inputs or not plain else "none"  # recorded graphs know one mode

    def _check(self, factors: Factors) -> None:
        mine, theirs = self.spec, factors.spec
        if theirs.head != mine.head or theirs.sizes != mine.sizes:
            raise CopoError(
                f"factors of head {theirs.head!r} with sizes {_sizes(theirs)}: model {self.name} reads {mine.head!r} "
                f"with {_sizes(mine)}; sample them from this model"
            )

    @torch.no_grad()
    def _fitting_light(self, drawn: Factors, direction: Tensor) -> Factors:
        """The same people in light that goes with them, seen from (B, 3)."""
        if self.light_prior is None:
            return drawn
        slices, scale = self.spec.slices, self.spec.normaliser("illumination")
        rows = [
            self.light_prior(row[None, slices["illumination"]], row[None, slices["identity"]], towards[None]) * scale
            for row, towards in zip(drawn.to_vector(), direction, strict=True)  # one by one, as priors
        ]
        return drawn.replace(illumination=torch.cat(rows))

    @torch.no_grad()
    def _noise_codes(self, seeds: list[int], people: Factors, direction: Tensor) -> Tensor:
        """(B, noise) codes that go with the identities of B people, seen from (B, 3)."""
        normal = seeded_normal("noise", seeds, self.spec.noise)
        if self.noise_prior is None:
            return normal
        rows = zip(normal, people.to_vector()[:, self.spec.slices["identity"]], direction, strict=True)
        return torch.cat([self.noise_prior(*(x[None] for x in row)) for row in rows])  # one by one, as priors

    def _draw(self, name: str, seeds: list[int], psi: float) -> Tensor:
        """(B, n) one factor in the head model's units."""
        prior = self.priors.get(name)
        if prior is not None:
            latent = seeded_normal(f"prior_{name}", seeds, prior.config.latent) * psi
            # One by one: the rows of a matrix product differ in their last bits with the number of rows.
            with torch.no_grad():
                value = torch.cat([prior.sample(row[None]) for row in latent]).float()
            low, high = self.spec.expression_range
            return value.clamp(low, high) if name == "expression" else value
        if name == "identity":
            parts = [seeded_normal(part, seeds, self.spec.sizes[part]) for part in ("shape", "albedo")]
            return torch.cat(parts, dim=1) * psi
        if name == "expression":
            return plain_expressions(self.spec, seeds) * psi
        return plain_lights(self.spec, seeds, psi)

    def _reference(self, given: Subject | Reference, psi: float) -> Reference:
        return given if isinstance(given, Reference) else self.reference(given, psi)

    @torch.no_grad()
    def _draw_frames(
        self,
        planes: PortraitPlanes,
        camera: Camera,
        size: int | None,
        blend: Blend,
        reference: Reference | None,
        maps: Sequence[str],
        rays: int | None,
        map_rays: int | None,
        sampling: SamplingConfig | None,
    ) -> PortraitPicture:
        side = self.generator.config.raw_resolution

        def look(rays_per_side: int | None, normals: bool, upscale: bool = True) -> PortraitFrame:
            own = rays_per_side is None or rays_per_side == side
            return self.field.render(
                planes,
                camera,
                blend=blend if blend.classes else None,
                reference=reference,
                sampling=sampling,
                size=None if own else rays_per_side,
                normals=normals,
                noise=self._noise() if own else "none",
                upscale=upscale,
            )

        separate = bool(maps) and map_rays is not None and map_rays != (rays or side)
        frame = look(rays, "normals" in maps and not separate)
        image = frame.image.float().clamp(-1, 1)
        if size is not None and image.shape[-1] != size:
            image = F.interpolate(image, (size, size), mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)
        seen = look(map_rays, "normals" in maps, upscale=False) if separate else frame
        return PortraitPicture(
            image=image,
            camera=camera,
            depth=seen.depth if "depth" in maps else None,
            normals=seen.normals if "normals" in maps else None,
            semantics=seen.classes.argmax(1) if "semantics" in maps else None,
            alpha=seen.alpha if "alpha" in maps else None,
        )

    def _recipes(
        self,
        subject: Subject,
        camera: Camera,
        psi: float,
        blend: Blend,
        reference: Subject | Reference | None,
        size: int | None,
        rays: int | None,
        sampling: SamplingConfig | None,
        seeds: Sequence[int] | None,
    ) -> tuple[Recipe, ...]:
        """How to make each picture again; nothing where planes are given, whose factors are not known."""
        if not isinstance(subject, Factors) or (blend.classes and isinstance(reference, (PortraitPlanes, Reference))):
            return ()
        if seeds is not None and len(seeds) != len(subject):
            raise CopoError(f"{len(seeds)} seeds for {len(subject)} portraits: give one for each")
        people, views = subject.to("cpu"), camera.to("cpu")
        still = reference.to("cpu") if isinstance(reference, Factors) and blend.classes else None
        mixture = {**vars(blend), "classes": sorted(blend.classes)} if blend.classes else {}
        out = []
        for i in range(len(views)):
            row = i if len(people) > 1 else 0
            out.append(
                Recipe(
                    factors=people[row],
                    camera=views[i],
                    model=self.name,
                    fingerprint=self.fingerprint,
                    seed=None if seeds is None else int(seeds[row]),
                    psi=psi,
                    blend=mixture,
                    reference=None if still is None else still[i if len(still) > 1 else 0],
                    size=size,
                    rays=rays,
                    sampling={} if sampling is None else asdict(sampling),
                )
            )
        return tuple(out)

    def _card(self) -> str:
        """README of a model folder."""
        notes = "\n".join(f"- {key}: {value}" for key, value in self.notes.items() if key != "camera")
        return (
            "---\nlibrary_name: copo\ntags: [portrait, 3d-aware, generative, face]\n---\n\n"
            "# Portrait model for CoPo\n\n"
            "A 3D-aware generator of portraits that are controlled by identity, expression, light, pose and a noise "
            "code. Its pictures show people who do not exist and carry the AI-generated mark.\n\n"
            '```python\nfrom copo import Portrait\n\nmodel = Portrait.from_pretrained("OWNER/NAME")\n'
            'model.render(model.sample(seed=41)).save("41.png")\n```\n\n'
            f"Head model: {self.spec.head}. Side of a picture: {self.size} pixels. "
            f"Fingerprint: {self.fingerprint[:16]}.\n\n{notes}\n"
        )


# --- factors without a prior ------------------------------------------------------------------------------------


def plain_expressions(spec: FactorSpec, seeds: list[int]) -> Tensor:
    """(B, expression) mild expressions for models without an expression prior: three units up to half their range."""
    count = spec.expression
    if not count:
        return torch.zeros(len(seeds), 0)
    low, high = spec.expression_range
    top = high if math.isfinite(high) and high <= 1 else 1.0
    strength = seeded_uniform("expression", seeds, count) * 0.5 * top
    chosen = seeded_uniform("expression units", seeds, count).argsort(dim=1).argsort(dim=1) < 3
    return torch.where(chosen, strength, 0.0).clamp(low, high)


def plain_lights(spec: FactorSpec, seeds: list[int], psi: float = 1.0) -> Tensor:
    """(B, 27) a lamp from in front, up to 60 degrees aside and 50 above, for models without a prior of light."""
    if spec.illumination != 27:
        return torch.zeros(len(seeds), spec.illumination)
    u = seeded_uniform("illumination", seeds, 3)
    azimuth, elevation = (u[:, 0] * 2 - 1) * math.radians(60) * psi, u[:, 1] * math.radians(50)
    ambient = 0.35 + 0.35 * u[:, 2]
    direction = direction_from_angles(azimuth, elevation)
    return normalise_exposure(
        directional_light(direction, intensity=1.3 * (1 - ambient), ambient=ambient[:, None].expand(-1, 3))
    )


def neutral(factors: Factors) -> Factors:
    """The same portraits without expression: the default reference of blending."""
    return factors.replace(expression=torch.zeros_like(factors.expression))


# --- checks and places ------------------------------------------------------------------------------------------


def with_noise(spec: FactorSpec, noise: int) -> FactorSpec:
    """A head's factors with a generator's own length of the noise code."""
    return replace(spec, noise=noise)


def check_spec(generator: Generator, spec: FactorSpec, name: str) -> None:
    """Refuse a specification whose sizes are not the generator's.

    Raises:
        CopoError: Names the first difference.
    """
    for factor, size in spec.sizes.items():
        if getattr(generator.config, factor) != size:
            raise CopoError(
                f"model {name}: its generator reads {getattr(generator.config, factor)} {factor} coefficients, head "
                f"{spec.head!r} has {size}"
            )


def check_head(mine: FactorSpec, wanted: FactorSpec, name: str) -> None:
    """Refuse a head that is not the one a model was trained with; the noise code is the model's own affair.

    Raises:
        CopoError: Name, sizes or names of expressions differ.
    """
    same = with_noise(mine, wanted.noise)
    if same.head != wanted.head or same.sizes != wanted.sizes or same.expression_names != wanted.expression_names:
        raise CopoError(
            f"model {name} was made for head {wanted.head!r} with sizes {_sizes(wanted)}: the head here is "
            f"{mine.head!r} with {_sizes(same)}; use the version of the program that belongs to the model"
        )


def choose_device(name: str | torch.device) -> torch.device:
    """auto, cpu, cuda or cuda:N -> a device that exists.

    Raises:
        CopoError: There is none of that name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CopoError(f"device {name!r}: choose auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CopoError(f"device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu")
    return device


def packaged_folder() -> Path:
    """Where the default model lies in an installation, whether or not it is there."""
    return Path(str(resources.files("copo"))) / "assets" / PACKAGED


def has_packaged() -> bool:
    """Whether there is a default model: a packaged one, or one that COPO_MODEL names."""
    return bool(os.environ.get(MODEL_VARIABLE)) or (packaged_folder() / "config.json").is_file()


def find_model(source: str | os.PathLike[str] | None, revision: str | None = None) -> tuple[Path, str]:
    """The folder and the name of a model (see `Portrait.from_pretrained`).

    Raises:
        CopoError: There is no such model.
    """
    if source is None:
        source = os.environ.get(MODEL_VARIABLE) or None
    if source is None:
        if not has_packaged():
            raise CopoError(
                "the trained portrait model is not part of this installation yet: give --model FOLDER (a training run, "
                f"a converted checkpoint) or set {MODEL_VARIABLE}"
            )
        return packaged_folder(), PACKAGED
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file() and (folder / SNAPSHOT / "config.json").is_file():
            return folder / SNAPSHOT, folder.resolve().name
        name = folder.resolve().name
        return folder, folder.resolve().parent.name if name == SNAPSHOT else name
    text = os.fspath(source)
    parts = text.split("/")
    if folder.exists() or len(parts) != 2 or not all(parts) or text.startswith(("./", "../", "~")):
        raise CopoError(f"model {text}: no such folder; give a folder with config.json, or OWNER/NAME on the hub")
    hub = _hub(f"model {text}: no such folder, and a model of the hub")
    try:
        got = hub.snapshot_download(text, revision=revision, allow_patterns=["*.json", "*.safetensors"])
    except Exception as error:  # the hub's client raises errors of several libraries
        raise _hub_error(text, error) from error
    return Path(got), text


def _hub(what: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise CopoError(f"{what} needs the package huggingface_hub: pip install 'copo[hub]'") from None
    return huggingface_hub


def _hub_error(repository: str, error: Exception) -> CopoError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return CopoError(f"model {repository}: not a folder here, and the hub said: {reason}")


def _noted_camera(notes: Mapping[str, str], folder: Path) -> Camera | None:
    """The default camera of a checkpoint: 25 numbers in its notes."""
    text = notes.get("camera")
    if text is None:
        return None
    try:
        return Camera.from_eg3d(torch.tensor([json.loads(text)], dtype=torch.float32))
    except (ValueError, TypeError, RuntimeError) as error:
        raise CopoError(f"model {folder}: the camera in its config.json is not EG3D's 25 numbers") from error


def _blend_from_dict(data: Mapping[str, Any]) -> Blend:
    """The blend of a recipe.

    Raises:
        CopoError: It is malformed.
    """
    try:
        given = dict(data)
        return Blend(frozenset(int(v) for v in given.pop("classes", ())), **given)
    except (TypeError, ValueError) as error:
        if isinstance(error, CopoError):
            raise
        raise CopoError(f"the recipe's blend is damaged: {error}") from error


def _sampling_from_dict(data: Mapping[str, Any]) -> SamplingConfig | None:
    """The sampling of a recipe.

    Raises:
        CopoError: It is malformed.
    """
    try:
        return SamplingConfig(**data) if data else None
    except (TypeError, ValueError) as error:
        if isinstance(error, CopoError):
            raise
        raise CopoError(f"the recipe's sampling is damaged: {error}") from error


def _seeds(seeds: Sequence[int] | int | None, seed: int | None) -> list[int]:
    if (seeds is None) == (seed is None):
        raise CopoError("give seeds=[...] or seed=..., and not both")
    chosen = [seed] if seed is not None else [seeds] if isinstance(seeds, int) else list(cast(Sequence[int], seeds))
    if not chosen:
        raise CopoError("no seeds: give at least one")
    for value in chosen:
        if value < 0:
            raise CopoError(f"seed {value} is negative: give 0 or more")
    return [int(value) for value in chosen]


def _shares(psi: Psi) -> dict[str, float]:
    """Truncation by factor."""
    names = (*PRIOR_NAMES, "noise")
    given = dict.fromkeys(names, float(psi)) if isinstance(psi, (int, float)) else {k: float(v) for k, v in psi.items()}
    for name, value in given.items():
        if name not in names:
            raise unknown_name("factor of psi", name, names)
        if not 0 <= value <= 2:
            raise CopoError(f"psi {value:g} of {name} is out of range: give a number from 0 to 2")
    return dict.fromkeys(names, 1.0) | given


def _sizes(spec: FactorSpec) -> str:
    return "/".join(str(size) for size in spec.sizes.values())
