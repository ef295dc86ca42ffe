from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from voicetextblender.audio.waveform import write_waveform
from voicetextblender.chat.conversation import Conversation, TextPart, parse_conversation
from voicetextblender.errors import DataError
from voicetextblender.prepare.digits import ENGLISH_NUMBERS, GERMAN_DIGITS, TASKS, prepare_digits

SPEAKERS = ("ann", "bob", "cid")


def make_digits(
    folder: Path, speakers: tuple[str, ...] = SPEAKERS, words: tuple[str, ...] = ENGLISH_NUMBERS[:10]
) -> Path:
    """Two recordings of each digit by each speaker, one for train and one for test."""
    rows = []
    for speaker in speakers:
        for word in words:
            for split in ("train", "test"):
                name = f"{word}_{speaker}_{split}"
                write_waveform(folder / f"{name}.flac", np.zeros(1_600 + len(rows)))
                row = {"id": name, "audio": f"{name}.flac", "text": word, "lang": "en", "speaker": speaker}
                rows.append(row | {"split": split})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def read_manifest(path: Path) -> list[Conversation]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [parse_conversation(json.loads(line), f"{path}:{n}", path.parent) for n, line in enumerate(lines, 1)]


def heard(conversation: Conversation) -> str:
    """The user turn with each clip replaced by what is said in it."""
    parts = conversation.turns[0].parts
    return "".join(part.text if isinstance(part, TextPart) else str(part.transcript) for part in parts)


def expected_words(task: str, words: list[str]) -> list[str]:
    values = [ENGLISH_NUMBERS.index(word) for word in words]
    if task in ("plus", "minus"):
        left, right = values
        return [ENGLISH_NUMBERS[left + right if task == "plus" else left - right]]
    if task == "translate":
        return [GERMAN_DIGITS[value] for value in values]
    return [ENGLISH_NUMBERS[value] for value in (sorted(values) if task == "sort" else values)]


def test_answers_follow_from_what_is_said(tmp_path: Path) -> None:
    summary = prepare_digits(make_digits(tmp_path / "corpus"), tmp_path / "out", num_train=600, num_dev=60, num_test=60)
    assert summary.rows == {"train": 600, "dev": 60, "test": 60} and not summary.drops
    train = read_manifest(tmp_path / "out/train.jsonl")
    assert Counter(c.metadata["digit_task"] for c in train) == dict.fromkeys(TASKS, 120)
    for conversation in train:
        words = [str(clip.transcript) for clip in conversation.clips]
        answer = conversation.turns[1].text.rstrip(".").split()
        assert answer == expected_words(conversation.metadata["digit_task"], words)
        assert (conversation.task, len(conversation.turns)) == ("mixed", 2)
        assert conversation.metadata["digit_task"] in ("translate", "repeat", "sort") or len(words) == 2
        assert len(words) <= 4 and "{" not in heard(conversation)
    assert len({clip.path for c in train for clip in c.clips}) == 20


def test_wordings() -> None:
    prompts = {task: {TASKS[task](Random(n)).prompt for n in range(300)} for task in TASKS}
    assert "What is {clip} plus {clip}?" in prompts["plus"] and len(prompts["plus"]) == 4
    assert "Sort these numbers: {clip} {clip} {clip}." in prompts["sort"] and len(prompts["sort"]) == 6
    assert "How do you say {clip} in German?" in prompts["translate"]


def test_who_is_heard_where(tmp_path: Path) -> None:
    corpus = make_digits(tmp_path / "corpus")
    prepare_digits(corpus, tmp_path / "out", num_train=300, num_dev=200, num_test=300, held_out_speaker="bob")
    heard_from = {
        split: {Path(str(clip.path)).stem for c in read_manifest(tmp_path / f"out/{split}.jsonl") for clip in c.clips}
        for split in ("train", "dev", "test")
    }
    assert heard_from["train"] == {f"{word}_{name}_train" for word in ENGLISH_NUMBERS[:10] for name in ("ann", "cid")}
    assert heard_from["dev"] == {f"{word}_{name}_test" for word in ENGLISH_NUMBERS[:10] for name in ("ann", "cid")}
    assert heard_from["test"] == {f"{w}_bob_{split}" for w in ENGLISH_NUMBERS[:10] for split in ("train", "test")}


def test_the_same_again_and_another_with_another_seed(tmp_path: Path) -> None:
    corpus = make_digits(tmp_path / "corpus")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare_digits(corpus, tmp_path / name, num_train=50, num_dev=0, num_test=10, seed=seed)
    first, again, other = ((tmp_path / name / "train.jsonl").read_bytes() for name in "abc")
    assert first == again != other
    assert not (tmp_path / "a/dev.jsonl").exists()


def test_speaker_that_is_not_there(tmp_path: Path) -> None:
    corpus = make_digits(tmp_path / "corpus")
    text = "the speaker to hold out is 'eve'; one of several speakers is expected, and there are: ann, bob, cid. Give"
    with pytest.raises(DataError, match=text):
        prepare_digits(corpus, tmp_path / "out", held_out_speaker="eve")
    with pytest.raises(DataError, match=r"and there are: ann\. Give"):
        prepare_digits(make_digits(tmp_path / "one", ("ann",)), tmp_path / "out")


def test_recordings_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"the text is 'ten'; a recording is one English digit, 'zero' to 'nine'. Remove"
    ):
        prepare_digits(make_digits(tmp_path / "ten", words=("ten",)), tmp_path / "out")
    with pytest.raises(
        DataError, match=r"\(train\): no recording of ann 'zero', ann 'two', .*; each speaker says all ten"
    ):
        prepare_digits(make_digits(tmp_path / "one", words=("one",)), tmp_path / "out")


def test_recordings_of_people(shared_data: Path, tmp_path: Path) -> None:
    summary = prepare_digits(shared_data / "fsdd_digits_en", tmp_path, num_train=1200, num_dev=60, num_test=120)
    assert summary.rows == {"train": 1200, "dev": 60, "test": 120} and not summary.drops
    assert {c.metadata["speaker"] for c in read_manifest(tmp_path / "test.jsonl")} == {"yweweler"}
    assert len({c.metadata["speaker"] for c in read_manifest(tmp_path / "train.jsonl")}) == 5


def test_invented_speakers_say_half_of_the_training_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="the embedded synthesiser is not installed")
    corpus = make_digits(tmp_path / "corpus")
    sizes = {"num_train": 400, "num_dev": 50, "num_test": 50}
    prepare_digits(corpus, tmp_path / "out", num_voices=3, **sizes)
    rows = {split: read_manifest(tmp_path / f"out/{split}.jsonl") for split in ("train", "dev", "test")}
    speakers = Counter(row.metadata["speaker"] for row in rows["train"])
    assert set(speakers) == {"ann", "bob", "voice 0000", "voice 0001", "voice 0002"}
    assert 160 < speakers["ann"] + speakers["bob"] < 240
    assert {row.metadata["speaker"] for row in rows["dev"]} == {"ann", "bob"}
    assert {row.metadata["speaker"] for row in rows["test"]} == {"cid"}
    for clip in (clip for row in rows["train"] for clip in row.clips):
        assert Path(clip.path or "").is_file()
