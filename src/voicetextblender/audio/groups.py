"""Clips of many lengths in groups of similar length: little padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GROUP_COST = 48_000
"""What one more group costs beside its clips, in samples of audio: 3 s, where padding is computed like speech."""


def group_by_length(lengths: Sequence[int], group_cost: int = GROUP_COST) -> list[list[int]]:
    """Indices of `lengths` in groups, longest first: those with the least padded length and cost of groups together.

    The padding of a group of n is at most `group_cost` times 1 + 1/2 + ... + 1/n: else it would pay to cut it in two.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    longest = np.array([lengths[index] for index in order], np.int64)
    least, starts = np.zeros(len(order) + 1, np.int64), [0] * (len(order) + 1)
    for stop in range(1, len(order) + 1):
        costs = least[:stop] + longest[:stop] * np.arange(stop, 0, -1) + group_cost
        starts[stop] = int(costs.argmin())
        least[stop] = costs[starts[stop]]
    groups: list[list[int]] = []
    stop = len(order)
    while stop:
        groups.insert(0, order[starts[stop] : stop])
        stop = starts[stop]
    return groups
