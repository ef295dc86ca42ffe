"""How much memory a training takes on each GPU, from shapes alone.

Weights are fp32, and under bf16 autograd keeps a cast copy of every weight, frozen or not, that the backward pass
multiplies by; gradients and AdamW's two moments are fp32. Activations are
what the backward pass needs of a microbatch that is all audio, with attention that keeps no scores. Their coefficients
were measured: bytes that autograd keeps per token and layer under bf16 autocast, as a linear function of the widths.
Kernels that fuse operations keep less, so this is a safe side; what the allocator wastes and the libraries take
(1 to 2 GB) is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod
from typing import Any, Literal

from transformers import PreTrainedConfig

from voicetextblender.audio.lengths import TokenCount
from voicetextblender.model.loss import POSITIONS_PER_CHUNK
from voicetextblender.model.skeleton import Skeleton
from voicetextblender.train.recipe import Recipe
from voicetextblender.units import seconds_to_samples

Sharding = Literal["ddp", "fsdp2"]

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


def estimate_memory(skeleton: Skeleton, recipe: Recipe, num_gpus: int, sharding: Sharding) -> Memory:
    """Memory of each of `num_gpus` GPUs that train `recipe`.

    `ddp` holds everything on each GPU. `fsdp2` shares weights, gradients and moments evenly, and gathers one layer at a
    time, with the next one under way: two copies of the largest layer are added to the weights.
    """
    parameters = list(skeleton.model.parameters())
    num_weights = sum(p.numel() for p in parameters)
    num_trained = sum(p.numel() for p in parameters if p.requires_grad)
    is_bf16 = recipe.train.precision == "bf16"
    shards = num_gpus if sharding == "fsdp2" else 1
    gathered = 2 * _largest_layer(skeleton) * (BF16 if is_bf16 else FP32) if shards > 1 else 0
    casts = BF16 * _num_in_backward(skeleton) if is_bf16 and shards == 1 else 0
    tokens = recipe.data.max_tokens_per_microbatch
    longest = min(seconds_to_samples(recipe.data.max_clip_s), _samples_of(skeleton.num_audio_tokens, tokens))
    widening = 1 if is_bf16 else FP32 / BF16
    head = skeleton.model.config.text_config
    return Memory(
        weights=FP32 * num_weights / shards + casts + gathered,
        gradients=FP32 * num_trained / shards,
        optimizer=MOMENTS * FP32 * num_trained / shards,
        llm_activations=widening * tokens * llm_bytes_per_token(head, _lora_rank(recipe)),
        speech_activations=widening * _speech_bytes(skeleton, tokens, longest),
        logits=min(tokens, POSITIONS_PER_CHUNK) * head.vocab_size * LOGIT_BYTES,
    )


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


def _speech_bytes(skeleton: Skeleton, num_tokens: int, longest_samples: int) -> float:
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
    return num_frames * (num_layers * layer + adapter_layers * conformer)


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


def _largest_layer(skeleton: Skeleton) -> int:
    """Parameters of the largest block that is gathered as one: a layer, or the embeddings."""
    model = skeleton.model.model
    blocks = [*model.language_model.layers, *model.audio_tower.layers, model.get_input_embeddings()]
    return max(sum(p.numel() for p in block.parameters()) for block in blocks)


def _lora_rank(recipe: Recipe) -> int:
    return recipe.model.lora.rank if recipe.model.trainable.llm == "lora" else 0


def _learns(module: Any) -> bool:
    return any(p.requires_grad for p in module.parameters())
