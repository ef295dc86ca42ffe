"""Frozen matrices, stored in the precision in which they are multiplied."""

from __future__ import annotations

import torch
from torch import nn

from voicetextblender.model.build import ModelConfig
from voicetextblender.model.modeling import VoiceTextBlenderForConditionalGeneration


def frozen_matrices(model: VoiceTextBlenderForConditionalGeneration, config: ModelConfig) -> list[nn.Linear]:
    """The LLM's linear layers whose weights a training neither changes nor saves, and uses in products alone.

    A head that is tied to the embeddings is not among them: embeddings are looked up in fp32. None is where DoRA looks
    at the norms of the weights, or where other weights of the LLM learn, since all of them are saved then.
    """
    uses_norms = config.trainable.llm == "lora" and config.lora.dora
    if uses_norms or config.trainable.changes_llm_weights:
        return []
    embeddings = model.get_input_embeddings().weight
    named = [*model.model.language_model.named_modules(), ("", model.lm_head)]
    linear = [module for name, module in named if isinstance(module, nn.Linear) and ".lora_" not in name]
    return [layer for layer in linear if not layer.weight.requires_grad and layer.weight is not embeddings]


def round_frozen_matrices(model: VoiceTextBlenderForConditionalGeneration, config: ModelConfig) -> None:
    """Store them in bf16: a third of the memory of fp32 weights with the copy in bf16 that autograd would keep.

    Not a bit of the training changes, since autocast rounds a weight in the same way whenever it is used.
    """
    for layer in frozen_matrices(model, config):
        layer.weight.data = layer.weight.data.to(torch.bfloat16)
