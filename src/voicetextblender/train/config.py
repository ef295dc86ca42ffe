"""How a run learns: steps, learning rates, precision, checkpoints."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from voicetextblender.audio.augment import SpecAugmentConfig
from voicetextblender.config import StrictConfig
from voicetextblender.model.packing import Attention
from voicetextblender.model.trainable import Part

Beta = Annotated[float, Field(ge=0, lt=1)]
"""The decay of a running mean, per step."""

Parallel = Literal["ddp", "fsdp", "hsdp"]
"""How several ranks share a model."""


class OptimConfig(StrictConfig):
    """AdamW with linear warm-up and a cosine (defaults: the authors' released configuration).

    Args:
        learning_rate: peak, for every part that learns.
        min_learning_rate: reached at the last step.
        warmup_steps: steps of linear warm-up from 0.
        part_scale: factor on the learning rate of a part: `speech_encoder`, `adapter`, `llm`.
        betas: decay of AdamW's running means of the gradient and of its square.
        weight_decay: on matrices alone; norms, biases and other vectors go without.
        part_weight_decay: in place of `weight_decay`, for a part.
        max_grad_norm: the gradient's norm over all parts is clipped to this.
    """

    learning_rate: float = Field(1e-4, gt=0)
    min_learning_rate: float = Field(1e-6, ge=0)
    warmup_steps: int = Field(2500, ge=0)
    part_scale: dict[Part, Annotated[float, Field(ge=0)]] = {}
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    weight_decay: float = Field(1e-3, ge=0)
    part_weight_decay: dict[Part, Annotated[float, Field(ge=0)]] = {}
    max_grad_norm: float = Field(1.0, gt=0)


class Recomputed(StrictConfig):
    """Parts whose layers keep only their inputs for the backward pass and are computed again there.

    Args:
        llm: about a third more work in the LLM, for the memory of one layer instead of all.
        speech_encoder: the same for the speech encoder.
        adapter: the same for the modality adapter.
    """

    llm: bool = False
    speech_encoder: bool = False
    adapter: bool = False


class TrainConfig(StrictConfig):
    """The run.

    Args:
        steps: optimizer steps.
        optim: the optimizer and its learning rate.
        precision: `bf16` computes in bfloat16 under autocast with fp32 weights; `fp32` throughout.
        device: `auto` takes a GPU where there is one.
        attention: kernels of the LLM's attention; `auto` takes flash attention on a GPU in bf16 where the package
            `flash_attn` is installed and the LLM supports it, and otherwise what the library chooses.
        compile: torch.compile for the layers of all parts: minutes at the start, then faster steps and less memory.
            Losses differ from those without it by rounding. What cannot be compiled is an error.
        parallel: how several ranks share the model. `ddp`: each holds all of it. `fsdp`: each holds a shard of weights,
            gradients and optimizer state, and layers are gathered when they are needed. `hsdp`: shards within groups
            of ranks, copies between them. A single rank holds everything with each of them.
        shard_size: ranks of a group under `hsdp`; null takes those of one machine.
        activation_checkpointing: parts that are computed again in the backward pass, to save memory.
        spec_augment: masks on the features of training clips; null for none.
        checkpoint_every: steps between checkpoints; 0 keeps only the one at the end.
        async_checkpoints: checkpoints are copied to host memory and written while the training goes on.
        keep_checkpoints: older ones are deleted once a newer one is complete.
        tensorboard: also write every number of the log for TensorBoard, to `tensorboard/` in the run folder.
    """

    steps: int = Field(ge=1)
    optim: OptimConfig = OptimConfig()
    precision: Literal["fp32", "bf16"] = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: Attention = "auto"
    compile: bool = False
    parallel: Parallel = "ddp"
    shard_size: int | None = Field(None, ge=1)
    activation_checkpointing: Recomputed = Recomputed()
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig()
    checkpoint_every: int = Field(500, ge=0)
    async_checkpoints: bool = False
    keep_checkpoints: int = Field(2, ge=1)
    tensorboard: bool = True

    @model_validator(mode="after")
    def _check_shard_size(self) -> Self:
        if self.shard_size is not None and self.parallel != "hsdp":
            raise ValueError(f"it should have shard_size with parallel: hsdp alone, not with {self.parallel}")
        return self


def precision_context(config: TrainConfig, device: torch.device) -> AbstractContextManager[None]:
    """Autocast to bfloat16 where the recipe asks for it."""
    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
