"""The plan is a pure function; any number of ranks sees the same steps; every microbatch keeps the budget."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from voicetextblender.data import full_steps
from voicetextblender.data.blend import BLOCK_SIZE, Blend
from voicetextblender.data.plan import Draw, Microbatch, Plan, PlanConfig

BUDGET = 400
QUICKLY = settings(max_examples=40, deadline=None)


@dataclass(frozen=True)
class Lengths:
    num_tokens: np.ndarray
    num_audio_tokens: np.ndarray


def text(lengths: list[int] | np.ndarray) -> Lengths:
    return Lengths(np.array(lengths), np.zeros(len(lengths), int))


@pytest.fixture(scope="module", autouse=True)
def small_windows() -> Iterator[None]:
    """Dealing thousands of draws for each of hundreds of plans would take long."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(full_steps, "WINDOW_DRAWS", 8 * BLOCK_SIZE)
        yield


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    lengths = draw(st.lists(st.lists(st.integers(1, BUDGET), min_size=1, max_size=60), min_size=1, max_size=4))
    audio_share = [draw(st.floats(0, 1)) for _ in lengths]
    weights = {f"s{i}": draw(st.floats(0.01, 10)) for i in range(len(lengths))}
    blend = Blend(weights, {f"s{i}": len(rows) for i, rows in enumerate(lengths)}, draw(st.integers(0, 2**32)))
    config = PlanConfig(
        conversations_per_step=draw(st.integers(1, 70)),
        microbatches_per_step=draw(st.none() | st.integers(1, 12)),
        max_tokens_per_microbatch=BUDGET,
        max_conversation_tokens=BUDGET,
        pack=draw(st.booleans()),
    )
    rows = [np.array(rows) for rows in lengths]
    indexes = [Lengths(row, (row * share).astype(int)) for row, share in zip(rows, audio_share, strict=True)]
    return Plan(indexes, blend, config)


steps = st.integers(0, 10**12)
ranks = st.integers(1, 9)


def length(plan: Plan, draw: Draw) -> int:
    return int(plan.indexes[draw.source].num_tokens[draw.row])


def cost(plan: Plan, draw: Draw) -> int:
    return plan.cost([draw])


def drawn(share: tuple[Microbatch, ...]) -> list[Draw]:
    return [draw for microbatch in share for row in microbatch for draw in row]


@QUICKLY
@given(plans(), steps, ranks)
def test_union_over_ranks_is_the_step_for_any_number_of_ranks(plan: Plan, step: int, num_ranks: int) -> None:
    expected = Counter(plan.draws(step))
    assert plan.config.microbatches_per_step or len(expected) == plan.config.conversations_per_step
    assert Counter(draw for rank in range(num_ranks) for draw in drawn(plan.step(step, rank, num_ranks))) == expected


@QUICKLY
@given(plans(), steps, ranks)
def test_every_microbatch_keeps_the_budget_and_no_row_is_empty(plan: Plan, step: int, num_ranks: int) -> None:
    for rank in range(num_ranks):
        for microbatch in plan.step(step, rank, num_ranks):
            assert all(microbatch) and (plan.config.pack or all(len(row) == 1 for row in microbatch))
            widths = [sum(length(plan, draw) for draw in row) for row in microbatch]
            assert len(widths) * max(widths, default=0) <= BUDGET


@QUICKLY
@given(plans(), steps, ranks)
def test_ranks_have_equally_many_microbatches_and_balanced_costs(plan: Plan, step: int, num_ranks: int) -> None:
    shares = [plan.step(step, rank, num_ranks) for rank in range(num_ranks)]
    assert len({len(share) for share in shares}) == 1
    costs = [sum(cost(plan, draw) for draw in drawn(share)) for share in shares]
    assert max(costs) - min(costs) <= max(cost(plan, draw) for draw in plan.draws(step))
    for share in shares:
        assert sum(bool(microbatch) for microbatch in share) == min(len(share), len(drawn(share)))
    if num_ranks == 1:
        assert all(shares[0])


@QUICKLY
@given(plans(), st.lists(steps, min_size=1, max_size=5), ranks)
def test_a_step_depends_on_nothing_but_its_number(plan: Plan, numbers: list[int], num_ranks: int) -> None:
    fresh = pickle.loads(pickle.dumps(plan))
    first = {step: plan.step(step, num_ranks - 1, num_ranks) for step in numbers}
    assert all(fresh.step(step, num_ranks - 1, num_ranks) == first[step] for step in reversed(numbers))


def test_one_epoch_of_one_source_is_every_row_once() -> None:
    config = PlanConfig(conversations_per_step=20, max_tokens_per_microbatch=BUDGET, max_conversation_tokens=BUDGET)
    plan = Plan([text(np.arange(1, 101))], Blend({"s": 1.0}, {"s": 100}, seed=3), config)
    seen = [draw for step in range(5) for draw in drawn(plan.step(step))]
    assert sorted(draw.row for draw in seen) == list(range(100))
    assert sorted(draw.position for draw in seen) == list(range(100))
    assert {draw.epoch for draw in seen} == {0}


def test_microbatches_of_a_small_step_can_be_drawn() -> None:
    config = PlanConfig(conversations_per_step=5, max_tokens_per_microbatch=24, max_conversation_tokens=24)
    plan = Plan([text([10, 3, 12, 4, 4])], Blend({"s": 1.0}, {"s": 5}, seed=0), config)

    def lengths_of(plan: Plan, rank: int, num_ranks: int) -> list[list[list[int]]]:
        return [
            [[length(plan, draw) for draw in row] for row in microbatch] for microbatch in plan.step(0, rank, num_ranks)
        ]

    assert lengths_of(plan, 0, 1) == [[[10, 4, 3]], [[12, 4]]]
    assert lengths_of(plan, 0, 2) == [[[12, 4]]]
    assert lengths_of(plan, 1, 2) == [[[10, 4, 3]]]
    alone = Plan(plan.indexes, plan.blend, config.model_copy(update={"pack": False}))
    assert lengths_of(alone, 0, 1) == [[[12], [10]], [[4], [4], [3]]]


def test_ranks_of_a_large_step_differ_little_in_cost() -> None:
    random = np.random.default_rng(0)
    lengths = random.lognormal(5, 0.6, 20_000).astype(int).clip(1, 2048)
    audio = (lengths * random.random(20_000) * (random.random(20_000) < 0.8)).astype(int)
    config = PlanConfig(conversations_per_step=256)
    plan = Plan([Lengths(lengths, audio)], Blend({"s": 1.0}, {"s": 20_000}, seed=0), config)
    for step in range(5):
        costs = [sum(cost(plan, draw) for draw in drawn(plan.step(step, rank, 8))) for rank in range(8)]
        assert max(costs) <= 1.03 * min(costs)


def test_a_conversation_must_fit_into_a_microbatch() -> None:
    expected = r"max_conversation_tokens \(2048\) at or below max_tokens_per_microbatch \(1024\)"
    with pytest.raises(ValidationError, match=expected):
        PlanConfig(max_tokens_per_microbatch=1024)
