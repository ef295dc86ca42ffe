"""Whisper's log-mel features of a batch of clips."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from voicetextblender.audio.features import mel_filter_bank
from voicetextblender.audio.lengths import HOP_LENGTH, Stage
from voicetextblender.audio.windows import Windows
from voicetextblender.config import StrictConfig
from voicetextblender.units import SAMPLING_RATE

N_FFT = 400
"""Samples under one frame: 25 ms. Source: openai/whisper `whisper/audio.py`, as are all numbers here."""
POWER_FLOOR = 1e-10
"""Least mel power."""
DYNAMIC_RANGE = 8.0
"""Powers of ten below the loudest value of a clip at which its features are cut off."""


class WhisperMelConfig(StrictConfig):
    """Geometry of Whisper's features.

    Args:
        num_mels: mel bands; 128 for large-v3, else 80.
        pad_to: audio frames of the windows that every clip is padded to with silence; null leaves clips their length.
    """

    kind: Literal["whisper_mel"] = "whisper_mel"
    num_mels: int = Field(80, gt=0)
    pad_to: Windows | None = None
    sampling_rate: Literal[16_000] = 16_000

    @property
    def framing(self) -> Stage:
        """Whole hops: a tail shorter than one makes no frame."""
        return Stage(HOP_LENGTH, HOP_LENGTH)


class WhisperMel:
    """Short-time power spectrum, log mel bands, cut off 80 dB below the loudest value of the clip, scaled to about 1.

    Silence stands after every clip, so that its frames are those of the clip padded to 30 s. All arithmetic is float32.
    """

    def __init__(self, config: WhisperMelConfig) -> None:
        self.config = config
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(
        self, waveforms: Float[Tensor, "clips samples"], num_samples: Int[Tensor, " clips"]
    ) -> tuple[Float[Tensor, "clips frames mels"], Int[Tensor, " clips"]]:
        """Features and frames of speech per clip; frames after those are silence if clips are padded, else zero.

        What stands in `waveforms` after `num_samples` has no influence.
        """
        with torch.autocast(waveforms.device.type, enabled=False):
            num_frames = self.config.framing(num_samples)
            inside = torch.arange(waveforms.shape[1], device=waveforms.device) < num_samples[:, None]
            silent_after = waveforms.float().masked_fill(~inside, 0.0)
            features = self._log_mel(silent_after, self._width(int(num_frames.max())))
            if self.config.pad_to is None:
                after = torch.arange(features.shape[1], device=features.device) >= num_frames[:, None]
                features = features.masked_fill(after[:, :, None], 0.0)
            return features, num_frames

    def _width(self, num_frames: int) -> int:
        return num_frames if self.config.pad_to is None else self.config.pad_to.padded(num_frames)

    def _log_mel(self, waveforms: Float[Tensor, "clips samples"], width: int) -> Float[Tensor, "clips width mels"]:
        window, mel_filters = self._constants_on(waveforms.device)
        beyond = max(0, (width + 2) * HOP_LENGTH + N_FFT - waveforms.shape[1])
        before = torch.nn.functional.pad(waveforms[:, None], (N_FFT // 2, 0), mode="reflect")[:, 0]
        padded = torch.nn.functional.pad(before, (0, beyond))
        spectrum = torch.stft(padded, N_FFT, HOP_LENGTH, window=window, center=False, return_complex=True)
        power = mel_filters @ spectrum.abs().square()
        log_mel = power.clamp(min=POWER_FLOOR).log10()
        loudest = log_mel.amax(dim=(1, 2), keepdim=True)
        return ((torch.maximum(log_mel, loudest - DYNAMIC_RANGE) + 4.0) / 4.0)[:, :, :width].transpose(1, 2)

    def _constants_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._constants:
            filters = torch.from_numpy(mel_filter_bank(self.config.num_mels, N_FFT, SAMPLING_RATE))
            self._constants[device] = (torch.hann_window(N_FFT, device="cpu").to(device), filters.to(device))
        return self._constants[device]
