"""One optimizer step: microbatches in, one update out, and one loss over all supervised tokens of the step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from voicetextblender.batch import Batch
from voicetextblender.errors import RunError, describe
from voicetextblender.files import derive_seed
from voicetextblender.model.build import Composite
from voicetextblender.model.clips import embed_clips
from voicetextblender.model.loss import supervised_losses
from voicetextblender.model.packing import run_packed
from voicetextblender.train.config import TrainConfig, precision_context
from voicetextblender.train.distributed import Ranks
from voicetextblender.train.parallel import ParallelModel, clip_gradients


@dataclass(frozen=True)
class StepResult:
    """What one step did, over all ranks. Losses are means in nats per supervised token."""

    loss: float
    loss_by_task: dict[str, float]
    num_supervised: int
    num_tokens: int
    num_samples: int
    grad_norm: float


def batch_losses(
    composite: Composite, batch: Batch, config: TrainConfig, min_passes: int = 0
) -> Float[Tensor, " supervised"]:
    """Loss of each supervised token of a microbatch, in row-major order.

    Conversations in a row do not see each other, and padding stands behind them, where attention is causal.

    Args:
        min_passes: times that the encoder runs at least, with clips or without.
    """
    model = composite.model
    with precision_context(config, batch.token_ids.device):
        inputs_embeds = model.get_input_embeddings()(batch.token_ids)
        if batch.waveforms or min_passes:
            audio = embed_clips(
                model.model,
                composite.front_end,
                batch.waveforms,
                batch.num_audio_tokens,
                config.spec_augment if model.training else None,
                batch.clip_keys,
                min_passes,
            )
            inputs_embeds = model.model.join(inputs_embeds, audio, batch.audio_mask)
        hidden = run_packed(model.model, inputs_embeds, batch.position_ids, batch.holds_audio)
        return supervised_losses(hidden, batch.token_ids, batch.supervision_mask, model.compute_logits)


def run_step(
    composite: Composite,
    optimizer: torch.optim.Optimizer,
    parameters: list[Tensor],
    batches: Sequence[Batch],
    config: TrainConfig,
    parallel: ParallelModel,
    seed: int,
    step: int,
) -> StepResult:
    """Forward and backward over this rank's microbatches, then one update if loss and gradient are finite.

    The step's loss is the sum over all supervised tokens of all microbatches and ranks, divided by their number: how
    the step is cut into microbatches or ranks does not change it.

    Raises:
        RunError: A loss or gradient that is not finite; the weights are those before the step.
    """
    ranks = parallel.ranks
    total = ranks.sum(torch.tensor(sum(batch.num_supervised for batch in batches), device=ranks.device)).item()
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64, device=ranks.device))
    aligned = parallel.align(batches)
    for index, (batch, min_passes) in enumerate(aligned):
        torch.manual_seed(derive_seed(seed, "dropout", step, ranks.rank, index))
        with parallel.microbatch(is_last=index + 1 == len(aligned)):
            losses = parallel.run(batch_losses, composite, batch.to(ranks.device), config, min_passes)
            (losses.sum() / (total / ranks.num_ranks)).backward()  # gradients are averaged over the ranks
        _add_by_task(sums, batch, losses.detach())
    norm = clip_gradients(parameters, config.optim.max_grad_norm)
    by_task = _sum_over_ranks(sums, ranks)
    loss = sum(value for value, _ in by_task.values()) / total
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise RunError(
            describe(
                f"step {step}",
                f"loss {loss}, gradient norm {norm}",
                "finite numbers",
                "The weights are those before this step. Lower train.optim.learning_rate, or look at the rows of this "
                "step with `vtb look`",
            )
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    counts = ranks.sum(
        torch.tensor([[b.num_tokens, b.num_samples] for b in batches] or [[0, 0]], device=ranks.device).sum(0)
    )
    return StepResult(
        loss=loss,
        loss_by_task={task: value / count for task, (value, count) in sorted(by_task.items())},
        num_supervised=int(total),
        num_tokens=int(counts[0]),
        num_samples=int(counts[1]),
        grad_norm=norm,
    )


def _add_by_task(sums: dict[str, Tensor], batch: Batch, losses: Tensor) -> None:
    for task, losses_of_one in zip(batch.tasks, batch.split_by_conversation(losses), strict=True):
        sums[task][0] += losses_of_one.double().sum()
        sums[task][1] += len(losses_of_one)


def _sum_over_ranks(sums: dict[str, Tensor], ranks: Ranks) -> dict[str, tuple[float, float]]:
    if ranks.num_ranks > 1:
        for task in sorted(set(ranks.gather(sorted(sums)))):
            ranks.sum(sums[task])
    return {task: (float(value[0]), float(value[1])) for task, value in sums.items()}
