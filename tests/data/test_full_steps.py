"""Steps of full microbatches: found without what came before, every draw once, nearly full."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from voicetextblender.data.blend import Blend
from voicetextblender.data.full_steps import FullSteps, take_rows
from voicetextblender.data.mixture import Group, Member
from voicetextblender.data.plan import Plan, PlanConfig

TOKENS_PER_STEP = 16 * 4096


@dataclass(frozen=True)
class Lengths:
    num_tokens: np.ndarray
    num_audio_tokens: np.ndarray


@pytest.fixture(scope="module")
def lengths() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.lognormal(mean, 0.7, size).astype(np.int32).clip(10, 2048) for mean, size in ((5, 5000), (6, 300))]


@pytest.fixture(scope="module")
def blend(lengths: list[np.ndarray]) -> Blend:
    return Blend({"a": 3.0, "b": 1.0}, {"a": len(lengths[0]), "b": len(lengths[1])}, seed=5)


def test_steps_of_a_window_have_each_of_its_draws_once(blend: Blend, lengths: list[np.ndarray]) -> None:
    steps = FullSteps(blend, lengths, TOKENS_PER_STEP)
    first = 7 * steps.num_steps
    dealt = [steps.draws(first + i) for i in range(steps.num_steps)]
    positions = np.concatenate([position for _, position in dealt])
    assert sorted(positions.tolist()) == list(range(7 * steps.num_draws, 8 * steps.num_draws))
    for draws, position in dealt[:5]:
        whole = blend.draws(int(position.min()), int(position.max()) + 1)
        places = position - position.min()
        np.testing.assert_array_equal(draws.row, whole.row[places])
        np.testing.assert_array_equal(draws.source, whole.source[places])
        assert abs((draws.source == 0).mean() - 0.75) < 0.02


def test_steps_are_nearly_full(blend: Blend, lengths: list[np.ndarray]) -> None:
    steps = FullSteps(blend, lengths, TOKENS_PER_STEP)
    totals = [
        take_rows(lengths, steps.draws(window * steps.num_steps + place)[0]).sum()
        for window in range(3)
        for place in (0, 1, steps.num_steps - 1)
    ]
    assert max(totals) <= TOKENS_PER_STEP
    assert np.mean(totals) >= 0.98 * TOKENS_PER_STEP


def test_any_order_of_steps_gives_the_same(blend: Blend, lengths: list[np.ndarray]) -> None:
    steps = FullSteps(blend, lengths, TOKENS_PER_STEP)
    there = [steps.draws(step)[1].tolist() for step in (3, 10**6, 4)]
    fresh = FullSteps(blend, lengths, TOKENS_PER_STEP)
    assert [fresh.draws(step)[1].tolist() for step in (4, 10**6, 3)] == there[::-1]


def test_a_step_may_be_larger_than_a_window(blend: Blend, lengths: list[np.ndarray]) -> None:
    steps = FullSteps(blend, lengths, 100_000_000)
    assert steps.num_steps == 1
    assert take_rows(lengths, steps.draws(2)[0]).sum() >= 0.98 * 100_000_000


def test_a_blend_that_ends_has_whole_windows(lengths: list[np.ndarray]) -> None:
    mix = Group((Member("a", 3.0, max_epochs=2.0), Member("b", 1.0, max_epochs=2.0)))
    blend = Blend(mix, {"a": len(lengths[0]), "b": len(lengths[1])}, seed=5)
    config = PlanConfig(microbatches_per_step=4, max_tokens_per_microbatch=4096)
    plan = Plan([Lengths(one, np.zeros_like(one)) for one in lengths], blend, config)
    assert plan.num_steps is not None and plan.num_steps > 0
    drawn = [draw for step in range(plan.num_steps) for draw in plan.draws(step)]
    assert len({draw.position for draw in drawn}) == len(drawn) <= 10_600
    assert max(draw.epoch for draw in drawn) == 1
