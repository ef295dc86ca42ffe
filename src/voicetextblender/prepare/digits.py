"""Spoken digits of real people inside mixed-modal turns: to calculate with, read back, sort and translate.

Written words and single recordings alternate in one user turn: `What is [three] plus [five]?` is answered `Eight.`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from voicetextblender.chat.conversation import Conversation, TextPart, Turn
from voicetextblender.chat.slots import CLIP_SLOT, fill_slots
from voicetextblender.errors import DataError, describe
from voicetextblender.files import derive_seed
from voicetextblender.prepare.corpora import PrepareSummary, Recording, Split, read_recordings, write_manifests
from voicetextblender.prepare.synthesis import Utterance, list_variants, synthesize_utterances

# fmt: off
ENGLISH_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
)
GERMAN_DIGITS = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")
# fmt: on
MAX_CLIPS = 3
VOICED_SHARE = 0.5
"""Share of the training conversations that invented speakers say, where there are any."""
ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbcwmd", "en-029")
"""English voices of espeak-ng from which speakers are invented."""

ARITHMETIC_WORDINGS = ("What is {x}?", "How much is {x}?", "Calculate {x}.", "Tell me: what is {x}?")
REPEAT_WORDINGS = ("Repeat: {x}.", "Say again: {x}.", "Repeat these words: {x}.")
SORT_WORDINGS = ("Sort these numbers: {x}.", "Sort: {x}.", "Put these numbers in order: {x}.")
TRANSLATE_WORDINGS = (
    "Translate into German: {x}.",
    "Say this in German: {x}.",
    "How do you say {x} in German?",
    "Wie heißt {x} auf Deutsch?",
    "Übersetze ins Deutsche: {x}.",
)


class DigitTask(NamedTuple):
    """One thing to do with some digits: their values, the prompt with a slot for each, the answer."""

    digits: tuple[int, ...]
    prompt: str
    answer: str


Recordings = Mapping[str, Mapping[int, Sequence[Recording]]]
"""Of each speaker and digit."""


def prepare_digits(
    folder: Path,
    out: Path,
    *,
    num_train: int = 6000,
    num_dev: int = 200,
    num_test: int = 600,
    held_out_speaker: str | None = None,
    num_voices: int = 0,
    seed: int = 0,
) -> PrepareSummary:
    """Write `out`/{train,dev,test}.jsonl of mixed-modal conversations, every task equally often.

    train: the other speakers' recordings of the corpus' train split; dev: their remaining recordings; test: all
    recordings of the held-out speaker. One speaker per conversation.

    Args:
        folder: a corpus as `read_recordings` reads it, of single English digits.
        held_out_speaker: the last one by name when None.
        num_voices: invented speakers, synthesised under `out`/voices, who say half of the training conversations.

    Raises:
        DataError: the corpus is malformed, a text is no digit, the speaker is unknown or the only one, or a speaker
            of a split lacks recordings of a digit.
        AudioError: voices are wanted, and espeak-ng is missing.
    """
    recordings, drops = read_recordings(folder)
    speakers = sorted({recording.speaker for recording in recordings})
    held_out = speakers[-1] if held_out_speaker is None and speakers else held_out_speaker
    if held_out not in speakers or len(speakers) < 2:
        found = f"the speaker to hold out is '{held_out}'"
        expected = f"one of several speakers is expected, and there are: {', '.join(speakers) or 'none'}"
        raise DataError(describe(str(folder), found, expected, "Give one of them as the held-out speaker"))
    others = [recording for recording in recordings if recording.speaker != held_out]
    chosen: dict[Split, tuple[list[Recording], int]] = {
        "train": ([recording for recording in others if recording.split == "train"], num_train),
        "dev": ([recording for recording in others if recording.split != "train"], num_dev),
        "test": ([recording for recording in recordings if recording.speaker == held_out], num_test),
    }
    invented = _group(speak_digits(num_voices, out, seed), f"{out}/voices") if num_voices else None
    conversations: dict[Split, list[Conversation]] = {}
    for split, (of_split, count) in chosen.items():
        grouped = _group(of_split, f"{folder} ({split})") if count else {}
        beside = invented if split == "train" else None
        conversations[split] = [digit_conversation(grouped, split, number, seed, beside) for number in range(count)]
    return write_manifests(out, conversations, drops)


def speak_digits(num_voices: int, out: Path, seed: int) -> list[Recording]:
    """All digits in as many invented voices: an accent, a variant, a speed and a pitch each.

    Raises:
        AudioError: espeak-ng is missing.
    """
    variants, utterances = list_variants(), []
    for number in range(num_voices):
        random = Random(derive_seed("digit voice", seed, number))
        voice = f"{random.choice(ACCENTS)}+{variants[number % len(variants)]}"
        rate_wpm, pitch = random.randint(120, 230), random.randint(20, 70)
        for word in ENGLISH_NUMBERS[:10]:
            path = f"voices/{number:04d}/{word}.flac"
            said_at = (rate_wpm + random.randint(-20, 20), pitch + random.randint(-10, 10))
            utterances.append(Utterance(path, word, "en", voice, *said_at, snr_db=None, seed=0))
    num_samples = synthesize_utterances(utterances, out)
    return [
        Recording(
            id=utterance.path,
            path=out.resolve() / utterance.path,
            num_samples=num_samples[utterance.path],
            text=utterance.text,
            language="en",
            speaker=f"voice {utterance.path.split('/')[1]}",
            split="train",
            where=utterance.path,
        )
        for utterance in utterances
    ]


def digit_conversation(
    recordings: Recordings, split: str, number: int, seed: int, invented: Recordings | None = None
) -> Conversation:
    """The conversation with this number; it depends on the arguments alone.

    Args:
        invented: of speakers who say their share of the conversations in place of `recordings`.
    """
    random = Random(derive_seed("digits", seed, split, number))
    name = list(TASKS)[number % len(TASKS)]
    task = TASKS[name](random)
    if invented is not None and random.random() < VOICED_SHARE:
        recordings = invented
    speaker = random.choice(sorted(recordings))
    clips = [random.choice(recordings[speaker][digit]).clip for digit in task.digits]
    return Conversation(
        id=f"digits/{split}/{number:05d}",
        turns=(Turn("user", fill_slots(task.prompt, clips)), Turn("assistant", (TextPart(task.answer),))),
        task="mixed",
        language="en",
        metadata={"digit_task": name, "speaker": speaker},
    )


def _group(recordings: Sequence[Recording], where: str) -> Recordings:
    """By speaker and digit, each with at least one recording."""
    grouped: dict[str, dict[int, list[Recording]]] = {}
    for recording in recordings:
        if recording.text not in ENGLISH_NUMBERS[:10]:
            found = f"the text is '{recording.text}'"
            expected = "a recording is one English digit, 'zero' to 'nine'"
            raise DataError(describe(recording.where, found, expected, "Remove the row"))
        digit = ENGLISH_NUMBERS.index(recording.text)
        grouped.setdefault(recording.speaker, {}).setdefault(digit, []).append(recording)
    missing = [
        f"{name} '{ENGLISH_NUMBERS[d]}'" for name in sorted(grouped) for d in range(10) if d not in grouped[name]
    ]
    if missing or not grouped:
        found = f"no recording of {', '.join(missing[:5]) or 'any digit'}"
        expected = "each speaker says all ten digits"
        raise DataError(describe(where, found, expected, "Add recordings, or ask for no conversations of this split"))
    return grouped


def _plus(random: Random) -> DigitTask:
    pairs = [(left, right) for left in range(10) for right in range(10) if left + right < len(ENGLISH_NUMBERS)]
    left, right = random.choice(pairs)
    return _arithmetic(random, left, "plus", right, left + right)


def _minus(random: Random) -> DigitTask:
    right, left = sorted((random.randrange(10), random.randrange(10)))
    return _arithmetic(random, left, "minus", right, left - right)


def _repeat(random: Random) -> DigitTask:
    digits = tuple(random.sample(range(10), random.randint(1, MAX_CLIPS)))
    return _listed(random, REPEAT_WORDINGS, digits, [ENGLISH_NUMBERS[digit] for digit in digits])


def _sort(random: Random) -> DigitTask:
    digits = tuple(random.sample(range(10), random.randint(2, MAX_CLIPS)))
    return _listed(random, SORT_WORDINGS, digits, [ENGLISH_NUMBERS[digit] for digit in sorted(digits)])


def _translate(random: Random) -> DigitTask:
    digits = tuple(random.sample(range(10), random.randint(1, MAX_CLIPS)))
    return _listed(random, TRANSLATE_WORDINGS, digits, [GERMAN_DIGITS[digit] for digit in digits])


def _arithmetic(random: Random, left: int, operator: str, right: int, result: int) -> DigitTask:
    prompt = random.choice(ARITHMETIC_WORDINGS).replace("{x}", f"{CLIP_SLOT} {operator} {CLIP_SLOT}")
    return DigitTask((left, right), prompt, _sentence([ENGLISH_NUMBERS[result]]))


def _listed(random: Random, wordings: Sequence[str], digits: tuple[int, ...], answer: Sequence[str]) -> DigitTask:
    prompt = random.choice(wordings).replace("{x}", " ".join([CLIP_SLOT] * len(digits)))
    return DigitTask(digits, prompt, _sentence(answer))


def _sentence(words: Sequence[str]) -> str:
    return " ".join(words) + "."


TASKS: Mapping[str, Callable[[Random], DigitTask]] = {
    "plus": _plus,
    "minus": _minus,
    "repeat": _repeat,
    "sort": _sort,
    "translate": _translate,
}
