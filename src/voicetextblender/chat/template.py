"""What a Jinja chat template does to a conversation, found out by asking it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template

from voicetextblender.chat.conversation import Role
from voicetextblender.errors import ChatTemplateError, describe

Strip = Literal["keep", "newlines", "space"]
"""What a template removes at one edge of a turn's content: nothing, line ends, or all white space."""

TEMPLATE_DATE = date(2024, 7, 26)
"""The day that templates with a date are told, so that a rendering never depends on when it is made.

Source: the fixed date that Llama 3's own template falls back to.
"""

_FIRST_SENTINEL = 0xF0000  # a private-use plane: no template spells these characters and none trims them
_PADS = {"left": "\n \t", "right": "\t \n"}
_STRIPPED: dict[Strip, dict[str, str]] = {
    "keep": _PADS,
    "newlines": {"left": " \t", "right": "\t "},
    "space": {"left": "", "right": ""},
}


@dataclass(frozen=True)
class Layout:
    """A template's own text around the turns' contents, for one sequence of roles.

    Args:
        literals: What the template writes before each turn's content, and last what follows the last one.
        strips: For each turn, what is removed at the left and right edge of its content.
        prompt_ends: For each assistant turn, how many characters of the literal before it a generation prompt holds.
        has_own_prompt: For each assistant turn, whether asking for a generation prompt changes what is written.
    """

    literals: tuple[str, ...]
    strips: tuple[tuple[Strip, Strip], ...]
    prompt_ends: Mapping[int, int]
    has_own_prompt: Mapping[int, bool]


class ChatTemplate:
    """A chat template of the Hugging Face kind, compiled once.

    Args:
        source: The Jinja text.
        variables: What the template may refer to beside the messages: the tokenizer's named special tokens.

    Raises:
        ChatTemplateError: The text is no Jinja, or prints no content of a user turn.
    """

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        self.source = source
        self._variables = dict(variables)
        self._content_is_list = False
        try:
            _compile_jinja_template(source)
        except TemplateError as error:
            raise _refuse(f"it is no Jinja template ({error})", "the text of a chat template", "Mend it") from error
        if self._loses_content():
            self._content_is_list = True
            if self._loses_content():
                raise _refuse("turn 1: a user's text is not printed", "every turn must appear once", _OTHER)

    @property
    def fingerprint(self) -> str:
        """Changes with the template's text and variables alone."""
        return hashlib.sha256(json.dumps([self.source, self._variables], sort_keys=True).encode()).hexdigest()

    def render(self, roles: Sequence[Role], contents: Sequence[str], add_generation_prompt: bool = False) -> str:
        """The template's string for turns of these roles and contents.

        Raises:
            ChatTemplateError: The template refuses the conversation.
        """
        messages = [
            {"role": role, "content": [{"type": "text", "text": content}] if self._content_is_list else content}
            for role, content in zip(roles, contents, strict=True)
        ]
        try:
            text: str = _compile_jinja_template(self.source).render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                strftime_now=TEMPLATE_DATE.strftime,
                **self._variables,
            )
        except (TemplateError, TypeError, AttributeError, LookupError, ValueError) as error:
            raise _refuse(
                f"it does not take the turns {', '.join(roles) or '(none)'} ({error})",
                "a conversation must fit its template",
                "Change the order or the roles of the turns, or use another chat template",
            ) from error
        return text

    def layout(self, roles: Sequence[Role], add_generation_prompt: bool = False) -> Layout:
        """The template's own text around turns of these roles, with the place of each generation prompt.

        Raises:
            ChatTemplateError: A turn is lost, repeated or out of order, or the prompt that would be shown before an
                assistant turn is not what stands before it in the whole conversation.
        """
        literals = self._literals(roles, add_generation_prompt)
        assistants = [number for number, role in enumerate(roles) if role == "assistant"]
        prompts = {number: self._literals(roles[:number], True)[-1] for number in assistants}
        for number in assistants:
            _check_prompt(prompts[number], literals[number], number)
        return Layout(
            literals=literals,
            strips=self._strips(roles, literals, add_generation_prompt),
            prompt_ends={number: len(prompts[number]) for number in assistants},
            has_own_prompt={n: prompts[n] != self._literals(roles[:n], False)[-1] for n in assistants},
        )

    def _loses_content(self) -> bool:
        try:
            return chr(_FIRST_SENTINEL) not in self.render(("user",), (chr(_FIRST_SENTINEL),), True)
        except ChatTemplateError:
            if self._content_is_list:
                raise
            return True

    def _literals(self, roles: Sequence[Role], add_generation_prompt: bool) -> tuple[str, ...]:
        sentinels = [chr(_FIRST_SENTINEL + number) for number in range(len(roles))]
        rest = self.render(roles, sentinels, add_generation_prompt)
        literals = []
        for number, sentinel in enumerate(sentinels):
            if rest.count(sentinel) != 1:
                found = "is dropped or out of order" if sentinel not in rest else "is printed more than once"
                raise _refuse(f"turn {number + 1} of {len(roles)} {found}", "every turn must appear once", _OTHER)
            literal, rest = rest.split(sentinel)
            literals.append(literal)
        return (*literals, rest)

    def _strips(
        self, roles: Sequence[Role], literals: Sequence[str], add_generation_prompt: bool
    ) -> tuple[tuple[Strip, Strip], ...]:
        sentinels = [chr(_FIRST_SENTINEL + number) for number in range(len(roles))]
        contents = [_PADS["left"] + sentinel + _PADS["right"] for sentinel in sentinels]
        rest = self.render(roles, contents, add_generation_prompt)
        padded = []
        for sentinel in sentinels:
            literal, _, rest = rest.partition(sentinel)
            padded.append(literal)
        padded.append(rest)
        last = len(roles)
        edges = [_match_strips(literals[n], padded[n], n == 0, n == last) for n in range(last + 1)]
        return tuple((edges[number][1], edges[number + 1][0]) for number in range(len(roles)))


def strip_content(text: str, left: Strip, right: Strip) -> str:
    """`text` as a template that strips so would print it."""
    if left != "keep":
        text = text.lstrip() if left == "space" else text.lstrip("\n")
    if right != "keep":
        text = text.rstrip() if right == "space" else text.rstrip("\n")
    return text


def chat_template_for_parts(template: str, audio_token: str) -> str:
    """`template`, made to take contents that are lists of parts too, as chat servers send them.

    Texts are joined as they stand and each part of a type `audio`, `input_audio` or `audio_url` becomes `audio_token`;
    a content that is a string, or none, is left alone. A part of another type raises the template's own error, and so
    does a text part that spells `audio_token`: it would take the place of a clip. A template that was made so already
    is returned as it is.
    """
    flatten = _FLATTEN.replace("AUDIO_TOKEN", json.dumps(audio_token, ensure_ascii=False))
    return template if template.startswith(flatten) else flatten + template


# The last tag ends a line, so that what follows starts one: `trim_blocks` and `lstrip_blocks` act as they did before.
_FLATTEN = """\
{%- set flat = namespace(messages=[], text='') -%}
{%- for message in messages -%}
    {%- if message['content'] is not defined or message['content'] is string or message['content'] is not iterable -%}
        {%- set flat.messages = flat.messages + [message] -%}
    {%- else -%}
        {%- set flat.text = '' -%}
        {%- for part in message['content'] -%}
            {%- if part is string or part['type'] == 'text' -%}
                {%- set text = part if part is string else part['text'] -%}
                {%- if AUDIO_TOKEN in text -%}
                    {{- raise_exception('A text part spells ' + AUDIO_TOKEN + ', which stands for a clip.') -}}
                {%- endif -%}
                {%- set flat.text = flat.text + text -%}
            {%- elif part['type'] in ['audio', 'input_audio', 'audio_url'] -%}
                {%- set flat.text = flat.text + AUDIO_TOKEN -%}
            {%- else -%}
                {{- raise_exception('A part of type ' + part['type'] + ' is neither text nor audio.') -}}
            {%- endif -%}
        {%- endfor -%}
        {%- set flat.messages = flat.messages + [dict(message, content=flat.text)] -%}
    {%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages %}
"""

_OTHER = "Use another chat template"


def _check_prompt(prompt: str, literal: str, number: int) -> None:
    if literal.startswith(prompt):
        return
    raise _refuse(
        f"turn {number + 1}: the generation prompt is {prompt!r} but the conversation has {literal!r} there",
        "what is shown before an answer must be what was trained on",
        "Use a template whose generation prompt opens its assistant turns",
    )


def _match_strips(literal: str, padded: str, is_first: bool, is_last: bool) -> tuple[Strip, Strip]:
    """How the contents before and after a literal lost their padding: (right edge before, left edge after).

    Padding that was changed in some other way counts as kept: the comparison of each rendered row finds that out.
    """
    for right in _STRIPPED:
        for left in _STRIPPED:
            before = "" if is_first else _STRIPPED[right]["right"]
            after = "" if is_last else _STRIPPED[left]["left"]
            if padded == before + literal + after:
                return right, left
    return "keep", "keep"


def _refuse(found: str, expected: str, fix: str) -> ChatTemplateError:
    return ChatTemplateError(describe("chat template", found, expected, fix))
