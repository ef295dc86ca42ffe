"""Packed rows through the LLM: conversations that stand side by side do not see each other."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from voicetextblender.errors import ModelError, describe
from voicetextblender.model.modeling import VoiceTextBlenderModel

PROBE_TOKENS = 8
MAX_LEAK = 0.01
"""Change of the hidden states, as a share of them, that rounding explains. A conversation that is seen changes more."""


def run_packed(
    model: VoiceTextBlenderModel,
    inputs_embeds: Float[Tensor, "rows tokens hidden"],
    position_ids: Int[Tensor, "rows tokens"],
) -> Float[Tensor, "rows tokens hidden"]:
    """The LLM's hidden states over rows of conversations, each of which counts its positions from 0.

    The library knows conversations by their positions and keeps them apart in every layer, those with a window too.
    Where no row has two, it needs no mask.

    Source: `transformers.masking_utils.find_packed_sequence_indices`.
    """
    rows, tokens = position_ids.shape
    if "flash" in model.language_model.config._attn_implementation:
        # These kernels take lengths, not masks, and the library reads them off the positions of a single row alone.
        inputs_embeds, position_ids = inputs_embeds.flatten(0, 1)[None], position_ids.flatten()[None]
    output = model(inputs_embeds=inputs_embeds, position_ids=position_ids, use_cache=False)
    return output.last_hidden_state.reshape(rows, tokens, -1)


@torch.no_grad()
def check_packing(model: VoiceTextBlenderModel) -> None:
    """Run two rows that differ in their first conversation alone, and compare what the LLM makes of the second.

    Not every kind of LLM keeps conversations apart (a recurrent layer may carry its state on), and nothing else would
    tell.

    Raises:
        ModelError: The second conversation sees the first.
    """
    embedding = model.get_input_embeddings()
    vocab_size = model.config.text_config.vocab_size
    ids = torch.linspace(0, vocab_size - 1, 3 * PROBE_TOKENS, device=model.device).long()
    first, other, second = ids.split(PROBE_TOKENS)
    token_ids = torch.stack([torch.cat([first, second]), torch.cat([other, second])])
    position_ids = torch.arange(PROBE_TOKENS, device=model.device).repeat(2, 2)
    hidden = run_packed(model, embedding(token_ids), position_ids)[:, PROBE_TOKENS:].float()
    leak = float((hidden[0] - hidden[1]).norm() / hidden[0].norm())
    if not leak <= MAX_LEAK:
        raise ModelError(
            describe(
                "model.llm",
                f"conversations that share a row change each other's hidden states by {leak:.1%}",
                f"at most {MAX_LEAK:.0%}, as rounding does",
                "Set data.pack to false, which gives every conversation a row of its own",
            )
        )
