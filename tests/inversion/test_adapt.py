from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from copo.cli.main import main
from copo.errors import CopoError
from copo.formats.pictures import load_image
from copo.inversion.adapt import Adapter
from copo.inversion.config import AdaptConfig
from copo.inversion.styles import (
    Styles,
    directions,
    middle,
    read_styles,
    rows_of,
    self_similarity,
    sliced_distance,
    some,
)
from copo.portrait import Portrait
from copo.vision.efficientnet import ImageFeatures
from copo.vision.models import locate, model

needs_features = pytest.mark.skipif(locate(model("efficientnet-lite0")) is None, reason="no EfficientNet-Lite0")
torch.set_num_threads(1)


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 40), st.integers(1, 5), st.floats(-3, 3))
def test_the_distance_sees_distributions_only(count: int, channels: int, shift: float) -> None:
    rows = torch.randn(count, channels, generator=random())
    turned = directions(channels, 8, random())
    assert torch.allclose(turned.norm(dim=0), torch.ones(8))
    shuffled = rows[torch.randperm(count, generator=random())]
    assert float(sliced_distance(rows, shuffled, turned)) < 1e-6
    # a shift by d moves each projection by d . direction
    moved = rows + shift
    expected = (torch.full((channels,), shift) @ turned).abs().mean()
    assert float(sliced_distance(rows, moved, turned)) == pytest.approx(float(expected), abs=1e-5)


def test_rows_know_where_they_are() -> None:
    rows = rows_of(torch.arange(6.0).view(1, 1, 2, 3), where=2.0)
    assert rows.tolist() == [[0, -2, -2], [1, 0, -2], [2, 2, -2], [3, -2, 2], [4, 0, 2], [5, 2, 2]]
    assert len(some(rows, 4, random())) == 4 and len(some(rows, 9, random())) == 9


def test_self_similarity_does_not_see_colours() -> None:
    maps = torch.randn(2, 5, 3, 3, generator=random())
    same = self_similarity(3 * maps + torch.randn(1, 5, 1, 1, generator=random()))
    assert same.shape == (2, 9, 9) and torch.allclose(same, self_similarity(maps), atol=1e-5)
    assert torch.allclose(same.diagonal(dim1=1, dim2=2), torch.ones(2, 9), atol=1e-5)


def test_the_middle_of_a_picture() -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    assert (middle(wide, 4) == 200).all()


def blue(folder: Path, count: int = 3) -> Path:
    """Pictures of a blue style."""
    folder.mkdir()
    for i in range(count):
        small = np.random.default_rng(i).integers(0, 60, (6, 6, 3)).astype(np.uint8)
        small[..., 2] += 180
        Image.fromarray(small).resize((40, 48), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@needs_features
def test_a_model_comes_nearer_to_the_style_and_keeps_its_controls(tmp_path: Path) -> None:
    source = Portrait.random("tiny", seed=3)
    styles = read_styles([blue(tmp_path / "blue")], source.size)
    assert styles.pictures.shape == (3, 3, 32, 32) and styles.aligned == 0
    before = {k: v.clone() for k, v in source.generator.state_dict().items()}
    features = ImageFeatures.load()
    done = Adapter(source, styles, features, AdaptConfig(steps=15, rate=1e-2)).run()
    assert done.after < 0.8 * done.before
    person = source.sample(seed=9)
    old, new = (m.render(person).image.mean(dim=(0, 2, 3)) for m in (source, done.model))
    assert (new[2] - new[0]) > (old[2] - old[0])  # bluer
    assert all(torch.equal(v, before[k]) for k, v in source.generator.state_dict().items())
    free = AdaptConfig(steps=15, rate=1e-2, likeness=0, depth=0, classes=0, opacity=0, change=0)
    loose = Adapter(source, styles, features, free).run()
    assert done.kept.depth < loose.kept.depth


@needs_features
def test_the_command_makes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Portrait.random("tiny", seed=3).save_pretrained(tmp_path / "model")
    words = ["adapt", "--images", str(blue(tmp_path / "blue")), "--model", str(tmp_path / "model"), "--device", "cpu"]
    main([*words, "--out", str(tmp_path / "new"), "--steps", "2", "--json"])
    body = json.loads(capsys.readouterr().out)
    assert body["pictures"] == 3 and body["steps"] == 2
    made = Portrait.from_pretrained(tmp_path / "new", device="cpu")
    assert made.render(made.sample(seed=1)).image.shape == (1, 3, 32, 32)
    assert load_image(tmp_path / "new" / "comparison.png").shape[2] == 3
    (tmp_path / "empty").mkdir()
    cases = [
        ([*words, "--out", str(tmp_path / "new")], "a model is there already"),
        ([*words, "--out", str(tmp_path / "x"), "--steps", "0"], "--steps 0"),
        ([*words, "--out", str(tmp_path / "x"), "--strength", "-1"], "--strength -1"),
        ([*words[:2], str(tmp_path / "empty"), *words[3:], "--out", str(tmp_path / "x")], "empty"),
    ]
    for given_, message in cases:
        with pytest.raises(SystemExit) as stopped:
            main(given_)
        said = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2 and message in said[-1], said
        assert not (tmp_path / "x").exists()


def test_styles_of_another_size_are_refused() -> None:
    source = Portrait.random("tiny", seed=3)

    class NoFeatures:
        def maps(self, pictures: torch.Tensor) -> list[torch.Tensor]:
            return [pictures]

    with pytest.raises(CopoError, match="16 px wide, the model's 32 px"):
        Adapter(source, Styles(torch.zeros(1, 3, 16, 16), 0), NoFeatures(), AdaptConfig())
