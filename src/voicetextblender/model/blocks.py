"""The layers of a part: what is gathered as one where weights are sharded, and computed again to save memory."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks_of(part: nn.Module) -> list[nn.Module]:
    """The layers of `part`, which are its largest list of modules; none where it has no list."""
    lists = [module for module in part.modules() if isinstance(module, nn.ModuleList)]
    sizes = [sum(parameter.numel() for parameter in layers.parameters()) for layers in lists]
    return list(lists[sizes.index(max(sizes))]) if lists else []


def recompute(part: nn.Module) -> None:
    """Let each layer of `part` keep only its inputs for the backward pass, and compute the rest again there.

    A part without layers is taken as one.
    """
    for block in blocks_of(part) or [part]:
        forward: Any = block.forward
        block.forward = partial(checkpoint, forward, use_reentrant=False)
