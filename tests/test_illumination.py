"""Light conversions, against numeric integration over the sphere and the properties of rotations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from copo import illumination as lighting
from copo.errors import CopoError
from copo.head.shading import sh_basis, sh_shading

seeds = st.integers(0, 2**31 - 1)


def sphere_grid(polar: int = 64, around: int = 128) -> tuple[Tensor, Tensor]:
    """Directions (N, 3) and quadrature weights (N,) that integrate over the sphere (float64)."""
    nodes, weights = np.polynomial.legendre.leggauss(polar)
    height = torch.tensor(nodes)[:, None]
    angle = (torch.arange(around, dtype=torch.float64) + 0.5)[None] * (2 * math.pi / around)
    level = (1 - height**2).sqrt()
    directions = torch.stack([level * angle.cos(), level * angle.sin(), height.expand(-1, around)], dim=-1)
    area = torch.tensor(weights)[:, None].expand(-1, around) * (2 * math.pi / around)
    return directions.reshape(-1, 3), area.reshape(-1)


def plain_harmonics(directions: Tensor) -> Tensor:
    """The radiance's basis, written out from the module's docstring."""
    x, y, z = directions.unbind(-1)
    one = torch.ones_like(x)
    rows = [
        one,
        math.sqrt(3) * y,
        math.sqrt(3) * z,
        math.sqrt(3) * x,
        math.sqrt(15) * x * y,
        math.sqrt(15) * y * z,
        math.sqrt(5) * (3 * z * z - 1) / 2,
        math.sqrt(15) * x * z,
        math.sqrt(15) * (x * x - y * y) / 2,
    ]
    return torch.stack(rows, dim=-1) / (2 * math.sqrt(math.pi))


def random_rotation(seed: int) -> Tensor:
    """(3, 3) float64."""
    return torch.tensor(Rotation.random(random_state=np.random.RandomState(seed)).as_matrix())


def test_shading_is_the_clamped_cosine_convolution_of_the_radiance() -> None:
    directions, area = sphere_grid()
    radiance = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    normals = torch.nn.functional.normalize(
        torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), dim=1
    )
    incoming = plain_harmonics(directions) @ radiance
    cosine = (normals @ directions.T).clamp_min(0)
    outgoing = (cosine * area) @ incoming / math.pi

    shaded = sh_shading(normals[None], lighting.illumination_from_radiance(radiance)[None])[0]

    torch.testing.assert_close(shaded, outgoing, atol=2e-3, rtol=0)


def test_radiance_round_trips_through_illumination() -> None:
    radiance = torch.randn(4, 9, 3, generator=torch.Generator().manual_seed(4))
    back = lighting.radiance_from_illumination(lighting.illumination_from_radiance(radiance))
    torch.testing.assert_close(back, radiance)


def test_uniform_unit_radiance_lights_everything_by_one() -> None:
    radiance = torch.zeros(9, 3)
    radiance[0] = math.sqrt(4 * math.pi)
    normals = torch.nn.functional.normalize(torch.randn(1, 20, 3), dim=2)
    shaded = sh_shading(normals, lighting.illumination_from_radiance(radiance)[None])
    torch.testing.assert_close(shaded, torch.ones(1, 20, 3))


@given(seeds)
def test_rotating_the_light_rotates_the_shading(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rotation = random_rotation(seed)
    illumination = torch.randn(2, 27, dtype=torch.float64, generator=generator)
    normals = torch.nn.functional.normalize(torch.randn(2, 8, 3, dtype=torch.float64, generator=generator), dim=2)
    turned = lighting.rotate_illumination(illumination, rotation)
    torch.testing.assert_close(sh_shading(normals @ rotation.T, turned), sh_shading(normals, illumination))


@given(seeds, seeds)
def test_sh_rotation_is_orthogonal_block_diagonal_and_composes(first: int, second: int) -> None:
    a, b = random_rotation(first), random_rotation(second)
    matrix = lighting.sh_rotation(a)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(9, dtype=torch.float64))
    assert matrix[:1, 1:].abs().max() < 1e-12
    assert matrix[1:4, 4:].abs().max() < 1e-12
    torch.testing.assert_close(lighting.sh_rotation(b @ a), lighting.sh_rotation(b) @ matrix)


def test_a_quarter_turn_about_y_takes_front_light_to_the_side() -> None:
    # Rotation by +90 degrees about y takes +z to +x.
    turn = torch.tensor(Rotation.from_euler("y", 90, degrees=True).as_matrix(), dtype=torch.float32)
    front = lighting.directional_light(torch.tensor([0.0, 0.0, 1.0]))
    side = lighting.directional_light(torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(lighting.rotate_illumination(front, turn), side, atol=1e-5, rtol=0)
    radiance = lighting.radiance_from_illumination(front)
    torch.testing.assert_close(
        lighting.illumination_from_radiance(lighting.rotate_radiance(radiance, turn)), side, atol=1e-5, rtol=0
    )


@given(seeds)
def test_directional_light_is_brightest_towards_the_lamp(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
    light = lighting.directional_light(direction, colour=(1.0, 0.5, 0.25), intensity=2.0, ambient=0.3)
    others = torch.nn.functional.normalize(torch.randn(1, 200, 3, generator=generator), dim=2)
    facing = sh_shading(direction[None, None], light[None])[0, 0]
    # 1.0625 = 1/4 + 1/2 + 5/16, the value at the pole of the clamped cosine cut off after order 2.
    torch.testing.assert_close(facing, 2 * 1.0625 * torch.tensor([1.0, 0.5, 0.25]) + 0.3, atol=1e-5, rtol=0)
    shaded = sh_shading(others, light[None])
    assert (shaded <= facing + 1e-5).all()
    assert (shaded >= 0.3 - 2 * 0.0421).all()


def test_direction_from_angles_follows_the_picture() -> None:
    quarter = torch.tensor(math.pi / 2)
    torch.testing.assert_close(
        lighting.direction_from_angles(quarter, 0.0), torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        lighting.direction_from_angles(0.0, quarter), torch.tensor([0, 1.0, 0]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(lighting.direction_from_angles(0.0, 0.0), torch.tensor([0, 0, 1.0]))


def test_exposure_is_the_mean_over_frontal_normals() -> None:
    directions, area = sphere_grid()
    front = directions[:, 2] > 0
    illumination = torch.randn(27, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    shaded = sh_shading(directions[front][None], illumination[None])[0]
    mean = (shaded * area[front, None]).sum(0) / area[front].sum()
    torch.testing.assert_close(lighting.exposure(illumination), mean, atol=2e-3, rtol=0)


def test_normalised_exposure_keeps_the_colour() -> None:
    light = lighting.directional_light(torch.tensor([0.3, 0.4, 1.0]), colour=(1.0, 0.8, 0.6), ambient=0.2)
    same = lighting.normalise_exposure(light, target=1.3)
    before, after = lighting.exposure(light), lighting.exposure(same)
    torch.testing.assert_close(after / after.sum(), before / before.sum())
    assert after @ torch.tensor([0.2126, 0.7152, 0.0722]) == pytest.approx(1.3, rel=1e-5)


def test_neutral_light_is_white_symmetric_and_of_unit_exposure() -> None:
    red, green, blue = lighting.NEUTRAL_LIGHT.view(3, 9)
    torch.testing.assert_close(red, green)
    torch.testing.assert_close(red, blue)
    torch.testing.assert_close(lighting.exposure(lighting.NEUTRAL_LIGHT), torch.ones(3))
    odd_in_x = [3, 4, 7]
    assert red[odd_in_x].abs().max() < 1e-6


def test_batches_of_lights() -> None:
    directions = torch.randn(4, 3)
    light = lighting.directional_light(directions, torch.rand(4, 3), torch.rand(4), torch.rand(4))
    assert light.shape == (4, 27)
    one = lighting.directional_light(directions[2])
    torch.testing.assert_close(lighting.directional_light(directions)[2], one)
    assert lighting.rotate_illumination(light, torch.eye(3).expand(4, 3, 3)).shape == (4, 27)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lighting.illumination_from_radiance(torch.zeros(9)), "radiance has shape (9,)"),
        (lambda: lighting.directional_light(torch.zeros(3)), "light direction"),
        (lambda: lighting.exposure(torch.zeros(26)), "illumination has shape (26,)"),
        (
            lambda: lighting.normalise_exposure(lighting.illumination_from_radiance(torch.zeros(9, 3))),
            "leaves the face dark",
        ),
    ],
)
def test_bad_light_is_told_in_one_line(call: object, words: str) -> None:
    with pytest.raises(CopoError) as caught:
        call()  # type: ignore[operator]
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_basis_is_orthonormal() -> None:
    directions, area = sphere_grid()
    basis = sh_basis(directions)
    torch.testing.assert_close(basis.T @ (basis * area[:, None]), torch.eye(9, dtype=torch.float64))
