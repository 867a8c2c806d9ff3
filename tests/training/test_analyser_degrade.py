"""What happens to pictures on their way."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from copo.training.analyser.chance import Chance
from copo.training.analyser.config import DegradeConfig
from copo.training.analyser.degrade import blur, colour, degrade, jpeg, noise


def picture() -> torch.Tensor:
    """(1, 3, 64, 64) smooth with some detail, in [-1, 1]."""
    chance = Chance("cpu", 5)
    return (0.4 * chance.noise(1, 3, 64, 6) + 0.15 * chance.noise(1, 1, 64, 24)).clamp(-1, 1)


def pillow_jpeg(one: torch.Tensor, quality: int) -> torch.Tensor:
    array = ((one[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    out = io.BytesIO()
    Image.fromarray(array).save(out, "JPEG", quality=quality, subsampling=2)
    back = np.array(Image.open(out))
    return torch.from_numpy(back).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("quality", [20, 50, 85])
def test_jpeg_is_the_real_one(quality: int) -> None:
    start = picture()
    ours, real = jpeg(start, torch.tensor([float(quality)])), pillow_jpeg(start, quality)
    assert (ours - real).abs().mean() < 0.015
    assert (ours - real).abs().mean() < 0.5 * (real - start).abs().mean() + 0.004


def test_jpeg_of_a_plain_picture_is_plain() -> None:
    plain = torch.full((1, 3, 32, 32), 0.25)
    torch.testing.assert_close(jpeg(plain, torch.tensor([90.0])), plain, atol=0.03, rtol=0)


def test_blur_keeps_the_mean_and_none_is_none() -> None:
    start = picture()
    torch.testing.assert_close(blur(start, torch.zeros(1)), start, atol=1e-5, rtol=0)
    dot = torch.zeros(1, 1, 33, 33)
    dot[0, 0, 16, 16] = 1
    soft = blur(dot, torch.tensor([1.5]))
    assert float(soft.sum()) == pytest.approx(1, abs=1e-4)
    steps = torch.arange(33) - 16.0
    assert float((soft[0, 0].sum(0) * steps**2).sum()) == pytest.approx(1.5**2, rel=0.02)


def test_each_picture_is_worsened_in_its_own_way_and_the_same_way_again() -> None:
    start = picture().repeat(6, 1, 1, 1)
    once, again = (degrade(start, DegradeConfig(), Chance("cpu", 1, 0, 7)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.min() >= -1 and once.max() <= 1
    other = degrade(start, DegradeConfig(), Chance("cpu", 1, 0, 8))
    assert not torch.equal(once, other)
    assert all((once[0] - once[i]).abs().mean() > 1e-3 for i in range(1, 6))


def test_strength_zero_changes_nothing() -> None:
    off = DegradeConfig(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    start = picture()
    torch.testing.assert_close(degrade(start, off, Chance("cpu", 0)), start, atol=1e-5, rtol=0)


def test_grey_and_noise() -> None:
    chance = Chance("cpu", 0)
    grey = colour(picture(), DegradeConfig(brightness=0, contrast=0, saturation=0, tint=0, grey=1.0), chance)
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    loud = noise(torch.zeros(400, 3, 8, 8), DegradeConfig(noise=0.3, noisy=1.0), chance)
    # the strength is 0.3 u^2 with u uniform, times unit noise: variance 0.09 E[u^4] = 0.018
    assert float(loud.var()) == pytest.approx(0.09 / 5, rel=0.15)
