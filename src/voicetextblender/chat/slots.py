"""Places for clips and words in a written text."""

from __future__ import annotations

from collections.abc import Sequence

from voicetextblender.chat.conversation import AudioPart, Part, TextPart

CLIP_SLOT = "{clip}"
"""Where a clip stands in a prompt."""
LANGUAGE_SLOT = "{language}"
"""Where the name of the language to translate into stands."""
QUESTION_SLOT = "{question}"
"""Where the question of a row stands."""


def fill_slots(text: str, clips: Sequence[AudioPart], slot: str = CLIP_SLOT) -> tuple[Part, ...]:
    """The parts of a turn: `text` with a clip for each `slot`; as many clips as slots."""
    texts = text.split(slot)
    assert len(texts) == len(clips) + 1, "one clip per slot"
    parts: list[Part] = [TextPart(texts[0])]
    for clip, after in zip(clips, texts[1:], strict=True):
        parts += [clip, TextPart(after)]
    return tuple(part for part in parts if not isinstance(part, TextPart) or part.text)
