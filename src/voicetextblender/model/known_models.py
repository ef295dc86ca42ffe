"""Shapes of public models, so that a recipe can be checked where neither the model nor the hub can be reached.

Only what decides shapes and counts of parameters is here; nothing of it is used to train.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, NamedTuple

from transformers import AutoConfig, PreTrainedConfig


class KnownModel(NamedTuple):
    """Values of a library configuration, and where they are from."""

    values: dict[str, Any]
    source: str


_FASTCONFORMER_XL = {
    "model_type": "parakeet_encoder",
    "hidden_size": 1024,
    "num_attention_heads": 8,
    "intermediate_size": 4096,
    "conv_kernel_size": 9,
    "subsampling_factor": 8,
    "subsampling_conv_channels": 256,
    "num_mel_bins": 128,
    "scale_input": False,
}
"""FastConformer as Canary has it. 128 mel bands are the number that gives the 609 and 811 million parameters which are
published for 24 and 32 layers; 80 bands would give 1.6 million fewer."""

_WHISPER_LARGE = {
    "model_type": "whisper",
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
}
_NEMO = "NeMo, fast-conformer_aed.yaml: table of the Canary family"

KNOWN_MODELS: dict[str, KnownModel] = {
    "canary-1b": KnownModel(_FASTCONFORMER_XL | {"num_hidden_layers": 24}, _NEMO),
    "canary-1b-flash": KnownModel(_FASTCONFORMER_XL | {"num_hidden_layers": 32}, _NEMO),
    "whisper-large-v3": KnownModel(_WHISPER_LARGE, "openai/whisper-large-v3, config.json"),
    "whisper-large-v3-turbo": KnownModel(_WHISPER_LARGE, "openai/whisper-large-v3-turbo, config.json"),
    "gemma-2b-it": KnownModel(
        {
            "model_type": "gemma",
            "vocab_size": 256_000,
            "hidden_size": 2048,
            "intermediate_size": 16_384,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "tie_word_embeddings": True,
        },
        "google/gemma-2b-it, config.json",
    ),
    "Qwen3-1.7B": KnownModel(
        {
            "model_type": "qwen3",
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
        "Qwen/Qwen3-1.7B, config.json",
    ),
    "Llama-3.2-3B-Instruct": KnownModel(
        {
            "model_type": "llama",
            "vocab_size": 128_256,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 28,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
        "meta-llama/Llama-3.2-3B-Instruct, config.json",
    ),
    "Llama-3.1-8B-Instruct": KnownModel(
        {
            "model_type": "llama",
            "vocab_size": 128_256,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": False,
        },
        "meta-llama/Llama-3.1-8B-Instruct, config.json",
    ),
}
"""By the last part of a hub name, or by the name of a file or folder without `.nemo`."""


def find_known(path: str) -> KnownModel | None:
    """The shapes of the model that `path` is named after, if they are known."""
    return KNOWN_MODELS.get(PurePosixPath(path).name.removesuffix(".nemo"))


def config_of(known: KnownModel) -> PreTrainedConfig:
    """The library configuration with these values."""
    values = dict(known.values)
    return AutoConfig.for_model(values.pop("model_type"), **values)
