"""The composite model: one causal decoder over text tokens and audio embeddings.

Laid out so that stock serving engines run it without a plugin: `Model` holds `language_model` (a headless LLM) and
`audio_tower`; `ForConditionalGeneration` adds the head. Nothing here depends on other modules of the package than its
configuration, adapter and encoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, ModelOutput
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderRelPositionalEncoding
from transformers.utils import can_return_tuple

from .adapters.choose import make_adapter
from .adapters.conformer import freeze_batch_norm
from .configuration import VoiceTextBlenderConfig
from .encoders.encode import encode
from .encoders.families import FAMILIES, build_tower


@dataclass
class VoiceTextBlenderOutput(ModelOutput):
    """What `ForConditionalGeneration.forward` returns; `logits` is `[batch kept_tokens vocab]`."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class VoiceTextBlenderPreTrainedModel(PreTrainedModel):
    """What both classes of the composite declare to the library."""

    config_class = VoiceTextBlenderConfig
    base_model_prefix = "model"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = "past_key_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Also fills the adapter's position buffer, which is not stored and is empty after loading."""
        super()._init_weights(module)
        if isinstance(module, ParakeetEncoderRelPositionalEncoding):
            module.inv_freq.copy_(module.compute_default_relative_positional_parameters(module.config))


class VoiceTextBlenderModel(VoiceTextBlenderPreTrainedModel):
    """Speech encoder, modality adapter and headless LLM."""

    def __init__(self, config: VoiceTextBlenderConfig) -> None:
        super().__init__(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.audio_tower = build_tower(config.audio_config)
        self.adapter = make_adapter(
            config.audio_config.hidden_size, config.text_config.hidden_size, config.adapter_config
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> VoiceTextBlenderModel:
        """Training mode, but for a frozen encoder; batch normalisation keeps its stored statistics."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.audio_tower.parameters()):
            self.audio_tower.eval()
        freeze_batch_norm(self)
        return self

    @property
    def group_cost(self) -> int:
        """What one more group of clips costs the speech encoder, in samples of padding."""
        return FAMILIES[self.config.audio_config.model_type].group_cost

    def get_audio_features(
        self, input_features: Tensor, input_features_mask: Tensor | list[Tensor] | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Audio embeddings of clips given as features `[clips frames bins]`.

        Returns:
            An output whose `pooler_output` holds the valid embeddings of all clips, one after the other:
            `[sum of audio_tokens, hidden]`.
        """
        if isinstance(input_features, list | tuple):
            input_features = torch.stack(list(input_features))
        if isinstance(input_features_mask, list | tuple):
            input_features_mask = torch.stack(list(input_features_mask))
        encoder_dtype = next(self.audio_tower.parameters()).dtype
        encoded = encode(self.audio_tower, input_features.to(encoder_dtype), input_features_mask)
        frame_mask = encoded.attention_mask
        frame_mask = None if frame_mask is None else frame_mask.bool()
        embeddings = self.adapter(encoded.last_hidden_state, frame_mask)
        is_valid = None if frame_mask is None else self.adapter.valid_embeddings(frame_mask)
        valid = embeddings.flatten(0, 1) if is_valid is None else embeddings[is_valid]
        return BaseModelOutputWithPooling(last_hidden_state=embeddings, pooler_output=valid)

    def join(self, inputs_embeds: Tensor, audio_embeddings: Tensor, audio_mask: Tensor) -> Tensor:
        """Write audio embeddings `[audio_tokens hidden]` into `[batch tokens hidden]` where `audio_mask` is true."""
        mask = audio_mask[..., None].expand_as(inputs_embeds)
        return inputs_embeds.masked_scatter(mask, audio_embeddings.to(inputs_embeds.dtype))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states `[batch tokens hidden]` over token ids, or over embeddings that already hold the audio."""
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            if input_features is not None:
                audio = self.get_audio_features(input_features, input_features_mask).pooler_output
                inputs_embeds = self.join(inputs_embeds, audio, input_ids == self.config.audio_token_id)
        return self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )


class VoiceTextBlenderForConditionalGeneration(VoiceTextBlenderPreTrainedModel, GenerationMixin):
    """The composite with the LLM's head: `generate()` and the training loss start here."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: VoiceTextBlenderConfig) -> None:
        super().__init__(config)
        self.model = VoiceTextBlenderModel(config)
        self.lm_head: nn.Module = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def get_audio_features(
        self, input_features: Tensor, input_features_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """See `VoiceTextBlenderModel.get_audio_features`."""
        return self.model.get_audio_features(input_features, input_features_mask, **kwargs)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Logits `[... vocab]` of hidden states `[... hidden]`, with the scale and soft cap of the LLM's family."""
        logits = self.lm_head(hidden)
        text_config = self.config.text_config
        if scale := getattr(text_config, "logit_scale", None):  # Cohere multiplies
            logits = logits * scale
        if scaling := getattr(text_config, "logits_scaling", None):  # Granite divides
            logits = logits / scaling
        if cap := getattr(text_config, "final_logit_softcapping", None):  # Gemma 2 and 3
            logits = torch.tanh(logits / cap) * cap
        return logits

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> VoiceTextBlenderOutput:
        """Logits of the last `logits_to_keep` tokens (0: all); mean loss over `labels` (not shifted, -100 ignored)."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            input_features=input_features,
            input_features_mask=input_features_mask,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.compute_logits(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return VoiceTextBlenderOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: Cache | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Inputs of the next decoding step; the audio enters once, at prefill."""
        inputs = super().prepare_inputs_for_generation(input_ids, past_key_values=past_key_values, **kwargs)
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            inputs["input_features"] = inputs["input_features_mask"] = None
        return inputs


AutoModel.register(VoiceTextBlenderConfig, VoiceTextBlenderModel)
AutoModelForCausalLM.register(VoiceTextBlenderConfig, VoiceTextBlenderForConditionalGeneration)
