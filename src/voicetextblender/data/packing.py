"""Packing: conversations side by side in rows, rows in microbatches, and work shared evenly among ranks."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import pairwise

ATTENTION_TOKENS = 4096
"""Tokens of a row at which attention over the whole of it costs as much as everything else in the LLM.

Six times the LLM's width: 24 width^2 operations per token and layer in the matrices, 4 width per token that is attended
to. 1,536 for the embedded LLM, 12,288 for one of 2 billion parameters; this one costs either at most 1.5 % of its work.
"""
ROWS_FACTOR = 1.1
"""From one number of rows that is tried to the next."""

Row = list[int]
"""Places of conversations in a list of lengths."""


def conversation_cost(num_tokens: int, num_audio_tokens: int) -> int:
    """Work of one conversation, in units of 1 / `ATTENTION_TOKENS` token: an encoder frame costs what a token does."""
    return num_tokens * (ATTENTION_TOKENS + num_tokens) + num_audio_tokens * ATTENTION_TOKENS


def share_evenly(costs: Sequence[int], num_shares: int) -> list[Row]:
    """Places of `costs` in each share, most expensive first; each goes to the share that has least so far.

    Source: longest-processing-time scheduling, Graham, Bounds on Multiprocessing Timing Anomalies (1969).
    """
    shares: list[Row] = [[] for _ in range(num_shares)]
    loads = [(0, share) for share in range(num_shares)]
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, share = loads[0]
        shares[share].append(i)
        heapq.heapreplace(loads, (load + costs[i], share))
    return shares


def pack(lengths: Sequence[int], budget: int, *, alone: bool = False) -> list[list[Row]]:
    """Microbatches of rows: the cheapest found, over all numbers of rows.

    Wide rows leave less padding, narrow ones less attention. With as many rows as conversations each is alone in its
    row, sorted by length: packing never costs more than that.

    Args:
        lengths: tokens of each conversation.
        budget: tokens of a microbatch at most, rows times the longest row.
        alone: give every conversation a row of its own.
    """
    if not lengths:
        return []
    assert min(lengths) > 0 and max(lengths) <= budget
    fewest = len(lengths) if alone else -(-sum(lengths) // budget)
    packed = (_cut(share_evenly(lengths, num_rows), lengths, budget) for num_rows in _numbers(fewest, len(lengths)))
    return min((microbatches for microbatches in packed if microbatches), key=lambda found: _cost(found, lengths))


def split(microbatches: Sequence[list[Row]], num_microbatches: int) -> list[list[Row]]:
    """The same conversations in at least `num_microbatches`: the fullest are halved; if none can be, empty follow."""
    pieces = [list(rows) for rows in microbatches]
    while len(pieces) < num_microbatches:
        sizes = [sum(len(row) for row in rows) for rows in pieces]
        if max(sizes, default=0) < 2:
            return pieces + [[] for _ in range(num_microbatches - len(pieces))]
        fullest = sizes.index(max(sizes))
        pieces[fullest : fullest + 1] = _halve(pieces[fullest])
    return pieces


def _numbers(fewest: int, most: int) -> Iterator[int]:
    """Numbers of rows to try: all of them where they are few."""
    number = fewest
    while number < most:
        yield number
        number = max(number + 1, int(number * ROWS_FACTOR))
    yield most


def _cut(rows: Sequence[Row], lengths: Sequence[int], budget: int) -> list[list[Row]]:
    """Rows in microbatches, longest first: each holds as many as fit beside its longest; none if a row does not fit."""
    filled = sorted((-sum(lengths[i] for i in row), row) for row in rows)
    if -filled[0][0] > budget:
        return []
    stops = [0]
    while stops[-1] < len(filled):
        width = -filled[stops[-1]][0]
        stops.append(min(stops[-1] + budget // width, len(filled)))
    return [[row for _, row in filled[start:stop]] for start, stop in pairwise(stops)]


def _cost(microbatches: Sequence[Sequence[Row]], lengths: Sequence[int]) -> int:
    """Work of the LLM, padding and attention across a whole row included."""
    widths = [(len(rows), sum(lengths[i] for i in rows[0])) for rows in microbatches]
    return sum(num_rows * width * (ATTENTION_TOKENS + width) for num_rows, width in widths)


def _halve(rows: list[Row]) -> list[list[Row]]:
    if len(rows) > 1:
        half = (len(rows) + 1) // 2
        return [rows[:half], rows[half:]]
    half = (len(rows[0]) + 1) // 2
    return [[rows[0][:half]], [rows[0][half:]]]
