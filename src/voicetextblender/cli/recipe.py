"""`vtb recipe`: what a recipe says, and what it would build."""

from __future__ import annotations

from typing import Annotated

import typer

from voicetextblender.cli.console import Overrides, RecipeArgument, console, examples

app = typer.Typer(
    name="recipe",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Show recipes, and check what they would build.",
    epilog=examples(
        ("vtb recipe list", "the recipes in the package"),
        ("vtb recipe show mini", "every value, defaults written out"),
        (
            "vtb recipe check voicetextblender-3b --gpus 8",
            "parameters, memory and what is missing, before anything runs",
        ),
    ),
)


@app.command(
    epilog=examples(
        ("vtb recipe show mini", "every value, defaults written out"),
        ("vtb recipe show mine.yaml train.steps=500 > resolved.yaml", "as a file that needs no other"),
    )
)
def show(
    recipe: RecipeArgument,
    overrides: Overrides = None,
) -> None:
    """Print the resolved recipe as YAML: what it extends, its own values, overrides and defaults in one."""
    from rich.syntax import Syntax

    from voicetextblender.train.recipe import dump_recipe, load_recipe

    text = dump_recipe(load_recipe(recipe, overrides or []))
    if console.is_terminal:
        console.print(Syntax(text, "yaml", background_color="default"))
    else:
        typer.echo(text, nl=False)


@app.command("list", epilog=examples(("vtb recipe list", "name and purpose of each")))
def list_recipes() -> None:
    """List the recipes in the package."""
    from rich.table import Table

    from voicetextblender.train.recipe import load_recipe, shipped_recipes

    table = Table(box=None, show_header=False, pad_edge=False)
    for name in shipped_recipes():
        table.add_row(f"[bold]{name}[/bold]", load_recipe(name).description)
    console.print(table)


@app.command(
    epilog=examples(
        ("vtb recipe check voicetextblender-3b", "its parts, their parameters and memory, and what is missing here"),
        ("vtb recipe check canary-qwen --gpus 8 --tensors", "memory when eight GPUs share it, and every shape"),
        ("vtb recipe check whisper-llama model.adapter.kind=qformer model.lora.rank=8", "with values of your own"),
    )
)
def check(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of the training, over all machines.")] = 1,
    tensors: Annotated[bool, typer.Option("--tensors", help="Also print the shape of every tensor.")] = False,
) -> None:
    """Build a recipe's model without weights and print what it is and needs.

    Parameters of every part, frozen and trained; memory per GPU; files, packages and GPUs that are missing on this
    machine. Configurations come from this machine, from the public models whose shapes the package knows, or from the
    hub. Nothing is downloaded but those, and exit status 1 means that something is missing.
    """
    from voicetextblender.cli import recipe_check
    from voicetextblender.train.memory import estimate_memory
    from voicetextblender.train.recipe import load_recipe
    from voicetextblender.train.recipe_check import check_recipe

    loaded = load_recipe(recipe, overrides or [])
    result = check_recipe(loaded, gpus)
    recipe_check.print_parts(result)
    recipe_check.print_audio(result)
    shards = {"DDP": 1, "FSDP2": gpus}
    if loaded.train.shard_size:
        shards[f"HSDP, {loaded.train.shard_size} shards"] = loaded.train.shard_size
    estimates = {way: estimate_memory(result.skeleton, loaded, num_shards) for way, num_shards in shards.items()}
    recipe_check.print_memory(estimates, gpus)
    if tensors:
        recipe_check.print_tensors(result)
    recipe_check.print_needs(result)
    if not all(need.is_there for need in result.needs):
        raise typer.Exit(1)
