"""The base LLM: tokenizer, chat template, the start of its weights, and a short training that resumes."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from voicetextblender.chat.conversation import TextPart, Turn
from voicetextblender.chat.render import Rendered, Renderer
from voicetextblender.mini import base_llm
from voicetextblender.mini.base_llm import (
    AUDIO,
    PRETRAINING,
    SPECIAL_TOKENS,
    BaseLLMConfig,
    hesitate,
    is_finished,
    pretrain_base_llm,
)
from voicetextblender.mini.pretrain import PretrainConfig
from voicetextblender.mini.rows import text_row
from voicetextblender.mini.text_tasks import draw_mixture
from voicetextblender.model.warm_start import PAUSE

TINY = BaseLLMConfig(
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    intermediate_size=64,
    vocab_size=400,
    num_tokenizer_chats=50,
    chats_per_step=4,
    pretrain=PretrainConfig(steps=4, learning_rate=1e-3, warmup_steps=2, checkpoint_every=1),
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return base_llm.train_tokenizer(TINY)


def test_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 400
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id == SPECIAL_TOKENS.index("<|end|>")


def test_template_takes_strings_and_parts(tokenizer: PreTrainedTokenizerFast) -> None:
    parts = [{"type": "text", "text": "Was ist"}, {"type": "audio", "path": "a.flac"}, {"type": "text", "text": "?"}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": "acht."}]
    shown = tokenizer.apply_chat_template(chat, tokenize=False)
    assert shown == "<|bos|><|user|>Was ist<|audio|>?<|end|><|assistant|>acht.<|end|>"
    prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|bos|><|user|>Was ist<|audio|>?<|end|><|assistant|>"


def test_only_answers_are_supervised(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer, AUDIO)
    for index in range(20):
        chat = base_llm.pretraining_chat(0, index)
        rendered = renderer.render(chat, ())
        supervised = tokenizer.decode(rendered.token_ids[rendered.supervision_mask]).replace("<|end|>", "\n")
        answers = [turn.text for turn in chat.turns if turn.role == "assistant"]
        assert [line.strip() for line in supervised.strip().split("\n")] == answers


def test_hesitation_adds_pauses_and_repeats_but_loses_and_moves_nothing() -> None:
    def words(text: str) -> list[str]:
        found = re.findall(r"[\w'-]+|[^\w\s]", text)
        return [word for word, before in zip(found, [None, *found], strict=False) if word not in (PAUSE, before)]

    hesitant = 0
    for seed in range(200):
        chat = text_row("x", draw_mixture(Random(seed), PRETRAINING))
        for turn in chat.turns:
            said = hesitate(turn, Random(seed))
            hesitant += PAUSE in said.text
            assert words(said.text.replace(PAUSE, " ")) == words(turn.text)
            if turn.role == "assistant":
                assert said == turn
    assert hesitant > 150


def test_before_what_is_said_a_space_is_a_token_of_its_own_as_before_a_clip(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    turn = Turn("user", (TextPart("Repeat: three red apples."),))
    said = next(text for seed in range(50) if (text := hesitate(turn, Random(seed)).text).startswith("Repeat: three "))
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(said)["input_ids"])
    clip = tokenizer.convert_ids_to_tokens(tokenizer("Repeat: three ")["input_ids"])
    assert tokens[: len(clip)] == clip and clip[-1] == "Ġ"


def test_first_layer_starts_looking_back() -> None:
    """Head 0 looks one token back, head 1 two, head 2 at the token itself: in the mean over rows of one token each."""
    torch.manual_seed(0)
    model = base_llm.build_base_llm(BaseLLMConfig())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(torch.arange(300, 364)[:, None].expand(-1, 12), output_attentions=True).attentions[0].mean(0)
    for head, offset in enumerate(base_llm.HEAD_OFFSETS):
        assert weights[head, 8:].argmax(-1).tolist() == [position - offset for position in range(8, 12)]


def test_logits_start_with_a_deviation_of_about_one() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        logits = base_llm.build_base_llm(BaseLLMConfig())(torch.randint(100, 1000, (2, 30))).logits
    assert 0.5 < logits.std().item() < 2.0


def test_chats_side_by_side_have_the_loss_of_each_alone() -> None:
    torch.manual_seed(0)
    model, renderer = base_llm.build_base_llm(TINY), Renderer(base_llm.train_tokenizer(TINY), base_llm.AUDIO)
    one, two, three, four = (renderer.render(base_llm.pretraining_chat(0, index), ()) for index in range(4))
    alone = sum(base_llm.sum_loss(model, [[chat]]) for chat in (one, two, three, four))
    packed = base_llm.sum_loss(model, [[one, two, three], [four]])
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(loss, model.model.embed_tokens.weight)[0] for loss in (packed, alone)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_training_resumes_and_loads_as_an_ordinary_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Console(quiet=True)
    losses = pretrain_base_llm(tmp_path / "whole", TINY, quiet)
    original, steps = base_llm.sum_loss, 0

    def killed(model: LlamaForCausalLM, rows: list[list[Rendered]]) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps > 2:
            raise KeyboardInterrupt
        return original(model, rows)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(base_llm, "sum_loss", killed)
        pretrain_base_llm(tmp_path / "killed", TINY, quiet)
    assert not is_finished(tmp_path / "killed")
    assert pretrain_base_llm(tmp_path / "killed", TINY, quiet) == losses
    assert is_finished(tmp_path / "killed")
    whole, resumed = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "killed"))
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "whole")) == 400
