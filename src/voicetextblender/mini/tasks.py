"""Single-turn tasks with one right answer each. What can be asked in text can be asked by voice in the same words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, NamedTuple

from voicetextblender.files import derive_seed
from voicetextblender.mini.grammar import ALL, Entities, Fact, Question, draw_facts, questions_about, say_facts
from voicetextblender.mini.lexicon import (
    COLOURS,
    DAYS,
    LANGUAGES,
    NUMBERS,
    OPPOSITES,
    QUALITIES,
    Language,
    Noun,
    Word,
    other,
    say,
)
from voicetextblender.mini.wordings import WORDINGS

EVAL_SHARE = 8
"""One in so many keys belongs to evaluation."""

TWO_FACTS_SHARE = 0.125
"""Share of stories with two statements."""

MOST_TRIES = 10_000
"""Draws after which a task is taken to have nothing on the wanted side of the split."""

OPERATORS: dict[str, Word] = {"+": Word("plus", "plus"), "-": Word("minus", "minus")}


class Scope(NamedTuple):
    """From where the parts of an item may come, and the most statements of a story and words of a list."""

    split: Literal["train", "eval"]
    wordings: Literal["common", "held_out", "all"] = "common"
    entities: Entities = ALL
    most_facts: int = 2
    most_words: int = 3


@dataclass(frozen=True)
class Exchange:
    """One user turn and its answer.

    The user's text is `before + content + after`; `content` is what a clip can replace as a whole. `keys` name what was
    asked where there are many such things (statements, lists), and all of them stand on one side of the split. Without
    keys, one wording of the content at most is held out; `wording` is its place among those of the task.
    """

    task: str
    language: Language
    before: str
    content: str
    after: str
    answer: str
    keys: tuple[str, ...] = ()
    content_language: Language = "en"
    wording: int = 0

    @property
    def text(self) -> str:
        """The whole user turn as text."""
        return self.before + self.content + self.after


def is_held_out(key: str, wording: int = 0) -> bool:
    """Whether what `key` names belongs to evaluation, in one of its first `EVAL_SHARE` wordings.

    Only one of them can. If all could, some word (a seldom opposite, say) would be in no training speech at all, and a
    row on instructions would ask for words that nobody ever said.
    """
    return derive_seed("split", key) % EVAL_SHARE == wording


def in_split(exchange: Exchange, split: str) -> bool:
    """Whether the exchange may be used there: for evaluation every key is held out, for training none."""
    held_out = [is_held_out(key) for key in exchange.keys] or [
        is_held_out(f"{exchange.task} {exchange.language} {exchange.content}", exchange.wording)
    ]
    return all(one == (split == "eval") for one in held_out)


Maker = Callable[[Random, Scope, Language], Exchange]


def draw(random: Random, scope: Scope, maker: Maker, language: Language | None = None) -> Exchange:
    """An exchange of one task whose keys are on the right side of the split."""
    for _ in range(MOST_TRIES):
        chosen: Language = language if language is not None else random.choice(LANGUAGES)
        exchange = maker(random, scope, chosen)
        if in_split(exchange, scope.split):
            return exchange
    raise AssertionError(f"nothing of {exchange.task} in {chosen} is on the side of {scope.split}")


def worded(
    random: Random, scope: Scope, task: str, language: Language, content: str, answer: str, question: str = ""
) -> Exchange:
    """Put `content` (and `question`) into a wording of the task."""
    common, held_out = WORDINGS[task][language]
    every = (*common, *held_out)
    choices = {"common": common, "held_out": held_out, "all": every}
    chosen = random.choice(choices[scope.wordings])
    before, after = chosen.replace("{q}", question).split("{x}")
    name, wording = task.split(".")[0], every.index(chosen)
    return Exchange(name, language, before, content, after, answer, content_language=language, wording=wording)


# ---- statements


def draw_story(random: Random, scope: Scope) -> tuple[Fact, ...]:
    """One statement or seldom two, each on the right side of the split."""
    num_facts = min(2 if random.random() < TWO_FACTS_SHARE else 1, scope.most_facts)
    while True:
        facts = draw_facts(random, scope.entities, num_facts)
        if all(is_held_out(fact.key) == (scope.split == "eval") for fact in facts):
            return facts


def transcribe_story(random: Random, scope: Scope, language: Language, facts: tuple[Fact, ...]) -> Exchange:
    """The statements in `language`, given back as they are; asked for in either language."""
    text = say_facts(facts, language)
    exchange = worded(random, scope, "transcribe", random.choice(LANGUAGES), text, text)
    return replace(exchange, keys=keys_of(facts), content_language=language)


def translate_story(random: Random, scope: Scope, language: Language, facts: tuple[Fact, ...]) -> Exchange:
    """The statements in `language`, to be said in the other one; asked for in either language."""
    task = f"translate.to_{other(language)}"
    text, answer = say_facts(facts, language), say_facts(facts, other(language))
    exchange = worded(random, scope, task, random.choice(LANGUAGES), text, answer)
    return replace(exchange, keys=keys_of(facts), content_language=language)


def answer_story(random: Random, scope: Scope, language: Language, facts: tuple[Fact, ...]) -> Exchange:
    """The statements and a question about one of them, all in `language`."""
    question = draw_question(random, random.choice(facts), language)
    text = say_facts(facts, language)
    exchange = worded(random, scope, "answer", language, text, question.answer, question.text)
    return replace(exchange, keys=keys_of(facts))


def remember_story(random: Random, scope: Scope, language: Language, facts: tuple[Fact, ...]) -> Exchange:
    """The statements in `language`, to be kept in mind for later."""
    answer = {"en": "Good.", "de": "Gut."}[language]
    exchange = worded(random, scope, "remember", language, say_facts(facts, language), answer)
    return replace(exchange, keys=keys_of(facts), content_language=language)


def keys_of(facts: tuple[Fact, ...]) -> tuple[str, ...]:
    """The split keys of statements."""
    return tuple(fact.key for fact in facts)


def draw_question(random: Random, fact: Fact, language: Language) -> Question:
    """A question about one statement: the kind first, so that kinds with many wordings are not more frequent."""
    questions = questions_about(fact, language)
    kind = random.choice(sorted({question.kind for question in questions}))
    return random.choice([question for question in questions if question.kind == kind])


def _transcribe(random: Random, scope: Scope, language: Language) -> Exchange:
    return transcribe_story(random, scope, language, draw_story(random, scope))


def _translate(random: Random, scope: Scope, language: Language) -> Exchange:
    return translate_story(random, scope, language, draw_story(random, scope))


def _answer(random: Random, scope: Scope, language: Language) -> Exchange:
    return answer_story(random, scope, language, draw_story(random, scope))


def _remember(random: Random, scope: Scope, language: Language) -> Exchange:
    return remember_story(random, scope, language, draw_story(random, scope))


# ---- words and numbers


def draw_words(random: Random, scope: Scope) -> list[Word]:
    """Two or more different words of one sort: numbers, things, people or colours."""
    pool: list[Word] = random.choice(
        (
            list(NUMBERS),
            [Word(noun.en, noun.de) for noun in scope.entities.nouns],
            list(scope.entities.names),
            [Word(colour.en, colour.de) for colour in COLOURS],
        )
    )
    return random.sample(pool, random.randint(2, scope.most_words))


def join(items: list[Word], language: Language) -> str:
    """The words in one language, one after the other as they would be spoken."""
    return " ".join(say(item, language) for item in items)


def list_key(items: list[Word]) -> tuple[str, ...]:
    """The split key of a list of words."""
    return ("list " + join(items, "en"),)


def draw_sum(random: Random) -> tuple[int, str, int]:
    """Two numbers up to five and an operator whose result is not negative."""
    left, right = random.randint(0, 5), random.randint(0, 5)
    return (left, "+", right) if random.random() < 0.6 else (max(left, right), "-", min(left, right))


def _arithmetic(random: Random, scope: Scope, language: Language) -> Exchange:
    left, operator, right = draw_sum(random)
    terms = (NUMBERS[left], OPERATORS[operator], NUMBERS[right])
    answer = say(NUMBERS[left + right if operator == "+" else left - right], language) + "."
    return worded(random, scope, "arithmetic", language, " ".join(say(term, language) for term in terms), answer)


def _repeat(random: Random, scope: Scope, language: Language) -> Exchange:
    items = draw_words(random, scope)
    text = join(items, language)
    return replace(worded(random, scope, "repeat", language, text, text + "."), keys=list_key(items))


def _sort(random: Random, scope: Scope, language: Language) -> Exchange:
    items = random.sample(NUMBERS, random.randint(2, scope.most_words))
    answer = join(sorted(items, key=NUMBERS.index), language) + "."
    return replace(worded(random, scope, "sort", language, join(items, language), answer), keys=list_key(items))


def _word(random: Random, scope: Scope, language: Language) -> Exchange:
    group: tuple[Word | Noun, ...] = random.choice((NUMBERS, scope.entities.nouns, DAYS, COLOURS + QUALITIES))  # type: ignore[arg-type]
    word, target = random.choice(group), random.choice(LANGUAGES)
    answer = say(word, target) + "."
    exchange = worded(random, scope, f"word.to_{target}", language, say(word, other(target)), answer)
    return replace(exchange, content_language=other(target))


def _opposite(random: Random, scope: Scope, language: Language) -> Exchange:
    pair = random.choice(OPPOSITES)
    word, answer = pair if random.random() < 0.5 else pair[::-1]
    text = say(answer, language) + "."
    return worded(random, scope, "opposite", language, say(word, language), text)


def neighbour(series: tuple[Word, ...], index: int, offset: int) -> Word:
    """The element `offset` places on, around the end."""
    return series[(index + offset) % len(series)]


def _next(random: Random, scope: Scope, language: Language) -> Exchange:
    return _in_series(random, scope, language, "next", 1)


def _previous(random: Random, scope: Scope, language: Language) -> Exchange:
    return _in_series(random, scope, language, "previous", -1)


def _in_series(random: Random, scope: Scope, language: Language, task: str, offset: int) -> Exchange:
    series = DAYS
    index = random.randrange(len(series))
    answer = say(neighbour(series, index, offset), language) + "."
    return worded(random, scope, task, language, say(series[index], language), answer)


def _category(random: Random, scope: Scope, language: Language) -> Exchange:
    noun = random.choice(scope.entities.nouns)
    answer = say(noun.category, language) + "."
    return worded(random, scope, "category", language, say(noun, language), answer)


MAKERS: dict[str, Maker] = {
    "transcribe": _transcribe,
    "translate": _translate,
    "answer": _answer,
    "remember": _remember,
    "arithmetic": _arithmetic,
    "repeat": _repeat,
    "sort": _sort,
    "word": _word,
    "opposite": _opposite,
    "next": _next,
    "previous": _previous,
    "category": _category,
}
"""The tasks that speech touches."""
