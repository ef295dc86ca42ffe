"""Features and processor of the composite in the library's own classes, as stock serving engines load them.

Training and our own generation use the renderer and the front end themselves; these classes wrap the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoProcessor, BatchFeature, ProcessorMixin
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor

from voicetextblender.audio.front_end import extract_features, open_front_end
from voicetextblender.audio.lengths import HALVING, Stage, TokenCount
from voicetextblender.model.configuration import VoiceTextBlenderConfig


class VoiceTextBlenderFeatureExtractor(SequenceFeatureExtractor):
    """Features for the encoder: a list of mono waveforms in, `[clips frames bins]` and a mask of valid frames out.

    Args:
        front_end: the values of a `FrontEndConfig`.
        chunk_length: the longest clip, in seconds, that serving engines reckon with.
    """

    model_input_names: ClassVar[list[str]] = ["input_features", "input_features_mask"]

    def __init__(
        self,
        front_end: dict[str, Any] | None = None,
        feature_size: int = 80,
        sampling_rate: int = 16_000,
        padding_value: float = 0.0,
        chunk_length: float = 40.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.front_end = dict(front_end or {"kind": "log_mel", "num_mels": feature_size})
        self.chunk_length = chunk_length

    def __call__(
        self, raw_speech: Any, sampling_rate: int | None = None, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Features of one waveform or of a list of them, `[samples]` each, float, at `sampling_rate` Hz."""
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"audio at {sampling_rate} Hz; the features take {self.sampling_rate} Hz. Resample it.")
        clips = raw_speech if isinstance(raw_speech, list | tuple) else [raw_speech]
        waveforms = [torch.as_tensor(np.asarray(clip), dtype=torch.float32).reshape(-1) for clip in clips]
        features, mask = extract_features(open_front_end(self.front_end), waveforms)
        return BatchFeature({"input_features": features, "input_features_mask": mask}, tensor_type=return_tensors)


class VoiceTextBlenderProcessor(ProcessorMixin):
    """Text with audio placeholders and waveforms in, model inputs out; a placeholder becomes one token per embedding.

    Args:
        audio_token: The placeholder, a special token of the tokenizer.
        stages: From audio frames to audio embeddings: kernel, stride and padding of each `Stage`.
    """

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        audio_token: str = "<|audio|>",
        stages: Sequence[Sequence[int]] = (HALVING,) * 3,
        **kwargs: Any,
    ) -> None:
        self.audio_token = audio_token
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        self.stages = [list(stage) for stage in stages]
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    def replace_audio_token(self, audio_inputs: dict[str, Any], audio_idx: int, **kwargs: Any) -> str:
        """The placeholder of clip `audio_idx`, repeated once per audio embedding."""
        num_frames = int(torch.as_tensor(audio_inputs["input_features_mask"][audio_idx]).sum())
        return self.audio_token * TokenCount(tuple(Stage(*stage) for stage in self.stages))(num_frames)


AutoFeatureExtractor.register(VoiceTextBlenderConfig, VoiceTextBlenderFeatureExtractor)
AutoProcessor.register(VoiceTextBlenderConfig, VoiceTextBlenderProcessor)
