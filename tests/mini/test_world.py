"""The data of the embedded world: sizes, determinism, and what evaluation must not share with training."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import pytest

from voicetextblender.chat.conversation import Conversation, parse_conversation
from voicetextblender.errors import DataError
from voicetextblender.mini.eval_rows import user_text
from voicetextblender.mini.lexicon import ACTIONS, HELD_OUT_ENTITIES, LANGUAGES, LIVES, TRAVELS, WORKS, Language, say
from voicetextblender.mini.rows import (
    MIXED_TASKS,
    UNSEEN_MIXED,
    UNSEEN_WHOLE,
    WHOLE_TASKS,
    MiniWorldConfig,
    turn_text,
    words,
)
from voicetextblender.mini.text_tasks import TASK_WEIGHTS
from voicetextblender.mini.voices import HELD_OUT_VOICES, TRAIN_VOICES
from voicetextblender.mini.wordings import WORDINGS
from voicetextblender.mini.world import World, build_world, write_manifests

SMALL = MiniWorldConfig(
    num_story_clips=300,
    num_instruction_rows=300,
    num_mixed_rows=300,
    num_chat_rows=100,
    num_text_rows=1000,
    num_recordings=300,
    num_eval_items=60,
)
ROWS = {
    "text.touched",
    "text.untouched",
    "transcription.en",
    "transcription.de",
    "translation.speech",
    "translation.text",
    "answering.spoken",
    "instructions.spoken",
    "instructions.written",
    "mixed",
    "multi_turn.spoken",
    "unseen.prompts",
    "unseen.voices",
    "unseen.entities",
    "unseen.combinations",
}


@lru_cache
def world(seed: int = 0) -> World:
    return build_world(SMALL.model_copy(update={"seed": seed}))


def rows_of(part: str) -> list[Conversation]:
    return [row for name, rows in world().conversations.items() if name.startswith(part) for row in rows]


def words_of(text: str) -> set[str]:
    return {word.strip(".,:?!") for word in text.split()}


def held_out_words() -> set[str]:
    return {say(entity, language) for entity in HELD_OUT_ENTITIES for language in LANGUAGES}


def statements(conversations: Iterable[Conversation]) -> set[str]:
    """Every statement said, written or answered: three words at least, the second a verb, with a period."""
    verbs = {form for verb in (*ACTIONS, LIVES, WORKS, TRAVELS) for form in (verb.en.split()[0], verb.de.split()[0])}
    texts = [turn_text(turn.parts) for row in conversations for turn in row.turns]
    found = {part.strip() for text in texts for part in re.findall(r"[^.?!:]*[.?!:]", text) if part.endswith(".")}
    return {one for one in found if len(one.split()) >= 3 and one.split()[1] in verbs}


def test_manifests_are_those_of_the_report() -> None:
    names = set(world().conversations)
    assert {name.removeprefix("eval/") for name in names if name.startswith("eval/")} == ROWS
    kinds = {"transcription", "translation", "answering", "instruction", "mixed", "chat", "text"}
    assert {name.removeprefix("train/") for name in names if name.startswith("train/")} == kinds


def test_sizes() -> None:
    sizes = {name: len(rows) for name, rows in world().conversations.items()}
    assert sizes.pop("eval/multi_turn.spoken") == 100
    assert 40 <= sizes.pop("eval/unseen.combinations") <= 60  # there are not many different ones
    assert {sizes[name] for name in sizes if name.startswith("eval/")} == {60}
    assert sizes["train/transcription"] == sizes["train/translation"] == sizes["train/answering"] == 300


def test_kinds_share_the_clips_of_stories() -> None:
    rows = world().conversations
    paths = [[row.clips[0].path for row in rows[f"train/{kind}"]] for kind in ("transcription", "translation")]
    assert paths[0] == paths[1]
    assert len({utterance.path for utterance in world().utterances}) == len(world().utterances)
    named = {clip.path for rows in world().conversations.values() for row in rows for clip in row.clips}
    recordings = {utterance.path for utterance in world().recordings}
    assert named == {utterance.path for utterance in world().utterances} - recordings


def test_no_conversation_of_training_has_more_than_one_spoken_turn_and_every_one_but_text_has_it() -> None:
    for name, rows in world().conversations.items():
        if not name.startswith("train/"):
            continue
        for row in rows:
            assert sum(bool(turn.clips) for turn in row.turns) == (name != "train/text"), row
            if name == "train/chat":
                assert 4 <= len(row.turns) <= 8 and row.task == "mixed"
            elif name != "train/text":
                assert len(row.turns) == 2
    spoken_turns = {
        next(number for number, turn in enumerate(row.turns) if turn.clips) // 2
        for row in world().conversations["train/chat"]
    }
    assert spoken_turns >= {0, 1, 2}


def test_mixed_rows_put_speech_anywhere() -> None:
    rows = world().conversations["train/mixed"]
    shapes = [tuple(type(part).__name__ for part in row.turns[0].parts) for row in rows]
    assert {("AudioPart",), ("AudioPart", "TextPart"), ("TextPart", "AudioPart")} <= set(shapes)
    assert max(shape.count("AudioPart") for shape in shapes) >= 3


def test_instructions_are_the_same_spoken_and_written() -> None:
    for spoken, written in zip(
        world().conversations["eval/instructions.spoken"],
        world().conversations["eval/instructions.written"],
        strict=True,
    ):
        assert spoken.clips and not written.clips
        assert user_text(spoken) == written.turns[0].text
        assert spoken.turns[1] == written.turns[1]


def test_multi_turn_items_have_several_spoken_turns() -> None:
    for row in world().conversations["eval/multi_turn.spoken"]:
        users = [turn for turn in row.turns if turn.role == "user"]
        assert 2 <= len(users) <= 3 and sum(bool(turn.clips) for turn in users) >= 2


def test_no_evaluation_text_is_in_training() -> None:
    trained = {turn_text(turn.parts) for row in rows_of("train/") for turn in row.turns if turn.role == "user"}
    for row in rows_of("eval/"):
        if row.task != "multi_turn" and len(row.turns) == 2:
            assert user_text(row) not in trained, row
    whole = {user_text(row) for row in rows_of("train/")}
    assert not whole & {user_text(row) for row in rows_of("eval/")}


def test_no_evaluation_statement_is_in_training() -> None:
    evaluated = statements(rows_of("eval/"))
    assert len(evaluated) > 100
    assert not evaluated & statements(rows_of("train/"))


def test_held_out_words_are_never_in_training_speech_but_are_in_its_text() -> None:
    said = set().union(*(words_of(utterance.text) for utterance in world().encoder_utterances))
    assert not said & held_out_words()
    read = set().union(*(words_of(user_text(row)) for row in world().conversations["train/text"]))
    assert held_out_words() <= read
    for row in world().conversations["eval/unseen.entities"]:
        assert words_of(user_text(row)) & held_out_words()


def test_evaluation_asks_in_words_that_training_speech_says() -> None:
    """Of every other row than the one on unseen entities: a word that nobody ever said is another question."""
    said: dict[str, set[str]] = {"train": set(), "eval": set()}
    full = MiniWorldConfig(num_text_rows=1, num_recordings=1)  # all the speech that is evaluated or fine-tuned on
    for name, rows in build_world(full).conversations.items():
        if name != "eval/unseen.entities":
            clips = [clip for row in rows for clip in row.clips]
            said[name.split("/")[0]] |= words_of(" ".join(str(clip.transcript) for clip in clips).lower())
    assert said["eval"] and said["eval"] <= said["train"]


def test_spoken_turns_hold_a_task_as_often_as_the_text_does() -> None:
    for kind, tasks in (("instruction", WHOLE_TASKS), ("mixed", MIXED_TASKS)):
        rows = world().conversations[f"train/{kind}"]
        counts = Counter(row.metadata["task"] for row in rows)
        for task in tasks:
            expected = len(rows) * TASK_WEIGHTS[task] / sum(TASK_WEIGHTS[other] for other in tasks)
            assert abs(counts[task] - expected) < 4 * expected**0.5, (kind, task)


def test_recordings_say_what_is_rarest(monkeypatch: pytest.MonkeyPatch) -> None:
    def heard(num_candidates: int) -> Counter[str]:
        monkeypatch.setattr("voicetextblender.mini.rows.NUM_CANDIDATES", num_candidates)
        utterances = build_world(SMALL.model_copy(update={"num_recordings": 1000})).encoder_utterances
        return Counter(word for utterance in utterances for word in words(utterance.text))

    drawn, chosen = heard(1), heard(4)
    rare = sorted(drawn, key=drawn.__getitem__)[:50]
    assert sum(chosen[word] for word in rare) > 1.5 * sum(drawn[word] for word in rare)
    assert chosen.keys() >= drawn.keys()


def test_held_out_wordings_are_never_in_training() -> None:
    openings = [
        part.strip()
        for languages in WORDINGS.values()
        for wordings in languages.values()
        for template in wordings.held_out
        for part in template.replace("{q}", "{x}").split("{x}")
        if len(part.split()) > 2
    ]
    assert len(openings) > 15
    for row in rows_of("train/"):
        assert not any(opening in user_text(row) for opening in openings), row
    for row in world().conversations["eval/unseen.prompts"]:
        assert row.turns[0].parts[0] != row.clips[0] or row.turns[0].text


def test_voices_of_training_and_of_unseen_voices() -> None:
    train = {voice for voices in TRAIN_VOICES.values() for voice in voices}
    held_out = {voice for voices in HELD_OUT_VOICES.values() for voice in voices}
    assert {utterance.voice for utterance in world().encoder_utterances} <= train
    paths = {row.clips[0].path for row in world().conversations["eval/unseen.voices"]}
    assert {utterance.voice for utterance in world().eval_utterances if utterance.path in paths} <= held_out
    for utterance in world().utterances:
        assert utterance.voice in (*TRAIN_VOICES[utterance.language], *HELD_OUT_VOICES[utterance.language])


def test_combinations_of_task_and_way_of_asking_are_held_out() -> None:
    assert not {row.metadata["task"] for row in world().conversations["train/instruction"]} & set(UNSEEN_WHOLE)
    for row in world().conversations["train/mixed"]:
        assert row.metadata["task"] not in UNSEEN_MIXED
        assert row.metadata["task"] not in UNSEEN_WHOLE or len(row.turns[0].parts) > 1
    whole, in_part = [
        {opening for task in tasks for language in LANGUAGES for opening in openings_of(task, language)}
        for tasks in (UNSEEN_WHOLE, UNSEEN_MIXED)
    ]
    for row in world().conversations["train/chat"]:
        for turn in row.turns:
            if turn.clips:
                openings = whole if len(turn.parts) == 1 else in_part
                assert not turn_text(turn.parts).startswith(tuple(openings)), row
    for row in world().conversations["eval/unseen.combinations"]:
        assert row.metadata["task"] in (UNSEEN_WHOLE if row.task == "instruction" else UNSEEN_MIXED)


def openings_of(task: str, language: Language) -> set[str]:
    """What the wordings of a task begin with."""
    return {template.split("{x}")[0] for template in WORDINGS[task][language].common}


def write(folder: Path, seed: int) -> str:
    built = build_world(SMALL.model_copy(update={"seed": seed}))
    write_manifests(built, folder, {utterance.path: 16_000 for utterance in built.utterances})
    content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.jsonl")))
    return hashlib.sha256(content + repr(built.utterances).encode()).hexdigest()


def test_manifests_follow_from_the_seed_to_the_byte(tmp_path: Path) -> None:
    first, again, other = (write(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first == again != other


def test_manifest_lines_are_conversations_with_durations(tmp_path: Path) -> None:
    lengths = {utterance.path: 8_000 + index for index, utterance in enumerate(world().utterances)}
    counts = write_manifests(world(), tmp_path, lengths)
    assert counts["train/mixed"] == 300
    line = (tmp_path / "train/mixed.jsonl").read_text("utf-8").splitlines()[0]
    raw = next(part for part in json.loads(line)["messages"][0]["content"] if part["type"] == "audio")
    assert raw["path"].startswith("../clips/train/") and raw["transcript"]
    clip = parse_conversation(json.loads(line), "line", tmp_path / "train").clips[0]
    assert clip.duration_s == lengths[raw["path"].removeprefix("../")] / 16_000


def test_a_clip_without_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"clips have no length, 'clips/train/00000.flac' the first; every clip must be"
    ):
        write_manifests(world(), tmp_path, {})
