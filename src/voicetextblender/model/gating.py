"""Where LoRA acts: everywhere, in conversations that hold audio, or nowhere.

A closed gate sets what a pair adds to zero, so a conversation of text alone has the logits of the base LLM bit for bit,
however long the pairs have learned. The gate is part of the forward pass and not of the weights: a gated LoRA cannot be
merged into the LLM.
"""

from __future__ import annotations

from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.cache_utils import Cache

Gating = Literal["always", "with_audio", "off"]


class LoraGate:
    """Opens and closes the LoRA pairs of a composite, token by token.

    What was set stays until the next forward pass, since a layer that is computed again in the backward pass must see
    the same gate.

    Args:
        gating: `always` lets every pair act, `off` none; `with_audio` needs to be told where there is audio, by
            `set_open` or by the token ids that reach the model.
        audio_token_id: in a row of token ids, the sign that it holds audio.
    """

    def __init__(self, gating: Gating, audio_token_id: int) -> None:
        self.gating = gating
        self.audio_token_id = audio_token_id
        self.is_open: Tensor | None = None
        """`[rows tokens]` or `[rows 1]`, true where the pairs act; None is nowhere."""
        self._by_cache: WeakKeyDictionary[Cache, Tensor] = WeakKeyDictionary()

    def set_open(self, is_open: Tensor | None) -> None:
        """Say where the pairs act in the next forward pass over embeddings, `[rows tokens]`; None is nowhere."""
        self.is_open = is_open

    def before_model(self, model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A row with an audio placeholder opens its gate, for the tokens that are decoded after it too."""
        input_ids = kwargs.get("input_ids", inputs[0] if inputs else None)
        if input_ids is None:
            return
        holds_audio = (input_ids == self.audio_token_id).any(1, keepdim=True)
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0 and cache in self._by_cache:
            holds_audio = holds_audio | self._by_cache[cache]
        self.is_open = holds_audio

    def after_model(self, model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Keep the gate of the rows together with their keys and values."""
        cache = getattr(output, "past_key_values", None)
        if cache is not None and self.is_open is not None:
            self._by_cache[cache] = self.is_open

    def after_pair(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """What a pair adds, `[rows tokens features]`, and zero where the gate is closed."""
        if self.gating == "off" or self.is_open is None:
            return torch.zeros_like(output)
        return output.masked_fill(~self.is_open[..., None], 0.0)


def install_gate(model: nn.Module, gating: Gating, audio_token_id: int) -> None:
    """Put a gate behind every LoRA pair of the composite `model`; with `always` there is none, and nothing changes."""
    if gating == "always":
        return
    gate = LoraGate(gating, audio_token_id)
    composite: Any = model.model
    composite.lora_gate = gate
    composite.register_forward_pre_hook(gate.before_model, with_kwargs=True)
    composite.register_forward_hook(gate.after_model, with_kwargs=True)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            # DoRA also scales the layer's own output; what it adds as a whole comes out of its magnitude layer.
            for last in (module.lora_magnitude_vector or module.lora_B).values():
                last.register_forward_hook(gate.after_pair)


def find_gate(model: nn.Module) -> LoraGate | None:
    """The gate of `VoiceTextBlenderModel`, None where LoRA always acts or there is none."""
    return getattr(model, "lora_gate", None)
