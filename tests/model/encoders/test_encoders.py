"""Every family of speech encoders: lengths, independence of padding, windows, layers, and the library's own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from tests.tiny_encoders import MAKERS, make_family, make_w2v_bert, make_whisper
from voicetextblender.audio.front_end import extract_features, open_front_end
from voicetextblender.errors import ModelError
from voicetextblender.model.encoders.encode import encode
from voicetextblender.model.encoders.load import load_encoder
from voicetextblender.model.encoders.plan import EncoderPlan, plan_encoder
from voicetextblender.model.encoders.settings import EncoderSettings

SHORTEST = 720
"""Samples that make an encoder frame in every family."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("encoders")
    return {family: str(make_family(family, folder / family)) for family in MAKERS}


CASES: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in MAKERS),
    ("whisper", {"pad_clips": "none"}),
    ("whisper", {"window_s": 0.6, "overlap_s": 0.2}),
    ("whisper", {"pad_clips": "none", "overlap_s": 0.2}),
    ("fastconformer", {"window_s": 0.8, "overlap_s": 0.35}),
    ("w2v_bert", {"window_s": 0.5, "overlap_s": 0.1, "layer": 2}),
    ("wav2vec2", {"window_s": 0.5, "overlap_s": 0.0}),
    ("wavlm_large", {"layer": 1}),
]
case = pytest.mark.parametrize(
    ("family", "settings"), CASES, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)


def open_encoder(folders: dict[str, str], family: str, settings: dict[str, Any]) -> tuple[EncoderPlan, PreTrainedModel]:
    plan = plan_encoder(folders[family], EncoderSettings(**({"overlap_s": 0.2} | settings)))
    return plan, load_encoder(plan).eval()


def test_no_layer_is_left_out_by_chance(tmp_path: Path) -> None:
    """Ranks that share a layer must all enter it."""
    folder = make_w2v_bert(tmp_path / "encoder", layerdrop=0.9)
    plan = plan_encoder(str(folder))
    tower = load_encoder(plan).train()
    runs: list[int] = []
    for index, layer in enumerate(tower.encoder.layers):
        layer.register_forward_hook(lambda *arguments, index=index: runs.append(index))
    features, mask = extract_features(open_front_end(plan.front_end), make_clips([4000]))
    for _ in range(5):
        encode(tower, features, mask)
    assert runs == [0, 1, 2] * 5


def make_clips(lengths: list[int], seed: int = 0) -> list[torch.Tensor]:
    random = np.random.default_rng(seed)
    return [torch.from_numpy(random.normal(0, 0.1, length).astype(np.float32)) for length in lengths]


def run(plan: EncoderPlan, tower: PreTrainedModel, clips: list[torch.Tensor]) -> list[torch.Tensor]:
    """Valid hidden states of each clip."""
    output = encode(tower, *extract_features(open_front_end(plan.front_end), clips))
    assert output.attention_mask is not None and output.last_hidden_state is not None
    return [hidden[mask] for hidden, mask in zip(output.last_hidden_state, output.attention_mask.bool(), strict=True)]


@case
def test_as_many_frames_as_counted_and_a_clip_alone_is_as_in_a_batch(
    folders: dict[str, str], family: str, settings: dict[str, Any]
) -> None:
    """Invariants 1 and 3, over random lengths on both sides of a window and at its borders."""
    plan, tower = open_encoder(folders, family, settings)
    random = np.random.default_rng(5)
    lengths = [*random.integers(SHORTEST, 40_000, 6).tolist(), 15_999, 16_000, 16_001, SHORTEST]
    clips = make_clips(lengths)
    with torch.inference_mode():
        together = run(plan, tower, clips)
        for clip, hidden in zip(clips, together, strict=True):
            assert len(hidden) == plan.num_audio_tokens(len(clip)) > 0
            torch.testing.assert_close(run(plan, tower, [clip])[0], hidden, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("family", MAKERS)
def test_counts_are_exact_for_every_length(folders: dict[str, str], family: str) -> None:
    """Lengths in a row over several encoder frames: each border is met."""
    settings = {"pad_clips": "none"} if family == "whisper" else {}
    plan, tower = open_encoder(folders, family, settings)
    with torch.inference_mode():
        for start in range(SHORTEST, SHORTEST + 1400, 200):
            clips = make_clips(list(range(start, start + 200, 10 if family.startswith("w") else 7)))
            counts = [plan.num_audio_tokens(len(clip)) for clip in clips]
            assert [len(hidden) for hidden in run(plan, tower, clips)] == counts


def library_features(family: str, clips: list[np.ndarray], padded: bool) -> dict[str, torch.Tensor]:
    """What the library's own extractor makes of clips."""
    options: dict[str, Any] = {"sampling_rate": 16_000, "return_tensors": "pt"}
    if family == "whisper":
        return dict(WhisperFeatureExtractor(chunk_length=1)(clips, **options))
    if family == "w2v_bert":
        return dict(SeamlessM4TFeatureExtractor()(clips, **options))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=family != "wavlm", return_attention_mask=True)
    return dict(extractor(clips, padding=padded, **options))


@pytest.mark.parametrize("family", [family for family in MAKERS if family != "fastconformer"])
def test_features_are_those_of_the_library(folders: dict[str, str], family: str) -> None:
    plan, _ = open_encoder(folders, family, {})
    clips = make_clips([12_345, 9_000, SHORTEST])
    features, mask = extract_features(open_front_end(plan.front_end), clips)
    expected = library_features(family, [clip.numpy() for clip in clips], padded=True)
    if family == "whisper":
        torch.testing.assert_close(features.transpose(1, 2), expected["input_features"], rtol=0, atol=2e-5)
    elif family == "w2v_bert":
        stacked = features[:, : features.shape[1] // 2 * 2].reshape(len(clips), -1, 160)
        for ours, theirs, length in zip(stacked, expected["input_features"], mask.sum(1) // 2, strict=True):
            torch.testing.assert_close(ours[:length], theirs[:length], rtol=0, atol=1e-3)
    else:
        torch.testing.assert_close(features[..., 0], expected["input_values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", [family for family in MAKERS if family != "fastconformer"])
def test_hidden_states_are_bit_for_bit_those_of_the_library(folders: dict[str, str], family: str) -> None:
    """On the library's own features, of clips of one length and, where the library masks, of unequal ones."""
    _, tower = open_encoder(folders, family, {})
    model = AutoModel.from_pretrained(folders[family]).eval()
    has_masks = family in ("w2v_bert", "wav2vec2_large", "hubert_large", "wavlm_large")
    clips = make_clips([12_000, 9_000 if has_masks else 12_000])
    inputs = library_features(family, [clip.numpy() for clip in clips], padded=True)
    mask = inputs.get("attention_mask")
    with torch.inference_mode():
        if family == "whisper":
            expected = model.encoder(inputs["input_features"]).last_hidden_state
            output = tower(inputs["input_features"].transpose(1, 2))
        elif family == "w2v_bert":
            expected = model(**inputs).last_hidden_state
            features = inputs["input_features"].reshape(2, -1, 80)
            output = tower(features, mask.repeat_interleave(2, 1))
        else:
            expected = model(inputs["input_values"], attention_mask=mask).last_hidden_state
            output = tower(inputs["input_values"][..., None], mask)
    valid = slice(None) if output.attention_mask is None else output.attention_mask
    assert torch.equal(output.last_hidden_state[valid], expected[valid])


@pytest.mark.parametrize("family", [family for family in MAKERS if family != "fastconformer"])
def test_an_inner_layer_is_the_librarys_hidden_state(folders: dict[str, str], family: str) -> None:
    _, tower = open_encoder(folders, family, {"layer": 2})
    _, whole = open_encoder(folders, family, {})
    model = AutoModel.from_pretrained(folders[family]).eval()
    inputs = library_features(family, [make_clips([12_000])[0].numpy()], padded=False)
    mask = None
    with torch.inference_mode():
        if family == "whisper":
            states = model.encoder(inputs["input_features"], output_hidden_states=True).hidden_states
            features = inputs["input_features"].transpose(1, 2)
        elif family == "w2v_bert":
            states = model(**inputs, output_hidden_states=True).hidden_states
            features = inputs["input_features"].reshape(1, -1, 80)
            mask = inputs["attention_mask"].repeat_interleave(2, 1)
        else:
            states = model(inputs["input_values"], output_hidden_states=True).hidden_states
            features = inputs["input_values"][..., None]
        assert torch.equal(tower(features, mask).last_hidden_state, states[2])
    assert sum(p.numel() for p in tower.parameters()) < sum(p.numel() for p in whole.parameters())


def test_windows_agree_with_the_whole_where_context_is_far(folders: dict[str, str]) -> None:
    """A cut clip is close to the uncut one, and equal before the first cut could matter to convolutions."""
    _, tower = open_encoder(folders, "wav2vec2", {})
    plan, cut = open_encoder(folders, "wav2vec2", {"window_s": 0.5, "overlap_s": 0.3})
    clip = make_clips([32_000])
    with torch.inference_mode():
        whole, joined = run(plan, tower, clip)[0], run(plan, cut, clip)[0]
    assert joined.shape == whole.shape and not torch.equal(joined, whole)
    similarity = torch.nn.functional.cosine_similarity(joined, whole)
    assert float(similarity.mean()) > 0.9, "the windows are joined in their places"


def test_whisper_masked_at_its_length_equals_whisper_of_that_length(tmp_path: Path) -> None:
    """Without padding: the same as the library's encoder whose window is the clip."""
    folder = make_whisper(tmp_path / "long")
    plan = plan_encoder(str(folder), EncoderSettings(pad_clips="none", overlap_s=0))
    tower = load_encoder(plan).eval()
    clip = make_clips([8_000])
    features, mask = extract_features(open_front_end(plan.front_end), clip)
    short = AutoModel.from_pretrained(folder).encoder.eval()
    short.config.max_source_positions = 25
    short.embed_positions.weight = torch.nn.Parameter(short.embed_positions.weight[:25].clone())
    short.embed_positions.num_embeddings = 25
    with torch.inference_mode():
        expected = short(features.transpose(1, 2)).last_hidden_state
        torch.testing.assert_close(tower(features, mask).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 4}, r"model.encoder.layer: layer 4; the encoder has 3 layers\. Choose one of them\."),
        (
            {"window_s": 2.0},
            r"model.encoder.window_s: 2.0 s; the encoder takes 1 s at once\. Lower it, or leave it out\.",
        ),
        ({"window_s": 0.2, "overlap_s": 0.3}, r"model.encoder.overlap_s: 0.3 s; less than the window of 0.2 s\. Lower"),
    ],
)
def test_settings_that_an_encoder_cannot_take(folders: dict[str, str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        plan_encoder(folders["whisper"], EncoderSettings(**settings))


def test_encoders_that_cannot_be_used(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'window' with an encoder of type 'hubert'; Whisper alone was trained on"):
        plan_encoder(folders["hubert"], EncoderSettings(pad_clips="window"))
    folder = make_family("wav2vec2", tmp_path / "plain")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"no preprocessor_config.json, which says how its features are made; the"):
        plan_encoder(str(folder))
    from tests.tiny_encoders import make_w2v_bert

    folder = make_w2v_bert(tmp_path / "adapter", add_adapter=True)
    with pytest.raises(ModelError, match=r"'add_adapter' in its configuration; parts in which a clip does not see"):
        plan_encoder(str(folder))
    with pytest.raises(ModelError, match=r"nowhere: no speech encoder can be loaded .*; a save_pretrained folder"):
        plan_encoder("nowhere")
