"""Packing into rows: everything once, within the budget, little padding, never dearer than a row for each."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicetextblender.data.packing import ATTENTION_TOKENS, pack, share_evenly, split

QUICKLY = settings(max_examples=40, deadline=None)
BUDGET = 500
lengths_of_a_step = st.lists(st.integers(1, BUDGET), max_size=80)


def widths(microbatch: list[list[int]], lengths: list[int]) -> list[int]:
    return [sum(lengths[i] for i in row) for row in microbatch]


def cost(microbatches: list[list[list[int]]], lengths: list[int]) -> int:
    shapes = [(len(rows), max(widths(rows, lengths))) for rows in microbatches]
    return sum(num_rows * width * (ATTENTION_TOKENS + width) for num_rows, width in shapes)


def unused_share(microbatches: list[list[list[int]]], lengths: list[int]) -> float:
    taken = sum(len(rows) * max(widths(rows, lengths)) for rows in microbatches)
    return 1 - sum(lengths) / taken


@QUICKLY
@given(lengths_of_a_step)
def test_every_conversation_stands_once_and_the_budget_is_kept(lengths: list[int]) -> None:
    for alone in (False, True):
        microbatches = pack(lengths, BUDGET, alone=alone)
        rows = list(chain.from_iterable(microbatches))
        assert sorted(chain.from_iterable(rows)) == list(range(len(lengths))) and all(rows)
        assert not alone or all(len(row) == 1 for row in rows)
        for microbatch in microbatches:
            filled = widths(microbatch, lengths)
            assert filled == sorted(filled, reverse=True) and len(filled) * filled[0] <= BUDGET
    assert cost(pack(lengths, BUDGET), lengths) <= cost(pack(lengths, BUDGET, alone=True), lengths)


@QUICKLY
@given(lengths_of_a_step, st.integers(0, 100))
def test_split_keeps_the_conversations_and_is_empty_only_where_it_must_be(lengths: list[int], number: int) -> None:
    pieces = split(pack(lengths, BUDGET), number)
    rows = list(chain.from_iterable(pieces))
    assert sorted(chain.from_iterable(rows)) == list(range(len(lengths))) and all(rows)
    assert len(pieces) >= number
    assert all(pieces[: min(len(lengths), len(pieces))])


def test_the_cheaper_of_wide_and_narrow_rows_is_taken() -> None:
    assert pack([300, 100, 100, 100], 1000) == [[[0], [1, 2, 3]]]  # no padding in two rows of 300
    assert pack([500, 500], 1000) == [[[0], [1]]]  # one row of 1,000 would cost more attention
    assert pack([700, 690], 1000) == [[[0]], [[1]]]  # do not fit together


@pytest.mark.parametrize(
    ("scale", "spread", "size", "budget", "most"),
    [(5.0, 0.6, 64, 4096, 0.03), (5.5, 1.0, 256, 8192, 0.06), (3.5, 0.5, 16, 640, 0.06)],
)
def test_little_of_the_rows_is_padding(scale: float, spread: float, size: int, budget: int, most: float) -> None:
    random = np.random.default_rng(0)
    shares = []
    for _ in range(20):
        lengths = random.lognormal(scale, spread, size).astype(int).clip(1, budget // 2).tolist()
        shares.append(unused_share(pack(lengths, budget), lengths))
    assert np.mean(shares) < most


def test_shares_are_drawn() -> None:
    assert share_evenly([5, 9, 4, 4], 2) == [[1, 3], [0, 2]]
    assert share_evenly([1], 3) == [[0], [], []]
