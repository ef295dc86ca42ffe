"""`vtb chat`: a conversation of text and speech in the terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voicetextblender.cli.console import console, examples

if TYPE_CHECKING:
    from voicetextblender.serve.chat import ChatSession

EXAMPLES = examples(
    ("vtb chat runs/mini/joint", "type, /audio FILE, /say TEXT, /help"),
    ("vtb chat runs/mini/joint --voice de", "/say with a German voice"),
)


def chat(
    run: Annotated[Path, typer.Argument(help="A finished run, or a model folder.")],
    voice: Annotated[
        str, typer.Option(help="Voice of /say: an espeak-ng language, with a variant if you like.")
    ] = "en-us",
    system: Annotated[str | None, typer.Option(help="A system turn at the top of the conversation.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one reply at most.")] = 256,
) -> None:
    """Talk to a trained model: several turns, text and clips mixed as you like, replies as they are made."""
    from voicetextblender.cli.run_folder import find_model, load_replier
    from voicetextblender.cli.voice import Speaker
    from voicetextblender.serve.chat import ChatSession

    folder = find_model(run)
    replier = load_replier(folder)
    console.print(f"[dim]{folder}. /help lists what you can type.[/dim]")
    hold(ChatSession(replier, Speaker(voice), system=system, max_new_tokens=max_new_tokens))


def hold(session: ChatSession) -> None:
    """Read lines until `/exit` or the end of input; Ctrl-C interrupts a reply."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - history and editing of the input line
    while True:
        try:
            line = console.input("[bold]... [/bold]" if session.pending else "[bold]you >[/bold] ")
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line.strip() and show(session, line):
            return


def show(session: ChatSession, line: str) -> bool:
    """Print what follows from one line; True when the session has ended."""
    events = session.handle(line)
    streaming = False
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(events):
        for event in events:
            if event.kind == "exit":
                return True
            if event.kind == "reply":
                if not streaming:
                    console.print("[bold green]model >[/bold green] ", end="")
                console.print(event.text, end="", markup=False, soft_wrap=True)
                streaming = True
                continue
            if streaming:
                console.print()
                streaming = False
            style = {"clip": "cyan", "problem": "red"}.get(event.kind, "dim")
            console.print(f"[audio {event.text}]" if event.kind == "clip" else event.text, style=style, markup=False)
    if streaming:
        console.print()
    return False
