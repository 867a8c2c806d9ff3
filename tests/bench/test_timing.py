"""The table of figures and the timer."""

from __future__ import annotations

import torch

from copo.bench.timing import Figure, median_ms, table


def test_table_has_a_column_for_each_peer() -> None:
    text = table(
        [Figure("frame", 1.5, goal=4, peers={"A": 38, "B": 24.5}), Figure("memory", 0.875, "GB", peers={"B": 3})]
    )
    assert text.splitlines() == [
        "what    ours      goal   A     B",
        "frame   1.50  ms     4  38  24.5",
        "memory  0.88  GB               3",
    ]


def test_median_counts_only_timed_calls() -> None:
    calls = []
    value = median_ms(lambda: calls.append(0), torch.device("cpu"), repeats=5, warm_up=2)
    assert len(calls) == 7
    assert 0 <= value < 1000
