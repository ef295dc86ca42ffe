"""Repliers that know the answers and err where they are told to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voicetextblender.audio.waveform import write_waveform
from voicetextblender.chat.conversation import Conversation


class Oracle:
    """Gives the manifest's own replies, but for the (id, turn) pairs in `errors`; keeps what it was asked."""

    def __init__(self, manifests: Sequence[Path], errors: Mapping[tuple[str, int], str] | None = None) -> None:
        self.answers: dict[tuple[str, int], str] = {}
        self.asked: list[Conversation] = []
        self.batch_sizes: list[int] = []
        for path in manifests:
            for line in path.read_text().splitlines():
                row = json.loads(line)
                replies = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
                self.answers |= {(row["id"], turn): reply for turn, reply in enumerate(replies)}
        self.answers |= dict(errors or {})

    def reply(self, conversations: Sequence[Conversation], max_new_tokens: int) -> list[str]:
        self.asked += conversations
        self.batch_sizes.append(len(conversations))
        turns = [sum(turn.role == "assistant" for turn in one.turns) for one in conversations]
        return [self.answers[one.id, turn] for one, turn in zip(conversations, turns, strict=True)]


def write_manifest(path: Path, conversations: Sequence[Sequence[tuple[Any, str]]], prefix: str = "i") -> Path:
    """A manifest of (question, answer) turns; ids are `prefix` and a number."""
    rows = []
    for number, turns in enumerate(conversations):
        messages = []
        for question, answer in turns:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"id": f"{prefix}{number}", "messages": messages})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_clip(folder: Path, name: str, seconds: float = 0.5) -> dict[str, Any]:
    """A tone on disk and the part that names it."""
    samples = np.sin(np.arange(int(16_000 * seconds)) * 0.1).astype(np.float32) * 0.3
    write_waveform(folder / name, samples)
    return {"type": "audio", "path": name, "transcript": "a tone"}
