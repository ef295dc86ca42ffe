"""`vtb train`: one training by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voicetextblender.cli.console import Overrides, RecipeArgument, console, examples

if TYPE_CHECKING:
    from voicetextblender.train.recipe import Recipe

EXAMPLES = examples(
    ("vtb train mini", "the shipped recipe; the run goes to runs/mini/joint"),
    ("vtb train mini --out runs/mine train.steps=500 model.lora.rank=8", "with values of your own"),
    ("vtb train mini --profile 10-12", "with a trace of three steps in the run folder, to open at ui.perfetto.dev"),
    ("vtb train mini --find-batch --memory-gib 8", "the largest microbatch that 8 GiB hold; nothing is trained"),
    ("torchrun --nproc-per-node 2 -m voicetextblender train recipe.yaml --out runs/big", "on two devices"),
    ("torchrun --nproc-per-node 8 -m voicetextblender train recipe.yaml train.parallel=fsdp", "a model in shards"),
)


def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/ and the recipe's name")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="STEPS", help="Trace these steps, counted from 0, such as 10-12.")
    ] = None,
    find_batch: Annotated[
        bool, typer.Option("--find-batch", help="Do not train: look for the largest microbatch that fits.")
    ] = False,
    memory_gib: Annotated[
        float | None,
        typer.Option(min=0.1, help="Memory for --find-batch, in GiB.", show_default="nine tenths of what is free"),
    ] = None,
) -> None:
    """Train by a recipe.

    A folder that holds an unfinished run of the same recipe is continued; one of another recipe is refused.
    """
    from voicetextblender.train import loop
    from voicetextblender.train.profiling import parse_steps
    from voicetextblender.train.recipe import load_recipe
    from voicetextblender.train.recipe_check import refuse_missing

    loaded = load_recipe(recipe, overrides or [])
    refuse_missing(loaded, needs_data=not find_batch)
    if find_batch:
        print_trials(loaded, memory_gib)
        return
    profiled = loop.NO_STEPS if profile is None else parse_steps(profile)
    loop.train(loaded, out or Path("runs") / loaded.name, profiled=profiled)


def print_trials(recipe: Recipe, memory_gib: float | None) -> None:
    """A line for each try of `--find-batch`, and the value to set."""
    from voicetextblender.train.find_batch import GIB
    from voicetextblender.train.find_batch import find_batch as try_budgets

    console.print("the worst microbatches that the plan allows: nearly all audio in the longest clips, and all text\n")
    console.print(f"{'tokens':>9}  {'nearly all audio':34}{'seconds':>8}{'GiB':>8}", style="bold")
    best = 0
    for trial in try_budgets(recipe, memory_gib):
        seconds = "" if trial.seconds is None else f"{trial.seconds:.1f}"
        peak = "" if trial.peak is None else f"{trial.peak / GIB:.2f}"
        verdict = "[green]fits[/green]" if trial.fits else "[red]too large[/red]"
        console.print(f"{trial.tokens:>9,}  {trial.shape:34}{seconds:>8}{peak:>8}  {verdict}")
        best = max(best, trial.tokens) if trial.fits else best
    now = recipe.data.max_tokens_per_microbatch
    console.print(f"\nset data.max_tokens_per_microbatch={best} (now {now}); a step takes fewer, larger microbatches")
