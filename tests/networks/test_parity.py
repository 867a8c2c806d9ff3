"""The networks against recorded outputs of the published program, in every recorded variant."""

from __future__ import annotations

import math

import pytest
import torch
from tests.parity import Recording, assert_parity, parametrize

from copo.networks.build import (
    load_official_discriminator,
    load_official_generator,
    load_official_vae,
    load_official_vae_discriminator,
)


@parametrize("generator")
@torch.no_grad()
def test_generator(recording: Recording) -> None:
    recorded = {name: torch.from_numpy(v) for name, v in recording.arrays.items() if v.dtype.kind == "f"}
    generator = load_official_generator(
        recording.state("generator", "stylegan"), raw_resolution=recorded["sr_in"].shape[-1]
    )
    frontal = torch.full((1, 2), math.pi / 2)
    psi = float(str(recording.config.get("truncation_psi", 0.7)))

    ws = generator.mapping(recorded["latent"][:1], frontal, psi)
    assert_parity(ws, recorded["ws"], "ws")

    planes = generator.synthesis(ws)
    flat = planes.flatten(1, 2)
    stats = torch.stack([flat.mean(), flat.std(), flat.abs().max()])
    assert_parity(flat[0, ::8, ::4, ::4], recorded["triplane_slice"], "triplane_slice")
    # Three unlike numbers have no common scale: each is held to the planes' own standard deviation.
    assert ((stats - recorded["triplane_stats"]).abs() <= 1e-3 * recorded["triplane_stats"][1]).all()

    points = next(v for name, v in recorded.items() if name.startswith("point_outputs"))
    field = generator.decoder(recorded["point_features"])
    split = generator.config.feature_channels
    for name, ours, theirs in (
        ("colours", field.features[..., :3], points[..., :3]),
        ("features", field.features[..., 3:], points[..., 3:split]),
        ("density", field.density, points[..., split : split + 1]),
        ("classes", field.classes, points[..., split + 1 :]),
    ):
        assert_parity(ours, theirs, name)

    assert_parity(generator.super_resolution(recorded["sr_in"], ws), recorded["sr_out"], "sr_out")


@parametrize("discriminator")
@torch.no_grad()
def test_discriminator(recording: Recording) -> None:
    discriminator = load_official_discriminator(recording.state("discriminator", "stylegan"))
    judged = discriminator(recording.tensor("image"), recording.tensor("pose"))
    assert_parity(judged.score, recording.tensor("score"), "score")
    assert_parity(judged.pose, recording.tensor("pose_pred"), "pose_pred")
    assert_parity(judged.latent, recording.tensor("latent_pred"), "latent_pred")


@parametrize("vae_id")
def test_vae_identity(recording: Recording) -> None:
    check_vae(recording, "id")


@parametrize("vae_exp")
def test_vae_expression(recording: Recording) -> None:
    check_vae(recording, "exp")


@parametrize("vae_gamma")
def test_vae_illumination(recording: Recording) -> None:
    check_vae(recording, "gamma")


@torch.no_grad()
def check_vae(recording: Recording, factor: str) -> None:
    vae = load_official_vae(recording.state(f"vae_{factor}", "plain"))
    judge = load_official_vae_discriminator(recording.state(f"vae_discriminator_{factor}", "plain"))
    coefficients = recording.tensor("coeff")
    mean, log_variance = vae.encode(coefficients)
    assert_parity(vae.decode(recording.tensor("z")), recording.tensor("decoded"), "decoded")
    assert_parity(mean, recording.tensor("mu"), "mu")
    assert_parity(log_variance, recording.tensor("log_var"), "log_var")
    assert_parity(torch.sigmoid(judge(coefficients)), recording.tensor("disc"), "disc")


def test_the_helper_sees_a_difference() -> None:
    recorded = torch.tensor([0.0, 1.0, 2.0, 3.0])
    with pytest.raises(AssertionError, match="ours: largest error"):
        assert_parity(recorded + torch.tensor([0.0, 0.0, 0.002, 0.0]), recorded, "ours")
