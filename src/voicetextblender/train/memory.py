"""How much memory a training takes on each GPU, from shapes alone.

Weights are fp32, and under bf16 autograd keeps a cast copy of every one that the backward pass multiplies by; but the
frozen matrices of an LLM are stored in bf16 alone. Gradients and AdamW's two moments are fp32. Activations are what the
backward pass needs of a microbatch that is all audio, with attention that keeps no scores. Their coefficients were
measured: bytes that autograd keeps per token and layer under bf16 autocast, as a linear function of the widths. Kernels
that fuse operations keep less, so this is a safe side; what the allocator wastes and the libraries take (1 to 2 GB) is
not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod
from typing import Any

from transformers import PreTrainedConfig

from voicetextblender.audio.lengths import TokenCount
from voicetextblender.model.blocks import blocks_of
from voicetextblender.model.loss import POSITIONS_PER_CHUNK
from voicetextblender.model.skeleton import Skeleton
from voicetextblender.train.config import Recomputed
from voicetextblender.train.recipe import Recipe
from voicetextblender.train.rounding import frozen_matrices
from voicetextblender.units import seconds_to_samples

FP32, BF16 = 4, 2
MOMENTS = 2
LOGIT_BYTES = BF16 + 2 * FP32
"""Per logit: as computed, as fp32 in the loss, and its gradient."""


CONFORMERS = ("parakeet_encoder", "wav2vec2-bert")


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU."""

    weights: float
    gradients: float
    optimizer: float
    llm_activations: float
    speech_activations: float
    logits: float

    @property
    def total(self) -> float:
        """Bytes of everything named here."""
        return sum(getattr(self, field.name) for field in fields(self))


def estimate_memory(skeleton: Skeleton, recipe: Recipe, num_shards: int) -> Memory:
    """Memory of each GPU that trains `recipe`, where `num_shards` GPUs hold a copy of the model together (DDP: one).

    Shards are even. What stands outside of layers, such as the embeddings, is gathered for all of a microbatch, and one
    layer at a time with the next one under way: two copies of the largest.
    """
    parameters = list(skeleton.model.parameters())
    num_weights = sum(p.numel() for p in parameters)
    num_trained = sum(p.numel() for p in parameters if p.requires_grad)
    is_bf16 = recipe.train.precision == "bf16"
    gathered = _num_gathered(skeleton) * (BF16 if is_bf16 else FP32) if num_shards > 1 else 0
    num_rounded = sum(layer.weight.numel() for layer in frozen_matrices(skeleton.model, recipe.model)) if is_bf16 else 0
    casts = BF16 * (_num_in_backward(skeleton) - num_rounded) if is_bf16 and num_shards == 1 else 0
    tokens = recipe.data.max_tokens_per_microbatch
    longest = min(seconds_to_samples(recipe.data.max_clip_s), _samples_of(skeleton.num_audio_tokens, tokens))
    widening = 1 if is_bf16 else FP32 / BF16
    head = skeleton.model.config.text_config
    return Memory(
        weights=(FP32 * (num_weights - num_rounded) + BF16 * num_rounded) / num_shards + casts + gathered,
        gradients=FP32 * num_trained / num_shards,
        optimizer=MOMENTS * FP32 * num_trained / num_shards,
        llm_activations=widening * tokens * _llm_bytes(head, recipe),
        speech_activations=widening * _speech_bytes(skeleton, recipe.train.activation_checkpointing, tokens, longest),
        logits=min(tokens, POSITIONS_PER_CHUNK) * head.vocab_size * LOGIT_BYTES,
    )


def recomputed_bytes(num_layers: int, layer: float, size: int) -> float:
    """Bytes kept per position of layers of a width of `size` that are computed again: all inputs, and one layer."""
    return num_layers * FP32 * size + (layer if num_layers else 0.0)


def llm_bytes_per_token(config: PreTrainedConfig, lora_rank: int) -> float:
    """Bytes kept per token of the LLM, all layers, under bf16 autocast; measured with Llama, Gemma and Qwen3."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = head_size * config.num_attention_heads, head_size * config.num_key_value_heads
    layer = 18 * config.hidden_size + 8 * config.intermediate_size + 6 * queries + 4 * keys + 14 * lora_rank
    return config.num_hidden_layers * float(layer)


def conformer_bytes_per_frame(size: int, inner_size: int, num_heads: int, num_frames: int) -> float:
    """Bytes kept per frame of one Conformer layer, in clips of `num_frames`, under bf16 autocast.

    The scores of relative positions, a number for each pair of frames and head, are kept whole.
    """
    return 50.0 * size + 12.0 * inner_size + 12.0 * num_heads * num_frames


def transformer_bytes_per_frame(size: int, inner_size: int) -> float:
    """Bytes kept per frame of one layer of Whisper's encoder under bf16 autocast."""
    return 26.0 * size + 4.0 * inner_size


def _llm_bytes(config: PreTrainedConfig, recipe: Recipe) -> float:
    """Bytes kept per token of the LLM."""
    kept = llm_bytes_per_token(config, _lora_rank(recipe))
    if recipe.train.activation_checkpointing.llm:
        return recomputed_bytes(config.num_hidden_layers, kept / config.num_hidden_layers, config.hidden_size)
    return kept


def _speech_bytes(skeleton: Skeleton, recomputed: Recomputed, num_tokens: int, longest_samples: int) -> float:
    """Bytes kept of the speech parts that learn, for a microbatch of clips of the longest kind."""
    model, audio = skeleton.model, skeleton.model.config.audio_config
    frames_per_clip = skeleton.num_encoder_frames(longest_samples)
    tokens_per_clip = skeleton.num_audio_tokens(longest_samples)
    num_frames = num_tokens * frames_per_clip / tokens_per_clip
    size, inner = audio.hidden_size, getattr(audio, "intermediate_size", None) or audio.encoder_ffn_dim
    conformer = conformer_bytes_per_frame(size, inner, audio.num_attention_heads, frames_per_clip)
    layer = conformer if audio.model_type in CONFORMERS else transformer_bytes_per_frame(size, inner)
    num_layers = audio.num_hidden_layers if _learns(model.model.audio_tower) else 0
    adapter_layers = len(getattr(model.model.adapter, "layers", ())) if _learns(model.model.adapter) else 0
    kept = recomputed_bytes(num_layers, layer, size) if recomputed.speech_encoder else num_layers * layer
    in_adapter = adapter_layers * conformer
    if recomputed.adapter:
        in_adapter = recomputed_bytes(adapter_layers, conformer, size)
    return num_frames * (kept + in_adapter)


def _samples_of(count: TokenCount, num_tokens: int) -> int:
    """Samples that make about so many audio tokens."""
    return int(
        num_tokens * prod(stage.stride for stage in count.stages) / prod(stage.outputs for stage in count.stages)
    )


def _num_in_backward(skeleton: Skeleton) -> int:
    """Parameters that the backward pass goes through: the LLM, and the speech parts that learn."""
    model = skeleton.model
    frozen = [part for part in (model.model.audio_tower, model.model.adapter) if not _learns(part)]
    return sum(p.numel() for p in model.parameters()) - sum(p.numel() for part in frozen for p in part.parameters())


def _num_gathered(skeleton: Skeleton) -> int:
    """Parameters that stand whole on each GPU at once where the model is in shards."""
    model = skeleton.model.model
    parts = (model.language_model, model.audio_tower, model.adapter)
    blocks = [sum(p.numel() for p in block.parameters()) for part in parts for block in blocks_of(part)]
    return sum(p.numel() for p in skeleton.model.parameters()) - sum(blocks) + 2 * max(blocks)


def _lora_rank(recipe: Recipe) -> int:
    return recipe.model.lora.rank if recipe.model.trainable.llm == "lora" else 0


def _learns(module: Any) -> bool:
    return any(p.requires_grad for p in module.parameters())
