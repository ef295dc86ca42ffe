"""Tiny real models and data: the very code that trains large ones, at sizes where a step takes milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    ParakeetEncoder,
    ParakeetEncoderConfig,
    PreTrainedTokenizerFast,
)

from voicetextblender.audio.waveform import write_waveform
from voicetextblender.train.recipe import Recipe

SPECIAL = ["<|pad|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|audio|>"]
TEMPLATE = (
    "{{ '<|bos|>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TEXTS = ["Say it again, please.", "What is three plus five?", "eight", "Anna buys three red apples.", "Noch einmal."]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a compact chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[2:5] + SPECIAL[6:],
        chat_template=TEMPLATE,
    )


def make_llm(folder: Path, **changes: Any) -> Path:
    """A random Llama with its tokenizer, saved in the ordinary way."""
    tokenizer = make_tokenizer()
    values: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
    }
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**(values | changes))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_encoder(folder: Path) -> Path:
    """A random FastConformer, saved in the ordinary way."""
    torch.manual_seed(2)
    config = ParakeetEncoderConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        subsampling_conv_channels=8,
        conv_kernel_size=5,
        dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
    )
    ParakeetEncoder(config).save_pretrained(folder)
    return folder


def make_manifest(folder: Path, num_rows: int = 12, with_text: bool = True) -> Path:
    """Conversations with 0 to 3 clips of unequal length (noise) at different places, in one manifest."""
    random = np.random.default_rng(3)
    lines = []
    for index in range(num_rows):
        content: list[dict[str, Any]] = [{"type": "text", "text": TEXTS[index % 2]}]
        num_clips = index % 4 if with_text else 1 + index % 3
        for clip in range(num_clips):
            samples = random.normal(0, 0.1, 1600 + 1700 * ((index + 3 * clip) % 7)).astype(np.float32)
            write_waveform(folder / f"clips/{index}_{clip}.flac", samples, 16_000)
            part = {"type": "audio", "path": f"clips/{index}_{clip}.flac", "duration": len(samples) / 16_000}
            content.insert(clip % (len(content) + 1), part)
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": TEXTS[index % len(TEXTS)]}]
        task = "mixed" if num_clips else "text"
        lines.append(json.dumps({"id": f"row{index}", "task": task, "language": "en", "messages": messages}))
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def make_recipe(folder: Path, **train: Any) -> Recipe:
    """A recipe over tiny models and data made in `folder`; fp32, without randomness in the forward pass."""
    if not (folder / "llm").exists():
        make_llm(folder / "llm")
        make_encoder(folder / "encoder")
        make_manifest(folder)
    optim = {"learning_rate": 1e-3, "warmup_steps": 2} | train.pop("optim", {})
    model = {"adapter": {"num_heads": 2, "dropout": 0.0}, "lora": {"rank": 4, "alpha": 8}} | train.pop("model", {})
    data = {"conversations_per_step": 8, "max_tokens_per_microbatch": 512, "max_conversation_tokens": 256}
    data |= {"num_workers": 0, "cache_dir": str(folder / "cache")} | train.pop("data", {})
    return Recipe.model_validate(
        {
            "name": "tiny",
            "seed": 7,
            "model": {"llm": str(folder / "llm"), "speech_encoder": str(folder / "encoder"), **model},
            "data": {"sources": [{"name": "all", "path": str(folder / "train.jsonl")}], **data},
            "train": {
                "steps": 6,
                "precision": "fp32",
                "device": "cpu",
                "checkpoint_every": 2,
                "tensorboard": False,
                "optim": optim,
            }
            | train,
        }
    )
