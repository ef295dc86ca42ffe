"""What a speech encoder will be, before any weight is read: configuration, features and audio tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.feature_extraction_utils import FeatureExtractionMixin

from voicetextblender.audio.fbank import FbankConfig
from voicetextblender.audio.features import LogMelConfig
from voicetextblender.audio.front_end import FrontEndConfig
from voicetextblender.audio.lengths import TokenCount
from voicetextblender.audio.raw import RawConfig
from voicetextblender.audio.whisper_mel import WhisperMelConfig
from voicetextblender.audio.windows import Windows
from voicetextblender.errors import ModelError, describe
from voicetextblender.model.encoders.families import FAMILIES, encoder_stages
from voicetextblender.model.encoders.nemo_archive import SUFFIX
from voicetextblender.model.encoders.nemo_settings import nemo_encoder_config
from voicetextblender.model.encoders.settings import EncoderSettings
from voicetextblender.units import SAMPLING_RATE, seconds_to_samples

NO_ENCODER_FIX = "Check the path; the embedded base models are made by `vtb prepare mini`"


@dataclass(frozen=True)
class EncoderPlan:
    """A speech encoder without its weights.

    Args:
        path: where its checkpoint is.
        config: its configuration, with what the recipe chose in it.
        front_end: the features that it takes.
    """

    path: str
    config: PreTrainedConfig
    front_end: FrontEndConfig

    @property
    def num_audio_tokens(self) -> TokenCount:
        """From samples to encoder frames."""
        return TokenCount((self.front_end.framing, *encoder_stages(self.config)))


def plan_encoder(
    path: str, settings: EncoderSettings | None = None, config: PreTrainedConfig | None = None
) -> EncoderPlan:
    """Read what a checkpoint says about its encoder, and apply `settings`.

    Args:
        path: a `save_pretrained` folder or hub name, of the encoder or of a model around it; or a `.nemo` archive.
        config: the encoder's configuration, where it need not be read.

    Raises:
        ModelError: No such model, one of another kind, or settings that it cannot take.
    """
    settings = settings or EncoderSettings()
    config = copy.deepcopy(config) or read_encoder_config(path)
    _check_kind(path, config)
    _cut_layers(config, settings.layer)
    _leave_out_random(config)
    front_end = FRONT_ENDS[config.model_type](path, config)
    hop = prod(stage.stride for stage in (front_end.framing, *encoder_stages(config)))
    windows = _choose_windows(config, settings, hop)
    if windows is not None:
        config.windows = asdict(windows)
    if isinstance(front_end, WhisperMelConfig):
        config.pad_clips = settings.pad_clips != "none"
        if config.pad_clips and windows is not None:
            audio_frames = prod(stage.stride for stage in encoder_stages(config))
            front_end = front_end.model_copy(update={"pad_to": windows.scaled(audio_frames)})
    elif settings.pad_clips == "window":
        found = f"'window' with an encoder of type '{config.model_type}'"
        expected = "Whisper alone was trained on clips padded to its window"
        raise ModelError(describe("model.encoder.pad_clips", found, expected, "Set it to auto"))
    return EncoderPlan(path, config, front_end)


def read_encoder_config(path: str) -> PreTrainedConfig:
    """The configuration of the encoder in a checkpoint; that of a model around it holds it as `encoder_config`.

    Raises:
        ModelError: There is no checkpoint.
    """
    if path.endswith(SUFFIX):
        return nemo_encoder_config(path)
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        found = f"no speech encoder can be loaded ({str(error).splitlines()[0]})"
        raise ModelError(describe(path, found, "a save_pretrained folder or a hub name", NO_ENCODER_FIX)) from error
    return copy.deepcopy(getattr(config, "encoder_config", config))


def read_front_end_values(path: str) -> dict[str, Any]:
    """What `preprocessor_config.json` beside a checkpoint says.

    Raises:
        ModelError: There is none.
    """
    try:
        values: dict[str, Any] = FeatureExtractionMixin.get_feature_extractor_dict(path)[0]
    except OSError as error:
        found = "no preprocessor_config.json, which says how its features are made"
        fix = "Save the checkpoint's feature extractor beside it"
        raise ModelError(describe(path, found, "the encoder's own", fix)) from error
    return values


def log_mel_of(config: PreTrainedConfig) -> LogMelConfig:
    """The features of a FastConformer: NeMo's, but for what its configuration says under `log_mel`."""
    return LogMelConfig(**({"num_mels": config.num_mel_bins} | getattr(config, "log_mel", {})))


def _raw_features(path: str, config: PreTrainedConfig) -> RawConfig:
    values = read_front_end_values(path)
    return RawConfig(normalise=values["do_normalize"], sampling_rate=values["sampling_rate"])


FRONT_ENDS: dict[str, Callable[[str, Any], FrontEndConfig]] = {
    "parakeet_encoder": lambda path, config: log_mel_of(config),
    "whisper": lambda path, config: WhisperMelConfig(num_mels=config.num_mel_bins),
    "wav2vec2-bert": lambda path, config: FbankConfig(num_mels=config.feature_projection_input_dim // 2),
    "wav2vec2": _raw_features,
    "hubert": _raw_features,
    "wavlm": _raw_features,
}
"""What each family takes, from where its checkpoint is and its configuration."""


def _check_kind(path: str, config: PreTrainedConfig) -> None:
    if config.model_type not in FAMILIES:
        found, expected = f"model type '{config.model_type}'", f"a speech encoder: {', '.join(FAMILIES)}"
        raise ModelError(describe(path, found, expected, "Choose another, or add its family (docs/models.md)"))
    for key in ("add_adapter", "conv_pos_batch_norm"):
        if getattr(config, key, False):
            found, expected = f"'{key}' in its configuration", "parts in which a clip does not see padding"
            raise ModelError(describe(path, found, expected, f"Choose a checkpoint without {key}"))


def _cut_layers(config: PreTrainedConfig, layer: int | None) -> None:
    key = FAMILIES[config.model_type].layers_key
    num_layers = getattr(config, key)
    if layer is None:
        return
    if layer > num_layers:
        where, found = "model.encoder.layer", f"layer {layer}"
        raise ModelError(describe(where, found, f"the encoder has {num_layers} layers", "Choose one of them"))
    setattr(config, key, layer)
    config.is_cut = True


def _leave_out_random(config: PreTrainedConfig) -> None:
    """The library's own masking of features in training follows no key of ours; the weight for it is not made.

    Nor does it leave out layers by chance: ranks that share a layer must all enter it.
    """
    for key in ("mask_time_prob", "mask_feature_prob", "layerdrop", "encoder_layerdrop"):
        if hasattr(config, key):
            setattr(config, key, 0.0)


def _choose_windows(config: PreTrainedConfig, settings: EncoderSettings, hop: int) -> Windows | None:
    """In encoder frames of `hop` samples."""
    most = FAMILIES[config.model_type].window(config)
    size = most if settings.window_s is None else seconds_to_samples(settings.window_s) // hop
    if size is None:
        return None
    overlap = seconds_to_samples(settings.overlap_s) // (2 * hop) * 2
    if most is not None and size > most:
        found, expected = f"{settings.window_s} s", f"the encoder takes {most * hop / SAMPLING_RATE:g} s at once"
        raise ModelError(describe("model.encoder.window_s", found, expected, "Lower it, or leave it out"))
    if size <= overlap:
        found, expected = f"{settings.overlap_s} s", f"less than the window of {size * hop / SAMPLING_RATE:g} s"
        raise ModelError(describe("model.encoder.overlap_s", found, expected, "Lower it"))
    return Windows(size, overlap)
