"""A rendered conversation for human eyes."""

from __future__ import annotations

from tests.chat.families import AUDIO, make_tokenizer
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart, Turn
from voicetextblender.chat.look import AUDIO_STYLE, CONTEXT_STYLE, SUPERVISED_STYLE, highlight
from voicetextblender.chat.render import Renderer


def test_answers_are_green_context_is_dim_and_clips_say_their_length() -> None:
    tokenizer = make_tokenizer("instruction")
    clip = AudioPart("a.wav")
    conversation = Conversation(
        "1", (Turn("user", (TextPart("What is "), clip, clip)), Turn("assistant", (TextPart("It is eight."),)))
    )
    rendered = Renderer(tokenizer, AUDIO).render(conversation, [40, 1])
    text = highlight(rendered, tokenizer, [3.24, 0.08])
    pieces = [(text.plain[span.start : span.end], span.style) for span in text.spans]
    assert pieces == [
        ("<s> [INST] What is ", CONTEXT_STYLE),
        ("[audio 3.2 s = 40 tokens]", AUDIO_STYLE),
        ("[audio 0.1 s = 1 token]", AUDIO_STYLE),
        (" [/INST]", CONTEXT_STYLE),
        (" It is eight.</s>", SUPERVISED_STYLE),
    ]
