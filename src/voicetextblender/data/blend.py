"""The blend: an endless order of rows of several sources in the proportion of their weights, with random access.

Nothing is remembered between draws. How often each source was drawn before a block is computed (Sainte-Lague
apportionment), the order inside a block is a keyed shuffle, and the rows of a source follow a keyed permutation
that is another one in every epoch. So draw number 10^12 costs what draw number 0 costs.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from voicetextblender.errors import DataError, describe, describe_many
from voicetextblender.files import derive_seed

BLOCK_SIZE = 64
"""Draws shuffled together. A block has the exact mix, to a draw or so; short blocks keep single steps near it."""
NUM_ROUNDS = 6
"""Rounds of the Feistel network. Four give a strong permutation where the halves are wide; ours may be of 1 bit."""

UInts = NDArray[np.uint64]


@dataclass(frozen=True)
class Draws:
    """Consecutive draws of a blend as columns: number of the source, epoch of that source, row within it."""

    source: NDArray[np.int64]
    epoch: NDArray[np.int64]
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)


class Blend:
    """Draws from sources by weight; inside each source every row comes once per epoch, in a new order each time.

    Args:
        weights: share of each source by name, any positive scale; 0 leaves a source out.
        sizes: number of usable rows of each source, same names.
        seed: key of all orders.

    Raises:
        DataError: a weight that is negative or not finite, no positive weight, or a weighted source without rows.
    """

    def __init__(self, weights: Mapping[str, float], sizes: Mapping[str, int], seed: int) -> None:
        assert weights.keys() == sizes.keys()
        _check(weights, sizes)
        self.names = tuple(weights)
        self.weights = tuple(weights.values())
        self.sizes = tuple(sizes[name] for name in self.names)
        self.seed = seed
        self._integer_weights = _to_integers(self.weights)

    def draws(self, start: int, stop: int) -> Draws:
        """Draws number `start` to `stop` (excluded) of the endless order."""
        assert 0 <= start <= stop
        first_block = start // BLOCK_SIZE
        blocks = [self._block(block) for block in range(first_block, math.ceil(stop / BLOCK_SIZE))]
        inside = slice(start - first_block * BLOCK_SIZE, stop - first_block * BLOCK_SIZE)
        empty = np.zeros(0, np.int64)
        source = np.concatenate([empty, *(source for source, _ in blocks)])[inside]
        ordinal = np.concatenate([empty, *(ordinal for _, ordinal in blocks)])[inside]
        size = np.asarray(self.sizes, np.int64)[source]
        epoch, within = np.divmod(ordinal, size)
        return Draws(source, epoch, self._permute_rows(source, epoch, within))

    def num_drawn(self, num_draws: int) -> NDArray[np.int64]:
        """How many of the first `num_draws` draws, a multiple of the block size, fall on each source."""
        assert num_draws % BLOCK_SIZE == 0
        return np.asarray(apportion(self._integer_weights, num_draws), np.int64)

    def _block(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source of each draw of a block, and the number of earlier draws from the same source."""
        before = self.num_drawn(block * BLOCK_SIZE)
        counts = self.num_drawn((block + 1) * BLOCK_SIZE) - before
        key = np.uint64(derive_seed(self.seed, "block", block))
        order = np.argsort(_mix(np.arange(BLOCK_SIZE, dtype=np.uint64) + key), kind="stable")
        source = np.repeat(np.arange(len(counts), dtype=np.int64), counts)[order]
        ordinal = np.empty(BLOCK_SIZE, np.int64)
        for number in np.flatnonzero(counts):
            ordinal[source == number] = before[number] + np.arange(counts[number])
        return source, ordinal

    def _permute_rows(
        self, source: NDArray[np.int64], epoch: NDArray[np.int64], within: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        rows = np.empty_like(within)
        for number in np.unique(source).tolist():
            chosen = source == number
            of_source = np.uint64(derive_seed(self.seed, "rows", self.names[number]))
            keys = _mix(of_source ^ _mix(epoch[chosen].astype(np.uint64)))
            rows[chosen] = permute(within[chosen], self.sizes[number], keys)
        return rows


def apportion(weights: tuple[int, ...], total: int) -> list[int]:
    """`total` seats shared among integer weights by the Sainte-Lague (Webster) rule, ties to the first.

    The count of a source never falls as `total` grows, and differs from its exact share by at most
    1/2 + share * (sources + 2) / 2.

    Source: Balinski and Young, Fair Representation (1982): divisor methods are house monotone.
    """
    # Every seat has the quotient (count + 1/2) / share and seats go by rising quotient. All seats up to a quotient
    # that is surely too low are counted at once; the few that remain are given one by one.
    whole = sum(weights)
    low = max(0, total - len(weights) // 2 - 1)
    counts = [(2 * low * weight + whole) // (2 * whole) for weight in weights]
    seats = [(Fraction(2 * counts[i] + 1, weight), i) for i, weight in enumerate(weights) if weight]
    heapq.heapify(seats)
    for _ in range(total - sum(counts)):
        _, i = seats[0]
        counts[i] += 1
        heapq.heapreplace(seats, (Fraction(2 * counts[i] + 1, weights[i]), i))
    return counts


def permute(values: NDArray[np.int64], size: int, keys: UInts) -> NDArray[np.int64]:
    """The image of each value under the permutation of range(size) that its key names.

    Source: a Feistel network on the next even power of two, cycle-walked into the range
    (Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002).
    """
    half_bits = max(1, math.ceil((size - 1).bit_length() / 2))
    images = values.astype(np.uint64)
    outside = np.arange(len(images))
    while len(outside):
        images[outside] = _feistel(images[outside], half_bits, keys[outside])
        outside = outside[images[outside] >= np.uint64(size)]
    return images.astype(np.int64)


def _feistel(values: UInts, half_bits: int, keys: UInts) -> UInts:
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    left, right = values >> shift, values & mask
    for turn in range(NUM_ROUNDS):
        hashed = _mix(_mix(keys + np.uint64(turn)) ^ right)
        left, right = right, left ^ (hashed & mask)
    return (left << shift) | right


def _mix(values: UInts) -> UInts:
    """A 64-bit hash of each value. Source: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _to_integers(weights: tuple[float, ...]) -> tuple[int, ...]:
    """The weights as written in decimal, on one integer scale: 0.1 and 0.3 become 1 and 3."""
    exact = [Fraction(repr(float(weight))) for weight in weights]
    scale = math.lcm(*(fraction.denominator for fraction in exact))
    return tuple(int(fraction * scale) for fraction in exact)


def _check(weights: Mapping[str, float], sizes: Mapping[str, int]) -> None:
    problems = []
    for name, weight in weights.items():
        where = f"source '{name}'"
        if not (math.isfinite(weight) and weight >= 0):
            problems.append(describe(where, f"weight {weight}", "a weight is a number of 0 or more", "Mend the weight"))
        elif weight > 0 and sizes[name] == 0:
            fix = "Look at the rows that were dropped, raise the limits, or set the weight to 0"
            problems.append(describe(where, "0 usable conversations", "a source with a weight needs at least 1", fix))
    if not problems and not any(weight > 0 for weight in weights.values()):
        fix = "Give one source a weight above 0"
        problems.append(describe("blend", f"{len(weights)} sources, all weights 0", "one must be above 0", fix))
    if problems:
        raise DataError(describe_many(problems))
