"""The training loop: photographs in, weights out. It knows steps, saving and stopping, not losses.

Every step's randomness follows from (seed, step, process), so that a run which is stopped and goes on makes the very
same steps as one which is not.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from copo.errors import CopoError
from copo.factors import FactorSpec
from copo.field.sampling import Jitter
from copo.formats.checkpoint import Checkpoint, StoredNetwork, save_checkpoint
from copo.head.protocol import HeadModel
from copo.networks.build import load_noise_prior
from copo.networks.conditional_priors import fit_light_prior, fit_noise_prior
from copo.networks.vae import Vae
from copo.training import sheets
from copo.training.acceleration import RecordedStep
from copo.training.augment import AdaptiveStrength
from copo.training.checkpoints import TrainingState, check_config, latest_state, load_state, save_state
from copo.training.conditioning import FactorSampler
from copo.training.config import TrainingConfig
from copo.training.data import Batch, PhotographStream, TrainingSet
from copo.training.distributed import GradientExchange, Processes
from copo.training.drawing import TYPES, Painter
from copo.training.ema import averaged_copy, update_average
from copo.training.guide import HeadGuide
from copo.training.perception import Perception
from copo.training.scene import Teachers
from copo.training.stages import Stage, build_stages, stage_at
from copo.training.stats import Collector, RunLog, drop_later
from copo.training.steps import DiscriminatorStep, GeneratorStep, Networks, draw_inputs

OPTIONS_FILE = "training_options.json"
NOISE_PRIOR, LIGHT_PRIOR = "noise_prior", "light_prior"
"""Titles of their tensors in a checkpoint."""
DRAWN = 4096
"""Samples that say how a prior spreads."""
CHECK_STEPS = 16
"""Steps between two looks at the clock and at the other processes."""
Metrics = Callable[["Trainer"], Mapping[str, float]]


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        images: Photographs shown, over all processes.
        step: Steps made.
        ticks: Lines of statistics written.
        rollbacks: Returns to the last good state.
        signs: Sum of the mean signs of real scores since the last adjustment of the augmentation.
        sign_steps: Steps in that sum.
    """

    images: int = 0
    step: int = 0
    ticks: int = 0
    rollbacks: int = 0

    @property
    def kimg(self) -> float:
        """Thousand photographs shown."""
        return self.images / 1000


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        finished: Whether all stages are over.
        kimg: Thousand photographs shown.
        steps: Steps made.
        seconds: Time of this process, start to end.
        images_per_second: Over the whole time of steps, without start-up.
    """

    finished: bool
    kimg: float
    steps: int
    seconds: float
    images_per_second: float


@dataclass
class Ingredients:
    """What a training is made from.

    Attributes:
        data: Photographs.
        head: The head model that their coefficients belong to.
        perception: Networks that look at portraits.
        priors: Coefficient priors by factor; without one photographs are recombined.
    """

    data: TrainingSet
    head: HeadModel
    perception: Perception = field(default_factory=Perception)
    priors: Mapping[str, Vae] = field(default_factory=dict)


def needs_labels(config: TrainingConfig) -> bool:
    """Whether a loss of this training reads label maps."""
    return any(s.reconstruction and (s.reconstruction.labels or s.reconstruction.opacity) for s in config.stages)


class Trainer:
    """One run.

    Args:
        config: Everything that can be chosen; its factor sizes are those of the head.
        ingredients: Data, head, networks.
        out: Run folder; a run that lies there goes on.
        processes: This process and the others.
        metrics: Called at every snapshot of the main process; figures go to metric-NAME.jsonl.
        start_images: Photographs that count as shown before the first step of a new run (`--set_step`).

    Raises:
        CopoError: Sizes do not fit the head, a loss lacks its network, or the folder holds another configuration's run.
    """

    def __init__(
        self,
        config: TrainingConfig,
        ingredients: Ingredients,
        out: Path,
        processes: Processes,
        metrics: Mapping[str, Metrics] | None = None,
        start_images: int = 0,
    ) -> None:
        config = config.for_head(ingredients.head.spec)
        self.config, self.ingredients, self.out, self.processes = config, ingredients, out, processes
        self.metrics = dict(metrics or {})
        self.world_batch = config.batch * processes.world
        self.spec: FactorSpec = _with_noise(ingredients.head.spec, config.generator.noise)
        self.stages = build_stages(config, ingredients.perception)
        device = processes.device
        if device.type == "cuda":
            # Convolutions may be reduced; matrix products stay exact, for rays and landmarks are made by them.
            torch.backends.cudnn.allow_tf32 = True
            # cuDNN's search for the fastest algorithm took 40 s at the start and won nothing.
            torch.backends.cudnn.benchmark = False
        torch.manual_seed(config.run.seed)
        self.networks = Networks(config, ingredients.data.code_count, ingredients.perception.sight).to(device)
        processes.broadcast(self.networks)
        self.average = averaged_copy(self.networks.generator)
        self.strength = AdaptiveStrength(config.augment, self.world_batch).to(device)
        head = ingredients.head
        if isinstance(head, torch.nn.Module):
            head.to(device)
        teachers = Teachers(
            HeadGuide(head, config.generator.noise, config.light_frame),
            ingredients.perception.to(str(device)),
            TYPES[config.precision],
        )
        self.guide = teachers.guide
        self.sampler = FactorSampler(self.spec, ingredients.data.coefficients, ingredients.priors, config.draw)
        self._learn_light()
        compiled = config.acceleration == "compile"
        jitter: Jitter = True if config.jitter == "sample" else "picture"
        painter = Painter(self.networks.generator, config.precision, compiled, head=head, jitter=jitter)
        judge: Any = (
            torch.compile(self.networks.discriminator, dynamic=False) if compiled else self.networks.discriminator
        )
        self.generator_step = GeneratorStep(self.networks, painter, teachers, self.strength, judge, config)
        self.discriminator_step = DiscriminatorStep(self.networks, teachers, self.strength, judge, config)
        self._prepare_optimisers()
        self.progress = Progress(images=start_images)
        self.stats = Collector(device)
        self._signs: list[Tensor] = []
        self._stop = False
        self._log: RunLog | None = None

    def _prepare_optimisers(self) -> None:
        c, n = self.config.optimiser, self.networks
        groups = [{"params": list(n.generator.parameters()), "lr": c.generator_lr, "base": c.generator_lr}]
        if n.codes is not None:
            groups.append({"params": list(n.codes.parameters()), "lr": c.code_lr, "base": c.code_lr})
        rate = c.discriminator_lr
        judges = [*n.discriminator.parameters(), *([] if n.critic is None else n.critic.parameters())]
        judge = [{"params": judges, "lr": rate, "base": rate}]
        self.optimisers = {
            "generator": torch.optim.Adam(groups, betas=(0.0, c.beta2), eps=1e-8, fused=True),
            "discriminator": torch.optim.Adam(judge, betas=(0.0, c.beta2), eps=1e-8, fused=True),
        }
        self._parameters = {
            name: [p for group in o.param_groups for p in group["params"]] for name, o in self.optimisers.items()
        }
        graphs = self.config.acceleration == "graphs"
        self._exchanges = {
            n: GradientExchange(p, self.processes, overlap=not graphs) for n, p in self._parameters.items()
        }
        self._recorded = {name: RecordedStep(p, graphs) for name, p in self._parameters.items()}

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self, max_minutes: float = math.inf) -> Outcome:
        """Train until all stages are over, time is up, or somebody asks to stop (Ctrl-C, SIGTERM).

        Args:
            max_minutes: Time after which the run saves itself and ends.

        Raises:
            CopoError: It diverged too often, the disk is full, or the data are broken.
        """
        try:
            return self._run(max_minutes)
        except OSError as error:
            reason = (error.strerror or str(error)).splitlines()[0]
            raise CopoError(
                f"run folder {self.out}: {reason}; free the space, the same command goes on from the last checkpoint"
            ) from error

    def _run(self, max_minutes: float) -> Outcome:
        began = time.monotonic()
        if self.processes.main:
            self.out.mkdir(parents=True, exist_ok=True)
        self.processes.wait()
        resumed = self._resume()
        self._log = RunLog(self.out, self.processes.main)
        log = self._log
        if resumed:
            log.say(f"goes on after {self.progress.kimg:.3f} kimg")
        else:
            self._begin()
        if self.sampler.noise_prior is None:
            self._learn_noise()
        stream = self._stream()
        steps_before, worked, tick_start, tick_images = self.progress.step, 0.0, time.monotonic(), self.progress.images
        next_tick = self._next_tick()
        saved = True
        finished = False
        images_before = self.progress.images
        warned: set[str] = set()
        try:
            with self._stopping_kindly():
                while True:
                    stage = stage_at(self.stages, self.progress.kimg)
                    if stage is None:
                        finished = True
                        break
                    if self._shall_stop(began, max_minutes):
                        break
                    self._step(stage, next(stream))
                    saved = False
                    for name in stream.bad.keys() - warned:
                        log.say(f"left out {name}: {stream.bad[name]}")
                        warned.add(name)
                    if self.progress.images < next_tick:
                        continue
                    seconds = time.monotonic() - tick_start
                    worked += seconds
                    values = self._tick(stage, seconds, self.progress.images - tick_images)
                    problem = self._divergence(values)
                    if problem:
                        stream.close()
                        self._roll_back(problem)
                        stream = self._stream()
                        saved = True
                    elif self.progress.ticks % self.config.run.snapshot_ticks == 0:
                        self._learn_noise()
                        self.save()
                        saved = True
                    next_tick = self._next_tick()
                    tick_start, tick_images = time.monotonic(), self.progress.images
            if not saved:
                self.save()
        finally:
            stream.close()
            with suppress(OSError):
                log.close()
        worked += time.monotonic() - tick_start if self.progress.images > tick_images else 0.0
        shown = max(self.progress.images - images_before, 0)
        seconds = time.monotonic() - began
        outcome = Outcome(
            finished, self.progress.kimg, self.progress.step - steps_before, seconds, shown / worked if worked else 0.0
        )
        how = "all stages are over" if finished else "stopped, the same command goes on"
        log.say(f"{how}: {outcome.kimg:.3f} kimg, {outcome.steps} steps in {seconds:.0f} s")
        return outcome

    def _learn_noise(self) -> None:
        """Which codes go with whom, as far as is known by now."""
        codes = self.networks.codes
        if codes is not None and self.config.codes.by_identity:
            data = self.ingredients.data
            people, photographs = data.identities()
            random = torch.Generator().manual_seed(self.config.run.seed)
            drawn = self.sampler.factor("identity", DRAWN, random)
            self.sampler.noise_prior = fit_noise_prior(
                codes.weight, people, photographs, drawn, self.config.codes.noise, data.codes,
                data.cameras.direction,
            )  # fmt: skip

    def _learn_light(self) -> None:
        """Which light goes with whom, in this data set."""
        if not self.config.draw.light_that_fits:
            return
        data, sampler = self.ingredients.data, self.sampler
        drawn = sampler.factor("illumination", DRAWN, torch.Generator().manual_seed(self.config.run.seed))
        rows = {name: data.coefficients[:, part] for name, part in sampler.slices.items()}
        sampler.light_prior = fit_light_prior(rows["illumination"], rows["identity"], data.cameras.direction, drawn)

    def _stream(self) -> PhotographStream:
        c, p = self.config, self.processes
        return PhotographStream(
            self.ingredients.data, c.batch, c.generator.output_resolution, c.generator.raw_resolution,
            needs_labels(c), seed=c.run.seed + 7919 * self.progress.rollbacks, start=self.progress.images, rank=p.rank,
            world=p.world, cache_gb=c.run.cache_gb, workers=c.run.workers, pin=p.device.type == "cuda",
        )  # fmt: skip

    def _next_tick(self) -> int:
        return self.progress.images + max(int(self.config.run.tick_kimg * 1000), 1)

    def _shall_stop(self, began: float, max_minutes: float) -> bool:
        if self.processes.world > 1 and self.progress.step % CHECK_STEPS:
            return False
        return self.processes.any(self._stop or time.monotonic() - began > max_minutes * 60)

    # --- one step -----------------------------------------------------------------------------------------------

    def _step(self, stage: Stage, batch: Batch) -> None:
        """Draw, learn, exchange, average."""
        step, rate = self.progress.step, stage.config.learning_rate
        inputs = self.learn_inputs(stage, batch)
        made, said = self.learn_generator(stage, stage.pair_kinds(step), inputs)
        self.stats.add({f"Loss/G/{k}": v for k, v in said.items()})
        self._finish("generator", rate)
        self._update_averages(made["ws"], step)
        if stage.adversarial is not None and "dual" in made:
            weights = stage.adversarial.weights
            regularise = bool(weights.r1) and step % weights.r1_interval == 0
            judged = self.learn_discriminator(stage, regularise, inputs, made)
            kinds = {k: "Scores/" if k.startswith(("score", "sign")) else "Loss/D/" for k in judged}
            self.stats.add({kinds[k] + k: v for k, v in judged.items()})
            self._finish("discriminator", rate)
            self._augment_more(judged["sign"])
        self.progress.step += 1
        self.progress.images += self.world_batch

    def learn_generator(
        self, stage: Stage, kinds: tuple[str, ...], inputs: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gradients of the generator; gives what the discriminator needs of the portraits, and the losses."""
        self._let_judges_learn(False)
        result = self._recorded["generator"](
            (stage.config.name, kinds), lambda given: _joined(self.generator_step(stage, kinds, given)), inputs
        )
        return _made(result), {k: v for k, v in result.items() if not k.startswith("made/")}

    def learn_discriminator(
        self, stage: Stage, regularise: bool, inputs: dict[str, Tensor], made: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Gradients of the discriminator; gives losses and scores."""
        self._let_judges_learn(True)
        given = {**inputs, **{f"made/{k}": v for k, v in made.items() if k != "ws"}}
        return self._recorded["discriminator"](
            (stage.config.name, regularise),
            lambda values: self.discriminator_step(stage, regularise, values, _made(values)),
            given,
        )

    def _let_judges_learn(self, on: bool) -> None:
        for judge in (self.networks.discriminator, self.networks.critic):
            if judge is not None:
                _requires_grad(judge, on)

    def learn_inputs(self, stage: Stage, batch: Batch) -> dict[str, Tensor]:
        """This step's random numbers and photographs, on the device; seeds the device's own random numbers too."""
        run, rank = self.config.run, self.processes.rank
        seed = _mix(run.seed, self.progress.step, rank, self.progress.rollbacks)
        torch.manual_seed(seed)
        random = torch.Generator().manual_seed(seed + 1)
        cameras = self.ingredients.data.cameras
        inputs = draw_inputs(batch, stage, self.progress.step, self.sampler, cameras, self.config, random, self._ramp())
        device = self.processes.device
        if device.type == "cuda":  # a copy from pageable memory would make the host wait for the GPU
            inputs = {name: value if value.is_pinned() else value.pin_memory() for name, value in inputs.items()}
        return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}

    def _ramp(self) -> float:
        """How much the generator listens to the discriminator, 0 to 1."""
        length = self.config.adversarial_ramp_kimg
        start = next((s.start for s in self.stages if s.adversarial is not None), 0.0)
        return min(max((self.progress.kimg - start) / length, 0.0), 1.0) if length else 1.0

    def _finish(self, name: str, rate: float) -> None:
        """Exchange gradients, bound them, and move the weights unless a gradient is not finite."""
        self._exchanges[name].finish()
        parameters = [p for p in self._parameters[name] if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        norm = norms.float().square().sum().sqrt()
        bad = (~torch.isfinite(norm)).float()
        scale = (self.config.optimiser.max_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))
        optimiser: Any = self.optimisers[name]
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * rate
        # The fused Adam leaves weights and moments alone where this is 1, without the host having to look at it.
        optimiser.found_inf = bad
        optimiser.step()
        finite = torch.where(bad > 0, torch.zeros_like(norm), norm)
        self.stats.add({f"Gradient/{name}": finite, f"Skipped/{name}": bad})

    @torch.no_grad()
    def _update_averages(self, ws: Tensor, step: int) -> None:
        generator = self.networks.generator
        mean = self.processes.mean(ws[:, 0].mean(dim=0, keepdim=True))
        mean = torch.where(torch.isfinite(mean), mean, generator.mapping.w_avg)
        generator.mapping.update_average(mean[:, None])
        update_average(self.average, generator, self.config.optimiser.ema_decay, step)

    def _augment_more(self, sign: Tensor) -> None:
        self._signs.append(sign.clone())
        if len(self._signs) >= self.config.augment.interval:
            self.strength.adjust(self.processes.mean(torch.stack(self._signs).mean()))
            self._signs = []

    # --- ticks --------------------------------------------------------------------------------------------------

    def _tick(self, stage: Stage, seconds: float, images: int) -> dict[str, dict[str, float]]:
        self.progress.ticks += 1
        values = self.stats.take(self.processes)
        device = self.processes.device
        memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
        extra = {
            "Progress/kimg": self.progress.kimg,
            "Progress/tick": self.progress.ticks,
            "Progress/step": self.progress.step,
            "Progress/augment": float(self.strength.strength),
            "Timing/sec_per_tick": seconds,
            "Timing/sec_per_kimg": seconds / max(images / 1000, 1e-9),
            "Timing/images_per_second": images / max(seconds, 1e-9),
            "Resources/peak_gpu_mem_gb": memory,
        }
        values |= {k: {"num": 1, "mean": v, "std": 0.0} for k, v in extra.items()}
        assert self._log is not None
        self._log.write(self.progress.images, values)
        total = values.get("Loss/G/total", {"mean": math.nan})["mean"]
        self._log.say(
            f"tick {self.progress.ticks:<4d} kimg {self.progress.kimg:<9.3f} {stage.config.name:<15s} "
            f"loss {total:<8.4f} augment {extra['Progress/augment']:.3f} "
            f"images/s {extra['Timing/images_per_second']:<7.1f} memory {memory:.1f} GB"
        )
        return values

    def _divergence(self, values: Mapping[str, Mapping[str, float]]) -> str | None:
        """What is wrong with a tick, or None; the same in all processes."""
        run = self.config.run
        for name, value in values.items():
            if name.startswith("Skipped/") and value["mean"] > run.skip_share:
                part = name.removeprefix("Skipped/")
                return f"{value['mean']:.0%} of the {part}'s steps had gradients that are not finite"
            if name.startswith("Loss/") and not math.isfinite(value["mean"]) and not values_skipped(values):
                return f"{name} is not finite"
            if name.startswith("Scores/score") and abs(value["mean"]) > run.score_limit:
                return f"the discriminator's mean score is {value['mean']:.3g}"
        return None

    def _roll_back(self, problem: str) -> None:
        """Return to the last checkpoint with other random numbers and another order of photographs."""
        assert self._log is not None
        count = self.progress.rollbacks + 1
        folder = latest_state(self.out)
        if folder is None or count > self.config.run.max_rollbacks:
            raise CopoError(
                f"training diverged ({problem}) after {self.progress.kimg:.3f} kimg and {count - 1} returns to a good "
                "state: lower the learning rates or weights in a new run folder"
            )
        self._log.say(f"diverged at {self.progress.kimg:.3f} kimg: {problem}; returns to {folder.name}")
        self._restore(load_state(folder), folder)
        self.progress.rollbacks = count
        self.stats = Collector(self.processes.device)
        self._signs = []

    # --- saving -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Checkpoint, averaged generator, sample sheets and metrics of the main process; the others wait."""
        if self.processes.main:
            run = self.config.run
            save_state(self.out, self.state(), self.progress.images, run.shard_mb, run.keep)
            self.export(self.out / "network-snapshot")
            self._show()
            for name, metric in self.metrics.items():
                line = {"metric": name, "results": dict(metric(self)), "kimg": self.progress.kimg,
                        "timestamp": time.time()}  # fmt: skip
                with (self.out / f"metric-{name}.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
        self.processes.wait()

    def export(self, folder: Path) -> None:
        """The averaged generator and the priors as a checkpoint for inference."""
        networks = {"generator": StoredNetwork(self.config.generator, self.average.state_dict())}
        for name, prior in self.ingredients.priors.items():
            networks[f"prior_{name}"] = StoredNetwork(prior.config, prior.state_dict())
        for name, fitting in (("noise", self.sampler.noise_prior), ("light", self.sampler.light_prior)):
            if fitting is not None:
                networks[f"prior_{name}"] = StoredNetwork(fitting.config, fitting.state_dict())
        notes = {
            "training": f"{self.progress.kimg:.3f} kimg, {self.out.name}",
            "conditioning": self.config.condition.pose,
        }
        save_checkpoint(Checkpoint(networks, self.spec, notes), folder)

    def state(self) -> TrainingState:
        """Everything that the next step depends on."""
        tensors: dict[str, Tensor] = {}
        for title, module in (("networks", self.networks), ("average", self.average), ("strength", self.strength)):
            tensors |= {f"{title}/{name}": value for name, value in module.state_dict().items()}
        for title, optimiser in self.optimisers.items():
            for number, moments in optimiser.state_dict()["state"].items():
                # With a first decay of 0 the first moment is the last gradient, which nothing depends on.
                kept = {key: v for key, v in moments.items() if key != "exp_avg"}
                tensors |= {f"adam_{title}/{number}/{key}": torch.as_tensor(v) for key, v in kept.items()}
        for title, fitting in ((NOISE_PRIOR, self.sampler.noise_prior), (LIGHT_PRIOR, self.sampler.light_prior)):
            if fitting is not None:
                tensors |= {f"{title}/{name}": value for name, value in fitting.state_dict().items()}
        if self._signs:
            tensors["signs"] = torch.stack(self._signs)
        return TrainingState(tensors, vars(self.progress).copy(), self._identity())

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to fit."""
        c = self.config.to_dict()
        factors = {k: v for k, v in self.spec.to_dict().items() if k in ("head", "shape", "albedo", "noise")}
        data = {"photographs": len(self.ingredients.data), "codes": self.ingredients.data.code_count}
        own = {"generator": c["generator"], "discriminator": c["discriminator"], "factors": factors, "data": data,
               "seed": {"seed": self.config.run.seed}}  # fmt: skip
        plain: dict[str, Any] = json.loads(json.dumps(own))
        return plain

    def _resume(self) -> bool:
        folder = latest_state(self.out)
        if folder is None:
            if self.processes.main and (self.out / OPTIONS_FILE).exists():
                drop_later(self.out, -1.0)
            return False
        saved = load_state(folder)
        check_config(saved.config, self._identity(), folder)
        self._restore(saved, folder)
        if self.processes.main:
            drop_later(self.out, self.progress.kimg)
            self._write_options()
        self.processes.wait()
        return True

    def _restore(self, saved: TrainingState, folder: Path) -> None:
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in saved.tensors.items():
            title, _, rest = name.partition("/")
            groups.setdefault(title, {})[rest] = value
        try:
            self.networks.load_state_dict(groups["networks"])
            self.average.load_state_dict(groups["average"])
            self.strength.load_state_dict(groups["strength"])
            if NOISE_PRIOR in groups and self.config.codes.by_identity:
                self.sampler.noise_prior = load_noise_prior(groups[NOISE_PRIOR], f"checkpoint {folder}, {NOISE_PRIOR}")
            for title, optimiser in self.optimisers.items():
                moments: dict[int, dict[str, Tensor]] = {}
                for key, value in groups.get(f"adam_{title}", {}).items():
                    number, _, part = key.partition("/")
                    moments.setdefault(int(number), {})[part] = value
                for values in moments.values():
                    values["exp_avg"] = torch.zeros_like(values["exp_avg_sq"])
                optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
            self._signs = list(groups["signs"][""].to(self.processes.device)) if "signs" in groups else []
            self.progress = Progress(**saved.progress)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise CopoError(
                f"checkpoint {folder} does not fit this configuration: {reason}; use another --out"
            ) from error

    def _begin(self) -> None:
        """The first files of a new run."""
        if self.processes.main:
            self._write_options()
            sheets.save_reals(self, self.out / "reals.png")
            sheets.save_fakes(self, self.out / "fakes_init.png")
            run = self.config.run
            save_state(self.out, self.state(), self.progress.images, run.shard_mb, run.keep)
        self.processes.wait()

    def _write_options(self) -> None:
        """What this run is; options that it had before a change are kept beside it."""
        options = {"config": self.config.to_dict(), "factors": self.spec.to_dict(),
                   "data": str(self.ingredients.data.dataset.path), "processes": self.processes.world,
                   "torch": torch.__version__}  # fmt: skip
        path, text = self.out / OPTIONS_FILE, json.dumps(options, indent=2) + "\n"
        if self.progress.images and path.is_file() and path.read_text(encoding="utf-8") != text:
            path.replace(path.with_stem(f"{path.stem}-until-{int(self.progress.kimg):06d}"))
        path.write_text(text, encoding="utf-8")

    def _show(self) -> None:
        name = f"{int(self.progress.kimg):06d}"
        sheets.save_fakes(self, self.out / f"fakes{name}.png")
        sheets.save_control(self, self.out / f"control{name}.png")

    @contextmanager
    def _stopping_kindly(self) -> Iterator[None]:
        """SIGTERM and the first Ctrl-C end the run after the current step, with a checkpoint."""

        def ask(number: int, _: object) -> None:
            self._stop = True
            signal.signal(number, before[number])

        before: dict[int, Any] = {}
        try:
            for name in (signal.SIGINT, signal.SIGTERM):
                before[name] = signal.signal(name, ask)
        except ValueError:  # not the main thread: whoever started it stops it
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


# --- helpers --------------------------------------------------------------------------------------------------------


def values_skipped(values: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether a tick had steps that were skipped for gradients that are not finite (their losses are not either)."""
    return any(name.startswith("Skipped/") and value["mean"] > 0 for name, value in values.items())


def _with_noise(spec: FactorSpec, noise: int) -> FactorSpec:
    return FactorSpec.from_dict({**spec.to_dict(), "noise": noise})


def _mix(*numbers: int) -> int:
    """A 62-bit seed from several numbers (SplitMix64's finaliser)."""
    value = 0
    for number in numbers:
        value = (value * 6364136223846793005 + number + 0x9E3779B97F4A7C15) % 2**64
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
        value ^= value >> 31
    return value >> 2


def _requires_grad(module: torch.nn.Module, on: bool) -> None:
    for parameter in module.parameters():
        parameter.requires_grad_(on)


def _joined(result: tuple[dict[str, Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
    said, made = result
    return {**said, **{f"made/{k}": v for k, v in made.items()}}


def _made(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the generator step made, out of its results."""
    return {k.removeprefix("made/"): v for k, v in values.items() if k.startswith("made/")}
