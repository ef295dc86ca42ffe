"""What the LLM can do that speech data never touches: single-turn tasks of text alone, and chats of several turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from voicetextblender.mini.grammar import say_fact, say_facts
from voicetextblender.mini.lexicon import (
    LANGUAGES,
    NUMBERS,
    Language,
    other,
    say,
)
from voicetextblender.mini.tasks import (
    MAKERS,
    Exchange,
    Maker,
    Scope,
    draw,
    draw_question,
    draw_story,
    draw_words,
    in_split,
    join,
    keys_of,
    list_key,
    remember_story,
    transcribe_story,
    worded,
)

# ---- single turns


def _list_task(random: Random, scope: Scope, language: Language, task: str) -> Exchange:
    items = draw_words(random, scope)
    answers = {
        "reverse": join(items[::-1], language),
        "first": say(items[0], language),
        "last": say(items[-1], language),
    }
    exchange = worded(random, scope, task, language, join(items, language), answers[task] + ".")
    return replace(exchange, keys=list_key(items))


def _list_maker(task: str) -> Maker:
    return lambda random, scope, language: _list_task(random, scope, language, task)


def _json(random: Random, scope: Scope, language: Language) -> Exchange:
    while True:
        fact = draw_story(random, scope._replace(most_facts=1))[0]
        if fact.noun is not None and fact.count is not None:
            break
    values = {"who": say(fact.name, language), "what": say(fact.noun, language), "count": NUMBERS.index(fact.count)}
    if fact.city is not None:
        values["where"] = say(fact.city, language)
    answer = json.dumps(values, ensure_ascii=False)
    return replace(worded(random, scope, "json", language, say_fact(fact, language), answer), keys=(fact.key,))


def _larger(random: Random, scope: Scope, language: Language) -> Exchange:
    pair = random.sample(NUMBERS, 2)
    content = f" {'or' if language == 'en' else 'oder'} ".join(say(number, language) for number in pair)
    answer = say(max(pair, key=NUMBERS.index), language) + "."
    return worded(random, scope, "larger", language, content, answer)


TEXT_ONLY_MAKERS: dict[str, Maker] = {
    "reverse": _list_maker("reverse"),
    "first": _list_maker("first"),
    "last": _list_maker("last"),
    "json": _json,
    "larger": _larger,
}
"""The single-turn tasks that speech never touches."""


# ---- several turns


@dataclass(frozen=True)
class Dialogue:
    """Several exchanges of one chat, in order; a later one may mean something only after the earlier ones."""

    task: str
    exchanges: tuple[Exchange, ...]


def say_turn(language: Language, text: str, answer: str, keys: tuple[str, ...] = ()) -> Exchange:
    """An exchange whose user turn is one piece."""
    return Exchange("chat", language, "", text, "", answer, keys, language)


def _recall(random: Random, scope: Scope, language: Language) -> tuple[Exchange, ...]:
    """Statements first, questions about them later."""
    facts = draw_story(random, scope)
    questions = [draw_question(random, random.choice(facts), language) for _ in range(random.randint(1, 2))]
    turns = [say_turn(language, question.text, question.answer, keys_of(facts)) for question in questions]
    return (remember_story(random, scope, language, facts), *turns)


def _more_questions(random: Random, scope: Scope, language: Language) -> tuple[Exchange, ...]:
    """Statements with a question, then one or two more questions about the same statements."""
    facts = draw_story(random, scope)
    questions = [draw_question(random, random.choice(facts), language) for _ in range(random.randint(2, 3))]
    text = say_facts(facts, language)
    first = worded(random, scope, "answer", language, text, questions[0].answer, questions[0].text)
    more = [say_turn(language, question.text, question.answer, keys_of(facts)) for question in questions[1:]]
    return (replace(first, keys=keys_of(facts)), *more)


def _and_in_the_other(random: Random, scope: Scope, language: Language) -> tuple[Exchange, ...]:
    """A sentence written down, then asked for in the other language."""
    facts = draw_story(random, scope._replace(most_facts=1))
    first = transcribe_story(random, scope, language, facts)
    asks = {
        ("en", "de"): ("And in German?", "What is that in German?"),
        ("en", "en"): ("And in English?", "What is that in English?"),
        ("de", "de"): ("Und auf Deutsch?", "Was heißt das auf Deutsch?"),
        ("de", "en"): ("Und auf Englisch?", "Was heißt das auf Englisch?"),
    }
    asked_in = first.language
    follow_up = random.choice(asks[asked_in, other(language)])
    return first, say_turn(asked_in, follow_up, say_fact(facts[0], other(language)), keys_of(facts))


def _independent(random: Random, scope: Scope, language: Language) -> tuple[Exchange, ...]:
    """Two or three questions that have nothing to do with each other."""
    tasks = ("answer", "arithmetic", "repeat", "word", "opposite", "next", "previous", "category", "translate")
    return tuple(draw(random, scope, MAKERS[random.choice(tasks)], language) for _ in range(random.randint(2, 3)))


DialogueMaker = Callable[[Random, Scope, Language], tuple[Exchange, ...]]
DIALOGUE_MAKERS: dict[str, DialogueMaker] = {
    "recall": _recall,
    "more_questions": _more_questions,
    "other_language": _and_in_the_other,
    "independent": _independent,
}
"""The patterns of a chat with several turns."""


def draw_dialogue(random: Random, scope: Scope, task: str) -> Dialogue:
    """A chat on the right side of the split. Follow-ups mean nothing alone and have no say in it."""
    while True:
        exchanges = DIALOGUE_MAKERS[task](random, scope, random.choice(LANGUAGES))
        asked = [exchange for exchange in exchanges if exchange.keys or exchange.task != "chat"]
        if all(in_split(exchange, scope.split) for exchange in asked):
            return Dialogue(task, exchanges)


# ---- the mixture

TASK_WEIGHTS: dict[str, float] = {
    "transcribe": 4,
    "translate": 7,
    "answer": 7,
    "remember": 2,
    "arithmetic": 8,
    "repeat": 10,
    "sort": 8,
    "word": 5,
    "opposite": 4,
    "next": 2,
    "previous": 2,
    "category": 3,
    "reverse": 5,
    "first": 2,
    "last": 2,
    "json": 4,
    "larger": 3,
    "recall": 5,
    "more_questions": 5,
    "other_language": 4,
    "independent": 5,
}
"""How often the text data holds each task; the harder, the oftener."""


def draw_chat(random: Random, scope: Scope, task: str) -> Dialogue:
    """A chat of any task, of one turn or several."""
    if task in DIALOGUE_MAKERS:
        return draw_dialogue(random, scope, task)
    return Dialogue(task, (draw(random, scope, (MAKERS | TEXT_ONLY_MAKERS)[task]),))


def draw_mixture(random: Random, scope: Scope) -> Dialogue:
    """A chat of a task drawn by `TASK_WEIGHTS`."""
    return draw_chat(random, scope, random.choices(list(TASK_WEIGHTS), list(TASK_WEIGHTS.values()))[0])
