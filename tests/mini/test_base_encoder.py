"""The base speech encoder: its tokenizer, its batches, its start, and that an interrupted training ends the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import ParakeetForCTC

from voicetextblender.audio.waveform import read_waveform, write_waveform
from voicetextblender.errors import DataError
from voicetextblender.mini import base_encoder
from voicetextblender.mini.base_encoder import (
    IGNORED,
    BaseEncoderConfig,
    ClipBatches,
    TranscribedClip,
    build_base_encoder,
    calibrate_batch_norm,
    fits_ctc,
    pretrain_base_encoder,
    spread_evenly,
    train_ctc_tokenizer,
)
from voicetextblender.mini.pretrain import PretrainConfig
from voicetextblender.model.transcribe import CtcTranscriber

TEXTS = ("low", "Ein Äpfel!", "two, low", "Was?")
CONFIG = BaseEncoderConfig(
    hidden_size=64,
    num_layers=1,
    num_heads=2,
    conv_channels=8,
    vocab_size=110,
    clips_per_step=4,
    num_flat_start_steps=20,
    num_calibration_steps=2,
    pretrain=PretrainConfig(steps=6, learning_rate=3e-3, warmup_steps=2, checkpoint_every=2),
)
QUIET = Console(quiet=True)


def make_clips(folder: Path, num_copies: int = 2) -> list[TranscribedClip]:
    """Clips in which every character of the text is a tone of its own for 0.16 s."""
    time_s = np.arange(2560) / 16_000
    clips = []
    for copy in range(num_copies):
        for number, text in enumerate(TEXTS):
            tones = [np.sin(2 * np.pi * (200 + 37 * (ord(letter) % 97)) * time_s) for letter in text]
            waveform = np.concatenate([np.zeros(800 * (copy % 2)), *tones]).astype(np.float32) * 0.5
            path = folder / f"{copy}-{number}.flac"
            write_waveform(path, waveform, 16_000)
            clips.append(TranscribedClip(path, len(waveform), text))
    return clips


def test_tokenizer_spells_everything_and_gives_the_text_back() -> None:
    tokenizer = train_ctc_tokenizer(TEXTS, 110)
    for text in (*TEXTS, "Zürich, 7 Queens?"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        between_blanks = [piece for token in ids for piece in (token, token, tokenizer.pad_token_id)]
        assert tokenizer.decode(between_blanks) == text
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert "▁low" in pieces and not any("," in piece and len(piece) > 1 for piece in pieces)


@pytest.mark.parametrize(("labels", "fits"), [([1, 2, 3], True), ([1, 1, 2], False), ([1, 2, 3, 4], False)])
def test_ctc_needs_a_frame_per_label_and_one_between_equal_ones(labels: list[int], fits: bool) -> None:
    assert fits_ctc(3 * 8 * 160, labels) == fits


def test_labels_are_spread_by_the_length_of_their_pieces() -> None:
    labels = torch.tensor([[5, 6, 7], [8, 9, 0]])
    targets = spread_evenly(labels, torch.tensor([[1, 2, 1], [1, 3, 0]]), torch.tensor([8, 4]))
    assert targets.tolist() == [[5, 5, 6, 6, 6, 6, 7, 7], [8, 9, 9, 9] + 4 * [IGNORED]]


def test_a_pass_holds_each_clip_once_in_batches_of_like_length(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 4)
    tokenizer = train_ctc_tokenizer(TEXTS, 110)
    data = ClipBatches(clips, tokenizer, CONFIG, tmp_path)
    for epoch in (0, 1):
        assert sorted(member for batch in data.epoch(epoch) for member in batch) == list(range(16))
    assert data.epoch(0) != data.epoch(1)
    again = ClipBatches(clips, tokenizer, CONFIG, tmp_path).batch(5)
    for tensor, expected in zip(data.batch(5), again, strict=True):
        assert torch.equal(tensor, expected)


def test_clips_that_are_too_short_are_left_out_and_counted(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 1)
    tokenizer = train_ctc_tokenizer(TEXTS, 110)
    short = TranscribedClip(clips[0].path, 1280, "two, low, two, low")
    assert ClipBatches([*clips, short], tokenizer, CONFIG, tmp_path).num_dropped == 1
    with pytest.raises(DataError, match=r"^speech encoder: none of the 1 clips is long enough for its transcript; CTC"):
        ClipBatches([short], tokenizer, CONFIG, tmp_path)


def test_signal_reaches_the_layers_at_the_start() -> None:
    model = build_base_encoder(CONFIG, train_ctc_tokenizer(TEXTS, 110)).eval()
    with torch.inference_mode():
        subsampled = model.encoder.subsampling(torch.randn(2, 80, 80))
    assert 0.1 < subsampled.std() < 10


def test_calibrated_statistics_are_those_of_the_data(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 1)
    tokenizer = train_ctc_tokenizer(TEXTS, 110)
    data = ClipBatches(clips, tokenizer, CONFIG, tmp_path)
    model = build_base_encoder(CONFIG, tokenizer)
    norm = model.encoder.layers[0].conv.norm
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].mean(0)))
    calibrate_batch_norm(model, data, 1)
    assert torch.allclose(norm.running_mean, seen[0], atol=1e-5)
    assert not model.training and not norm.training and norm.momentum == 0.1


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = make_clips(tmp_path / "clips")
    result = pretrain_base_encoder(clips, tmp_path / "whole", CONFIG, QUIET)
    assert len(result.losses) == 6 and result.num_dropped == 0

    loss = base_encoder.encoder_loss

    def interrupted(model: ParakeetForCTC, data: ClipBatches, step: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return loss(model, data, step)

    monkeypatch.setattr(base_encoder, "encoder_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain_base_encoder(clips, tmp_path / "resumed", CONFIG, QUIET)
    assert not (tmp_path / "resumed" / "config.json").exists()
    monkeypatch.setattr(base_encoder, "encoder_loss", loss)
    pretrain_base_encoder(clips, tmp_path / "resumed", CONFIG, QUIET)

    whole, resumed = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "resumed"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert {path.name for path in (tmp_path / "whole").iterdir()} >= {"config.json", "tokenizer.json", "log.jsonl"}
    assert not (tmp_path / "whole" / "training.pt").exists()


def test_it_learns_to_transcribe_what_it_has_heard(tmp_path: Path) -> None:
    clips = make_clips(tmp_path / "clips")
    pretrain = PretrainConfig(steps=100, learning_rate=3e-3, warmup_steps=10)
    pretrain_base_encoder(clips, tmp_path / "encoder", CONFIG.model_copy(update={"pretrain": pretrain}), QUIET)
    transcriber = CtcTranscriber(tmp_path / "encoder", batch_size=3)
    assert transcriber.transcribe([read_waveform(clip.path) for clip in clips]) == [clip.text for clip in clips]
