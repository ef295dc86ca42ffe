"""Speech made on the spot, for the verbs that let a person say something in writing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from voicetextblender.prepare.synthesis import EspeakSynthesizer


class Speaker:
    """Speaks with one voice of espeak-ng; the engine starts at the first text."""

    def __init__(self, voice: str, rate_wpm: int = 160, pitch: int = 50) -> None:
        self.voice = voice
        self.rate_wpm = rate_wpm
        self.pitch = pitch
        self._engine: EspeakSynthesizer | None = None

    def __call__(self, text: str) -> np.ndarray:
        """Waveform of `text`: float32 samples at 16 kHz.

        Raises:
            AudioError: no such voice, a text that makes no sound, or the engine is not installed.
        """
        from voicetextblender.prepare.synthesis import EspeakSynthesizer, Utterance, speak

        self._engine = self._engine or EspeakSynthesizer()
        language = self.voice.partition("+")[0].partition("-")[0]
        return speak(self._engine, Utterance("/say", text, language, self.voice, self.rate_wpm, self.pitch, None, 0))
