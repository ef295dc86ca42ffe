"""What the verbs share when they talk to a person."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

console = Console(highlight=False)
"""Where results go."""

error_console = Console(stderr=True, highlight=False)
"""Where errors go."""

RecipeArgument = Annotated[str, typer.Argument(help="A shipped recipe by name (see vtb recipe list), or a YAML file.")]
"""What every verb that works by a recipe asks for first."""

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Values of the recipe to change, by dotted key.")
]
"""What may follow the recipe."""


def examples(*pairs: tuple[str, str]) -> str:
    """The epilog of a verb's help: each command with what it does."""
    lines = [f"[cyan]$ {escape(command)}[/cyan]  [dim]# {escape(meaning)}[/dim]" for command, meaning in pairs]
    return "\n\n".join(["[bold]Examples[/bold]", *lines])


def print_error(error: Exception) -> None:
    """The red `error:` line; further lines of the message stand below it as they are."""
    error_console.print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
