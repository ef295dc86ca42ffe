"""What every speech encoder returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.modeling_outputs import ModelOutput


@dataclass
class EncoderOutput(ModelOutput):
    """Hidden states `[clips encoder_frames size]` and which of them are valid, `[clips encoder_frames]` (None: all)."""

    last_hidden_state: Tensor | None = None
    attention_mask: Tensor | None = None


def mask_of_lengths(lengths: Tensor, size: int) -> Tensor:
    """`[clips size]`, true at the first `lengths` positions of each clip."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
