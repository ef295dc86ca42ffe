"""The conversation and its JSON form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from voicetextblender.chat.conversation import (
    AudioPart,
    Conversation,
    TextPart,
    Turn,
    conversation_to_row,
    parse_conversation,
)
from voicetextblender.errors import DataError

WHERE = "data/train.jsonl:12"
USER = {"role": "user", "content": "Hi."}


def parse(row: object) -> Conversation:
    return parse_conversation(row, WHERE, Path("/data"))


def part(**fields: object) -> dict[str, object]:
    return {"id": "1", "messages": [{"role": "user", "content": [{"type": "audio", "path": "a.wav", **fields}]}]}


def test_a_manifest_line_becomes_turns_and_parts() -> None:
    conversation = parse(
        {
            "id": "7",
            "task": "mixed",
            "language": "en",
            "metadata": {"speaker": "anna"},
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Answer briefly."},
                        {"type": "audio", "path": "clips/17.flac", "start": 1, "duration": 3.2, "transcript": "why"},
                    ],
                },
                {"role": "assistant", "content": "Because."},
            ],
        }
    )
    clip = AudioPart("/data/clips/17.flac", 1.0, 3.2, "why")
    assert conversation == Conversation(
        "7",
        (Turn("user", (TextPart("Answer briefly."), clip)), Turn("assistant", (TextPart("Because."),))),
        "mixed",
        "en",
        {"speaker": "anna"},
    )
    assert conversation.clips == (clip,)
    assert conversation.turns[0].text == "Answer briefly."


def test_writing_and_reading_gives_the_same_conversation() -> None:
    clips = (AudioPart("/data/a.wav"), AudioPart("/elsewhere/b.wav", 0.5, 2.0, ""))
    turns = (
        Turn("system", (TextPart("Be kind."),)),
        Turn("user", (clips[0], TextPart(" and "), clips[1])),
        Turn("assistant", (TextPart(""),)),
    )
    conversation = Conversation("x", turns, metadata={"split": "test"})
    row = json.loads(json.dumps(conversation_to_row(conversation, Path("/data"))))
    assert row["messages"][1]["content"][0] == {"type": "audio", "path": "a.wav"}
    assert parse(row) == conversation
    assert parse(conversation_to_row(conversation)) == conversation


def test_a_waveform_is_not_part_of_equality_and_cannot_be_written() -> None:
    clip = AudioPart(None, waveform=np.zeros(160, np.float32))
    assert clip == AudioPart(None)
    with pytest.raises(DataError, match=r"conversation 'x': a clip is only in memory; .* Write the waveform first\."):
        conversation_to_row(Conversation("x", (Turn("user", (clip,)),)))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (["no object"], r"data/train.jsonl:12: found \['no object'\]; a conversation is an object with the keys 'id'"),
        ({"messages": [USER]}, "data/train.jsonl:12: a conversation lacks 'id'; it must have 'id' and 'messages'"),
        ({"id": "1"}, "lacks 'messages'"),
        ({"id": 1, "messages": [USER]}, "'id' is 1; a text is expected"),
        ({"id": "1", "messages": []}, r"'messages' is \[\]; a list of at least one turn"),
        ({"id": "1", "messages": [USER], "langage": "en"}, "unknown key 'langage'; .* Write 'language'"),
        ({"id": "1", "messages": [USER], "q": 1}, "unknown key 'q'; .* put it under the conversation's 'metadata'"),
        ({"id": "1", "messages": [USER], "metadata": 3}, "'metadata' is 3; an object is expected"),
        ({"id": "1", "messages": [USER, {"role": "user"}]}, "12 turn 2: a turn lacks 'content'"),
        ({"id": "1", "messages": [{"role": "bot", "content": ""}]}, "turn 1: role is 'bot'; a role is one of 'system'"),
        ({"id": "1", "messages": [{"role": ["user"], "content": ""}]}, r"turn 1: role is \['user'\]"),
        ({"id": "1", "messages": [{"role": "user", "content": 3}]}, "turn 1: 'content' is 3; a string or a list"),
        (
            {"id": "1", "messages": [USER, {"role": "assistant", "content": [{"type": "audio", "path": "a.wav"}]}]},
            "turn 2: the assistant turn holds audio; audio may stand in system and user turns only. Move the clip",
        ),
        ({"id": "1", "messages": [{"role": "user", "content": ["a"]}]}, "turn 1 part 1: the part is 'a'; a part is an"),
        (part(type="image"), "turn 1 part 1: the part is .*; a part is an object whose 'type' is 'text' or 'audio'"),
        (part(path=""), "part 1: 'path' is ''; a text is expected"),
        (part(start=-1), "part 1: 'start' is -1; a number of seconds, at least 0 s, is expected"),
        (part(duration=0), "part 1: 'duration' is 0; a number of seconds, more than 0 s, is expected"),
        (part(duration=float("nan")), "part 1: 'duration' is nan"),
        (part(duration="3"), "part 1: 'duration' is '3'"),
        (part(durations=3), "an audio part has the unknown key 'durations'; .* Write 'duration'"),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(row: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        parse(row)
