"""Rows of the embedded world: what is asked about a clip, a turn spoken as a whole or in part, a chat in text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from pydantic import Field

from voicetextblender.chat.conversation import AudioPart, Conversation, Part, TextPart
from voicetextblender.config import StrictConfig
from voicetextblender.files import derive_seed
from voicetextblender.mini.grammar import SPOKEN, Fact, say_facts
from voicetextblender.mini.lexicon import Language
from voicetextblender.mini.spoken import (
    Studio,
    as_conversation,
    is_one_language,
    mixed,
    run,
    spoken,
    with_clip,
    word_spans,
    written,
)
from voicetextblender.mini.tasks import (
    MAKERS,
    Exchange,
    Scope,
    answer_story,
    draw,
    draw_story,
    transcribe_story,
    translate_story,
)
from voicetextblender.mini.text_tasks import (
    DIALOGUE_MAKERS,
    TASK_WEIGHTS,
    TEXT_ONLY_MAKERS,
    Dialogue,
    draw_chat,
    draw_mixture,
)

WHOLE_TASKS = ("answer", "arithmetic", "repeat", "word", "opposite", "next", "previous", "translate", "remember")
"""Asked by voice alone, instruction and all. Training never hears `sort` and `category` so."""
MIXED_TASKS = (
    "answer",
    "arithmetic",
    "repeat",
    "word",
    "opposite",
    "next",
    "sort",
    "category",
    "translate",
    "remember",
)
"""Asked partly by voice. In training `previous` is never asked so."""
UNSEEN_WHOLE = ("sort", "category")
UNSEEN_MIXED = ("previous",)

TRAIN_SPEECH = Scope("train", "common", SPOKEN, most_facts=1, most_words=2)
EVAL_SPEECH = Scope("eval", "common", SPOKEN, most_facts=1, most_words=2)
RECORDED = Scope("train", "all", SPOKEN, most_facts=1, most_words=2)
FRAGMENT_SHARE = 0.6
"""Share of the base encoder's own recordings that are some words of a turn instead of all."""
NUM_CANDIDATES = 4
"""How many of them are drawn for each that is spoken."""

StoryMaker = Callable[[Random, Scope, Language, tuple[Fact, ...]], Exchange]
STORY_KINDS: dict[str, StoryMaker] = {
    "transcription": transcribe_story,
    "translation": translate_story,
    "answering": answer_story,
}


class MiniWorldConfig(StrictConfig):
    """How much of each kind there is.

    Args:
        num_story_clips: clips of statements; each serves transcription, translation and answering.
        num_recordings: clips that only the base speech encoder learns from, with their transcripts.
    """

    seed: int = 0
    num_story_clips: int = Field(default=2500, ge=1)
    num_instruction_rows: int = Field(default=2500, ge=1)
    num_mixed_rows: int = Field(default=2500, ge=1)
    num_chat_rows: int = Field(default=800, ge=1)
    num_recordings: int = Field(default=5000, ge=1)
    num_text_rows: int = Field(default=5000, ge=1)
    num_eval_items: int = Field(default=200, ge=2)
    num_multi_turn_items: int = Field(default=100, ge=1)


@dataclass(frozen=True)
class Story:
    """Some statements in one language and the clip that says them."""

    facts: tuple[Fact, ...]
    language: Language
    clip: AudioPart


def keyed(config: MiniWorldConfig, *key: int | str) -> Random:
    """Randomness of one item."""
    return Random(derive_seed("mini", config.seed, *key))


def tell(random: Random, scope: Scope, language: Language, studio: Studio) -> Story:
    """A story with its clip."""
    facts = draw_story(random, scope)
    return Story(facts, language, studio.record(say_facts(facts, language), language))


def story_row(id: str, random: Random, scope: Scope, kind: str, story: Story) -> Conversation:
    """What is asked about the clip of a story, in writing."""
    exchange = STORY_KINDS[kind](random, scope, story.language, story.facts)
    turns = [(with_clip(exchange, story.clip), exchange.answer)]
    return as_conversation(id, turns, kind, story.language, exchange.task)


def turn_row(
    id: str, random: Random, kind: str, studio: Studio, task: str, scope: Scope = TRAIN_SPEECH
) -> Conversation:
    """A turn spoken as a whole (`instruction`) or in part (`mixed`)."""
    exchange = draw_speakable(random, scope, task)
    if kind == "instruction":
        parts = spoken(exchange, studio)
    else:
        parts = mixed(exchange, random, studio, may_be_whole=exchange.task not in UNSEEN_WHOLE)
    return as_conversation(id, [(parts, exchange.answer)], kind, exchange.language, exchange.task)


def draw_task(random: Random, tasks: Sequence[str]) -> str:
    """A task of speech, as often as the text data holds it beside the others."""
    return random.choices(tasks, [TASK_WEIGHTS[task] for task in tasks])[0]


def chat_row(id: str, random: Random, studio: Studio) -> Conversation:
    """A chat of several turns of which exactly one is spoken, wholly or in part; the others are written."""
    while True:
        chat = draw_chat(random, TRAIN_SPEECH, random.choice(list(DIALOGUE_MAKERS)))
        position = random.randrange(len(chat.exchanges))
        exchange = chat.exchanges[position]
        is_whole = random.random() < 0.7 or not is_one_language(exchange)
        if exchange.task not in (UNSEEN_WHOLE if is_whole else UNSEEN_MIXED):
            break
    turns = [(written(exchange), exchange.answer) for exchange in chat.exchanges]
    said = spoken(exchange, studio) if is_whole else mixed(exchange, random, studio, may_be_whole=False)
    turns[position] = (said, exchange.answer)
    return as_conversation(id, turns, "mixed", chat.exchanges[0].language, chat.task)


def record_anything(random: Random, studio: Studio, heard: Counter[str]) -> None:
    """Record a turn, or some words of one, of any chat in writing that speech may touch.

    The base encoder has to know how every wording and every follow-up sounds, as a real one does, long before the
    fine-tuning asks for some of them. Of some turns that are drawn, the one is recorded whose rarest word was `heard`
    least. Its words are added.
    """
    text, language = min(
        (draw_recording(random) for _ in range(NUM_CANDIDATES)),
        key=lambda drawn: min(heard[word] for word in words(drawn[0])),
    )
    heard.update(words(text))
    studio.record(text, language)


def draw_recording(random: Random) -> tuple[str, Language]:
    """What may be recorded, and in which language."""
    while True:
        chat = draw_mixture(random, RECORDED)
        exchange = random.choice(chat.exchanges)
        if exchange.task not in TEXT_ONLY_MAKERS and is_one_language(exchange):
            break
    text = exchange.text
    if random.random() < FRAGMENT_SHARE:
        start, end = run(word_spans(text), random)
        text = text[start:end]
    return text, exchange.language


def words(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    return re.findall(r"\w+", text)


def draw_speakable(random: Random, scope: Scope, task: str) -> Exchange:
    """An exchange that one voice can say."""
    while True:
        exchange = draw(random, scope, MAKERS[task])
        if is_one_language(exchange):
            return exchange


def text_row(id: str, chat: Dialogue) -> Conversation:
    """A chat in writing."""
    turns = [(written(exchange), exchange.answer) for exchange in chat.exchanges]
    return as_conversation(id, turns, "text", chat.exchanges[0].language, chat.task)


def turn_text(parts: Sequence[Part]) -> str:
    """Written parts and transcripts, joined as they stand: what the turn would be in writing."""
    return "".join(part.text if isinstance(part, TextPart) else part.transcript or "" for part in parts)
