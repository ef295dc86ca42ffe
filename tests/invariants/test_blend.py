"""Invariant 8, first half: the blend yields its weights, and the same order after a seek."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicetextblender.data.blend import BLOCK_SIZE, Blend, permute
from voicetextblender.data.schedule import apportion
from voicetextblender.errors import DataError

QUICKLY = settings(max_examples=40, deadline=None)
sources = st.lists(st.tuples(st.floats(0.001, 1000), st.integers(1, 300)), min_size=1, max_size=6)


def make_blend(sources: list[tuple[float, int]], seed: int = 0) -> Blend:
    names = [f"s{i}" for i in range(len(sources))]
    weights = {name: weight for name, (weight, _) in zip(names, sources, strict=True)}
    return Blend(weights, {name: size for name, (_, size) in zip(names, sources, strict=True)}, seed)


@QUICKLY
@given(sources, st.integers(0, 2**40))
def test_every_source_has_its_share_of_any_number_of_blocks(sources: list[tuple[float, int]], num_blocks: int) -> None:
    blend = make_blend(sources)
    num_draws = num_blocks * BLOCK_SIZE
    drawn = blend.num_drawn(num_draws)
    shares = np.array(blend.weights) / sum(blend.weights)
    assert drawn.sum() == num_draws
    tolerance = 0.5 + shares * (len(sources) + 2) / 2
    assert (np.abs(drawn - shares * num_draws) <= tolerance + 1e-12 * num_draws).all()


@QUICKLY
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any), st.integers(0, 400))
def test_apportionment_gives_one_seat_at_a_time(weights: list[int], total: int) -> None:
    """Equal to the definition (each seat to the smallest (count + 1/2) / weight), and so no count ever falls."""
    counts = [0] * len(weights)
    for _ in range(total):
        counts[min((i for i, w in enumerate(weights) if w), key=lambda i: ((2 * counts[i] + 1) / weights[i], i))] += 1
    assert apportion(tuple(weights), total) == counts


@QUICKLY
@given(sources, st.integers(0, 2000), st.integers(0, 300), st.integers(0, 2**63 - 1))
def test_draws_after_a_seek_are_those_of_one_run(
    sources: list[tuple[float, int]], start: int, count: int, seed: int
) -> None:
    all_draws = make_blend(sources, seed).draws(0, start + count)
    sought = make_blend(sources, seed).draws(start, start + count)
    for column in ("source", "epoch", "row"):
        np.testing.assert_array_equal(getattr(sought, column), getattr(all_draws, column)[start:])


@QUICKLY
@given(sources, st.integers(0, 2**32))
def test_nothing_is_lost_or_repeated_within_an_epoch(sources: list[tuple[float, int]], seed: int) -> None:
    blend = make_blend(sources, seed)
    draws = blend.draws(0, 3000)
    for source, size in enumerate(blend.sizes):
        of_source = draws.source == source
        epochs = draws.epoch[of_source]
        assert (np.diff(epochs) >= 0).all()
        for epoch in np.unique(epochs):
            rows = np.sort(draws.row[of_source][epochs == epoch])
            if epoch < epochs[-1]:
                np.testing.assert_array_equal(rows, np.arange(size))
            assert len(np.unique(rows)) == len(rows) and (rows < size).all()


@QUICKLY
@given(st.integers(1, 5000), st.integers(0, 2**63 - 1))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    np.testing.assert_array_equal(
        np.sort(permute(np.arange(size), size, np.full(size, key, np.uint64))), np.arange(size)
    )


def test_orders_differ_between_epochs_and_seeds_and_look_random() -> None:
    size = 10_000
    orders = [permute(np.arange(size), size, np.full(size, key, np.uint64)) for key in (1, 2)]
    for order in orders:
        assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.05
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05
    assert (orders[0] == orders[1]).mean() < 0.002
    assert (make_blend([(1, 500)], 1).draws(0, 500).row != make_blend([(1, 500)], 2).draws(0, 500).row).any()
    two_epochs = make_blend([(1, 500)]).draws(0, 1000).row
    assert (two_epochs[:500] != two_epochs[500:]).any()


def test_the_order_is_kept_for_ever() -> None:
    """These figures are those of runs that exist: a change of the order would break their resuming."""
    draws = make_blend([(3, 5), (1, 100)], seed=7).draws(60, 70)
    assert draws.source.tolist() == [0, 0, 1, 0, 1, 0, 1, 1, 0, 0]
    assert draws.epoch.tolist() == [9, 9, 0, 9, 0, 9, 0, 0, 9, 10]
    assert draws.row.tolist() == [4, 1, 71, 2, 76, 3, 32, 91, 0, 2]


def test_far_draws_cost_no_more_than_near_ones() -> None:
    draws = make_blend([(0.7, 20_000_000), (0.3, 3)]).draws(10**15, 10**15 + 32)
    assert len(draws) == 32 and draws.epoch.max() > 10**7


def test_a_source_of_weight_0_is_never_drawn() -> None:
    assert set(make_blend([(0, 5), (2, 7)]).draws(0, 500).source) == {1}


def test_weights_are_checked() -> None:
    with pytest.raises(DataError, match=r"source 's1': weight -1; a weight is a number of 0 or more\. Mend the weight"):
        make_blend([(1, 1), (-1, 1)])
    with pytest.raises(
        DataError, match=r"source 's0': 0 usable conversations; a source with a weight needs at least 1"
    ):
        make_blend([(1, 0)])
    with pytest.raises(DataError, match=r"blend: 2 sources, all weights 0; one must be above 0"):
        make_blend([(0, 1), (0, 1)])
