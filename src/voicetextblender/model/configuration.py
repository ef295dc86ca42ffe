"""The composite's configuration, in the layout that stock serving engines read."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig


class VoiceTextBlenderConfig(PreTrainedConfig):
    """A speech encoder, a modality adapter and a causal LLM.

    Args:
        text_config: Configuration of the LLM (or its dictionary).
        audio_config: Configuration of the speech encoder (or its dictionary). Its `max_position_embeddings` or
            `max_source_positions` is the most audio embeddings one clip may have.
        front_end_config: The features that the encoder takes: the values of a `FrontEndConfig`.
        adapter_config: Kind and shape of the modality adapter, by the keys of a recipe's `model.adapter`; a Conformer
            where it names no `kind`.
        audio_token_id: The token that holds the place of one audio embedding; inside the LLM's vocabulary.
    """

    model_type = "voicetextblender"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "audio_config": AutoConfig}

    def __init__(
        self,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        audio_config: dict[str, Any] | PreTrainedConfig | None = None,
        front_end_config: dict[str, Any] | None = None,
        adapter_config: dict[str, Any] | None = None,
        audio_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.text_config = _as_config(text_config, "llama")
        self.audio_config = _as_config(audio_config, "parakeet_encoder")
        num_mels = getattr(self.audio_config, "num_mel_bins", 80)
        self.front_end_config = dict(front_end_config or {"kind": "log_mel", "num_mels": num_mels})
        self.adapter_config = dict(adapter_config or {})
        self.audio_token_id = audio_token_id
        kwargs["tie_word_embeddings"] = bool(getattr(self.text_config, "tie_word_embeddings", False))
        super().__init__(**kwargs)


def _as_config(config: dict[str, Any] | PreTrainedConfig | None, default_type: str) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    values = dict(config or {})
    return AutoConfig.for_model(values.pop("model_type", default_type), **values)


AutoConfig.register(VoiceTextBlenderConfig.model_type, VoiceTextBlenderConfig)
