"""Who works on the units: this process, a pool of processes that may die, or a Ray cluster.

What the work is a `Job` says. Every engine stores results in the job's store and tells `done` about each finished
unit. An engine stops early only where going on is useless: a model is missing, or results cannot be written.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

import torch

from copo.errors import CopoError

ATTEMPTS = 2
"""Times that a unit may take its worker with it before the job is asked what to do without it."""

_RAY_PATIENCE = 300.0
"""Seconds to wait for a Ray cluster that works on nothing."""


class Unit(Protocol):
    """What is worked on in one go. Units travel between processes and machines: they are pickled."""

    @property
    def id(self) -> str:
        """Names the result in the store."""
        ...


class Worker(Protocol):
    """Works on units, one after the other."""

    def run(self, unit: Any) -> bytes:
        """The result of a unit in its stored form.

        Raises:
            CopoError: Going on is useless for everybody.
        """
        ...


class Store(Protocol):
    """Where results go."""

    def put_bytes(self, unit: str, data: bytes) -> None:
        """Keep the result of a unit, whole or not at all."""
        ...


class Job(Protocol):
    """What is to be done with units. Jobs travel to other processes: they are pickled."""

    def worker(self, index: int) -> Worker:
        """Make a worker, loading its models. `index` counts the workers of a machine, to choose a device by."""
        ...

    def store(self) -> Store:
        """Open the store; several processes of a machine may have it open at once."""
        ...

    def crashed(self, unit: Any, code: int | None) -> bytes:
        """The stored form of the result of a unit that kills whoever works on it.

        Raises:
            CopoError: There is none.
        """
        ...


Done = Callable[[Any], None]
"""Called with each unit after it was stored."""


def run_here(units: Sequence[Any], job: Job, done: Done) -> None:
    """One unit after the other in this process.

    Raises:
        CopoError: A model is missing, or a result cannot be stored.
    """
    store, worker = job.store(), job.worker(0)
    for unit in units:
        store.put_bytes(unit.id, worker.run(unit))
        done(unit)


@contextmanager
def one_thread() -> Iterator[None]:
    """The work on one photograph is many small steps, which several threads make slower, not faster: by a factor of
    twenty where other programs use the CPUs too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_pool(units: Sequence[Any], job: Job, workers: int, done: Done) -> None:
    """A pool of processes on this machine. A worker that dies is replaced and its unit tried once more.

    Raises:
        CopoError: A model is missing, a result cannot be stored, or workers die before they begin.
    """
    context = multiprocessing.get_context("spawn")
    todo = list(reversed(units))
    attempts: dict[str, int] = {}
    pool: list[_Process] = []
    store = job.store()
    try:
        for index in range(min(workers, len(todo))):
            pool.append(_Process(context, job, index))
        for worker in pool:
            worker.give(todo.pop())
        while any(worker.unit is not None for worker in pool):
            ready = wait([worker.connection for worker in pool if worker.unit is not None])
            for i, worker in enumerate(pool):
                if worker.connection not in ready or worker.unit is None:
                    continue
                unit, problem = worker.take()
                if problem is not None:
                    if problem.message is not None:
                        raise CopoError(problem.message)
                    attempts[unit.id] = attempts.get(unit.id, 0) + 1
                    worker.stop()
                    worker = pool[i] = _Process(context, job, i)
                    if attempts[unit.id] < ATTEMPTS:
                        worker.give(unit)
                        continue
                    store.put_bytes(unit.id, job.crashed(unit, problem.code))
                done(unit)
                if todo:
                    worker.give(todo.pop())
    finally:
        for worker in pool:
            worker.stop()


class _Problem:
    """Why a unit has no result: a message for the user, or the exit code of a dead worker."""

    def __init__(self, message: str | None = None, code: int | None = None) -> None:
        self.message, self.code = message, code


class _Process:
    """A process, and the unit that it works on."""

    def __init__(self, context: Any, job: Job, index: int) -> None:
        self.connection, other = context.Pipe()
        self.unit: Any | None = None
        self.process: SpawnProcess = context.Process(target=_work, args=(other, job, index), daemon=True)
        self.process.start()
        other.close()

    def give(self, unit: Any) -> None:
        self.unit = unit
        with suppress(OSError):  # where it died meanwhile, `take` will see it
            self.connection.send(unit)

    def take(self) -> tuple[Any, _Problem | None]:
        """The finished unit, with what went wrong."""
        unit, self.unit = self.unit, None
        assert unit is not None
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return unit, _Problem(code=self.process.exitcode)
        return unit, None if message is None else _Problem(message)

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(connection: Connection, job: Job, index: int) -> None:
    """Life of a worker: it ends when the other end of the connection does."""
    torch.set_num_threads(1)
    worker: Worker | None = None
    store = job.store()
    try:
        while True:
            unit = connection.recv()
            try:
                worker = worker or job.worker(index)
                store.put_bytes(unit.id, worker.run(unit))
                connection.send(None)
            except CopoError as error:  # a missing model or a full disk: the others would fail alike
                connection.send(str(error))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def run_ray(units: Sequence[Any], job: Job, workers: int, address: str, done: Done, gpus: bool = False) -> None:
    """Actors on a Ray cluster, one CPU each; with `gpus`, one GPU each where the cluster has any.

    Where an actor dies with its machine, its unit goes to another one.

    The inputs must be readable under the same paths everywhere; results come back through Ray.

    Args:
        units: What to do.
        job: What that is.
        workers: Actors; 0: one for each CPU (GPU) of the cluster.
        address: Of the cluster, e.g. "auto" or "ray://host:10001"; "local" starts one here.
        done: Told about each unit.
        gpus: Whether the work is for GPUs.

    Raises:
        CopoError: Ray is not installed, there is no cluster, a model is missing there, or a result cannot be stored.
    """
    try:
        import ray
    except ImportError:
        raise CopoError("--engine ray needs the package ray: pip install 'copo[ray]'") from None
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=None if address == "local" else address, log_to_driver=False, logging_level=logging.ERROR,
                     include_dashboard=False if address == "local" else None)  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CopoError(f"--ray-address {address}: no Ray cluster there: {reason}") from None
    try:
        _drive_ray(ray, units, job, workers, done, gpus)
    finally:
        if started:
            ray.shutdown()


def _drive_ray(ray: Any, units: Sequence[Any], job: Job, workers: int, done: Done, gpus: bool) -> None:
    """Hand units to actors that are alive. The unit of an actor that is lost goes to another one; a new actor is asked
    for in its place, and gets work when the cluster has found room for it."""
    resources = ray.cluster_resources()
    on_gpus = gpus and resources.get("GPU", 0) >= 1
    remote = ray.remote(num_cpus=1, num_gpus=int(on_gpus), max_restarts=0, max_task_retries=0)(_RayWorker)
    count = max(min(workers or int(resources.get("GPU" if on_gpus else "CPU", 1)), len(units)), 1)
    store, todo = job.store(), list(reversed(units))
    idle: list[Any] = []
    starting: dict[Any, Any] = {}
    running: dict[Any, tuple[Any, Any]] = {}
    attempts: dict[str, int] = {}

    def start() -> None:
        actor = remote.remote(job)
        starting[actor.ready.remote()] = actor

    for _ in range(count):
        start()
    while todo or running:
        while todo and idle:
            actor, unit = idle.pop(), todo.pop()
            running[actor.run.remote(unit)] = (actor, unit)
        ready, _ = ray.wait([*running, *starting], num_returns=1, timeout=_RAY_PATIENCE)
        if not ready and not running:
            raise CopoError("the Ray cluster gives no CPU to work on: add one, or use --engine local; then go on")
        for reference in ready:
            lost = False
            if reference in starting:
                actor = starting.pop(reference)
                try:
                    ray.get(reference)
                    idle.append(actor)
                except ray.exceptions.RayError:
                    lost = True
            else:
                actor, unit = running.pop(reference)
                try:
                    data, problem = ray.get(reference)
                except ray.exceptions.RayError as error:
                    lost = True
                    attempts[unit.id] = attempts.get(unit.id, 0) + 1
                    if attempts[unit.id] > ATTEMPTS:
                        reason = (str(error).splitlines() or [""])[0]
                        raise CopoError(f"the Ray cluster keeps losing a unit: {reason}") from None
                    todo.append(unit)
                else:
                    if problem is not None:
                        raise CopoError(problem)
                    store.put_bytes(unit.id, data)
                    done(unit)
                    idle.append(actor)
            if lost and len(idle) + len(running) + len(starting) < count:
                start()
    for actor in [*idle, *starting.values()]:
        ray.kill(actor)


class _RayWorker:
    """What runs on the cluster."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        self.job = job
        self.worker: Worker | None = None

    def ready(self) -> None:
        """Answer when the actor has been started."""

    def run(self, unit: Any) -> tuple[bytes, str | None]:
        """The stored form of a result, or what stops the run."""
        try:
            self.worker = self.worker or self.job.worker(0)
            return self.worker.run(unit), None
        except CopoError as error:
            return b"", str(error)
