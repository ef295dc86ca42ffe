"""Who answers a conversation: the composite, a plain LLM, or the cascade of a recogniser and a plain LLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from voicetextblender.audio.front_end import extract_features
from voicetextblender.chat.clips import read_clip
from voicetextblender.chat.conversation import AudioPart, Conversation, TextPart, Turn
from voicetextblender.chat.render import Rendered, Renderer
from voicetextblender.errors import DataError, describe
from voicetextblender.model.build import Composite
from voicetextblender.model.encoders.load import load_whole


class Replier(Protocol):
    """Anything that answers conversations that end with a user's turn."""

    def reply(self, conversations: Sequence[Conversation], max_new_tokens: int) -> list[str]:
        """The assistant's next turn of each conversation, decoded greedily."""
        ...


class SpeechReplier:
    """The composite answers text and speech."""

    def __init__(self, composite: Composite, batch_size: int = 64) -> None:
        self.composite = composite
        self.batch_size = batch_size

    def reply(self, conversations: Sequence[Conversation], max_new_tokens: int) -> list[str]:
        """See `Replier.reply`."""
        ids = self.reply_ids(conversations, max_new_tokens)
        return decode_replies(self.composite.tokenizer, ids)

    def reply_ids(self, conversations: Sequence[Conversation], max_new_tokens: int) -> list[list[int]]:
        """Token ids of the replies, without what ends a turn."""
        clips = [[read_clip(part) for part in conversation.clips] for conversation in conversations]
        rows = [self._render(*pair) for pair in zip(conversations, clips, strict=True)]

        def prepare(indices: list[int]) -> dict[str, Any]:
            return self._features([clip for index in indices for clip in clips[index]])

        composite = self.composite
        return generate_ids(composite.model, composite.renderer, rows, prepare, max_new_tokens, self.batch_size)

    @torch.inference_mode()
    def stream(self, conversation: Conversation, max_new_tokens: int) -> Iterator[str]:
        """Pieces of one reply as they are decoded; joined they equal `reply`'s, but for white space at the end."""
        composite, model = self.composite, self.composite.model
        clips = [read_clip(part) for part in conversation.clips]
        row = self._render(conversation, clips)
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(row.token_ids)[None].to(model.device)}
        inputs |= self._features(clips)
        generated: list[int] = []
        shown = ""
        outputs = model(**inputs, use_cache=True, logits_to_keep=1)
        for _ in range(max_new_tokens):
            logits = outputs.logits[0, -1]
            logits[composite.renderer.audio_token_id] = -torch.inf
            token = int(logits.argmax())
            if token in composite.renderer.end_of_turn_ids:
                return
            generated.append(token)
            text = composite.tokenizer.decode(generated, skip_special_tokens=True).lstrip()
            if not text.endswith("\ufffd"):  # an unfinished multi-byte character waits for its other bytes
                yield text[len(shown) :]
                shown = text
            outputs = model(
                input_ids=torch.tensor([[token]], device=model.device),
                past_key_values=outputs.past_key_values,
                use_cache=True,
            )

    def _render(self, conversation: Conversation, clips: Sequence[np.ndarray]) -> Rendered:
        counts = [self.composite.num_audio_tokens(len(clip)) for clip in clips]
        return self.composite.renderer.render(conversation, counts, add_generation_prompt=True)

    def _features(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        if not clips:
            return {}
        device = self.composite.model.device
        waveforms = [torch.from_numpy(clip).to(device) for clip in clips]
        features, mask = extract_features(self.composite.front_end, waveforms)
        return {"input_features": features, "input_features_mask": mask}


class TextReplier:
    """A plain LLM answers text; a conversation with audio is refused."""

    def __init__(self, path: str, audio_token: str, batch_size: int = 64) -> None:
        self.model = load_whole(AutoModelForCausalLM, path).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.renderer = Renderer(self.tokenizer, audio_token)
        self.batch_size = batch_size

    def reply(self, conversations: Sequence[Conversation], max_new_tokens: int) -> list[str]:
        """See `Replier.reply`."""
        for conversation in conversations:
            if conversation.clips:
                raise DataError(
                    describe(
                        f"conversation '{conversation.id}'",
                        f"{len(conversation.clips)} clips",
                        "text only for a plain LLM",
                        "Ask the composite or the cascade",
                    )
                )
        rows = [self.renderer.render(conversation, (), add_generation_prompt=True) for conversation in conversations]
        ids = generate_ids(self.model, self.renderer, rows, lambda indices: {}, max_new_tokens, self.batch_size)
        return decode_replies(self.tokenizer, ids)


class CascadeReplier:
    """A recogniser writes down every clip, a plain LLM answers the text: the baseline of every report."""

    def __init__(self, transcribe: Callable[[Sequence[np.ndarray]], list[str]], text_replier: TextReplier) -> None:
        self.transcribe = transcribe
        self.text_replier = text_replier

    def reply(self, conversations: Sequence[Conversation], max_new_tokens: int) -> list[str]:
        """See `Replier.reply`. A transcription is the recogniser's own text: no LLM touches it."""
        texts = self.write_down(conversations)
        asked = [index for index, item in enumerate(conversations) if item.task != "transcription"]
        answers = dict(
            zip(
                asked,
                self.text_replier.reply([texts[index].conversation for index in asked], max_new_tokens),
                strict=True,
            )
        )
        return [answers.get(index, " ".join(text.transcripts)) for index, text in enumerate(texts)]

    def write_down(self, conversations: Sequence[Conversation]) -> list[WrittenDown]:
        """The same conversations with each clip replaced by the recogniser's text."""
        transcripts = iter(self.transcribe([read_clip(part) for item in conversations for part in item.clips]))
        written = []
        for item in conversations:
            own = [next(transcripts) for _ in item.clips]
            rest = iter(own)
            turns = tuple(_replace_clips(turn, rest) for turn in item.turns)
            written.append(WrittenDown(replace(item, turns=turns), own))
        return written


class WrittenDown(NamedTuple):
    """A conversation without audio, and what the recogniser heard in each of its clips."""

    conversation: Conversation
    transcripts: list[str]


def _replace_clips(turn: Turn, transcripts: Iterator[str]) -> Turn:
    parts = tuple(TextPart(next(transcripts)) if isinstance(part, AudioPart) else part for part in turn.parts)
    return replace(turn, parts=parts)


def decode_replies(tokenizer: PreTrainedTokenizerBase, replies: Sequence[list[int]]) -> list[str]:
    """Replies as text, without control tokens and without white space around them."""
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in replies]


@torch.inference_mode()
def generate_ids(
    model: PreTrainedModel,
    renderer: Renderer,
    rows: Sequence[Rendered],
    prepare: Callable[[list[int]], dict[str, Any]],
    max_new_tokens: int,
    batch_size: int,
) -> list[list[int]]:
    """Token ids of greedy replies to rendered rows, in batches of similar length, left-padded.

    Args:
        prepare: Further model inputs for the rows of a batch, given their indices in `rows`.
    """
    stop_ids = sorted(renderer.end_of_turn_ids)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].token_ids))
    replies: list[list[int]] = [[] for _ in rows]
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        longest = max(len(rows[index].token_ids) for index in indices)
        token_ids = torch.full((len(indices), longest), stop_ids[0])
        attention_mask = torch.zeros_like(token_ids)
        for place, index in enumerate(indices):
            row = torch.from_numpy(rows[index].token_ids)
            token_ids[place, longest - len(row) :] = row
            attention_mask[place, longest - len(row) :] = 1
        generated = model.generate(
            input_ids=token_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            **prepare(indices),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=stop_ids,
            pad_token_id=stop_ids[0],
            suppress_tokens=[renderer.audio_token_id],
        )
        for index, ids in zip(indices, generated[:, longest:].tolist(), strict=True):
            end = next((place for place, token in enumerate(ids) if token in stop_ids), len(ids))
            replies[index] = ids[:end]
    return replies
