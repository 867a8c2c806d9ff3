"""Whole frames against the recordings of the published program, in every recorded variant."""

from __future__ import annotations

import pytest
import torch
from tests.parity import Recording, assert_parity, parametrize

from copo.camera import Camera
from copo.field.blending import BLEND_MODES, Blend
from copo.field.planes import sample_planes
from copo.field.portrait_field import PortraitField, PortraitPlanes, Reference
from copo.field.sampling import SamplingConfig
from copo.networks.build import load_official_generator


class Scene:
    """A recorded variant, set up as its configuration says."""

    def __init__(self, recording: Recording) -> None:
        self.arrays = {k: torch.from_numpy(v) for k, v in recording.arrays.items() if v.dtype.kind == "f"}
        settings = recording.config
        generator = load_official_generator(
            recording.state("generator", "stylegan"), raw_resolution=self.arrays["shape_forward_raw"].shape[-1]
        )
        count = int(str(settings.get("num_steps", 48)))
        sampling = SamplingConfig(
            near=float(str(settings.get("ray_start", 0.88))),
            far=float(str(settings.get("ray_end", 1.12))),
            coarse=count,
            fine=count if settings.get("hierarchical_sample", True) else 0,
        )
        pitch, yaw = self.arrays["pitch_yaw"].unbind(1)
        self.cameras = Camera.from_pitch_yaw(pitch, yaw, torch.tensor(float(str(settings.get("fov", 12.6)))).deg2rad())
        self.field = PortraitField(generator, sampling)
        self.portraits: PortraitPlanes = self.field.planes(
            self.arrays["latent"], psi=float(str(settings.get("truncation_psi", 0.7)))
        )


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    return {}


def scene_of(recording: Recording, scenes: dict[str, Scene]) -> Scene:
    if recording.variant not in scenes:
        scenes[recording.variant] = Scene(recording)
    return scenes[recording.variant]


@parametrize("generator")
@torch.no_grad()
def test_point_features(recording: Recording, scenes: dict[str, Scene]) -> None:
    scene = scene_of(recording, scenes)
    ours = sample_planes(scene.portraits.planes[:1], scene.arrays["points"], scene.field.config.box)
    assert_parity(ours, scene.arrays["point_features"], "point_features")


@parametrize("generator")
@torch.no_grad()
def test_raw_and_labels(recording: Recording, scenes: dict[str, Scene]) -> None:
    scene = scene_of(recording, scenes)
    frame = scene.field.render(scene.portraits[0], scene.cameras[1])
    assert_parity(frame.raw, scene.arrays["shape_forward_raw"], "raw")
    assert_parity(frame.classes, scene.arrays["shape_forward_label"], "labels")


@pytest.mark.parametrize("mode", BLEND_MODES)
@parametrize("generator")
@torch.no_grad()
def test_frames(recording: Recording, mode: str, scenes: dict[str, Scene]) -> None:
    scene = scene_of(recording, scenes)
    still = Reference(scene.portraits[0])
    frames = [
        scene.field.render(scene.portraits[k], scene.cameras[k], blend=Blend.published(mode), reference=still).image
        for k in range(len(scene.portraits))
    ]
    assert_parity(torch.cat(frames), scene.arrays[f"frames_{mode}"], f"frames_{mode}")
