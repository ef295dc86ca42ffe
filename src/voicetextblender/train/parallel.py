"""One model on many ranks: whole on each (DDP), in shards over all (FSDP2), or in shards over groups of them (HSDP)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from voicetextblender.audio.groups import group_by_length
from voicetextblender.batch import Batch, empty_batch
from voicetextblender.errors import RunError, describe
from voicetextblender.model.blocks import blocks_of, recompute
from voicetextblender.model.build import Composite, ModelConfig, build_composite
from voicetextblender.model.modeling import VoiceTextBlenderForConditionalGeneration
from voicetextblender.model.packing import check_packing, choose_attention
from voicetextblender.model.skeleton import build_empty_composite
from voicetextblender.train.compiling import compile_layers
from voicetextblender.train.config import TrainConfig, precision_context
from voicetextblender.train.distributed import Ranks
from voicetextblender.train.filling import check_same_modules, fill_shards, values_of
from voicetextblender.train.rounding import round_frozen_matrices

ResultT = TypeVar("ResultT")


class Entrance(nn.Module):
    """The one module through which everything enters the model, so that the weights outside of its blocks are at hand.

    The training runs parts of the model by themselves (embeddings, clips, head), which no `forward` of the model's own
    does.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        """What `function` returns; it may use any part of the model."""
        return function(*arguments)


@dataclass(frozen=True)
class ParallelModel:
    """A model as the ranks of a run hold it together.

    Gradients are means over the ranks once the last microbatch of a step is through.

    Args:
        group_cost: of the speech encoder, as `group_by_length` takes it.
    """

    entrance: nn.Module
    ranks: Ranks
    group_cost: int

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds only a part of every weight, so that all must enter every block equally often."""
        return isinstance(self.entrance, FSDPModule)

    def run(self, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        """What `function(*arguments)` returns, with all weights at hand; called by every rank."""
        result: ResultT = self.entrance(function, *arguments)
        return result

    @torch.no_grad()
    def inspect(self, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        """`run` apart from any step: without gradients, and the shards are as before."""
        try:
            return self.run(function, *arguments)
        finally:
            if isinstance(self.entrance, FSDPModule):
                self.entrance.reshard()

    @contextmanager
    def microbatch(self, is_last: bool) -> Iterator[None]:
        """Around forward and backward of one microbatch: what can wait for the last one of a step does."""
        if isinstance(self.entrance, DistributedDataParallel) and not is_last:
            with self.entrance.no_sync():
                yield
            return
        if isinstance(self.entrance, FSDPModule):
            self.entrance.set_requires_all_reduce(is_last)
        yield

    def align(self, batches: Sequence[Batch]) -> list[tuple[Batch, int]]:
        """The microbatches of this rank's share of a step, and how often the encoder must run in each at least.

        Ranks that hold shards meet in every pass through a block, so those with fewer microbatches or groups of clips
        run on nothing. Where all ranks sum their gradients, in the last microbatch, each has one for every weight.
        """
        lengths = [[len(waveform) for waveform in batch.waveforms] for batch in batches]
        passes = [len(group_by_length(clips, self.group_cost)) for clips in lengths]
        if self.ranks.num_ranks == 1:
            return list(zip(batches, passes, strict=True))
        shares = self.ranks.gather([passes]) if self.is_sharded else [passes]
        count = max(1, *map(len, shares))
        most = [max(share[index] if index < len(share) else 0 for share in shares) for index in range(count)]
        most[-1] = max(1, most[-1])
        return list(zip([*batches, *[empty_batch()] * (count - len(batches))], most, strict=True))


def is_sharded(config: TrainConfig, ranks: Ranks) -> bool:
    """Whether weights are cut into shards; a single rank holds everything."""
    return ranks.num_ranks > 1 and config.parallel != "ddp"


def reads_weights(config: TrainConfig, ranks: Ranks) -> bool:
    """Whether this rank reads the base models; of a model in shards the first one does, for all."""
    return ranks.is_first or not is_sharded(config, ranks)


def open_composite(model: ModelConfig, seed: int, config: TrainConfig, ranks: Ranks) -> Composite:
    """The model of a recipe, without values where another rank reads them: `parallelise` gives each rank its shards."""
    return build_composite(model, seed) if reads_weights(config, ranks) else build_empty_composite(model)


def prepare_model(composite: Composite, config: TrainConfig, ranks: Ranks, packs: bool) -> ParallelModel:
    """The model on the devices of the ranks, computing as the recipe says.

    Args:
        packs: whether conversations share rows; it is then checked that they do not see each other.

    Raises:
        ModelError: they do, or the kernels that are asked for cannot be used.
    """
    model = composite.model.model
    choose_attention(model.language_model, config.attention, ranks.device, config.precision)
    parts = {"llm": model.language_model, "speech_encoder": model.audio_tower, "adapter": model.adapter}
    for name, part in parts.items():
        if getattr(config.activation_checkpointing, name):
            recompute(part)
    if config.precision == "bf16":
        round_frozen_matrices(composite.model, composite.config)
    parallel = parallelise(composite.model, config, ranks)
    if packs:
        with precision_context(config, ranks.device):
            parallel.inspect(check_packing, model)
    if config.compile:
        compile_layers(model)
    return parallel


def parallelise(model: VoiceTextBlenderForConditionalGeneration, config: TrainConfig, ranks: Ranks) -> ParallelModel:
    """Bring the model to the device of this rank, as `train.parallel` says.

    Sharded, block after block goes there, and the whole of it never does: on the first rank the model should still be
    in host memory. Its values are taken; on other ranks they need not be set.

    Raises:
        ModelError: the ranks have different models.
    """
    entrance, group_cost = Entrance(model), model.model.group_cost
    if is_sharded(config, ranks):
        check_same_modules(model, ranks)
        _shard(entrance, model, config, ranks)
        return ParallelModel(entrance, ranks, group_cost)
    entrance.to(ranks.device)
    if ranks.num_ranks == 1:
        return ParallelModel(entrance, ranks, group_cost)
    with warnings.catch_warnings():  # torch 2.13 has another name for `broadcast_buffers`, which 2.11 does not know
        warnings.simplefilter("ignore", FutureWarning)
        copies = DistributedDataParallel(entrance, broadcast_buffers=False, gradient_as_bucket_view=True)
    return ParallelModel(copies, ranks, group_cost)


def check_shard_size(config: TrainConfig, ranks: Ranks) -> None:
    """Raise `RunError` where the ranks do not make whole groups."""
    size = shard_size(config, ranks)
    if ranks.num_ranks % size:
        raise RunError(
            describe(
                "train.shard_size",
                f"{size}, with {ranks.num_ranks} rank{'s' if ranks.num_ranks > 1 else ''}",
                "a divisor of the number of ranks",
                "Start as many processes as make whole groups, or change train.shard_size",
            )
        )


def shard_size(config: TrainConfig, ranks: Ranks) -> int:
    """Ranks that hold one copy of the model together."""
    if config.parallel != "hsdp":
        return ranks.num_ranks if config.parallel == "fsdp" else 1
    return config.shard_size or int(os.environ.get("LOCAL_WORLD_SIZE", ranks.num_ranks))


def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> float:
    """Scale the gradients of all parameters, sharded or not, to a norm of at most `max_norm`; returns what it was.

    A parameter that nothing in the step reached has a gradient of zero, not none: the optimizer does the same however
    the step is cut.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, whole)
    return float(whole)


def _make_mesh(config: TrainConfig, ranks: Ranks) -> DeviceMesh:
    """The ranks in one row, or for HSDP in one row for each copy of the model."""
    if config.parallel == "fsdp":
        return init_device_mesh(ranks.device.type, (ranks.num_ranks,))
    size = shard_size(config, ranks)
    return init_device_mesh(ranks.device.type, (ranks.num_ranks // size, size), mesh_dim_names=("replicate", "shard"))


def _shard(
    entrance: Entrance, model: VoiceTextBlenderForConditionalGeneration, config: TrainConfig, ranks: Ranks
) -> None:
    """Shards of fp32 weights, gathered a block at a time; under bf16 in bf16, with gradients summed in fp32."""
    model.to(memory_format=torch.contiguous_format)
    whole = values_of(model) if ranks.is_first else {}
    composite, mesh = model.model, _make_mesh(config, ranks)
    if config.precision == "bf16":
        # Statistics of batch normalisation are buffers and stay in fp32, so its weights must.
        for norm in [module for module in model.modules() if isinstance(module, _BatchNorm)]:
            fully_shard(norm, mesh=mesh)
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    else:
        policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    for part in (composite.language_model, composite.audio_tower, composite.adapter):
        for block in blocks_of(part):
            fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(entrance, mesh=mesh, mp_policy=policy)
    if not ranks.is_first:
        entrance.to_empty(device=ranks.device)
    fill_shards(model, whole, ranks)
