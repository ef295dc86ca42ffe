"""Answers of the embedded world, worked out anew from the words of the question, and statements in both languages."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicetextblender.mini import lexicon
from voicetextblender.mini.grammar import ALL, Fact, draw_facts, questions_about, say_fact
from voicetextblender.mini.lexicon import LANGUAGES, Language
from voicetextblender.mini.tasks import MAKERS, Scope, draw, in_split
from voicetextblender.mini.text_tasks import DIALOGUE_MAKERS, TASK_WEIGHTS, TEXT_ONLY_MAKERS, draw_dialogue
from voicetextblender.mini.wordings import WORDINGS

EN = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DE = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn"]
VALUE = {word: value for words in (EN, DE) for value, word in enumerate(words)}


def word(name: str) -> lexicon.Word:
    every = (*lexicon.NAMES, *lexicon.CITIES, *lexicon.NUMBERS, *lexicon.DAYS)
    return next(one for one in every if one.en == name)


def noun(name: str) -> lexicon.Noun:
    return next(one for one in lexicon.NOUNS if one.en == name)


def verb(name: str) -> lexicon.Verb:
    every = (*lexicon.ACTIONS, lexicon.LIVES, lexicon.TRAVELS)
    return next(one for one in every if one.en == name)


APPLES = Fact(
    word("Anna"), verb("buys"), word("three"), lexicon.COLOURS[0], noun("apples"), word("Berlin"), word("Monday")
)
TRIP = Fact(word("Maria"), verb("travels to"), city=word("Rome"), day=word("Sunday"))


@pytest.mark.parametrize(
    ("fact", "language", "text"),
    [
        (APPLES, "en", "Anna buys three red apples in Berlin on Monday."),
        (APPLES, "de", "Anna kauft am Montag drei rote Äpfel in Berlin."),
        (TRIP, "en", "Maria travels to Rome on Sunday."),
        (TRIP, "de", "Maria fährt am Sonntag nach Rom."),
    ],
)
def test_statements(fact: Fact, language: Language, text: str) -> None:
    assert say_fact(fact, language) == text


def test_questions() -> None:
    english = {question.text: question.answer for question in questions_about(APPLES, "en")}
    assert english["What does Anna buy?"] == "three red apples."
    assert english["Where does Anna buy the apples?"] == "in Berlin."
    assert english["What colour are the apples?"] == "red."
    german = {question.text: question.answer for question in questions_about(APPLES, "de")}
    assert german["Wie viele Äpfel kauft Anna?"] == "drei."
    assert german["Wann kauft Anna die Äpfel?"] == "am Montag."
    trip = {question.text: question.answer for question in questions_about(TRIP, "de")}
    assert trip["Wohin fährt Maria?"] == "nach Rom." and trip["Wer fährt nach Rom?"] == "Maria."


@given(st.integers(0, 2**32))
def test_questions_of_a_story_have_one_answer(seed: int) -> None:
    facts = draw_facts(Random(seed), ALL, 3)
    for language in LANGUAGES:
        asked = [question for fact in facts for question in questions_about(fact, language)]
        assert len({question.text for question in asked}) == len({(one.text, one.answer) for one in asked})


@given(st.integers(0, 2**32))
def test_answers_come_from_the_statement(seed: int) -> None:
    (fact,) = draw_facts(Random(seed), ALL, 1)
    for language in LANGUAGES:
        said = say_fact(fact, language).lower()
        for question in questions_about(fact, language):
            assert question.answer[:-1].lower() in said


def check_answer(task: str, text: str, content: str, answer: str) -> None:
    """Work the answer out again, from the words alone."""
    items, said = content.split(), answer.rstrip(".").split()
    if task == "arithmetic":
        left, operator, right = items
        value = VALUE[left] + VALUE[right] if operator == "plus" else VALUE[left] - VALUE[right]
        assert VALUE[answer[:-1]] == value
    elif task == "sort":
        assert [VALUE[item] for item in said] == sorted(VALUE[item] for item in items)
    elif task in ("repeat", "reverse"):
        assert said == items[:: 1 if task == "repeat" else -1]
    elif task == "transcribe":
        assert answer == content and content in text
    elif task in ("first", "last"):
        assert said == [items[0 if task == "first" else -1]]
    elif task == "larger":
        assert VALUE[answer[:-1]] == max(VALUE[item] for item in items if item in VALUE)
    elif task == "json":
        values = json.loads(answer)
        words = content.rstrip(".").split()
        assert values["who"] == words[0] and values["what"] in words
        assert values["count"] in [VALUE.get(word) for word in words]
    elif task == "answer":
        assert answer[:-1].lower() in text.lower()


@pytest.mark.parametrize("task", [*MAKERS, *TEXT_ONLY_MAKERS])
def test_answers_worked_out_again(task: str) -> None:
    random = Random(task)
    for _ in range(150):
        exchange = draw(random, Scope("train", "all"), (MAKERS | TEXT_ONLY_MAKERS)[task])
        assert exchange.text == exchange.before + exchange.content + exchange.after
        check_answer(exchange.task, exchange.text, exchange.content, exchange.answer)


def test_translation_of_every_word_goes_both_ways() -> None:
    random = Random(5)
    for _ in range(100):
        exchange = draw(random, Scope("eval"), MAKERS["translate"])
        german = exchange.content if exchange.content_language == "de" else exchange.answer
        english = exchange.answer if exchange.content_language == "de" else exchange.content
        assert german.count(".") == english.count(".") and german.split()[0] == english.split()[0]


def test_follow_ups_ask_about_what_was_said_before() -> None:
    random = Random(3)
    for _ in range(100):
        first, follow_up = draw_dialogue(random, Scope("train"), "other_language").exchanges
        assert first.answer == first.content and follow_up.answer != first.answer
        assert follow_up.answer.split()[0] == first.answer.split()[0]


@pytest.mark.parametrize("split", ["train", "eval"])
def test_every_task_stays_on_its_side(split: str) -> None:
    scope = Scope("train" if split == "train" else "eval")
    for maker in (MAKERS | TEXT_ONLY_MAKERS).values():
        for seed in range(20):
            exchange = draw(Random(seed), scope, maker)
            assert in_split(exchange, split)
            assert not in_split(exchange, "eval" if split == "train" else "train")


def test_every_task_has_wordings_and_a_weight() -> None:
    assert set(TASK_WEIGHTS) == {*MAKERS, *TEXT_ONLY_MAKERS, *DIALOGUE_MAKERS}
    for languages in WORDINGS.values():
        for wordings in languages.values():
            templates = (*wordings.common, *wordings.held_out)
            assert len(set(templates)) == len(templates) and all(one.count("{x}") == 1 for one in templates)
