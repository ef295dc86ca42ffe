"""The audio behind an audio part of a conversation."""

from __future__ import annotations

import os

import numpy as np

from voicetextblender.audio.storage import StoredAudio, is_remote
from voicetextblender.audio.waveform import (
    Allocate,
    count_clip_samples,
    new_waveform,
    read_audio_info,
    read_waveform,
)
from voicetextblender.chat.conversation import AudioPart


def read_clip(part: AudioPart, where: str | None = None, allocate: Allocate = new_waveform) -> np.ndarray:
    """Waveform `[samples]` at 16 kHz of an audio part, from memory or from its file.

    Args:
        allocate: As for `read_waveform`.

    Raises:
        AudioError: A file that cannot be read; the message begins with `where`.
    """
    if part.waveform is not None:
        return part.waveform
    audio = stored_audio(part)
    return read_waveform(audio, start_s=part.start_s, duration_s=part.duration_s, where=where, allocate=allocate)


def count_samples(part: AudioPart, where: str | None = None) -> int:
    """Exactly the number of samples that `read_clip` gives; the file is opened only if its duration is not given.

    Raises:
        AudioError: The file is missing (not looked for behind a URL if the duration is given) or no audio.
    """
    if part.waveform is not None:
        return len(part.waveform)
    audio = stored_audio(part)
    if part.duration_s is not None and isinstance(audio, str) and not os.path.isfile(audio):
        read_audio_info(audio, where=where)  # raises: a missing file is found now, not in mid-training
    return count_clip_samples(audio, start_s=part.start_s, duration_s=part.duration_s, where=where)


def stored_audio(part: AudioPart) -> str | StoredAudio:
    """What the functions of `audio.waveform` take for a part that is no waveform."""
    assert part.path is not None
    if part.encoded is None and part.num_bytes is None and not part.byte_offset and not is_remote(part.path):
        return part.path
    return StoredAudio(part.path, part.byte_offset, part.num_bytes, part.encoded)
