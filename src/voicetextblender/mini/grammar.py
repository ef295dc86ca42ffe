"""Statements about who does what, said in English and German, and the questions that they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from voicetextblender.mini.lexicon import (
    ACTIONS,
    CITIES,
    COLOURS,
    DAYS,
    HELD_OUT_CITIES,
    HELD_OUT_NAMES,
    HELD_OUT_NOUNS,
    LIVES,
    NAMES,
    NOUNS,
    NUMBERS,
    QUALITIES,
    TRAVELS,
    WORKS,
    Adjective,
    Language,
    Noun,
    Verb,
    Word,
    say,
)

COUNTS = NUMBERS[2:]
"""From two on: with "one", German endings would depend on gender."""


@dataclass(frozen=True)
class Fact:
    """One statement: an action on some things, or a person in a place (then `noun` and `count` are None)."""

    name: Word
    verb: Verb
    count: Word | None = None
    adjective: Adjective | None = None
    noun: Noun | None = None
    city: Word | None = None
    day: Word | None = None

    @property
    def key(self) -> str:
        """The same for both languages; decides on which side of the train/eval split the statement stands."""
        return say_fact(self, "en")


class Question(NamedTuple):
    """A question about a statement, and its answer."""

    kind: str
    text: str
    answer: str


def say_things(fact: Fact, language: Language) -> str:
    """`three red apples` / `drei rote Äpfel`; the empty string for a statement about a place."""
    if fact.noun is None or fact.count is None:
        return ""
    adjective = "" if fact.adjective is None else fact.adjective.en
    if language == "de" and fact.adjective is not None:
        adjective = fact.adjective.de_attributive
    return " ".join(part for part in (say(fact.count, language), adjective, say(fact.noun, language)) if part)


def say_fact(fact: Fact, language: Language) -> str:
    """The statement as a sentence, with its period. German puts the day right after the verb, English last."""
    day = "" if fact.day is None else f"{'on' if language == 'en' else 'am'} {say(fact.day, language)}"
    things, verb = say_things(fact, language), say(fact.verb, language)
    if things:
        place = "" if fact.city is None else f"in {say(fact.city, language)}"
        order = (verb, things, place, day) if language == "en" else (verb, day, things, place)
    else:
        place = "" if fact.city is None else say(fact.city, language)
        order = (verb, place, day, "")
        if language == "de":  # "fährt am Montag nach Rom": the preposition is the verb's last word
            stem, preposition = verb.rsplit(" ", 1)
            order = (stem, day, preposition, place)
    return " ".join(part for part in (say(fact.name, language), *order) if part) + "."


def say_facts(facts: Sequence[Fact], language: Language) -> str:
    """Several statements, one sentence each."""
    return " ".join(say_fact(fact, language) for fact in facts)


def questions_about(fact: Fact, language: Language) -> list[Question]:
    """Every question that the statement alone answers, in every wording of that question."""
    maker = _questions_en if language == "en" else _questions_de
    return [Question(kind, text, answer + ".") for kind, text, answer in maker(fact)]


def _questions_en(fact: Fact) -> list[Question]:
    name = fact.name.en
    base = fact.verb.base
    found = []
    if fact.noun is None:
        city = "" if fact.city is None else fact.city.en
        preposition = fact.verb.en.rsplit(" ", 1)[1]
        found.append(Question("who", f"Who {fact.verb.en} {city}?", name))
        where = f"Where does {name} {base}{' to' if preposition == 'to' else ''}?"
        found.append(Question("where", where, f"{preposition} {city}"))
        if fact.day is not None:
            found.append(Question("when", f"When does {name} {base} {preposition} {city}?", f"on {fact.day.en}"))
            found.append(Question("when", f"On which day does {name} {base}?", f"on {fact.day.en}"))
        return found
    noun, things = fact.noun.en, say_things(fact, "en")
    count = "" if fact.count is None else fact.count.en
    found.append(Question("who", f"Who {fact.verb.en} {noun}?", name))
    found.append(Question("who", f"Who {fact.verb.en} the {noun}?", name))
    found.append(Question("what", f"What does {name} {base}?", things))
    found.append(Question("how_many", f"How many {noun} does {name} {base}?", count))
    found.append(Question("how_many", f"How many {noun} are there?", count))
    if fact.adjective is not None and fact.adjective in COLOURS:
        found.append(Question("colour", f"What colour are the {noun}?", fact.adjective.en))
        found.append(Question("colour", f"Which colour do the {noun} have?", fact.adjective.en))
    if fact.city is not None:
        found.append(Question("where", f"Where does {name} {base} the {noun}?", f"in {fact.city.en}"))
        found.append(Question("where", f"Where is {name}?", f"in {fact.city.en}"))
    if fact.day is not None:
        found.append(Question("when", f"When does {name} {base} the {noun}?", f"on {fact.day.en}"))
        found.append(Question("when", f"On which day does {name} {base} the {noun}?", f"on {fact.day.en}"))
    return found


def _questions_de(fact: Fact) -> list[Question]:
    name, verb = fact.name.de, fact.verb.de
    found = []
    if fact.noun is None:
        city = "" if fact.city is None else fact.city.de
        stem, preposition = verb.rsplit(" ", 1)
        found.append(Question("who", f"Wer {verb} {city}?", name))
        where = f"{'Wohin' if preposition == 'nach' else 'Wo'} {stem} {name}?"
        found.append(Question("where", where, f"{preposition} {city}"))
        if fact.day is not None:
            found.append(Question("when", f"Wann {stem} {name} {preposition} {city}?", f"am {fact.day.de}"))
            found.append(Question("when", f"An welchem Tag {stem} {name}?", f"am {fact.day.de}"))
        return found
    noun, things = fact.noun.de, say_things(fact, "de")
    count = "" if fact.count is None else fact.count.de
    found.append(Question("who", f"Wer {verb} {noun}?", name))
    found.append(Question("who", f"Wer {verb} die {noun}?", name))
    found.append(Question("what", f"Was {verb} {name}?", things))
    found.append(Question("how_many", f"Wie viele {noun} {verb} {name}?", count))
    found.append(Question("how_many", f"Wie viele {noun} sind es?", count))
    if fact.adjective is not None and fact.adjective in COLOURS:
        found.append(Question("colour", f"Welche Farbe haben die {noun}?", fact.adjective.de))
        found.append(Question("colour", f"In welcher Farbe sind die {noun}?", fact.adjective.de))
    if fact.city is not None:
        found.append(Question("where", f"Wo {verb} {name} die {noun}?", f"in {fact.city.de}"))
        found.append(Question("where", f"Wo ist {name}?", f"in {fact.city.de}"))
    if fact.day is not None:
        found.append(Question("when", f"Wann {verb} {name} die {noun}?", f"am {fact.day.de}"))
        found.append(Question("when", f"An welchem Tag {verb} {name} die {noun}?", f"am {fact.day.de}"))
    return found


class Entities(NamedTuple):
    """The names, cities and nouns that statements may be about."""

    names: tuple[Word, ...]
    cities: tuple[Word, ...]
    nouns: tuple[Noun, ...]


SPOKEN = Entities(NAMES, CITIES, NOUNS)
"""What training speech may say."""
ALL = Entities((*NAMES, *HELD_OUT_NAMES), (*CITIES, *HELD_OUT_CITIES), (*NOUNS, *HELD_OUT_NOUNS))
HELD_OUT = Entities(HELD_OUT_NAMES, HELD_OUT_CITIES, HELD_OUT_NOUNS)
"""What only text may say."""


def draw_facts(random: Random, entities: Entities, num_facts: int) -> tuple[Fact, ...]:
    """Statements about different people, things and places, so that every question has one answer."""
    names = random.sample(entities.names, num_facts)
    things = random.sample(entities.nouns, num_facts)
    cities = random.sample(entities.cities, num_facts)
    return tuple(_draw_fact(random, name, noun, city) for name, noun, city in zip(names, things, cities, strict=True))


def _draw_fact(random: Random, name: Word, noun: Noun, city: Word) -> Fact:
    day = random.choice(DAYS) if random.random() < 0.3 else None
    if random.random() < 0.2:
        verb = random.choice((LIVES, WORKS, TRAVELS))
        return Fact(name, verb, city=city, day=day if verb is not LIVES else None)
    kind = random.random()
    adjective = random.choice(COLOURS) if kind < 0.55 else random.choice(QUALITIES) if kind < 0.75 else None
    place = city if random.random() < 0.5 else None
    return Fact(name, random.choice(ACTIONS), random.choice(COUNTS), adjective, noun, place, day)
