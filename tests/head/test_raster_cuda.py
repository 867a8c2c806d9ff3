"""CPU against CUDA: the compiled kernel, the plain path and whole heads. Needs a GPU, and no package beyond pytest."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from copo.camera import Camera
from copo.head.raster import Backend, rasterize
from copo.head.renderer import RasterConfig, optical_flow, render_mesh
from copo.head.shading import sh_shading, vertex_normals
from copo.illumination import NEUTRAL_LIGHT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
BACKENDS = ["torch", pytest.param("triton", marks=needs_triton)]


def bumpy_sphere(rows: int = 48, columns: int = 64, batch: int = 2) -> tuple[Tensor, Tensor]:
    """(B, V, 3) closed bumpy spheres of different size and (F, 3) outward triangles."""
    polar = torch.linspace(0, torch.pi, rows)[:, None]
    around = torch.arange(columns)[None] * (2 * torch.pi / columns)
    radius = 0.08 + 0.01 * torch.sin(5 * polar) * torch.cos(4 * around)
    level = polar.sin()
    points = torch.stack([level * around.sin(), polar.cos().expand(rows, columns), level * around.cos()], dim=-1)
    row, column = torch.meshgrid(torch.arange(rows - 1), torch.arange(columns), indexing="ij")
    a, b = row * columns + column, row * columns + (column + 1) % columns
    faces = torch.cat([torch.stack(f, -1).flatten(0, 1) for f in ((a, a + columns, b), (b, a + columns, b + columns))])
    vertices = (points * radius[..., None]).flatten(0, 1)
    return torch.stack([vertices * (1 - 0.1 * i) for i in range(batch)]), faces


def random_triangles(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Large triangles around the camera, some crossing its plane."""
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.randn(3, 60, 3, generator=generator) + torch.tensor([0, 0, 1.5])
    faces = torch.randint(0, 60, (200, 3), generator=generator)
    return vertices, faces, torch.tensor([[[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_visibility_is_that_of_the_cpu(backend: Backend, cull: bool, seed: int) -> None:
    vertices, faces, k = random_triangles(seed)
    cpu = rasterize(vertices, faces, k, (96, 128), near=0.1, cull_backfaces=cull, backend="torch")
    gpu = rasterize(vertices.cuda(), faces.cuda(), k.cuda(), (96, 128), near=0.1, cull_backfaces=cull, backend=backend)
    # The projection is a matrix product, which CUDA may round differently: single pixels on borders may change.
    assert (gpu.face.cpu() != cpu.face).float().mean() < 1e-3
    same = (gpu.face.cpu() == cpu.face) & cpu.mask
    assert (gpu.depth.cpu() - cpu.depth)[same].abs().quantile(0.999) < 1e-3


@needs_triton
@pytest.mark.parametrize("seed", range(4))
def test_triton_and_plain_paths_give_the_same_bits(seed: int) -> None:
    vertices, faces, k = (t.cuda() for t in random_triangles(seed))
    plain = rasterize(vertices, faces, k, 200, near=0.1, backend="torch")
    kernel = rasterize(vertices, faces, k, 200, near=0.1, backend="triton")
    assert torch.equal(kernel.face, plain.face)
    again = rasterize(vertices, faces, k, 200, near=0.1, backend="triton")
    assert torch.equal(kernel.face, again.face) and torch.equal(kernel.depth, again.depth)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_edges_neither_crack_nor_double(backend: Backend) -> None:
    # A grid whose corners lie on pixel centres, drawn as even and as odd triangles.
    size = 32
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    points = torch.stack([(column + 0.5) / size - 0.5, (row + 0.5) / size - 0.5, torch.ones_like(row)], dim=-1)
    vertices = points.flatten(0, 1)[None].float().cuda()
    a = (row[:-1, :-1] * size + column[:-1, :-1]).flatten()
    faces = torch.stack([a, a + size, a + 1, a + 1, a + size, a + size + 1], dim=1).view(-1, 3).cuda()
    k = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]]).cuda()
    even, odd = (rasterize(vertices, faces[i::2].contiguous(), k, size, backend=backend).mask[0] for i in (0, 1))
    expected = torch.ones(size, size, dtype=torch.bool)
    expected[-1], expected[:, -1] = False, False
    assert torch.equal((even | odd).cpu(), expected)
    assert not (even & odd).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_render_and_its_gradients_are_those_of_the_cpu(backend: Backend) -> None:
    vertices, faces = bumpy_sphere()
    pictures, gradients = [], []
    for device in ("cpu", "cuda"):
        config = RasterConfig(backend="torch" if device == "cpu" else backend)
        v = vertices.detach().to(device).requires_grad_()
        light = NEUTRAL_LIGHT[None].to(device).requires_grad_()
        f = faces.to(device)
        normals = vertex_normals(v, f)
        render = render_mesh(
            v,
            f,
            Camera.from_degrees(yaw=20).to(device),
            96,
            attributes={"colour": sh_shading(normals, light)},
            normals=normals,
            config=config,
        )
        (render.colour.mean() + render.depth.mean()).backward()
        assert v.grad is not None and light.grad is not None
        pictures.append(torch.cat([render.colour, render.depth, render.normals], dim=1).detach().cpu())
        gradients.append((v.grad.cpu(), light.grad.cpu()))
    assert ((pictures[0] - pictures[1]).abs().amax(1) > 1e-4).float().mean() < 1e-3
    for cpu, gpu in zip(*gradients, strict=True):
        assert (cpu - gpu).abs().sum() < 1e-2 * cpu.abs().sum()


def test_optical_flow_is_that_of_the_cpu() -> None:
    vertices, faces = bumpy_sphere()
    turn = Camera.from_degrees(yaw=30)
    cpu = optical_flow(vertices, 1.02 * vertices, faces, Camera.from_degrees(), turn, 96)
    gpu = optical_flow(
        vertices.cuda(), 1.02 * vertices.cuda(), faces.cuda(), Camera.from_degrees().to("cuda"), turn.to("cuda"), 96
    )
    assert (gpu.visible.cpu() != cpu.visible).float().mean() < 2e-3
    both = (gpu.visible.cpu() & cpu.visible).expand(-1, 2, -1, -1)
    assert (gpu.flow.cpu() - cpu.flow)[both].abs().quantile(0.999) < 2e-2


@needs_triton
def test_a_cuda_graph_holds_the_renderer() -> None:
    vertices, faces = (t.cuda() for t in bumpy_sphere())
    camera = Camera.from_degrees(yaw=20).to("cuda")
    config = RasterConfig(backend="triton", validate=False)
    source = vertices.clone()

    def draw() -> Tensor:
        normals = vertex_normals(source, faces)
        return render_mesh(source, faces, camera, 64, normals=normals, config=config).depth

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        draw()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = draw()
    source.copy_(0.9 * vertices)
    graph.replay()
    torch.testing.assert_close(captured, draw())
