"""Families of LLMs at tiny random size: logits, loss, templates, LoRA targets, padding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from tests.chat.families import AUDIO, make_tokenizer
from tests.chat.families import FAMILIES as TEMPLATES
from tests.tiny import make_encoder
from voicetextblender.chat.conversation import Conversation, TextPart, Turn
from voicetextblender.errors import ModelError
from voicetextblender.model.build import Composite, ModelConfig, build_composite
from voicetextblender.model.loss import supervised_losses
from voicetextblender.model.packing import run_packed
from voicetextblender.model.reply import SpeechReplier
from voicetextblender.model.weights import load_composite, save_composite

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
}
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@dataclass(frozen=True)
class Llm:
    """One family: its configuration, the template its models use, and what is special about it."""

    config: type[PreTrainedConfig]
    template: str
    values: dict[str, Any]
    is_tied: bool
    targets: tuple[str, ...] | None = None


LLMS = {
    "gemma": Llm(GemmaConfig, "model_role", {}, True),
    "gemma2": Llm(Gemma2Config, "model_role", {"final_logit_softcapping": 0.7, "attn_implementation": "eager"}, True),
    "gemma3": Llm(Gemma3TextConfig, "model_role", {"final_logit_softcapping": 0.7, "sliding_window": 8}, True),
    "llama3": Llm(LlamaConfig, "headers", {"rope_parameters": LLAMA3_ROPE}, False),
    "qwen2.5": Llm(Qwen2Config, "chatml", {}, True),
    "qwen3": Llm(Qwen3Config, "thinking", {}, False),
    "mistral": Llm(MistralConfig, "instruction_tokens", {"sliding_window": 8}, False),
    "phi3": Llm(Phi3Config, "role_tokens", {"sliding_window": 8, "pad_token_id": 0}, False, FUSED),
    "phi4": Llm(Phi3Config, "chatml", {"partial_rotary_factor": 0.75, "pad_token_id": 0}, False, FUSED),
    "granite": Llm(
        GraniteConfig,
        "named_roles",
        {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.2, "attention_multiplier": 0.1},
        True,
    ),
    "smollm2": Llm(LlamaConfig, "chatml", {}, True),
    "smollm3": Llm(SmolLM3Config, "chatml", {"pad_token_id": 0, "no_rope_layers": [1, 0]}, True),
    "olmo": Llm(OlmoConfig, "written_roles", {"clip_qkv": 1.0}, False),
    "olmo2": Llm(Olmo2Config, "chatml", {}, False),
    "olmo3": Llm(Olmo3Config, "chatml", {"sliding_window": 8}, False),
    "cohere": Llm(CohereConfig, "channels", {"logit_scale": 0.0625}, True),
    "cohere2": Llm(Cohere2Config, "unigram", {"logit_scale": 0.25, "sliding_window": 8}, True),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module", params=LLMS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LLM and its tokenizer, saved in the ordinary way; padding and end of text are one token, as in many."""
    folder, llm = tmp_path_factory.mktemp("llm"), LLMS[family]
    tokenizer = make_tokenizer(llm.template)
    values = SIZES | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    values |= {"tie_word_embeddings": llm.is_tied} | llm.values
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(llm.config(**values)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def model_config(folder: Path, encoder: Path, **changes: Any) -> ModelConfig:
    values = {"llm": str(folder), "speech_encoder": str(encoder), "audio_token": AUDIO, "adapter": {"num_heads": 2}}
    return ModelConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def composite(family: str, folder: Path, encoder: Path) -> Composite:
    targets = LLMS[family].targets
    return build_composite(model_config(folder, encoder, lora={"targets": targets} if targets else {}), seed=0)


def random_ids(composite: Composite, shape: tuple[int, int]) -> torch.Tensor:
    vocab_size = composite.model.config.text_config.vocab_size
    return torch.randint(0, vocab_size, shape, generator=torch.Generator().manual_seed(1))


def test_logits_are_the_llms_own_bit_for_bit(composite: Composite, folder: Path) -> None:
    """Soft caps, scales, tied heads: a composite that only reads text is the LLM."""
    llm = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = random_ids(composite, (3, 24))
    with torch.inference_mode():
        assert torch.equal(composite.model(input_ids=ids).logits, llm(input_ids=ids).logits)


def test_the_loss_is_that_of_the_llms_own_logits(composite: Composite, folder: Path) -> None:
    llm = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = random_ids(composite, (2, 24))
    mask = torch.rand(2, 24, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[:, 0] = False
    model = composite.model
    with torch.inference_mode():
        position_ids = torch.arange(24).expand(2, -1)
        hidden = run_packed(model.model, model.get_input_embeddings()(ids), position_ids)
        losses = supervised_losses(hidden, ids, mask, model.compute_logits)
        logits = llm(input_ids=ids).logits[:, :-1]
    every = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(losses, every.view(2, 23)[mask[:, 1:]], rtol=1e-5, atol=1e-5)


def test_a_head_of_its_own_kind_is_tied_as_the_checkpoint_says(composite: Composite, family: str) -> None:
    is_shared = composite.model.lm_head.weight is composite.model.get_input_embeddings().weight
    assert is_shared == LLMS[family].is_tied == composite.model.config.tie_word_embeddings


def test_answers_and_their_ends_are_supervised_though_padding_is_the_same_token(
    composite: Composite, family: str
) -> None:
    tokenizer, template = composite.tokenizer, TEMPLATES[LLMS[family].template]
    tokenizer.pad_token = tokenizer.eos_token
    conversation = Conversation(
        "asked", (Turn("user", (TextPart("What is it?"),)), Turn("assistant", (TextPart("It is Paris."),)))
    )
    rendered = composite.renderer.render(conversation, ())
    supervised = rendered.token_ids[rendered.supervision_mask].tolist()
    end = tokenizer.convert_tokens_to_ids(template.end or template.eos)
    assert supervised[-1] == end and end in composite.renderer.end_of_turn_ids
    assert tokenizer.decode(supervised[:-1]).strip() == (template.opening + "It is Paris.").strip()


def test_every_target_of_lora_is_found(composite: Composite, family: str, folder: Path, encoder: Path) -> None:
    trained = {
        name.split(".lora_")[0] for name, p in composite.model.named_parameters() if p.requires_grad and "lora" in name
    }
    targets = LLMS[family].targets or ModelConfig.model_fields["lora"].default.targets
    assert len(trained) == SIZES["num_hidden_layers"] * len(targets)
    assert {name.rsplit(".", 1)[-1] for name in trained} == set(targets)
    if LLMS[family].targets:
        with pytest.raises(
            ModelError, match=r"names no linear layer of the LLM; its linear layers are .*'gate_up_proj'"
        ):
            build_composite(model_config(folder, encoder), seed=0)


def test_replies_do_not_depend_on_padding(composite: Composite) -> None:
    texts = ["What is it?", "Wie spät ist es? Es ist drei Uhr. What is the capital of France?", "user"]
    asked = [Conversation(text, (Turn("user", (TextPart(text),)),)) for text in texts]
    replier = SpeechReplier(composite)
    together = replier.reply(asked, 6)
    assert [replier.reply([one], 6)[0] for one in asked] == together


def test_saved_and_loaded_is_the_same(composite: Composite, tmp_path: Path) -> None:
    save_composite(composite, tmp_path / "model")
    loaded = load_composite(tmp_path / "model")
    ids = random_ids(composite, (1, 12))
    with torch.inference_mode():
        assert torch.equal(loaded.model(input_ids=ids).logits, composite.model(input_ids=ids).logits)


def test_a_head_that_we_do_not_know_is_refused(encoder: Path, tmp_path: Path) -> None:
    """Falcon-H1 multiplies its logits by a number of its own."""
    tokenizer = make_tokenizer("chatml")
    values = {key: value for key, value in SIZES.items() if key != "head_dim"}
    config = FalconH1Config(
        **values, vocab_size=len(tokenizer), lm_head_multiplier=0.5, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    with pytest.raises(
        ModelError,
        match=r"its logits differ from ours by up to [\d.]+; a head that our loss knows; that of FalconH1ForCausalLM",
    ):
        build_composite(model_config(tmp_path / "llm", encoder), seed=0)
