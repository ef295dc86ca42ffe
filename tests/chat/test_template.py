"""What chat templates do to conversations, and which of them are refused."""

from __future__ import annotations

import jinja2
import pytest

from tests.chat.families import AUDIO, CHATML, FAMILIES, HEADERS, INSTRUCTION, make_tokenizer
from voicetextblender.chat.conversation import Conversation, TextPart, Turn
from voicetextblender.chat.render import Renderer
from voicetextblender.chat.template import ChatTemplate, chat_template_for_parts
from voicetextblender.errors import ChatTemplateError

OPEN, CLOSE = "<|im_start|>", "<|im_end|>"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def each(body: str, prompt: str = PROMPT) -> str:
    return "{% for m in messages %}" + body + "{% endfor %}" + prompt


TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"

REFUSED = {
    "no end of turn": (
        each("{{ '<|im_start|>' + m.role + '\n' + m.content + '\n' }}"),
        r"turn 2: no special token ends the assistant's text, which is followed by '\\n'; the end of an answer must be",
    ),
    "words before the end": (each(TURN.replace("<|im_end|>", " (over)<|im_end|>")), "followed by ' .over.<|im_end|>"),
    "upper case": (
        each(TURN.replace("m.content", "m.content | upper")),
        "conversation 'probe' turn 1: the chat template prints 'HELLO, WORLD .* a turn must be printed as it is",
    ),
    "edits the assistant only": (
        each(TURN.replace("m.content", "(m.content | replace('Two', '2'))")),
        "conversation 'probe' turn 2: the chat template prints .*it's 2",
    ),
    "drops earlier turns": (
        "{% set messages = messages[-2:] %}" + each(TURN),
        "turn 1 of 4 is dropped or out of order; every turn must appear once. Use another chat template",
    ),
    "reverses": (
        "{% set messages = messages | reverse | list %}" + each(TURN),
        "turn 2 of 2 is dropped or out of order",
    ),
    "repeats": (each(TURN + "{{ m.content }}"), "turn 1 of 2 is printed more than once"),
    "another prompt": (
        each(TURN, "{% if add_generation_prompt %}<|im_start|>bot\n{% endif %}"),
        "turn 2: the generation prompt is .*bot.* but the conversation has .*assistant.*; what is shown before",
    ),
    "longer prompt": (
        each(TURN, "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"),
        "turn 2: the generation prompt is .*<think>' but",
    ),
    "no prompt": (each(TURN, ""), "turn 2 opens with '<.im_start.>assistant.n' but there is no generation prompt"),
    "prints no content": (each("{{ m.role }}<|im_end|>"), "turn 1: a user's text is not printed"),
    "no Jinja": ("{% for %}", "it is no Jinja template"),
    "raises": ("{{ raise_exception('closed') }}", r"does not take the turns user \(closed\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_template_with_uncertain_spans_is_refused_with_the_reason(case: str) -> None:
    template, reason = REFUSED[case]
    with pytest.raises(ChatTemplateError, match=reason):
        Renderer(make_tokenizer("chatml"), AUDIO, template)


def test_a_tokenizer_without_template_or_with_several_is_refused() -> None:
    tokenizer = make_tokenizer("chatml")
    try:
        tokenizer.chat_template = None
        with pytest.raises(ChatTemplateError, match="the tokenizer has none; one is needed"):
            Renderer(tokenizer, AUDIO)
        tokenizer.chat_template = {"default": CHATML, "tool_use": CHATML}
        with pytest.raises(ChatTemplateError, match="the tokenizer has several; one is needed"):
            Renderer(tokenizer, AUDIO)
    finally:
        tokenizer.chat_template = CHATML


@pytest.mark.parametrize("token", ["<nothing>", "the"])
def test_a_placeholder_that_is_no_special_token_is_refused(token: str) -> None:
    with pytest.raises(ChatTemplateError, match=f"the audio placeholder '{token}' is not a special token"):
        Renderer(make_tokenizer("chatml"), token)


@pytest.mark.parametrize("family", ["model_role", "instruction"])
def test_a_system_turn_is_refused_where_the_template_refuses_it(family: str) -> None:
    turns = (Turn("system", (TextPart("Be kind."),)), Turn("user", (TextPart("Hi."),)))
    with pytest.raises(
        ChatTemplateError, match=r"conversation '5': .* does not take the turns system, user .*upported"
    ):
        Renderer(make_tokenizer(family), AUDIO).render(Conversation("5", turns), [], add_generation_prompt=True)


def test_the_edges_that_a_template_strips_are_found() -> None:
    roles = ("system", "user", "assistant")
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    assert ChatTemplate(CHATML, {}).layout(roles).strips == (("keep", "keep"),) * 3
    assert ChatTemplate(HEADERS, variables).layout(roles).strips == (("space", "space"),) * 3
    thinking = ChatTemplate(FAMILIES["thinking"].template, {})
    assert thinking.layout(roles).strips == (("keep", "keep"), ("keep", "keep"), ("newlines", "keep"))


def test_a_prompt_ends_where_the_answer_begins() -> None:
    layout = ChatTemplate(INSTRUCTION, {"bos_token": "<s>", "eos_token": "</s>"}).layout(("user", "assistant"))
    assert layout.literals == ("<s>[INST] ", " [/INST] ", "</s>")
    assert layout.prompt_ends == {1: len(" [/INST]")}
    assert layout.has_own_prompt == {1: False}


def test_a_template_is_told_a_fixed_day() -> None:
    rendered = ChatTemplate("{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}", {}).render(("user",), ("!",))
    assert rendered == "26 Jul 2024!"


CONTENTS = [
    [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind.\n"}],
    [{"type": "audio"}, {"type": "text", "text": " and "}, {"type": "input_audio", "input_audio": {}}, "?"],
    "A string {{ with }} braces.",
    [{"type": "audio_url", "audio_url": {"url": "x"}}],
]
FLAT = ["Be kind.\n", f"{AUDIO} and {AUDIO}?", "A string {{ with }} braces.", AUDIO]


@pytest.mark.parametrize("ask", [False, True])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "parts_only"])
def test_a_template_for_strings_takes_parts_after_wrapping(family: str, ask: bool) -> None:
    tokenizer = make_tokenizer(family)
    start = 0 if FAMILIES[family].takes_system else 1
    roles = ["system", "user", "assistant", "user"][start:]
    wrapped = chat_template_for_parts(FAMILIES[family].template, AUDIO)

    def apply(contents: list[object], template: str) -> object:
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=ask
        )

    expected = apply(list(FLAT[start:]), FAMILIES[family].template)
    assert apply(list(CONTENTS[start:]), wrapped) == expected
    assert apply(list(FLAT[start:]), wrapped) == expected


@pytest.mark.parametrize("start", ["", "\n", "  {% if true %}x{% endif %}\n", "{# note #}\n ", "{{ 1 }}"])
def test_wrapping_keeps_the_white_space_of_a_template(start: str) -> None:
    template = start + CHATML
    roles, contents = ("user", "assistant"), ("Hi.", "Yes.")
    plain, wrapped = ChatTemplate(template, {}), ChatTemplate(chat_template_for_parts(template, AUDIO), {})
    assert wrapped.render(roles, contents) == plain.render(roles, contents)


def test_a_wrapped_template_leaves_messages_without_content_and_refuses_other_parts() -> None:
    tokenizer = make_tokenizer("chatml")
    wrapped = chat_template_for_parts("{% for m in messages %}{{ m.content is defined }}{% endfor %}", AUDIO)
    assert tokenizer.apply_chat_template([{"role": "user"}], chat_template=wrapped, tokenize=False) == "False"
    with pytest.raises(jinja2.TemplateError, match="A part of type image is neither text nor audio"):
        tokenizer.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}]}], chat_template=wrapped, tokenize=False
        )


@pytest.mark.parametrize("family", ["chatml", "headers", "instruction"])
def test_a_wrapped_template_renders_the_same(family: str) -> None:
    tokenizer = make_tokenizer(family)
    turns = (Turn("user", (TextPart(" Hi. "),)), Turn("assistant", (TextPart("Yes."),)))
    plain = Renderer(tokenizer, AUDIO).render(Conversation("1", turns), [])
    wrapped = Renderer(tokenizer, AUDIO, chat_template_for_parts(FAMILIES[family].template, AUDIO))
    rendered = wrapped.render(Conversation("1", turns), [])
    assert rendered.token_ids.tolist() == plain.token_ids.tolist()
    assert rendered.supervision_mask.tolist() == plain.supervision_mask.tolist()
