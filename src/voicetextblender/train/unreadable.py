"""Draws of a run that could not be read: counted over kills and resumes, kept in the run folder, and never too many."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from voicetextblender.data.loader import LoadedStep
from voicetextblender.data.reading import Cause, Failure, Key
from voicetextblender.errors import RunError, describe
from voicetextblender.files import write_atomically
from voicetextblender.train.distributed import Ranks

FILE = "unreadable.jsonl"
"""In the run folder; it is there when something could not be read."""
LEAST_DRAWS = 1000
"""A share of fewer conversations than these means nothing yet."""


class StepRows(NamedTuple):
    """What a step read, over all ranks.

    Args:
        conversations: those that the plan names.
        replaced: those of them that could not be read.
        hash: of the rows that were read (source, epoch and row of each), whatever their order.
    """

    conversations: int
    replaced: int
    hash: str


class Unreadable:
    """Counts what could not be read, as if the run had never been stopped.

    Args:
        run_dir: its log and its list of failures are read. What could not be read in steps from `first_step` on is
            known: these steps were made once, and will be the same again.
        max_failed_share: of the conversations drawn so far.
    """

    def __init__(self, run_dir: Path, first_step: int, max_failed_share: float, ranks: Ranks) -> None:
        self.path = run_dir / FILE
        self.max_failed_share = max_failed_share
        self.ranks = ranks
        self.num_draws = sum(line.get("conversations", 0) for line in _read(run_dir / "log.jsonl", 0, first_step))
        earlier = _read(self.path, 0, first_step)
        self.known = {_key(line): Cause(line["reason"], line["text"]) for line in _read(self.path, first_step)}
        self.reasons = Counter(line["reason"] for line in earlier if line["is_planned"])
        self.first_of: dict[str, str] = {}
        for line in earlier:
            self.first_of.setdefault(line["reason"], line["where"])
        ranks.wait()
        if ranks.is_first and self.path.exists():
            with write_atomically(self.path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in earlier))

    def add(self, step: int, loaded: LoadedStep) -> StepRows:
        """Count a step; called by every rank.

        Raises:
            RunError: more than `max_failed_share` could not be read; with a table of the reasons.
        """
        num_planned = sum(failure.is_planned for failure in loaded.failures)
        counts = [loaded.num_conversations, num_planned, len(loaded.failures), loaded.row_hash]
        conversations, replaced, failed, row_hash = self.ranks.sum(
            torch.tensor(counts, dtype=torch.int64, device=self.ranks.device)
        ).tolist()
        self.num_draws += conversations
        if failed:
            self._add_failures(step, sorted(self.ranks.gather(loaded.failures), key=_place))
        return StepRows(conversations, replaced, f"{row_hash:016x}")

    def print_table(self, console: Console) -> None:
        """What could not be read, by reason; nothing if there is nothing."""
        if not self.reasons:
            return
        table = Table("could not be read", "conversations", "first", box=None, pad_edge=False)
        for reason, count in self.reasons.most_common():
            table.add_row(Text(reason, "yellow"), f"{count:,}", Text(self.first_of[reason]))
        console.print(table)
        console.print(Text(f"{self._share()}; others took their places. All of them: {self.path}"), soft_wrap=True)

    def _add_failures(self, step: int, failures: list[Failure]) -> None:
        if self.ranks.is_first:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(_line(step, failure), ensure_ascii=False) + "\n" for failure in failures)
        self.reasons.update(failure.cause.reason for failure in failures if failure.is_planned)
        for failure in failures:
            self.first_of.setdefault(failure.cause.reason, failure.where)
        if self.reasons.total() > self.max_failed_share * max(self.num_draws, LEAST_DRAWS):
            reasons = [
                f"  {count:,} x {reason}, first {self.first_of[reason]}" for reason, count in self.reasons.most_common()
            ]
            expected = f"at most data.max_failed_share, {self.max_failed_share:.2%}"
            fix = f"Look at '{self.path}'. Mend the files, delete that list, and start the same command again"
            raise RunError("\n".join([describe(f"step {step}", self._share(), expected, fix), *reasons]))

    def _share(self) -> str:
        num_failed = self.reasons.total()
        share = num_failed / max(1, self.num_draws)
        return f"{num_failed:,} of {self.num_draws:,} conversations ({share:.2%}) could not be read"


def _place(failure: Failure) -> tuple[Any, ...]:
    """Orders the failures of a step, whatever ranks they come from."""
    return (*failure.key, not failure.is_planned)


def _line(step: int, failure: Failure) -> dict[str, Any]:
    source, epoch, row = failure.key
    return {
        "step": step,
        "source": failure.source,
        "where": failure.where,
        "reason": failure.cause.reason,
        "text": failure.cause.text,
        "is_planned": failure.is_planned,
        "replaced_by": failure.replaced_by,
        "key": [source, epoch, row],
    }


def _key(line: Mapping[str, Any]) -> Key:
    source, epoch, row = line["key"]
    return source, epoch, row


def _read(path: Path, start: int, stop: float = float("inf")) -> list[dict[str, Any]]:
    """The lines of steps from `start` to `stop` (excluded); one that a crash cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if start <= line["step"] < stop:
            lines.append(line)
    return lines
