"""Models in shards that one rank reads start as whole ones do, values outside of checkpoints included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from tests.ranks import run_on_ranks, start_ranks
from tests.tiny import make_recipe, make_tokenizer
from tests.tiny_encoders import make_ctc, make_whisper
from voicetextblender.errors import ModelError
from voicetextblender.model.build import ModelConfig, build_composite
from voicetextblender.model.weights import SPEECH_WEIGHTS
from voicetextblender.train import loop
from voicetextblender.train.config import TrainConfig
from voicetextblender.train.distributed import Ranks
from voicetextblender.train.filling import check_same_modules, values_of
from voicetextblender.train.parallel import open_composite, parallelise

SEED = 5


def make_gemma3(folder: Path) -> Path:
    """A scale of embeddings and two kinds of rotary frequencies are buffers; widths that two ranks cannot halve."""
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 18, "num_hidden_layers": 2}
    tokenizer = make_tokenizer()
    config = Gemma3TextConfig(vocab_size=len(tokenizer), hidden_size=33, intermediate_size=35, **heads)
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def start_from_one_reader(ranks: Ranks, models: list[ModelConfig], parallel: dict[str, Any]) -> None:
    config = TrainConfig.model_validate({"steps": 1, "device": "cpu", "precision": "fp32", **parallel})
    for model in models:
        expected = values_of(build_composite(model, SEED).model)
        composite = open_composite(model, SEED, config, ranks)
        assert ranks.is_first or all(tensor.is_meta for tensor in values_of(composite.model).values())
        parallelise(composite.model, config, ranks)
        found = values_of(composite.model)
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert isinstance(tensor, DTensor) is (name in dict(composite.model.named_parameters()))
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            assert whole.dtype == expected[name].dtype and torch.equal(whole, expected[name]), name


def test_shards_hold_what_a_whole_model_starts_from(tmp_path: Path) -> None:
    tied = make_recipe(tmp_path).model
    other = {"llm": str(make_gemma3(tmp_path / "gemma3")), "speech_encoder": str(make_whisper(tmp_path / "whisper"))}
    other |= {"lora": {"rank": 3, "dora": True, "gating": "with_audio"}, "adapter": {"num_heads": 2}}
    other |= {"encoder": {"overlap_s": 0.2}}
    models = [tied, ModelConfig.model_validate(other)]
    run_on_ranks(2, start_from_one_reader, models, {"parallel": "fsdp"})
    run_on_ranks(4, start_from_one_reader, models[1:], {"parallel": "hsdp", "shard_size": 2})


def build_different_models(ranks: Ranks) -> None:
    check_same_modules(torch.nn.Linear(2, 2), ranks)
    with pytest.raises(
        ModelError, match=r"^train\.parallel: .* other tensors than their weights are; .* Set it to ddp"
    ):
        check_same_modules(torch.nn.Linear(2, 2 + ranks.rank), ranks)


def test_models_that_differ_among_ranks_are_refused() -> None:
    run_on_ranks(2, build_different_models)


def test_a_warm_start_of_one_rank_reaches_the_shards_of_all(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=1, parallel="fsdp", spec_augment=None)
    ctc = make_ctc(tmp_path / "ctc", tmp_path / "encoder")
    warm = recipe.model.model_copy(update={"speech_encoder": str(ctc), "warm_start": "ctc"})
    recipe = recipe.model_copy(update={"model": warm})
    train_alone = loop.train(recipe, tmp_path / "one", Console(quiet=True))
    start_ranks(2, loop.train, recipe, tmp_path / "two")
    alone, shared = (load_file(folder / SPEECH_WEIGHTS) for folder in (train_alone, tmp_path / "two/model"))
    assert alone.keys() == shared.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
