"""What a `.nemo` archive says about its FastConformer encoder, as the library's configuration; a setting too few or too
many is an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import ParakeetEncoderConfig

from voicetextblender.errors import ModelError, describe
from voicetextblender.model.encoders.nemo_archive import read_nemo_config

ENCODER_NEEDS: dict[str, tuple[Any, ...]] = {
    "subsampling": ("dw_striding",),
    "causal_downsampling": (False,),
    "reduction": (None,),
    "self_attention_model": ("rel_pos",),
    "att_context_size": (None, [-1, -1], [[-1, -1]]),
    "att_context_style": ("regular",),
    "att_chunk_context_size": (None,),
    "untie_biases": (True,),
    "conv_norm_type": ("batch_norm",),
    "conv_context_size": (None,),
    "conv_context_style": ("regular",),
    "global_tokens": (0,),
}
"""Values that the library's class stands for."""
ENCODER_SIZES = {
    "feat_in": "num_mel_bins",
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "subsampling_factor": "subsampling_factor",
    "subsampling_conv_channels": "subsampling_conv_channels",
    "conv_kernel_size": "conv_kernel_size",
    "pos_emb_max_len": "max_position_embeddings",
    "xscaling": "scale_input",
    "dropout": "dropout",
    "dropout_emb": "dropout_positions",
    "dropout_att": "attention_dropout",
}
"""Settings that are carried over, and the library's names for them."""
ENCODER_DEFAULTS: dict[str, Any] = {
    "subsampling": "striding",
    "n_heads": 4,
    "subsampling_factor": 4,
    "subsampling_conv_channels": -1,
    "conv_kernel_size": 31,
    "pos_emb_max_len": 5000,
    "xscaling": True,
    "dropout": 0.1,
    "dropout_emb": 0.1,
    "dropout_att": 0.0,
}
"""Of NeMo 3.0's `ConformerEncoder`, for settings that a configuration leaves out, where they are not what is needed."""
ENCODER_OTHERS = frozenset(
    {
        "_target_",
        "feat_out",
        "ff_expansion_factor",
        "use_bias",
        "subsampling_conv_chunking_factor",
        "reduction_position",
        "reduction_factor",
        "att_context_probs",
        "dropout_pre_encoder",
        "stochastic_depth_drop_prob",
        "stochastic_depth_mode",
        "stochastic_depth_start_layer",
        "global_tokens_spacing",
        "global_attn_separate",
        "use_pytorch_sdpa",
        "use_pytorch_sdpa_backends",
        "sync_max_audio_length",
    }
)
"""Settings that are read apart, or that change neither weights nor what the encoder computes in evaluation."""
PREPROCESSOR_DEFAULTS: dict[str, Any] = {"window_size": 0.02, "features": 64}
"""The same of NeMo 3.0's `AudioToMelSpectrogramPreprocessor`."""
PREPROCESSOR_NEEDS: dict[str, tuple[Any, ...]] = {
    "sample_rate": (16_000,),
    "window_size": (0.025,),
    "window_stride": (0.01,),
    "window": ("hann",),
    "normalize": ("per_feature",),
    "n_fft": (512, None),
    "preemph": (0.97,),
    "lowfreq": (0,),
    "highfreq": (None, 8000),
    "log": (True,),
    "log_zero_guard_type": ("add",),
    "log_zero_guard_value": (2.0**-24,),
    "frame_splicing": (1,),
    "exact_pad": (False,),
    "mag_power": (2.0,),
    "mel_norm": ("slaney",),
}
"""What our features are. Not asked: dither and band-width augmentation, which NeMo applies in training alone, and
padding, which stands behind the valid frames."""


def nemo_encoder_config(path: str) -> ParakeetEncoderConfig:
    """The library's configuration of the encoder in an archive.

    Raises:
        ModelError: An archive that cannot be read, or an encoder or features of another kind.
    """
    config = read_nemo_config(path)
    sections = [config.get("encoder"), config.get("preprocessor")]
    encoder, preprocessor = (section if isinstance(section, dict) else {} for section in sections)
    problems = [*_check_encoder(encoder), *_check_preprocessor(preprocessor, encoder.get("feat_in"))]
    if problems:
        expected = "a FastConformer encoder over 16 kHz log-mel features"
        raise ModelError(describe(path, "; ".join(problems[:5]), expected, "Choose another archive"))
    values = ENCODER_DEFAULTS | encoder
    sizes = {ours: values[theirs] for theirs, ours in ENCODER_SIZES.items()}
    if sizes["subsampling_conv_channels"] == -1:
        sizes["subsampling_conv_channels"] = sizes["hidden_size"]
    has_bias = encoder.get("use_bias", True)
    return ParakeetEncoderConfig(
        **sizes,
        intermediate_size=sizes["hidden_size"] * encoder.get("ff_expansion_factor", 4),
        attention_bias=has_bias,
        convolution_bias=has_bias,
        activation_dropout=sizes["dropout"],
        layerdrop=0.0,
    )


def _check_encoder(encoder: dict[str, Any]) -> Iterator[str]:
    target = str(encoder.get("_target_"))
    if not target.endswith(".ConformerEncoder"):
        yield f"encoder._target_ is {target}, not ConformerEncoder"
        return
    values = ENCODER_DEFAULTS | encoder
    yield from _differences("encoder", values, ENCODER_NEEDS)
    yield from (f"encoder.{key} is missing" for key in ENCODER_SIZES if key not in values)
    known = {*ENCODER_NEEDS, *ENCODER_SIZES, *ENCODER_OTHERS}
    yield from (f"encoder.{key} is not known" for key in encoder if key not in known)
    if values.get("feat_out") not in (None, -1, 0, values.get("d_model")):
        yield f"encoder.feat_out is {values['feat_out']}, an output projection"
    if values["subsampling_factor"] not in (2, 4, 8, 16):
        yield f"encoder.subsampling_factor is {values['subsampling_factor']}, not 2, 4, 8 or 16"


def _check_preprocessor(preprocessor: dict[str, Any], feat_in: Any) -> Iterator[str]:
    target = str(preprocessor.get("_target_"))
    if not target.endswith(".AudioToMelSpectrogramPreprocessor"):
        yield f"preprocessor._target_ is {target}, not AudioToMelSpectrogramPreprocessor"
        return
    values = PREPROCESSOR_DEFAULTS | preprocessor
    yield from _differences("preprocessor", values, PREPROCESSOR_NEEDS)
    if values["features"] != feat_in:
        yield f"preprocessor.features is {values['features']}, encoder.feat_in {feat_in}"


def _differences(section: str, values: dict[str, Any], needs: dict[str, tuple[Any, ...]]) -> Iterator[str]:
    for key, allowed in needs.items():
        if key in values and values[key] not in allowed:
            yield f"{section}.{key} is {values[key]!r}, not {' or '.join(map(repr, allowed))}"
