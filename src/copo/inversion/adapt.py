"""Adaptation: a generator learns a style from a few pictures while its controls stay.

What the style is: the distribution of EfficientNet's features and of colours, each with its place in the picture. What
must stay, compared with the source model at the same factors and camera: depth, opacity and classes of the volume;
which places of a portrait look alike; and what an edit of expression changes in the brightness.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.field.portrait_field import PortraitField, PortraitFrame
from copo.inversion.config import AdaptConfig, TuningStage
from copo.inversion.controls import Kept, measure
from copo.inversion.low_rank import Changes
from copo.inversion.styles import Styles, directions, rows_of, self_similarity, sliced_distance, some
from copo.networks.personal import tunable
from copo.portrait import Portrait
from copo.training.conditioning import random_expressions
from copo.training.perception import FeatureMaps
from copo.training.scene import resize

TEST_SEEDS = tuple(range(1_000_000, 1_000_004))
"""People on whom an adaptation is measured; none of them is drawn in training."""
LUMINANCE = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class Adapted:
    """The outcome.

    Attributes:
        model: In the style.
        before: Distance of the source model's portraits from the style.
        after: Of the adapted model's.
        kept: What is left of the controls, the mean over people that were not trained on.
        steps: Taken.
    """

    model: Portrait
    before: float
    after: float
    kept: Kept
    steps: int


class Adapter:
    """Adapts a model.

    Args:
        model: The source; it stays as it is.
        styles: Pictures of the style, at the model's size.
        features: Perceptual features.
        config: How.
        progress: Is told how far it is, 0 to 1.
    """

    def __init__(
        self,
        model: Portrait,
        styles: Styles,
        features: FeatureMaps,
        config: AdaptConfig,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        if styles.pictures.shape[-1] != model.size:
            raise CopoError(
                f"the style's pictures are {styles.pictures.shape[-1]} px wide, the model's {model.size} px"
            )
        self.source, self.config, self.features = model, config, features
        self.progress = progress or (lambda share: None)
        self.network = copy.deepcopy(model.generator).eval().requires_grad_(False)
        self.field, self.before = PortraitField(self.network), model.field
        self.random = torch.Generator().manual_seed(config.seed)
        self.pictures = styles.pictures.to(model.device)
        with torch.no_grad():
            maps = [self._maps(picture[None]) for picture in self.pictures]
            self.maps = [torch.cat(parts) for parts in zip(*maps, strict=True)]
        self.scales = [m.std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-3) for m in self.maps]

    def run(self) -> Adapted:
        """Learn, measure."""
        c = self.config
        before = self.distance(self.before)
        changes = Changes(self.network, list(tunable(self.network)), c.rank, c.seed)
        optimiser = torch.optim.Adam(changes.parameters(), lr=c.rate, betas=(0.5, 0.99))
        try:
            for step in range(c.steps):
                share = step / c.steps
                optimiser.param_groups[0]["lr"] = c.rate * min(1.0, (step + 1) / 20) * min(1.0, (1 - share) / 0.3)
                with parametrize.cached():
                    terms = self._losses(step)
                    loss = torch.stack(list(terms.values())).sum()
                if not bool(torch.isfinite(loss)):
                    raise CopoError(f"adaptation: the loss is not finite after {step} steps: lower --rate")
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                self.progress((step + 1) / c.steps)
        finally:
            changes.close(keep=True)
        self.network.eval().requires_grad_(False)
        kept = [self._kept(seed) for seed in TEST_SEEDS]
        mean = Kept(sum(k.change for k in kept) / len(kept), sum(k.depth for k in kept) / len(kept))
        made = self.source.with_generator(self.network, f"{self.source.name}-adapted")
        return Adapted(made, before, self.distance(self.field), mean, c.steps)

    # --- losses ---------------------------------------------------------------------------------------------------

    def _losses(self, step: int) -> dict[str, Tensor]:
        c = self.config
        people, camera = self._draw(step)
        new = self._show(self.field, people, camera)
        with torch.no_grad():
            old = self._show(self.before, people, camera)
            old_maps = self.features.maps(old.image)
        new_maps = self.features.maps(new.image)
        seen = old.alpha
        out = self._style(new.image, new_maps)
        deep = min(3, len(new_maps) - 1)
        out["likeness"] = c.likeness * (self_similarity(new_maps[deep]) - self_similarity(old_maps[deep])).abs().mean()
        out["depth"] = c.depth * ((new.depth - old.depth).abs() * seen).sum() / seen.sum().clamp_min(1.0)
        out["opacity"] = c.opacity * (new.alpha - old.alpha).abs().mean()
        out["classes"] = c.classes * (new.classes - old.classes).abs().sum(1).mean()
        if c.change and step % 2:
            rest = people.replace(expression=torch.zeros_like(people.expression))
            with torch.no_grad():
                old_rest = self._show(self.before, rest, camera)
            new_rest = self._show(self.field, rest, camera)
            out["change"] = 2 * c.change * (_brightness(new, new_rest) - _brightness(old, old_rest)).abs().mean()
        return out

    def _style(self, image: Tensor, maps: list[Tensor]) -> dict[str, Tensor]:
        """Distances of features and colours from those of the style."""
        c = self.config
        total = image.new_zeros(())
        for mine, theirs, scale in zip(maps[: c.levels], self.maps, self.scales, strict=True):
            total = total + self._sliced(mine / scale, theirs / scale)
        side = max(image.shape[-1] // 4, 8)
        colour = self._sliced(resize(image, side), resize(self.pictures, side))
        return {"style": c.style * total / c.levels, "colour": c.colour * colour}

    def _sliced(self, mine: Tensor, theirs: Tensor) -> Tensor:
        c = self.config
        a, b = rows_of(mine, c.where), rows_of(theirs, c.where)
        count = min(c.places, len(a))
        turned = directions(a.shape[1], c.directions, self.random).to(a)
        return sliced_distance(some(a, count, self.random), some(b, count, self.random), turned)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _draw(self, step: int) -> tuple[Factors, Camera]:
        """Random people, half of them with random expressions, before random cameras."""
        c = self.config
        seeds = [c.seed * 7919 + step * c.batch + i + 1 for i in range(c.batch)]
        people = self.source.sample(seeds=seeds, psi=c.psi)
        random = random_expressions(people.spec, c.batch, c.units, self.random)
        pick = torch.rand(c.batch, 1, generator=self.random) < 0.5
        people = people.replace(expression=torch.where(pick, random, people.expression))
        return people.to(self.source.device), self.source.sample_cameras(seeds).to(self.source.device)

    def _show(self, field: PortraitField, people: Factors, camera: Camera) -> PortraitFrame:
        return field.render(field.planes(people.to_vector()), camera)

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        return self.features.maps(pictures)[: self.config.levels]

    @torch.no_grad()
    def distance(self, field: PortraitField) -> float:
        """How far a generator's portraits of people that are not trained on are from the style."""
        people = self.source.sample(seeds=list(TEST_SEEDS)).to(self.source.device)
        camera = self.source.default_camera.to(self.source.device)
        keep, self.random = self.random, torch.Generator().manual_seed(0)
        total = 0.0
        for i in range(len(people)):
            image = self._show(field, people[i], camera).image
            total += float(torch.stack(list(self._style(image, self.features.maps(image)).values())).sum())
        self.random = keep
        return total / len(people)

    def _kept(self, seed: int) -> Kept:
        person = self.source.sample(seed=seed).to(self.source.device)
        camera = self.source.default_camera.to(self.source.device)
        limits = TuningStage(yaw=math.radians(30), pitch=math.radians(10))
        return measure(self.before, self.field, person, camera, limits, seed, rounds=1)


def _brightness(frame: PortraitFrame, rest: PortraitFrame) -> Tensor:
    """(B, 1, h, w) what the expression changed in the brightness, at the size of the volume-rendered picture."""
    difference = resize(frame.image - rest.image, frame.raw.shape[-1])
    return (difference * difference.new_tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
