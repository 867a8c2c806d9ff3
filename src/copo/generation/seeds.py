"""Seeds as people write them: `0-63,100`. Ranges are never spelled out, so that millions cost nothing."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from copo.errors import CopoError

LARGEST = 2**53
"""Seeds stay below: JSON keeps integers up to there."""


@dataclass(frozen=True)
class Seeds:
    """Ascending ranges without overlap.

    Attributes:
        ranges: (first, last) each, both included.
    """

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> Seeds:
        """`0-63,100` -> the seeds, ascending, each once.

        Raises:
            CopoError: A part is no number and no range.
        """
        parts: list[tuple[int, int]] = []
        for part in (p.strip() for p in text.split(",")):
            match = re.fullmatch(r"(\d{1,16})(?:\s*-\s*(\d{1,16}))?", part)
            if match is None:
                raise CopoError(
                    f"--seeds {text!r}: {part!r} is no seed; write numbers and ranges, for example 0-63,100"
                )
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise CopoError(f"--seeds {text!r}: the range {part} runs backwards; write {last}-{first}")
            if last >= LARGEST:
                raise CopoError(f"--seeds {text!r}: {last} is too large; stay below 2^53")
            parts.append((first, last))
        merged: list[tuple[int, int]] = []
        for first, last in sorted(parts):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return cls(tuple(merged))

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def __getitem__(self, index: int) -> int:
        starts = [0, *accumulate(last - first + 1 for first, last in self.ranges)]
        if not 0 <= index < starts[-1]:
            raise IndexError(f"index {index} out of range for {starts[-1]} seeds")
        part = bisect_right(starts, index) - 1
        return self.ranges[part][0] + index - starts[part]

    def __iter__(self) -> Iterator[int]:
        for first, last in self.ranges:
            yield from range(first, last + 1)

    def __str__(self) -> str:
        return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in self.ranges)
