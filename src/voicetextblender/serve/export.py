"""A trained composite as a Hugging Face folder that other programs load without this package."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import Environment, StrictUndefined
from transformers import GenerationConfig

import voicetextblender
from voicetextblender.errors import ModelError, describe
from voicetextblender.files import make_folder_atomically
from voicetextblender.model.build import Composite, build_processor
from voicetextblender.model.lora import merge_lora, remove_lora
from voicetextblender.model.trainable import part_of
from voicetextblender.model.weights import LORA_FOLDER, save_composite, save_lora
from voicetextblender.serve.bundle import AUTO_MAP, FEATURE_EXTRACTOR_MAP, write_bundle
from voicetextblender.serve.servable import POSITION_LIMITS, served_clip_s, served_lora_rank
from voicetextblender.units import seconds_to_samples

Form = Literal["merged", "lora", "parts"]
"""`merged`: one model. `lora`: the base LLM with the speech parts, and LoRA beside it in `lora/`.
`parts`: what training made, without the LLM; only this package reads it."""
Precision = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def export(
    composite: Composite,
    out: Path,
    form: Form = "merged",
    precision: Precision = "fp32",
    max_shard_gb: float = 5.0,
) -> None:
    """Write `composite` to the new folder `out`, which appears whole or not at all. Takes the LoRA pairs out of it.

    Args:
        precision: of the stored weights; LoRA is merged in fp32 before.
        max_shard_gb: size of one file of weights at most, 10^9 bytes.

    Raises:
        ModelError: `out` holds something, or `form` wants LoRA and there is none.
    """
    refuse_used(out)
    if form == "parts":
        save_composite(composite, out)
        return
    if form == "lora" and composite.config.trainable.llm != "lora":
        found = f"model.trainable.llm was '{composite.config.trainable.llm}'"
        raise ModelError(describe("form 'lora'", found, "a run that trained LoRA", "Export it merged"))
    with make_folder_atomically(out) as partial:
        if form == "lora":
            save_lora(composite.model, partial / LORA_FOLDER)
            remove_lora(composite.model)
        else:
            merge_lora(composite.model)
        _write_model(composite, partial, DTYPES[precision], max_shard_gb)
        _write_processor(composite, partial)
        write_bundle(partial)
        (partial / "README.md").write_text(_model_card(composite, out.name, form, precision), "utf-8")


def refuse_used(out: Path) -> None:
    """Leave what others wrote alone.

    Raises:
        ModelError: `out` is a file or a folder that is not empty.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        found = "is a file" if out.is_file() else "is not empty"
        raise ModelError(
            describe(str(out), found, "a folder that is new or empty", "Choose another --out, or delete it")
        )


def generation_config(composite: Composite) -> GenerationConfig:
    """Greedy; ends where a turn ends, and never writes the audio placeholder.

    The placeholder is among the ends for engines that do not read `suppress_tokens`: a reply that ran into it would
    otherwise go on from a token that means nothing.
    """
    renderer = composite.renderer
    ends = sorted(renderer.end_of_turn_ids)
    return GenerationConfig(
        do_sample=False,
        bos_token_id=composite.tokenizer.bos_token_id,
        eos_token_id=[*ends, renderer.audio_token_id],
        pad_token_id=ends[0] if composite.tokenizer.pad_token_id is None else composite.tokenizer.pad_token_id,
        suppress_tokens=[renderer.audio_token_id],
    )


def _write_model(composite: Composite, folder: Path, dtype: torch.dtype, max_shard_gb: float) -> None:
    model = composite.model.to(dtype)
    model.generation_config = generation_config(composite)
    model.save_pretrained(folder, max_shard_size=int(max_shard_gb * 10**9))
    config = _read_json(folder / "config.json")
    if not any(config["audio_config"].get(key) for key in POSITION_LIMITS):
        longest = composite.num_audio_tokens(seconds_to_samples(served_clip_s(composite)))
        config["audio_config"]["max_source_positions"] = longest
    for part in ("text_config", "audio_config"):
        config[part].pop("_name_or_path", None)
    _write_json(folder / "config.json", config | {"auto_map": AUTO_MAP})


def _write_processor(composite: Composite, folder: Path) -> None:
    processor = build_processor(composite)
    processor.feature_extractor.chunk_length = served_clip_s(composite)
    processor.save_pretrained(folder)
    config = _read_json(folder / "processor_config.json")
    config["auto_map"] = {name: AUTO_MAP[name] for name in ("AutoConfig", "AutoProcessor")}
    config["feature_extractor"]["auto_map"] = FEATURE_EXTRACTOR_MAP
    _write_json(folder / "processor_config.json", config)


def _model_card(composite: Composite, name: str, form: Form, precision: Precision) -> str:
    model = composite.model
    counts = dict.fromkeys(("speech_encoder", "adapter", "llm"), 0)
    for parameter_name, parameter in model.named_parameters():
        counts[part_of(parameter_name)] += parameter.numel()
    parts = {
        "speech_encoder": model.model.audio_tower,
        "adapter": model.model.adapter,
        "llm": model.model.language_model,
    }
    has_lora = form == "lora"
    values: dict[str, Any] = {
        "name": name,
        "sampling_rate": composite.front_end.config.sampling_rate,
        "parts": [
            {"name": key.replace("_", " "), "class_name": type(part).__name__, "num_parameters": counts[key]}
            for key, part in parts.items()
        ],
        "llm": Path(composite.config.llm).name,
        "precision": precision,
        "has_lora": has_lora,
        "lora_rank": served_lora_rank(composite.config.lora.rank),
        "lora_note": "LoRA is in `lora/`, in peft's format; without it the LLM is the base." if has_lora else "",
        "audio_token": composite.config.audio_token,
        "audio_token_id": composite.renderer.audio_token_id,
        "version": voicetextblender.__version__,
    }
    template = files("voicetextblender.serve").joinpath("model_card.md.jinja").read_text("utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(template).render(values)


def _read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
