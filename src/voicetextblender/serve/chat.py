"""A multi-turn conversation of text and speech, one typed line at a time; knows no terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from voicetextblender.chat.conversation import AudioPart, Conversation, Part, TextPart, Turn
from voicetextblender.errors import VoiceTextBlenderError
from voicetextblender.serve.message import parse_message
from voicetextblender.units import samples_to_seconds

HELP = """\
Type a message; clips may stand anywhere in it.
  /audio FILE         a clip from a file: alone, or inside a message: What does /audio a.wav mean?
  /say "TEXT"         the same with TEXT spoken by the computer; without quotes up to the end of the line
  \\ at the end        the message goes on in the next line
  /reset              forget the conversation
  /help               this list
  /exit               end (so does Ctrl-D)"""

ADVICE = "Type /help for the list"


class StreamingReplier(Protocol):
    """Anything that answers a conversation piece by piece."""

    def stream(self, conversation: Conversation, max_new_tokens: int) -> Iterator[str]:
        """Pieces of the assistant's next turn as they are decoded."""
        ...


@dataclass(frozen=True)
class Event:
    """Something to show: a clip that was sent, a piece of the reply, a remark, a problem; or the end of the session."""

    kind: Literal["clip", "reply", "notice", "problem", "exit"]
    text: str = ""


class ChatSession:
    """The history of one conversation.

    Args:
        speak: makes a waveform (float32, 16 kHz) of a text, for `/say`.
        system: text of a system turn at the top, kept by `/reset`.
        max_new_tokens: tokens of one reply at most.
    """

    def __init__(
        self,
        replier: StreamingReplier,
        speak: Callable[[str], np.ndarray],
        *,
        system: str | None = None,
        max_new_tokens: int = 256,
    ) -> None:
        self.replier = replier
        self.speak = speak
        self.max_new_tokens = max_new_tokens
        self._opening = () if system is None else (Turn("system", (TextPart(system),)),)
        self.turns: tuple[Turn, ...] = self._opening
        self.pending: tuple[Part, ...] = ()
        """Parts of a message that goes on in the next line."""

    def handle(self, line: str) -> Generator[Event, None, None]:
        """What follows from one typed line. Consume it to its end, or close it to interrupt a reply.

        An interrupted reply stays in the history as far as it came. A message that fails leaves no trace.
        """
        command = line.strip()
        if command == "/exit":
            yield Event("exit")
        elif command == "/help":
            yield Event("notice", HELP)
        elif command == "/reset":
            self.turns, self.pending = self._opening, ()
            yield Event("notice", "The conversation starts anew.")
        elif command.startswith("/") and command.split()[0] not in ("/audio", "/say"):
            yield Event("problem", f"{command.split()[0]}: no such command. {ADVICE}.")
        else:
            yield from self._add(line)

    def _add(self, line: str) -> Generator[Event, None, None]:
        """Take a line into the pending message, and send the message when it is complete."""
        unfinished = line.rstrip().endswith("\\")
        try:
            parts = parse_message(line.rstrip().removesuffix("\\"), self.speak)
        except VoiceTextBlenderError as error:
            yield Event("problem", str(error))
            return
        for part in parts:
            if isinstance(part, AudioPart):
                yield Event("clip", _describe_clip(part))
        gap = (TextPart("\n"),) if self.pending and parts else ()
        self.pending = (*self.pending, *gap, *parts)
        if self.pending and not unfinished:
            message, self.pending = Turn("user", _join_texts(self.pending)), ()
            yield from self._reply(message)

    def _reply(self, message: Turn) -> Generator[Event, None, None]:
        before = self.turns
        self.turns = (*before, message)
        pieces: list[str] = []
        failed = False
        try:
            for piece in self.replier.stream(Conversation("chat", self.turns), self.max_new_tokens):
                pieces.append(piece)
                yield Event("reply", piece)
        except VoiceTextBlenderError as error:
            failed = True
            yield Event("problem", str(error))
        finally:
            reply = "".join(pieces).strip()
            answered = (*self.turns, Turn("assistant", (TextPart(reply),)))
            self.turns = answered if reply and not failed else before
        if not failed and not reply:
            yield Event("notice", "The model answered nothing; the message is dropped.")


def _describe_clip(part: AudioPart) -> str:
    assert part.waveform is not None
    return f"{part.path or repr(part.transcript)}, {samples_to_seconds(len(part.waveform)):.1f} s"


def _join_texts(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Neighbouring texts as one."""
    joined: list[Part] = []
    for part in parts:
        if joined and isinstance(part, TextPart) and isinstance(joined[-1], TextPart):
            joined[-1] = TextPart(joined[-1].text + part.text)
        else:
            joined.append(part)
    return tuple(joined)
