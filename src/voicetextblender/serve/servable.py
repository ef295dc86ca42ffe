"""What a composite lacks for stock vLLM, which runs it through its transformers backend without a plugin.

The rules are those of vLLM 0.32 (`vllm/model_executor/models/transformers`), read in its source or met as a failure.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from voicetextblender.errors import describe
from voicetextblender.model.build import Composite, build_processor
from voicetextblender.model.gating import find_gate
from voicetextblender.model.processing import VoiceTextBlenderProcessor
from voicetextblender.units import seconds_to_samples

Level = Literal["lack", "note"]
"""`lack`: it would not load, or answer wrongly. `note`: it is served, with a limit to know."""

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Source: `CPUAttentionBackend.get_supported_head_sizes`."""
MAX_GPU_HEAD_SIZE = 256
"""Of FlashAttention, for multiples of 8. Source: `FlashAttentionBackend.supports_head_size`."""
LAYER_TYPES = ("full_attention", "sliding_attention")
"""Attention layers that the backend sets up."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What the engine takes as the largest rank that it serves. Source: `vllm.config.lora.MaxLoRARanks`."""
POSITION_LIMITS = ("max_source_positions", "max_position_embeddings")
"""Keys of an encoder's configuration from which the engine reads the most audio embeddings of a clip."""
SERVED_CLIP_S = 40.0
"""The longest clip that the engine makes room for, where the encoder has no limit below."""
PROBE_NUM_SAMPLES = (9_001, 23_456)
"""Clips that are run alone, beside the shortest one; they fill no frame."""


@dataclass(frozen=True)
class Finding:
    """One thing that the engine needs and the model does not have."""

    level: Level
    where: str
    found: str
    expected: str
    fix: str

    def __str__(self) -> str:
        return describe(self.where, self.found, self.expected, self.fix)


def check_servable(composite: Composite) -> list[Finding]:
    """All findings, those that prevent serving first; empty where there are none."""
    findings = [finding for check in CHECKS.values() for finding in check(composite)]
    return sorted(findings, key=lambda finding: finding.level)


def check_layers(composite: Composite) -> Iterator[Finding]:
    """Each layer calls the library's attention interface once: that call is all that the engine replaces."""
    llm, config = composite.model.model.language_model, composite.model.config.text_config
    layer_types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    served = {module.layer_idx for module in llm.modules() if _calls_attention_interface(module)}
    others = [index for index in range(config.num_hidden_layers) if index not in served]
    if others:
        kinds = ", ".join(sorted({layer_types[index] for index in others}))
        yield Finding(
            "lack",
            "model.llm",
            f"{len(others)} of {config.num_hidden_layers} layers ({kinds}) go another way",
            "every layer calls the library's attention interface",
            "Choose an LLM without recurrent layers or attention of its own",
        )
    unknown = sorted(set(layer_types) - set(LAYER_TYPES))
    if unknown and not others:
        fix = "Choose an LLM with full or sliding attention"
        yield Finding("lack", "model.llm", f"layers of type {unknown}", f"types {list(LAYER_TYPES)}", fix)
    if "sliding_attention" in layer_types and not getattr(config, "sliding_window", None):
        fix = "Set it in the LLM's config.json"
        yield Finding("lack", "model.llm", "sliding layers and no sliding_window", "the window in tokens", fix)


def check_class(composite: Composite) -> Iterator[Finding]:
    """The LLM is one of the library's classes: an exported folder holds no code of others."""
    llm = composite.model.model.language_model
    if not type(llm).__module__.startswith("transformers.models."):
        yield Finding(
            "lack",
            "model.llm",
            f"{type(llm).__name__} comes from {type(llm).__module__}",
            "a class of the transformers library",
            "Choose an LLM that loads without trust_remote_code",
        )


def check_positions(composite: Composite) -> Iterator[Finding]:
    """The engine gives one position for each token."""
    rope = getattr(composite.model.config.text_config, "rope_parameters", None) or {}
    if "mrope_section" in rope:
        found, expected = "positions of several axes (M-RoPE)", "one position for each token"
        yield Finding("lack", "model.llm", found, expected, "Choose the text-only LLM of this family")


def check_head_size(composite: Composite) -> Iterator[Finding]:
    """Attention kernels exist for some head sizes only."""
    config = composite.model.config.text_config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    on_gpu = size % 8 == 0 and size <= MAX_GPU_HEAD_SIZE
    if size not in CPU_HEAD_SIZES:
        yield Finding(
            "note" if on_gpu else "lack",
            "model.llm",
            f"attention heads of size {size}",
            f"a multiple of 8 up to {MAX_GPU_HEAD_SIZE} on a GPU, one of {list(CPU_HEAD_SIZES)} on a CPU",
            "Serve it on a GPU" if on_gpu else "Choose an LLM with other heads",
        )


def check_soft_cap(composite: Composite) -> Iterator[Finding]:
    """The engine caps attention scores where the configuration says so; not every kernel of the library does."""
    llm = composite.model.model.language_model
    cap = getattr(llm.config, "attn_logit_softcapping", None)
    if cap and llm.config._attn_implementation == "sdpa":
        yield Finding(
            "lack",
            "model.llm",
            f"a cap of {cap} on attention scores, which sdpa leaves out here and in training",
            "the same attention everywhere",
            "Load the LLM with eager attention and train with it",
        )


def check_lora(composite: Composite) -> Iterator[Finding]:
    """The engine adds LoRA to the requests that name it, pairs of matrices alone and up to a rank."""
    settings = composite.config.lora
    if composite.config.trainable.llm == "lora" and (settings.dora or settings.rank > max(LORA_RANKS)):
        found = "DoRA" if settings.dora else f"rank {settings.rank}"
        expected = f"plain pairs of rank {max(LORA_RANKS)} at most, where they are not merged"
        yield Finding("note", "model.lora", found, expected, "Export it merged")
    gate = find_gate(composite.model.model)
    if gate is not None:
        asked = "requests with audio" if gate.gating == "with_audio" else "no request"
        yield Finding(
            "note",
            "model.lora.gating",
            f"{gate.gating}, which weights alone cannot hold",
            "LoRA that always acts, to be merged",
            f"Export with --form lora, and name it in {asked}",
        )


def check_logits(composite: Composite) -> Iterator[Finding]:
    """The engine's head has no bias beside ours, and scales logits under one name only."""
    model = composite.model
    if getattr(model.lm_head, "bias", None) is not None:
        fix = "Choose an LLM whose head has no bias"
        yield Finding("lack", "model.llm", "a bias in its head", "a linear map without one", fix)
    scaling = getattr(model.config.text_config, "logits_scaling", None) or 1
    if scaling != 1:
        yield Finding(
            "note",
            "model.llm",
            f"logits_scaling {scaling:g}, which the engine does not apply",
            "the greedy reply is the same, samples are not",
            f"Multiply the temperature of requests by {scaling:g}",
        )


def check_embeddings(composite: Composite) -> Iterator[Finding]:
    """Every token id, the audio placeholder's too, has a row in the embeddings."""
    config, embeddings = composite.model.config, composite.model.get_input_embeddings()
    rows = sum(module.num_embeddings for module in embeddings.modules() if isinstance(module, nn.Embedding))
    vocab_size = config.text_config.vocab_size
    if rows != vocab_size:
        fix = "Resize the embeddings before training"
        yield Finding("lack", "model.llm", f"{rows} embeddings, vocab_size {vocab_size}", "the same number", fix)
    if config.audio_token_id >= vocab_size:
        found = f"'{composite.config.audio_token}' has id {config.audio_token_id}, the LLM {vocab_size} embeddings"
        fix = "Name a reserved token of this tokenizer"
        yield Finding("lack", "model.audio_token", found, "a token inside the vocabulary", fix)
    text = composite.config.audio_token * 3
    ids = composite.tokenizer(text, add_special_tokens=False)["input_ids"]
    if ids != [config.audio_token_id] * 3:
        found = f"'{text}' is tokenized as {ids}"
        fix = "Mark it special in the tokenizer"
        yield Finding("lack", "model.audio_token", found, "one token each time", fix)


def check_speech_layers(composite: Composite) -> Iterator[Finding]:
    """Linear layers are called as modules: the engine replaces them, and what they hold is its own affair."""
    speech = (composite.model.model.audio_tower, composite.model.model.adapter)
    reaching = {type(module).__name__ for part in speech for module in part.modules() if _reaches_into_layers(module)}
    for name in sorted(reaching):
        yield Finding(
            "lack",
            "model.speech_encoder",
            f"{name} hands the weights of its linear layers to a torch function",
            "layers that are called as modules",
            "Choose another encoder, or serve it with transformers",
        )


def check_clip_limit(composite: Composite) -> Iterator[Finding]:
    """The engine makes room for clips up to the encoder's own limit on positions."""
    longest = served_clip_s(composite)
    if longest < SERVED_CLIP_S:
        yield Finding(
            "note",
            "model.speech_encoder",
            f"clips beyond {longest:g} s have more embeddings than the encoder has positions",
            f"room for clips up to {longest:g} s",
            "Raise --max-num-batched-tokens for longer ones",
        )


def served_lora_rank(rank: int) -> int:
    """What to name to the engine as its largest rank, so that it serves LoRA of `rank`."""
    return next((size for size in LORA_RANKS if size >= rank), LORA_RANKS[-1])


def served_clip_s(composite: Composite) -> float:
    """The longest clip that the engine reckons with, in seconds."""
    config = composite.model.config.audio_config
    limit = next((value for key in POSITION_LIMITS if (value := getattr(config, key, None))), None)
    if limit is None:
        return SERVED_CLIP_S
    seconds = range(1, int(SERVED_CLIP_S) + 1)
    return float(max((s for s in seconds if composite.num_audio_tokens(seconds_to_samples(s)) <= limit), default=1))


def check_clips_alone(composite: Composite) -> Iterator[Finding]:
    """A clip alone has no padding, and as many embeddings as placeholders: the engine compares neither."""
    processor = build_processor(composite)
    generator = np.random.default_rng(0)
    shortest = next(num_samples for num_samples in count(1) if composite.num_audio_tokens(num_samples))
    for num_samples in (shortest, *PROBE_NUM_SAMPLES):
        waveform = generator.normal(0, 0.1, num_samples).astype(np.float32)
        yield from _check_clip(composite, processor, waveform)


def _check_clip(composite: Composite, processor: VoiceTextBlenderProcessor, waveform: np.ndarray) -> Iterator[Finding]:
    model, where = composite.model, "model.speech_encoder"
    inputs = processor.feature_extractor([waveform], sampling_rate=composite.front_end.config.sampling_rate)
    mask = inputs["input_features_mask"]
    has_replaced = any(isinstance(module, nn.Conv2d) for module in model.model.audio_tower.modules())
    if has_replaced and not bool(mask.all()):
        found = f"a clip of {len(waveform)} samples alone has {int((~mask.bool()).sum())} padded frames"
        yield Finding(
            "lack",
            where,
            found,
            "none: the engine replaces Conv2d, and FastConformer masks padding at these alone",
            "Crop the features to the clip",
        )
    num_placeholders = processor.replace_audio_token(inputs, 0).count(processor.audio_token)
    with torch.inference_mode():
        features = inputs["input_features"].to(model.device)
        num_embeddings = len(model.get_audio_features(features, mask.to(model.device)).pooler_output)
    if num_embeddings != num_placeholders:
        found = f"a clip of {len(waveform)} samples has {num_embeddings} embeddings and {num_placeholders} placeholders"
        yield Finding("lack", where, found, "the same number", "Mend the encoder's length arithmetic")


def _calls_attention_interface(module: nn.Module) -> bool:
    """Whether `module` is the attention of one layer and looks its kernel up where the engine puts its own."""
    forward: Any = inspect.unwrap(type(module).forward)
    has_index = isinstance(getattr(module, "layer_idx", None), int)
    return has_index and "ALL_ATTENTION_FUNCTIONS" in forward.__code__.co_names


def _reaches_into_layers(module: nn.Module) -> bool:
    """Whether the class of `module` calls torch's attention over weights, as WavLM's does."""
    functions = filter(inspect.isfunction, vars(type(module)).values())
    return any("multi_head_attention_forward" in function.__code__.co_names for function in functions)


CHECKS: dict[str, Callable[[Composite], Iterator[Finding]]] = {
    "attention layers": check_layers,
    "class of the LLM": check_class,
    "positions": check_positions,
    "head size": check_head_size,
    "soft cap": check_soft_cap,
    "LoRA": check_lora,
    "logits": check_logits,
    "audio placeholder": check_embeddings,
    "speech layers": check_speech_layers,
    "longest clip": check_clip_limit,
    "clips alone": check_clips_alone,
}
"""What is looked at, by the name that a person sees."""
