"""Take ghosts of heads out of a run's background branch, in its last checkpoint and in minutes on a CPU.

    python -m tools.mend_background --run runs/portrait --data set.zip --out runs/mended

Photographs from the front do not show what people hide. Until `copo.training.losses.hidden_distance` said what belongs
there, the branch painted ghosts, which profiles lay open. This trains the branch alone, of the learning generator and
of the averaged one: where the person of a code is in front of it (of any code: where two random people are), it goes
on as around them; elsewhere it stays as it was. `copo train portrait --out runs/mended` goes on from there.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from copo.config import GeneratorConfig
from copo.errors import CopoError
from copo.evaluation.sources import frontal_camera
from copo.field.portrait_field import PortraitField
from copo.formats.dataset import PortraitDataset
from copo.head.open_head import OpenHead
from copo.networks.background import Background
from copo.networks.build import load_noise_prior
from copo.networks.conditional_priors import NoisePrior
from copo.networks.generator import Generator
from copo.training.checkpoints import TrainingState, latest_state, load_state, save_state
from copo.training.data import TrainingSet
from copo.training.loop import NOISE_PRIOR
from copo.training.losses import hidden_distance

HELD = 20.0
"""Weight of the squared difference from what the branch drew before, where it is seen."""
BRANCH = "background_branch."


@dataclass
class Command:
    """See the module."""

    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    """Run folder whose last checkpoint is mended."""
    data: Path
    """Its data set: coefficients of people who stand before backgrounds."""
    out: Path
    """Run folder to write."""
    people: int = 400
    """Whose outlines are used."""
    steps: int = 600
    """Of Adam."""
    rate: float = 0.01
    """Adam's."""

    def run(self) -> None:
        """Mend."""
        folder = latest_state(self.run_folder)
        if folder is None:
            raise CopoError(f"--run {self.run_folder}: no checkpoint there")
        saved = load_state(folder)
        generator = Generator(GeneratorConfig.from_dict(saved.config["generator"])).eval().requires_grad_(False)
        tensors = dict(saved.tensors)
        known = saved.part(f"{NOISE_PRIOR}/")
        prior = load_noise_prior(known) if known else None
        people: tuple[Tensor, Tensor] | None = None
        for title in ("average/", "networks/generator."):
            generator.load_state_dict(saved.part(title))
            if people is None:
                people = self._people(generator, prior)
            assert generator.background_branch is not None
            before, after = mend(generator.background_branch, *people, self.steps, self.rate)
            print(f"{title.rstrip('./')}: hidden {before[0]:.4f} to {after[0]:.4f}, seen moved by {after[1]:.5f}")
            for name, value in generator.background_branch.state_dict().items():
                key = f"{title}{BRANCH}{name}"
                tensors[key] = value.to(tensors[key].dtype)
        mended = TrainingState(tensors, saved.progress, saved.config)
        print(f"wrote {save_state(self.out, mended, saved.progress['images'], 15.0, 1)}")

    @torch.no_grad()
    def _people(self, generator: Generator, prior: NoisePrior | None) -> tuple[Tensor, Tensor]:
        """(N, noise) codes, and (N, h, w) opacity of people with them from the front."""
        dataset, head = PortraitDataset(self.data), OpenHead.load()
        data = TrainingSet(dataset, head.spec, 0.0, needs_labels=False)
        random = torch.Generator().manual_seed(0)
        rows = torch.randint(len(data), (self.people,), generator=random)
        codes = torch.randn(self.people, generator.config.noise, generator=random)
        if prior is not None:
            codes = prior(codes, data.coefficients[rows, : head.spec.identity], data.cameras.direction[rows])
        field, out, front = PortraitField(generator, head=head), [], frontal_camera(dataset)
        for some in torch.arange(self.people).split(8):
            planes = field.planes(torch.cat([codes[some], data.coefficients[rows[some]]], dim=1))
            out.append(field.render(planes, front.expand(len(some))).alpha)
        return codes, torch.cat(out)


def mend(
    branch: Background, codes: Tensor, outlines: Tensor, steps: int, rate: float, batch: int = 16
) -> tuple[Tensor, Tensor]:
    """Train a branch in place.

    Args:
        branch: With weights.
        codes: (N, noise) of people.
        outlines: (N, h, w) opacity of them.
        steps: Of Adam.
        rate: Adam's; falls to zero.
        batch: Backgrounds a step.

    Returns:
        Before and after, over the same backgrounds: (hidden distance, mean squared change of what is seen).
    """
    random = torch.Generator().manual_seed(1)
    old = copy.deepcopy(branch)

    def sample() -> tuple[Tensor, Tensor]:
        known, anybody = torch.randint(len(codes), (2, batch), generator=random)
        z, alpha = codes[known], outlines[known].clone()
        half = batch // 2  # have any code: there only what two people hide is hidden
        z[:half] = torch.randn(half, branch.noise, generator=random)
        alpha[:half] *= outlines[anybody[:half]]
        return z, alpha

    def terms(z: Tensor, alpha: Tensor) -> Tensor:
        now = branch(z)
        with torch.no_grad():
            was = old(z)
        moved = ((1 - alpha)[:, None] * (now - was).square()).mean()
        return torch.stack([hidden_distance(now, alpha), moved])

    tests = [sample() for _ in range(8)]
    with torch.no_grad():
        before = torch.stack([terms(*t) for t in tests]).mean(0)
    branch.requires_grad_(True)
    optimiser = torch.optim.Adam(branch.parameters(), lr=rate, betas=(0.0, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        hidden, moved = terms(*sample())
        optimiser.zero_grad(set_to_none=True)
        (hidden + HELD * moved).backward()
        optimiser.step()
        schedule.step()
    branch.requires_grad_(False)
    with torch.no_grad():
        after = torch.stack([terms(*t) for t in tests]).mean(0)
    return before, after


if __name__ == "__main__":
    try:
        tyro.cli(Command, description=__doc__).run()
    except CopoError as error:
        print(f"mend_background: error: {error}", file=sys.stderr)
        sys.exit(2)
