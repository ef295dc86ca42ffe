"""Exported models served by stock vLLM against our own generate(): the same greedy token ids, prompt by prompt.

    sh benchmarks/vllm_environment.sh /tmp/vllm
    python benchmarks/vllm_parity.py /tmp/vllm --run runs/mini/joint
    python benchmarks/vllm_parity.py /tmp/vllm --families gemma2 gemma3_text mistral

Prompts are of four kinds: several unequal clips, several turns, one clip, text. They go to a cold engine all at once,
those with several clips first (later ones could be answered from the engine's cache of clips), then one by one. A run
is asked with rows of its evaluation; tiny random composites of every family, with LoRA, with random clips.
Our own side is the model that the export was made from, LoRA not merged. fp32 on both sides.
"""

from __future__ import annotations

import argparse
import base64
import io
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from vllm_client import PASSES, ask_engine, ask_server

from voicetextblender.chat.clips import read_clip
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart, Turn
from voicetextblender.evaluate.rows import open_row, read_conversations
from voicetextblender.model.build import Composite, build_composite
from voicetextblender.model.reply import SpeechReplier
from voicetextblender.model.weights import load_composite
from voicetextblender.serve.export import export
from voicetextblender.serve.servable import served_lora_rank
from voicetextblender.train.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("several clips", "several turns", "one clip", "text")
FAMILIES = ("llama", "gemma", "qwen3")
ADAPTERS: dict[str, dict[str, Any]] = {
    "fastconformer": {"num_heads": 2},
    "whisper": {"kind": "linear"},
    "w2v_bert": {"kind": "qformer", "num_heads": 2},
    "wav2vec2": {"kind": "stack", "width": 32},
    "hubert_large": {"num_heads": 2},
    "wavlm": {"kind": "linear"},
}
"""The adapter behind each family of encoders."""
MAX_NEW_TOKENS = 16
TEXTS = ("Say it again, please. ", "What is three plus five? ", "Noch einmal. ", "Anna buys red apples. ", "eight ")


@dataclass(frozen=True)
class Case:
    """A model, its prompts, and whether its random weights may want to write the audio placeholder."""

    name: str
    composite: Composite
    prompts: list[Conversation]
    is_random: bool


def main() -> int:
    """Run as a script; exit status 1 where any token differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", type=Path, help="made by vllm_environment.sh")
    parser.add_argument("--run", type=Path, help="a finished run")
    parser.add_argument("--families", nargs="*", default=FAMILIES, help="model types of tiny random LLMs")
    parser.add_argument("--encoders", nargs="*", default=(), help="families of tiny random encoders, with a Llama")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--server", action="store_true", help="ask the OpenAI server, one request after the other")
    parser.add_argument("--lora", action="store_true", help="do not merge LoRA: the engine adds it to the base LLM")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| model | {' | '.join([*KINDS, *PASSES])} | same prompt ids | distinct replies |")
    print("|---|" + "---|" * (len(KINDS) + len(PASSES) + 2))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        if arguments.run:
            failed += compare(run_case(arguments.run, arguments.prompts), arguments, Path(folder) / "run")
        pairs = [(family, "fastconformer") for family in arguments.families]
        for family, encoder in [*pairs, *(("llama", encoder) for encoder in arguments.encoders)]:
            own = Path(folder) / f"{family}-{encoder}"
            failed += compare(random_case(family, encoder, own, arguments.prompts), arguments, own)
    return 1 if failed else 0


def compare(case: Case, arguments: argparse.Namespace, folder: Path) -> int:
    """Print one row of the table; returns how many replies differ."""
    expected = SpeechReplier(case.composite).reply_ids(case.prompts, MAX_NEW_TOKENS)
    prompt_ids = [render_ids(case.composite, prompt) for prompt in case.prompts]
    ends = case.composite.renderer.end_of_turn_ids
    export(case.composite, folder / "exported", "lora" if arguments.lora else "merged")
    ask = ask_server if arguments.server else ask_engine
    passes = ask(arguments.environment, make_job(case, arguments.lora, folder), folder)
    equal = {
        name: [strip(reply["ids"], ends) == ids for reply, ids in zip(replies, expected, strict=True)]
        for name, replies in passes.items()
    }
    first = next(iter(passes))
    same_prompt = [reply["prompt_ids"] == ids for reply, ids in zip(passes[first], prompt_ids, strict=True)]
    cells = []
    for kind in KINDS:
        own = [same for same, prompt in zip(equal[first], case.prompts, strict=True) if kind_of(prompt) == kind]
        cells.append(share(own))
    cells += [share(equal[name]) if name in equal else "" for name in PASSES]
    print(f"| {' | '.join([case.name, *cells, share(same_prompt)])} | {len(set(map(tuple, expected)))} |", flush=True)
    return sum(found.count(False) for found in (*equal.values(), same_prompt))


def share(found: Sequence[bool]) -> str:
    """How many are true, of how many."""
    return f"{sum(found)} of {len(found)}"


def make_job(case: Case, with_lora: bool, folder: Path) -> dict[str, Any]:
    """What vllm_client.py takes: the exported model and the prompts."""
    engine = {
        "model": str(folder / "exported"),
        "trust_remote_code": True,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 1024,
        "limit_mm_per_prompt": {"audio": max(len(prompt.clips) for prompt in case.prompts)},
    }
    return {
        "engine": engine,
        "lora": str(folder / "exported" / "lora") if with_lora else None,
        "lora_rank": served_lora_rank(case.composite.config.lora.rank),
        "max_new_tokens": MAX_NEW_TOKENS,
        "logit_bias": {case.composite.renderer.audio_token_id: -100} if case.is_random else {},
        "prompts": [as_messages(prompt) for prompt in case.prompts],
    }


def run_case(run: Path, num_prompts: int) -> Case:
    """A finished run and prompts from all rows of its evaluation."""
    recipe = load_recipe(str(run / "recipe.yaml"))
    assert recipe.evaluate is not None, "the recipe has no evaluation to take prompts from"
    sources, cache_dir = recipe.data.all_sources, Path(recipe.data.cache_dir)
    opened = {name: open_row(name, row, sources, cache_dir) for name, row in recipe.evaluate.rows.items()}
    rows = [row for name, source in opened.items() for row in read_conversations(name, source, None)[0]]
    asked = [replace(row, turns=row.turns[:-1]) for row in rows]
    random.Random(0).shuffle(asked)
    chosen = [
        prompt
        for kind, count in zip(KINDS, split_evenly(num_prompts), strict=True)
        for prompt in [prompt for prompt in asked if kind_of(prompt) == kind][:count]
    ]
    return Case(str(run), load_composite(run / "model"), chosen, is_random=False)


def random_case(family: str, encoder: str, folder: Path, num_prompts: int) -> Case:
    """A tiny LLM of a family and a tiny encoder with random weights, LoRA that matters, and noise for clips."""
    sys.path.insert(0, str(ROOT))
    from tests.tiny import make_recipe, make_tokenizer
    from tests.tiny_encoders import make_family

    parts: dict[str, Any] = {"encoder": {"overlap_s": 0.2}, "adapter": ADAPTERS[encoder]}
    parts["speech_encoder"] = str(make_family(encoder, folder / "speech_encoder"))
    recipe = make_recipe(folder, model=parts)
    make_llm(family, folder / "llm", make_tokenizer())
    composite = build_composite(recipe.model, seed=0)
    torch.manual_seed(0)
    for name, parameter in composite.model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.1)
    chooser, generator = random.Random(1), np.random.default_rng(2)

    def part(kind: str) -> TextPart | AudioPart:
        if kind == "text":
            return TextPart(chooser.choice(TEXTS))
        num_samples = chooser.choice((1_000, *(chooser.randint(1_000, 60_000) for _ in range(3))))
        return AudioPart(None, waveform=generator.normal(0, 0.1, num_samples).astype(np.float32))

    def turn(*kinds: str) -> Turn:
        return Turn("user", tuple(part(kind) for kind in kinds))

    def prompt(kind: str, index: int) -> Conversation:
        answer = Turn("assistant", (TextPart("eight"),))
        turns = {
            "several clips": (turn("clip", "text", "clip", *(("clip",) * (index % 3)), "text"),),
            "several turns": (
                turn("text", "clip"),
                answer,
                *((turn("clip"), answer) * (index % 2)),
                turn("clip", "text"),
            ),
            "one clip": (turn("text", "clip") if index % 2 else turn("clip", "text"),),
            "text": (turn("text", "text"),) if index % 2 else (turn("text"), answer, turn("text", "text", "text")),
        }
        return Conversation(f"{kind} {index}", turns[kind])

    counts = zip(KINDS, split_evenly(num_prompts), strict=True)
    prompts = [prompt(kind, index) for kind, count in counts for index in range(count)]
    return Case(f"{family}, {encoder}, {composite.config.adapter.kind}: random", composite, prompts, is_random=True)


def make_llm(family: str, folder: Path, tokenizer: Any) -> None:
    """A random LLM of a model type of the library, two layers, heads of 64, saved with `tokenizer`.

    Norms are random too: at their start, those of Gemma 2 and 3 let the layers change so little that every reply is the
    same.
    """
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(1)
    llm = AutoModelForCausalLM.from_config(config)
    for parameter in llm.parameters():
        if parameter.ndim == 1:
            parameter.data.normal_(0, 2)
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def kind_of(prompt: Conversation) -> str:
    """Which of `KINDS` a prompt is; of those with text alone, any number of turns."""
    if not prompt.clips:
        return "text"
    if sum(turn.role == "user" for turn in prompt.turns) > 1:
        return "several turns"
    return "one clip" if len(prompt.clips) == 1 else "several clips"


def split_evenly(total: int) -> list[int]:
    """`total` as one number per kind, the first ones larger by one."""
    return [total // len(KINDS) + (index < total % len(KINDS)) for index in range(len(KINDS))]


def as_messages(prompt: Conversation) -> list[dict[str, Any]]:
    """A conversation as chat clients send it, clips as 32-bit WAV inside."""
    return [{"role": turn.role, "content": [as_part(part) for part in turn.parts]} for turn in prompt.turns]


def as_part(part: TextPart | AudioPart) -> dict[str, Any]:
    """One part of a message."""
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    file = io.BytesIO()
    soundfile.write(file, read_clip(part), 16_000, format="WAV", subtype="FLOAT")
    url = "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "audio_url", "audio_url": {"url": url}}


def render_ids(composite: Composite, prompt: Conversation) -> list[int]:
    """Token ids of a prompt by our own renderer."""
    counts = [composite.num_audio_tokens(len(read_clip(part))) for part in prompt.clips]
    ids: list[int] = composite.renderer.render(prompt, counts, add_generation_prompt=True).token_ids.tolist()
    return ids


def strip(ids: Sequence[int], ends: frozenset[int]) -> list[int]:
    """Token ids up to what ends the turn."""
    return list(ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))])


if __name__ == "__main__":
    sys.exit(main())
