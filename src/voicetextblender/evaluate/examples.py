"""A few items of each row, to read and to hear, picked by rule and not by taste."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from voicetextblender.chat.conversation import AudioPart
from voicetextblender.evaluate.config import Metric
from voicetextblender.evaluate.predictions import Prediction
from voicetextblender.evaluate.score import ERROR_RATES, METRIC_NAMES, score_item
from voicetextblender.evaluate.table import COLUMN_NAMES, Table
from voicetextblender.page.clips import ClipEmbedder, ShownPart

PICKING_RULE = (
    "Picked by rule: the first item that the row's last column gets right and another column does not, "
    "the first that the last column does not get right, and the first that is left; "
    "of several turns, the last."
)


@dataclass(frozen=True)
class ShownReply:
    """What one column said; `quality` is `right`, `near` or `wrong`."""

    column: str
    text: str
    score: str
    quality: str


@dataclass(frozen=True)
class Example:
    """One item with the replies of every column that was asked it."""

    why: str
    turns: tuple[tuple[str, tuple[ShownPart, ...]], ...]
    reference: str
    replies: tuple[ShownReply, ...]


class ExampleMaker:
    """Makes examples for one page."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.clips = ClipEmbedder()

    def make(self, row: str) -> list[Example]:
        """The examples of a row."""
        by_column = {
            column: _last_turns(self.table.runs[column, row][0].predictions)
            for column in self.table.columns
            if (column, row) in self.table.runs
        }
        metric, focus = self.table.headline(row), list(by_column)[-1]
        return [self._show(key, why, by_column, metric, focus) for key, why in _pick(by_column, metric, focus)]

    def _show(
        self, key: tuple[str, int], why: str, by_column: dict[str, dict[Any, Prediction]], metric: Metric, focus: str
    ) -> Example:
        item = by_column[focus][key]
        turns = tuple((message["role"], self._show_content(message["content"])) for message in item.prompt)
        replies = tuple(_show_reply(column, items[key], metric) for column, items in by_column.items() if key in items)
        return Example(why, turns, item.reference, replies)

    def _show_content(self, content: str | Sequence[dict[str, Any]]) -> tuple[ShownPart, ...]:
        if isinstance(content, str):
            return (ShownPart(content),)
        return tuple(self._show_clip(part) if part["type"] == "audio" else ShownPart(part["text"]) for part in content)

    def _show_clip(self, part: dict[str, Any]) -> ShownPart:
        clip = AudioPart(part["path"], part.get("start", 0.0), part.get("duration"), part.get("transcript"))
        return self.clips.show(clip)


def _last_turns(items: Sequence[Prediction]) -> dict[tuple[str, int], Prediction]:
    """The last question of every conversation, with all that was said before it."""
    last = {item.id: item for item in items}
    return {(item.id, item.turn): item for item in last.values()}


def _pick(
    by_column: dict[str, dict[tuple[str, int], Prediction]], metric: Metric, focus: str
) -> list[tuple[tuple[str, int], str]]:
    """Keys of the picked items with the reason of each, by `PICKING_RULE`."""
    quality = {
        column: {key: _judge(item, metric)[1] for key, item in items.items()} for column, items in by_column.items()
    }
    own, name = quality[focus], COLUMN_NAMES.get(focus, focus)
    others = {column: quality[column] for column in by_column if column != focus}
    picked: dict[tuple[str, int], str] = {}
    better = (
        key for key in own if own[key] == "right" and any(q.get(key, "right") != "right" for q in others.values())
    )
    for reason, keys in (
        (f"{name} is right, another is not", better),
        (f"{name} is not right", (key for key in own if own[key] != "right")),
        ("the first that is left", iter(own)),
    ):
        key = next((key for key in keys if key not in picked), None)
        if key is not None:
            picked[key] = reason
    return list(picked.items())


def _judge(item: Prediction, metric: Metric) -> tuple[float, str]:
    """Score of one item and what it amounts to."""
    score = score_item(metric, item.reference, item.hypothesis)
    good = 100 - score if metric in ERROR_RATES else score
    if good >= 99.95:
        return score, "right"
    return score, "near" if metric != "exact_match" and good >= 60 else "wrong"


def _show_reply(column: str, item: Prediction, metric: Metric) -> ShownReply:
    score, quality = _judge(item, metric)
    figure = "" if metric == "exact_match" else f"{METRIC_NAMES[metric]} {score:.0f}"
    return ShownReply(column, item.hypothesis, figure, quality)
