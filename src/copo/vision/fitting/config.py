"""Every number of the fit: noise levels, priors, iterations. docs/fitting.md tells how they were chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from copo.camera import METHOD_FOV

Quality = Literal["fast", "high"]
"""fast: landmarks, then colours in closed form. high: then all together on the pixels, by differentiable drawing."""


@dataclass(frozen=True)
class GeometryConfig:
    """Landmarks to shape, expression and camera. Lengths in the picture are shares of the inter-ocular distance."""

    sigma: float = 0.02
    """Standard deviation of a landmark."""
    independence: float = 0.12
    """Landmarks that count as independent measurements, as a share: neighbours err together."""
    robust: float = 3.0
    """Residual, in sigmas, from which a landmark loses weight (Huber)."""
    shape_sigma: float = 1.0
    """Standard deviation of the shape coefficients; the head model's own is 1."""
    expression_sigma: float = 0.25
    """Of a unit around its blendshape score, where there are scores."""
    expression_sigma_alone: float = 0.35
    """Of a unit around 0, where there are none."""
    sparsity: float = 0.5
    """Cost of one full unit: keeps units at 0 that explain nothing."""
    weight_lips: float = 2.0
    weight_eyes: float = 3.0
    weight_brows: float = 1.0
    weight_irises: float = 1.0
    weight_contour: float = 0.5
    """Of the face's oval across the outline."""
    weight_along: float = 0.05
    """Of the face's oval along the outline, where its points may slide."""
    weight_forehead: float = 0.1
    """Of the oval along the hair line, which no feature of the head marks."""
    iterations: int = 12
    """Levenberg-Marquardt steps."""
    tolerance: float = 1e-4
    """Relative decrease of the cost at which the fit ends."""


@dataclass(frozen=True)
class AppearanceConfig:
    """Colours at the visible vertices to albedo and light. Colours are display-referred, in [0, 1]."""

    size: int = 192
    """Side in pixels of the window in which colours are read."""
    sigma: float = 0.06
    """Standard deviation of a vertex's colour around the model's."""
    independence: float = 0.05
    """Vertices that count as independent measurements, as a share."""
    robust: float = 1.0
    """Residual, in sigmas, at which a vertex keeps a quarter of its weight: beards, glasses, hair, high lights."""
    albedo_sigma: float = 1.0
    """Standard deviation of the albedo coefficients; the head model's own is 1."""
    exposure: float = 0.85
    """Expected mean of the shading over the face."""
    exposure_sigma: float = 0.12
    """How far photographs stray from it. With the prior of the skin tone it decides what is dark skin and what is a
    dark picture: see docs/fitting.md."""
    colour_sigma: float = 0.04
    """Of the light's colour cast on the face."""
    ambient_sigma: float = 0.4
    """Of the light's band 0, coefficient."""
    gradient_sigma: float = 0.2
    """Of the light's direction (band 1)."""
    contrast_sigma: float = 0.1
    """Of the light's second band."""
    chroma_share: float = 0.25
    """Standard deviation of a coefficient's colour relative to its brightness, bands 1 and 2."""
    facing: float = 0.25
    """Least cosine between a vertex's normal and the viewing direction."""
    from_above: float = -0.05
    from_front: float = 0.08
    """Expected band 1: light comes from above and in front (coefficients of -y and z)."""
    iterations: int = 6
    """Gauss-Newton steps."""


@dataclass(frozen=True)
class ProfileConfig:
    """Pictures without landmarks: the outline of the face against the person mask."""

    yaw_degrees: float = 90.0
    """Camera's yaw of a full profile."""
    yaw_sigma: float = 4.0
    lean_sigma: float = 4.0
    nod_sigma: float = 8.0
    """Degrees around the expected pose: about the vertical axis, towards the camera, in the picture."""
    sigma: float = 0.02
    """Of an outline point, share of the inter-ocular distance."""
    independence: float = 0.1
    """Outline points that count as independent measurements, as a share."""
    iterations: int = 20


@dataclass(frozen=True)
class RefineConfig:
    """Joint refinement on the pixels (quality high)."""

    size: int = 160
    """Side of the rendered window in pixels."""
    steps: int = 60
    rate: float = 0.02
    """Adam's step on all parameters, each in units of its standard deviation."""
    photo_sigma: float = 0.06
    photo_weight: float = 60.0
    """Independent pixels' worth that the picture counts."""


@dataclass(frozen=True)
class FittingConfig:
    """How photographs are fitted."""

    quality: Quality = "fast"
    fov: float = METHOD_FOV
    """Field of view in radians of an FFHQ-type crop around the face; sets the distance of the camera."""
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
