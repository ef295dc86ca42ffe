"""Conversations shared out: equal work and equal tokens in every share, clips of like length together."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

ATTENTION_TOKENS = 4096
"""Tokens of a row at which attention over the whole of it costs as much as everything else in the LLM.

Six times the LLM's width: 24 width^2 operations per token and layer in the matrices, 4 width per token that is attended
to. 1,536 for the embedded LLM, 12,288 for one of 2 billion parameters; this one costs either at most 1.5 % of its work.
"""
BUNDLE_SHARES = (0.2, 0.1, 0.0)
"""Tokens of a bundle of like clips, as a share of a microbatch's. Smaller ones where shares of larger are uneven."""
RANK_ROOM = 0.005
"""Share of its budget that no rank gets, so that its conversations can be put into the fewest microbatches."""
SINGLE_SHARE = 0.25
"""Of the conversations with audio, those with the least of it are not bundled: they fill the gaps."""
LEVEL_ENOUGH = 0.01
"""Shares whose work differs by less are not levelled any more."""
LEVEL_CANDIDATES = 8
"""Shares that are tried as partners for the dearest, and for the cheapest."""

Ints = NDArray[np.int64]


def conversation_cost(num_tokens: Ints, num_audio_tokens: Ints) -> Ints:
    """Work of conversations, in units of 1 / `ATTENTION_TOKENS` token: an encoder frame costs what a token does."""
    return num_tokens * (ATTENTION_TOKENS + num_tokens) + num_audio_tokens * ATTENTION_TOKENS


def share_evenly(costs: Sequence[int], num_shares: int) -> list[list[int]]:
    """Places of `costs` in each share, most expensive first; each goes to the share that has least so far.

    Source: longest-processing-time scheduling, Graham, Bounds on Multiprocessing Timing Anomalies (1969).
    """
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    loads = [(0, share) for share in range(num_shares)]
    for i in sorted(range(len(costs)), key=costs.__getitem__, reverse=True):  # equal ones stay in their order
        load, share = loads[0]
        shares[share].append(i)
        heapq.heapreplace(loads, (load + costs[i], share))
    return shares


def share_among_ranks(num_tokens: Ints, num_audio_tokens: Ints, num_ranks: int, budget: int) -> list[Ints]:
    """Places of conversations in the share of each rank: work differs by less than the dearest conversation.

    Tokens are about equal too, so that all ranks can do with the fewest microbatches.

    Args:
        num_tokens: of each conversation; `num_audio_tokens` of them are audio.
        budget: tokens of a microbatch at most.
    """
    if num_ranks == 1:
        return [np.arange(len(num_tokens))]
    costs = conversation_cost(num_tokens, num_audio_tokens)
    usable = budget * (1 - RANK_ROOM)
    capacity = int(usable * math.ceil(int(num_tokens.sum()) / (num_ranks * usable)))
    for bundles in bundlings(num_tokens, num_audio_tokens, budget):
        shares = deal(bundles, num_tokens, costs, num_ranks, capacity)
        if shares is None:
            continue
        _level(shares, num_tokens, costs, capacity)
        loads = [int(costs[share].sum()) for share in shares]
        if max(loads) - min(loads) <= costs.max():
            return shares
    return [np.array(share, np.int64) for share in share_evenly(costs.tolist(), num_ranks)]


def bundlings(num_tokens: Ints, num_audio_tokens: Ints, budget: int) -> Iterator[list[list[int]]]:
    """The conversations in large bundles, in smaller ones, and each alone."""
    for share in BUNDLE_SHARES:
        yield bundle_alike(num_tokens, num_audio_tokens, int(share * budget))


def bundle_alike(num_tokens: Ints, num_audio_tokens: Ints, most_tokens: int) -> list[list[int]]:
    """Conversations in bundles of like amounts of audio; those with little of it, or none, alone.

    Bundles that stay together let the encoder take like clips in one batch.

    Args:
        most_tokens: of a bundle of several conversations.
    """
    order = np.argsort(-num_audio_tokens, kind="stable")
    num_with_audio = int((num_audio_tokens > 0).sum())
    num_bundled = int(num_with_audio * (1 - SINGLE_SHARE))
    bundles: list[list[int]] = []
    room = 0
    for i, length in zip(order[:num_bundled].tolist(), num_tokens[order].tolist(), strict=False):
        if length > room:
            bundles.append([])
            room = most_tokens
        bundles[-1].append(i)
        room -= length
    return bundles + [[i] for i in order[num_bundled:].tolist()]


def deal(
    bundles: Sequence[Sequence[int]], num_tokens: Ints, costs: Ints, num_shares: int, capacity: int
) -> list[Ints] | None:
    """Bundles in shares of at most `capacity` tokens, about equal in tokens and costs; None where that fails.

    The largest bundle first, each to the share where the sum of squared loads grows least. No share stays empty where
    there are as many bundles.

    Source: the norm-based greedy of Panigrahy et al., Heuristics for Vector Bin Packing (2011), turned from filling one
    share after the other to filling all of them.
    """
    sizes = np.array([[num_tokens[bundle].sum(), costs[bundle].sum()] for bundle in map(list, bundles)], float)
    fair = sizes.sum(0) / num_shares
    sizes /= fair
    loads = np.zeros((num_shares, 2))
    most = capacity / fair[0]
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    for i in np.argsort(-sizes.max(1), kind="stable").tolist():
        growth = np.where(loads[:, 0] + sizes[i, 0] <= most * (1 + 1e-12), loads @ sizes[i], np.inf)
        best = int(growth.argmin())
        if growth[best] == np.inf:
            return None
        loads[best] += sizes[i]
        shares[best] += bundles[i]
    return [np.array(share, np.int64) for share in shares]


def _level(shares: list[Ints], num_tokens: Ints, costs: Ints, capacity: int) -> None:
    """Swap conversations between dear and cheap shares, in place, until their costs hardly differ."""
    cost = np.array([costs[share].sum() for share in shares], np.int64)
    tokens = np.array([num_tokens[share].sum() for share in shares], np.int64)
    enough = LEVEL_ENOUGH * cost.mean()

    def swap(dear: int, cheap: int) -> bool:
        """The swap that halves the gap best and makes neither share much fuller than the fuller one is."""
        gap = cost[dear] - cost[cheap]
        if gap <= enough / 2:
            return False
        saved = costs[shares[dear]][:, None] - costs[shares[cheap]][None, :]
        moved = num_tokens[shares[dear]][:, None] - num_tokens[shares[cheap]][None, :]
        fuller = np.maximum(tokens[cheap] + moved, tokens[dear] - moved)
        excess = np.maximum(fuller - max(tokens[dear], tokens[cheap]), 0)
        is_better = (saved > 0) & (saved < gap) & (fuller <= capacity)
        if not is_better.any():
            return False
        badness = np.abs(gap / 2 - saved) / cost.mean() + excess / tokens.mean()
        i, j = divmod(int(np.where(is_better, badness, np.inf).argmin()), len(shares[cheap]))
        shares[dear][i], shares[cheap][j] = shares[cheap][j], shares[dear][i]
        cost[[dear, cheap]] += np.array([-saved[i, j], saved[i, j]])
        tokens[[dear, cheap]] += np.array([-moved[i, j], moved[i, j]])
        return True

    for _ in range(LEVEL_CANDIDATES * len(shares)):
        order = np.argsort(cost, kind="stable").tolist()
        cheapest, dearest = order[0], order[-1]
        if cost[dearest] - cost[cheapest] <= enough:
            return
        pairs = [(dearest, other) for other in order[:LEVEL_CANDIDATES]]
        pairs += [(other, cheapest) for other in order[: -LEVEL_CANDIDATES - 1 : -1]]
        if not any(swap(*pair) for pair in pairs):
            return
