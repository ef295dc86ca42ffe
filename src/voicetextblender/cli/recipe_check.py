"""The pages that `vtb recipe check` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from voicetextblender.cli.console import console

if TYPE_CHECKING:
    from voicetextblender.train.memory import Memory
    from voicetextblender.train.recipe_check import RecipeCheck

NAMES = {
    "speech_encoder": "speech encoder",
    "adapter": "modality adapter",
    "llm": "LLM",
    "lora": "LoRA",
    "whole": "whole",
    "trained": "trained",
}


def print_parts(check: RecipeCheck) -> None:
    """Parameters of every part, frozen and trained, and what was published where the recipe says so."""
    published = {name: text for name, text in check.recipe.published.items() if text is not None}
    columns = ["part", "shape", "parameters", "trained", *(["published"] if published else [])]
    table = Table(*columns, box=None, pad_edge=False, title="Parts", title_justify="left")
    for column in (2, 3):
        table.columns[column].justify = "right"
    for part in check.parts:
        trained = f"{part.num_trained:,}" if part.num_trained else "frozen"
        note = published.get(part.name, "")
        if part.name == "whole" and "trained" in published:
            note = ", ".join(filter(None, (note, f"trained {published['trained']}")))
        row = [NAMES[part.name], part.what, f"{part.num_parameters:,}", trained, *([note] if published else [])]
        table.add_row(*map(Text, row), style="bold" if part.name == "whole" else "")
    console.print(table)
    lora = next((part.num_parameters for part in check.parts if part.name == "lora"), 0)
    if check.fused_lora is not None and check.fused_lora != lora:
        console.print(
            f"LoRA on fused matrices would have {check.fused_lora:,}: there q, k, v share the first, rank x width "
            f"matrix of one pair, and gate, up that of another; a pair beside each has {lora - check.fused_lora:,} "
            "more.",
            style="dim",
        )
    console.print(
        f"shapes of the LLM: {check.skeleton.llm_shapes}; of the encoder: {check.skeleton.encoder_shapes}", style="dim"
    )


def print_audio(check: RecipeCheck) -> None:
    """What audio costs in tokens."""
    from voicetextblender.train.recipe_check import audio_tokens_per_second, longest_clip_tokens

    data, rate = check.recipe.data, audio_tokens_per_second(check.skeleton)
    console.print(
        f"\n{rate:g} audio tokens a second; the longest clip of {data.max_clip_s:g} s takes "
        f"{longest_clip_tokens(check):,} of at most {data.max_conversation_tokens:,} tokens of a conversation"
    )


def print_memory(estimates: dict[str, Memory], num_gpus: int) -> None:
    """Memory per GPU, a column for each way to share the model."""
    title = f"Memory per GPU, {num_gpus} GPU{'s' if num_gpus > 1 else ''}, GB"
    table = Table("", *estimates, box=None, pad_edge=False, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for key in ("weights", "gradients", "optimizer", "llm_activations", "speech_activations", "logits", "total"):
        label = key.replace("_", " ").replace("llm", "LLM")
        values = [f"{getattr(memory, key) / 1e9:.1f}" for memory in estimates.values()]
        table.add_row(label, *values, style="bold" if key == "total" else "")
    console.print()
    console.print(table)
    console.print(
        "activations are those of a microbatch that is all audio; docs/recipes.md has the formula", style="dim"
    )


def print_tensors(check: RecipeCheck) -> None:
    """Every shape, layers taken together."""
    from voicetextblender.train.recipe_check import group_tensors

    table = Table("tensor", "shape", "times", "", box=None, pad_edge=False, title="Tensors", title_justify="left")
    table.columns[2].justify = "right"
    for group in group_tensors(check.skeleton):
        shape = " x ".join(f"{size:,}" for size in group.shape)
        table.add_row(Text(group.name), shape, str(group.times), "trained" if group.trains else "frozen")
    console.print()
    console.print(table)


def print_needs(check: RecipeCheck) -> None:
    """What a training needs, what is missing first."""
    table = Table("needed", "found", "", box=None, pad_edge=False, title="On this machine", title_justify="left")
    for need in sorted(check.needs, key=lambda need: need.is_there):
        style, fix = ("green", "") if need.is_there else ("red", need.fix)
        table.add_row(Text(need.what), Text(need.found, style), Text(fix))
    console.print()
    console.print(table)
    num_missing = sum(not need.is_there for need in check.needs)
    console.print(f"\n{num_missing} of {len(check.needs)} missing" if num_missing else "\nnothing is missing")
