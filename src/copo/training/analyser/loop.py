"""The training loop: renders and photographs into one batch, one network, averaged weights, checkpoints.

It runs on one device or under torchrun on several. A run folder holds `config.json`, `log.jsonl`,
`analyser.safetensors` (averaged weights, half precision: the product) and `state-*.safetensors` (what resuming needs,
in parts below 16 MiB).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from copo.errors import CopoError
from copo.formats.atomic import atomic_write
from copo.head.open_head import OpenHead
from copo.training.analyser.batch import Batch, WideBatch
from copo.training.analyser.chance import Chance
from copo.training.analyser.config import AnalyserTraining
from copo.training.analyser.degrade import degrade
from copo.training.analyser.losses import LandmarkGeometry, finder_losses, losses
from copo.training.analyser.mixing import PhotoBatches, WideBatches
from copo.training.analyser.photos import Stage
from copo.training.analyser.scenes import Scenes
from copo.vision.analyser import channels_last
from copo.vision.analyser_file import save_analyser
from copo.vision.networks.analyser import AnalyserNetwork, AnalyserOutput

PART_BYTES = 15 << 20
"""Largest file of a checkpoint."""
PRODUCT = "analyser.safetensors"
_PHOTO_PERSONS = 1 << 20
"""Added to the photographs' persons, so that no render is one of them."""
_FINAL_RATE = 0.01


class _Both(nn.Module):
    """The network's two uses as one forward pass, which is what gradient averaging over devices wants."""

    def __init__(self, network: AnalyserNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor, wide: Tensor) -> tuple[AnalyserOutput, Tensor]:
        return self.network(pictures), self.network.find(wide)


class Data:
    """Batches of a step, on one device."""

    def __init__(self, config: AnalyserTraining, head: OpenHead, stage: Stage | None) -> None:
        """Args:
        config: The run.
        head: On the device.
        stage: Of training people, on the device; None trains on renders alone.
        """
        size = config.network.size
        photos = stage.photos if stage is not None and len(stage.photos) else None
        self.config = config
        self.scenes = Scenes(head, config.scene, config.crop, size, photos, None if stage is None else stage.panoramas)
        self.photos = None
        if photos is not None and config.photos:
            self.photos = PhotoBatches(photos, config.crop, config.weights, size, config.scene.roll)
        self.wide = WideBatches(config.wide_size, None if stage is None else stage.wide)

    def draw(self, chance: Chance) -> tuple[Batch, int, WideBatch]:
        """A batch, the number of renders (which come first), and pictures for the finder."""
        config = self.config
        parts = [self.scenes.draw(config.renders, chance)] if config.renders else []
        if self.photos is not None:
            photos = self.photos.draw(config.photos, chance)
            person = torch.where(photos.person >= 0, photos.person + _PHOTO_PERSONS, -1)
            parts.append(replace(photos, person=person))
        if not parts:
            raise CopoError("analyser training: no renders asked for and no photographs in the stage")
        batch = Batch.cat(parts)
        wide = self.wide.draw(config.wide, parts[0], chance)
        batch = replace(batch, pictures=degrade(batch.pictures, config.degrade, chance))
        seen = degrade(wide.pictures, config.degrade, chance)
        return batch, len(parts[0]) if config.renders else 0, replace(wide, pictures=seen)


class Trainer:
    """Everything that changes during a run."""

    def __init__(
        self,
        config: AnalyserTraining,
        head: OpenHead,
        stage: Stage | None = None,
        backbone: dict[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
    ) -> None:
        """Args:
        config: The run.
        head: The open head.
        stage: Photographs of training people, or None.
        backbone: ImageNet weights of EfficientNet-Lite0, or None to start from random ones.
        device: Where to train.
        rank: Number of this process.
        """
        self.config, self.device, self.rank = config, torch.device(device), rank
        torch.manual_seed(config.seed)
        network = AnalyserNetwork(config.network)
        if backbone is not None:
            known = network.backbone.state_dict()
            network.backbone.load_state_dict({k: backbone.get(k, v) for k, v in known.items()})
        self.network = channels_last(network.to(self.device))
        self.average = deepcopy(self.network).requires_grad_(False)
        self.head = head.to(self.device)
        self.geometry = LandmarkGeometry.of(self.head)
        self.data = Data(config, self.head, None if stage is None else stage.to(self.device))
        self.optimiser = _optimiser(self.network, config)
        both: nn.Module = _Both(self.network)
        if dist.is_initialized():
            both = DistributedDataParallel(both, device_ids=[self.device.index] if self.device.type == "cuda" else None)
        self.both: Any = torch.compile(both) if config.compile and self.device.type == "cuda" else both
        self.step = 0
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        share = self.step / self.config.steps
        if self.config.minutes > 0:
            share = max(share, self.seconds / 60 / self.config.minutes)
        return min(share, 1.0)

    def learn(self) -> dict[str, Tensor]:
        """One step.

        Returns:
            The weighted terms of the loss, detached.
        """
        config = self.config
        rate = learning_rate(config, self.step, self.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        batch, renders, wide = self.data.draw(Chance(self.device, config.seed, self.rank, self.step))
        self.both.train()
        use = config.precision == "bf16" and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=use):
            output, found = self.both(
                batch.pictures.contiguous(memory_format=torch.channels_last),
                wide.pictures.contiguous(memory_format=torch.channels_last),
            )
        terms = losses(output, batch, self.geometry, config.weights, renders)
        terms |= finder_losses(found, wide, config.weights.finder)
        total = torch.stack(list(terms.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        for parameter in self.network.parameters():  # a step that went wrong must not poison the weights
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0, 0, 0)
        self.optimiser.step()
        self.step += 1
        self._average()
        return {**{name: term.detach() for name, term in terms.items()}, "total": total.detach(), "gradient": norm}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        means, weights = tuple(self.average.parameters()), tuple(self.network.parameters())
        torch._foreach_lerp_(means, weights, 1 - decay)
        for kept, buffer in zip(self.average.buffers(), self.network.buffers(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(buffer, 1 - decay)
            else:
                kept.copy_(buffer)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save(self, folder: Path, notes: dict[str, Any] | None = None) -> None:
        """Write the product and what resuming needs; the old files stay until the new ones are whole."""
        save_analyser(folder / PRODUCT, self.average, self.head.spec, notes)
        exact = self.config.exact_moments
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v if exact else v.half() if v.is_floating_point() else v
                    for k, v in self.average.state_dict().items()}  # fmt: skip
        names = {id(p): n for n, p in self.network.named_parameters()}
        for parameter, state in self.optimiser.state.items():
            for key in ("exp_avg", "exp_avg_sq"):
                value = state[key]
                tensors[f"{key}.{names[id(parameter)]}"] = value if exact else value.bfloat16()
        facts = {"step": self.step, "seconds": self.seconds, "config": self.config.to_dict()}
        parts = list(_parts(tensors))
        with atomic_write(folder / "state.json") as temporary:
            for number, part in enumerate(parts):
                save_file(part, temporary.parent / f"state-{number}.safetensors", metadata={"step": str(self.step)})
            temporary.write_text(json.dumps({**facts, "parts": len(parts)}, indent=1) + "\n", encoding="utf-8")

    def resume(self, folder: Path) -> None:
        """Go on where a run was saved.

        Raises:
            CopoError: The files are missing, damaged, of different saves, or of another network.
        """
        tensors: dict[str, Tensor] = {}
        try:
            facts = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            for number in range(facts["parts"]):
                with safe_open(str(folder / f"state-{number}.safetensors"), framework="pt") as file:
                    if (file.metadata() or {}).get("step") != str(facts["step"]):
                        raise CopoError(f"run {folder}: its state files are of different saves; start a new run")
                    tensors |= {name: file.get_tensor(name) for name in list(file.keys())}
            self.network.load_state_dict(_under(tensors, "network."))
            self.average.load_state_dict(_under(tensors, "average."))
            first, second = _under(tensors, "exp_avg."), _under(tensors, "exp_avg_sq.")
            for name, parameter in self.network.named_parameters():
                if name in first:
                    self.optimiser.state[parameter] = {
                        "step": torch.tensor(float(facts["step"])),
                        "exp_avg": first[name].to(parameter),
                        "exp_avg_sq": second[name].to(parameter),
                    }
            self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, CopoError):
                raise
            reason = str(error).splitlines()[0]
            raise CopoError(f"run {folder}: cannot go on from it ({reason}); start a new run") from error


def train(
    config: AnalyserTraining,
    out: Path,
    stage: Stage | None,
    backbone: dict[str, Tensor] | None = None,
    device: torch.device | str = "cpu",
    max_minutes: float = 0.0,
    resume: Path | None = None,
    notes: dict[str, Any] | None = None,
) -> Trainer:
    """Train until the run is done or the minutes are over; in both cases everything is saved.

    Args:
        config: The run.
        out: Run folder. A run that lies there goes on.
        stage: Photographs; only those of training people are used.
        backbone: ImageNet weights for the start.
        device: Where; under torchrun each process gets its own.
        max_minutes: Stop after this long; 0 does not.
        resume: Another folder to go on from.
        notes: For the product's header.

    Raises:
        CopoError: There is nothing to train on, or a file cannot be read or written.
    """
    with _processes(device) as (where, rank):
        trainer = Trainer(
            config, OpenHead.load(), None if stage is None else stage.part(test=False), backbone, where, rank
        )
        source = resume if resume is not None else out
        if resume is not None or (out / "state.json").is_file():
            trainer.resume(source)
        begin = saved = last = time.monotonic()
        done_before = trainer.seconds
        clock = trainer.seconds
        sums: dict[str, Tensor] = {}
        counted = 0
        if rank == 0:
            out.mkdir(parents=True, exist_ok=True)
            (out / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")
        while trainer.progress < 1:
            terms = trainer.learn()
            sums = terms if not counted else {k: sums[k] + v for k, v in terms.items()}
            counted += 1
            now = time.monotonic()
            trainer.seconds = done_before + now - begin
            over = 0 < max_minutes * 60 <= now - begin
            if dist.is_initialized():
                over, clock = _agreed(over, clock if trainer.step % _AGREE_STEPS else trainer.seconds, trainer)
                trainer.seconds = clock
            if rank == 0 and (trainer.step % config.log_steps == 0 or over or trainer.progress >= 1):
                each = config.renders + (config.photos if trainer.data.photos is not None else 0)
                rate = counted * each / max(now - last, 1e-9)
                _log(out, trainer, {k: float(v) / counted for k, v in sums.items()}, rate)
                counted, last = 0, time.monotonic()
            if rank == 0 and now - saved > config.save_minutes * 60:
                trainer.save(out, notes)
                saved = time.monotonic()
            if over:
                break
        if rank == 0:
            trainer.save(out, notes)
        return trainer


def learning_rate(config: AnalyserTraining, step: int, progress: float) -> float:
    """Rises over the warm-up's steps, then falls as a cosine over the run."""
    rise = min((step + 1) / max(config.warmup, 1), 1.0)
    fall = _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * rise * fall


def _optimiser(network: AnalyserNetwork, config: AnalyserTraining) -> torch.optim.Optimizer:
    """AdamW; norms and biases do not decay, ImageNet weights move more slowly."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault((name.startswith("backbone."), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": p, "factor": config.backbone_rate if old else 1.0, "weight_decay": config.weight_decay * decays}
            for (old, decays), p in groups.items()
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.99),
    )


@contextmanager
def _processes(device: torch.device | str) -> Iterator[tuple[torch.device, int]]:
    """The device and number of this process; joins the others where torchrun started several."""
    where = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield where, dist.get_rank() if dist.is_initialized() else 0
        return
    if where.type == "cuda":
        where = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(where)
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield where, dist.get_rank()
    finally:
        with suppress(Exception):
            dist.destroy_process_group()


_AGREE_STEPS = 10
"""Steps between agreements of the processes: each makes the host wait for the GPU."""


def _agreed(stop: bool, seconds: float, trainer: Trainer) -> tuple[bool, float]:
    """Whether the first process wants to stop, and its clock: the learning rate and the end depend on them.

    Between agreements the clock stands still.
    """
    if trainer.step % _AGREE_STEPS:
        return False, seconds
    facts = torch.tensor([float(stop), seconds], device=trainer.device, dtype=torch.float64)
    dist.broadcast(facts, 0)
    stop_now, clock = facts.tolist()
    return stop_now > 0, clock


def _log(out: Path, trainer: Trainer, means: dict[str, float], rate: float) -> None:
    row = {
        "step": trainer.step, "minutes": round(trainer.seconds / 60, 2), "pictures_per_second": round(rate, 1),
        **{k: round(v, 5) for k, v in means.items()},
    }  # fmt: skip
    with (out / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    brief = " ".join(f"{k} {v:.3f}" for k, v in means.items())
    print(f"step {trainer.step} {row['minutes']} min {row['pictures_per_second']}/s {brief}", flush=True)


def _parts(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Groups of tensors of at most `PART_BYTES`."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous().clone()
        if part and size + value.nbytes > PART_BYTES:
            yield part
            part, size = {}, 0
        part[name] = value
        size += value.nbytes
    yield part


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        k.removeprefix(prefix): v.float() if v.is_floating_point() else v
        for k, v in tensors.items()
        if k.startswith(prefix)
    }
