"""Packing: the conversations of a rank in as few microbatches as can be, side by side in rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from voicetextblender.data.sharing import (
    ATTENTION_TOKENS,
    Ints,
    bundlings,
    conversation_cost,
    deal,
    share_evenly,
)

ROWS_FACTOR = 1.1
"""From one number of rows that is tried to the next."""

Row = list[int]
"""Places of conversations in an array of lengths."""


def pack(num_tokens: Ints, num_audio_tokens: Ints, budget: int, num_microbatches: int = 1) -> list[list[Row]]:
    """Microbatches of rows: as few as can be, but `num_microbatches` where there are as many conversations.

    Each has about the same work, and conversations with like clips come together. Its rows are those with the least
    work, padding and attention across a whole row included; no more than with a row for each conversation where those
    take as many microbatches.

    Args:
        num_tokens: of each conversation; `num_audio_tokens` of them are audio.
        budget: tokens of a microbatch at most, rows times the longest row.
    """
    packed = [
        _in_rows(part, num_tokens, budget) for part in _fill(num_tokens, num_audio_tokens, budget, num_microbatches)
    ]
    alone = pack_alone(num_tokens, budget)
    lengths = num_tokens.tolist()
    found = alone if len(alone) == len(packed) and _cost(alone, lengths) < _cost(packed, lengths) else packed
    return sorted(found, key=lambda rows: -_width(rows[0], lengths))


def count_microbatches(num_tokens: Ints, num_audio_tokens: Ints, budget: int) -> int:
    """How many microbatches `pack` makes when it is free to."""
    return len(_fill(num_tokens, num_audio_tokens, budget, 1))


def pack_alone(num_tokens: Ints, budget: int) -> list[list[Row]]:
    """Microbatches in which each conversation has a row of its own, longest first."""
    order = np.argsort(-num_tokens, kind="stable").tolist()
    lengths = num_tokens.tolist()
    stops = [0]
    while stops[-1] < len(order):
        stops.append(min(stops[-1] + budget // lengths[order[stops[-1]]], len(order)))
    return [[[i] for i in order[start:stop]] for start, stop in pairwise(stops)]


def split(microbatches: Sequence[list[Row]], num_microbatches: int) -> list[list[Row]]:
    """The same rows in at least `num_microbatches`: the fullest are halved; if none can be, empty ones follow."""
    pieces = [list(rows) for rows in microbatches]
    while len(pieces) < num_microbatches:
        fullest = max(range(len(pieces)), key=lambda i: (len(pieces[i]), -i), default=None)
        if fullest is None or len(pieces[fullest]) < 2:
            return pieces + [[] for _ in range(num_microbatches - len(pieces))]
        half = (len(pieces[fullest]) + 1) // 2
        pieces[fullest : fullest + 1] = [pieces[fullest][:half], pieces[fullest][half:]]
    return pieces


def _fill(num_tokens: Ints, num_audio_tokens: Ints, budget: int, at_least: int) -> list[Ints]:
    """Conversations of each microbatch."""
    if not len(num_tokens):
        return []
    assert num_tokens.min() > 0 and num_tokens.max() <= budget
    costs = conversation_cost(num_tokens, num_audio_tokens)
    number = min(max(at_least, -(-int(num_tokens.sum()) // budget)), len(num_tokens))
    while True:
        for bundles in bundlings(num_tokens, num_audio_tokens, budget):
            found = deal(bundles, num_tokens, costs, number, budget) if len(bundles) >= number else None
            if found is not None:
                return found
        fitted = _best_fit(num_tokens, budget)
        if len(fitted) == number:
            return fitted
        number += 1


def _best_fit(num_tokens: Ints, budget: int) -> list[Ints]:
    """Conversations of microbatches filled to the brim: each, the longest first, goes where it leaves least room.

    Source: best-fit decreasing, Johnson et al., Worst-Case Performance Bounds for Simple Packing Algorithms (1974).
    """
    parts: list[list[int]] = []
    room = np.empty(0, np.int64)
    for i in np.argsort(-num_tokens, kind="stable").tolist():
        left = np.where(room >= num_tokens[i], room, budget + 1)
        if not len(left) or left.min() > budget:
            parts.append([])
            room = np.append(room, budget)
            left = room
        best = int(left.argmin()) if len(parts[-1]) else len(parts) - 1
        parts[best].append(i)
        room[best] -= num_tokens[i]
    return [np.array(part, np.int64) for part in parts]


def _in_rows(part: Ints, num_tokens: Ints, budget: int) -> list[Row]:
    """The rows of one microbatch, longest first: the cheapest found over all numbers of rows."""
    lengths = num_tokens[part].tolist()
    tried = (_longest_first(share_evenly(lengths, number), lengths) for number in _numbers(len(part)))
    fitting = [rows for rows in tried if len(rows) * _width(rows[0], lengths) <= budget]
    rows = min(fitting, key=lambda rows: _cost([rows], lengths))
    places = part.tolist()
    return [[places[i] for i in row] for row in rows]


def _numbers(most: int) -> Iterator[int]:
    """Numbers of rows to try: all of them where they are few."""
    number = 1
    while number < most:
        yield number
        number = max(number + 1, int(number * ROWS_FACTOR))
    yield most


def _longest_first(rows: list[Row], lengths: Sequence[int]) -> list[Row]:
    return sorted(rows, key=lambda row: (-_width(row, lengths), row))


def _width(row: Row, lengths: Sequence[int]) -> int:
    return sum(lengths[i] for i in row)


def _cost(microbatches: Sequence[list[Row]], lengths: Sequence[int]) -> int:
    """Work of the LLM, padding and attention across a whole row included."""
    widths = [(len(rows), _width(rows[0], lengths)) for rows in microbatches]
    return sum(num_rows * width * (ATTENTION_TOKENS + width) for num_rows, width in widths)
