"""Packed rows through the LLM: conversations that stand side by side do not see each other."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from voicetextblender.errors import ModelError, describe
from voicetextblender.model.gating import find_gate
from voicetextblender.model.modeling import VoiceTextBlenderModel

Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]

PROBE_TOKENS = 8
MAX_LEAK = 0.01
"""Change of the hidden states, as a share of them, that rounding explains. A conversation that is seen changes more."""


def choose_attention(llm: PreTrainedModel, wanted: Attention, device: torch.device, precision: str) -> None:
    """Let the LLM compute attention by `wanted`; `auto` prefers kernels that skip what conversations do not see.

    Raises:
        ModelError: The package or the LLM does not offer it.
    """
    if wanted == "auto":
        flash_runs = device.type == "cuda" and precision == "bf16" and is_flash_attn_2_available()
        if not (flash_runs and llm._supports_flash_attn):
            return
        wanted = "flash_attention_2"
    try:
        llm.set_attn_implementation(wanted)
    except (ImportError, ValueError) as error:
        raise ModelError(
            describe(
                "train.attention",
                f"'{wanted}' cannot be used ({str(error).splitlines()[0]})",
                f"one that {type(llm).__name__} and the installed packages offer",
                "Set it to auto",
            )
        ) from error


def run_packed(
    model: VoiceTextBlenderModel,
    inputs_embeds: Float[Tensor, "rows tokens hidden"],
    position_ids: Int[Tensor, "rows tokens"],
    holds_audio: Bool[Tensor, "rows tokens"] | None = None,
) -> Float[Tensor, "rows tokens hidden"]:
    """The LLM's hidden states over rows of conversations, each of which counts its positions from 0.

    The library knows conversations by their positions and keeps them apart in every layer, those with a window too.
    Where no row has two, it needs no mask.

    Args:
        holds_audio: true for the tokens of conversations with a clip, where a gated LoRA acts; None is nowhere.

    Source: `transformers.masking_utils.find_packed_sequence_indices`.
    """
    if gate := find_gate(model):
        gate.set_open(holds_audio)
    lengths = _flash_lengths(position_ids) if "flash" in model.language_model.config._attn_implementation else {}
    return model(inputs_embeds=inputs_embeds, position_ids=position_ids, use_cache=False, **lengths).last_hidden_state


def _flash_lengths(position_ids: Int[Tensor, "rows tokens"]) -> dict[str, Any]:
    """Where conversations begin in all rows joined, for kernels that take lengths instead of masks.

    Without it the library would look for them again in every layer, and only where there is a single row.
    """
    starts = (position_ids.flatten() == 0).nonzero().flatten()
    borders = torch.nn.functional.pad(starts, (0, 1), value=position_ids.numel()).int()
    longest = int(borders.diff().max())
    return {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}


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
