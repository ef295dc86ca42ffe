"""What a recipe would build and what it lacks on this machine, found without reading a weight."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from voicetextblender.audio.storage import is_remote
from voicetextblender.data.readers.files import expand_paths
from voicetextblender.errors import RunError, describe, describe_many
from voicetextblender.model.encoders.nemo_archive import SUFFIX
from voicetextblender.model.lora import LoraSettings
from voicetextblender.model.skeleton import Skeleton, build_skeleton, is_on_this_machine, num_lora_parameters
from voicetextblender.model.trainable import part_of
from voicetextblender.train.recipe import Count, Recipe
from voicetextblender.units import SAMPLING_RATE, seconds_to_samples

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""What may be the name of a model on a hub."""


class PartCount(NamedTuple):
    """One row of the table of parts."""

    name: Count
    what: str
    num_parameters: int
    num_trained: int


class TensorGroup(NamedTuple):
    """Parameters of one shape that differ in the number of their layer alone."""

    name: str
    shape: tuple[int, ...]
    times: int
    trains: bool


class Need(NamedTuple):
    """Something that a training by the recipe needs."""

    what: str
    found: str
    is_there: bool
    fix: str
    is_fetched: bool = False
    """Whether a training downloads it."""


@dataclass(frozen=True)
class RecipeCheck:
    """What a recipe builds, and what is there for it.

    Args:
        recipe: as resolved.
        skeleton: its model, without weights.
        parts: parameters of each part, then of the whole.
        fused_lora: parameters that LoRA would have on fused q, k, v and gate, up matrices; None without LoRA.
        needs: files, packages and GPUs.
    """

    recipe: Recipe
    skeleton: Skeleton
    parts: tuple[PartCount, ...]
    fused_lora: int | None
    needs: tuple[Need, ...]


def check_recipe(recipe: Recipe, num_gpus: int) -> RecipeCheck:
    """Build the recipe's model on the meta device, and look for what a training on `num_gpus` GPUs needs.

    Raises:
        ModelError: the configuration of a model is neither there nor known, or the parts do not fit together.
    """
    skeleton = build_skeleton(recipe.model)
    return RecipeCheck(
        recipe,
        skeleton,
        tuple(count_parts(recipe, skeleton)),
        num_lora_parameters(skeleton, fused=True) if recipe.model.trainable.llm == "lora" else None,
        tuple(list_needs(recipe, num_gpus)),
    )


def count_parts(recipe: Recipe, skeleton: Skeleton) -> Iterator[PartCount]:
    """Parameters of speech encoder, adapter, LLM, LoRA and of all together."""
    model = skeleton.model
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in ("speech_encoder", "adapter", "llm", "lora")}
    for name, parameter in model.named_parameters():
        groups["lora" if ".lora_" in name else part_of(name)].append(parameter)
    audio, text = model.config.audio_config, model.config.text_config
    yield _count("speech_encoder", f"{audio.model_type}, {_layers(model.model.audio_tower)} layers", groups)
    kind = recipe.model.adapter.kind
    yield _count("adapter", f"{kind}, width {audio.hidden_size:,} to {text.hidden_size:,}", groups)
    yield _count("llm", f"{text.model_type}, {_layers(model.model.language_model)} layers", groups)
    if groups["lora"]:
        yield _count("lora", _describe_lora(recipe.model.lora), groups)
    everything = {"whole": [p for group in groups.values() for p in group]}
    yield _count("whole", "", everything)


def group_tensors(skeleton: Skeleton) -> list[TensorGroup]:
    """All parameters, with those that differ in the number of their layer alone taken together."""
    groups: dict[tuple[str, tuple[int, ...], bool], int] = {}
    for name, parameter in skeleton.model.named_parameters():
        key = (re.sub(r"\.\d+\.", ".*.", name), tuple(parameter.shape), parameter.requires_grad)
        groups[key] = groups.get(key, 0) + 1
    return [TensorGroup(name, shape, count, trains) for (name, shape, trains), count in groups.items()]


def list_needs(recipe: Recipe, num_gpus: int) -> Iterator[Need]:
    """Models, data, packages and GPUs, whether they are there or not."""
    yield from _need_models(recipe)
    yield from _need_data(recipe)
    for name, row in (recipe.evaluate.rows if recipe.evaluate else {}).items():
        manifest = row.reader.path if row.reader else row.manifest
        if manifest is not None:
            yield _need_files(f"evaluation {name}", str(manifest), "Set its path in the recipe")
    if recipe.train.attention == "flash_attention_2":
        found = _tell(find_spec("flash_attn") is not None, "installed", "not installed")
        yield Need("package flash_attn", *found, "pip install flash-attn, or train.attention=auto")
    if recipe.train.device != "cpu":
        there = torch.cuda.device_count()
        fix = f"Lower --gpus to {there}" if there else "Train on a machine with GPUs"
        yield Need(f"{num_gpus} GPU{'s' if num_gpus > 1 else ''}", f"{there} here", there >= num_gpus, fix)
    if size := recipe.train.shard_size:
        fix = f"Take a multiple of {size} GPUs, or change train.shard_size"
        yield Need(f"groups of {size} GPUs", *_tell(num_gpus % size == 0, "whole", f"{num_gpus} GPUs"), fix)


def refuse_missing(recipe: Recipe, needs_data: bool = True) -> None:
    """Before a model is built or the hub is asked: are the files there that nothing else can bring?

    Args:
        needs_data: false where models are enough.

    Raises:
        RunError: they are not; all that is missing at once.
    """
    data = _need_data(recipe) if needs_data else ()
    missing = [need for need in (*data, *_need_models(recipe)) if not need.is_there]
    if any(not need.is_fetched for need in missing):
        expected = f"a training of {recipe.name} needs it"
        problems = [describe(need.what, need.found, expected, need.fix) for need in missing]
        raise RunError(describe_many(problems, limit=8))


def _need_models(recipe: Recipe) -> Iterator[Need]:
    for what, key in (("LLM", "llm"), ("speech encoder", "speech_encoder")):
        path = getattr(recipe.model, key)
        found = _tell(is_on_this_machine(path), "on this machine", "not on this machine")
        if HUB_NAME.fullmatch(path) and not path.endswith(SUFFIX):
            fix = f"It is fetched from the hub when the training starts; or set model.{key} to its folder"
            yield Need(f"{what} {path}", *found, fix, is_fetched=True)
        else:
            yield Need(f"{what} {path}", *found, _made_by_mini(path) or f"Download it, and set model.{key} to its path")


def _need_data(recipe: Recipe) -> Iterator[Need]:
    for source in recipe.data.all_sources.values():
        if source.weight > 0:
            yield _need_files(f"data {source.name}", source.path, f"Set data.sources.{source.name}.path")
            if source.tars is not None:
                yield _need_files(f"data {source.name}, tars", source.tars, f"Set data.sources.{source.name}.tars")


def _made_by_mini(path: str) -> str | None:
    return "Make it with `vtb prepare mini`" if path.startswith("runs/mini/") else None


def audio_tokens_per_second(skeleton: Skeleton) -> float:
    """Audio placeholder tokens that a second of a long clip takes."""
    return skeleton.num_audio_tokens(1000 * SAMPLING_RATE) / 1000


def longest_clip_tokens(check: RecipeCheck) -> int:
    """Audio placeholder tokens of the longest clip that the recipe lets in."""
    return check.skeleton.num_audio_tokens(seconds_to_samples(check.recipe.data.max_clip_s))


def _count(name: Count, what: str, groups: dict[str, list[nn.Parameter]]) -> PartCount:
    parameters = groups[name]
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return PartCount(name, what, sum(p.numel() for p in parameters), trained)


def _layers(module: nn.Module) -> int:
    return len(module.get_submodule("encoder" if hasattr(module, "encoder") else "").layers)  # type: ignore[arg-type]


def _describe_lora(settings: LoraSettings) -> str:
    kinds = "".join(f", {kind}" for kind in ("DoRA" * settings.dora, "rsLoRA" * settings.rslora) if kind)
    gated = f", {settings.gating}" if settings.gating != "always" else ""
    return f"rank {settings.rank}, alpha {settings.alpha:g}, {len(settings.targets)} projections{kinds}{gated}"


def _need_files(what: str, path: str, fix: str) -> Need:
    if is_remote(path):
        return Need(f"{what}: {path}", "a URL, not looked at", True, fix)
    paths = expand_paths(path)
    missing = sum(not Path(one).exists() for one in paths)
    found = f"{missing} of {len(paths)} missing" if missing and len(paths) > 1 else "not there"
    return Need(f"{what}: {path}", *_tell(bool(paths) and not missing, "there", found), _made_by_mini(path) or fix)


def _tell(is_there: bool, yes: str, no: str) -> tuple[str, bool]:
    return (yes if is_there else no), is_there
