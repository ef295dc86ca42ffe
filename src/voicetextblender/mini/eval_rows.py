"""The evaluation rows of the embedded world: one manifest for each row of the report, none of it ever trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from voicetextblender.chat.conversation import Conversation, TextPart
from voicetextblender.mini.grammar import HELD_OUT, SPOKEN, Entities, Fact, say_facts
from voicetextblender.mini.lexicon import HELD_OUT_ENTITIES, LANGUAGES, Language
from voicetextblender.mini.rows import (
    EVAL_SPEECH,
    MIXED_TASKS,
    STORY_KINDS,
    UNSEEN_MIXED,
    UNSEEN_WHOLE,
    WHOLE_TASKS,
    MiniWorldConfig,
    Story,
    keyed,
    story_row,
    text_row,
    turn_row,
    turn_text,
)
from voicetextblender.mini.spoken import Studio, as_conversation, is_one_language, mixed, spoken, written
from voicetextblender.mini.tasks import (
    MAKERS,
    Scope,
    draw_story,
)
from voicetextblender.mini.text_tasks import DIALOGUE_MAKERS, TEXT_ONLY_MAKERS, draw_chat


def eval_rows(config: MiniWorldConfig, studio: Studio, unseen: Studio) -> dict[str, list[Conversation]]:
    """One manifest per row of the report."""
    n = config.num_eval_items
    rows: dict[str, list[Conversation]] = {
        "text.touched": text_items(config, "text.touched", tuple(MAKERS), n),
        "text.untouched": text_items(config, "text.untouched", (*TEXT_ONLY_MAKERS, *DIALOGUE_MAKERS), n),
        **story_items(config, studio, unseen),
        **instruction_items(config, studio),
        "mixed": distinct(n, lambda i: mixed_item(keyed(config, "mixed", i), studio), studio),
        "multi_turn.spoken": distinct(
            config.num_multi_turn_items, lambda i: multi_turn_item(keyed(config, "multi turn", i), i, studio), studio
        ),
        "unseen.combinations": distinct(n, lambda i: combination_item(config, i, studio), studio),
    }
    return {
        name: [replace(row, id=f"{name}.{index:04d}") for index, row in enumerate(value)]
        for name, value in rows.items()
    }


def distinct(num_items: int, make: Callable[[int], Conversation], studio: Studio | None = None) -> list[Conversation]:
    """`num_items` conversations with different user text, or as many as 10 times so many tries give.

    Clips of a conversation that is dropped are taken back from `studio`.
    """
    seen: set[str] = set()
    kept: list[Conversation] = []
    for attempt in range(10 * num_items):
        num_clips = 0 if studio is None else len(studio.utterances)
        conversation = make(attempt)
        key = user_text(conversation)
        if key not in seen:
            seen.add(key)
            kept.append(conversation)
        elif studio is not None:
            del studio.utterances[num_clips:]
        if len(kept) == num_items:
            break
    return kept


def user_text(conversation: Conversation) -> str:
    """All that the user writes and says, as text."""
    return "\n".join(turn_text(turn.parts) for turn in conversation.turns if turn.role == "user")


def text_items(config: MiniWorldConfig, name: str, tasks: Sequence[str], num_items: int) -> list[Conversation]:
    """Held-out chats in writing, the tasks in turn."""

    def make(index: int) -> Conversation:
        random = keyed(config, name, index)
        return text_row("", draw_chat(random, Scope("eval"), tasks[index % len(tasks)]))

    return distinct(num_items, make)


def story_items(config: MiniWorldConfig, studio: Studio, unseen: Studio) -> dict[str, list[Conversation]]:
    """Rows about spoken statements; all but those on unseen entities and voices share their clips."""
    n, half = config.num_eval_items, config.num_eval_items // 2
    stories = {
        language: eval_stories(config, n, f"story {language}", language, EVAL_SPEECH, studio) for language in LANGUAGES
    }
    both = [story for pair in zip(stories["en"], stories["de"], strict=True) for story in pair][:n]
    odd_wordings = EVAL_SPEECH._replace(wordings="held_out")
    kinds = tuple(STORY_KINDS)

    def row(name: str, index: int, kind: str, story: Story, scope: Scope = EVAL_SPEECH) -> Conversation:
        return story_row("", keyed(config, name, index), scope, kind, story)

    rows = {
        f"transcription.{language}": [row("transcribe", i, "transcription", s) for i, s in enumerate(stories[language])]
        for language in LANGUAGES
    }
    rows["translation.speech"] = [row("translate", i, "translation", story) for i, story in enumerate(both)]
    rows["translation.text"] = [in_writing(conversation) for conversation in rows["translation.speech"]]
    rows["answering.spoken"] = [row("answer", i, "answering", story) for i, story in enumerate(both)]
    rows["unseen.prompts"] = [row("prompts", i, kinds[i % 3], s, odd_wordings) for i, s in enumerate(both)]
    again = [
        replace(story, clip=unseen.record(say_facts(story.facts, story.language), story.language))
        for story in (*stories["en"][:half], *stories["de"][:half])
    ]
    rows["unseen.voices"] = [row("voices", i, "transcription", story) for i, story in enumerate(again)]
    strangers = [
        story
        for language in LANGUAGES
        for story in eval_stories(config, half, f"entities {language}", language, None, studio)
    ]
    rows["unseen.entities"] = [row("entities", i, "transcription", story) for i, story in enumerate(strangers)]
    return rows


def eval_stories(
    config: MiniWorldConfig, num_stories: int, name: str, language: Language, scope: Scope | None, studio: Studio
) -> list[Story]:
    """Different held-out stories; without a scope each has an entity that training speech never says."""
    seen: set[str] = set()
    stories: list[Story] = []
    attempt = 0
    while len(stories) < num_stories:
        random = keyed(config, name, attempt)
        attempt += 1
        facts = draw_story(random, scope) if scope is not None else draw_stranger(random)
        text = say_facts(facts, language)
        if text not in seen:
            seen.add(text)
            stories.append(Story(facts, language, studio.record(text, language)))
    return stories


def draw_stranger(random: Random) -> tuple[Fact, ...]:
    """One held-out statement with at least one held-out name, city or thing."""
    names, cities, things = SPOKEN
    choices = (Entities(HELD_OUT.names, cities, things), Entities(names, HELD_OUT.cities, things))
    entities = random.choice((*choices, Entities(names, cities, HELD_OUT.nouns)))
    while True:
        (fact,) = draw_story(random, EVAL_SPEECH._replace(entities=entities))
        if any(entity in HELD_OUT_ENTITIES for entity in (fact.name, fact.city, fact.noun)):
            return (fact,)


def in_writing(conversation: Conversation) -> Conversation:
    """The same conversation with every clip written out, as a text task."""
    turns = tuple(
        replace(turn, parts=(TextPart(turn_text(turn.parts)),)) if turn.clips else turn for turn in conversation.turns
    )
    return replace(conversation, turns=turns, task="text")


def instruction_items(config: MiniWorldConfig, studio: Studio) -> dict[str, list[Conversation]]:
    """The same instructions spoken and written."""

    def make(index: int) -> Conversation:
        random = keyed(config, "instruction", index)
        return turn_row("", random, "instruction", studio, WHOLE_TASKS[index % len(WHOLE_TASKS)], EVAL_SPEECH)

    items = distinct(config.num_eval_items, make, studio)
    return {"instructions.spoken": items, "instructions.written": [in_writing(item) for item in items]}


def mixed_item(random: Random, studio: Studio) -> Conversation:
    """A turn of any task, spoken in part; every task as often as another."""
    return turn_row("", random, "mixed", studio, random.choice(MIXED_TASKS), EVAL_SPEECH)


def multi_turn_item(random: Random, index: int, studio: Studio) -> Conversation:
    """A chat of two or three turns with at least two of them spoken, wholly or in part."""
    task = list(DIALOGUE_MAKERS)[index % len(DIALOGUE_MAKERS)]
    chat = draw_chat(random, EVAL_SPEECH, task)
    silent = random.randrange(len(chat.exchanges)) if len(chat.exchanges) > 2 and random.random() < 0.4 else None
    turns = []
    for position, exchange in enumerate(chat.exchanges):
        if position == silent:
            parts = written(exchange)
        elif is_one_language(exchange) and random.random() < 0.3:
            parts = mixed(exchange, random, studio)
        else:
            parts = spoken(exchange, studio)
        turns.append((parts, exchange.answer))
    return as_conversation("", turns, "multi_turn", chat.exchanges[0].language, task)


def combination_item(config: MiniWorldConfig, index: int, studio: Studio) -> Conversation:
    """A task asked in a way that training never asks it: by voice alone, or partly by voice."""
    random = keyed(config, "combination", index)
    kind, tasks = (("instruction", UNSEEN_WHOLE), ("mixed", UNSEEN_MIXED))[index % 3 == 2]
    return turn_row("", random, kind, studio, random.choice(tasks), EVAL_SPEECH)
