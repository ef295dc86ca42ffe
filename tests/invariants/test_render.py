"""For every chat template: supervised ids are the assistant's text and its end, and ids, mask and audio agree."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chat.families import AUDIO, FAMILIES, make_tokenizer
from voicetextblender.chat.conversation import AudioPart, Conversation, Part, TextPart, Turn
from voicetextblender.chat.render import Rendered, Renderer
from voicetextblender.chat.template import TEMPLATE_DATE

CLIP = AudioPart("a.wav")
VOCABULARY = ("What", "is", "the", "capital", "of", "France", "three", "plus", "five", "Paris", "spät", "drei")
WORDS = st.lists(st.sampled_from(VOCABULARY), min_size=1)
HARMLESS = WORDS.map(" ".join)
SPELLINGS = sorted({str(token) for family in FAMILIES.values() for token in family.specials})
PIECES = st.one_of(
    st.text(st.characters(exclude_categories=("Cs", "Cc", "Co")), max_size=8),
    st.sampled_from([*SPELLINGS, AUDIO, "<think>", "[INST]", "<|user|>", "<0x0A>", " ", "\n", "\n\n", "\t", "a", "<"]),
)
WILD = st.lists(PIECES, max_size=6).map("".join)
EVERY_FAMILY = pytest.mark.parametrize("name", FAMILIES)


@cache
def renderer_of(name: str) -> Renderer:
    return Renderer(make_tokenizer(name), AUDIO)


@st.composite
def conversations(draw: st.DrawFn, name: str, texts: st.SearchStrategy[str]) -> tuple[Conversation, list[int]]:
    """A conversation with clips anywhere in its system and user turns, and the number of tokens of each clip."""
    parts = st.lists(st.one_of(texts.map(TextPart), st.just(CLIP)), max_size=4)
    turns: list[Turn] = []
    if FAMILIES[name].takes_system and draw(st.booleans()):
        turns.append(Turn("system", tuple(draw(parts))))
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Turn("user", tuple(draw(parts))))
        turns.append(Turn("assistant", (TextPart(draw(texts)),)))
    conversation = Conversation("x", tuple(turns))
    clips = len(conversation.clips)
    return conversation, draw(st.lists(st.integers(1, 5), min_size=clips, max_size=clips))


def answers(rendered: Rendered) -> list[list[int]]:
    """The supervised ids, one list for each assistant turn."""
    found: list[list[int]] = []
    previous = False
    for token_id, is_supervised in zip(rendered.token_ids.tolist(), rendered.supervision_mask.tolist(), strict=True):
        if is_supervised:
            if not previous:
                found.append([])
            found[-1].append(token_id)
        previous = is_supervised
    return found


def printed(name: str, texts: Sequence[str]) -> list[str]:
    """What the model writes for these answers, the end of each turn included."""
    family = FAMILIES[name]
    end = family.end or family.eos
    spelled = []
    for number, text in enumerate(texts):
        is_last = number == len(texts) - 1
        opening, closing = family.opening, end
        if family.strips == "space":
            text = text.strip()
        elif family.strips == "left":  # by the tokenizer: the token before the answer drops white space
            text = text.lstrip()
        elif family.strips == "thinking":
            opening, text = (opening, text.lstrip("\n")) if is_last else ("", text)
        elif name == "channels" and not is_last:
            closing = "<|end|>"
        spelled.append(opening + text + closing)
    return spelled


@EVERY_FAMILY
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_supervised_ids_are_the_answers_and_their_ends(name: str, data: st.DataObject) -> None:
    conversation, counts = data.draw(conversations(name, WILD))
    rendered = renderer_of(name).render(conversation, counts)
    texts = [turn.text for turn in conversation.turns if turn.role == "assistant"]
    found = [make_tokenizer(name).decode(ids) for ids in answers(rendered)]
    expected = printed(name, texts)
    if name == "unigram":  # has no token for a letter that its training never saw
        assert len(found) == len(expected) and all(text.endswith("<|im_end|>") for text in found)
    elif FAMILIES[name].tokenizer.startswith("pieces"):  # decoding mends broken bytes and shows an added first space
        assert [text.replace(" ", "") for text in found] == [text.replace(" ", "") for text in expected]
    else:
        assert found == expected


@EVERY_FAMILY
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_audio_token_stands_where_clips_are_and_no_text_yields_a_control_token(
    name: str, data: st.DataObject
) -> None:
    renderer, tokenizer = renderer_of(name), make_tokenizer(name)
    conversation, counts = data.draw(conversations(name, WILD))
    rendered = renderer.render(conversation, counts)
    places = [start + offset for start, count in rendered.audio_spans for offset in range(count)]
    assert [place for place, token in enumerate(rendered.token_ids) if token == renderer.audio_token_id] == places
    assert [count for _, count in rendered.audio_spans] == counts
    assert not rendered.supervision_mask[places].any()

    harmless = Conversation("x", tuple(Turn(turn.role, (TextPart("a"),)) for turn in conversation.turns))
    controls = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    expected = [token for token in renderer.render(harmless, []).token_ids.tolist() if token in controls]
    controls -= {renderer.audio_token_id}
    assert [token for token in rendered.token_ids.tolist() if token in controls] == expected


@EVERY_FAMILY
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_ids_of_harmless_text_are_the_tokenizers_own(name: str, data: st.DataObject) -> None:
    tokenizer = make_tokenizer(name)
    conversation, counts = data.draw(conversations(name, HARMLESS))
    ask = data.draw(st.booleans())
    remaining = iter(counts)

    def spell(part: Part) -> str:
        return part.text if isinstance(part, TextPart) else AUDIO * next(remaining)

    contents = ["".join(spell(part) for part in turn.parts) for turn in conversation.turns]
    as_parts = name == "parts_only"
    messages = [
        {"role": turn.role, "content": [{"type": "text", "text": content}] if as_parts else content}
        for turn, content in zip(conversation.turns, contents, strict=True)
    ]
    stock = tokenizer.apply_chat_template(
        messages, add_generation_prompt=ask, return_dict=False, date_string=TEMPLATE_DATE.strftime("%d %b %Y")
    )
    rendered = renderer_of(name).render(conversation, counts, add_generation_prompt=ask)
    assert rendered.token_ids.tolist() == stock


@EVERY_FAMILY
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_is_shown_before_an_answer_is_what_was_trained_on(name: str, data: st.DataObject) -> None:
    renderer = renderer_of(name)
    conversation, counts = data.draw(conversations(name, WILD))
    whole = renderer.render(conversation, counts)
    ids = renderer.render(
        Conversation("x", conversation.turns[:-1]), counts, add_generation_prompt=True
    ).token_ids.tolist()
    num_answer = len(answers(whole)[-1])
    stop = len(whole.token_ids) - int(whole.supervision_mask[::-1].argmax())
    if name != "channels":  # ends an answer otherwise once another one follows
        assert whole.token_ids.tolist()[: stop - num_answer] == ids
    assert whole.supervision_mask[stop - num_answer : stop].all()
