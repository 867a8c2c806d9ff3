"""Several processes as one: start-up through accelerate, means, and the exchange of gradients while they are made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from copo.errors import CopoError


@dataclass
class Processes:
    """This process among the others.

    Attributes:
        device: Of this process.
        rank: Its number, from 0.
        world: How many there are.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @classmethod
    def start(cls, device: str = "auto") -> Processes:
        """Join the processes that torchrun or `accelerate launch` started, or be alone.

        Args:
            device: auto, cpu or cuda; with several processes each takes the GPU of its local rank.

        Raises:
            CopoError: There is no such device, more processes than GPUs, or accelerate is missing.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise CopoError(f"--device {device!r}: choose auto, cpu or cuda; CUDA_VISIBLE_DEVICES chooses among GPUs")
        if device == "cuda" and not torch.cuda.is_available():
            raise CopoError("--device cuda: this machine has no CUDA device; use --device cpu")
        on_gpu = device != "cpu" and torch.cuda.is_available()
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(torch.device("cuda", 0) if on_gpu else torch.device("cpu"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if on_gpu and local >= torch.cuda.device_count():
            raise CopoError(f"{local + 1} processes on {torch.cuda.device_count()} GPUs: start one for each GPU")
        try:
            from accelerate import PartialState
        except ImportError:
            raise CopoError("several processes need accelerate: pip install 'copo[train]'") from None
        state = PartialState(cpu=not on_gpu)
        return cls(torch.device(state.device), state.process_index, state.num_processes)

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.world == 1:
            return value
        value = value.detach().clone().contiguous()
        torch.distributed.all_reduce(value)
        return value / self.world

    def any(self, flag: bool) -> bool:
        """Whether it is true in at least one process; all processes must ask."""
        if self.world == 1:
            return flag
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def broadcast(self, module: nn.Module) -> None:
        """Give all processes the weights of the first."""
        if self.world > 1:
            for value in (*module.parameters(), *module.buffers()):
                torch.distributed.broadcast(value.data, 0)

    def wait(self) -> None:
        """Until all have come here."""
        if self.world > 1:
            torch.distributed.barrier()

    def close(self) -> None:
        """Leave."""
        if self.world > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@dataclass
class _Bucket:
    parameters: list[nn.Parameter]
    missing: int = 0
    flat: Tensor | None = None
    work: Any = None


@dataclass
class GradientExchange:
    """Averages gradients over processes while the backward pass still runs.

    Parameters are grouped into buckets, last ones first, as their gradients appear. When all gradients of a bucket are
    there, it is sent, always in the same order. `finish` sends what is left and puts the means in place. With one
    process it does nothing.

    Args:
        parameters: Whose gradients are exchanged.
        processes: All processes.
        bucket_mb: Size of a bucket, MiB of float32.
        overlap: Whether buckets are sent while the backward pass runs; not where that is recorded in a CUDA graph.
    """

    parameters: Sequence[nn.Parameter]
    processes: Processes
    bucket_mb: float = 8.0
    overlap: bool = True
    _buckets: list[_Bucket] = field(default_factory=list, init=False)
    _next: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.processes.world == 1:
            return
        limit, held = int(self.bucket_mb * 2**20 / 4), 0
        for parameter in reversed(list(self.parameters)):
            if not self._buckets or held + parameter.numel() > limit:
                self._buckets.append(_Bucket([]))
                held = 0
            bucket = self._buckets[-1]
            bucket.parameters.append(parameter)
            held += parameter.numel()
            if self.overlap:
                parameter.register_post_accumulate_grad_hook(self._arrived(bucket))
        self._reset()

    def _arrived(self, bucket: _Bucket) -> Any:
        def hook(_: Tensor) -> None:
            bucket.missing -= 1
            while self._next < len(self._buckets) and self._buckets[self._next].missing <= 0:
                self._send(self._buckets[self._next])
                self._next += 1

        return hook

    def _send(self, bucket: _Bucket) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket.parameters]
        bucket.flat = torch.cat([g.reshape(-1).float() for g in gradients])
        bucket.work = torch.distributed.all_reduce(bucket.flat, async_op=True)

    def finish(self) -> None:
        """Wait for all buckets; every parameter then has the mean gradient."""
        if self.processes.world == 1:
            return
        for bucket in self._buckets[self._next :]:
            self._send(bucket)
        for bucket in self._buckets:
            assert bucket.flat is not None
            bucket.work.wait()
            bucket.flat /= self.processes.world
            parts = bucket.flat.split([p.numel() for p in bucket.parameters])
            for parameter, part in zip(bucket.parameters, parts, strict=True):
                mean = part.view_as(parameter).to(parameter.dtype)
                if parameter.grad is None:
                    parameter.grad = mean.clone()
                else:
                    parameter.grad.copy_(mean)
        self._reset()

    def _reset(self) -> None:
        self._next = 0
        for bucket in self._buckets:
            bucket.missing, bucket.flat, bucket.work = len(bucket.parameters), None, None
