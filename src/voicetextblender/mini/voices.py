"""The people of the embedded world: espeak-ng voices to train on, and voices that are heard only in evaluation.

A voice is an accent with a variant of the voice's formants and pitch. Variants of the held-out voices occur in no
training voice of either language. Whispering, creaking and robotic variants are left out.
"""

from __future__ import annotations

TRAIN_VOICES: dict[str, tuple[str, ...]] = {
    "en": (
        "en-us",
        "en-us+m1",
        "en-us+m3",
        "en-us+f1",
        "en-us+f3",
        "en-us+edward",
        "en",
        "en+m2",
        "en+m7",
        "en+f2",
        "en+f4",
        "en-gb-x-rp+f2",
    ),
    "de": (
        "de",
        "de+m1",
        "de+m2",
        "de+m3",
        "de+m6",
        "de+m7",
        "de+f1",
        "de+f2",
        "de+f3",
        "de+f4",
        "de+edward",
        "de+max",
    ),
}
"""Voices of the training clips, by language."""

HELD_OUT_VOICES: dict[str, tuple[str, ...]] = {
    "en": ("en-us+m4", "en-us+linda", "en+paul", "en-gb-x-rp+belinda"),
    "de": ("de+m4", "de+linda", "de+paul", "de+belinda"),
}
"""Voices of the evaluation row `unseen.voices` alone, by language."""

RATE_WPM = (190, 240)
"""Slowest and fastest speech in words per minute; faster leaves CTC too few encoder frames."""

PITCH = (35, 65)
"""Lowest and highest pitch on espeak-ng's scale of 0 to 99; 50 is the voice's own."""

NOISE_SHARE = 0.3
"""Share of clips with white noise."""

SNR_DB = (15.0, 35.0)
"""Signal-to-noise ratio of those, in dB."""
