"""Chat templates of many families, re-created in their structure, and tiny real tokenizers to go with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

AUDIO = "<audio>"

CHATML = """\
{%- if messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\\nYou are a helper.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

THINKING = """\
{%- set ns = namespace(last_user=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set ns.last_user = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role != 'assistant' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- else %}
        {%- set answer = message.content %}
        {%- if '</think>' in answer %}
            {%- set answer = answer.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_user %}
            {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + answer.lstrip('\\n') + '<|im_end|>\\n' }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + answer + '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

HEADERS = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now('%d %b %Y') %}
    {%- else %}
        {%- set date_string = '26 Jul 2024' %}
    {%- endif %}
{%- endif %}
{%- set system = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date_string + '\\n\\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MODEL_ROLE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {{ raise_exception('System role not supported') }}
{%- endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}
"""

INSTRUCTION = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant turns are supported') }}
    {%- endif %}
{%- endfor %}
"""

ROLE_TOKENS = """\
{% for message in messages %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

NAMED_ROLES = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = 'You are made of rock.' %}
    {%- set turns = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\\n' }}
{%- for turn in turns %}
    {{- '<|start_of_role|>' + turn['role'] + '<|end_of_role|>' + turn['content'] + '<|end_of_text|>\\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}
"""

WRITTEN_ROLES = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

CHANNELS = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|start|>assistant<|channel|>final<|message|>' + message.content }}
        {{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}
    {%- else %}
        {{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{% endif %}
"""

PARTS_ONLY = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- for part in message['content'] %}
        {%- if part['type'] == 'text' %}{{- part['text'] }}{% endif %}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""


@dataclass(frozen=True)
class Family:
    """One kind of model: its template, its control tokens and the way its tokenizer treats spaces."""

    template: str
    specials: tuple[str | AddedToken, ...]
    eos: str
    bos: str | None = None
    tokenizer: str = "byte_level"
    added: tuple[str, ...] = ()
    takes_system: bool = True
    strips: str = ""  # what is lost at the edges of a text: "" nothing, "space" all white space
    opening: str = ""  # what the model writes before its last answer
    end: str = ""  # the end of the last turn; the eos when empty


_IM = ("<|im_start|>", "<|im_end|>")
_PHI = tuple(AddedToken(f"<|{name}|>", rstrip=True) for name in ("system", "user", "assistant", "end"))

FAMILIES: dict[str, Family] = {
    "chatml": Family(CHATML, ("<|endoftext|>", *_IM), "<|im_end|>"),
    "thinking": Family(
        THINKING, _IM, "<|im_end|>", added=("<think>", "</think>"), opening="<think>\n\n</think>\n\n", strips="thinking"
    ),
    "headers": Family(
        HEADERS,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
        strips="space",
    ),
    "model_role": Family(
        MODEL_ROLE,
        ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        "<bos>",
        "pieces_first",
        takes_system=False,
        strips="space",
        end="<end_of_turn>",
    ),
    "instruction": Family(
        INSTRUCTION, ("<s>", "</s>"), "</s>", "<s>", "pieces_always", takes_system=False, opening=" "
    ),
    "instruction_legacy": Family(
        INSTRUCTION, ("<s>", "</s>"), "</s>", "<s>", "pieces_legacy", takes_system=False, opening=" "
    ),
    "instruction_tokens": Family(
        INSTRUCTION, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", "<s>", "byte_level", takes_system=False, opening=" "
    ),
    "role_tokens": Family(ROLE_TOKENS, ("<|endoftext|>", *_PHI), "<|endoftext|>", end="<|end|>", strips="left"),
    "named_roles": Family(NAMED_ROLES, ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"), "<|end_of_text|>"),
    "written_roles": Family(WRITTEN_ROLES, ("<s>", "</s>"), "</s>", "<s>", "pieces_first"),
    "written_roles_prefix": Family(WRITTEN_ROLES, ("<s>", "</s>"), "</s>", "<s>", "byte_level_prefix"),
    "channels": Family(
        CHANNELS,
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
        "<|return|>",
        opening="<|channel|>final<|message|>",
    ),
    "parts_only": Family(PARTS_ONLY, _IM, "<|im_end|>"),
    "unigram": Family(CHATML, _IM, "<|im_end|>", tokenizer="unigram"),
}

_CORPUS = [
    "What is the capital of France? Paris is the capital of France.",
    "user assistant system model You are a helper. Today: 26 Jul 2024 [INST] [/INST] made of rock",
    "Wie spät ist es? Es ist drei Uhr. three plus five is eight, repeat after me, please listen to the clip",
    "the audio im_start im_end end_of_turn start_of_turn think eos bos header",
] * 3


@cache
def make_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer of a family, trained here."""
    family = FAMILIES[name]
    specials = [*family.specials, AddedToken(AUDIO, special=True)]
    backend = train_backend(family.tokenizer, specials)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>" if backend.token_to_id("<unk>") is not None else None,
        bos_token=family.bos,
        eos_token=family.eos,
        extra_special_tokens=[token if isinstance(token, AddedToken) else AddedToken(token) for token in specials],
    )
    tokenizer.add_tokens(list(family.added))
    tokenizer.chat_template = family.template
    return tokenizer


def train_backend(kind: str, specials: list[str | AddedToken], vocab_size: int = 420) -> Tokenizer:
    """A tokenizer of one of the common kinds."""
    if kind.startswith("byte_level"):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind.endswith("prefix"))
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        backend.decoder = decoders.Metaspace(prepend_scheme="never")
        trainer = trainers.UnigramTrainer(
            vocab_size=vocab_size, special_tokens=["<unk>", *specials], unk_token="<unk>", show_progress=False
        )
    else:
        backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        if kind == "pieces_legacy":
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind.removeprefix("pieces_"))
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size + 256,
            special_tokens=["<unk>", *specials, *(f"<0x{byte:02X}>" for byte in range(256))],
            show_progress=False,
        )
    words = (word for line in _CORPUS for word in line.split()) if kind == "pieces_legacy" else _CORPUS
    backend.train_from_iterator(words, trainer)
    spec = json.loads(backend.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(spec))
