"""The waveform behind an audio part of a conversation."""

from __future__ import annotations

import numpy as np

from voicetextblender.audio.waveform import read_waveform
from voicetextblender.chat.conversation import AudioPart


def read_clip(part: AudioPart, where: str | None = None) -> np.ndarray:
    """Waveform `[samples]` at 16 kHz of an audio part, from memory or from its file.

    Raises:
        AudioError: A file that cannot be read; the message begins with `where`.
    """
    if part.waveform is not None:
        return part.waveform
    assert part.path is not None
    return read_waveform(part.path, start_s=part.start_s, duration_s=part.duration_s, where=where)
