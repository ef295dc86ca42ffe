"""LoRA on the LLM alone, through peft, in place: the composite keeps its class and its layout."""

from __future__ import annotations

import re

from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from pydantic import Field
from torch import Tensor, nn

from voicetextblender.config import StrictConfig
from voicetextblender.errors import ModelError, describe
from voicetextblender.model.gating import Gating, find_gate, install_gate
from voicetextblender.model.modeling import VoiceTextBlenderForConditionalGeneration
from voicetextblender.model.trainable import LLM_PREFIX

PEFT_PREFIX = "base_model.model."
"""What peft puts before every key of an adapter folder."""

DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every projection of most LLMs of the library."""


class LoraSettings(StrictConfig):
    """Low-rank adaptation of the LLM's linear layers (Source: arXiv 2106.09685; values of arXiv 2410.17485).

    Args:
        rank: columns of the first matrix of a pair and rows of the second.
        alpha: the product of a pair is scaled by `alpha` / `rank`.
        dropout: share of the inputs of the pairs that is zeroed in training.
        targets: last parts of the names of the layers inside the LLM that get a pair of low-rank matrices.
        dora: also learn the magnitude of every column of the adapted weights (arXiv 2402.09353).
        rslora: scale by `alpha` / sqrt(`rank`), which keeps large ranks stable (arXiv 2312.03732).
        gating: where the pairs act: `always`; `with_audio` in conversations that hold audio, so that text alone has the
            LLM as it was; `off` nowhere, and they do not learn.
    """

    rank: int = Field(32, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = DEFAULT_TARGETS
    dora: bool = False
    rslora: bool = False
    gating: Gating = "always"


def add_lora(model: VoiceTextBlenderForConditionalGeneration, settings: LoraSettings) -> None:
    """Put LoRA pairs beside the targeted layers of `model.model.language_model`; at the start they change no logit.

    Raises:
        ModelError: A target that names no linear layer of the LLM.
    """
    linear = [
        name for name, module in model.named_modules() if name.startswith(LLM_PREFIX) and isinstance(module, nn.Linear)
    ]
    found = {name.rsplit(".", 1)[-1] for name in linear}
    missing = [target for target in settings.targets if target not in found]
    if missing or not settings.targets:
        raise ModelError(
            describe(
                "model.lora.targets",
                f"{missing or 'no target'} names no linear layer of the LLM",
                f"its linear layers are {sorted(found)}",
                "Choose among them",
            )
        )
    inject_adapter_in_model(
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            use_dora=settings.dora,
            use_rslora=settings.rslora,
            target_modules=rf"{re.escape(LLM_PREFIX)}.*\.({'|'.join(map(re.escape, settings.targets))})",
            task_type=None,
        ),
        model,
    )
    install_gate(model, settings.gating, model.config.audio_token_id)


def lora_state(model: nn.Module, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """LoRA weights of `model`, or of its `state`, under the keys of peft's own adapter folder."""
    return {PEFT_PREFIX + key: value for key, value in get_peft_model_state_dict(model, state).items()}


def load_lora_state(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Fill the LoRA pairs of `model`; a missing, surplus or misshapen tensor is an error."""
    expected = lora_state(model)
    problems = [f"missing {key}" for key in expected if key not in state]
    problems += [f"surplus {key}" for key in state if key not in expected]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, the model {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        raise ModelError(
            describe(where, "; ".join(problems[:5]), f"{len(expected)} LoRA tensors", "Use the adapter of this model")
        )
    set_peft_model_state_dict(model, {key.removeprefix(PEFT_PREFIX): value for key, value in state.items()})


def merge_lora(model: VoiceTextBlenderForConditionalGeneration) -> None:
    """Add every LoRA product to the weight it stands beside, and take the pairs out; only rounding changes.

    Raises:
        ModelError: LoRA that does not always act: merged, it would.
    """
    if gate := find_gate(model.model):
        raise ModelError(
            describe(
                "merging LoRA",
                f"model.lora.gating is {gate.gating}",
                "only LoRA that always acts can become part of the LLM's weights",
                "Keep it as an adapter folder beside the LLM, or train with model.lora.gating=always",
            )
        )
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    remove_lora(model)


def remove_lora(model: nn.Module) -> None:
    """Take the LoRA pairs out; the weights beside them stay as they are."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
