"""Packing into rows: everything once, within the budget, few microbatches, little padding."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicetextblender.data.packing import count_microbatches, pack, pack_alone, split
from voicetextblender.data.sharing import ATTENTION_TOKENS, bundle_alike, share_among_ranks, share_evenly

QUICKLY = settings(max_examples=40, deadline=None)
BUDGET = 500
lengths_of_a_step = st.lists(st.integers(1, BUDGET), max_size=80)


def pack_text(lengths: list[int], budget: int, num_microbatches: int = 1) -> list[list[list[int]]]:
    return pack(np.array(lengths, np.int64), np.zeros(len(lengths), np.int64), budget, num_microbatches)


def widths(microbatch: list[list[int]], lengths: list[int]) -> list[int]:
    return [sum(lengths[i] for i in row) for row in microbatch]


def cost(microbatches: list[list[list[int]]], lengths: list[int]) -> int:
    shapes = [(len(rows), max(widths(rows, lengths))) for rows in microbatches]
    return sum(num_rows * width * (ATTENTION_TOKENS + width) for num_rows, width in shapes)


def padding(microbatches: list[list[list[int]]], lengths: list[int]) -> float:
    taken = sum(len(rows) * max(widths(rows, lengths)) for rows in microbatches)
    return 1 - sum(lengths) / taken


@QUICKLY
@given(lengths_of_a_step, st.integers(1, 20), st.randoms())
def test_every_conversation_stands_once_and_the_budget_is_kept(lengths: list[int], number: int, random: object) -> None:
    num_tokens = np.array(lengths, np.int64)
    num_audio_tokens = np.array([random.randint(0, length) for length in lengths], np.int64)  # type: ignore[attr-defined]
    packed, alone = pack(num_tokens, num_audio_tokens, BUDGET, number), pack_alone(num_tokens, BUDGET)
    for microbatches in (packed, alone):
        rows = list(chain.from_iterable(microbatches))
        assert sorted(chain.from_iterable(rows)) == list(range(len(lengths))) and all(rows)
        for microbatch in microbatches:
            filled = widths(microbatch, lengths)
            assert filled == sorted(filled, reverse=True) and len(filled) * filled[0] <= BUDGET
    assert all(len(row) == 1 for rows in alone for row in rows)
    assert len(packed) >= min(number, len(lengths))
    assert count_microbatches(num_tokens, num_audio_tokens, BUDGET) <= len(packed)
    if len(alone) == len(packed):
        assert cost(packed, lengths) <= cost(alone, lengths)


@QUICKLY
@given(lengths_of_a_step, st.integers(0, 100))
def test_split_keeps_the_conversations_and_is_empty_only_where_it_must_be(lengths: list[int], number: int) -> None:
    pieces = split(pack_alone(np.array(lengths, np.int64), BUDGET), number)
    rows = list(chain.from_iterable(pieces))
    assert sorted(chain.from_iterable(rows)) == list(range(len(lengths))) and all(rows)
    assert len(pieces) >= number
    assert all(pieces[: min(len(lengths), len(pieces))])


def test_the_cheaper_of_wide_and_narrow_rows_is_taken() -> None:
    assert pack_text([300, 100, 100, 100], 1000) == [[[0], [1, 2, 3]]]  # no padding in two rows of 300
    assert pack_text([500, 500], 1000) == [[[0], [1]]]  # one row of 1,000 would cost more attention
    assert pack_text([700, 690], 1000) == [[[0]], [[1]]]  # do not fit together
    assert pack_text([500, 500], 1000, num_microbatches=2) == [[[0]], [[1]]]


@pytest.mark.parametrize(
    ("scale", "spread", "size", "budget", "most"),
    [(5.0, 0.6, 64, 4096, 0.03), (5.5, 1.0, 256, 8192, 0.04), (3.5, 0.5, 16, 640, 0.06)],
)
def test_little_of_the_rows_is_padding(scale: float, spread: float, size: int, budget: int, most: float) -> None:
    random = np.random.default_rng(0)
    shares, unfilled = [], []
    for _ in range(20):
        lengths = random.lognormal(scale, spread, size).astype(int).clip(1, budget // 2).tolist()
        microbatches = pack_text(lengths, budget)
        shares.append(padding(microbatches, lengths))
        unfilled.append(len(microbatches) - sum(lengths) / budget)
    assert np.mean(shares) < most
    assert max(unfilled) < 1.05  # hardly ever one microbatch more than the tokens need


def test_shares_are_drawn() -> None:
    assert share_evenly([5, 9, 4, 4], 2) == [[1, 3], [0, 2]]
    assert share_evenly([1], 3) == [[0], [], []]


def test_bundles_are_drawn() -> None:
    num_audio_tokens = np.array([10, 90, 0, 80, 50, 100, 95, 70])
    bundles = bundle_alike(num_audio_tokens + 5, num_audio_tokens, 210)
    assert bundles == [[5, 6], [1, 3], [7], [4], [0], [2]]  # the two with the least audio, and text, alone


def test_ranks_have_equal_tokens_and_equal_work_though_kinds_differ() -> None:
    random = np.random.default_rng(1)
    num_tokens = random.lognormal(5.3, 0.7, 600).astype(np.int64).clip(20, 2048)
    num_audio_tokens = np.where(random.random(600) < 0.7, num_tokens * 2 // 3, 0)
    budget = int(num_tokens.sum() / 8 / 0.985)
    shares = share_among_ranks(num_tokens, num_audio_tokens, 8, budget)
    assert sorted(np.concatenate(shares).tolist()) == list(range(600))
    assert max(num_tokens[share].sum() for share in shares) <= budget
    work = [
        (num_tokens * (ATTENTION_TOKENS + num_tokens) + num_audio_tokens * ATTENTION_TOKENS)[s].sum() for s in shares
    ]
    assert max(work) <= 1.012 * min(work)
