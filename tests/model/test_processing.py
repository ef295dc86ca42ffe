"""The processor in the library's form: the same ids and features as the renderer and the features of the composite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer

from tests.tiny import make_recipe
from voicetextblender.audio.waveform import write_waveform
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart, Turn
from voicetextblender.model.build import Composite, build_composite, build_processor
from voicetextblender.model.processing import VoiceTextBlenderProcessor
from voicetextblender.model.weights import load_composite, save_composite

LENGTHS = [160, 9_001, 23_456]


@pytest.fixture(scope="module")
def composite(tmp_path_factory: pytest.TempPathFactory) -> Composite:
    return build_composite(make_recipe(tmp_path_factory.mktemp("processing")).model, seed=0)


@pytest.fixture(scope="module")
def model_dir(composite: Composite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_composite(composite, folder)
    return folder


@pytest.fixture(params=["built", "saved"])
def processor(request: pytest.FixtureRequest, composite: Composite, model_dir: Path) -> VoiceTextBlenderProcessor:
    if request.param == "built":
        return build_processor(composite)
    loaded = AutoProcessor.from_pretrained(model_dir)
    assert type(loaded) is VoiceTextBlenderProcessor
    return loaded


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(0, 0.1, length).astype(np.float32) for length in LENGTHS]


def conversation(waveforms: list[np.ndarray]) -> Conversation:
    first, second, third = (AudioPart(path=None, waveform=waveform) for waveform in waveforms)
    return Conversation(
        "asked",
        (
            Turn("system", (TextPart("Noch einmal."),)),
            Turn("user", (TextPart("Say it again: "), first, TextPart(" and "), second)),
            Turn("assistant", (TextPart("eight"),)),
            Turn("user", (third, TextPart("What is three plus five?"))),
        ),
    )


def as_messages(asked: Conversation, clips: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The conversation as a chat server gets it; `clips` says where each clip is."""
    rest = iter(clips)
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "audio", **next(rest)}
                for part in turn.parts
            ],
        }
        for turn in asked.turns
    ]


def rendered_ids(composite: Composite, asked: Conversation, waveforms: list[np.ndarray]) -> list[int]:
    counts = [composite.num_audio_tokens(len(waveform)) for waveform in waveforms]
    ids: list[int] = composite.renderer.render(asked, counts, add_generation_prompt=True).token_ids.tolist()
    return ids


def expected_features(composite: Composite, waveforms: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    padded = torch.zeros(len(waveforms), max(map(len, waveforms)))
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform)
    return composite.front_end(padded, torch.tensor([len(waveform) for waveform in waveforms]))


def test_ids_and_features_are_those_of_training(
    processor: VoiceTextBlenderProcessor, composite: Composite, waveforms: list[np.ndarray]
) -> None:
    asked = conversation(waveforms)
    text = processor.apply_chat_template(as_messages(asked, [{}, {}, {}]), add_generation_prompt=True)
    assert text.count(processor.audio_token) == 3
    inputs = processor(text=text, audio=waveforms, sampling_rate=16_000, return_tensors="pt")
    assert inputs["input_ids"].tolist() == [rendered_ids(composite, asked, waveforms)]
    features, num_frames = expected_features(composite, waveforms)
    assert torch.equal(inputs["input_features"], features)
    assert inputs["input_features_mask"].sum(1).tolist() == num_frames.tolist() == [1, 56, 146]


def test_one_call_from_files_to_inputs_that_the_model_takes(
    processor: VoiceTextBlenderProcessor, composite: Composite, waveforms: list[np.ndarray], tmp_path: Path
) -> None:
    for index, waveform in enumerate(waveforms):
        write_waveform(tmp_path / f"{index}.wav", waveform, 16_000)
    asked = conversation(waveforms)
    inputs = processor.apply_chat_template(
        as_messages(asked, [{"path": str(tmp_path / f"{index}.wav")} for index in range(3)]),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert inputs["input_ids"].tolist() == [rendered_ids(composite, asked, waveforms)]
    with torch.inference_mode():
        logits = composite.model(**inputs).logits
    assert logits.shape[:2] == inputs["input_ids"].shape and bool(torch.isfinite(logits).all())


def test_text_alone_and_contents_that_are_strings(processor: VoiceTextBlenderProcessor, composite: Composite) -> None:
    asked = Conversation("asked", (Turn("user", (TextPart("Noch einmal."),)),))
    messages = [{"role": "user", "content": "Noch einmal."}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == composite.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert processor(text=[text])["input_ids"] == [rendered_ids(composite, asked, [])]


def test_a_single_waveform_and_unequal_clips_have_their_own_features(
    processor: VoiceTextBlenderProcessor, composite: Composite, waveforms: list[np.ndarray]
) -> None:
    extract = processor.feature_extractor
    together = extract(waveforms, sampling_rate=16_000)
    for index, waveform in enumerate(waveforms):
        alone = extract(waveform, sampling_rate=16_000)["input_features"]
        assert torch.equal(alone, expected_features(composite, [waveform])[0])
        torch.testing.assert_close(together["input_features"][index, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-4)
        assert not together["input_features"][index, alone.shape[1] :].any()


def test_another_sampling_rate_or_number_of_clips_is_refused(
    processor: VoiceTextBlenderProcessor, waveforms: list[np.ndarray]
) -> None:
    text = f"{processor.audio_token} and {processor.audio_token}"
    with pytest.raises(ValueError, match=r"audio at 8000 Hz; the features take 16000 Hz\. Resample it\."):
        processor(text=[text], audio=waveforms[:2], sampling_rate=8_000)
    with pytest.raises(ValueError, match=r"2 <\|audio\|> tokens and 3 audio inputs"):
        processor(text=[text], audio=waveforms, sampling_rate=16_000)


def test_a_saved_processor_is_saved_again_the_same(model_dir: Path, tmp_path: Path) -> None:
    AutoProcessor.from_pretrained(model_dir).save_pretrained(tmp_path)
    for name in ("processor_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (model_dir / name).read_bytes(), name


def test_a_loaded_composite_renders_and_is_saved_as_before(
    composite: Composite, model_dir: Path, waveforms: list[np.ndarray], tmp_path: Path
) -> None:
    loaded = load_composite(model_dir)
    asked = conversation(waveforms)
    assert rendered_ids(loaded, asked, waveforms) == rendered_ids(composite, asked, waveforms)
    assert loaded.renderer.end_of_turn_ids == composite.renderer.end_of_turn_ids
    save_composite(loaded, tmp_path / "again")
    template = (model_dir / "chat_template.jinja").read_text()
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == template
    assert AutoTokenizer.from_pretrained(tmp_path / "again").chat_template == template
