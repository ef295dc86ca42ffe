"""Clips inside a page, to hear: each as a `data:` address."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import soundfile

from voicetextblender.chat.clips import read_clip
from voicetextblender.chat.conversation import AudioPart, TextPart, Turn
from voicetextblender.units import SAMPLING_RATE

MAX_CLIP_S = 20.0
MAX_AUDIO_BYTES = 6_000_000
"""Of all clips in one page, compressed."""


@dataclass(frozen=True)
class ShownPart:
    """A part of a shown turn: words, or a clip as a `data:` address (empty when it was left out)."""

    text: str = ""
    is_clip: bool = False
    audio: str = ""
    duration_s: float = 0.0


class ClipEmbedder:
    """Embeds clips and counts their bytes.

    The same clip is embedded each time it is shown; beyond `MAX_AUDIO_BYTES` clips are shown by their words alone.
    """

    def __init__(self) -> None:
        self.num_audio_bytes = 0

    def show(self, clip: AudioPart) -> ShownPart:
        """A clip, whole or by its words.

        Raises:
            AudioError: it cannot be read.
        """
        waveform = read_clip(clip)
        duration_s = len(waveform) / SAMPLING_RATE
        words = clip.transcript or ""
        if duration_s > MAX_CLIP_S or self.num_audio_bytes > MAX_AUDIO_BYTES:
            return ShownPart(words, is_clip=True, duration_s=duration_s)
        encoded = encode_clip(waveform)
        self.num_audio_bytes += len(encoded)
        return ShownPart(words, is_clip=True, audio=encoded, duration_s=duration_s)

    def show_turn(self, turn: Turn) -> tuple[str, tuple[ShownPart, ...]]:
        """Role and parts of a turn."""
        return turn.role, tuple(
            ShownPart(part.text) if isinstance(part, TextPart) else self.show(part) for part in turn.parts
        )


def encode_clip(waveform: np.ndarray) -> str:
    """A waveform [samples] as an MP3 in a `data:` address: every browser plays it."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1.0, 1.0), SAMPLING_RATE, format="MP3")
    return "data:audio/mpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
