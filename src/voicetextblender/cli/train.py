"""`vtb train`: one training by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voicetextblender.cli.console import Overrides, RecipeArgument, examples

EXAMPLES = examples(
    ("vtb train mini", "the shipped recipe; the run goes to runs/mini/joint"),
    ("vtb train mini --out runs/mine train.steps=500 model.lora.rank=8", "with values of your own"),
    ("torchrun --nproc-per-node 2 -m voicetextblender train recipe.yaml --out runs/big", "on two devices"),
    ("torchrun --nproc-per-node 8 -m voicetextblender train recipe.yaml train.parallel=fsdp", "a model in shards"),
)


def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/ and the recipe's name")
    ] = None,
) -> None:
    """Train by a recipe.

    A folder that holds an unfinished run of the same recipe is continued; one of another recipe is refused.
    """
    from voicetextblender.train import loop
    from voicetextblender.train.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    loop.train(loaded, out or Path("runs") / loaded.name)
