"""The data of the embedded world: training rows of every kind, held-out evaluation rows, and the clips they need.

Everything follows from the seed. Evaluation shares no statement, list or question with training; its rows on unseen
things also keep away a voice, a wording, an entity, or a way of asking.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from voicetextblender.chat.conversation import Conversation, Part, TextPart, conversation_to_row
from voicetextblender.errors import DataError, describe
from voicetextblender.files import write_atomically
from voicetextblender.mini.eval_rows import eval_rows
from voicetextblender.mini.lexicon import LANGUAGES
from voicetextblender.mini.rows import (
    MIXED_TASKS,
    STORY_KINDS,
    TRAIN_SPEECH,
    WHOLE_TASKS,
    MiniWorldConfig,
    chat_row,
    draw_task,
    keyed,
    record_anything,
    story_row,
    tell,
    text_row,
    turn_row,
    words,
)
from voicetextblender.mini.spoken import Studio
from voicetextblender.mini.tasks import (
    Scope,
)
from voicetextblender.mini.text_tasks import draw_mixture
from voicetextblender.mini.voices import HELD_OUT_VOICES, TRAIN_VOICES
from voicetextblender.prepare.synthesis import Utterance
from voicetextblender.units import samples_to_seconds


@dataclass(frozen=True)
class World:
    """Conversations by manifest name (`train/mixed`, `eval/text.touched`), and every clip they name.

    Paths of clips are relative to the data folder.
    """

    conversations: dict[str, tuple[Conversation, ...]]
    train_utterances: tuple[Utterance, ...]
    recordings: tuple[Utterance, ...]
    eval_utterances: tuple[Utterance, ...]

    @property
    def encoder_utterances(self) -> tuple[Utterance, ...]:
        """What the base speech encoder learns from: its own recordings and the clips of the training rows."""
        return (*self.train_utterances, *self.recordings)

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """What is to be synthesised, in order."""
        return (*self.encoder_utterances, *self.eval_utterances)


def build_world(
    config: MiniWorldConfig,
    train_voices: Mapping[str, Sequence[str]] = TRAIN_VOICES,
    held_out_voices: Mapping[str, Sequence[str]] = HELD_OUT_VOICES,
) -> World:
    """All rows and all clips to be spoken; takes seconds, speaks nothing."""
    train = Studio(config.seed, train_voices, "clips/train")
    evaluation = Studio(config.seed, train_voices, "clips/eval")
    unseen = Studio(config.seed, held_out_voices, "clips/unseen_voices")
    rows = {f"train/{name}": value for name, value in train_rows(config, train).items()}
    recordings = Studio(config.seed, train_voices, "clips/recordings")
    heard = Counter(word for utterance in train.utterances for word in words(utterance.text))
    for index in range(config.num_recordings):
        record_anything(keyed(config, "recording", index), recordings, heard)
    rows |= {f"eval/{name}": value for name, value in eval_rows(config, evaluation, unseen).items()}
    return World(
        {name: tuple(value) for name, value in rows.items()},
        tuple(train.utterances),
        tuple(recordings.utterances),
        (*evaluation.utterances, *unseen.utterances),
    )


def train_rows(config: MiniWorldConfig, studio: Studio) -> dict[str, list[Conversation]]:
    """The rows of each kind. No conversation has more than one spoken turn; `chat` has it among written ones."""
    rows: dict[str, list[Conversation]] = {kind: [] for kind in STORY_KINDS}
    for index in range(config.num_story_clips):
        random = keyed(config, "train story", index)
        story = tell(random, TRAIN_SPEECH, random.choice(LANGUAGES), studio)
        for kind in STORY_KINDS:
            rows[kind].append(story_row(f"train.{kind}.{index:05d}", random, TRAIN_SPEECH, kind, story))
    turns = {
        "instruction": (config.num_instruction_rows, WHOLE_TASKS),
        "mixed": (config.num_mixed_rows, MIXED_TASKS),
    }
    for kind, (num_rows, tasks) in turns.items():
        rows[kind] = []
        for index in range(num_rows):
            random = keyed(config, f"train {kind}", index)
            id = f"train.{kind}.{index:05d}"
            rows[kind].append(turn_row(id, random, kind, studio, draw_task(random, tasks)))
    rows["chat"] = [
        chat_row(f"train.chat.{index:05d}", keyed(config, "train chat", index), studio)
        for index in range(config.num_chat_rows)
    ]
    rows["text"] = [
        text_row(f"train.text.{index:05d}", draw_mixture(keyed(config, "train text", index), Scope("train")))
        for index in range(config.num_text_rows)
    ]
    return rows


def write_manifests(world: World, data_dir: Path, num_samples: Mapping[str, int]) -> dict[str, int]:
    """Write `<name>.jsonl` of every manifest under `data_dir` and return the number of rows of each.

    Args:
        num_samples: length of every clip at 16 kHz, by its path, as the synthesis gives it.

    Raises:
        DataError: a clip was not synthesised.
    """
    missing = [utterance.path for utterance in world.utterances if utterance.path not in num_samples]
    if missing:
        found = f"{len(missing)} of {len(world.utterances)} clips have no length, '{missing[0]}' the first"
        raise DataError(describe(str(data_dir), found, "every clip must be synthesised first", "Synthesise again"))
    counts = {}
    for name, conversations in world.conversations.items():
        path = data_dir / f"{name}.jsonl"
        rows = [conversation_to_row(placed(row, data_dir, path.parent, num_samples)) for row in conversations]
        with write_atomically(path) as temporary:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        counts[name] = len(rows)
    return counts


def placed(
    conversation: Conversation, data_dir: Path, manifest_dir: Path, num_samples: Mapping[str, int]
) -> Conversation:
    """The same conversation with every clip's duration, and its path from the manifest's folder."""

    def place(part: Part) -> Part:
        if isinstance(part, TextPart) or part.path is None:
            return part
        path = os.path.relpath(data_dir / part.path, manifest_dir)
        return replace(part, path=path, duration_s=samples_to_seconds(num_samples[part.path]))

    turns = tuple(replace(turn, parts=tuple(place(part) for part in turn.parts)) for turn in conversation.turns)
    return replace(conversation, turns=turns)
