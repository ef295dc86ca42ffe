"""Cross-entropy at supervised positions only, without ever holding the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

POSITIONS_PER_CHUNK = 2048
"""Supervised positions whose logits exist at the same time: 2,048 x a vocabulary of 256,000 in fp32 is 2 GB."""


def supervised_losses(
    hidden: Float[Tensor, "rows tokens hidden"],
    token_ids: Int[Tensor, "rows tokens"],
    supervision_mask: Bool[Tensor, "rows tokens"],
    compute_logits: Callable[[Tensor], Tensor],
    positions_per_chunk: int = POSITIONS_PER_CHUNK,
) -> Float[Tensor, " supervised"]:
    """Loss in nats of each supervised token, in row-major order; token `t` is predicted from the hidden state at `t-1`.

    The head runs on no other position, in chunks that are computed again in the backward pass.
    """
    predicted = supervision_mask[:, 1:]
    states, targets = hidden[:, :-1][predicted], token_ids[:, 1:][predicted]

    def chunk_losses(chunk: Tensor, target: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(compute_logits(chunk).float(), target, reduction="none")

    if len(targets) <= positions_per_chunk:
        return chunk_losses(states, targets)
    pairs = zip(states.split(positions_per_chunk), targets.split(positions_per_chunk), strict=True)
    return torch.cat([checkpoint(chunk_losses, *pair, use_reentrant=False) for pair in pairs])
