"""`copo doctor`: what is here, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated

import torch
import tyro

import copo

PACKAGES = ("torch", "numpy", "scipy", "safetensors", "tyro", "trimesh", "scikit-image", "pillow")


@dataclass(frozen=True)
class Part:
    """One optional part."""

    name: str
    present: bool
    purpose: str
    how: str
    """How to get it; empty where it is present."""


@dataclass(frozen=True)
class Report:
    """All that `copo doctor` found."""

    copo: str
    python: str
    system: str
    packages: dict[str, str]
    devices: list[str]
    parts: list[Part] = field(default_factory=list)


@dataclass
class Command:
    """Print versions, devices and optional parts, and for each missing part how to get it.

    Example: copo doctor --json
    """

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON instead of text."""

    def run(self) -> None:
        report = examine()
        if self.json:
            print(json.dumps(asdict(report), indent=2))
            return
        print(f"copo {report.copo}, Python {report.python}, {report.system}")
        print("packages: " + ", ".join(f"{name} {version}" for name, version in report.packages.items()))
        for device in report.devices:
            print(f"device:   {device}")
        for part in report.parts:
            print(f"{'present' if part.present else 'missing'}:  {part.name}, {part.purpose}")
            if not part.present:
                print(f"          to get it: {part.how}")


def examine() -> Report:
    """Look at this installation. Nothing is downloaded or changed."""
    packages = {name: _version(name) for name in PACKAGES}
    devices = [f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads in torch"]
    for index in range(torch.cuda.device_count()):
        props = torch.cuda.get_device_properties(index)
        devices.append(
            f"cuda:{index}: {props.name}, {props.total_memory / 2**30:.0f} GiB, compute {props.major}.{props.minor}"
        )
    return Report(
        copo=copo.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=packages,
        devices=devices,
        parts=[_open_head(), _bfm(), *_modules()],
    )


def _open_head() -> Part:
    path = Path(copo.__file__).parent / "assets" / "open_head.safetensors"
    return Part("open head", path.is_file(), "the parametric head in the box", "reinstall copo: its wheel carries it")


def _bfm() -> Part:
    folder = os.environ.get("COPO_BFM_DIR", "")
    names = ("BFM_model_front.mat", "01_MorphableModel.mat")
    present = bool(folder) and any((Path(folder) / name).is_file() for name in names)
    return Part(
        "Basel Face Model 2009",
        present,
        "the published system's face model (research licence)",
        "apply at https://faces.dmi.unibas.ch/bfm, unpack it and set COPO_BFM_DIR to the folder (docs/formats.md)",
    )


def _modules() -> list[Part]:
    wanted = [
        ("triton", "fused GPU kernels", "comes with CUDA builds of torch on Linux; otherwise: pip install triton"),
        (
            "nvdiffrast",
            "NVIDIA's rasteriser instead of ours (non-commercial licence)",
            "build it from https://nvlabs.github.io/nvdiffrast; never needed",
        ),
    ]
    return [Part(name, importlib.util.find_spec(name) is not None, purpose, how) for name, purpose, how in wanted]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
