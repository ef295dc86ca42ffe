"""The words of the embedded world, English beside German, and which of them training speech never holds.

German noun phrases are always plural, accusative and without an article, so that an adjective ends in -e.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Language = Literal["en", "de"]
LANGUAGES: tuple[Language, Language] = ("en", "de")


class Word(NamedTuple):
    """One word in both languages."""

    en: str
    de: str


class Noun(NamedTuple):
    """A countable thing in the plural, and what kind of thing it is."""

    en: str
    de: str
    category: Word


class Verb(NamedTuple):
    """A verb in the third person singular (`en`, `de`) and in its English base form."""

    en: str
    de: str
    base: str


class Adjective(NamedTuple):
    """An adjective alone (`en`, `de`) and before a German noun (`de_attributive`)."""

    en: str
    de: str
    de_attributive: str


def words(pairs: str) -> tuple[Word, ...]:
    """Read `apple=Apfel pear=Birne` as words; a word without `=` is the same in both languages."""
    return tuple(Word(*(pair.split("=") * 2)[:2]) for pair in pairs.split())


NAMES = words("Anna Peter Maria Thomas Julia David Laura Martin Sophie Robert")
HELD_OUT_NAMES = words("Sandra Oscar")
CITIES = words("Berlin London Paris Rome=Rom Vienna=Wien Munich=München Hamburg Cologne=Köln")
HELD_OUT_CITIES = words("Dresden Prague=Prag")

FRUIT, ANIMALS, CLOTHES, FURNITURE = words("fruit=Obst animals=Tiere clothes=Kleidung furniture=Möbel")


def nouns(category: Word, pairs: str) -> tuple[Noun, ...]:
    """Read nouns of one category."""
    return tuple(Noun(word.en, word.de, category) for word in words(pairs))


NOUNS = (
    *nouns(FRUIT, "apples=Äpfel pears=Birnen plums=Pflaumen"),
    *nouns(ANIMALS, "dogs=Hunde cats=Katzen horses=Pferde"),
    *nouns(CLOTHES, "shirts=Hemden shoes=Schuhe hats=Hüte"),
    *nouns(FURNITURE, "tables=Tische chairs=Stühle beds=Betten"),
)
HELD_OUT_NOUNS = (*nouns(FRUIT, "bananas=Bananen"), *nouns(ANIMALS, "tigers=Tiger"))

ACTIONS = (
    Verb("buys", "kauft", "buy"),
    Verb("sells", "verkauft", "sell"),
    Verb("sees", "sieht", "see"),
    Verb("finds", "findet", "find"),
    Verb("draws", "zeichnet", "draw"),
    Verb("needs", "braucht", "need"),
)
LIVES = Verb("lives in", "wohnt in", "live")
WORKS = Verb("works in", "arbeitet in", "work")
TRAVELS = Verb("travels to", "fährt nach", "travel")

COLOURS = (
    Adjective("red", "rot", "rote"),
    Adjective("blue", "blau", "blaue"),
    Adjective("green", "grün", "grüne"),
    Adjective("yellow", "gelb", "gelbe"),
    Adjective("black", "schwarz", "schwarze"),
    Adjective("white", "weiß", "weiße"),
)
QUALITIES = (
    Adjective("big", "groß", "große"),
    Adjective("small", "klein", "kleine"),
)
OPPOSITES = tuple(
    (Word(*pair[0].split("=")), Word(*pair[1].split("=")))
    for pair in (
        ("big=groß", "small=klein"),
        ("old=alt", "new=neu"),
        ("heavy=schwer", "light=leicht"),
        ("hot=heiß", "cold=kalt"),
        ("fast=schnell", "slow=langsam"),
        ("good=gut", "bad=schlecht"),
        ("black=schwarz", "white=weiß"),
    )
)

NUMBERS = words(
    "zero=null one=eins two=zwei three=drei four=vier five=fünf six=sechs seven=sieben eight=acht nine=neun ten=zehn"
)
DAYS = words(
    "Monday=Montag Tuesday=Dienstag Wednesday=Mittwoch Thursday=Donnerstag Friday=Freitag Saturday=Samstag "
    "Sunday=Sonntag"
)

HELD_OUT_ENTITIES: tuple[Word | Noun, ...] = (*HELD_OUT_NAMES, *HELD_OUT_CITIES, *HELD_OUT_NOUNS)
"""Known from text to the LLM alone; no speech that any model trains on says them."""


def other(language: Language) -> Language:
    """The other one of the two languages."""
    return "de" if language == "en" else "en"


def say(word: Word | Noun | Verb | Adjective, language: Language) -> str:
    """A word in one language, as it stands alone."""
    return word.en if language == "en" else word.de
