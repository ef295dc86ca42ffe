"""Families of speech encoders: the class that encodes, and the integers from audio frames to encoder frames.

A family's class takes `input_features` `[clips frames bins]` and `attention_mask` `[clips frames]`, and returns an
`EncoderOutput` in which no clip depends on the padding. Its configuration may carry what a recipe chose: `is_cut`
(later layers were left out, and so is the norm behind the last one), `pad_clips` (Whisper) and `windows`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log2
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from voicetextblender.audio.groups import GROUP_COST
from voicetextblender.audio.lengths import Stage

from .conformer import FastConformerTower
from .w2v_bert import STAGES as W2V_BERT_STAGES
from .w2v_bert import W2vBertTower
from .waveform import HubertTower, Wav2Vec2Tower, WavLMTower, convolution_stages
from .whisper import STAGES as WHISPER_STAGES
from .whisper import WhisperTower

Stages = tuple[Stage, ...]


@dataclass(frozen=True)
class Family:
    """What the composite needs to know of one family of encoders.

    Args:
        tower: the class that encodes.
        stages: from a configuration to the stages between audio frames and encoder frames.
        layers_key: what the configuration calls its number of layers.
        window: from a configuration to the most encoder frames at once, or None where there is no limit.
        group_cost: what one more group of clips costs, in samples of padding.
    """

    tower: type[PreTrainedModel]
    stages: Callable[[Any], Stages]
    layers_key: str = "num_hidden_layers"
    window: Callable[[Any], int | None] = lambda config: None
    group_cost: int = GROUP_COST


def _fastconformer_stages(config: Any) -> Stages:
    kernel = config.subsampling_conv_kernel_size
    stage = Stage(kernel, config.subsampling_conv_stride, (kernel - 1) // 2)
    return (stage,) * int(log2(config.subsampling_factor))


FAMILIES: dict[str, Family] = {
    # Padding goes through no matrix. With the embedded encoder and adapter on one core, forward and backward, a group
    # costs 70 ms and a second of padding 6.2 ms.
    "parakeet_encoder": Family(FastConformerTower, _fastconformer_stages, group_cost=160_000),
    "whisper": Family(
        WhisperTower,
        lambda config: WHISPER_STAGES,
        layers_key="encoder_layers",
        window=lambda config: config.max_source_positions,
    ),
    "wav2vec2-bert": Family(W2vBertTower, lambda config: W2V_BERT_STAGES),
    "wav2vec2": Family(Wav2Vec2Tower, convolution_stages),
    "hubert": Family(HubertTower, convolution_stages),
    "wavlm": Family(WavLMTower, convolution_stages),
}
"""By the `model_type` of the encoder's configuration."""


def build_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """A speech encoder of that configuration with random weights."""
    return FAMILIES[config.model_type].tower._from_config(config)


def encoder_stages(config: PreTrainedConfig) -> Stages:
    """The stages between audio frames and encoder frames."""
    return FAMILIES[config.model_type].stages(config)
