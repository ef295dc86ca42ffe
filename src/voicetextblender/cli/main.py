"""The command line `vtb`: one verb per module, nothing heavy imported before a verb runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import voicetextblender
from voicetextblender.cli import chat, data, demo, evaluate, export, generate, look, prepare, recipe, train
from voicetextblender.cli.console import examples, print_error
from voicetextblender.errors import VoiceTextBlenderError


class _Verbs(TyperGroup):
    """Errors that a person can mend become one red line and exit status 2; `--debug` shows the traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except VoiceTextBlenderError as error:
            if ctx.params.get("debug"):
                raise
            print_error(error)
            raise typer.Exit(2) from None


app = typer.Typer(
    name="vtb",
    cls=_Verbs,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        ("vtb demo", "pretrain two small models, join them, compare, 15 to 25 minutes on two cores"),
        ("vtb chat runs/mini/joint", "talk to the result"),
        ("vtb train mini --out runs/mine train.steps=500", "train by a recipe, with one value changed"),
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"voicetextblender {voicetextblender.__version__}")
        raise typer.Exit()


@app.callback()
def vtb(
    debug: Annotated[bool, typer.Option("--debug", envvar="VTB_DEBUG", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Give a text LLM ears: one joint training on speech and text that keeps what the LLM can do."""


app.command(epilog=demo.EXAMPLES)(demo.demo)
app.add_typer(prepare.app)
app.command(epilog=train.EXAMPLES)(train.train)
app.command(epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=generate.EXAMPLES)(generate.generate)
app.command(epilog=chat.EXAMPLES)(chat.chat)
app.command(epilog=export.EXAMPLES)(export.export)
app.command(epilog=look.EXAMPLES)(look.look)
app.add_typer(data.app)
app.add_typer(recipe.app)


def main() -> None:
    """The entry point of the command `vtb`."""
    app()
