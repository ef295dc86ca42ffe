"""Whisper's encoder, with clips padded to its window of 30 s or masked at their own length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from voicetextblender.audio.lengths import Stage

from .output import EncoderOutput, mask_of_lengths

STAGES = (Stage(3, 1, 1), Stage(3, 2, 1))
"""The two convolutions before the layers."""


class WhisperTower(WhisperEncoder):
    """The library's encoder over `[clips frames mels]`, of any length up to its window.

    `config.pad_clips` says how it was meant to be used. True, as Whisper was trained: features come padded with silence
    to the window, every frame sees all of it, and the frames of speech are marked valid. False: frames after a clip are
    neither seen nor computed; cheaper, and new to the checkpoint's weights.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        if getattr(config, "is_cut", False):
            self.layer_norm = nn.Identity()

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> EncoderOutput:
        """Hidden states of `[clips frames mels]`; `attention_mask` `[clips frames]` marks the frames of speech."""
        valid = None if attention_mask is None else attention_mask.bool()
        is_masked = not getattr(self.config, "pad_clips", True)
        hidden = nn.functional.gelu(self.conv1(input_features.transpose(1, 2)))
        if is_masked and valid is not None:
            hidden = hidden.masked_fill(~valid[:, None], 0.0)
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self.embed_positions(torch.arange(hidden.shape[1], device=hidden.device))
        hidden = nn.functional.dropout(hidden, self.dropout, self.training)
        if valid is not None:
            valid = mask_of_lengths(STAGES[1](STAGES[0](valid.sum(1))), hidden.shape[1])
        seen = create_bidirectional_mask(self.config, hidden, valid) if is_masked else None
        for layer in self.layers:
            hidden = layer(hidden, seen)
        return EncoderOutput(self.layer_norm(hidden), valid)
