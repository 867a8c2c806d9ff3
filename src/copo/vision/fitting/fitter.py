"""`HeadFitter`: photographs with landmarks to the factors and cameras of a head model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.head.protocol import HeadModel
from copo.vision.fitting.appearance import (
    Appearance,
    albedo_model,
    face_vertices,
    fit_appearance,
    window_pictures,
)
from copo.vision.fitting.config import FittingConfig
from copo.vision.fitting.geometry import GeometryFit, Pose, Targets, fit_geometry, outline_normals
from copo.vision.fitting.landmark_model import LandmarkModel, landmark_model, linear_geometry
from copo.vision.fitting.observation import Observation, Windows, check, find_windows
from copo.vision.fitting.profile import fit_profile
from copo.vision.fitting.refine import refine


@dataclass(frozen=True)
class Fit:
    """What was found in B photographs, in their order.

    Attributes:
        factors: Shape and albedo (equal for photographs of one identity), expression in [0, 1], illumination in the
            head's world; the noise code is zero.
        camera: Cameras of the whole pictures, in which the head rests: `camera.project(vertices)` times width and
            height gives pixels of the photograph.
        windows: The square around each face in which it was fitted (FFHQ's crop without its rotation).
        landmark_residual: (B,) mean distance between the fitted and the given landmarks (the outline left out), in
            percent of the distance of the outer corners of the eyes, both at the face's depth. For photographs without
            landmarks: mean distance between the face's outline and the person mask's.
        photometric_residual: (B,) root mean square colour difference over the visible face, weighted, 0 to 1.
        visible: (B,) share of the face's vertices that the photograph shows, free of hair and outliers.
        shape_sigma: (B, S) posterior standard deviation of the shape coefficients (the prior's is 1).
        expression_sigma: (B, E) of the expression.
        rotation_sigma: (B,) radians, root mean square over the three axes.
        distance_sigma: (B,) metres along the viewing axis.
        from_landmarks: (B,) bool; False where view and outline had to do.
    """

    factors: Factors
    camera: Camera
    windows: Windows
    landmark_residual: Tensor
    photometric_residual: Tensor
    visible: Tensor
    shape_sigma: Tensor
    expression_sigma: Tensor
    rotation_sigma: Tensor
    distance_sigma: Tensor
    from_landmarks: Tensor

    def __len__(self) -> int:
        return len(self.factors)

    def angles(self) -> Tensor:
        """(B, 3) yaw, pitch, roll in degrees: yaw > 0, the camera is at the person's left (+x); pitch > 0, above."""
        x, y, z = self.camera.position.unbind(1)
        yaw, pitch = torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))
        right, up = self.camera.cam2world[:, :3, 0], -self.camera.cam2world[:, :3, 1]
        roll = torch.atan2(right[:, 1], up[:, 1])
        return torch.rad2deg(torch.stack([yaw, pitch, roll], dim=1))


class HeadFitter:
    """Fits a linear head to photographs (docs/fitting.md).

    Args:
        head: The open head, or another linear head with expression units in [0, 1]. It is copied where it has to move.
        config: Weights, priors and the quality profile.
        device: Where to compute.

    Raises:
        CopoError: The head is not linear, or its expressions are no units.
    """

    def __init__(
        self, head: HeadModel, config: FittingConfig | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.config = config or FittingConfig()
        self.device = torch.device(device)
        if head.spec.expression_range != (0.0, 1.0):
            raise CopoError(
                f"head {head.name!r} has no expression units in [0, 1]: fit the open head, or another with units"
            )
        self._cpu_head = _on(head, torch.device("cpu"))
        self.head = _on(head, self.device)
        self._geometry = linear_geometry(self._cpu_head)
        self._models: dict[int, LandmarkModel] = {}
        subset = face_vertices(self._cpu_head)
        mean, basis = albedo_model(self._cpu_head, subset)
        self._subset = subset.to(self.device)
        self._skin = (mean.to(self.device), basis.to(self.device))

    def fit(self, observations: Sequence[Observation]) -> Fit:
        """Fit a batch of photographs. Photographs of one `identity` must come in the same call to share their shape.

        Args:
            observations: At least one.

        Raises:
            CopoError: Bad input; the message says which photograph and why.
        """
        items = [check(item, index) for index, item in enumerate(observations)]
        if not items:
            raise CopoError("no photographs to fit: give at least one")
        person, people = _people(items)
        items = _without_profile_points(items, person.tolist())
        with torch.no_grad():
            return self._fit(items, person, people)

    def _fit(self, items: list[Observation], person: Tensor, people: int) -> Fit:
        marked = [i for i, item in enumerate(items) if item.landmarks is not None]
        windows = find_windows(items, self.config.fov)
        geometry = self._fit_landmarks([items[i] for i in marked], windows[marked], person[marked], people)
        spread = _Scattered(geometry, marked, len(items), self.device)
        outline = torch.zeros(len(items), device=self.device)
        for i in sorted(set(range(len(items))) - set(marked)):
            found = fit_profile(
                items, i, person.tolist(), marked, spread.pose, windows, self._cpu_head, self.config.profile
            )
            windows = found.windows
            spread.place(i, found.pose, found.like)
            outline[i] = found.residual
        vertices = self.head.vertices(spread.pose.shape[person.to(self.device)], spread.pose.expression)
        here = windows.to(self.device)
        cameras = here.camera(spread.pose.cam2world())
        pictures = window_pictures(items, windows, self.config.appearance.size, self.device)
        member = torch.nn.functional.one_hot(person, people).to(self.device, torch.float32)
        look = fit_appearance(
            self.head, vertices, cameras, pictures, member, self._subset, self._skin, self.config.appearance
        )
        pose = spread.pose
        if self.config.quality == "high":
            pose, look = self._refined(pose, look, pictures, here, items, person, member)
        residual = torch.where(spread.known, spread.residual, outline)
        return self._collect(pose, look, here, person, spread, residual)

    def _fit_landmarks(self, items: list[Observation], windows: Windows, person: Tensor, people: int) -> GeometryFit:
        if not items:
            raise CopoError("no photograph has landmarks: a view alone does not tell a face")
        counts = {len(_points(item)) for item in items}
        if len(counts) > 1:
            raise CopoError("photographs with 68 and with 478 landmarks in one batch: fit them in two")
        model = self._model(counts.pop())
        return fit_geometry(self._targets(items, windows, person, people, model), model, self.config.geometry)

    def _targets(
        self, items: list[Observation], windows: Windows, person: Tensor, people: int, model: LandmarkModel
    ) -> Targets:
        pixels = torch.from_numpy(np.stack([_points(item) for item in items]).astype(np.float32))
        points = ((pixels - windows.centre[:, None]) / windows.focal[:, None, None]).to(self.device)
        names = self.head.spec.expression_names
        scores = torch.tensor([[(item.blendshapes or {}).get(name, 0.0) for name in names] for item in items])
        config = self.config.geometry
        sigma = [config.expression_sigma if item.blendshapes else config.expression_sigma_alone for item in items]
        return Targets(
            points=points,
            outward=outline_normals(points, model),
            expression=scores.clamp(0, 1).to(self.device),
            expression_sigma=torch.tensor(sigma, device=self.device)[:, None],
            person=person.to(self.device),
            people=people,
        )

    def _model(self, count: int) -> LandmarkModel:
        if count not in self._models:
            built = landmark_model(self._cpu_head, self._geometry, count, self.config.geometry)
            self._models[count] = built.to(self.device)
        return self._models[count]

    def _refined(
        self, pose: Pose, look: Appearance, pictures: Tensor, windows: Windows, items: list[Observation],
        person: Tensor, member: Tensor,
    ) -> tuple[Pose, Appearance]:  # fmt: skip
        marked = [i for i, item in enumerate(items) if item.landmarks is not None]
        chosen = [items[i] for i in marked]
        model = self._model(len(_points(chosen[0])))
        targets = self._targets(chosen, windows.to("cpu")[marked], person[marked], member.shape[1], model)
        return refine(self.head, pose, look, pictures, windows, member, targets, marked, model, self.config)

    def _collect(
        self, pose: Pose, look: Appearance, windows: Windows, person: Tensor, spread: _Scattered, residual: Tensor
    ) -> Fit:
        spec = self.head.spec
        own = person.to(self.device)
        factors = replace(
            Factors.neutral(spec, len(person)).to(self.device),
            shape=pose.shape[own],
            albedo=look.albedo[own],
            expression=pose.expression,
            illumination=look.illumination,
        )
        return Fit(
            factors=factors,
            camera=Camera(pose.cam2world(), windows.intrinsics()),
            windows=windows,
            landmark_residual=residual * 100,
            photometric_residual=look.residual,
            visible=look.visible,
            shape_sigma=spread.shape_sigma[own],
            expression_sigma=spread.expression_sigma,
            rotation_sigma=spread.rotation_sigma.square().mean(1).sqrt(),
            distance_sigma=spread.translation_sigma[:, 2],
            from_landmarks=spread.known,
        )


class _Scattered:
    """The landmark fit of some photographs, spread over all of a batch; the others are placed one by one."""

    def __init__(self, fit: GeometryFit, index: list[int], batch: int, device: torch.device) -> None:
        where = torch.tensor(index, device=device)

        def spread(values: Tensor) -> Tensor:
            return values.new_zeros(batch, *values.shape[1:]).index_copy(0, where, values)

        rotation = torch.eye(3, device=device).repeat(batch, 1, 1).index_copy(0, where, fit.pose.rotation)
        self.pose = Pose(rotation, spread(fit.pose.translation), spread(fit.pose.expression), fit.pose.shape)
        self.shape_sigma = fit.shape_sigma
        self.expression_sigma = spread(fit.expression_sigma)
        self.rotation_sigma = spread(fit.rotation_sigma)
        self.translation_sigma = spread(fit.translation_sigma)
        self.residual = spread(fit.residual)
        self.known = torch.zeros(batch, dtype=torch.bool, device=device).index_fill(0, where, True)

    def place(self, index: int, pose: Pose, like: int) -> None:
        """Put in a photograph without landmarks, whose uncertainties are those of photograph `like`, or more."""
        for name in ("rotation", "translation", "expression"):
            getattr(self.pose, name)[index] = getattr(pose, name)[0]
        self.expression_sigma[index] = self.expression_sigma[like]
        self.rotation_sigma[index] = torch.deg2rad(torch.tensor(3.0))
        self.translation_sigma[index] = self.translation_sigma[like] * 2


def _on(head: HeadModel, device: torch.device) -> HeadModel:
    """The head itself where it is on the device, else a copy."""
    if head.topology.faces.device == device:
        return head
    assert isinstance(head, torch.nn.Module)
    return copy.deepcopy(head).to(device)


def _people(items: Sequence[Observation]) -> tuple[Tensor, int]:
    """(B,) person of each photograph, and how many there are."""
    known: dict[object, int] = {}
    person = [known.setdefault(item.identity or (index,), len(known)) for index, item in enumerate(items)]
    for index, item in enumerate(items):
        others = [j for j, p in enumerate(person) if p == person[index] and items[j].landmarks is not None]
        if item.landmarks is None and not others:
            raise CopoError(
                f"photograph {index} has no landmarks and no other photograph of its identity has: "
                "give a second photograph of the person, or leave it out"
            )
    return torch.tensor(person), len(known)


def _without_profile_points(items: list[Observation], person: list[int]) -> list[Observation]:
    """Landmarks of known full profiles are guesses: leave them out where a mask and another photograph can do."""

    def profile(item: Observation) -> bool:
        return item.view in ("left_profile", "right_profile")

    seen = {p for p, item in zip(person, items, strict=True) if item.landmarks is not None and not profile(item)}
    return [
        replace(item, landmarks=None) if profile(item) and item.person is not None and p in seen else item
        for p, item in zip(person, items, strict=True)
    ]


def _points(item: Observation) -> np.ndarray:
    assert item.landmarks is not None
    return np.asarray(item.landmarks)
