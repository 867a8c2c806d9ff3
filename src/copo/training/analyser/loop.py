"""The training loop: renders and photographs into one batch, one network, averaged weights, checkpoints.

It runs on one device or under torchrun on several. A run folder holds `config.json`, `log.jsonl`,
`analyser.safetensors` (averaged weights, half precision: the product) and `state-*.safetensors` (what resuming needs,
in parts below 16 MiB).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from copo.errors import CopoError
from copo.formats.atomic import atomic_write
from copo.head.open_head import OpenHead
from copo.training.acceleration import RecordedStep, Tensors
from copo.training.analyser.batch import Batch, WideBatch
from copo.training.analyser.chance import Chance, start_step
from copo.training.analyser.config import AnalyserTraining
from copo.training.analyser.degrade import degrade
from copo.training.analyser.losses import LandmarkGeometry, finder_losses, losses
from copo.training.analyser.mixing import PhotoBatches, WideBatches
from copo.training.analyser.photos import Stage
from copo.training.analyser.scenes import Scenes
from copo.training.analyser.vector import WeightVector
from copo.training.distributed import GradientExchange, Processes
from copo.vision.analyser_file import save_analyser
from copo.vision.networks.analyser import AnalyserNetwork, AnalyserOutput

PART_BYTES = 15 << 20
"""Largest file of a checkpoint."""
PRODUCT = "analyser.safetensors"
_PHOTO_PERSONS = 1 << 20
"""Added to the photographs' persons, so that no render is one of them."""
_FINAL_RATE = 0.01


class _Both(nn.Module):
    """The network's two uses as one forward pass."""

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
        self.scenes = Scenes(
            head,
            config.scene,
            config.crop,
            size,
            photos,
            None if stage is None else stage.panoramas,
            config.weights.expression_render,
        )
        self.photos = None
        if photos is not None and config.photos:
            self.photos = PhotoBatches(
                photos, config.crop, config.weights, size, config.scene.roll, config.rare_expressions
            )
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
        processes: Processes | None = None,
    ) -> None:
        """Args:
        config: The run.
        head: The open head.
        stage: Photographs of training people, or None.
        backbone: ImageNet weights of EfficientNet-Lite0, or None to start from random ones.
        processes: This process and the others; by default alone, on a CPU.
        """
        self.config, self.processes = config, processes or Processes(torch.device("cpu"))
        self.device = self.processes.device
        torch.manual_seed(config.seed)
        network = AnalyserNetwork(config.network)
        if backbone is not None:
            known = network.backbone.state_dict()
            network.backbone.load_state_dict({k: backbone.get(k, v) for k, v in known.items()})
        self.network = network.to(self.device)
        self.processes.broadcast(self.network)
        self.average = deepcopy(self.network).requires_grad_(False)
        self.vector, self._mean = (WeightVector(n, _group) for n in (self.network, self.average))
        self.head = head.to(self.device)
        self.geometry = LandmarkGeometry.of(self.head)
        self.data = Data(config, self.head, None if stage is None else stage.to(self.device))
        self.weights = [nn.Parameter(self.vector.values[part]) for part in self.vector.groups.values()]
        self.optimiser = _optimiser(self.weights, list(self.vector.groups), config)
        self._exchange = GradientExchange(self.weights, self.processes, bucket_mb=64, overlap=False)
        self._recorded = RecordedStep([], config.acceleration == "graphs")
        both: nn.Module = _Both(self.network)
        compiled = config.acceleration == "compile" and self.device.type == "cuda"
        self.both: Any = torch.compile(both, dynamic=False) if compiled else both
        self._clock = torch.zeros((), device=self.device)
        self._begun = False
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
        """One step. On a GPU nothing in it waits: drawing, network, losses and gradients are one CUDA graph.

        Returns:
            The weighted terms of the loss, detached; overwritten by the next step on a GPU.
        """
        config = self.config
        rate = learning_rate(config, self.step, self.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        said = self._gradients()
        gradient = said.pop("gradient")
        for weights, part in zip(self.weights, self.vector.groups.values(), strict=True):
            weights.grad = gradient[part]
        self._exchange.finish()
        norm = torch.stack([w.grad.norm() for w in self.weights if w.grad is not None]).norm()
        factor = (config.clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([w.grad for w in self.weights if w.grad is not None], factor)
        bad = (~torch.isfinite(norm)).float()
        # The fused AdamW leaves weights and moments alone where this is 1, without the host having to look at it.
        optimiser: Any = self.optimiser
        optimiser.found_inf = bad
        optimiser.step()
        self.step += 1
        self._average()
        return {**said, "gradient": norm.nan_to_num(0, 0, 0), "skipped": bad}

    def _gradients(self) -> Tensors:
        """Terms, their sum, and the gradient as one vector."""
        self.both.train()
        mine = (self.config.seed, self.processes.rank, self.step)
        if self.device.type != "cuda":
            return self._recorded("step", lambda _: self._look(Chance(self.device, *mine)), {"clock": self._clock})

        def run() -> Tensors:
            start_step(*mine)
            return self._recorded("step", lambda _: self._look(Chance.recorded(self.device)), {"clock": self._clock})

        if self._begun:
            return run()
        # Recording runs the step a few times: what that leaves in the running statistics is undone.
        kept = [t.clone() for t in (self.vector.statistics, self.vector.counters)]
        run()
        for value, before in zip((self.vector.statistics, self.vector.counters), kept, strict=True):
            value.copy_(before)
        self._begun = True
        return run()

    def _look(self, chance: Chance) -> Tensors:
        """Draw a batch, look at it, and differentiate the losses."""
        config = self.config
        batch, renders, wide = self.data.draw(chance)
        use = config.precision == "bf16" and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=use):
            output, found = self.both(
                batch.pictures.contiguous(memory_format=torch.channels_last),
                wide.pictures.contiguous(memory_format=torch.channels_last),
            )
        terms = losses(output, batch, self.geometry, config.weights, renders)
        terms |= finder_losses(found, wide, config.weights.finder)
        total = torch.stack(list(terms.values())).sum()
        gradient = self.vector.gradients(total)
        said = {name: term.detach() for name, term in terms.items()}
        return {**said, "total": total.detach(), "gradient": gradient}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        self._mean.values.lerp_(self.vector.values, 1 - decay)
        self._mean.statistics.lerp_(self.vector.statistics, 1 - decay)
        self._mean.counters.copy_(self.vector.counters)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save(self, folder: Path, notes: dict[str, Any] | None = None) -> None:
        """Write the product and what resuming needs; the old files stay until the new ones are whole."""
        save_analyser(folder / PRODUCT, self.average, self.head.spec, notes)
        exact = self.config.exact_moments
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v if exact else v.half() if v.is_floating_point() else v
                    for k, v in self.average.state_dict().items()}  # fmt: skip
        states = [self.optimiser.state.get(w) for w in self.weights]
        made = [s for s in states if s]
        if made:
            tensors["optimiser.step"] = made[0]["step"].clone()
            for key in ("exp_avg", "exp_avg_sq"):
                moments = self.vector.split(torch.cat([s[key] for s in made]))
                tensors |= {f"{key}.{n}": v if exact else v.bfloat16() for n, v in moments.items()}
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
            if "optimiser.step" in tensors:
                moments = {key: _under(tensors, f"{key}.") for key in ("exp_avg", "exp_avg_sq")}
                whole = {k: self.vector.join(v) for k, v in moments.items()}
                for weights, part in zip(self.weights, self.vector.groups.values(), strict=True):
                    self.optimiser.state[weights] = {
                        "step": tensors["optimiser.step"].clone().to(self.device),
                        **{k: v[part].to(weights, copy=True) for k, v in whole.items()},
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
        device: cpu or cuda; under torchrun each process gets its own.
        max_minutes: Stop after this long; 0 does not.
        resume: Another folder to go on from.
        notes: For the product's header.

    Raises:
        CopoError: There is nothing to train on, or a file cannot be read or written.
    """
    processes = Processes.start("cuda" if torch.device(device).type == "cuda" else "cpu")
    if processes.device.type == "cuda":
        torch.cuda.set_device(processes.device)
        torch.backends.cudnn.allow_tf32 = True
        # cuDNN's search for the fastest algorithm took 40 s at the start of the portrait's training and won nothing.
        torch.backends.cudnn.benchmark = False
    try:
        trainer = Trainer(
            config, OpenHead.load(), None if stage is None else stage.part(test=False), backbone, processes
        )
        if resume is not None or (out / "state.json").is_file():
            trainer.resume(resume if resume is not None else out)
        return _run(trainer, out, max_minutes, notes)
    finally:
        processes.close()


def _run(trainer: Trainer, out: Path, max_minutes: float, notes: dict[str, Any] | None) -> Trainer:
    config, processes = trainer.config, trainer.processes
    begin = saved = last = time.monotonic()
    done_before = trainer.seconds
    sums: dict[str, Tensor] = {}
    counted, over = 0, False
    if processes.main:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")
    while trainer.progress < 1 and not over:
        terms = trainer.learn()
        if counted:
            torch._foreach_add_(list(sums.values()), list(terms.values()))
        else:
            sums = {k: v.clone() for k, v in terms.items()}
        counted += 1
        # The host runs ahead of a GPU: clocks are read where it has to wait anyway.
        on_gpu = processes.device.type == "cuda"
        if on_gpu and trainer.step % _AGREE_STEPS and trainer.step % config.log_steps:
            continue
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        logs = trainer.step % config.log_steps == 0
        now = time.monotonic()
        trainer.seconds, over = _agreed(done_before + now - begin, 0 < max_minutes * 60 <= now - begin, processes)
        if processes.main and (logs or over or trainer.progress >= 1):
            each = config.renders + (config.photos if trainer.data.photos is not None else 0)
            rate = counted * each / max(now - last, 1e-9)
            _log(out, trainer, {k: float(v) / counted for k, v in sums.items()}, rate)
            counted, last = 0, time.monotonic()
        if processes.main and now - saved > config.save_minutes * 60:
            trainer.save(out, notes)
            saved = time.monotonic()
    if processes.main:
        trainer.save(out, notes)
    processes.wait()
    return trainer


def learning_rate(config: AnalyserTraining, step: int, progress: float) -> float:
    """Rises over the warm-up's steps, then falls as a cosine over the run."""
    rise = min((step + 1) / max(config.warmup, 1), 1.0)
    fall = _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * rise * fall


def _group(name: str, parameter: nn.Parameter) -> tuple[bool, bool]:
    """Whether it had ImageNet's weights, and whether it decays: norms and biases do not."""
    return name.startswith("backbone."), parameter.ndim > 1


def _optimiser(weights: list[nn.Parameter], groups: list[Any], config: AnalyserTraining) -> torch.optim.Optimizer:
    """AdamW; ImageNet weights move more slowly."""
    return torch.optim.AdamW(
        [
            {
                "params": [w],
                "factor": config.backbone_rate if old else 1.0,
                "weight_decay": config.weight_decay * decays,
            }
            for w, (old, decays) in zip(weights, groups, strict=True)
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.99),
        fused=True,
    )


_AGREE_STEPS = 10
"""Steps between agreements of the processes on a GPU: each makes the host wait."""


def _agreed(seconds: float, stop: bool, processes: Processes) -> tuple[float, bool]:
    """The first process's clock, and whether it wants to stop: the learning rate and the end depend on them."""
    if processes.world == 1:
        return seconds, stop
    facts = torch.tensor([seconds, float(stop)], device=processes.device, dtype=torch.float64)
    torch.distributed.broadcast(facts, 0)
    clock, stop_now = facts.tolist()
    return clock, stop_now > 0


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
