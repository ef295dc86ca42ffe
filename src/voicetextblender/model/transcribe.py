"""A speech encoder with its CTC head as a transcriber: the first half of a cascade."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, ParakeetForCTC

from voicetextblender.audio.features import LogMel
from voicetextblender.errors import ModelError, describe
from voicetextblender.model.encoders.plan import log_mel_of


class CtcTranscriber:
    """Greedy CTC transcription by a `save_pretrained` folder that holds a `ParakeetForCTC` and its tokenizer.

    Args:
        batch_size: clips encoded together; clips of like length go together.

    Raises:
        ModelError: the folder does not hold such a model.
    """

    def __init__(self, folder: str | Path, *, batch_size: int = 16, device: str | torch.device = "cpu") -> None:
        folder = Path(folder)
        if not (folder / "config.json").is_file() or not (folder / "tokenizer_config.json").is_file():
            found = "there is no config.json" if folder.is_dir() else "there is no such folder"
            expected = "a transcriber is a folder of a ParakeetForCTC model with its tokenizer"
            raise ModelError(describe(str(folder), found, expected, "Train the speech encoder first, or mend the path"))
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = ParakeetForCTC.from_pretrained(folder, local_files_only=True).to(device).eval()
        self.features = LogMel(log_mel_of(self.model.config.encoder_config))
        self.batch_size = batch_size

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """The text of each waveform (mono float32 at 16 kHz), in the order given."""
        order = sorted(range(len(waveforms)), key=lambda clip: len(waveforms[clip]))
        texts = [""] * len(waveforms)
        for start in range(0, len(order), self.batch_size):
            clips = order[start : start + self.batch_size]
            for clip, text in zip(clips, self._transcribe_batch([waveforms[clip] for clip in clips]), strict=True):
                texts[clip] = text
        return texts

    @torch.inference_mode()
    def _transcribe_batch(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        device = self.model.device
        num_samples = torch.tensor([len(waveform) for waveform in waveforms], device=device)
        padded = pad_sequence([torch.from_numpy(waveform) for waveform in waveforms], batch_first=True).to(device)
        features, num_frames = self.features(padded, num_samples)
        inside = torch.arange(features.shape[1], device=device) < num_frames[:, None]
        best = self.model.generate(input_features=features.to(self.model.dtype), attention_mask=inside)
        texts: list[str] = self.tokenizer.batch_decode(best, skip_special_tokens=True)
        return [text.strip() for text in texts]
