"""AdamW over the parts that learn, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from voicetextblender.model.trainable import Part, part_of
from voicetextblender.train.config import OptimConfig


def learning_rate_at(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate of step `step` (from 0) of `steps`: linear warm-up, then a cosine to the minimum."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    span = config.learning_rate - config.min_learning_rate
    return config.min_learning_rate + span * 0.5 * (1.0 + math.cos(math.pi * progress))


def build_optimizer(parameters: dict[str, Tensor], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW with one group per part and kind (matrices decay, vectors do not), in the order of `parameters`."""
    groups: dict[tuple[Part, bool], list[Tensor]] = {}
    for name, parameter in parameters.items():
        groups.setdefault((part_of(name), parameter.ndim >= 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": tensors,
                "weight_decay": config.part_weight_decay.get(part, config.weight_decay) if decays else 0.0,
                "scale": config.part_scale.get(part, 1.0),
            }
            for (part, decays), tensors in groups.items()
        ],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group the step's learning rate times the scale of its part."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["scale"]
