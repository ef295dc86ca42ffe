"""Log-mel features of a batch of clips, in torch, on whatever device the waveforms are."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from voicetextblender.audio.lengths import HOP_LENGTH, Stage, num_audio_frames
from voicetextblender.config import StrictConfig
from voicetextblender.units import SAMPLING_RATE

MEL_BREAK_HZ = 1000.0
"""Below it the mel scale is linear, above logarithmic. Source: Slaney, Auditory Toolbox, 1998."""
MEL_LINEAR_STEP_HZ = 200.0 / 3.0
"""Hz per mel of the linear part. Source: as above."""
MEL_LOG_STEP = np.log(6.4) / 27.0
"""Natural logarithm of the ratio of neighbouring mels of the upper part. Source: as above."""
NORMALISATION_EPSILON = 1e-5
"""Added to the standard deviation. Source: NeMo's per-feature normalisation."""


class LogMelConfig(StrictConfig):
    """Geometry of the features; the defaults are those of NeMo's FastConformer encoders with 80 mel bands.

    Lengths are in samples, the sampling rate in Hz. `log_guard` is added to each mel power before the logarithm.
    `normalise` gives each band of a clip mean 0 and variance 1, or all bands of the clip together: that keeps the shape
    of the spectrum, which is most of what a clip of a single word has, and with it the colour of the line. Bands that
    reach above `band_limit_hz` are zero, and the others are normalised without them: recordings of a narrow band have
    nothing there but rounding, which normalisation would make as large as speech.

    Source: NeMo's `normalize`, `per_feature` and `all_features`; the limit: ours.
    """

    kind: Literal["log_mel"] = "log_mel"
    sampling_rate: int = Field(default=SAMPLING_RATE, gt=0)
    n_fft: int = Field(default=512, gt=0)
    win_length: int = Field(default=400, gt=0)
    hop_length: int = Field(default=HOP_LENGTH, gt=0)
    num_mels: int = Field(default=80, gt=0)
    preemphasis: float = Field(default=0.97, ge=0.0, lt=1.0)
    log_guard: float = Field(default=2.0**-24, gt=0.0)
    normalise: Literal["band", "clip"] = "band"
    band_limit_hz: float | None = Field(default=None, gt=0)

    @property
    def num_bands_kept(self) -> int:
        """Bands below the limit; all where there is none."""
        if self.band_limit_hz is None:
            return self.num_mels
        return int(np.searchsorted(mel_edges_hz(self.num_mels, self.sampling_rate)[2:], self.band_limit_hz, "right"))

    @property
    def framing(self) -> Stage:
        """Whole hops: a tail shorter than one makes no frame."""
        return Stage(self.hop_length, self.hop_length)


class LogMel(torch.nn.Module):
    """Pre-emphasis, short-time power spectrum, log mel bands, to mean 0 and variance 1 over the clip.

    Holds neither parameters nor buffers: loading a model leaves buffers that are not saved empty, and casting a model
    to bf16 would cast them. The window and the mel filters are made once per device, and all arithmetic is float32.
    """

    def __init__(self, config: LogMelConfig | None = None) -> None:
        super().__init__()
        self.config = config or LogMelConfig()
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def forward(
        self, waveforms: Float[Tensor, "clips samples"], num_samples: Int[Tensor, " clips"]
    ) -> tuple[Float[Tensor, "clips frames mels"], Int[Tensor, " clips"]]:
        """Features and frames per clip; `frames` is that of the longest clip, and padding frames are zero.

        What stands in `waveforms` after `num_samples` has no influence.
        """
        with torch.autocast(waveforms.device.type, enabled=False):
            num_frames = num_audio_frames(num_samples, self.config.hop_length)
            log_mel = self._log_mel(waveforms.float(), num_samples)[:, : int(num_frames.max())]
            kept = self.config.num_bands_kept
            features = _normalise(log_mel[:, :, :kept], num_frames, self.config.normalise == "clip")
            return torch.nn.functional.pad(features, (0, self.config.num_mels - kept)), num_frames

    def _log_mel(
        self, waveforms: Float[Tensor, "clips samples"], num_samples: Int[Tensor, " clips"]
    ) -> Float[Tensor, "clips frames mels"]:
        config = self.config
        window, mel_filters = self._constants_on(waveforms.device)
        inside = torch.arange(waveforms.shape[1], device=waveforms.device) < num_samples[:, None]
        previous = torch.nn.functional.pad(waveforms[:, :-1], (1, 0))
        emphasised = (waveforms - config.preemphasis * previous).masked_fill(~inside, 0.0)
        spectrum = torch.stft(
            emphasised,
            n_fft=config.n_fft,
            hop_length=config.hop_length,
            win_length=config.win_length,
            window=window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(-1)
        return torch.log(mel_filters @ power + config.log_guard).transpose(1, 2)

    def _constants_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._constants:
            window = torch.hann_window(self.config.win_length, periodic=False, device="cpu")
            mel_filters = torch.from_numpy(
                mel_filter_bank(self.config.num_mels, self.config.n_fft, self.config.sampling_rate)
            )
            self._constants[device] = (window.to(device), mel_filters.to(device))
        return self._constants[device]


def _normalise(
    log_mel: Float[Tensor, "clips frames mels"], num_frames: Int[Tensor, " clips"], all_bands: bool
) -> Float[Tensor, "clips frames mels"]:
    """Each band of each clip, or all bands of each clip together, to mean 0 and variance 1; padding to zero."""
    inside = (torch.arange(log_mel.shape[1], device=log_mel.device) < num_frames[:, None])[:, :, None]
    axes, width = ((1, 2), log_mel.shape[2]) if all_bands else ((1,), 1)
    count = num_frames[:, None, None] * width
    mean = log_mel.masked_fill(~inside, 0.0).sum(dim=axes, keepdim=True) / count.clamp(min=1)
    centred = (log_mel - mean).masked_fill(~inside, 0.0)
    variance = centred.square().sum(dim=axes, keepdim=True) / (count - 1).clamp(min=1)
    return centred / (variance.sqrt() + NORMALISATION_EPSILON)


def mel_filter_bank(num_mels: int, n_fft: int, sampling_rate: int) -> np.ndarray:
    """Triangular filters of unit area on the Slaney mel scale from 0 Hz to half the sampling rate, [mels, bins].

    Source: the filters of librosa and NeMo (`htk=False`, `norm="slaney"`), and of Whisper.
    """
    bins_hz = np.fft.rfftfreq(n_fft, d=1.0 / sampling_rate)
    edges_hz = mel_edges_hz(num_mels, sampling_rate)
    widths_hz = np.diff(edges_hz)
    distance = edges_hz[:, None] - bins_hz[None, :]
    rising = -distance[:-2] / widths_hz[:-1, None]
    falling = distance[2:] / widths_hz[1:, None]
    height = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    filters: np.ndarray = np.maximum(0.0, np.minimum(rising, falling)) * height[:, None]
    return filters.astype(np.float32)


def mel_edges_hz(num_mels: int, sampling_rate: int) -> np.ndarray:
    """Where the triangles of the mel bands begin, peak and end, in Hz, [mels + 2]."""
    return _mel_to_hz(np.linspace(0.0, _hz_to_mel(sampling_rate / 2), num_mels + 2))


def _hz_to_mel(frequency_hz: float) -> float:
    if frequency_hz < MEL_BREAK_HZ:
        return frequency_hz / MEL_LINEAR_STEP_HZ
    return float(MEL_BREAK_HZ / MEL_LINEAR_STEP_HZ + np.log(frequency_hz / MEL_BREAK_HZ) / MEL_LOG_STEP)


def _mel_to_hz(mels: np.ndarray) -> np.ndarray:
    break_mel = MEL_BREAK_HZ / MEL_LINEAR_STEP_HZ
    upper = MEL_BREAK_HZ * np.exp(MEL_LOG_STEP * (mels - break_mel))
    return np.where(mels < break_mel, mels * MEL_LINEAR_STEP_HZ, upper)
