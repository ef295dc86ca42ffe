"""The composite of a recipe without its weights: every module and shape, on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from voicetextblender.audio.lengths import TokenCount
from voicetextblender.errors import ModelError, describe
from voicetextblender.model.adapters.config import check_heads
from voicetextblender.model.build import Composite, ModelConfig, assemble, find_audio_token
from voicetextblender.model.configuration import VoiceTextBlenderConfig
from voicetextblender.model.encoders.plan import EncoderPlan, plan_encoder, read_encoder_config
from voicetextblender.model.known_models import config_of, find_known
from voicetextblender.model.lora import add_lora
from voicetextblender.model.modeling import VoiceTextBlenderForConditionalGeneration
from voicetextblender.model.trainable import set_trainable

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Projections of the same input that some programs keep as one matrix."""


@dataclass(frozen=True)
class Skeleton:
    """A composite whose parameters have shapes and no values.

    Args:
        model: on the meta device, with LoRA, and with `requires_grad` as the recipe says.
        num_encoder_frames: from the samples of a clip to its encoder frames.
        num_audio_tokens: from the samples of a clip to its audio placeholder tokens.
        llm_shapes: where the configuration of the LLM was found.
        encoder_shapes: the same of the speech encoder.
    """

    model: VoiceTextBlenderForConditionalGeneration
    num_encoder_frames: TokenCount
    num_audio_tokens: TokenCount
    llm_shapes: str
    encoder_shapes: str


def build_skeleton(config: ModelConfig, device: str = "meta") -> Skeleton:
    """Build the model of a recipe without reading a weight; on another `device` than "meta" they are random.

    Raises:
        ModelError: a configuration that is neither there nor known; LoRA targets or modules that match nothing.
    """
    text_config, llm_shapes = find_config(config.llm, read_llm_config)
    encoder_config, encoder_shapes = find_config(config.speech_encoder, read_encoder_config)
    plan = plan_encoder(config.speech_encoder, config.encoder, encoder_config)
    model = _build_modules(config, text_config, plan, device)
    set_trainable(model, config.trainable, lora_acts=config.lora.gating != "off")
    count = TokenCount((*plan.num_audio_tokens.stages, *config.adapter.stages))
    return Skeleton(model, plan.num_audio_tokens, count, llm_shapes, encoder_shapes)


def build_empty_composite(config: ModelConfig) -> Composite:
    """What `build_composite` builds, on the meta device: for a rank whose weights come from another one.

    Raises:
        ModelError: as `build_composite`, where it needs no weight to tell.
    """
    text_config = read_llm_config(config.llm)
    tokenizer = AutoTokenizer.from_pretrained(config.llm)
    audio_token_id = find_audio_token(tokenizer, config, text_config.vocab_size)
    plan = plan_encoder(config.speech_encoder, config.encoder)
    return assemble(_build_modules(config, text_config, plan, "meta", audio_token_id).float(), tokenizer, config)


def _build_modules(
    config: ModelConfig, text_config: PreTrainedConfig, plan: EncoderPlan, device: str, audio_token_id: int = 0
) -> VoiceTextBlenderForConditionalGeneration:
    check_heads(config.adapter, plan.config.hidden_size)
    composite_config = VoiceTextBlenderConfig(
        text_config=text_config,
        audio_config=plan.config,
        front_end_config=plan.front_end.model_dump(),
        adapter_config=config.adapter.model_dump(),
        audio_token_id=audio_token_id,
    )
    with torch.device(device):
        model = VoiceTextBlenderForConditionalGeneration(composite_config)
        if config.trainable.llm == "lora":
            add_lora(model, config.lora)
    return model


def find_config(path: str, read: Callable[[str], PreTrainedConfig]) -> tuple[PreTrainedConfig, str]:
    """The configuration of a model from this machine, from the known public models, or from the hub; and which it was.

    Args:
        read: from a folder, a file or a hub name to the configuration.
    """
    if is_on_this_machine(path):
        return read(path), "this machine"
    if known := find_known(path):
        return config_of(known), f"known: {known.source}"
    return read(path), "the hub"


def is_on_this_machine(path: str) -> bool:
    """Whether a model is a file or folder of that name, or in the hub's cache."""
    if Path(path).exists():
        return True
    try:
        AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError):
        return False
    return True


def read_llm_config(path: str) -> PreTrainedConfig:
    """The configuration of an LLM in a folder or on the hub.

    Raises:
        ModelError: there is none.
    """
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            describe(
                path,
                f"its configuration cannot be read ({str(error).splitlines()[0]})",
                "a folder, a hub name, or a public model whose shapes the package knows",
                "Check the path; the embedded base models are made by `vtb prepare mini`",
            )
        ) from None


def num_lora_parameters(skeleton: Skeleton, fused: bool = False) -> int:
    """Parameters of all LoRA pairs; `fused` counts those that share their input as one matrix with one pair.

    A pair beside a matrix of `i` inputs and `o` outputs has `rank * (i + o)` parameters. Three pairs beside q, k and v
    hold the `rank * i` of their first matrices three times, one pair beside the fused matrix once.
    """
    total = sum(p.numel() for name, p in skeleton.model.named_parameters() if ".lora_" in name)
    return total - (_shared_first_matrices(skeleton) if fused else 0)


def _shared_first_matrices(skeleton: Skeleton) -> int:
    pairs: dict[str, dict[str, LoraLayer]] = {}
    for name, module in skeleton.model.named_modules():
        if isinstance(module, LoraLayer):
            parent, _, child = name.rpartition(".")
            pairs.setdefault(parent, {})[child] = module
    surplus = 0
    for children in pairs.values():
        for group in FUSED:
            if all(child in children for child in group):
                surplus += sum(children[child].lora_A["default"].weight.numel() for child in group[1:])
    return surplus
