"""Steps of a fixed number of full microbatches, in place of a fixed number of conversations.

How many conversations fill a step differs from step to step, so where one begins would depend on all before it. Here
a *window* of many draws is dealt to a fixed number of steps. Windows begin at known draws, and only the total of a
window is left to chance, which is small: so any step is found by dealing one window, and its budget is nearly full.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from voicetextblender.data.blend import BLOCK_SIZE, Blend, Draws
from voicetextblender.data.sharing import Ints

WINDOW_DRAWS = 512 * BLOCK_SIZE
"""About so many draws are dealt together. Their total differs from the mean by about 0.4 %; dealing takes 0.2 s."""
NUM_DEVIATIONS = 3.0
"""Room in a window, in standard deviations of its total: 1 in 700 of them has more tokens than the budget."""
PACKING_ROOM = 0.005
"""Share of the budget that is left free, so that whole conversations can be dealt to ranks and microbatches."""


class FullSteps:
    """The draws of each step.

    Args:
        num_tokens: per source of the blend, tokens of each of its rows.
        tokens_per_step: what the microbatches of a step hold.
    """

    def __init__(self, blend: Blend, num_tokens: Sequence[NDArray[np.integer]], tokens_per_step: int) -> None:
        self.blend = blend
        self._num_tokens = tuple(num_tokens)
        mean, deviation = _spread(np.array(blend.shares), self._num_tokens)
        most = WINDOW_DRAWS if blend.num_draws is None else min(WINDOW_DRAWS, blend.num_draws)
        self.num_steps = max(1, round(most * mean / tokens_per_step))
        """Steps of a window."""
        capacity = self.num_steps * tokens_per_step * (1 - PACKING_ROOM)
        root = (math.hypot(NUM_DEVIATIONS * deviation, 2 * math.sqrt(mean * capacity)) - NUM_DEVIATIONS * deviation) / 2
        self.num_draws = max(self.num_steps, int((root / mean) ** 2))
        """Draws of a window: their expected tokens, and some deviations, are its capacity."""
        self._dealt: tuple[int, Draws, list[Ints]] | None = None

    def draws(self, step: int) -> tuple[Draws, Ints]:
        """The draws of a step in the order of the blend, and the number of each in that order."""
        window, place = divmod(step, self.num_steps)
        if self._dealt is None or self._dealt[0] != window:
            self._dealt = (window, *self._deal(window))
        _, draws, steps = self._dealt
        chosen = steps[place]
        return Draws(draws.source[chosen], draws.epoch[chosen], draws.row[chosen]), window * self.num_draws + chosen

    def _deal(self, window: int) -> tuple[Draws, list[Ints]]:
        """The draws of a window, and the places of those of each of its steps.

        Each run of as many draws of like length from one source as there are steps gives one to every step, the
        longest to the step with the fewest tokens so far: all have the blend's mix, like lengths and like totals.
        """
        draws = self.blend.draws(window * self.num_draws, (window + 1) * self.num_draws)
        lengths = take_rows(self._num_tokens, draws)
        totals = np.zeros(self.num_steps, np.int64)
        step_of = np.empty(len(draws), np.int64)
        for run in self._runs(draws.source, lengths):
            emptiest = np.argsort(totals, kind="stable")[: len(run)]
            step_of[run] = emptiest
            totals[emptiest] += lengths[run]
        return draws, [np.flatnonzero(step_of == step) for step in range(self.num_steps)]

    def _runs(self, source: Ints, lengths: Ints) -> Iterator[Ints]:
        """Places of draws, one for each step at most, longest first; the short ones that are left over come last."""
        left_over = []
        for number in np.unique(source).tolist():
            chosen = np.flatnonzero(source == number)
            chosen = chosen[np.argsort(-lengths[chosen], kind="stable")]
            num_whole = len(chosen) // self.num_steps * self.num_steps
            yield from chosen[:num_whole].reshape(-1, self.num_steps)
            left_over.append(chosen[num_whole:])
        rest = np.concatenate(left_over)
        rest = rest[np.argsort(-lengths[rest], kind="stable")]
        yield from np.array_split(rest, range(self.num_steps, len(rest), self.num_steps))


def take_rows(columns: Sequence[NDArray[np.integer]], draws: Draws) -> Ints:
    """The values of drawn rows, from one column per source."""
    values = np.empty(len(draws), np.int64)
    for number in np.unique(draws.source).tolist():
        chosen = draws.source == number
        values[chosen] = columns[number][draws.row[chosen]]
    return values


def _spread(shares: NDArray[np.float64], num_tokens: Sequence[NDArray[np.integer]]) -> tuple[float, float]:
    """Mean tokens of a draw, and their standard deviation within sources (the blend leaves those to no chance)."""
    sizes = np.array([max(1, len(lengths)) for lengths in num_tokens])
    means = np.array([lengths.sum(dtype=np.int64) for lengths in num_tokens]) / sizes
    squares = np.array([np.einsum("i,i->", lengths, lengths, dtype=np.float64) for lengths in num_tokens]) / sizes
    return float(shares @ means), math.sqrt(max(0.0, float(shares @ (squares - means**2))))
