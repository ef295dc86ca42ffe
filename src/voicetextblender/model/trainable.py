"""Which parameters learn: by part, and inside a part by the names of its modules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn

from voicetextblender.config import StrictConfig
from voicetextblender.errors import ModelError, describe, describe_many

Part = Literal["speech_encoder", "adapter", "llm"]

PARTS: dict[Part, str] = {"speech_encoder": "model.audio_tower.", "adapter": "model.adapter."}
"""Name prefixes of the speech parts; everything else is the LLM."""

NEVER_TRAINED = ("model.audio_tower.embed_positions.weight",)
"""Whisper's positions are sines, stored like a weight."""

LLM_PREFIX = "model.language_model."
"""Name prefix of the LLM without its head."""

Modules = tuple[str, ...]
"""Names of modules inside a part, such as `layers.12-23` or `layers.*.self_attn`."""


class TrainableConfig(StrictConfig):
    """Which parts learn.

    A list names modules of the part, each with all that is in it: `layers.12-23` are twelve layers, `*` stands for any
    one name between two dots, as in `layers.*.self_attn`.

    Args:
        speech_encoder: all weights of the speech encoder, none, or those of the modules named.
        adapter: all weights of the modality adapter, none, or those of the modules named.
        llm: `lora` trains low-rank pairs beside its layers, `full` all its weights, `frozen` nothing; a list trains the
            modules named, without LoRA.
    """

    speech_encoder: bool | Modules = True
    adapter: bool | Modules = True
    llm: Literal["lora", "full", "frozen"] | Modules = "lora"

    @property
    def changes_llm_weights(self) -> bool:
        """Whether any of the LLM's own weights learn."""
        return self.llm == "full" or isinstance(self.llm, tuple)


def part_of(name: str) -> Part:
    """`speech_encoder`, `adapter` or `llm`: the part that the parameter `name` belongs to."""
    return next((part for part, prefix in PARTS.items() if name.startswith(prefix)), "llm")


def set_trainable(model: nn.Module, trainable: TrainableConfig, lora_acts: bool = True) -> None:
    """Let exactly the parameters learn that `trainable` names.

    Args:
        lora_acts: false where the pairs are switched off, and so cannot learn.

    Raises:
        ModelError: A module that the part does not have.
    """
    names: dict[Part, list[str]] = {"speech_encoder": [], "adapter": [], "llm": []}
    for name, parameter in model.named_parameters():
        names[part_of(name)].append(name)
        parameter.requires_grad_(False)
    pairs = {name for name in names["llm"] if ".lora_" in name}
    chosen: dict[Part, bool | Modules] = {
        "speech_encoder": trainable.speech_encoder,
        "adapter": trainable.adapter,
        "llm": trainable.llm if isinstance(trainable.llm, tuple) else trainable.llm == "full",
    }
    learns = {name for part, choice in chosen.items() for name in _choose(part, names[part], choice)}
    if trainable.llm == "lora" and lora_acts:
        learns |= pairs
    learns -= set(NEVER_TRAINED)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learns and name not in NEVER_TRAINED)


def trainable_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that learn, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _choose(part: Part, names: list[str], choice: bool | Modules) -> Iterable[str]:
    """The names of a part that `choice` means."""
    if isinstance(choice, bool):
        return names if choice else ()
    prefix = PARTS.get(part, LLM_PREFIX)
    inner = {name: name.removeprefix(prefix) for name in names}
    problems = [
        describe(
            f"model.trainable.{part}",
            f"'{pattern}' names no module with weights",
            f"the part has {', '.join(sorted({name.split('.')[0] for name in inner.values()}))}",
            "Begin with one of these names",
        )
        for pattern in choice
        if not any(names_module(pattern, name) for name in inner.values())
    ]
    if problems:
        raise ModelError(describe_many(problems))
    return [name for name, short in inner.items() if any(names_module(pattern, short) for pattern in choice)]


def names_module(pattern: str, parameter: str) -> bool:
    """Whether `parameter` lies in a module that `pattern` names: part for part, with ranges such as `12-23`."""
    wanted, given = pattern.split("."), parameter.split(".")
    return len(wanted) <= len(given) and all(map(_fits, wanted, given))


def _fits(wanted: str, given: str) -> bool:
    if (span := re.fullmatch(r"(\d+)-(\d+)", wanted)) and given.isdecimal():
        return int(span[1]) <= int(given) <= int(span[2])
    return fnmatchcase(given, wanted)
