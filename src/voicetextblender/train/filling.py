"""Values for a model in shards: one rank reads them and sends them to all, and no other ever holds a whole model."""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from voicetextblender.errors import ModelError, describe
from voicetextblender.train.distributed import Ranks


def values_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those outside of checkpoints too; what is tied comes once."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in tensors}


def check_same_modules(model: nn.Module, ranks: Ranks) -> None:
    """Raise `ModelError` where the model of another rank, whole or empty, has other tensors than that of the first."""
    shapes = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in values_of(model).items()]
    seen = ranks.gather([hashlib.sha256(repr(shapes).encode()).hexdigest()])
    if len(set(seen)) > 1:
        raise ModelError(
            describe(
                "train.parallel",
                "the configurations of the models describe other tensors than their weights are",
                "every rank builds the same modules, the first one with weights, the others without",
                "Set it to ddp",
            )
        )


@torch.no_grad()
def fill_shards(model: nn.Module, whole: dict[str, Tensor], ranks: Ranks) -> None:
    """Give every rank its shards of `whole`; a rank holds one whole tensor at a time.

    Args:
        model: in shards, on the device of this rank.
        whole: on the first rank what `values_of` gave before the model was cut; it is empty afterwards.
    """
    for name, shard in values_of(model).items():
        if ranks.is_first:
            value = whole.pop(name).to(ranks.device).contiguous()
        else:
            value = torch.empty(shard.shape, dtype=shard.dtype, device=ranks.device)
        dist.broadcast(value, src=0)
        if isinstance(shard, DTensor):
            mine = distribute_tensor(value, shard.device_mesh, shard.placements, src_data_rank=None)
            shard.to_local().copy_(mine.to_local())
        else:
            shard.copy_(value)
