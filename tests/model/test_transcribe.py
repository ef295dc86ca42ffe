"""The transcriber of the cascade: order, batches, and a folder that holds no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voicetextblender.errors import ModelError
from voicetextblender.mini.base_encoder import BaseEncoderConfig, build_base_encoder, train_ctc_tokenizer
from voicetextblender.model.transcribe import CtcTranscriber

CONFIG = BaseEncoderConfig(hidden_size=64, num_layers=1, num_heads=2, conv_channels=8, vocab_size=110)


def test_a_clip_alone_and_in_a_batch_has_the_same_text_in_the_order_given(tmp_path: Path) -> None:
    tokenizer = train_ctc_tokenizer(["Anna sees two dogs."], 110)
    build_base_encoder(CONFIG, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    noise = np.random.default_rng(0)
    waveforms = [noise.standard_normal(length).astype(np.float32) for length in (9000, 3000, 16000, 160)]
    together = CtcTranscriber(tmp_path, batch_size=3).transcribe(waveforms)
    alone = CtcTranscriber(tmp_path, batch_size=1)
    assert together == [alone.transcribe([waveform])[0] for waveform in waveforms]
    assert len(set(together)) > 1
    assert alone.transcribe([]) == []


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no config\.json; a transcriber is a folder of a ParakeetForCTC"):
        CtcTranscriber(tmp_path)
    with pytest.raises(ModelError, match=r"there is no such folder; a transcriber is a folder of a ParakeetForCTC"):
        CtcTranscriber(tmp_path / "missing")
