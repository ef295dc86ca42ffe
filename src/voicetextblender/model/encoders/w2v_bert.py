"""W2V-BERT 2.0: two filter bank frames side by side make one encoder frame of 20 ms."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Wav2Vec2BertModel

from voicetextblender.audio.lengths import Stage

from .output import EncoderOutput, mask_of_lengths

STACKED = 2
"""Audio frames per encoder frame. Source: the extractor of facebook/w2v-bert-2.0 (`stride`)."""
STAGES = (Stage(STACKED, STACKED),)


class W2vBertTower(Wav2Vec2BertModel):
    """The library's encoder over filter bank frames that are not stacked yet; a last odd frame is left out."""

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> EncoderOutput:
        """Hidden states of `[clips frames mels]`; `attention_mask` `[clips frames]` marks the valid frames."""
        size = STAGES[0](input_features.shape[1])
        stacked = input_features[:, : size * STACKED].reshape(len(input_features), size, -1)
        valid = None if attention_mask is None else mask_of_lengths(STAGES[0](attention_mask.sum(1)), size)
        hidden = super().forward(stacked, attention_mask=valid, return_dict=True).last_hidden_state
        return EncoderOutput(hidden, valid)
