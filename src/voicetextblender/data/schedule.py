"""How often each source was drawn before any draw: computed, not remembered, though sources may be used up."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from voicetextblender.data.mixture import Mixture

CARRY_SCALE = 1 << 16
"""What a source has earned of its next draw when shares change is carried on in this part of a draw."""


class Schedule:
    """The number of draws of each source in any number of draws.

    Between the draws at which sources reach their `max_epochs` shares are constant: one phase for each of these, found
    once. Within a phase draws are apportioned, so the count of a source never falls and stays near its exact share.
    """

    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture
        self._starts = [0]
        self._counts = [np.zeros(len(mixture.sources), np.int64)]
        self._carried = [np.zeros(len(mixture.sources), np.int32)]
        self._gone: list[int] = []
        """Sources in the order in which they are used up: at the start of phase p the first p of them are."""
        self._opened = (0, mixture.integer_weights())
        for _ in count():
            if not self._add_phase():
                break

    @property
    def num_draws(self) -> int | None:
        """All draws that there are; None for no end."""
        return self._starts[-1] if len(self._gone) == len(self._mixture.sources) else None

    @property
    def used_up(self) -> dict[int, int]:
        """By number of the source, how many draws there are until its last one, that one included."""
        return dict(zip(self._gone, self._starts[1:], strict=True))

    @property
    def weights(self) -> tuple[int, ...]:
        """Shares at the start on an integer scale."""
        return self._weights(0)

    def num_drawn(self, num_draws: int) -> NDArray[np.int64]:
        """How many of the first `num_draws` draws fall on each source."""
        phase = bisect_right(self._starts, num_draws) - 1
        within = num_draws - self._starts[phase]
        if within == 0:
            return self._counts[phase].copy()
        given = apportion(self._weights(phase), within, self._carried[phase].tolist())
        return self._counts[phase] + np.asarray(given, np.int64)

    def _weights(self, phase: int) -> tuple[int, ...]:
        if self._opened[0] != phase:
            self._opened = (phase, self._mixture.integer_weights(set(self._gone[:phase])))
        return self._opened[1]

    def _add_phase(self) -> bool:
        """Find where the last phase ends, if it does."""
        weights = self._weights(len(self._gone))
        carried = self._carried[-1].tolist()
        drawn = self._counts[-1].tolist()
        limits = self._mixture.max_draws
        capped = [i for i, weight in enumerate(weights) if weight and limits[i] is not None]
        if not capped:
            return False
        # The source whose last draw comes first, as `apportion` orders draws.
        key = _key_of(weights)
        lasts = [((2 * ((limits[i] or 0) - drawn[i]) - 1) * CARRY_SCALE - 2 * carried[i], i) for i in capped]
        quotient, first = min(lasts, key=lambda last: (key(last[0], weights[last[1]]), last[1]))
        given, carried_on = [], []
        for i, weight in enumerate(weights):
            reached = (quotient * weight - (i > first)) // weights[first] + 2 * carried[i] if weight else 0
            given.append(max(0, (reached + CARRY_SCALE) // (2 * CARRY_SCALE)) if weight else 0)
            earned = carried[i] + quotient * weight // (2 * weights[first]) - given[i] * CARRY_SCALE
            carried_on.append(min(max(earned, -CARRY_SCALE // 2), CARRY_SCALE // 2 - 1))
        self._starts.append(self._starts[-1] + sum(given))
        self._counts.append(self._counts[-1] + np.asarray(given, np.int64))
        self._carried.append(np.asarray(carried_on, np.int32))
        self._gone.append(first)
        return len(self._gone) < len(weights)


def apportion(weights: Sequence[int], total: int, carried: Sequence[int] | None = None) -> list[int]:
    """`total` seats shared among integer weights by the Sainte-Lague (Webster) rule, ties to the first.

    The count of a source never falls as `total` grows, and differs from its exact share by at most
    1/2 + share * (sources + 2) / 2.

    Args:
        carried: what each has earned of its next seat before, in parts of `CARRY_SCALE`, at least -1/2, less than 1/2.

    Source: Balinski and Young, Fair Representation (1982): divisor methods are house monotone.
    """
    # Every seat has the quotient (count + 1/2 - carried) / share and seats go by rising quotient. All seats up to a
    # quotient that is low enough are counted at once; the few that remain are given one by one.
    whole, carry = sum(weights), carried or [0] * len(weights)
    divisor = 2 * CARRY_SCALE * whole
    low = total
    while True:
        rounding = [whole * (2 * one + CARRY_SCALE) for one in carry]
        factor = 2 * CARRY_SCALE * low
        counts = [(factor * weight + more) // divisor for weight, more in zip(weights, rounding, strict=True)]
        excess = sum(counts) - total
        if excess <= 0:
            break
        low = max(0, low - excess - math.isqrt(len(weights)))
    key = _key_of(weights)
    seats = [
        (key((2 * counts[i] + 1) * CARRY_SCALE - 2 * carry[i], weight), i) for i, weight in enumerate(weights) if weight
    ]
    heapq.heapify(seats)
    for _ in range(-excess):
        _, i = seats[0]
        counts[i] += 1
        heapq.heapreplace(seats, (key((2 * counts[i] + 1) * CARRY_SCALE - 2 * carry[i], weights[i]), i))
    return counts


class _key_of:
    """Whole numbers in the order of the fractions with these denominators, equal only for equal ones."""

    def __init__(self, denominators: Sequence[int]) -> None:
        # Two fractions that differ do so by at least 1 over the product of their denominators.
        self._shift = 2 * max(denominators).bit_length()

    def __call__(self, numerator: int, denominator: int) -> int:
        return (numerator << self._shift) // denominator
