"""Light in everyday terms and as panoramas, to and from the method's 27 coefficients.

A *radiance* here is the incoming light as real spherical harmonics of order 0 to 2 without alternating signs,

    1/2 sqrt(1/pi) (1, sqrt 3 y, sqrt 3 z, sqrt 3 x, sqrt 15 xy, sqrt 15 yz, sqrt 5 (3z^2 - 1) / 2, sqrt 15 xz,
    sqrt 15 (x^2 - y^2) / 2),

in the frame of the head: y up, +z where the face looks, +x the right of the frontal picture. A white Lambertian
surface of normal n sends out S(n) = 1/pi sum A_l L_lm Y_lm(n) with A = (pi, 2 pi / 3, pi / 4), the convolution with
the clamped cosine (Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment maps", 2001).
The method writes the same S as sum a_l gamma_lm Y_lm with signs of its own and 0.8 added to gamma_00, hence

    gamma_lm = sign_lm A_l / (pi a_l) L_lm - 0.8 [l = 0],     A_l / (pi a_l) = 1/pi (1, 1 / sqrt 3, 1 / sqrt 8).

Exposure: the mean of S over the normals of the frontal hemisphere (z > 0) is called the exposure; at 1 a face shows
its albedo on average. Illuminations are (..., 27): nine numbers of red, of green, of blue.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.constants import constant
from copo.errors import CopoError

BAND_FACTORS: tuple[float, float, float] = (math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8))
"""a_l of the method for the bands 0, 1, 2."""

BASE_LIGHT = 0.8
"""Added to the first coefficient of each colour, so that a gamma of 0 is a uniform white light (the method)."""

BAND_OF: tuple[int, ...] = (0, 1, 1, 1, 2, 2, 2, 2, 2)
"""Band of each of the nine coefficients."""


_SIGNS = (1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0)
"""The method's basis relative to the radiance's: the sign is (-1)^m."""

_LAMBERT = (math.pi, 2 * math.pi / 3, math.pi / 4)
"""A_l of the clamped cosine."""

_LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in brightness (Rec. 709)."""


def sh_basis(normals: Tensor) -> Tensor:
    """The nine real spherical harmonics of order 0 to 2, in the method's order and signs.

    1, -y, z, -x, xy, -yz, (3 z^2 - 1) / (2 sqrt 3), -xz, (x^2 - y^2) / 2, times (1, sqrt 3, sqrt 15) / sqrt(4 pi) for
    the bands 0, 1, 2: orthonormal on the sphere.

    Args:
        normals: (..., 3) unit vectors.

    Returns:
        (..., 9).
    """
    x, y, z = normals.unbind(-1)
    c0, c1, c2 = (math.sqrt(k / (4 * math.pi)) for k in (1, 3, 15))
    terms = [
        torch.full_like(x, c0),
        -c1 * y,
        c1 * z,
        -c1 * x,
        c2 * x * y,
        -c2 * y * z,
        c2 / (2 * math.sqrt(3)) * (3 * z * z - 1),
        -c2 * x * z,
        c2 / 2 * (x * x - y * y),
    ]
    return torch.stack(terms, dim=-1)


def illumination_from_radiance(radiance: Tensor) -> Tensor:
    """Incoming light (..., 9, 3) to the method's illumination (..., 27); the exposure is kept.

    Raises:
        CopoError: The radiance is not (..., 9, 3).
    """
    if radiance.ndim < 2 or radiance.shape[-2:] != (9, 3):
        raise CopoError(f"radiance has shape {tuple(radiance.shape)}: expected (..., 9, 3), order 0 to 2 of RGB")
    return (radiance.mT * _radiance_factors(radiance) - _base(radiance)).flatten(-2)


def radiance_from_illumination(illumination: Tensor) -> Tensor:
    """The inverse of `illumination_from_radiance`: (..., 27) to (..., 9, 3)."""
    gamma = _by_colour(illumination)
    return ((gamma + _base(gamma)) / _radiance_factors(gamma)).mT


def rotate_radiance(radiance: Tensor, rotation: Tensor) -> Tensor:
    """Turn the light: what came from direction d comes from `rotation` d.

    Args:
        radiance: (..., 9, 3).
        rotation: (..., 3, 3) rotation matrix.

    Returns:
        (..., 9, 3), exact in all three bands.
    """
    signs = constant(_SIGNS, radiance)[:, None]
    return signs * (sh_rotation(rotation.to(radiance)) @ (signs * radiance))


def rotate_illumination(illumination: Tensor, rotation: Tensor) -> Tensor:
    """Turn the light: what came from direction d comes from `rotation` d.

    Args:
        illumination: (..., 27).
        rotation: (..., 3, 3) rotation matrix.

    Returns:
        (..., 27). The base light of 0.8 is the same from everywhere and does not turn.
    """
    gamma = _by_colour(illumination)
    return (gamma @ sh_rotation(rotation.to(gamma)).mT).flatten(-2)


def sh_rotation(rotation: Tensor) -> Tensor:
    """Matrix that rotates coefficients of `sh_basis`.

    The rotated function at d is the function at R^-1 d. Its coefficients are sums over the twelve corners of an
    icosahedron, which integrate products of two harmonics of order 2 exactly (a spherical 5-design).

    Args:
        rotation: (..., 3, 3) rotation matrix.

    Returns:
        (..., 9, 9), orthogonal and block-diagonal by band.
    """
    golden = (1 + math.sqrt(5)) / 2
    corners = constant(tuple(v for s in (-1, 1) for t in (-1, 1) for v in (0.0, s, t * golden)), rotation).view(4, 3)
    directions = F.normalize(torch.cat([corners.roll(axis, dims=1) for axis in range(3)]), dim=1)
    before = sh_basis(directions @ rotation)  # rows are R^T d
    return (4 * math.pi / 12) * (sh_basis(directions).mT @ before)


def direction_from_angles(azimuth: Tensor | float, elevation: Tensor | float) -> Tensor:
    """Unit direction towards a light.

    Args:
        azimuth: (...) radians; 0 is in front of the face, positive towards +x, the right of the frontal picture.
        elevation: (...) radians above the level.

    Returns:
        (..., 3) in the frame of the head.
    """
    around, up = torch.broadcast_tensors(torch.as_tensor(azimuth), torch.as_tensor(elevation))
    level = up.cos()
    return torch.stack([around.sin() * level, up.sin(), around.cos() * level], dim=-1)


def directional_light(
    direction: Tensor,
    colour: Tensor | tuple[float, float, float] = (1.0, 1.0, 1.0),
    intensity: Tensor | float = 1.0,
    ambient: Tensor | float = 0.0,
) -> Tensor:
    """A distant lamp and a uniform surrounding.

    Args:
        direction: (..., 3) towards the lamp, in the frame of the head; need not be of unit length.
        colour: (..., 3) or a triple, RGB of the lamp.
        intensity: (...) or a number: what a white surface that faces the lamp sends out in an exact Lambert model. Nine
            coefficients are a smooth version of that: 1.0625 at the brightest point, at least -0.04 on the dark side.
        ambient: (...) or a number, grey; or (..., 3) RGB: what a white surface sends out without the lamp.

    Returns:
        (..., 27).

    Raises:
        CopoError: A direction has no length.
    """
    if not direction.is_floating_point():
        direction = direction.float()
    if direction.shape[-1:] != (3,) or not bool((direction.norm(dim=-1) > 1e-8).all()):
        raise CopoError(f"light direction {direction.tolist()}: give three numbers that are not all 0")
    lamp = torch.as_tensor(colour).to(direction) * torch.as_tensor(intensity).to(direction)[..., None]
    around = torch.as_tensor(ambient).to(direction)
    if around.shape[-1:] != (3,):
        around = around[..., None]
    radiance = lamp_radiance(F.normalize(direction, dim=-1), lamp)
    return illumination_from_radiance(radiance + uniform_radiance(around))


def lamp_radiance(direction: Tensor, colour: Tensor) -> Tensor:
    """Distant lamps, see `directional_light`.

    Args:
        direction: (..., 3) unit vectors towards the lamps.
        colour: (..., 3) RGB times intensity.

    Returns:
        (..., 9, 3).
    """
    harmonics = sh_basis(direction) * constant(_SIGNS, direction)
    return math.pi * harmonics[..., :, None] * colour[..., None, :]


def uniform_radiance(colour: Tensor) -> Tensor:
    """(..., 9, 3) light from everywhere, in which a white surface sends out `colour` (..., 3) or a grey (..., 1)."""
    first = constant((math.sqrt(4 * math.pi), *([0.0] * 8)), colour)
    return first[:, None] * colour[..., None, :]


def exposure(illumination: Tensor) -> Tensor:
    """Mean of the shading over the normals of the frontal hemisphere (z > 0), in closed form.

    Only two harmonics have a mean there: the constant, and z with 1/2.

    Args:
        illumination: (..., 27).

    Returns:
        (..., 3) RGB.
    """
    gamma = _by_colour(illumination)
    constant = BAND_FACTORS[0] * math.sqrt(1 / (4 * math.pi)) * (gamma[..., 0] + BASE_LIGHT)
    return constant + BAND_FACTORS[1] * math.sqrt(3 / (4 * math.pi)) / 2 * gamma[..., 2]


def normalise_exposure(illumination: Tensor, target: float = 1.0) -> Tensor:
    """Scale the whole light so that the brightness of its exposure is `target`; its colour is kept.

    Args:
        illumination: (..., 27).
        target: Brightness (Rec. 709) of the exposure.

    Returns:
        (..., 27).

    Raises:
        CopoError: No light falls on the face.
    """
    gamma = _by_colour(illumination)
    brightness = exposure(illumination) @ constant(_LUMINANCE, gamma)
    if not bool((brightness > 1e-6).all()):
        raise CopoError("illumination leaves the face dark: its exposure cannot be normalised; give another light")
    light = (gamma + _base(gamma)) * (target / brightness)[..., None, None]
    return (light - _base(gamma)).flatten(-2)


def _by_colour(illumination: Tensor) -> Tensor:
    """(..., 27) -> (..., 3, 9), checked."""
    if illumination.shape[-1:] != (27,):
        raise CopoError(f"illumination has shape {tuple(illumination.shape)}: expected (..., 27), 9 for each colour")
    return illumination.unflatten(-1, (3, 9))


def _base(like: Tensor) -> Tensor:
    """(9,) the method's base light."""
    return constant((BASE_LIGHT, *([0.0] * 8)), like)


def _radiance_factors(like: Tensor) -> Tensor:
    """(9,) coefficients gamma + base for each unit of radiance."""
    factors = (s * _LAMBERT[b] / (math.pi * BAND_FACTORS[b]) for s, b in zip(_SIGNS, BAND_OF, strict=True))
    return constant(tuple(factors), like)


NEUTRAL_LIGHT: Tensor = normalise_exposure(directional_light(torch.tensor([0.0, 0.5, 1.0]), intensity=0.7, ambient=0.6))
"""(27,) An average white light: soft, from in front and above, the same left and right, exposure 1."""
