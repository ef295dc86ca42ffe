"""What training made, on disk: speech parts and LoRA; the frozen LLM is named, not copied, and checked on return."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from voicetextblender.errors import ModelError, describe
from voicetextblender.files import fingerprint, make_folder_atomically
from voicetextblender.model.build import Composite, ModelConfig, assemble, build_processor
from voicetextblender.model.configuration import VoiceTextBlenderConfig
from voicetextblender.model.encoders.load import load_whole
from voicetextblender.model.lora import add_lora, load_lora_state, lora_state
from voicetextblender.model.modeling import VoiceTextBlenderForConditionalGeneration
from voicetextblender.model.trainable import PARTS

MANIFEST = "voicetextblender.json"
SPEECH_WEIGHTS = "speech.safetensors"
LLM_WEIGHTS = "llm.safetensors"
LORA_FOLDER = "lora"


def save_composite(composite: Composite, folder: Path, tensors: dict[str, Tensor] | None = None) -> None:
    """Write the trained parts, configuration and processor of a composite; the folder appears whole or not at all.

    Args:
        tensors: what `whole_state` returned, where the model itself holds shards.
    """
    with make_folder_atomically(folder) as partial:
        _write_parts(composite, whole_state(composite) if tensors is None else tensors, partial)
        llm = composite.config.llm
        manifest = {
            "format": 1,
            "model": composite.config.model_dump(mode="json"),
            "llm": {"path": _portable_path(llm, folder), "sha256": hash_weights(llm)},
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _write_parts(composite: Composite, state: dict[str, Tensor], partial: Path) -> None:
    model = composite.model
    model.config.save_pretrained(partial)
    build_processor(composite).save_pretrained(partial)
    save_file({k: v for k, v in state.items() if k.startswith(tuple(PARTS.values()))}, partial / SPEECH_WEIGHTS)
    if composite.config.trainable.llm == "lora":
        save_lora(model, partial / LORA_FOLDER, state)
    if composite.config.trainable.changes_llm_weights:
        save_file({key: state[key] for key in _llm_keys(model)}, partial / LLM_WEIGHTS)


def save_lora(
    model: VoiceTextBlenderForConditionalGeneration, folder: Path, state: dict[str, Tensor] | None = None
) -> None:
    """Write the LoRA pairs of `model`, or of its `state`, as an adapter folder of peft's own format."""
    folder.mkdir()
    pairs = lora_state(model, state)
    save_file({key: _whole(pair) for key, pair in pairs.items()}, folder / "adapter_model.safetensors")
    model.peft_config["default"].save_pretrained(str(folder))


def load_composite(folder: Path) -> Composite:
    """Read back what `save_composite` wrote.

    Raises:
        ModelError: No such model, an LLM that is gone or not the one trained with, weights that do not fit.
    """
    if not (folder / MANIFEST).is_file():
        raise ModelError(
            describe(
                str(folder),
                f"no {MANIFEST}",
                "a model folder that training wrote",
                "Name a finished run, or train it to its end",
            )
        )
    manifest = json.loads((folder / MANIFEST).read_text())
    config = ModelConfig.model_validate(manifest["model"])
    llm_path = _resolve_path(manifest["llm"]["path"], folder)
    if hash_weights(llm_path) != manifest["llm"]["sha256"]:
        raise ModelError(
            describe(
                llm_path,
                "its weights are not those that this model was trained with",
                f"the LLM named in {folder / MANIFEST}",
                "Restore that LLM, or train again",
            )
        )
    llm = load_whole(AutoModelForCausalLM, llm_path)
    model = VoiceTextBlenderForConditionalGeneration(VoiceTextBlenderConfig.from_pretrained(folder))
    model.model.language_model = getattr(llm, llm.base_model_prefix)
    model.lm_head = llm.get_output_embeddings()
    speech = {key for key in model.state_dict() if key.startswith(tuple(PARTS.values()))}
    _load_exactly(model, load_file(folder / SPEECH_WEIGHTS), speech, str(folder / SPEECH_WEIGHTS))
    if config.trainable.changes_llm_weights:
        _load_exactly(model, load_file(folder / LLM_WEIGHTS), _llm_keys(model), str(folder / LLM_WEIGHTS))
    if config.trainable.llm == "lora":
        add_lora(model, config.lora)
        lora_file = folder / LORA_FOLDER / "adapter_model.safetensors"
        load_lora_state(model, load_file(lora_file), str(lora_file))
    config = config.model_copy(update={"llm": llm_path})
    return assemble(model, AutoTokenizer.from_pretrained(folder), config)


def hash_weights(path: str) -> dict[str, str]:
    """SHA-256 of every safetensors file of a local model folder (empty for a hub name)."""
    return {file.name: fingerprint(file) for file in sorted(Path(path).glob("*.safetensors"))}


def whole_state(composite: Composite, is_kept: bool = True) -> dict[str, Tensor]:
    """The tensors that `save_composite` writes, whole and in host memory; of shards, every rank must call it.

    Args:
        is_kept: false on a rank that takes part for the others and gets nothing.
    """
    model = composite.model
    wanted = {key for key in model.state_dict() if key.startswith(tuple(PARTS.values())) or ".lora_" in key}
    if composite.config.trainable.changes_llm_weights:
        wanted |= _llm_keys(model)
    whole = ((key, _whole(value)) for key, value in model.state_dict().items() if key in wanted)
    return {key: value for key, value in whole if is_kept}


def _whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu().contiguous()


def _llm_keys(model: VoiceTextBlenderForConditionalGeneration) -> set[str]:
    """Keys of the LLM's own weights, a tied head left out."""
    keys = {key for key in model.state_dict() if not key.startswith(tuple(PARTS.values()))}
    return keys - {"lm_head.weight"} if model.config.tie_word_embeddings else keys


def _load_exactly(model: torch.nn.Module, state: dict[str, Tensor], expected: set[str], where: str) -> None:
    missing, surplus = sorted(expected - set(state)), sorted(set(state) - expected)
    shapes = model.state_dict()
    misshapen = [key for key in expected & set(state) if shapes[key].shape != state[key].shape]
    if missing or surplus or misshapen:
        found = f"{len(missing)} tensors missing {missing[:3]}, {len(surplus)} surplus {surplus[:3]}, "
        found += f"{len(misshapen)} of another shape {misshapen[:3]}"
        raise ModelError(
            describe(where, found, f"exactly the {len(expected)} tensors of the model", "Use the weights of this model")
        )
    model.load_state_dict(state, strict=False)


def _portable_path(path: str, folder: Path) -> dict[str, Any] | str:
    return os.path.relpath(path, folder) if Path(path).is_dir() else path


def _resolve_path(path: str, folder: Path) -> str:
    local = folder / path
    return str(local.resolve()) if local.is_dir() else path
