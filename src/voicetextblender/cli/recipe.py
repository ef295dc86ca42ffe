"""`vtb recipe`: what a recipe says."""

from __future__ import annotations

import typer

from voicetextblender.cli.console import Overrides, RecipeArgument, console, examples

app = typer.Typer(
    name="recipe",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Show recipes.",
    epilog=examples(
        ("vtb recipe list", "the recipes in the package"),
        ("vtb recipe show mini", "every value, defaults written out"),
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
