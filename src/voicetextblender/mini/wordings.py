"""How each task is asked for. `{x}` is the content, the place where a clip can stand.

A language's wordings come in two parts: those of the fine-tuning data, and those that only the pretraining text of the
LLM holds, so that fine-tuning never sees them (a real LLM has likewise read more than any fine-tuning shows it).
"""

from __future__ import annotations

from typing import NamedTuple

from voicetextblender.mini.lexicon import Language


class Wordings(NamedTuple):
    """Templates of one task in one language."""

    common: tuple[str, ...]
    held_out: tuple[str, ...]


WORDINGS: dict[str, dict[Language, Wordings]] = {
    "transcribe": {
        "en": Wordings(
            (
                "Transcribe: {x}",
                "Write this down: {x}",
                "{x} Transcribe this.",
            ),
            ("Write down the following words: {x}", "{x} Please transcribe what was said."),
        ),
        "de": Wordings(
            (
                "Schreibe das auf: {x}",
                "Transkribiere: {x}",
                "{x} Schreibe das auf.",
            ),
            ("Schreibe die folgenden Wörter auf: {x}", "{x} Bitte transkribiere, was gesagt wurde."),
        ),
    },
    "translate.to_de": {
        "en": Wordings(
            (
                "Translate into German: {x}",
                "Say this in German: {x}",
                "{x} Translate this into German.",
            ),
            ("Please say the following in German: {x}", "{x} What is the German translation?"),
        ),
        "de": Wordings(
            (
                "Übersetze ins Deutsche: {x}",
                "Sage das auf Deutsch: {x}",
                "{x} Übersetze das ins Deutsche.",
            ),
            ("Bitte sage das Folgende auf Deutsch: {x}",),
        ),
    },
    "translate.to_en": {
        "en": Wordings(
            (
                "Translate into English: {x}",
                "Say this in English: {x}",
                "{x} Translate this into English.",
            ),
            ("Please say the following in English: {x}", "{x} What is the English translation?"),
        ),
        "de": Wordings(
            (
                "Übersetze ins Englische: {x}",
                "Sage das auf Englisch: {x}",
                "{x} Übersetze das ins Englische.",
            ),
            ("Bitte sage das Folgende auf Englisch: {x}",),
        ),
    },
    "answer": {  # {q} is the question
        "en": Wordings(
            (
                "{x} {q}",
                "{q} {x}",
            ),
            ("Please answer: {q} {x}", "{x} Listen to the question: {q}"),
        ),
        "de": Wordings(
            (
                "{x} {q}",
                "{q} {x}",
            ),
            ("Bitte beantworte: {q} {x}", "{x} Höre die Frage: {q}"),
        ),
    },
    "arithmetic": {
        "en": Wordings(
            ("What is {x}?", "How much is {x}?"),
            ("Please calculate {x}.",),
        ),
        "de": Wordings(
            ("Was ist {x}?", "Wie viel ist {x}?"),
            ("Bitte berechne {x}.",),
        ),
    },
    "repeat": {
        "en": Wordings(
            ("Repeat: {x}.", "Say again: {x}."),
            ("Please say these words: {x}.",),
        ),
        "de": Wordings(
            ("Wiederhole: {x}.", "Sage noch einmal: {x}."),
            ("Bitte sage diese Wörter: {x}.",),
        ),
    },
    "sort": {
        "en": Wordings(
            ("Sort: {x}.", "Put these numbers in order: {x}."),
            ("Please sort the numbers {x}.",),
        ),
        "de": Wordings(
            ("Sortiere: {x}.", "Ordne diese Zahlen: {x}."),
            ("Bitte sortiere die Zahlen {x}.",),
        ),
    },
    "word.to_de": {
        "en": Wordings(
            ("What is the German word for {x}?", "Translate into German: {x}."),
            ("Please translate the word {x} into German.",),
        ),
        "de": Wordings(
            ("Wie heißt {x} auf Deutsch?", "Übersetze ins Deutsche: {x}."),
            ("Bitte übersetze das Wort {x} ins Deutsche.",),
        ),
    },
    "word.to_en": {
        "en": Wordings(
            ("What is the English word for {x}?", "Translate into English: {x}."),
            ("Please translate the word {x} into English.",),
        ),
        "de": Wordings(
            ("Wie heißt {x} auf Englisch?", "Übersetze ins Englische: {x}."),
            ("Bitte übersetze das Wort {x} ins Englische.",),
        ),
    },
    "remember": {
        "en": Wordings(("Remember this: {x}", "Note: {x}"), ("Keep this in mind: {x}",)),
        "de": Wordings(("Merke dir: {x}", "Notiere: {x}"), ("Denke daran: {x}",)),
    },
    "opposite": {
        "en": Wordings(
            ("What is the opposite of {x}?", "Tell me the opposite of {x}."),
            ("Please give the opposite of {x}.",),
        ),
        "de": Wordings(
            ("Was ist das Gegenteil von {x}?", "Nenne das Gegenteil von {x}."),
            ("Bitte sage mir das Gegenteil von {x}.",),
        ),
    },
    "next": {
        "en": Wordings(("What comes after {x}?", "Tell me what comes after {x}.", "What is next after {x}?"), ()),
        "de": Wordings(("Was kommt nach {x}?", "Sage mir, was nach {x} kommt.", "Was folgt nach {x}?"), ()),
    },
    "previous": {
        "en": Wordings(("What comes before {x}?", "Tell me what comes before {x}.", "What is just before {x}?"), ()),
        "de": Wordings(("Was kommt vor {x}?", "Sage mir, was vor {x} kommt.", "Was ist gleich vor {x}?"), ()),
    },
    "category": {
        "en": Wordings(("What are {x}?", "What kind of thing are {x}?"), ()),
        "de": Wordings(("Was sind {x}?", "Was für Dinge sind {x}?"), ()),
    },
    # Below: tasks of text alone.
    "reverse": {
        "en": Wordings(("Reverse: {x}.", "Say these words backwards: {x}."), ()),
        "de": Wordings(("Drehe um: {x}.", "Sage diese Wörter rückwärts: {x}."), ()),
    },
    "first": {
        "en": Wordings(("Which word is first: {x}?", "Give the first word of: {x}."), ()),
        "de": Wordings(("Welches Wort ist das erste: {x}?", "Nenne das erste Wort von: {x}."), ()),
    },
    "last": {
        "en": Wordings(("Which word is last: {x}?", "Give the last word of: {x}."), ()),
        "de": Wordings(("Welches Wort ist das letzte: {x}?", "Nenne das letzte Wort von: {x}."), ()),
    },
    "json": {
        "en": Wordings(("Write as JSON: {x}", "{x} Give this as JSON."), ()),
        "de": Wordings(("Schreibe als JSON: {x}", "{x} Gib das als JSON."), ()),
    },
    "larger": {
        "en": Wordings(("Which is larger: {x}?", "Which number is greater, {x}?"), ()),
        "de": Wordings(("Was ist größer: {x}?", "Welche Zahl ist größer, {x}?"), ()),
    },
}
