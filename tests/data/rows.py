"""Rows of manifests, and clips for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voicetextblender.audio.waveform import write_waveform

WriteManifest = Callable[[Sequence[Any]], Path]


def text_row(number: int, answer: str = "Yes.") -> dict[str, Any]:
    """Takes 10 tokens beside the digits of `number` if the answer is the usual one."""
    messages = [{"role": "user", "content": f"Is {number}?"}, {"role": "assistant", "content": answer}]
    return {"id": f"t{number}", "messages": messages}


def audio_row(number: int, *clips: dict[str, Any], task: str = "transcription") -> dict[str, Any]:
    content = [{"type": "text", "text": f"{number}:"}, *({"type": "audio", **clip} for clip in clips)]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": f"clip {number}"}]
    return {"id": f"a{number}", "task": task, "messages": messages}


def write_tone(path: Path, duration_s: float, sampling_rate: int = 16_000, pitch_hz: float = 200.0) -> None:
    times = np.arange(round(duration_s * sampling_rate)) / sampling_rate
    write_waveform(path, (0.3 * np.sin(2 * np.pi * pitch_hz * times)).astype(np.float32), sampling_rate)
