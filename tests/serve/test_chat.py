"""The chat session without a terminal, and what a typed line means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from voicetextblender.audio.waveform import write_waveform
from voicetextblender.chat.conversation import AudioPart, Conversation, Part, TextPart, Turn
from voicetextblender.errors import AudioError, DataError
from voicetextblender.serve.chat import HELP, ChatSession, Event
from voicetextblender.serve.message import parse_message


def speak(text: str) -> np.ndarray:
    """A tone as long as the text; the engine itself has tests of its own."""
    if text == "unspeakable":
        raise AudioError("/say: no sound; words. Write some.")
    return np.full(1600 * len(text), 0.1, np.float32)


class Parrot:
    """Says how many turns and clips it was given, in two pieces."""

    def __init__(self) -> None:
        self.asked: list[Conversation] = []

    def stream(self, conversation: Conversation, max_new_tokens: int) -> Iterator[str]:
        self.asked.append(conversation)
        if "silence" in conversation.turns[-1].text:
            return
        yield f"{len(conversation.turns)} turns, "
        if "fail" in conversation.turns[-1].text:
            raise DataError("conversation 'chat': too long; shorter. Type /reset.")
        yield f"{len(conversation.clips)} clips"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "a b.wav"
    write_waveform(path, np.full(16_000, 0.1, np.float32))
    return path


@pytest.fixture
def session() -> ChatSession:
    return ChatSession(Parrot(), speak)


def events(session: ChatSession, line: str) -> list[Event]:
    return list(session.handle(line))


def reply(session: ChatSession, line: str) -> str:
    return "".join(event.text for event in session.handle(line) if event.kind == "reply")


def spoken(text: str) -> AudioPart:
    return AudioPart(None, transcript=text)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("hello", (TextPart("hello"),)),
        ("  hello  ", (TextPart("hello"),)),
        ("/say what time is it", (spoken("what time is it"),)),
        ('/say "three" plus four', (spoken("three"), TextPart(" plus four"))),
        ("/say 'three' plus four", (spoken("three"), TextPart(" plus four"))),
        (
            'What is /say "three" plus /say "five" ?',
            (TextPart("What is "), spoken("three"), TextPart(" plus "), spoken("five"), TextPart("?")),
        ),
        ("/say one /say two", (spoken("one"), spoken("two"))),
        ("and/or /sayings", (TextPart("and/or /sayings"),)),
        ("", ()),
    ],
)
def test_a_line_becomes_parts(line: str, parts: tuple[Part, ...]) -> None:
    assert parse_message(line, speak) == parts


def test_a_file_becomes_a_clip(clip: Path) -> None:
    part = AudioPart(str(clip))
    parts = parse_message(f'/audio "{clip}" Who speaks?', speak)
    assert parts == (part, TextPart(" Who speaks?"))
    assert isinstance(parts[0], AudioPart) and parts[0].waveform is not None and len(parts[0].waveform) == 16_000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/audio", "/audio: no file named; the path of a sound file follows. Write /audio clip.wav."),
        ("/say", '/say: no text; the words to speak follow. Write /say what time is it, or /say "...".'),
        ('/say ""', '/say: no text; the words to speak follow. Write /say what time is it, or /say "...".'),
        (
            "/audio none.wav",
            "/audio none.wav: audio 'none.wav' does not exist; an audio file is needed. Correct the path.",
        ),
    ],
)
def test_a_line_that_means_nothing_is_refused(line: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_message(line, speak)
    assert str(caught.value) == message


def test_turns_accumulate_and_reset_forgets_them(session: ChatSession) -> None:
    assert reply(session, "hello") == "1 turns, 0 clips"
    assert reply(session, "/say again") == "3 turns, 1 clips"
    assert session.turns == (
        Turn("user", (TextPart("hello"),)),
        Turn("assistant", (TextPart("1 turns, 0 clips"),)),
        Turn("user", (spoken("again"),)),
        Turn("assistant", (TextPart("3 turns, 1 clips"),)),
    )
    assert events(session, "/reset") == [Event("notice", "The conversation starts anew.")]
    assert session.turns == ()


def test_a_system_turn_stays() -> None:
    session = ChatSession(Parrot(), speak, system="Be brief.")
    assert reply(session, "hello") == "2 turns, 0 clips"
    events(session, "/reset")
    assert session.turns == (Turn("system", (TextPart("Be brief."),)),)


def test_clips_are_announced_with_their_length(session: ChatSession, clip: Path) -> None:
    assert events(session, f'/audio "{clip}"')[0] == Event("clip", f"{clip}, 1.0 s")
    assert events(session, "/say abc")[0] == Event("clip", "'abc', 0.3 s")


def test_a_backslash_carries_the_message_on(session: ChatSession) -> None:
    assert events(session, "One\\") == []
    assert session.turns == () and session.pending
    assert [event.kind for event in events(session, "/say two \\")] == ["clip"]
    assert reply(session, "three") == "1 turns, 1 clips"
    assert session.turns[0].parts == (TextPart("One\n"), spoken("two"), TextPart("\nthree"))
    assert session.pending == ()


def test_help_exit_and_unknown_commands(session: ChatSession) -> None:
    assert events(session, "/help") == [Event("notice", HELP)]
    assert events(session, " /exit ") == [Event("exit")]
    assert events(session, "/qiut now") == [Event("problem", "/qiut: no such command. Type /help for the list.")]


def test_a_message_that_fails_leaves_no_trace(session: ChatSession) -> None:
    assert events(session, "/say unspeakable") == [Event("problem", "/say: no sound; words. Write some.")]
    assert session.turns == () and session.pending == ()
    last = events(session, "fail")[-1]
    assert last == Event("problem", "conversation 'chat': too long; shorter. Type /reset.")
    assert session.turns == ()
    assert events(session, "silence") == [Event("notice", "The model answered nothing; the message is dropped.")]
    assert session.turns == ()


def test_an_interrupted_reply_stays_as_far_as_it_came(session: ChatSession) -> None:
    stream = session.handle("hello")
    assert next(stream) == Event("reply", "1 turns, ")
    stream.close()
    assert session.turns[-1] == Turn("assistant", (TextPart("1 turns,"),))
