"""The blend: an order of rows of several sources in the proportion of their weights, with random access.

Nothing is remembered between draws. How often each source was drawn before a block is computed (`Schedule`), the order
inside a block is a keyed shuffle, and the rows of a source follow a keyed permutation that is another one in every
epoch. So draw number 10^12 costs what draw number 0 costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voicetextblender.data.mixture import Group, Member, Mixture
from voicetextblender.data.schedule import Schedule
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
        mix: the sources in their groups; or, where there are no groups, the weight of each source by name.
        sizes: number of usable rows of each source, same names.
        seed: key of all orders.

    Raises:
        DataError: weights, sizes or caps that make no blend (`Mixture`).
    """

    def __init__(self, mix: Group | Mapping[str, float], sizes: Mapping[str, int], seed: int) -> None:
        if not isinstance(mix, Group):
            mix = Group(tuple(Member(*one) for one in mix.items()))
        self.mix = mix
        self.names = tuple(source.name for source in mix.sources)
        assert len(set(self.names)) == len(self.names) and set(self.names) == sizes.keys()
        self.weights = tuple(source.weight for source in mix.sources)
        """As they are given, each beside its siblings."""
        self.groups = tuple(mix.paths)
        """Names of the groups around each source."""
        self.sizes = tuple(sizes[name] for name in self.names)
        self.seed = seed
        self._sizes = np.asarray(self.sizes, np.int64)
        self._row_keys = np.array([derive_seed(seed, "rows", name) for name in self.names], np.uint64)
        self._schedule = Schedule(Mixture(mix, sizes))

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each source in the first draws, before any is used up; they add up to 1."""
        weights = self._schedule.weights
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def num_draws(self) -> int | None:
        """How many draws there are until every source is used up; None for no end."""
        return self._schedule.num_draws

    @property
    def used_up(self) -> dict[str, int]:
        """Of the sources that reach their `max_epochs`, after how many draws, in whole blocks, none is left."""
        return {
            self.names[number]: math.ceil(draws / BLOCK_SIZE) * BLOCK_SIZE
            for number, draws in self._schedule.used_up.items()
        }

    def draws(self, start: int, stop: int) -> Draws:
        """Draws number `start` to `stop` (excluded) of the order."""
        assert 0 <= start <= stop <= (self.num_draws or stop)
        first_block = start // BLOCK_SIZE
        numbers = range(first_block, math.ceil(stop / BLOCK_SIZE))
        drawn = [self.num_drawn(block * BLOCK_SIZE) for block in (*numbers, numbers.stop)]
        blocks = [self._block(*each) for each in zip(numbers, drawn, drawn[1:], strict=False)]
        inside = slice(start - first_block * BLOCK_SIZE, stop - first_block * BLOCK_SIZE)
        empty = np.zeros(0, np.int64)
        source = np.concatenate([empty, *(source for source, _ in blocks)])[inside]
        ordinal = np.concatenate([empty, *(ordinal for _, ordinal in blocks)])[inside]
        size = self._sizes[source]
        epoch, within = np.divmod(ordinal, size)
        keys = _mix(self._row_keys[source] ^ _mix(epoch.astype(np.uint64)))
        return Draws(source, epoch, permute(within, size, keys))

    def num_drawn(self, num_draws: int) -> NDArray[np.int64]:
        """How many of the first `num_draws` draws, a multiple of the block size, fall on each source."""
        assert num_draws % BLOCK_SIZE == 0
        return self._schedule.num_drawn(num_draws if self.num_draws is None else min(num_draws, self.num_draws))

    def _block(
        self, block: int, before: NDArray[np.int64], after: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source of each draw of a block, and the number of earlier draws from the same source."""
        counts = after - before
        size = int(counts.sum())  # the last block of a blend that ends may be short
        key = np.uint64(derive_seed(self.seed, "block", block))
        order = np.argsort(_mix(np.arange(size, dtype=np.uint64) + key), kind="stable")
        in_turn = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        source = in_turn[order]
        ordinal = np.empty(size, np.int64)
        ordinal[np.argsort(source, kind="stable")] = (
            before[in_turn] + np.arange(size) - (np.cumsum(counts) - counts)[in_turn]
        )
        return source, ordinal


def permute(values: NDArray[np.int64], sizes: int | NDArray[np.int64], keys: UInts) -> NDArray[np.int64]:
    """The image of each value under the permutation of range(size) that its key names.

    Source: a Feistel network on the next even power of two, cycle-walked into the range
    (Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002).
    """
    ends = np.broadcast_to(np.asarray(sizes, np.uint64), values.shape)
    _, num_bits = np.frexp((ends - np.uint64(1)).astype(np.float64))  # exact below 2^53
    half_bits = np.maximum(1, (num_bits + 1) // 2).astype(np.uint64)
    images = values.astype(np.uint64)
    round_keys = _mix(keys + np.arange(NUM_ROUNDS, dtype=np.uint64)[:, None])
    outside = np.arange(len(images))
    while len(outside):
        images[outside] = _feistel(images[outside], half_bits[outside], round_keys[:, outside])
        outside = outside[images[outside] >= ends[outside]]
    return images.astype(np.int64)


def _feistel(values: UInts, half_bits: UInts, round_keys: UInts) -> UInts:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for keys in round_keys:
        left, right = right, left ^ (_mix(keys ^ right) & mask)
    return (left << half_bits) | right


def _mix(values: UInts) -> UInts:
    """A 64-bit hash of each value. Source: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
