"""The plan is a pure function; any number of ranks sees the same steps; every microbatch keeps the budget."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from voicetextblender.data.blend import Blend
from voicetextblender.data.plan import Draw, Plan, PlanConfig

BUDGET = 400
QUICKLY = settings(max_examples=40, deadline=None)


@dataclass(frozen=True)
class Lengths:
    num_tokens: np.ndarray


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    lengths = draw(st.lists(st.lists(st.integers(1, BUDGET), min_size=1, max_size=60), min_size=1, max_size=4))
    weights = {f"s{i}": draw(st.floats(0.01, 10)) for i in range(len(lengths))}
    blend = Blend(weights, {f"s{i}": len(rows) for i, rows in enumerate(lengths)}, draw(st.integers(0, 2**32)))
    config = PlanConfig(
        conversations_per_step=draw(st.integers(1, 70)),
        max_tokens_per_microbatch=BUDGET,
        max_conversation_tokens=BUDGET,
    )
    return Plan([Lengths(np.array(rows)) for rows in lengths], blend, config)


steps = st.integers(0, 10_000)
ranks = st.integers(1, 9)


def length(plan: Plan, draw: Draw) -> int:
    return int(plan.indexes[draw.source].num_tokens[draw.row])


@QUICKLY
@given(plans(), steps, ranks)
def test_union_over_ranks_is_the_step_for_any_number_of_ranks(plan: Plan, step: int, num_ranks: int) -> None:
    expected = Counter(plan.draws(step))
    assert len(expected) == plan.config.conversations_per_step
    shares = [plan.step(step, rank, num_ranks) for rank in range(num_ranks)]
    assert Counter(draw for share in shares for microbatch in share for draw in microbatch) == expected


@QUICKLY
@given(plans(), steps, ranks)
def test_every_microbatch_keeps_the_budget_and_begins_with_its_longest(plan: Plan, step: int, num_ranks: int) -> None:
    for rank in range(num_ranks):
        for microbatch in plan.step(step, rank, num_ranks):
            lengths = [length(plan, draw) for draw in microbatch]
            assert lengths == sorted(lengths, reverse=True)
            assert len(lengths) * max(lengths, default=0) <= BUDGET


@QUICKLY
@given(plans(), steps, ranks)
def test_ranks_have_equally_many_microbatches_and_balanced_costs(plan: Plan, step: int, num_ranks: int) -> None:
    shares = [plan.step(step, rank, num_ranks) for rank in range(num_ranks)]
    assert len({len(share) for share in shares}) == 1
    costs = [sum(length(plan, draw) for microbatch in share for draw in microbatch) for share in shares]
    assert max(costs) - min(costs) <= max(length(plan, draw) for draw in plan.draws(step))
    for share in shares:
        num_conversations = sum(len(microbatch) for microbatch in share)
        assert sum(bool(microbatch) for microbatch in share) == min(len(share), num_conversations)
    if num_ranks == 1:
        assert all(shares[0])


@QUICKLY
@given(plans(), st.lists(steps, min_size=1, max_size=5), ranks)
def test_a_step_depends_on_nothing_but_its_number(plan: Plan, numbers: list[int], num_ranks: int) -> None:
    fresh = pickle.loads(pickle.dumps(plan))
    first = {step: plan.step(step, num_ranks - 1, num_ranks) for step in numbers}
    assert all(fresh.step(step, num_ranks - 1, num_ranks) == first[step] for step in reversed(numbers))


def test_one_epoch_of_one_source_is_every_row_once() -> None:
    lengths = Lengths(np.arange(1, 101))
    config = PlanConfig(conversations_per_step=20, max_tokens_per_microbatch=BUDGET, max_conversation_tokens=BUDGET)
    plan = Plan([lengths], Blend({"s": 1.0}, {"s": 100}, seed=3), config)
    seen = [draw for step in range(5) for microbatch in plan.step(step) for draw in microbatch]
    assert sorted(draw.row for draw in seen) == list(range(100))
    assert sorted(draw.position for draw in seen) == list(range(100))
    assert {draw.epoch for draw in seen} == {0}


def test_microbatches_of_a_small_step_can_be_drawn() -> None:
    config = PlanConfig(conversations_per_step=5, max_tokens_per_microbatch=24, max_conversation_tokens=24)
    plan = Plan([Lengths(np.array([10, 3, 12, 4, 4]))], Blend({"s": 1.0}, {"s": 5}, seed=0), config)

    def lengths_of(rank: int, num_ranks: int) -> list[list[int]]:
        return [[length(plan, draw) for draw in microbatch] for microbatch in plan.step(0, rank, num_ranks)]

    assert lengths_of(0, 1) == [[12, 10], [4, 4, 3]]
    assert lengths_of(0, 2) == [[12], [4]]  # fits in one, but the other rank needs two
    assert lengths_of(1, 2) == [[10, 4], [3]]


def test_ranks_of_a_large_step_differ_little_in_cost() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.6, 20_000).astype(int).clip(1, 2048)
    config = PlanConfig(conversations_per_step=256)
    plan = Plan([Lengths(lengths)], Blend({"s": 1.0}, {"s": 20_000}, seed=0), config)
    for step in range(5):
        costs = [
            sum(length(plan, draw) for microbatch in plan.step(step, rank, 8) for draw in microbatch)
            for rank in range(8)
        ]
        assert max(costs) <= 1.03 * min(costs)


def test_a_conversation_must_fit_into_a_microbatch() -> None:
    expected = r"max_conversation_tokens \(2048\) at or below max_tokens_per_microbatch \(1024\)"
    with pytest.raises(ValidationError, match=expected):
        PlanConfig(max_tokens_per_microbatch=1024)
