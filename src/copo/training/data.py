"""Photographs in a fixed random order, shared out over processes, decoded ahead in threads.

The order is a pure function of the seed: position n of the endless sequence is known without reading what came before,
so that a run resumes at the very photograph where it stopped, also with another number of processes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import FACTOR_NAMES, FactorSpec
from copo.formats.dataset import PortraitDataset

MOST_BAD = 0.1
"""Share of unreadable photographs at which a data set counts as broken."""


@dataclass(frozen=True)
class Batch:
    """Photographs with what is known of them.

    Attributes:
        pictures: (B, 3, S, S) uint8.
        labels: (B, s, s) uint8 classes, or None.
        cam2world: (B, 4, 4).
        intrinsics: (B, 3, 3).
        coefficients: (B, n) normalised factors without the noise code: [shape | albedo | expression | illumination].
        code: (B,) int64 whose noise code.
        index: (B,) int64 rows of the data set.
    """

    pictures: Tensor
    labels: Tensor | None
    cam2world: Tensor
    intrinsics: Tensor
    coefficients: Tensor
    code: Tensor
    index: Tensor

    @property
    def camera(self) -> Camera:
        """(B) cameras."""
        return Camera(self.cam2world, self.intrinsics)

    def to(self, device: torch.device) -> Batch:
        """The same photographs on a device; copies from pinned memory do not wait."""
        return self._each(lambda value: value.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same photographs in pinned memory."""
        return self._each(lambda value: value.pin_memory())

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {n: None if v is None else function(v) for n, v in values.items()}
        return Batch(**changed)


def order(count: int, seed: int, start: int) -> Iterator[int]:
    """The endless sequence of photographs from a position on: a new permutation in every round.

    Args:
        count: Number of photographs.
        seed: Which sequence.
        start: Position of the first one given.
    """
    epoch, offset = divmod(start, count)
    while True:
        permutation = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)
        yield from permutation[offset:].tolist()
        epoch, offset = epoch + 1, 0


class TrainingSet:
    """A prepared data set as tables, and its photographs on demand.

    Attributes:
        rows: Rows of the data set that are trained on.
        spec: Of the coefficients.
        coefficients: (N, n) normalised, without the noise code.
        cameras: (N) cameras.
        codes: (N,) int64 number of each photograph's noise code.
        code_count: Number of codes: people, or sessions where the manifest tells them apart.
    """

    def __init__(self, dataset: PortraitDataset, spec: FactorSpec, test_share: float, needs_labels: bool) -> None:
        """Check a data set and take its training part.

        Args:
            dataset: Prepared.
            spec: Of the head model that the generator is made for.
            test_share: Share of people that are left out.
            needs_labels: Whether a loss reads label maps.

        Raises:
            CopoError: It lacks coefficients or labels, or they belong to another head model.
        """
        self.dataset = dataset
        if not len(dataset):
            raise CopoError(f"data set {dataset.path} holds no photographs")
        if dataset.factors is None:
            raise CopoError(f"data set {dataset.path} has no coefficients: make it with copo prepare")
        theirs = dataset.factors.spec
        wanted = {k: v for k, v in spec.sizes.items() if k != "noise"}
        given = {k: v for k, v in theirs.sizes.items() if k != "noise"}
        if theirs.head != spec.head or wanted != given:
            raise CopoError(
                f"data set {dataset.path} has coefficients of head {theirs.head!r} {tuple(given.values())}, this "
                f"training of {spec.head!r} {tuple(wanted.values())}: prepare it again, or choose that head"
            )
        if needs_labels and not dataset.has_labels:
            raise CopoError(
                f"data set {dataset.path} has no label maps: prepare it with a parser, or set their weights 0"
            )
        self.spec = spec
        self.rows = dataset.split(test_share, test=False)
        if not self.rows:
            raise CopoError(f"data set {dataset.path}: all people fall into the test part; lower the test share")
        index = torch.tensor(self.rows)
        factors = dataset.factors[index]
        self.coefficients = torch.cat(
            [getattr(factors, n) / spec.normaliser(n) for n in FACTOR_NAMES if n != "noise"], dim=1
        ).float()
        finite = torch.isfinite(self.coefficients).all(1)
        if not finite.all():
            row = self.rows[int(torch.nonzero(~finite)[0])]
            raise CopoError(f"data set {dataset.path}: the coefficients of {dataset.names[row]} are not finite")
        self.cameras = dataset.cameras[index]
        people, manifest = dataset.people(), dataset.manifest
        owners = [f"{people[r]}/{manifest[r].get('session', '')}" for r in self.rows]
        known = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
        self.codes = torch.tensor([known[owner] for owner in owners])
        self.code_count = len(known)

    def __len__(self) -> int:
        return len(self.rows)

    def identities(self) -> tuple[Tensor, Tensor]:
        """(code_count, shape + albedo) each person's mean, divided by the normalisers, and (code_count,) how many
        photographs there are."""
        size = self.spec.identity
        counts = torch.bincount(self.codes, minlength=self.code_count)
        sums = torch.zeros(self.code_count, size).index_add_(0, self.codes, self.coefficients[:, :size])
        return sums / counts[:, None], counts

    def picture(self, position: int, side: int) -> Tensor:
        """(3, side, side) uint8 of the photograph at a position of `rows`."""
        picture = self.dataset.image(self.rows[position])
        if picture.shape[:2] != (side, side):
            picture = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()

    def labels(self, position: int, side: int) -> Tensor:
        """(side, side) uint8 classes of the photograph at a position of `rows`."""
        labels = Image.fromarray(self.dataset.labels(self.rows[position]))
        return torch.from_numpy(np.array(labels.resize((side, side), Image.Resampling.NEAREST)))


class PhotographStream:
    """Batches of one process, endless. Iterate, and `close` at the end.

    Attributes:
        bad: Names of photographs that could not be read, each with the reason; the next one in order took its place.
    """

    def __init__(
        self,
        data: TrainingSet,
        batch: int,
        side: int,
        label_side: int,
        with_labels: bool,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        cache_gb: float = 1.0,
        workers: int = 2,
        pin: bool = False,
    ) -> None:
        """Start reading.

        Args:
            data: What is read.
            batch: Photographs in a batch of this process.
            side: Of the pictures, pixels.
            label_side: Of the label maps.
            with_labels: Whether label maps are read.
            seed: Of the order.
            start: Photographs that all processes together have used before.
            rank: Of this process.
            world: Number of processes.
            cache_gb: Decoded photographs that are kept.
            workers: Threads.
            pin: Whether batches lie in pinned memory.
        """
        self.data, self.batch, self.sides, self.with_labels = data, batch, (side, label_side), with_labels
        self.pin, self.bad = pin, dict[str, str]()
        self._limit, self._held = int(cache_gb * 2**30), 0
        self._cache: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._sequence = order(len(data), seed, start)
        self._rank, self._world = rank, world
        self._pool = ThreadPoolExecutor(max(1, workers))
        self._ahead: deque[list[tuple[int, Future[tuple[Tensor, Tensor | None] | None]]]] = deque()
        for _ in range(3):
            self._read_ahead()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self._read_ahead()
        found: list[tuple[int, tuple[Tensor, Tensor | None]]] = []
        for position, future in self._ahead.popleft():
            read, tried = future.result(), position
            while read is None:
                tried = (tried + 1) % len(self.data)
                read = self._load(tried)
            found.append((tried, read))
        index = torch.tensor([position for position, _ in found])
        labels = [read[1] for _, read in found if read[1] is not None]
        batch = Batch(
            pictures=torch.stack([read[0] for _, read in found]),
            labels=torch.stack(labels) if self.with_labels else None,
            cam2world=self.data.cameras.cam2world[index],
            intrinsics=self.data.cameras.intrinsics[index],
            coefficients=self.data.coefficients[index],
            code=self.data.codes[index],
            index=torch.tensor([self.data.rows[position] for position, _ in found]),
        )
        return batch.pinned() if self.pin else batch

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read_ahead(self) -> None:
        """Queue the next batch: of the photographs of one step, this process takes its own part."""
        step = [next(self._sequence) for _ in range(self.batch * self._world)]
        mine = step[self._rank * self.batch : (self._rank + 1) * self.batch]
        self._ahead.append([(position, self._pool.submit(self._load, position)) for position in mine])

    def _load(self, position: int) -> tuple[Tensor, Tensor | None] | None:
        """A photograph and its labels; None where it is damaged."""
        if position in self._cache:
            return self._cache[position]
        name = self.data.dataset.names[self.data.rows[position]]
        if name in self.bad:
            return None
        try:
            picture = self.data.picture(position, self.sides[0])
            labels = self.data.labels(position, self.sides[1]) if self.with_labels else None
        except CopoError as error:
            self.bad[name] = str(error)
            if len(self.bad) > max(1, math.ceil(MOST_BAD * len(self.data))) or len(self.bad) == len(self.data):
                raise CopoError(f"{len(self.bad)} photographs cannot be read, the last: {error}") from error
            return None
        size = picture.numel() + (0 if labels is None else labels.numel())
        if self._held + size <= self._limit:
            self._cache[position], self._held = (picture, labels), self._held + size
        return picture, labels
