"""Inversion: find the portrait of a model that is a photograph.

1. Code: the noise code (hair, clothes, background), and small moves of the analysed factors.
2. Latents: one offset of w for each layer, one for the background.
3. Pivotal tuning (Roich et al. 2021): low-rank changes of the generator's weights, held back by what keeps controls.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parametrize

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors, seeded_normal
from copo.field.portrait_field import PortraitField, PortraitFrame
from copo.formats.checkpoint import fingerprint
from copo.formats.pictures import to_uint8
from copo.formats.portrait_file import PortraitFile
from copo.inversion.config import InversionConfig
from copo.inversion.controls import KINDS, Controls, Kept, draw_edit, measure
from copo.inversion.likeness import Error, Likeness
from copo.inversion.low_rank import Changes
from copo.inversion.photographs import Photographs
from copo.networks.generator import Generator
from copo.networks.personal import fold_offsets, personal, tunable
from copo.training.perception import Perception

STAGES = ("code", "latents", "tuning")
START_SHARE = 0.3
"""Longest search for a first noise code, as a share of the first stage's time."""
CLOSING_SHARE = 0.05
"""Of the whole time, kept for measuring what came out."""
Progress = Callable[[str, float], None]
"""Called with the name of the stage and how far it is, 0 to 1."""


@dataclass(frozen=True)
class StageResult:
    """Where a stage ended.

    Attributes:
        name: code, latents or tuning.
        steps: Taken.
        seconds: It took.
        errors: Of each photograph.
        pictures: (N, S, S, 3) uint8 renderings.
    """

    name: str
    steps: int
    seconds: float
    errors: tuple[Error, ...]
    pictures: NDArray[np.uint8]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; numbers that were not measured are None."""
        errors = [{k: round(v, 5) if math.isfinite(v) else None for k, v in asdict(e).items()} for e in self.errors]
        return {"stage": self.name, "steps": self.steps, "seconds": round(self.seconds, 2), "errors": errors}


@dataclass(frozen=True)
class Inversion:
    """The outcome.

    Attributes:
        portrait: What to save.
        stages: Where each stage ended; the last was measured on the portrait file as it is stored.
        kept: What is left of the controls.
        generator: The personal generator.
    """

    portrait: PortraitFile
    stages: tuple[StageResult, ...]
    kept: Kept
    generator: Generator


@dataclass
class _State:
    """What is optimised before tuning.

    Attributes:
        moved: By factor: (1, n) moves of shape and albedo, (N, n) of expression and light, in units of their spread.
        noise: (1, n).
        ws: (ws_count, w_dim).
        background: (background_w_dim,) or None.
    """

    start: Factors
    spread: dict[str, float]
    moved: dict[str, Tensor]
    noise: Tensor
    ws: Tensor
    background: Tensor | None

    def factors(self) -> Factors:
        """(N) where they are now."""
        low, high = self.start.spec.expression_range
        values = {k: getattr(self.start, k) + v * self.spread[k] for k, v in self.moved.items()}
        values["expression"] = values["expression"].clamp(low, high)
        return self.start.replace(noise=self.noise, **values)


class Inverter:
    """Inverts photographs of one person.

    Args:
        generator: Of the model; it stays as it is.
        photographs: Aligned at the generator's output resolution.
        perception: Networks; those that are missing are done without.
        config: How.
        device: Where.
        progress: Is told how far it is.
        began: `time.perf_counter()` of the beginning of all that the configured time is for; by default now.
    """

    def __init__(
        self,
        generator: Generator,
        photographs: Photographs,
        perception: Perception,
        config: InversionConfig,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
        began: float | None = None,
    ) -> None:
        self.began = time.perf_counter() if began is None else began
        self.config, self.perception = config, perception.to(str(device))
        self.original = generator
        self.model = copy.deepcopy(generator).to(device).eval().requires_grad_(False)
        c = self.model.config
        _check(photographs, c.latent, c.output_resolution)
        self.photographs = photographs.to(device)
        self.field = PortraitField(self.model)
        if config.fast_sampling:
            self.field = PortraitField(self.model, self.field.sampling.fast())
        self.likeness = Likeness(self.photographs, self.perception, config.weights, c.raw_resolution)
        self.progress: Progress = progress or (lambda name, share: None)
        self.device = torch.device(device)

    def run(self) -> Inversion:
        """All three stages."""
        stages, clock = [], {"before": time.perf_counter() - self.began}
        state = self._start()
        clock["start"] = time.perf_counter() - self.began - clock["before"]
        hooks = self._offsets(state)
        try:
            stages.append(self._code(state))
            stages.append(self._latents(state))
        finally:
            for hook in hooks:
                hook.remove()
        with torch.no_grad():
            fold_offsets(self.model, state.ws, state.background)
        factors = state.factors()._map(Tensor.detach)
        pivot = PortraitField(copy.deepcopy(self.model), self.field.sampling)
        deltas, tuned = self._tune(factors, pivot)
        portrait = PortraitFile(
            factors=factors.to("cpu"),
            camera=self.photographs.camera.to("cpu"),
            fingerprint=fingerprint(self.original.state_dict()),
            ws_offset=state.ws.detach().cpu(),
            background_offset=None if state.background is None else state.background.detach().cpu(),
            weights=deltas,
        )
        tuned_at = time.perf_counter()
        made = personal(self.original, portrait).to(self.device)
        final = PortraitField(made, self.field.sampling)
        stages.append(self._result("tuning", tuned.steps, tuned.seconds, final, factors))
        kept = measure(pivot, final, factors[0], self.photographs.camera[0], self.config.tuning, self.config.seed + 1)
        clock["after"] = time.perf_counter() - tuned_at
        report = {
            "clock": {name: round(seconds, 2) for name, seconds in clock.items()},
            "stages": [stage.to_dict() for stage in stages],
            "kept": {k: round(v, 5) for k, v in asdict(kept).items()},
            "looker": self.photographs.looker,
            "config": self.config.to_dict(),
        }
        return Inversion(replace(portrait, report=report), tuple(stages), kept, made)

    # --- stages ---------------------------------------------------------------------------------------------------

    def _start(self) -> _State:
        """The best of random noise codes, at the analysed factors."""
        photos, c = self.photographs, self.config.code
        spec = photos.factors.spec
        seeds = [1 + i + 1000 * self.config.seed for i in range(max(c.candidates, 1))]
        codes = seeded_normal("noise", seeds, spec.noise).to(self.device)
        began, limit = time.perf_counter(), START_SHARE * self._time_for("code")
        costs: list[float] = []
        with torch.no_grad():
            for code in codes:
                if costs and time.perf_counter() - began > limit:
                    break
                frame = self._show(photos.factors[0].replace(noise=code), photos.camera[0])
                terms = self.likeness.losses(frame, [0])
                costs.append(float(sum(terms.values())))
                self.progress("start", len(costs) / len(codes))
        self.progress("start", 1.0)
        best = codes[int(np.argmin(costs))][None].clone()
        count = len(photos)
        moved = {
            name: torch.zeros(rows, spec.sizes[name], device=self.device)
            for name, rows in (("shape", 1), ("albedo", 1), ("expression", count), ("illumination", count))
        }
        spread = {name: getattr(c, f"spread_{name}") for name in moved}
        g = self.model.config
        background = torch.zeros(g.background_w_dim, device=self.device) if g.background_channels else None
        return _State(
            photos.factors, spread, moved, best, torch.zeros(g.ws_count, g.w_dim, device=self.device), background
        )

    def _offsets(self, state: _State) -> list[torch.utils.hooks.RemovableHandle]:
        """Let the networks read latents with the state's offsets."""
        hooks = [self.model.mapping.register_forward_hook(lambda _m, _i, ws: ws + state.ws)]
        branch = self.model.background_branch
        if branch is not None and state.background is not None:
            hooks.append(branch.mapping.register_forward_hook(lambda _m, _i, w: w + state.background))
        return hooks

    def _code(self, state: _State) -> StageResult:
        c = self.config.code
        optimiser = torch.optim.Adam(
            [
                {"params": [state.noise.requires_grad_(True)], "lr": c.noise_rate},
                {"params": [v.requires_grad_(True) for v in state.moved.values()], "lr": c.factor_rate},
            ],
            betas=(0.9, 0.95),
        )
        took = self._descend("code", c.steps, optimiser, lambda _: self._prior(state), state.factors)
        return self._result("code", took.steps, took.seconds, self.field, state.factors())

    def _latents(self, state: _State) -> StageResult:
        c, code = self.config.latent, self.config.code
        offsets = [v.requires_grad_(True) for v in (state.ws, state.background) if v is not None]
        optimiser = torch.optim.Adam(
            [
                {"params": offsets, "lr": c.rate},
                {"params": [state.noise], "lr": code.noise_rate / 4},
                {"params": list(state.moved.values()), "lr": code.factor_rate / 4},
            ],
            betas=(0.9, 0.95),
        )

        def extra(_: int) -> dict[str, Tensor]:
            return {**self._prior(state), "offset": c.offset * torch.stack([v.square().mean() for v in offsets]).sum()}

        took = self._descend("latents", c.steps, optimiser, extra, state.factors)
        return self._result("latents", took.steps, took.seconds, self.field, state.factors())

    def _tune(self, factors: Factors, pivot: PortraitField) -> tuple[dict[str, Any], _Took]:
        c = self.config.tuning
        controls = Controls(pivot, c)
        random = torch.Generator().manual_seed(self.config.seed)
        changes = Changes(self.model, list(tunable(self.model)), c.rank, self.config.seed)
        optimiser = torch.optim.Adam(changes.parameters(), lr=c.rate, betas=(0.9, 0.95))
        bases: dict[int, Tensor] = {}
        turn = 0

        def extra(step: int, frame: PortraitFrame, index: int) -> dict[str, Tensor]:
            nonlocal turn
            if step % c.every:
                return {}
            mine, camera = factors[index], self.photographs.camera[index]
            if index not in bases:
                bases[index] = controls.answer(mine, camera).image
            edit = draw_edit(mine, camera, KINDS[turn % len(KINDS)], c, random)
            turn += 1
            old = controls.answer(edit.factors, edit.camera)
            new = self._show(edit.factors, edit.camera)
            terms = controls.losses(edit, old, new, bases[index], frame.image[:1])
            return {name: value * c.every for name, value in terms.items()}

        try:
            took = self._descend("tuning", c.steps, optimiser, lambda _: {}, lambda: factors, extra)
            return changes.deltas(), took
        finally:
            changes.close(keep=False)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _prior(self, state: _State) -> dict[str, Tensor]:
        """What keeps the factors near the analysis, and the noise code no longer than random ones."""
        c = self.config.code
        moved = torch.cat([v.flatten() for v in state.moved.values()])
        return {
            "factors": c.factors * moved.square().mean(),
            "noise": c.noise * (state.noise.square().mean() - 1).clamp_min(0),
        }

    def _show(self, factors: Factors, camera: Camera) -> PortraitFrame:
        return self.field.render(self.field.planes(factors.to_vector()), camera)

    def _descend(
        self,
        name: str,
        steps: int,
        optimiser: torch.optim.Optimizer,
        prior: Callable[[int], dict[str, Tensor]],
        factors: Callable[[], Factors],
        extra: Callable[[int, PortraitFrame, int], dict[str, Tensor]] | None = None,
    ) -> _Took:
        """Take steps until they are done or the stage's time is over; rates rise shortly and fall to zero.

        The first step, which may have to compile, is taken in any case. A stage that had too little time to come nearer
        than it began leaves everything as it was.
        """
        began, done, limit = time.perf_counter(), 0, self._time_for(name)
        learned = [value for group in optimiser.param_groups for value in group["params"]]
        start, cost = [value.detach().clone() for value in learned], self._cost(factors())
        base = [group["lr"] for group in optimiser.param_groups]
        for step, part in zip(range(steps), self._parts(), strict=False):
            share = min(max(step / steps, (time.perf_counter() - began) / limit), 1.0)
            if share == 1 and step:
                break
            for group, rate in zip(optimiser.param_groups, base, strict=True):
                group["lr"] = rate * ramp(share)
            with parametrize.cached():
                now = factors()[torch.tensor(part, device=self.device)]
                frame = self._show(now, self.photographs.camera[torch.tensor(part, device=self.device)])
                terms = {**self.likeness.losses(frame, part), **prior(step)}
                if extra is not None:
                    terms |= extra(step, frame, part[0])
                loss = torch.stack(list(terms.values())).sum()
            if not bool(torch.isfinite(loss)):
                bad = next((k for k, v in terms.items() if not bool(torch.isfinite(v))), "the loss")
                raise CopoError(f"inversion: {bad} is not finite in stage {name}; is the model trained?")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            done += 1
            self.progress(name, share)
        if not self._cost(factors()) <= cost:
            with torch.no_grad():
                for value, old in zip(learned, start, strict=True):
                    value.copy_(old)
        self.progress(name, 1.0)
        return _Took(done, time.perf_counter() - began)

    def _time_for(self, name: str) -> float:
        """Seconds for a stage: its share of what is left."""
        shares = self.config.shares[STAGES.index(name) :]
        left = self.config.seconds * (1 - CLOSING_SHARE) - (time.perf_counter() - self.began)
        return max(left * shares[0] / sum(shares), 1e-3)

    @torch.no_grad()
    def _cost(self, factors: Factors) -> float:
        """How far all photographs are."""
        total = 0.0
        for i in range(len(factors)):
            terms = self.likeness.losses(self._show(factors[i], self.photographs.camera[i]), [i])
            total += float(torch.stack(list(terms.values())).sum())
        return total / len(factors)

    def _parts(self) -> Iterator[list[int]]:
        """Which photographs each step looks at, in turns."""
        count = len(self.photographs)
        size, at = min(count, max(self.config.at_once, 1)), 0
        while True:
            yield [(at + i) % count for i in range(size)]
            at = (at + size) % count

    @torch.no_grad()
    def _result(self, name: str, steps: int, seconds: float, field_: PortraitField, factors: Factors) -> StageResult:
        images = [
            field_.render(field_.planes(factors[i].to_vector()), self.photographs.camera[i]).image
            for i in range(len(factors))
        ]
        errors = tuple(self.likeness.error(image, i) for i, image in enumerate(images))
        return StageResult(name, steps, seconds, errors, to_uint8(torch.cat(images)))


@dataclass(frozen=True)
class _Took:
    steps: int
    seconds: float


def ramp(share: float) -> float:
    """Factor of the learning rate: up within the first 5%, down to zero over the last 40% (a cosine)."""
    up = min(share / 0.05, 1.0) if share < 0.05 else 1.0
    down = min((1 - share) / 0.4, 1.0)
    return max(up, 0.05) * (0.5 - 0.5 * math.cos(math.pi * down))


def _check(photographs: Photographs, latent: int, side: int) -> None:
    if not len(photographs):
        raise CopoError("no photograph to invert: give at least one")
    if photographs.factors.spec.total != latent:
        raise CopoError(
            f"the photographs' factors have {photographs.factors.spec.total} numbers, the model expects {latent}: "
            "analyse them for this model's head"
        )
    if photographs.pictures.shape[-1] != side:
        raise CopoError(f"the photographs are {photographs.pictures.shape[-1]} px wide, the model draws {side} px")
