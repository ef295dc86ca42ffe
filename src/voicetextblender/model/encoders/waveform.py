"""wav2vec2, HuBERT and WavLM: convolutions over samples, then a Transformer; 50 frames a second."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import HubertModel, PreTrainedConfig, Wav2Vec2Model, WavLMModel

from voicetextblender.audio.lengths import Stage

from .output import EncoderOutput, mask_of_lengths


def convolution_stages(config: PreTrainedConfig) -> tuple[Stage, ...]:
    """The convolutions over samples, which pad nothing."""
    return tuple(map(Stage, config.conv_kernel, config.conv_stride))


class _WaveformForward:
    """The forward pass that the library's classes have in common, for padded batches of clips.

    Differences: features come as `[clips samples 1]`; encoders whose first layer normalises over time
    (`feat_extract_norm: group`) run that part clip by clip, as they would otherwise see the padding; the library's own
    masking of features in training is left out.
    """

    config: Any
    feature_extractor: Any
    feature_projection: Any
    encoder: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        if getattr(config, "is_cut", False) and config.do_stable_layer_norm:
            self.encoder.layer_norm = nn.Identity()

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> EncoderOutput:
        """Hidden states of `[clips samples 1]`; `attention_mask` `[clips samples]` marks the samples of each clip."""
        extracted = self._convolve(input_features[..., 0], attention_mask)
        valid = None
        if attention_mask is not None:
            lengths = attention_mask.sum(1)
            for stage in convolution_stages(self.config):
                lengths = stage(lengths)
            valid = mask_of_lengths(lengths, extracted.shape[1])
        projected = self.feature_projection(extracted)
        hidden = projected[0] if isinstance(projected, tuple) else projected  # HuBERT's gives one tensor
        return EncoderOutput(self.encoder(hidden, attention_mask=valid).last_hidden_state, valid)

    def _convolve(self, waveforms: Tensor, mask: Tensor | None) -> Tensor:
        if self.config.feat_extract_norm != "group" or mask is None or bool(mask.all()):
            return self.feature_extractor(waveforms).transpose(1, 2)
        lengths = mask.sum(1).tolist()
        frames = [
            self.feature_extractor(waveform[None, :length])[0].T
            for waveform, length in zip(waveforms, lengths, strict=True)
        ]
        return nn.utils.rnn.pad_sequence(frames, batch_first=True)


class Wav2Vec2Tower(_WaveformForward, Wav2Vec2Model):
    """wav2vec2 (arXiv 2006.11477)."""


class HubertTower(_WaveformForward, HubertModel):
    """HuBERT (arXiv 2106.07447)."""


class WavLMTower(_WaveformForward, WavLMModel):
    """WavLM (arXiv 2110.13900)."""
