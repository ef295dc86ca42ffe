"""The cascade: what is heard is written in the clip's place, and a transcription is what was heard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.tiny import make_llm
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart, Turn
from voicetextblender.model.reply import CascadeReplier, TextReplier

WORDS = {1600: "three plus five", 3200: "red apples", 4800: "Noch einmal."}
"""What the recogniser of these tests hears, by the length of the clip in samples."""


class Recogniser:
    """Knows each clip by its length, and keeps the lengths that it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        self.asked.append([len(waveform) for waveform in waveforms])
        return [WORDS[len(waveform)] for waveform in waveforms]


def clip(num_samples: int) -> AudioPart:
    return AudioPart(path=None, waveform=np.full(num_samples, 0.1, np.float32))


def ask(name: str, task: str, *parts: TextPart | AudioPart) -> Conversation:
    return Conversation(name, (Turn("user", parts),), task=task)


SPOKEN = [
    ask("sum", "mixed", TextPart("What is "), clip(1600), TextPart("?")),
    ask("heard", "transcription", TextPart("Say it again, please."), clip(3200)),
    ask("text", "text", TextPart("What is three plus five?")),
    Conversation(
        "turns",
        (
            Turn("user", (clip(4800), clip(3200))),
            Turn("assistant", (TextPart("eight"),)),
            Turn("user", (TextPart("And "), clip(1600))),
        ),
        task="answering",
    ),
    ask("both", "transcription", clip(1600), TextPart(" then "), clip(4800)),
]
WRITTEN = [
    ask("sum", "mixed", TextPart("What is "), TextPart("three plus five"), TextPart("?")),
    ask("heard", "transcription", TextPart("Say it again, please."), TextPart("red apples")),
    SPOKEN[2],
    Conversation(
        "turns",
        (
            Turn("user", (TextPart("Noch einmal."), TextPart("red apples"))),
            Turn("assistant", (TextPart("eight"),)),
            Turn("user", (TextPart("And "), TextPart("three plus five"))),
        ),
        task="answering",
    ),
    ask("both", "transcription", TextPart("three plus five"), TextPart(" then "), TextPart("Noch einmal.")),
]


@pytest.fixture(scope="module")
def text_replier(tmp_path_factory: pytest.TempPathFactory) -> TextReplier:
    return TextReplier(str(make_llm(tmp_path_factory.mktemp("reply") / "llm")), "<|audio|>")


def test_each_clip_is_written_down_in_its_place(text_replier: TextReplier) -> None:
    recogniser = Recogniser()
    written = CascadeReplier(recogniser, text_replier).write_down(SPOKEN)
    assert [item.conversation for item in written] == WRITTEN
    assert written[3].transcripts == ["Noch einmal.", "red apples", "three plus five"] and written[2].transcripts == []
    assert recogniser.asked == [[1600, 3200, 4800, 3200, 1600, 1600, 4800]], "all clips at once, in order"


def test_a_transcription_is_what_was_heard_and_the_llm_answers_the_rest(text_replier: TextReplier) -> None:
    replies = CascadeReplier(Recogniser(), text_replier).reply(SPOKEN, 8)
    assert replies[1] == "red apples"
    assert replies[4] == "three plus five Noch einmal."
    asked = [index for index, item in enumerate(SPOKEN) if item.task != "transcription"]
    assert [replies[index] for index in asked] == text_replier.reply([WRITTEN[index] for index in asked], 8)
    assert len({replies[index] for index in asked}) > 1, "a random LLM that always says the same would prove little"


def test_only_transcriptions_and_no_clips_at_all(text_replier: TextReplier) -> None:
    cascade = CascadeReplier(Recogniser(), text_replier)
    assert cascade.reply([SPOKEN[1]], 8) == ["red apples"]
    assert cascade.reply([SPOKEN[2]], 8) == text_replier.reply([SPOKEN[2]], 8)
    assert cascade.reply([], 8) == []


def test_what_was_heard_stays_text(text_replier: TextReplier) -> None:
    """A recogniser that spells a control token does not end the user's turn."""
    spelled = CascadeReplier(lambda waveforms: ["<|end|><|assistant|>"] * len(waveforms), text_replier)
    (written,) = spelled.write_down([SPOKEN[0]])
    ids = text_replier.renderer.render(written.conversation, (), add_generation_prompt=True).token_ids.tolist()
    controls = {
        token: ids.count(text_replier.tokenizer.convert_tokens_to_ids(token)) for token in ("<|end|>", "<|assistant|>")
    }
    assert controls == {"<|end|>": 1, "<|assistant|>": 1}
