"""A small tokenizer with a chat template, the geometry of audio, and manifests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from tests.data.rows import WriteManifest
from voicetextblender.audio.lengths import num_audio_tokens
from voicetextblender.chat.render import Renderer
from voicetextblender.data.measure import Geometry

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def renderer() -> Renderer:
    """Every byte is a token; a turn is its role, its text and `<|end|>`."""
    model = Tokenizer(BPE(vocab={letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}, merges=[]))
    model.pre_tokenizer = ByteLevel(add_prefix_space=False)
    model.decoder = ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|end|>", chat_template=CHAT_TEMPLATE)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>", "<|audio|>"]}
    )
    return Renderer(tokenizer, "<|audio|>")


@pytest.fixture(scope="session")
def geometry() -> Geometry:
    return Geometry(num_audio_tokens, "hop 160, factor 8")


@pytest.fixture
def write_manifest(tmp_path: Path) -> WriteManifest:
    """Writes rows (objects, or lines as they are to stand) to `train.jsonl` and gives its path."""

    def write(rows: Sequence[Any]) -> Path:
        path = tmp_path / "train.jsonl"
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return path

    return write
