"""From an exchange in text to the same exchange with clips in it, and the utterances that have to be synthesised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random

from voicetextblender.chat.conversation import AudioPart, Conversation, Part, TextPart, Turn
from voicetextblender.files import derive_seed
from voicetextblender.mini.lexicon import CITIES, NAMES, NUMBERS, Language, say
from voicetextblender.mini.tasks import Exchange
from voicetextblender.mini.voices import NOISE_SHARE, PITCH, RATE_WPM, SNR_DB
from voicetextblender.prepare.synthesis import Utterance

Span = tuple[int, int]
"""Start and end of some characters of a text."""

MAX_SINGLE_WORDS = 3
"""Most words of a turn that are spoken one by one."""

ENTITY_WORDS: dict[Language, frozenset[str]] = {
    "en": frozenset(say(word, "en") for word in (*NUMBERS, *NAMES, *CITIES)),
    "de": frozenset(say(word, "de") for word in (*NUMBERS, *NAMES, *CITIES)),
}
"""Number words, names and cities: what is spoken alone in "what is [clip] plus [clip]?"."""


class Studio:
    """Books clips: gives each its file and a voice drawn by that file's name, and keeps what is to be said.

    Args:
        voices: by language.
        folder: of the clips, relative to the data folder, such as `clips/train`.
    """

    def __init__(self, seed: int, voices: Mapping[str, Sequence[str]], folder: str) -> None:
        self.seed, self.voices, self.folder = seed, voices, folder
        self.utterances: list[Utterance] = []

    def record(self, text: str, language: Language) -> AudioPart:
        """A clip that says `text`; its path is relative to the data folder."""
        path = f"{self.folder}/{len(self.utterances):05d}.flac"
        random = Random(derive_seed("voice", self.seed, path))
        self.utterances.append(
            Utterance(
                path=path,
                text=text,
                language=language,
                voice=random.choice(self.voices[language]),
                rate_wpm=random.randint(*RATE_WPM),
                pitch=random.randint(*PITCH),
                snr_db=round(random.uniform(*SNR_DB), 1) if random.random() < NOISE_SHARE else None,
                seed=derive_seed("noise", self.seed, path),
            )
        )
        return AudioPart(path, transcript=text)


def written(exchange: Exchange) -> tuple[Part, ...]:
    """The user's turn as text."""
    return (TextPart(exchange.text),)


def with_clip(exchange: Exchange, clip: AudioPart) -> tuple[Part, ...]:
    """The user's turn with `clip` in the place of its content."""
    parts: list[Part] = [TextPart(exchange.before), clip, TextPart(exchange.after)]
    return tuple(part for part in parts if not (isinstance(part, TextPart) and not part.text))


def with_system(conversation: Conversation, text: str) -> Conversation:
    """The same conversation after a system turn."""
    return replace(conversation, turns=(Turn("system", (TextPart(text),)), *conversation.turns))


def is_one_language(exchange: Exchange) -> bool:
    """Whether one voice can say the whole turn."""
    return exchange.content_language == exchange.language


def with_spans(exchange: Exchange, spans: Iterable[Span], studio: Studio) -> tuple[Part, ...]:
    """The user's turn with the given spans of its text spoken. All text together is still the written turn."""
    text, position = exchange.text, 0
    parts: list[Part] = []
    for start, end in spans:
        if start > position:
            parts.append(TextPart(text[position:start]))
        parts.append(studio.record(text[start:end], exchange.language))
        position = end
    if position < len(text):
        parts.append(TextPart(text[position:]))
    return tuple(parts)


def spoken(exchange: Exchange, studio: Studio) -> tuple[Part, ...]:
    """The whole turn as one clip; only the content where the turn is in two languages."""
    if is_one_language(exchange):
        return (studio.record(exchange.text, exchange.language),)
    return with_clip(exchange, studio.record(exchange.content, exchange.content_language))


def mixed(exchange: Exchange, random: Random, studio: Studio, *, may_be_whole: bool = True) -> tuple[Part, ...]:
    """The turn with some of it spoken: a run of words or of sentences, two runs, or single names and numbers."""
    text = exchange.text
    kinds = (word_run, sentence_run, two_runs, single_words)
    while True:
        spans = random.choices(kinds, (0.35, 0.25, 0.2, 0.2))[0](text, exchange.language, random)
        if spans and (may_be_whole or spans != [(0, len(text))]):
            return with_spans(exchange, spans, studio)


def word_spans(text: str) -> list[Span]:
    """Where the words are, each with the punctuation that touches it."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def sentence_spans(text: str) -> list[Span]:
    """Where the sentences are; the words before a colon count as one."""
    return [match.span() for match in re.finditer(r"\S[^.?!:]*[.?!:]+", text)]


def run(spans: Sequence[Span], random: Random) -> Span:
    """A random contiguous run, from one element to all."""
    length = random.randint(1, len(spans))
    first = random.randint(0, len(spans) - length)
    return spans[first][0], spans[first + length - 1][1]


def word_run(text: str, language: Language, random: Random) -> list[Span]:
    """One run of words."""
    return [run(word_spans(text), random)]


def sentence_run(text: str, language: Language, random: Random) -> list[Span]:
    """One run of sentences."""
    return [run(sentence_spans(text), random)]


def two_runs(text: str, language: Language, random: Random) -> list[Span]:
    """Two runs of words with a written word between them; none in a turn of two words."""
    words = word_spans(text)
    if len(words) < 3:
        return []
    between = random.randint(1, len(words) - 2)
    return [run(words[:between], random), run(words[between + 1 :], random)]


def single_words(text: str, language: Language, random: Random) -> list[Span]:
    """Numbers, names and cities, each a clip of its own; none where there are no such words."""
    found = []
    for start, end in word_spans(text):
        word = text[start:end].rstrip(".,:?!")
        if word in ENTITY_WORDS[language]:
            found.append((start, start + len(word)))
    return sorted(random.sample(found, min(len(found), MAX_SINGLE_WORDS)))


def as_conversation(
    id: str,
    turns: Sequence[tuple[tuple[Part, ...], str]],
    task: str,
    language: Language,
    detail: str,
) -> Conversation:
    """A conversation of (user parts, answer) pairs.

    Args:
        task: the kind.
        detail: which task of this world it is; kept as metadata.
    """
    all_turns: list[Turn] = []
    for parts, answer in turns:
        all_turns += [Turn("user", parts), Turn("assistant", (TextPart(answer),))]
    return Conversation(id, tuple(all_turns), task, language, {"task": detail})
