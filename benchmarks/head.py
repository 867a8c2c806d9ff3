"""Speed of the mesh renderer: one head at 512 px on the CPU, eight at 224 px on CUDA.

Run it with `PYTHONPATH=src python3 benchmarks/head.py [--out head.json] [--repeats 20] [--threads 2]`.

What is timed. "head to picture": `render_head` from coefficients to colour, mask, depth, normals, labels and uv, all
included (linear bases, vertex normals, shading, projection, visibility, interpolation). "without checks" is the same
with `RasterConfig(validate=False)`, which never waits for the GPU. "mesh to picture": the same
from given vertices and colours, `render_mesh`. "forward and backward" adds the gradients of a mean of colour and depth
in all coefficients. "CUDA graph" replays the recorded head to picture, without its checks of the input. Each figure is
the median of the repeats after two calls of warm-up; CUDA is synchronised at both ends of every repeat.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from copo.camera import Camera
from copo.factors import Factors
from copo.head.open_head import OpenHead
from copo.head.renderer import MeshRender, RasterConfig, render_head, render_mesh
from copo.head.shading import sh_shading, vertex_normals
from copo.illumination import NEUTRAL_LIGHT

FOV, SIZE_CPU, SIZE_CUDA, HEADS_CUDA = 20.0, 512, 224, 8
"""Degrees of the camera's field of view (the whole head fills the picture), pixels on CPU and CUDA, heads on CUDA."""


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        what: What was timed.
        device: Name of the processor.
        heads: Batch size.
        size: Pixels a side.
        backend: Who resolved visibility.
        median_ms: Median of the repeats, milliseconds for the whole batch.
        best_ms: Fastest repeat.
        goal_ms: The figure that is asked for, or None.
    """

    what: str
    device: str
    heads: int
    size: int
    backend: str
    median_ms: float
    best_ms: float
    goal_ms: float | None = None


def timed(call: Callable[[], object], device: str, repeats: int) -> tuple[float, float]:
    """Median and fastest of some calls, milliseconds, after two calls of warm-up."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    times = []
    for repeat in range(repeats + 2):
        wait()
        start = time.perf_counter()
        call()
        wait()
        if repeat >= 2:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), min(times)


def run(device: str, heads: int, size: int, config: RasterConfig, goal_ms: float | None, repeats: int) -> list[Result]:
    """Time all paths on one device.

    Args:
        device: "cpu" or "cuda".
        heads: Batch size.
        size: Pixels a side.
        config: How to draw.
        goal_ms: What "head to picture" is asked to take.
        repeats: Timed calls of each path.
    """
    head = OpenHead.load().to(device)
    random = Factors.cat([Factors.random(head.spec, seed, NEUTRAL_LIGHT) for seed in range(heads)]).to(device)
    yaw = torch.linspace(-30, 30, heads) if heads > 1 else torch.tensor([20.0])
    camera = Camera.cat([Camera.from_degrees(yaw=float(y), fov=FOV) for y in yaw]).to(device)
    coefficients = [random.shape, random.expression, random.albedo, random.illumination]

    def picture(settings: RasterConfig = config) -> MeshRender:
        return render_head(head, *coefficients, camera, size, config=settings)

    vertices = head.vertices(random.shape, random.expression)
    normals = vertex_normals(vertices, head.topology.faces)
    colour = head.albedo(random.albedo) * sh_shading(normals, random.illumination)
    mesh = {"labels": head.topology.labels, "uv": head.topology.uv, "uv_faces": head.topology.uv_faces}

    def from_mesh() -> MeshRender:
        return render_mesh(
            vertices, head.topology.faces, camera, size, {"colour": colour}, normals=normals, config=config, **mesh
        )

    leaves = [c.clone().requires_grad_() for c in coefficients]

    def train() -> None:
        render = render_head(head, *leaves, camera, size, config=config)
        torch.autograd.grad(render.colour.mean() + render.depth.mean(), leaves)

    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    results = []

    def add(what: str, call: Callable[[], object], goal: float | None = None) -> None:
        results.append(Result(what, name, heads, size, config.backend, *timed(call, device, repeats), goal))

    with torch.no_grad():
        add("head to picture", picture, goal_ms)
        add("mesh to picture", from_mesh)
    add("forward and backward", train)
    if device == "cuda" and config.backend == "triton":
        unchecked = RasterConfig(backend="triton", validate=False)
        with torch.no_grad():
            add("without checks", lambda: picture(unchecked), goal_ms)
            add("CUDA graph", graphed(lambda: picture(unchecked)), goal_ms)
    return results


def graphed(call: Callable[[], object]) -> Callable[[], None]:
    """A recorded call."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(repeats: int = 20, threads: int = 2) -> list[Result]:
    """Every measurement that this machine can make."""
    torch.set_num_threads(threads)
    results = run("cpu", 1, SIZE_CPU, RasterConfig(backend="torch"), 250.0, repeats)
    if torch.cuda.is_available():
        results += run("cuda", HEADS_CUDA, SIZE_CUDA, RasterConfig(backend="torch"), 5.0, repeats)
        try:
            results += run("cuda", HEADS_CUDA, SIZE_CUDA, RasterConfig(backend="triton"), 5.0, repeats)
        except Exception as error:
            print(f"triton path failed: {error!r}")
    return results


def table(results: list[Result]) -> str:
    """The results as text."""
    lines = [
        f"{'what':<22}{'heads':>6}{'size':>6}  {'backend':<9}{'median ms':>10}{'best ms':>9}{'goal ms':>9}  device"
    ]
    for r in results:
        goal = "" if r.goal_ms is None else f"{r.goal_ms:.0f}"
        what = f"{r.what:<22}{r.heads:>6}{r.size:>6}  {r.backend:<9}"
        lines.append(f"{what}{r.median_ms:>10.2f}{r.best_ms:>9.2f}{goal:>9}  {r.device}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each path")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args()
    results = measure(options.repeats, options.threads)
    print(table(results))
    if options.out:
        machine = {"python": platform.python_version(), "torch": torch.__version__}
        options.out.write_text(
            json.dumps({"machine": machine, "results": [asdict(r) for r in results]}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
