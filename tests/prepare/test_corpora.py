from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from voicetextblender.audio.waveform import count_clip_samples, write_waveform
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart, parse_conversation
from voicetextblender.chat.slots import fill_slots
from voicetextblender.errors import DataError
from voicetextblender.prepare.corpora import prepare_corpus, read_recordings

LIBRARY = yaml.safe_load(files("voicetextblender.data.readers").joinpath("wordings.yaml").read_text("utf-8"))


def make_corpus(folder: Path, num_rows: int = 6, **changes: Any) -> Path:
    """A corpus of noise whose first row differs by `changes`."""
    rows = []
    for number in range(num_rows):
        audio = f"audio/{number}.flac"
        write_waveform(folder / audio, np.random.default_rng(number).uniform(-0.1, 0.1, 8_000 + number))
        split = ("train", "train", "test")[number % 3]
        row = {
            "id": f"r{number}",
            "audio": audio,
            "text": f"text {number}",
            "lang": "en",
            "speaker": "a",
            "split": split,
        }
        rows.append(row | changes if number == 0 else row)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def read_manifest(path: Path) -> list[Conversation]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [parse_conversation(json.loads(line), f"{path}:{n}", path.parent) for n, line in enumerate(lines, 1)]


def test_every_row_becomes_a_conversation(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    summary = prepare_corpus(corpus, tmp_path / "out")
    assert summary.rows == {"train": 4, "dev": 0, "test": 2} and not summary.drops
    assert summary.hours["test"] == pytest.approx((16_000 + 2 + 5) / 16_000 / 3600)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["summary.json", "test.jsonl", "train.jsonl"]
    train = read_manifest(tmp_path / "out" / "train.jsonl")
    assert [conversation.id for conversation in train] == ["corpus/r0", "corpus/r1", "corpus/r3", "corpus/r4"]
    for conversation, number in zip(train, (0, 1, 3, 4), strict=True):
        user, assistant = conversation.turns
        (clip,) = conversation.clips
        assert assistant.parts == (TextPart(f"text {number}"),)
        assert (conversation.task, conversation.language) == ("transcription", "en")
        assert clip == AudioPart(str(corpus / f"audio/{number}.flac"), 0.0, (8_000 + number) / 16_000, f"text {number}")
        assert count_clip_samples(corpus / f"audio/{number}.flac") == 8_000 + number
        prompt = "".join(part.text if isinstance(part, TextPart) else "{clip}" for part in user.parts)
        assert prompt in LIBRARY["transcription"]["en"]


def test_prompts_vary_and_do_not_depend_on_other_rows(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 20)
    prepare_corpus(corpus, tmp_path / "out")
    prepare_corpus(corpus, tmp_path / "few", limit=3)
    every = {c.id: c for c in read_manifest(tmp_path / "out" / "train.jsonl")}
    few = read_manifest(tmp_path / "few" / "train.jsonl")
    assert len({conversation.turns[0].text for conversation in every.values()}) > 2
    assert len(few) == 3 and all(every[conversation.id] == conversation for conversation in few)
    again = prepare_corpus(corpus, tmp_path / "again")
    assert (tmp_path / "again/train.jsonl").read_bytes() == (tmp_path / "out/train.jsonl").read_bytes()
    assert again.rows["train"] == 14


def test_several_corpora_and_a_limit(tmp_path: Path) -> None:
    folders = [make_corpus(tmp_path / name) for name in ("first", "second")]
    summary = prepare_corpus(folders, tmp_path / "out", limit=3)
    assert summary.rows == {"train": 3, "dev": 0, "test": 3}
    assert summary.drops_by_reason == {"beyond the limit": 6}


def test_nothing_is_lost_silently(tmp_path: Path) -> None:
    folders = [
        make_corpus(tmp_path / "missing", audio="audio/none.flac"),
        make_corpus(tmp_path / "wordless", text=" "),
        make_corpus(tmp_path / "broken", audio="manifest.jsonl"),
        make_corpus(tmp_path / "short"),
        make_corpus(tmp_path / "long"),
    ]
    write_waveform(tmp_path / "short/audio/0.flac", np.zeros(100))
    write_waveform(tmp_path / "long/audio/0.flac", np.zeros(16_001))
    summary = prepare_corpus(folders, tmp_path / "out", max_clip_s=1.0)
    assert sum(summary.rows.values()) + len(summary.drops) == 5 * 6
    reasons = ["audio missing", "no text"]
    reasons += ["audio unreadable", "audio too short", "audio too long"]
    assert summary.drops_by_reason == dict.fromkeys(reasons, 1)
    (missing,) = [drop for drop in summary.drops if drop.reason == "audio missing"]
    assert missing.where == f"{tmp_path}/missing/manifest.jsonl:1"
    stored = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert stored["drops_by_reason"] == summary.drops_by_reason and len(stored["drops"]) == 5


def test_a_split_that_has_no_rows_any_more_leaves_no_file(tmp_path: Path) -> None:
    prepare_corpus(make_corpus(tmp_path / "corpus", split="dev"), tmp_path / "out")
    assert (tmp_path / "out/dev.jsonl").is_file()
    prepare_corpus(make_corpus(tmp_path / "corpus"), tmp_path / "out")
    assert not (tmp_path / "out/dev.jsonl").exists()


def test_clips_stand_where_the_slots_are() -> None:
    first, second = AudioPart("1.flac"), AudioPart("2.flac")
    assert fill_slots("{clip} and {clip}", [first, second]) == (first, TextPart(" and "), second)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", ":1: the line is no JSON (Expecting property name"),
        ("[]", ":1: the line is no JSON object; an object with 'id', 'audio', 'text', 'lang', 'speaker', 'split'"),
        ('{"id": "a", "audio": "a.wav"}', ":1: the row lacks 'text'; it must have 'id', 'audio', 'text'"),
        ('{"id": 3}', ":1: 'id' is 3; a text is expected. Write it as a string."),
    ],
)
def test_malformed_lines_stop(tmp_path: Path, line: str, text: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=re.escape(text)):
        read_recordings(tmp_path)


def test_unknown_split_and_repeated_id(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'split' is 'valid'; a split is 'train', 'dev' or 'test'. Rename the split."):
        read_recordings(make_corpus(tmp_path / "one", split="valid"))
    with pytest.raises(DataError, match=r":2: the id 'r1' is that of .*:1; an id is unique in its corpus. Rename one."):
        read_recordings(make_corpus(tmp_path / "two", id="r1"))


def test_no_manifest_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest.jsonl: the file does not exist; a corpus has a manifest.jsonl."):
        read_recordings(tmp_path)
    text = "no usable recording is left; at least one is needed. Left out:\n.*the text is empty"
    with pytest.raises(DataError, match=text):
        prepare_corpus(make_corpus(tmp_path / "corpus", 1, text=""), tmp_path / "out")


def test_a_language_without_wordings_of_its_own_is_asked_in_english(tmp_path: Path) -> None:
    prepare_corpus(make_corpus(tmp_path / "corpus", 1, lang="xx"), tmp_path / "out")
    (conversation,) = read_manifest(tmp_path / "out/train.jsonl")
    prompt = "".join(part.text if isinstance(part, TextPart) else "{clip}" for part in conversation.turns[0].parts)
    assert prompt in LIBRARY["transcription"]["en"] and conversation.language == "xx"


def test_recordings_of_people(shared_data: Path, tmp_path: Path) -> None:
    folders = [shared_data / "librispeech_excerpt_en", shared_data / "kerstin_de"]
    summary = prepare_corpus(folders, tmp_path)
    assert summary.rows == {"train": 1215, "dev": 53, "test": 110} and not summary.drops
    assert sum(summary.hours.values()) == pytest.approx(1.77, abs=0.02)
    assert {c.language for c in read_manifest(tmp_path / "test.jsonl")} == {"en", "de"}
