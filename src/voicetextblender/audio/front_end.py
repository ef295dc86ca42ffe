"""From waveforms to what an encoder takes: one protocol over the kinds of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, TypeAdapter
from torch import Tensor

from voicetextblender.audio.fbank import Fbank, FbankConfig
from voicetextblender.audio.features import LogMel, LogMelConfig
from voicetextblender.audio.raw import Raw, RawConfig
from voicetextblender.audio.whisper_mel import WhisperMel, WhisperMelConfig

FrontEndConfig = LogMelConfig | WhisperMelConfig | FbankConfig | RawConfig
"""Each names its `kind` and has `sampling_rate` (Hz) and `framing` (the stage from samples to frames)."""


@runtime_checkable
class FrontEnd(Protocol):
    """Features of a batch of clips, on the device of the waveforms; a clip's do not depend on the rest of the batch."""

    @property
    def config(self) -> FrontEndConfig: ...

    def __call__(
        self, waveforms: Float[Tensor, "clips samples"], num_samples: Int[Tensor, " clips"]
    ) -> tuple[Float[Tensor, "clips frames bins"], Int[Tensor, " clips"]]:
        """Features of zero-padded waveforms, and the number of valid frames of each clip."""
        ...


FRONT_ENDS: dict[str, Callable[[Any], FrontEnd]] = {
    "log_mel": LogMel,
    "whisper_mel": WhisperMel,
    "fbank": Fbank,
    "raw": Raw,
}


def open_front_end(config: FrontEndConfig | dict[str, Any]) -> FrontEnd:
    """The front end of a configuration, or of its values as they are stored with a model."""
    if isinstance(config, dict):
        config = TypeAdapter(Annotated[FrontEndConfig, Field(discriminator="kind")]).validate_python(config)
    return FRONT_ENDS[config.kind](config)


def pad_waveforms(
    waveforms: Sequence[Float[Tensor, " _samples"]],
) -> tuple[Float[Tensor, "clips samples"], Int[Tensor, " clips"]]:
    """Waveforms as one zero-padded tensor, and their lengths in samples."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms], device=waveforms[0].device)
    return torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True), lengths


def extract_features(
    front_end: FrontEnd, waveforms: Sequence[Float[Tensor, " _samples"]]
) -> tuple[Float[Tensor, "clips frames bins"], Bool[Tensor, "clips frames"]]:
    """Features of clips and the mask of their valid audio frames."""
    features, num_frames = front_end(*pad_waveforms(waveforms))
    return features, torch.arange(features.shape[1], device=features.device) < num_frames[:, None]
