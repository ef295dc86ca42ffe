"""Cross-entropy at supervised positions only, without ever holding the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

POSITIONS_PER_CHUNK = 256
"""Supervised positions whose logits exist at the same time: 256 x a vocabulary of 256,000 in fp32 is 0.26 GB."""

ComputeLogits = Callable[[Tensor], Tensor]
"""From hidden states `[positions hidden]` to logits `[positions vocab]`, each position on its own."""


def supervised_losses(
    hidden: Float[Tensor, "rows tokens hidden"],
    token_ids: Int[Tensor, "rows tokens"],
    supervision_mask: Bool[Tensor, "rows tokens"],
    compute_logits: ComputeLogits,
    positions_per_chunk: int = POSITIONS_PER_CHUNK,
) -> Float[Tensor, " supervised"]:
    """Loss in nats of each supervised token, in row-major order; token `t` is predicted from the hidden state at `t-1`.

    The head runs on no other position, and in chunks. A head that does not learn runs once: what its chunk passes back
    is computed beside the loss. One that learns runs again in the backward pass.
    """
    predicted = supervision_mask[:, 1:]
    states, targets = hidden[:, :-1][predicted], token_ids[:, 1:][predicted]
    if not compute_logits(states[:0].detach()).requires_grad:
        losses: Tensor = _LossesOfFrozenHead.apply(states, targets, compute_logits, positions_per_chunk)
        return losses
    pairs = zip(states.split(positions_per_chunk), targets.split(positions_per_chunk), strict=True)
    return torch.cat([checkpoint(_losses, compute_logits, *pair, use_reentrant=False) for pair in pairs])


def _losses(compute_logits: ComputeLogits, states: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(compute_logits(states).float(), targets, reduction="none")


class _LossesOfFrozenHead(torch.autograd.Function):
    """Losses of positions, whose gradients are known as soon as they are: a loss depends on its own state alone.

    Source: the idea of Liger Kernel's fused linear cross-entropy, arXiv 2410.10989.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, compute_logits: ComputeLogits, chunk: int) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        losses, gradients = [states.new_zeros(0, dtype=torch.float32)], [states[:0]]
        for some_states, some_targets in zip(states.split(chunk), targets.split(chunk), strict=True):
            with torch.set_grad_enabled(wants_gradient):
                leaf = some_states.detach().requires_grad_(wants_gradient)
                some_losses = _losses(compute_logits, leaf, some_targets)
                if wants_gradient:
                    gradients += torch.autograd.grad(some_losses.sum(), leaf)
            losses.append(some_losses.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (of_states,) = ctx.saved_tensors
        return of_states * gradients[0][:, None].to(of_states.dtype), None, None, None
