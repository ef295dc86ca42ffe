"""Conversations in the shapes of LLaMA-Factory, ms-swift, OpenAI, Alpaca and plain questions and answers."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.data.readers.reading import OpenKind, read_all, say, write_lines
from tests.data.rows import write_tone
from voicetextblender.audio.waveform import read_waveform
from voicetextblender.chat.clips import read_clip
from voicetextblender.chat.conversation import conversation_to_row
from voicetextblender.errors import DataError


def test_sharegpt_of_llama_factory(open_kind: OpenKind, tmp_path: Path) -> None:
    rows = [
        {
            "conversations": [
                {"from": "human", "value": "<audio>What is said?"},
                {"from": "gpt", "value": "Not an <audio> mark."},
                {"from": "human", "value": "And <audio> then <audio>?"},
                {"from": "gpt", "value": "Bye."},
            ],
            "system": "Be brief.",
            "audios": ["a.wav", "/x/b.wav", "c.wav"],
        },
        {"conversations": [{"from": "human", "value": "An <audio>?"}, {"from": "gpt", "value": "No."}], "id": 7},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=1))
    first, second = read_all(open_kind("sharegpt", "rows.json", audio_folder=str(tmp_path / "clips")))
    assert say(first) == [
        "system: Be brief.",
        "user: [a.wav]What is said?",
        "assistant: Not an <audio> mark.",
        "user: And [b.wav] then [c.wav]?",
        "assistant: Bye.",
    ]
    assert [clip.path for clip in first.clips] == [f"{tmp_path}/clips/a.wav", "/x/b.wav", f"{tmp_path}/clips/c.wav"]
    assert (first.task, first.id, second.task, second.id) == ("mixed", "rows.json:1", "text", "7")
    assert say(second)[0] == "user: An <audio>?"


def test_sharegpt_of_ms_swift(open_kind: OpenKind, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "<audio>Who?"}, {"role": "assistant", "content": "Ann."}]
    write_lines(tmp_path / "rows.jsonl", [{"messages": messages, "audios": ["a.wav"]}])
    (one,) = read_all(open_kind("sharegpt", "rows.jsonl", language="en", task="answering"))
    assert say(one) == ["user: [a.wav]Who?", "assistant: Ann."]
    assert (one.language, one.task) == ("en", "answering")


def test_openai_messages(open_kind: OpenKind, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 0.5)
    content = [
        {"type": "text", "text": "Compare "},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode((tmp_path / "a.wav").read_bytes()).decode()}},
        {"type": "text", "text": " and "},
        {"type": "audio_url", "audio_url": {"url": "file:///x/b.wav"}},
        {"type": "audio", "path": "c.wav"},
    ]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "Same."}]},
    ]
    write_lines(tmp_path / "rows.jsonl", [{"messages": messages}])
    (one,) = read_all(open_kind("openai", "rows.jsonl"))
    assert say(one)[:2] == ["system: Be brief.", "user: Compare [clip in base64] and [b.wav][c.wav]"]
    np.testing.assert_array_equal(read_clip(one.clips[0]), read_waveform(tmp_path / "a.wav"))
    assert [clip.path for clip in one.clips[1:]] == ["/x/b.wav", f"{tmp_path}/c.wav"]
    with pytest.raises(DataError, match="a clip is only in memory"):
        conversation_to_row(one)


def test_alpaca(open_kind: OpenKind, tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add.", "input": "2 and 3", "output": "5"},
        {"instruction": "Go.", "input": "", "output": "No.", "system": "Sys", "history": [["Hi", "Hello"]]},
    ]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    first, second = read_all(open_kind("alpaca", "alpaca.json"))
    assert say(first) == ["user: Add.\n2 and 3", "assistant: 5"]
    assert say(second) == ["system: Sys", "user: Hi", "assistant: Hello", "user: Go.", "assistant: No."]


def test_questions_and_answers(open_kind: OpenKind, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"question": "1 + 1?", "answer": "2"}, {"q": "3?", "a": "4", "question": ""}])
    source = open_kind("qa", "rows.jsonl")
    rows = list(source.scan())
    assert say(source.parse(rows[0])) == ["user: 1 + 1?", "assistant: 2"]
    with pytest.raises(DataError, match=r"rows.jsonl:2: the row has no question; 'question', 'context', .* is looked"):
        source.parse(rows[1])
    renamed = open_kind("qa", "rows.jsonl", columns={"question": "q", "answer": "a"})
    assert say(renamed.parse(rows[1])) == ["user: 3?", "assistant: 4"]
    with pytest.raises(
        DataError, match=r"jsonl:1: the row lacks 'q'; columns.question says it has, beside 'question', "
    ):
        renamed.parse(rows[0])


def test_gsm8k(open_kind: OpenKind, shared_data: Path) -> None:
    source = open_kind("qa", str(shared_data / "gsm8k" / "test.jsonl"))
    conversations = read_all(source)
    assert len(conversations) == 1319 and {one.task for one in conversations} == {"text"}


USER, GPT = {"from": "human", "value": "<audio> Who?"}, {"from": "gpt", "value": "Ann."}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, ":1: the turns are []; 'messages' or 'conversations' holds a list of turns. Write turns"),
        ({"conversations": [USER, GPT], "audios": ["a", "b"]}, ":1: 2 clips and 1 marks '<audio>'; every clip has its"),
        (
            {"conversations": [USER, GPT, USER], "audios": ["a"]},
            ":1 turn 3: 1 marks '<audio>' and 0 clips left; every mark has its clip. Add the clips to 'audios', or",
        ),
        ({"conversations": [USER], "audios": [5]}, ":1: a clip is 5; a path or URL is expected. Write the path."),
        ({"conversations": ["hi"]}, ":1 turn 1: found 'hi'; an object with named values is expected."),
        ({"messages": [{"role": "tool", "content": "x"}]}, ":1 turn 1: the speaker is 'tool'; known are system, "),
        ({"messages": [{"role": "user", "content": None}]}, ":1 turn 1: the content is None; a text or a list of"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            ":1 turn 1 part 1: the part is {'type': 'image_url'}; a part is of the type 'text', 'audio', ",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "%"}}]}]},
            ":1 turn 1 part 1: the clip cannot be decoded (",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "audio", "path": "a.wav"}]}]},
            ":1 turn 1: the assistant turn holds audio; audio may stand in system and user turns only.",
        ),
    ],
)
def test_rows_that_are_refused(open_kind: OpenKind, tmp_path: Path, row: object, message: str) -> None:
    write_lines(tmp_path / "rows.jsonl", [row])
    with pytest.raises(DataError, match=re.escape(message)):
        read_all(open_kind("sharegpt", "rows.jsonl"))


def test_alpaca_rows_that_are_refused(open_kind: OpenKind, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"instruction": "Go."}])
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: the row lacks 'output'; it must have 'instruction' and 'output'\."
    ):
        read_all(open_kind("alpaca", "rows.jsonl"))
    write_lines(tmp_path / "rows.jsonl", [{"instruction": "Go.", "output": "x", "history": ["Hi"]}])
    with pytest.raises(DataError, match=r"'history' holds 'Hi'; it is a list of pairs of question and answer\."):
        read_all(open_kind("alpaca", "rows.jsonl"))
