"""The FastConformer encoder of a `.nemo` archive as the library's own, each tensor accounted for."""

from __future__ import annotations

import re
from collections import Counter

import torch
from torch import Tensor
from transformers import ParakeetEncoderConfig, PreTrainedModel

from voicetextblender.audio.features import LogMelConfig, mel_filter_bank
from voicetextblender.errors import ModelError, describe
from voicetextblender.model.encoders.families import build_tower
from voicetextblender.model.encoders.nemo_archive import read_nemo_state

RENAMINGS = (
    (r"^pre_encode\.conv\.", "subsampling.layers."),
    (r"^pre_encode\.out\.", "subsampling.linear."),
    (r"^pos_enc\.", "encode_positions."),
    (r"\.conv\.batch_norm\.", ".conv.norm."),
    (r"\.linear_([qkv])\.", r".\1_proj."),
    (r"\.linear_out\.", ".o_proj."),
    (r"\.pos_bias_([uv])$", r".bias_\1"),
    (r"\.linear_pos\.", ".relative_k_proj."),
)
"""From NeMo's names to the library's."""
COMPUTED = ("encoder.pos_enc.pe",)
"""Stored by some versions, computed here."""


def load_nemo_encoder(path: str, config: ParakeetEncoderConfig) -> tuple[PreTrainedModel, dict[str, int]]:
    """The encoder of an archive in fp32, and how many tensors of each other part (a decoder, a head) were left there.

    Args:
        config: of the encoder to make, which may have fewer layers than the one in the archive.

    Raises:
        ModelError: Tensors that are missing, surplus or of another shape; features made with other filters.
    """
    state = read_nemo_state(path)
    _check_filters(path, state, config.num_mel_bins)
    renamed = {
        _rename(key): value for key, value in state.items() if key.startswith("encoder.") and key not in COMPUTED
    }
    tower = build_tower(config)
    expected = tower.state_dict()
    cut = re.compile(r"layers\.(\d+)\.")
    is_cut = getattr(config, "is_cut", False)
    found = {
        key: value
        for key, value in renamed.items()
        if not (is_cut and (match := cut.match(key)) and int(match[1]) >= config.num_hidden_layers)
    }
    problems = [f"'{key}' is missing" for key in expected if key not in found]
    problems += [f"'{key}' is surplus" for key in found if key not in expected]
    problems += [
        f"'{key}' has shape {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in found.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if problems:
        count = f"{len(problems)} tensors do not fit: {'; '.join(problems[:5])}"
        what = f"the {len(expected)} tensors of the encoder that its configuration describes"
        raise ModelError(describe(path, count, what, "Get the archive again, or one whose parts belong together"))
    tower.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in found.items()})
    left = Counter(key.split(".")[0] for key in state if not key.startswith("encoder."))
    return tower, dict(left)


def _rename(key: str) -> str:
    key = key.removeprefix("encoder.")
    for pattern, replacement in RENAMINGS:
        key = re.sub(pattern, replacement, key)
    return key


def _check_filters(path: str, state: dict[str, Tensor], num_mels: int) -> None:
    """Compare the window and the mel filters that the archive stores with ours."""
    log_mel = LogMelConfig(num_mels=num_mels)
    ours = {
        "fb": torch.from_numpy(mel_filter_bank(num_mels, log_mel.n_fft, log_mel.sampling_rate))[None],
        "window": torch.hann_window(log_mel.win_length, periodic=False),
    }
    for name, expected in ours.items():
        key = f"preprocessor.featurizer.{name}"
        theirs = state.get(key)
        if theirs is None or theirs.shape != expected.shape or not torch.allclose(theirs.float(), expected, atol=1e-6):
            found = f"'{key}' is {'missing' if theirs is None else 'of other values'}"
            raise ModelError(
                describe(path, found, "the window and mel filters of our features", "Choose another archive")
            )
