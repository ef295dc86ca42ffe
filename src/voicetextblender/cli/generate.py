"""`vtb generate`: one reply to one prompt with clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voicetextblender.cli.console import examples

if TYPE_CHECKING:
    from voicetextblender.chat.conversation import Part

SLOT = "{audio}"

EXAMPLES = examples(
    ("vtb generate runs/mini/joint --audio clip.wav --prompt 'Write down what is said.'", "a clip, then the prompt"),
    (
        "vtb generate RUN --audio a.wav --audio b.wav --prompt 'Is {audio} the same as {audio}?'",
        "clips inside the prompt",
    ),
    ("vtb generate RUN --audio question.wav", "the whole instruction is spoken"),
)


def generate(
    run: Annotated[Path, typer.Argument(help="A finished run, or a model folder.")],
    prompt: Annotated[str, typer.Option(help="What to ask; {audio} marks the place of each clip.")] = "",
    audio: Annotated[list[Path] | None, typer.Option(help="A sound file; give it again for more.")] = None,
    system: Annotated[str | None, typer.Option(help="A system turn before the prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the reply at most.")] = 256,
) -> None:
    """Print the reply of a trained model to one prompt with any number of clips, and nothing else."""
    from voicetextblender.chat.conversation import Conversation, TextPart, Turn
    from voicetextblender.cli.run_folder import find_model, load_replier

    opening = () if system is None else (Turn("system", (TextPart(system),)),)
    turns = (*opening, Turn("user", place_clips(prompt, audio or [])))
    folder = find_model(run)
    typer.echo(load_replier(folder).reply([Conversation("prompt", turns)], max_new_tokens)[0])


def place_clips(prompt: str, clips: list[Path]) -> tuple[Part, ...]:
    """Parts of the user's turn: each `{audio}` of the prompt becomes a clip; without any, the clips come first.

    Raises:
        DataError: nothing to ask, a clip that cannot be read, or another number of clips than of marks.
    """
    from voicetextblender.audio.waveform import read_waveform
    from voicetextblender.chat.conversation import AudioPart, TextPart
    from voicetextblender.errors import DataError, describe

    texts = prompt.split(SLOT)
    if not prompt and not clips:
        raise DataError(describe("vtb generate", "neither --prompt nor --audio", "at least one of them", "Give one"))
    if len(texts) == 1:
        texts = [*[""] * len(clips), prompt]
    if len(texts) - 1 != len(clips):
        found = f"{len(texts) - 1} times {SLOT} and {len(clips)} clips"
        raise DataError(describe("--prompt", found, "a clip for every mark", f"Give --audio for each {SLOT}, in order"))
    read = [AudioPart(str(path), waveform=read_waveform(path, where=f"--audio {path}")) for path in clips]
    parts: list[Part] = []
    for index, text in enumerate(texts):
        parts += [TextPart(text)] if text else []
        parts += read[index : index + 1]
    return tuple(parts)
