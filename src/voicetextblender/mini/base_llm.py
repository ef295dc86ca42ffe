"""The base LLM of the embedded world: a small Llama with a chat template, pretrained on the world's text alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from voicetextblender.chat.conversation import Conversation, TextPart, Turn
from voicetextblender.chat.render import Rendered, Renderer
from voicetextblender.config import StrictConfig
from voicetextblender.data.packing import pack
from voicetextblender.files import derive_seed
from voicetextblender.mini.pretrain import PretrainConfig, fit, write_losses
from voicetextblender.mini.rows import text_row
from voicetextblender.mini.spoken import run, with_system, word_spans
from voicetextblender.mini.tasks import Scope
from voicetextblender.mini.text_tasks import draw_mixture
from voicetextblender.model.warm_start import PAUSE

PAD, BOS, END, AUDIO = "<|pad|>", "<|bos|>", "<|end|>", "<|audio|>"
SPECIAL_TOKENS = (
    PAD,
    BOS,
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    END,
    AUDIO,
    *(f"<|reserved_{index}|>" for index in range(9)),
)
"""Their ids are their places here. The reserved ones are for whoever needs a token without resizing the embeddings."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}{{ '<|audio|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

PRETRAINING = Scope("train", "all")
"""Every wording and every entity, but no statement, list or question of the evaluation."""

SYSTEM_PROMPTS = ("Answer briefly.", "You are a helpful assistant.", "Antworte kurz.", "Du bist ein guter Assistent.")
HEAD_SIZE = 64
"""The smallest that serving engines take."""

HEAD_OFFSETS = (1, 2, 0)
"""How many tokens back the first heads of the first layer look at the start; the others find their own."""

SYSTEM_SHARE = 0.04
"""Share of pretraining chats that begin with a system turn."""

HESITANT_SHARE = 0.45
"""Share of pretraining chats whose user hesitates. A real LLM has read its share of transcribed speech."""
REPEATED_SHARE = 0.2
"""Share of a hesitant user's words that are said twice."""
FIRST_PAUSES = (1, 1, 1, 2)
"""How many pauses may come before a hesitant user's first word."""
PAUSES = (0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 4)
"""How many pauses may follow a hesitant user's word. All three are as the base encoder hears clips."""


class BaseLLMConfig(StrictConfig):
    """Size and training of the base LLM; the defaults fit one CPU core and eight minutes.

    Args:
        num_heads: of size 64 each, the smallest that serving engines take.
        num_tokenizer_chats: chats whose text the tokenizer is trained on.
        max_tokens_per_pass: the chats of a step go through the model side by side in rows, so many tokens at a time.
    """

    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    intermediate_size: int = 512
    vocab_size: int = Field(default=1536, ge=256 + len(SPECIAL_TOKENS))
    max_positions: int = 2048
    initializer_range: float = 0.04
    embedding_std: float = 0.5
    rope_theta: float = 1000.0
    num_tokenizer_chats: int = 6000
    chats_per_step: int = 24
    max_tokens_per_pass: int = Field(default=1024, ge=1)
    pretrain: PretrainConfig = PretrainConfig(steps=1400, learning_rate=1.2e-3, warmup_steps=40, checkpoint_every=100)


def pretrain_base_llm(out: Path, config: BaseLLMConfig | None = None, console: Console | None = None) -> list[float]:
    """Train tokenizer and LLM on the text of the world, save both to the folder `out`, return the loss of every step.

    An interrupted call continues when it is made again. The file `training.pt` in `out` is there until it is done.

    Raises:
        CheckpointError: `out` holds an unfinished training of another configuration.
    """
    config = config or BaseLLMConfig()
    seed = config.pretrain.seed
    tokenizer = train_tokenizer(config)
    renderer = Renderer(tokenizer, AUDIO)
    torch.manual_seed(derive_seed("base llm", seed))
    model = build_base_llm(config)

    def step_loss(step: int) -> Tensor:
        chats = [pretraining_chat(seed, step * config.chats_per_step + row) for row in range(config.chats_per_step)]
        rendered = [renderer.render(chat, ()) for chat in chats]
        num_tokens = np.array([len(one.token_ids) for one in rendered])
        passes = pack(num_tokens, np.zeros_like(num_tokens), max(config.max_tokens_per_pass, int(num_tokens.max())))
        losses = [sum_loss(model, [[rendered[place] for place in row] for row in rows]) for rows in passes]
        return torch.stack(losses).sum() / sum(int(one.supervision_mask.sum()) for one in rendered)

    checkpoint = out / "training.pt"
    losses = fit(
        model,
        step_loss,
        config.pretrain,
        checkpoint=checkpoint,
        label="language model",
        data_key=config.model_dump_json(exclude={"pretrain"}),
        console=console,
    )
    write_losses(out / "log.jsonl", losses)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    checkpoint.unlink()
    return losses


def is_finished(out: Path) -> bool:
    """Whether `out` holds a base LLM whose training is done."""
    return (out / "tokenizer_config.json").exists() and not (out / "training.pt").exists()


def build_base_llm(config: BaseLLMConfig) -> LlamaForCausalLM:
    """A Llama of random weights, but for the start that `start_embeddings` and `start_attention` give it."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            head_dim=HEAD_SIZE,
            max_position_embeddings=config.max_positions,
            initializer_range=config.initializer_range,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attention_bias=True,
            tie_word_embeddings=True,
            pad_token_id=SPECIAL_TOKENS.index(PAD),
            bos_token_id=SPECIAL_TOKENS.index(BOS),
            eos_token_id=SPECIAL_TOKENS.index(END),
        )
    )
    start_embeddings(model, config.embedding_std)
    start_attention(model, config.rope_theta)
    return model


@torch.no_grad()
def start_embeddings(model: LlamaForCausalLM, std: float) -> None:
    """Start the tied embeddings wide, and the last norm narrow so that logits still have a deviation of about one.

    With narrow embeddings the first steps move all names, all numbers and so on in one direction each, until what told
    one from another is lost beside it: such a model knew the kind of every word to copy, but not the word.
    """
    model.model.embed_tokens.weight.normal_(0.0, std)
    model.model.norm.weight.fill_(1.0 / (std * math.sqrt(model.config.hidden_size)))


@torch.no_grad()
def start_attention(model: LlamaForCausalLM, rope_theta: float, scale: float = 3.0) -> None:
    """Let the heads of the first layer look one, two and no tokens back, and let all heads copy what they look at.

    Small models spend most of a short training on finding that copying needs both. A key bias k at position n and a
    query bias that is k turned back by d positions meet with the same angle where n lies d tokens back, so the score
    is highest there. Output projections start as the transpose of the value projections.

    Source: starting attention weights from structure, Trockman and Kolter, arXiv 2305.09828; offsets: ours.
    """
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.copy_(layer.self_attn.v_proj.weight.T)
    half = HEAD_SIZE // 2
    frequencies = rope_theta ** (-torch.arange(half) / half)
    first = model.model.layers[0].self_attn
    keys, queries = (bias.view(-1, HEAD_SIZE) for bias in (first.k_proj.bias, first.q_proj.bias))
    for head, offset in enumerate(HEAD_OFFSETS[: len(keys)]):
        keys[head, :half] = scale / math.sqrt(2.0)
        queries[head, :half] = scale / math.sqrt(2.0) * torch.cos(offset * frequencies)
        queries[head, half:] = -scale / math.sqrt(2.0) * torch.sin(offset * frequencies)


def train_tokenizer(config: BaseLLMConfig) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair tokenizer of exactly `vocab_size` tokens, with the chat template.

    Every text begins with a space, so that a word is the same token at the start of a turn as within it, and the
    vocabulary has room for every word of the world as one token: both make copying far easier to learn.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pretraining_texts(config), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=config.max_positions,
        clean_up_tokenization_spaces=False,
    )


def pretraining_chat(seed: int, index: int) -> Conversation:
    """One chat in writing, of any task, in any wording; some begin with a system turn, in some the user hesitates."""
    random = Random(derive_seed("pretraining text", seed, index))
    chat = text_row(str(index), draw_mixture(random, PRETRAINING))
    if random.random() < HESITANT_SHARE:
        chat = replace(chat, turns=tuple(hesitate(turn, random) for turn in chat.turns))
    return with_system(chat, random.choice(SYSTEM_PROMPTS)) if random.random() < SYSTEM_SHARE else chat


def hesitate(turn: Turn, random: Random) -> Turn:
    """The same turn; a user pauses around each word and mark of all or some of it, and says some of them twice.

    Before a run of such words the space stands as a token of its own, as it does before a clip in a mixed turn.
    """
    if turn.role != "user":
        return turn
    spans = word_spans(turn.text)
    start, end = (spans[0][0], spans[-1][1]) if random.random() < 0.5 else run(spans, random)
    said = [PAUSE] * random.choice(FIRST_PAUSES)
    for word in re.findall(r"[\w'-]+|[^\w\s]", turn.text[start:end]):
        said += [word] * (2 if random.random() < REPEATED_SHARE else 1) + [PAUSE] * random.choice(PAUSES)
    before = turn.text[:start] + " " * (start > 0)  # of two spaces the tokenizer leaves the first one alone
    return Turn("user", (TextPart(before + " ".join(said) + turn.text[end:]),))


def pretraining_texts(config: BaseLLMConfig) -> Iterator[str]:
    """What the tokenizer is trained on."""
    for index in range(config.num_tokenizer_chats):
        for turn in pretraining_chat(config.pretrain.seed, index).turns:
            yield turn.text


def sum_loss(model: LlamaForCausalLM, rows: Sequence[Sequence[Rendered]]) -> Tensor:
    """Cross-entropy summed over the supervised tokens of chats that stand side by side in rows.

    The head is computed nowhere else. The library keeps chats apart by their positions, each of which count from 0.
    """
    width = max(sum(len(one.token_ids) for one in row) for row in rows)
    token_ids = torch.zeros(len(rows), width, dtype=torch.long)
    supervised = torch.zeros(len(rows), width, dtype=torch.bool)
    positions = torch.arange(width).repeat(len(rows), 1)
    for number, row in enumerate(rows):
        end = 0
        for one in row:
            start, end = end, end + len(one.token_ids)
            token_ids[number, start:end] = torch.from_numpy(one.token_ids)
            supervised[number, start:end] = torch.from_numpy(one.supervision_mask)
            positions[number, start:] -= int(positions[number, start])
    output = model.model(input_ids=token_ids[:, :-1], position_ids=positions[:, :-1], use_cache=False)
    chosen = supervised[:, 1:]
    return cross_entropy(model.lm_head(output.last_hidden_state[chosen]), token_ids[:, 1:][chosen], reduction="sum")
