"""Asking a model the held-out conversations of each row: replies generated turn by turn, kept, and used again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voicetextblender.audio.waveform import read_audio_info
from voicetextblender.chat.clips import stored_audio
from voicetextblender.chat.conversation import (
    AudioPart,
    Conversation,
    TextPart,
    Turn,
    conversation_to_row,
)
from voicetextblender.data.loader import DataConfig
from voicetextblender.data.readers.source import Source
from voicetextblender.data.sources import CACHE_DIR
from voicetextblender.errors import RecipeError, describe
from voicetextblender.evaluate.config import EvaluateConfig
from voicetextblender.evaluate.predictions import ColumnResult, Prediction, RowCounts, RowResult, load_row, save_row
from voicetextblender.evaluate.rows import asked_turns, fingerprint_clips, keep_clips, open_row, read_conversations

if TYPE_CHECKING:
    from voicetextblender.model.reply import Replier

Progress = Callable[[str, int, int], None]
"""Called with the row's name, the replies generated so far, and how many there will be."""
_GENERATION_VERSION = 1
"""Raised when this module changes what a model is asked, so that kept replies are not used again."""


def evaluate_column(
    column: str,
    replier: Replier,
    config: EvaluateConfig,
    rows: Sequence[str] | None,
    out_dir: Path,
    progress: Progress | None = None,
    *,
    model_fingerprint: str,
    data: DataConfig | None = None,
) -> ColumnResult:
    """The replies of one model to the rows it can do, generated greedily, or read where they were generated before.

    They are kept in `out_dir/predictions/<column>/<row>.jsonl`, a row as soon as it is done; they are used again
    while the model, the manifest with its clips, and the generation limits are the same.

    Args:
        rows: names of `config.rows`; none for all. Those that the column cannot do are left out (`select_rows`).
        model_fingerprint: changes whenever the weights, or what stands around them, change.
        data: the training's, for rows that read what its sources hold out.

    Raises:
        RecipeError: a row that the config does not have, or that reads what no source holds out.
        DataError: a manifest line that cannot be used.
    """
    for row in rows or ():
        if row not in config.rows:
            found, known = f"there is no row '{row}'", ", ".join(config.rows) or "none"
            raise RecipeError(describe("evaluate.rows", found, f"the recipe has {known}", "Add it, or leave it out"))
    sources = data.all_sources if data else {}
    cache_dir = Path(data.cache_dir) if data else CACHE_DIR
    opened = {name: open_row(name, config.rows[name], sources, cache_dir) for name in rows or config.rows}
    conversations = {
        name: read_conversations(name, source, config.rows[name].max_items) for name, source in opened.items()
    }
    results = []
    for name in select_rows(column, conversations):
        items, num_left_out = conversations[name]
        conversations[name] = keep_clips(items, out_dir / "clips"), num_left_out
        key = _row_key(config, name, opened[name], conversations[name][0], model_fingerprint)
        kept = load_row(column, name, out_dir, key=key, metrics=config.rows[name].metrics)
        results.append(
            kept or _evaluate_row(column, name, replier, config, conversations[name], out_dir, progress, key)
        )
    return ColumnResult(column, tuple(results))


def select_rows(column: str, conversations: dict[str, tuple[list[Conversation], int]]) -> list[str]:
    """The rows a column can do: `base` cannot hear, and the `cascade` is the base itself where nothing is spoken."""
    spoken = {name: any(one.clips for one in items) for name, (items, _) in conversations.items()}
    if column == "base":
        return [name for name in conversations if not spoken[name]]
    if column == "cascade":
        return [name for name in conversations if spoken[name]]
    return list(conversations)


def _evaluate_row(
    column: str,
    name: str,
    replier: Replier,
    config: EvaluateConfig,
    items: tuple[list[Conversation], int],
    out_dir: Path,
    progress: Progress | None,
    key: str,
) -> RowResult:
    """Generate, count and save one row."""
    conversations, num_left_out = items
    max_new_tokens = config.rows[name].max_new_tokens or config.max_new_tokens
    report = (lambda done, total: progress(name, done, total)) if progress else (lambda done, total: None)
    predictions = generate_replies(conversations, replier, config.batch_size, max_new_tokens, report)
    clips = [clip for conversation in conversations for clip in conversation.clips]
    counts = RowCounts(
        conversations=len(conversations),
        replies=len(predictions),
        clips=len(clips),
        audio_s=round(sum(_clip_duration_s(clip) for clip in clips), 3),
        left_out=num_left_out,
        empty_replies=sum(not prediction.hypothesis.strip() for prediction in predictions),
    )
    result = RowResult(name, config.rows[name].metrics, tuple(predictions), counts)
    save_row(column, result, out_dir, key=key)
    return result


def generate_replies(
    conversations: Sequence[Conversation],
    replier: Replier,
    batch_size: int,
    max_new_tokens: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prediction]:
    """Every reply of every conversation, in the manifest's order.

    The replies of a conversation are generated one after another, and each is asked on top of the model's own
    earlier replies, not of the reference's. Conversations of like length go together.
    """
    asked = [list(asked_turns(conversation)) for conversation in conversations]
    own_turns = [list(conversation.turns) for conversation in conversations]
    replies: dict[tuple[int, int], Prediction] = {}
    total = sum(map(len, asked))
    for depth in range(max(map(len, asked), default=0)):
        waiting = [index for index, turns in enumerate(asked) if len(turns) > depth]
        waiting.sort(key=lambda index: _length(conversations[index]), reverse=True)
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            prompts = [
                dataclasses.replace(conversations[index], turns=tuple(own_turns[index][: asked[index][depth]]))
                for index in batch
            ]
            for index, prompt, text in zip(batch, prompts, replier.reply(prompts, max_new_tokens), strict=True):
                position = asked[index][depth]
                reference = conversations[index].turns[position].text
                own_turns[index][position] = Turn("assistant", (TextPart(text),))
                replies[index, depth] = Prediction(prompt.id, depth, _messages(prompt), reference, text)
            report(len(replies), total)
    return [replies[key] for key in sorted(replies)]


def _messages(prompt: Conversation) -> tuple[dict[str, Any], ...]:
    return tuple(conversation_to_row(prompt)["messages"])


def _length(conversation: Conversation) -> tuple[float, int]:
    """What makes a conversation long: speech first, then text."""
    seconds = sum(clip.duration_s or 0.0 for clip in conversation.clips)
    return seconds, sum(len(turn.text) for turn in conversation.turns)


def _clip_duration_s(clip: AudioPart) -> float:
    if clip.duration_s is not None or clip.path is None:
        return clip.duration_s or 0.0
    return read_audio_info(stored_audio(clip)).duration_s - clip.start_s


def _row_key(
    config: EvaluateConfig, name: str, source: Source, conversations: Sequence[Conversation], model_fingerprint: str
) -> str:
    """What the replies of a row depend on, as one hash; the clips are told by their content."""
    row = config.rows[name]
    parts = [
        str(_GENERATION_VERSION),
        model_fingerprint,
        source.fingerprint if row.manifest else f"{source.fingerprint} {source.identity}",
        str(row.max_items),
        str(row.max_new_tokens or config.max_new_tokens),
        *fingerprint_clips(name, conversations),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
