"""Invariant 3, second half: packed conversations and the same ones apart agree, in every family of LLMs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    ParakeetEncoderConfig,
    PreTrainedConfig,
    Qwen3Config,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from voicetextblender.batch import collate
from voicetextblender.chat.render import Rendered
from voicetextblender.errors import ModelError
from voicetextblender.model import packing
from voicetextblender.model.configuration import VoiceTextBlenderConfig
from voicetextblender.model.loss import supervised_losses
from voicetextblender.model.modeling import VoiceTextBlenderForConditionalGeneration
from voicetextblender.model.packing import check_packing, choose_attention, run_packed

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
WINDOW = 4
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=WINDOW),
    "qwen3": Qwen3Config(**SIZES),
    "qwen3 sliding": Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=WINDOW, layer_types=LAYERS),
    # soft-capped far within what the random weights reach
    "gemma2": Gemma2Config(
        **SIZES,
        sliding_window=WINDOW,
        layer_types=LAYERS,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=WINDOW, layer_types=LAYERS, query_pre_attn_scalar=8),
}


def make_model(text_config: PreTrainedConfig, attention: str | None = None) -> VoiceTextBlenderForConditionalGeneration:
    encoder = ParakeetEncoderConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = VoiceTextBlenderConfig(
        text_config=text_config, audio_config=encoder, adapter_config={"num_heads": 2}, audio_token_id=1
    )
    torch.manual_seed(0)
    model = VoiceTextBlenderForConditionalGeneration(config).eval()
    if attention:
        model.model.language_model.set_attn_implementation(attention)
    return model


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request: pytest.FixtureRequest) -> VoiceTextBlenderForConditionalGeneration:
    return make_model(FAMILIES[request.param])


def losses_and_gradients(
    model: VoiceTextBlenderForConditionalGeneration, lengths: Sequence[int], row_sizes: Sequence[int]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Loss of each supervised token by conversation, and the gradient of their sum in every weight of the LLM."""
    batch = collate(
        [render(number, length) for number, length in enumerate(lengths)],
        [()] * len(lengths),
        [()] * len(lengths),
        ["text"] * len(lengths),
        row_sizes,
    )
    weights = [weight for name, weight in model.named_parameters() if "language_model" in name]
    hidden = run_packed(model.model, model.get_input_embeddings()(batch.token_ids), batch.position_ids)
    losses = supervised_losses(hidden, batch.token_ids, batch.supervision_mask, model.compute_logits)
    gradients = torch.autograd.grad(losses.sum(), weights)
    return tuple(piece.detach() for piece in batch.split_by_conversation(losses)), gradients


def render(number: int, length: int) -> Rendered:
    """A conversation of random tokens, the last half of it supervised; the same for the same `number`."""
    generator = torch.Generator().manual_seed(number)
    token_ids = torch.randint(2, 97, (length,), generator=generator).numpy()
    supervision_mask = torch.arange(length).ge(max(1, length // 2)).numpy()
    return Rendered(token_ids, supervision_mask, ())


def assert_same(
    ours: tuple[tuple[Tensor, ...], tuple[Tensor, ...]], theirs: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
) -> None:
    for one, other in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() + 1e-6


@st.composite
def packings(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Lengths of conversations, and how many of them stand in each row."""
    rows = draw(st.lists(st.lists(st.integers(1, 14), min_size=1, max_size=5), min_size=1, max_size=4))
    return [length for row in rows for length in row] + [2], [*map(len, rows), 1]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packings())
def test_packed_conversations_equal_the_same_alone(
    model: VoiceTextBlenderForConditionalGeneration, packing: tuple[list[int], list[int]]
) -> None:
    lengths, row_sizes = packing
    assert_same(
        losses_and_gradients(model, lengths, row_sizes), losses_and_gradients(model, lengths, [1] * len(lengths))
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_either_attention_of_the_library_keeps_conversations_apart(attention: str) -> None:
    model = make_model(FAMILIES["qwen3 sliding"], attention)
    together = losses_and_gradients(model, [9, 1, 7, 12, 5], [3, 2])
    assert_same(together, losses_and_gradients(make_model(FAMILIES["qwen3 sliding"]), [9, 1, 7, 12, 5], [1] * 5))


def attend_by_lengths(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **kwargs: Any
) -> tuple[Tensor, None]:
    """What the flash kernels do, in plain torch: all rows joined, cut at the given borders."""
    assert attention_mask is None and kwargs["max_length_q"] == 12
    joined = [part.transpose(0, 1).flatten(1, 2)[None] for part in (query, key, value)]
    pieces = []
    for start, stop in pairwise(kwargs["cu_seq_lens_q"].tolist()):
        parts = [part[:, :, start:stop] for part in joined]
        attended = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
        pieces.append(attended[0].transpose(0, 1))
    return torch.cat(pieces).unflatten(0, (query.shape[0], query.shape[2])), None


@pytest.fixture
def flash() -> Iterator[str]:
    ALL_ATTENTION_FUNCTIONS.register("flash_in_torch", attend_by_lengths)
    yield "flash_in_torch"
    ALL_ATTENTION_FUNCTIONS._local_mapping.pop("flash_in_torch", None)
    ALL_ATTENTION_FUNCTIONS._global_mapping.pop("flash_in_torch", None)


def test_kernels_that_take_lengths_get_them(flash: str) -> None:
    model = make_model(FAMILIES["llama"])
    apart = losses_and_gradients(model, [9, 1, 7, 12, 5], [1] * 5)
    model.model.language_model.config._attn_implementation = flash
    assert_same(losses_and_gradients(model, [9, 1, 7, 12, 5], [3, 2]), apart)


def test_an_llm_that_keeps_conversations_apart_passes_the_check(
    model: VoiceTextBlenderForConditionalGeneration,
) -> None:
    check_packing(model.model)
    with torch.autocast("cpu", torch.bfloat16):
        check_packing(model.model)


def test_an_llm_that_carries_its_state_on_is_refused() -> None:
    recurrent = Lfm2Config(**SIZES | {"num_hidden_layers": 2}, layer_types=["conv", "full_attention"])
    with pytest.raises(
        ModelError,
        match=r"^model\.llm: conversations that share a row change each other's hidden states by [\d.]+%; at most 1%, "
        r"as rounding does\. Set data\.pack to false, which gives every conversation a row of its own\.$",
    ):
        check_packing(make_model(recurrent).model)


class RecordingLlm:
    """Stands for an LLM on a GPU, which tests do not have."""

    def __init__(self, supports_flash: bool) -> None:
        self._supports_flash_attn = supports_flash
        self.attention = "sdpa"

    def set_attn_implementation(self, attention: str) -> None:
        self.attention = attention


@pytest.mark.parametrize(
    ("device", "precision", "is_installed", "is_supported", "expected"),
    [
        ("cuda", "bf16", True, True, "flash_attention_2"),
        ("cuda", "bf16", True, False, "sdpa"),
        ("cuda", "bf16", False, True, "sdpa"),
        ("cuda", "fp32", True, True, "sdpa"),
        ("cpu", "bf16", True, True, "sdpa"),
    ],
)
def test_flash_attention_is_taken_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, is_installed: bool, is_supported: bool, expected: str
) -> None:
    monkeypatch.setattr(packing, "is_flash_attn_2_available", lambda: is_installed)
    llm = RecordingLlm(is_supported)
    choose_attention(llm, "auto", torch.device(device), precision)  # type: ignore[arg-type]
    assert llm.attention == expected


def test_attention_that_was_asked_for_is_used_or_refused() -> None:
    llm = make_model(FAMILIES["llama"]).model.language_model
    choose_attention(llm, "eager", torch.device("cpu"), "fp32")
    assert llm.config._attn_implementation == "eager"
    gemma = make_model(FAMILIES["gemma2"]).model.language_model
    message = r"^train\.attention: 'sdpa' cannot be used \(.+\); one that Gemma2Model and .* offer\. Set it to auto\.$"
    with pytest.raises(ModelError, match=message):
        choose_attention(gemma, "sdpa", torch.device("cpu"), "fp32")
