"""Tiny real speech encoders of every family, saved in the ordinary way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    HubertConfig,
    HubertModel,
    ParakeetCTCConfig,
    ParakeetEncoder,
    ParakeetForCTC,
    PreTrainedModel,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from tests.tiny import make_encoder
from voicetextblender.mini.base_encoder import train_ctc_tokenizer

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
WAVEFORM = SIZES | {
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "initializer_range": 0.2,
}


def make_whisper(folder: Path, **changes: Any) -> Path:
    """Whisper with a window of 1 s instead of 30."""
    values: dict[str, Any] = {
        "d_model": 32,
        "encoder_layers": 3,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 48,
        "vocab_size": 40,
        "max_source_positions": 50,
        "init_std": 0.2,
    }
    values |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return _save(WhisperForConditionalGeneration(WhisperConfig(**(values | changes))), folder)


def make_ctc(folder: Path, encoder: Path) -> Path:
    """The FastConformer of the folder `encoder` with a random CTC head, which is sure of what it hears."""
    tokenizer = train_ctc_tokenizer(["What is three plus five?", "eight"] * 5, 150)
    tower = ParakeetEncoder.from_pretrained(encoder)
    torch.manual_seed(3)
    config = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    model = ParakeetForCTC(ParakeetCTCConfig(encoder_config=tower.config, **config))
    model.encoder.load_state_dict(tower.state_dict())
    model.ctc_head.weight.data.mul_(100)
    tokenizer.save_pretrained(folder)
    return _save(model, folder)


def make_w2v_bert(folder: Path, **changes: Any) -> Path:
    """W2V-BERT 2.0."""
    values = SIZES | {"layerdrop": 0.0, "initializer_range": 0.2, "position_embeddings_type": "relative_key"}
    return _save(Wav2Vec2BertModel(Wav2Vec2BertConfig(**(values | changes))), folder)


def make_waveform(
    model: type[PreTrainedModel], config: type[Any], stable: bool, folder: Path, normalise: bool = True, **changes: Any
) -> Path:
    """wav2vec2 and its relatives: as the base models (a norm over time) or the large ones (`stable`)."""
    norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True} if stable else {}
    _save(model(config(**(WAVEFORM | norm | changes))), folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalise, return_attention_mask=stable).save_pretrained(folder)
    return folder


def _save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "fastconformer": make_encoder,
    "whisper": make_whisper,
    "w2v_bert": make_w2v_bert,
    "wav2vec2": lambda folder: make_waveform(Wav2Vec2Model, Wav2Vec2Config, False, folder),
    "wav2vec2_large": lambda folder: make_waveform(Wav2Vec2Model, Wav2Vec2Config, True, folder),
    "hubert": lambda folder: make_waveform(HubertModel, HubertConfig, False, folder),
    "hubert_large": lambda folder: make_waveform(HubertModel, HubertConfig, True, folder),
    "wavlm": lambda folder: make_waveform(WavLMModel, WavLMConfig, False, folder, normalise=False),
    "wavlm_large": lambda folder: make_waveform(WavLMModel, WavLMConfig, True, folder),
}


def make_family(family: str, folder: Path) -> Path:
    """The tiny encoder of `family` in `folder`, with the same weights every time."""
    torch.manual_seed(4)
    return MAKERS[family](folder)
