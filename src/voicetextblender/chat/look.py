"""A rendered conversation for human eyes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.text import Text

from voicetextblender.chat.render import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUPERVISED_STYLE = "bold green"
CONTEXT_STYLE = "dim"
AUDIO_STYLE = "cyan"


def highlight(rendered: Rendered, tokenizer: PreTrainedTokenizerBase, clip_seconds: Sequence[float]) -> Text:
    """The tokens as text: what is supervised in green, the rest dim, each clip as `[audio 3.2 s = 40 tokens]`.

    Args:
        rendered: What is to be shown.
        tokenizer: The tokenizer that it was rendered with.
        clip_seconds: Duration of each clip in seconds, in the order of `rendered.audio_spans`.
    """
    text = Text()
    clips = {start: (count, s) for (start, count), s in zip(rendered.audio_spans, clip_seconds, strict=True)}
    shown: list[int] = []  # decoded together, since a tokenizer may drop a space where a text begins
    for start, stop in pairwise(_borders(rendered)):
        if start in clips:
            count, seconds = clips[start]
            text.append(f"[audio {seconds:.1f} s = {count} token{'s' if count > 1 else ''}]", AUDIO_STYLE)
            continue
        before = _decode(tokenizer, shown)
        shown += rendered.token_ids[start:stop].tolist()
        style = SUPERVISED_STYLE if rendered.supervision_mask[start] else CONTEXT_STYLE
        text.append(_decode(tokenizer, shown)[len(before) :], style)
    return text


def _borders(rendered: Rendered) -> list[int]:
    """The places where a clip begins or ends or the supervision changes, from 0 to the number of tokens."""
    mask = rendered.supervision_mask
    borders = {0, len(mask), *(place for place in range(1, len(mask)) if mask[place] != mask[place - 1])}
    for start, count in rendered.audio_spans:
        borders |= {start, start + count}
    return sorted(borders)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
