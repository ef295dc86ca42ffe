"""Nested groups, temperatures and caps: shares as they are defined, and the same order after a seek."""

from __future__ import annotations

import time
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicetextblender.data.blend import BLOCK_SIZE, Blend
from voicetextblender.data.mixture import Group, Member, Mixture
from voicetextblender.data.schedule import Schedule
from voicetextblender.errors import DataError

QUICKLY = settings(max_examples=15, deadline=None)


def shares(group: Group, sizes: dict[str, int], gone: set[str] | None = None) -> dict[str, Fraction]:
    """By the definition, from the top down."""
    found: dict[str, Fraction] = {}
    gone = gone or set()

    def rows(member: Member | Group) -> int:
        return sizes[member.name] if isinstance(member, Member) else sum(map(rows, member.members))

    def is_left(member: Member | Group) -> bool:
        return member.name not in gone if isinstance(member, Member) else any(map(is_left, member.members))

    def spread(group: Group, share: Fraction) -> None:
        left = [member for member in group.members if is_left(member)]
        power = group.temperature or 0.0
        weights = [Fraction(repr(member.weight)) * Fraction(rows(member) ** power) for member in left]
        for member, weight in zip(left, weights, strict=True):
            part = share * weight / sum(weights)
            if isinstance(member, Member):
                found[member.name] = part
            else:
                spread(member, part)

    spread(group, Fraction(1))
    return found


@st.composite
def mixtures(draw: st.DrawFn, capped: bool = True) -> tuple[Group, dict[str, int]]:
    sizes: dict[str, int] = {}

    def member(depth: int) -> Member | Group:
        weight = draw(st.integers(1, 60)) / 10
        if depth and draw(st.booleans()):
            members = tuple(member(depth - 1) for _ in range(draw(st.integers(1, 3))))
            return Group(members, "g", weight, draw(st.sampled_from([None, 0.0, 0.5, 1.0])))
        name = f"s{len(sizes)}"
        sizes[name] = draw(st.integers(1, 60))
        epochs = draw(st.sampled_from([None, 1.0, 1.5, 4.0])) if capped else None
        return Member(name, weight, epochs)

    members = tuple(member(2) for _ in range(draw(st.integers(1, 4))))
    return Group(members, temperature=draw(st.sampled_from([None, 0.3, 1.0]))), sizes


@QUICKLY
@given(mixtures())
def test_weights_are_the_shares_of_the_definition(mixed: tuple[Group, dict[str, int]]) -> None:
    group, sizes = mixed
    names = list(sizes)
    for num_gone in range(len(names)):
        weights = np.array(Mixture(group, sizes).integer_weights(set(range(num_gone))), float)
        expected = shares(group, sizes, set(names[:num_gone]))
        np.testing.assert_allclose(weights / weights.sum(), [float(expected.get(name, 0)) for name in names], rtol=1e-8)


@QUICKLY
@given(mixtures())
def test_counts_never_fall_and_keep_to_the_shares_and_the_caps(mixed: tuple[Group, dict[str, int]]) -> None:
    group, sizes = mixed
    names, schedule = list(sizes), Schedule(Mixture(group, sizes))
    limits = Mixture(group, sizes).max_draws
    stop = schedule.num_draws or 150
    counts = np.array([schedule.num_drawn(total) for total in range(min(stop, 150) + 1)])
    assert (counts.sum(axis=1) == np.arange(len(counts))).all()
    assert (np.diff(counts, axis=0) >= 0).all()
    expected = np.zeros(len(names))
    ends = [0, *schedule.used_up.values(), len(counts) - 1]
    for begin, end in pairwise(min(end, len(counts) - 1) for end in ends):
        gone = {names[number] for number, draws in schedule.used_up.items() if draws <= begin}
        for total in range(begin, end + 1):
            assert all(counts[total][names.index(name)] == limits[names.index(name)] for name in gone)
        expected += [(end - begin) * float(shares(group, sizes, gone).get(name, 0)) for name in names]
    assert (np.abs(counts[-1] - expected) <= 1 + len(names)).all()
    for number, limit in enumerate(limits):
        assert limit is None or counts[-1][number] <= limit
    assert (schedule.num_draws is None) == (None in limits)
    if schedule.num_draws is not None:
        assert schedule.num_draws == sum(limit or 0 for limit in limits)
        assert schedule.num_drawn(schedule.num_draws).tolist() == list(limits)


@QUICKLY
@given(mixtures(), st.integers(0, 400), st.integers(0, 200))
def test_draws_after_a_seek_are_those_of_one_run(mixed: tuple[Group, dict[str, int]], start: int, count: int) -> None:
    group, sizes = mixed
    stop = Blend(group, sizes, 3).num_draws or 10**9
    start, end = min(start, stop), min(start + count, stop)
    all_draws, sought = Blend(group, sizes, 3).draws(0, end), Blend(group, sizes, 3).draws(start, end)
    for column in ("source", "epoch", "row"):
        np.testing.assert_array_equal(getattr(sought, column), getattr(all_draws, column)[start:])
    drawn = list(zip(all_draws.source.tolist(), all_draws.epoch.tolist(), all_draws.row.tolist(), strict=True))
    assert len(set(drawn)) == len(drawn)  # no row twice in an epoch
    for source, member in enumerate(group.sources):
        assert member.max_epochs is None or (all_draws.epoch[all_draws.source == source] < member.max_epochs).all()


def test_groups_of_flat_weights_draw_as_flat_weights_do() -> None:
    flat = Blend({"a": 0.1, "b": 0.2, "c": 0.7}, {"a": 5, "b": 7, "c": 9}, 1)
    nested = Group((Group((Member("a", 1), Member("b", 2)), "g", 3.0), Member("c", 7)))
    draws, expected = Blend(nested, {"a": 5, "b": 7, "c": 9}, 1).draws(0, 640), flat.draws(0, 640)
    np.testing.assert_array_equal(draws.row, expected.row)
    np.testing.assert_array_equal(draws.source, expected.source)


def test_a_used_up_source_leaves_its_share_to_its_siblings_then_to_those_of_its_group() -> None:
    group = Group((Group((Member("a", 1, 1.0), Member("b", 1, 1.0)), "ab", 1.0), Member("c", 1)))
    sizes = {"a": 100, "b": 300, "c": 10}
    blend = Blend(group, sizes, 0)
    assert blend.shares == (0.25, 0.25, 0.5)
    # a ends after 100 of its draws, so about 400 in all; b has then 200 rows left, at half of the draws.
    assert blend.used_up == {"a": 448, "b": 832}  # told in whole blocks of 64
    counts = np.bincount(blend.draws(448, 768).source, minlength=3)
    assert counts[0] == 0 and abs(int(counts[1]) - 160) <= 1
    assert set(blend.draws(832, 2000).source.tolist()) == {2}
    assert blend.num_draws is None


def test_a_source_of_little_weight_is_not_forgotten_between_many_caps() -> None:
    """Each cap changes the shares; what was earned before must count on."""
    capped = [Member(f"s{i}", 1.0, 1.0) for i in range(300)]
    group = Group((Group(tuple(capped), "many", 99.0), Member("rare", 1.0)))
    blend = Blend(group, {**{f"s{i}": 10 + i for i in range(300)}, "rare": 5}, 0)
    end = max(blend.used_up.values()) - BLOCK_SIZE
    assert abs(int(blend.num_drawn(end)[-1]) - end / 100) <= 5


def test_a_blend_may_end() -> None:
    blend = Blend(Group((Member("a", 1, 2.0), Member("b", 3, 1.0))), {"a": 10, "b": 50}, 0)
    assert blend.num_draws == 70 and set(blend.used_up) == {"a", "b"}
    draws = blend.draws(0, 70)
    assert np.bincount(draws.source).tolist() == [20, 50]
    assert len(blend.draws(64, 70)) == 6


def test_a_seek_among_a_thousand_sources_and_caps_is_quick() -> None:
    sizes = {f"s{i}": 1000 + 37 * i for i in range(1000)}
    groups = tuple(
        Group(tuple(Member(f"s{i}", 1 + i % 7, None if i % 10 else 50.0) for i in range(g, g + 20)), f"g{g}", 1.0, 0.5)
        for g in range(0, 1000, 20)
    )
    blend = Blend(Group(groups, temperature=0.7), sizes, 0)
    assert sum(sizes.values()) > 19_000_000
    blend.draws(0, 64)
    start = time.process_time()
    for place in (10**6, 10**8, 10**9, 10**12):
        assert len(blend.draws(place, place + 64)) == 64
    assert (time.process_time() - start) / 4 < 0.2


def test_mixtures_are_checked() -> None:
    def make(*members: Member | Group) -> Blend:
        group = Group(members)
        return Blend(group, {source.name: 3 for source in group.sources}, 0)

    with pytest.raises(DataError, match=r"group 'g': weight -1; a weight is a number of 0 or more\. Mend the weight"):
        make(Member("a"), Group((Member("b"),), "g", -1))
    with pytest.raises(
        DataError, match=r"group 'g': 1 sources, all weights 0; one must be above 0\. .* or the group a"
    ):
        make(Member("a"), Group((Member("b", 0.0),), "g"))
    with pytest.raises(DataError, match=r"source 'a': max_epochs 0\.1 of 3 rows is less than one row; at least 1 row"):
        make(Member("a", 1.0, 0.1))
