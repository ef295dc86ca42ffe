"""What the LLM can do that speech data never touches: single-turn tasks of text alone, and chats of several turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from voicetextblender.mini.grammar import say_fact, say_facts
from voicetextblender.mini.lexicon import (
    CATEGORIES,
    DAYS,
    LANGUAGES,
    MONTHS,
    NUMBERS,
    Language,
    Word,
    capitalise,
    other,
    say,
)
from voicetextblender.mini.tasks import (
    MAKERS,
    OPERATORS,
    Exchange,
    Maker,
    Scope,
    draw,
    draw_question,
    draw_story,
    draw_sum,
    draw_words,
    evaluate,
    in_split,
    join,
    keys_of,
    list_key,
    neighbour,
    transcribe_story,
    worded,
)

# ---- single turns


def _list_task(random: Random, scope: Scope, language: Language, task: str) -> Exchange:
    items = draw_words(random, scope)
    answers = {
        "reverse": join(items[::-1], language),
        "count_words": say(NUMBERS[len(items)], language),
        "first": say(items[0], language),
        "last": say(items[-1], language),
    }
    exchange = worded(random, scope, task, language, join(items, language), capitalise(answers[task]) + ".")
    return replace(exchange, keys=list_key(items))


def _list_maker(task: str) -> Maker:
    return lambda random, scope, language: _list_task(random, scope, language, task)


def _letter(random: Random, scope: Scope, language: Language) -> Exchange:
    pool = (*scope.entities.names, *scope.entities.cities, *DAYS, *MONTHS)
    word = say(random.choice(pool), language)
    return worded(random, scope, "letter", language, word, word[0] + ".")


def _json(random: Random, scope: Scope, language: Language) -> Exchange:
    while True:
        fact = draw_story(random, scope, 1)[0]
        if fact.noun is not None and fact.count is not None:
            break
    values = {"who": say(fact.name, language), "what": say(fact.noun, language), "count": NUMBERS.index(fact.count)}
    if fact.city is not None:
        values["where"] = say(fact.city, language)
    answer = json.dumps(values, ensure_ascii=False)
    return replace(worded(random, scope, "json", language, say_fact(fact, language), answer), keys=(fact.key,))


def _compare(random: Random, scope: Scope, language: Language, task: str) -> Exchange:
    pair = random.sample(NUMBERS, 2)
    ordered = sorted(pair, key=NUMBERS.index)
    content = f" {'or' if language == 'en' else 'oder'} ".join(say(number, language) for number in pair)
    answer = capitalise(say(ordered[-1 if task == "larger" else 0], language)) + "."
    return worded(random, scope, task, language, content, answer)


def _larger(random: Random, scope: Scope, language: Language) -> Exchange:
    return _compare(random, scope, language, "larger")


def _smaller(random: Random, scope: Scope, language: Language) -> Exchange:
    return _compare(random, scope, language, "smaller")


def _odd_one(random: Random, scope: Scope, language: Language) -> Exchange:
    usual, odd = random.sample(CATEGORIES, 2)
    items = random.sample([noun for noun in scope.entities.nouns if noun.category == usual], 3)
    stranger = random.choice([noun for noun in scope.entities.nouns if noun.category == odd])
    listed: list[Word] = [Word(noun.en, noun.de) for noun in (*items, stranger)]
    random.shuffle(listed)
    answer = capitalise(say(stranger, language)) + "."
    return replace(worded(random, scope, "odd_one", language, join(listed, language), answer), keys=list_key(listed))


def _digits(random: Random, scope: Scope, language: Language) -> Exchange:
    items = random.sample(NUMBERS[:13], random.randint(3, 5))
    answer = " ".join(str(NUMBERS.index(item)) for item in items)
    return replace(worded(random, scope, "digits", language, join(items, language), answer), keys=list_key(items))


def _check(random: Random, scope: Scope, language: Language) -> Exchange:
    """Is a claim about the statement true? A false one has another number, thing or person."""
    fact = draw_story(random, scope, 1)[0]
    claim, right = fact, random.random() < 0.5
    while claim == fact and not right:
        swap = random.choice(("name", "city"))
        if swap == "name":
            claim = replace(fact, name=random.choice(scope.entities.names))
        elif fact.city is not None:
            claim = replace(fact, city=random.choice(scope.entities.cities))
    verdict = {"en": ("No.", "Yes."), "de": ("Nein.", "Ja.")}[language][right]
    question = say_fact(claim, language)[:-1] + "?"
    exchange = worded(random, scope, "check", language, say_fact(fact, language), verdict, question)
    return replace(exchange, keys=(fact.key,))


TEXT_ONLY_MAKERS: dict[str, Maker] = {
    "reverse": _list_maker("reverse"),
    "count_words": _list_maker("count_words"),
    "first": _list_maker("first"),
    "last": _list_maker("last"),
    "letter": _letter,
    "json": _json,
    "larger": _larger,
    "smaller": _smaller,
    "odd_one": _odd_one,
    "digits": _digits,
    "check": _check,
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
    opening = random.choice({"en": ("Remember this: ", "Note: "), "de": ("Merke dir: ", "Notiere: ")}[language])
    first = Exchange(
        "chat",
        language,
        opening,
        say_facts(facts, language),
        "",
        {"en": "Good.", "de": "Gut."}[language],
        keys_of(facts),
    )
    questions = [draw_question(random, random.choice(facts), language) for _ in range(random.randint(1, 2))]
    turns = [say_turn(language, question.text, question.answer, keys_of(facts)) for question in questions]
    return (replace(first, content_language=language), *turns)


def _more_questions(random: Random, scope: Scope, language: Language) -> tuple[Exchange, ...]:
    """Statements with a question, then another question about the same statements."""
    facts = draw_story(random, scope)
    questions = [draw_question(random, random.choice(facts), language) for _ in range(2)]
    text = say_facts(facts, language)
    first = worded(random, scope, "answer", language, text, questions[0].answer, questions[0].text)
    return (
        replace(first, keys=keys_of(facts)),
        say_turn(language, questions[1].text, questions[1].answer, keys_of(facts)),
    )


def _and_in_the_other(random: Random, scope: Scope, language: Language) -> tuple[Exchange, ...]:
    """A sentence written down, then asked for in the other language."""
    facts = draw_story(random, scope, 1)
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


def _running_sum(random: Random, scope: Scope, language: Language) -> tuple[Exchange, ...]:
    """A sum, then one or two steps on from its result."""
    left, operator, right = draw_sum(random)
    terms = (NUMBERS[left], OPERATORS[operator], NUMBERS[right])
    value = evaluate(left, operator, right)
    content = " ".join(say(term, language) for term in terms)
    turns = [worded(random, scope, "arithmetic", language, content, capitalise(say(NUMBERS[value], language)) + ".")]
    for _ in range(random.randint(1, 2)):
        step = random.choice([(op, n) for op in "+-" for n in range(1, 11) if 0 <= evaluate(value, op, n) <= 20])
        value = evaluate(value, *step)
        operation = f"{say(OPERATORS[step[0]], language)} {say(NUMBERS[step[1]], language)}"
        text = f"{'And' if language == 'en' else 'Und'} {operation}?"
        turns.append(say_turn(language, text, capitalise(say(NUMBERS[value], language)) + "."))
    return tuple(turns)


def _series_on(random: Random, scope: Scope, language: Language) -> tuple[Exchange, ...]:
    """What comes after this, and after that?"""
    series = random.choice((DAYS, MONTHS))
    index, forward = random.randrange(len(series)), random.random() < 0.5
    offset = 1 if forward else -1
    words = [say(neighbour(series, index, offset * step), language) for step in range(4)]
    follow_up = {
        "en": ("And before that?", "And after that?"),
        "de": ("Und davor?", "Und danach?"),
    }[language][forward]
    turns = [worded(random, scope, "next" if forward else "previous", language, words[0], words[1] + ".")]
    turns += [say_turn(language, follow_up, word + ".") for word in words[2 : random.randint(3, 4)]]
    return tuple(turns)


def _independent(random: Random, scope: Scope, language: Language) -> tuple[Exchange, ...]:
    """Two or three questions that have nothing to do with each other."""
    tasks = ("answer", "arithmetic", "repeat", "word", "opposite", "next", "previous", "category", "translate")
    return tuple(draw(random, scope, MAKERS[random.choice(tasks)], language) for _ in range(random.randint(2, 3)))


DialogueMaker = Callable[[Random, Scope, Language], tuple[Exchange, ...]]
DIALOGUE_MAKERS: dict[str, DialogueMaker] = {
    "recall": _recall,
    "more_questions": _more_questions,
    "other_language": _and_in_the_other,
    "running_sum": _running_sum,
    "series": _series_on,
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
    "transcribe": 5,
    "translate": 9,
    "answer": 9,
    "arithmetic": 5,
    "repeat": 2,
    "sort": 4,
    "word": 4,
    "opposite": 2,
    "next": 2,
    "previous": 2,
    "category": 2,
    "reverse": 3,
    "count_words": 2,
    "first": 2,
    "last": 2,
    "letter": 3,
    "json": 3,
    "larger": 3,
    "smaller": 3,
    "odd_one": 4,
    "digits": 2,
    "check": 4,
    "recall": 3,
    "more_questions": 3,
    "other_language": 4,
    "running_sum": 4,
    "series": 2,
    "independent": 4,
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
