"""Composites around every family of encoders: a joint step, freezing, saving, replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import make_recipe
from tests.tiny_encoders import make_family
from voicetextblender.batch import Batch, collate
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart, Turn
from voicetextblender.errors import ModelError
from voicetextblender.model.build import Composite, build_composite, build_processor
from voicetextblender.model.reply import SpeechReplier
from voicetextblender.model.weights import load_composite, save_composite
from voicetextblender.train.config import TrainConfig
from voicetextblender.train.step import batch_losses

CASES = {
    "fastconformer": {"window_s": 0.8, "overlap_s": 0.32},
    "whisper": {"overlap_s": 0.2},
    "whisper_unpadded": {"overlap_s": 0.2, "pad_clips": "none", "layer": 2},
    "w2v_bert": {},
    "wav2vec2": {},
    "hubert_large": {"layer": 1},
    "wavlm": {},
}
STEP = TrainConfig(steps=1, precision="fp32", spec_augment=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("composites")


def build(folder: Path, case: str, **trainable: Any) -> Composite:
    encoder = folder / case
    if not encoder.exists():
        make_family(case.removesuffix("_unpadded"), encoder)
    model = {"speech_encoder": str(encoder), "encoder": CASES[case], "trainable": trainable}
    return build_composite(make_recipe(folder, model=model).model, seed=0)


def clip(num_samples: int) -> AudioPart:
    waveform = np.random.default_rng(num_samples).normal(0, 0.1, num_samples).astype(np.float32)
    return AudioPart(path=None, waveform=waveform)


CONVERSATIONS = [
    Conversation(
        "heard", (Turn("user", (clip(9_000), TextPart(" and "), clip(23_000))), Turn("assistant", (TextPart("eight"),)))
    ),
    Conversation("text", (Turn("user", (TextPart("Noch einmal."),)), Turn("assistant", (TextPart("eight"),)))),
]


def make_batch(composite: Composite, conversations: list[Conversation]) -> Batch:
    waveforms = [[part.waveform for part in conversation.clips] for conversation in conversations]
    rendered = [
        composite.renderer.render(conversation, [composite.num_audio_tokens(len(waveform)) for waveform in clips])
        for conversation, clips in zip(conversations, waveforms, strict=True)
    ]
    keys = [list(range(len(clips))) for clips in waveforms]
    return collate(rendered, waveforms, keys, ["mixed"] * len(rendered), [1] * len(rendered))


@pytest.mark.parametrize("case", CASES)
def test_the_encoder_learns_from_speech_and_rests_in_text(folder: Path, case: str) -> None:
    composite = build(folder, case)
    composite.model.train()
    tower = composite.model.model.audio_tower
    batch_losses(composite, make_batch(composite, CONVERSATIONS[1:]), STEP).sum().backward()
    assert all(parameter.grad is None for parameter in tower.parameters())
    batch_losses(composite, make_batch(composite, CONVERSATIONS), STEP).sum().backward()
    learning = {name: parameter for name, parameter in tower.named_parameters() if parameter.requires_grad}
    silent = [name for name, parameter in learning.items() if parameter.grad is None or not parameter.grad.any()]
    # A bias of all keys shifts all scores alike.
    assert not [name for name in silent if not name.endswith(("k_proj.bias", "linear_k.bias"))]
    assert len(learning) == len(list(tower.parameters())) - case.startswith("whisper")


@pytest.mark.parametrize("case", CASES)
def test_a_frozen_encoder_is_as_in_evaluation(folder: Path, case: str) -> None:
    composite = build(folder, case, speech_encoder=False)
    batch = make_batch(composite, CONVERSATIONS)
    expected = batch_losses(composite, batch, STEP)
    composite.model.train()
    losses = batch_losses(composite, batch, STEP)
    assert torch.equal(losses, expected), "no dropout, no dropped layer, no masked feature"
    losses.sum().backward()
    assert all(parameter.grad is None for parameter in composite.model.model.audio_tower.parameters())
    assert composite.model.model.adapter.projection.weight.grad.any()


@pytest.mark.parametrize("case", CASES)
def test_saved_loaded_and_answered_alike(folder: Path, case: str, tmp_path: Path) -> None:
    composite = build(folder, case)
    save_composite(composite, tmp_path / "model")
    loaded = load_composite(tmp_path / "model")
    asked = [Conversation(item.id, item.turns[:1]) for item in CONVERSATIONS]
    replies = SpeechReplier(composite).reply(asked, 6)
    assert SpeechReplier(loaded).reply(asked, 6) == replies
    assert [SpeechReplier(composite).reply([item], 6)[0] for item in asked] == replies
    assert loaded.num_audio_tokens == composite.num_audio_tokens
    processor = build_processor(loaded)
    waveforms = [part.waveform for part in CONVERSATIONS[0].clips if part.waveform is not None]
    inputs = processor(text="<|audio|> and <|audio|>", audio=waveforms, sampling_rate=16_000, return_tensors="pt")
    count = int((inputs["input_ids"] == processor.audio_token_id).sum())
    assert count == sum(composite.num_audio_tokens(len(waveform)) for waveform in waveforms)
    with torch.inference_mode():
        features = loaded.model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])
        assert len(features.pooler_output) == count
        assert loaded.model(**inputs).logits.isfinite().all()


def test_masks_on_samples_are_refused(folder: Path) -> None:
    composite = build(folder, "wav2vec2")
    composite.model.train()
    with pytest.raises(ModelError, match=r"train.spec_augment: masks on features, but the encoder takes samples; null"):
        batch_losses(composite, make_batch(composite, CONVERSATIONS), TrainConfig(steps=1, precision="fp32"))
