"""Whatever a row holds, it is a conversation or a DataError that names its place."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.readers.test_files import JSON
from tests.data.readers.test_lhotse import make_cut
from tests.data.readers.test_nemo import CONVERSATION
from voicetextblender.chat.conversation import Conversation
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.sources import open_source
from voicetextblender.errors import DataError

AUDIO_CONTENT = [
    {"type": "text", "text": "What?"},
    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    {"type": "audio_url", "audio_url": {"url": "a.wav"}},
]
SPOKEN = {"audio_filepath": "a.wav", "duration": 1.0, "offset": 0.5, "text": "Hi.", "lang": "en", "target_lang": "de"}
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("jsonl", {"id": "1", "messages": [{"role": "user", "content": [{"type": "audio", "path": "a", "num_bytes": 1}]}]}),
    ("nemo", SPOKEN),
    ("nemo", SPOKEN | {"question": "Who?", "answer": "Ann."}),
    ("nemo_conversation", CONVERSATION),
    (
        "nemo_conversation",
        {
            "audio_filepath": "a",
            "duration": 1.0,
            "system": "S",
            "conversations": [{"from": "User", "value": "<audio>"}],
        },
    ),
    ("lhotse", make_cut(custom={"question": "Who?", "answer": "Ann."})),
    ("lhotse", make_cut()),
    ("sharegpt", {"conversations": [{"from": "human", "value": "<audio>?"}], "audios": ["a.wav"], "system": "S"}),
    ("openai", {"messages": [{"role": "user", "content": AUDIO_CONTENT}, {"role": "assistant", "content": "So."}]}),
    ("alpaca", {"instruction": "Go.", "input": "x", "output": "y", "history": [["a", "b"]], "system": "S"}),
    ("qa", {"question": "1 + 1?", "answer": "2", "id": 7}),
    ("qa", {"audio": {"bytes": None, "path": "a.wav"}, "text": "Hi.", "translation": "Ho.", "target_lang": "fr"}),
]


def list_places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in list_places(one, (*path, key)))]


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    changed = copy.deepcopy(value)
    target = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = new
    return changed


@pytest.mark.parametrize(("kind", "row"), ROWS)
@settings(max_examples=50)
@given(data=st.data())
def test_any_row(tmp_path_factory: pytest.TempPathFactory, kind: str, row: dict[str, Any], data: st.DataObject) -> None:
    path: Path = tmp_path_factory.getbasetemp() / f"any-{kind}.jsonl"
    changed = put(row, data.draw(st.sampled_from(list_places(row))), data.draw(JSON | st.just([{}]) | st.just({})))
    path.write_text(f"\n{json.dumps(changed)}\n")
    source = open_source(SourceConfig.model_validate({"name": "any", "kind": kind, "path": str(path)}), path.parent)
    for raw in source.scan():
        try:
            wordings = source.wordings(raw)
        except DataError as error:
            assert str(error).startswith(str(path))
        else:
            assert wordings and all(isinstance(one, Conversation) for one in wordings)
            for one in wordings:
                assert isinstance(one.id, str) and all(isinstance(turn.text, str) for turn in one.turns)
                assert one.language is None or isinstance(one.language, str)
                assert all(isinstance(clip.path, str) for clip in one.clips)
