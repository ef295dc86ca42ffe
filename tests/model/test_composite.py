"""The composite against its parts: generation, LoRA, merging, saving, and the layout that serving engines expect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.tiny import make_encoder, make_llm, make_recipe, make_tokenizer
from voicetextblender.audio.front_end import extract_features
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart, Turn
from voicetextblender.errors import DataError, ModelError
from voicetextblender.model.build import Composite, ModelConfig, build_composite
from voicetextblender.model.clips import embed_clips
from voicetextblender.model.lora import merge_lora
from voicetextblender.model.loss import supervised_losses
from voicetextblender.model.modeling import VoiceTextBlenderForConditionalGeneration, VoiceTextBlenderModel
from voicetextblender.model.reply import SpeechReplier, TextReplier
from voicetextblender.model.weights import load_composite, save_composite


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composite")
    make_recipe(folder)
    return folder


@pytest.fixture
def composite(folder: Path) -> Composite:
    return build_composite(make_recipe(folder).model, seed=0)


def clip(num_samples: int, key: int = 0) -> AudioPart:
    waveform = np.random.default_rng(key).normal(0, 0.1, num_samples).astype(np.float32)
    return AudioPart(path=None, waveform=waveform)


def ask(*parts: TextPart | AudioPart) -> Conversation:
    return Conversation("asked", (Turn("user", parts),))


CONVERSATIONS = [
    ask(TextPart("What is three plus five?")),
    ask(clip(16_000, 1)),
    ask(TextPart("Say it again, please. "), clip(9_000, 2), TextPart(" and "), clip(23_000, 3)),
    Conversation(
        "turns",
        (
            Turn("user", (clip(4_000, 4),)),
            Turn("assistant", (TextPart("eight"),)),
            Turn("user", (TextPart("Noch einmal."), clip(700, 5))),
        ),
    ),
]


def make_lora_matter(composite: Composite) -> None:
    """Give every second LoRA matrix values, as training would."""
    torch.manual_seed(3)
    for name, parameter in composite.model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.3)


def test_replies_are_the_same_alone_in_a_batch_streamed_and_without_a_cache(composite: Composite) -> None:
    make_lora_matter(composite)
    replier = SpeechReplier(composite)
    together = replier.reply(CONVERSATIONS, 12)
    assert len(set(together)) > 1, "random models that all say the same would prove little"
    for conversation, reply in zip(CONVERSATIONS, together, strict=True):
        assert replier.reply([conversation], 12) == [reply]
        assert "".join(replier.stream(conversation, 12)).strip() == reply
        assert decode_without_cache(composite, conversation, 12) == reply


def decode_without_cache(composite: Composite, conversation: Conversation, max_new_tokens: int) -> str:
    clips = [part.waveform for part in conversation.clips if part.waveform is not None]
    counts = [composite.num_audio_tokens(len(waveform)) for waveform in clips]
    ids = torch.from_numpy(composite.renderer.render(conversation, counts, add_generation_prompt=True).token_ids)[None]
    start = ids.shape[1]
    inputs = {}
    if clips:
        features, mask = extract_features(composite.front_end, [torch.from_numpy(waveform) for waveform in clips])
        inputs = {"input_features": features, "input_features_mask": mask}
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            logits = composite.model(input_ids=ids, use_cache=False, **inputs).logits[0, -1]
            logits[composite.renderer.audio_token_id] = -torch.inf
            token = int(logits.argmax())
            if token in composite.renderer.end_of_turn_ids:
                break
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return composite.tokenizer.decode(ids[0, start:].tolist(), skip_special_tokens=True).strip()


def test_text_alone_equals_the_base_llm_bit_for_bit(composite: Composite, folder: Path) -> None:
    """Invariant 5: at its start LoRA changes no logit, and text does not touch the speech parts."""
    llm = AutoModelForCausalLM.from_pretrained(folder / "llm").eval()
    ids = torch.randint(7, 300, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(composite.model(input_ids=ids).logits, llm(input_ids=ids).logits)


def test_merged_equals_unmerged(composite: Composite) -> None:
    make_lora_matter(composite)
    ids = torch.randint(7, 300, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = composite.model(input_ids=ids).logits
        merge_lora(composite.model)
        torch.testing.assert_close(composite.model(input_ids=ids).logits, before, rtol=1e-3, atol=1e-4)
    assert not [name for name, _ in composite.model.named_parameters() if "lora" in name]


def test_saved_and_loaded_is_the_same_model(composite: Composite, tmp_path: Path) -> None:
    make_lora_matter(composite)
    composite.model.model.adapter.projection.weight.data.mul_(1.5)
    save_composite(composite, tmp_path / "model")
    loaded = load_composite(tmp_path / "model")
    state = loaded.model.state_dict()
    for name, value in composite.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert SpeechReplier(loaded).reply(CONVERSATIONS, 8) == SpeechReplier(composite).reply(CONVERSATIONS, 8)
    keys = json.loads((tmp_path / "model" / "lora" / "adapter_config.json").read_text())
    assert keys["r"] == 4 and keys["lora_alpha"] == 8


def test_a_model_without_a_tensor_or_with_another_llm_is_refused(
    composite: Composite, folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    save_composite(composite, tmp_path / "model")
    path = tmp_path / "model" / "speech.safetensors"
    state = load_file(path)
    save_file({k: v for k, v in state.items() if k != "model.adapter.projection.bias"} | {"new": torch.ones(1)}, path)
    with pytest.raises(ModelError, match=r"1 tensors missing \['model.adapter.projection.bias'\], 1 surplus \['new'\]"):
        load_composite(tmp_path / "model")
    save_file(state, path)
    manifest = tmp_path / "model" / "voicetextblender.json"
    values = json.loads(manifest.read_text())
    values["llm"]["path"] = str(make_llm(tmp_path / "other", initializer_range=0.1))
    manifest.write_text(json.dumps(values))
    with pytest.raises(
        ModelError, match=r"its weights are not those that this model was trained with; the LLM named in"
    ):
        load_composite(tmp_path / "model")
    with pytest.raises(
        ModelError, match=r"no voicetextblender.json; a model folder that training wrote\. Name a finished"
    ):
        load_composite(tmp_path)


def test_the_whole_composite_saves_and_loads_through_the_library(composite: Composite, tmp_path: Path) -> None:
    """Buffers that are not stored (positions of the adapter) come back too: reloading once lost them silently."""
    merge_lora(composite.model)
    composite.model.save_pretrained(tmp_path)
    loaded, report = VoiceTextBlenderForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for kind in ("named_parameters", "named_buffers"):
        before, after = (dict(getattr(model, kind)()) for model in (composite.model, loaded))
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    # As the encoder was built: in another layout of the same weights, convolutions without AVX-512 differ by 3e-7.
    loaded.model.audio_tower.to(memory_format=torch.channels_last)
    waveform = [torch.randn(20_000, generator=torch.Generator().manual_seed(0))]
    with torch.inference_mode():
        ours, theirs = (
            embed_clips(model.model.eval(), composite.front_end, waveform, [16]) for model in (composite.model, loaded)
        )
    assert torch.equal(ours, theirs)
    assert type(AutoModel.from_pretrained(tmp_path)) is VoiceTextBlenderModel
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is VoiceTextBlenderForConditionalGeneration


def test_audio_embeddings_start_at_the_size_of_the_text_embeddings(composite: Composite) -> None:
    waveform = [torch.randn(48_000, generator=torch.Generator().manual_seed(0)) * 0.1]
    with torch.inference_mode():
        audio = embed_clips(composite.model.model, composite.front_end, waveform, [38])
    text = composite.model.get_input_embeddings().weight
    assert float(audio.pow(2).mean().sqrt()) == pytest.approx(float(text.detach().pow(2).mean().sqrt()), rel=0.35)


@pytest.mark.parametrize("head_learns", [False, True])
@pytest.mark.parametrize("positions_per_chunk", [1, 3, 1000])
def test_the_loss_equals_plain_cross_entropy_on_all_logits(
    composite: Composite, positions_per_chunk: int, head_learns: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(7, 300, (3, 17), generator=generator)
    mask = torch.rand(3, 17, generator=generator) < 0.4
    mask[:, 0] = False
    shares = torch.rand(int(mask.sum()), generator=generator)
    hidden = torch.randn(3, 17, 64, generator=generator, requires_grad=True)
    head = composite.model.lm_head.weight.requires_grad_(head_learns)
    learns = [hidden, head] if head_learns else [hidden]
    losses = supervised_losses(hidden, ids, mask, composite.model.compute_logits, positions_per_chunk)
    gradients = torch.autograd.grad(losses @ shares, learns)
    logits = composite.model.compute_logits(hidden)
    every = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    expected = every.view(3, 16)[mask[:, 1:]]
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected @ shares, learns))
    with torch.no_grad():
        torch.testing.assert_close(
            supervised_losses(hidden, ids, mask, composite.model.compute_logits, positions_per_chunk), expected.detach()
        )


def test_the_loss_of_no_supervised_token_is_empty_and_gives_no_gradient(composite: Composite) -> None:
    hidden = torch.randn(2, 5, 64, requires_grad=True)
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    losses = supervised_losses(hidden, torch.zeros(2, 5, dtype=torch.long), nothing, composite.model.compute_logits)
    assert len(losses) == 0
    assert not torch.autograd.grad(losses.sum(), hidden)[0].any()


def test_logits_of_a_vocabulary_exist_for_one_chunk_at_a_time() -> None:
    sizes: list[int] = []

    def compute_logits(states: torch.Tensor) -> torch.Tensor:
        sizes.append(len(states))
        return states @ torch.eye(8)

    hidden, ids = torch.randn(1, 101, 8, requires_grad=True), torch.zeros(1, 101, dtype=torch.long)
    mask = torch.ones(1, 101, dtype=torch.bool)
    supervised_losses(hidden, ids, mask, compute_logits, positions_per_chunk=30).sum().backward()
    assert sizes == [0, 30, 30, 30, 10]


@pytest.mark.parametrize("family", ["gemma2", "qwen3"])
def test_other_llms_keep_their_own_logits(family: str, tmp_path: Path) -> None:
    """Gemma 2 caps its logits and scales its embeddings; Qwen 3 has norms on queries and keys."""
    tokenizer = make_tokenizer()
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
    }
    torch.manual_seed(0)
    if family == "gemma2":
        llm = Gemma2ForCausalLM(Gemma2Config(**sizes, final_logit_softcapping=0.5, attn_implementation="eager"))
    else:
        llm = Qwen3ForCausalLM(Qwen3Config(**sizes))
    llm.save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    config = ModelConfig(
        llm=str(tmp_path / "llm"), speech_encoder=str(make_encoder(tmp_path / "encoder")), adapter={"num_heads": 2}
    )  # type: ignore[arg-type]
    composite = build_composite(config, 0)
    llm = AutoModelForCausalLM.from_pretrained(tmp_path / "llm").eval()
    ids = torch.randint(7, 300, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(composite.model(input_ids=ids).logits, llm(input_ids=ids).logits)
    assert SpeechReplier(composite).reply(CONVERSATIONS, 4)


def test_parts_that_do_not_fit_are_refused(folder: Path) -> None:
    config = make_recipe(folder).model
    with pytest.raises(ModelError, match=r"model.audio_token: '<nope>' is not in the tokenizer; a token inside"):
        build_composite(config.model_copy(update={"audio_token": "<nope>"}), 0)
    with pytest.raises(ModelError, match=r"no model can be loaded .*; a save_pretrained folder .* `vtb prepare mini`"):
        build_composite(config.model_copy(update={"llm": "nowhere/at/all"}), 0)
    with pytest.raises(ModelError, match=r"model type 'llama'; a speech encoder: parakeet_encoder, whisper"):
        build_composite(config.model_copy(update={"speech_encoder": config.llm}), 0)
    with pytest.raises(ModelError, match=r"model.lora.targets: \['w'\] names no linear layer of the LLM; its linear"):
        build_composite(config.model_copy(update={"lora": config.lora.model_copy(update={"targets": ("w",)})}), 0)
    with pytest.raises(DataError, match=r"1 clips; text only for a plain LLM"):
        TextReplier(config.llm, config.audio_token).reply([CONVERSATIONS[1]], 4)


def test_weights_missing_from_a_checkpoint_are_an_error(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make_llm(tmp_path / "llm")
    state = load_file(tmp_path / "llm" / "model.safetensors")
    state.pop("model.layers.1.mlp.up_proj.weight")
    save_file(state, tmp_path / "llm" / "model.safetensors", {"format": "pt"})
    config = make_recipe(folder).model.model_copy(update={"llm": str(tmp_path / "llm")})
    with pytest.raises(ModelError, match=r"1 weights are missing, first \['model.layers.1.mlp.up_proj.weight'\]"):
        build_composite(config, 0)
