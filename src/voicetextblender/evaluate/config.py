"""What is evaluated: the rows of the report, how each is scored, and how replies are generated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from voicetextblender.config import StrictConfig
from voicetextblender.data.readers.config import ReaderConfig

Metric = Literal["wer", "cer", "bleu", "chrf", "exact_match"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""Names of rows and columns are also names of files."""


class RowConfig(StrictConfig):
    """One row of the report: held-out conversations, from one of three places, and how the replies are scored.

    Every assistant turn that answers a user turn is one item.

    Args:
        manifest: JSON Lines of conversations.
        reader: rows of any kind.
        source: name of a source of `data.sources`: what it holds out.
        metrics: the first one is the row's headline, the others stand beside it.
        max_items: conversations used, from the top; the rest is counted as left out.
        max_new_tokens: instead of `EvaluateConfig.max_new_tokens`.
    """

    manifest: Path | None = None
    reader: ReaderConfig | None = None
    source: str | None = None
    metrics: tuple[Metric, ...] = Field(min_length=1)
    max_items: int | None = Field(default=None, ge=1)
    max_new_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if [self.manifest, self.reader, self.source].count(None) != 2:
            raise ValueError("it should have one of manifest, reader and source")
        return self


class EvaluateConfig(StrictConfig):
    """The column that a run fills and the rows it is asked.

    Args:
        column: `base`, `cascade`, `speech_only`, `frozen_llm`, `joint`, or a name of one's own.
        rows: the rows of the report, by name.
        batch_size: conversations handed to the model at once; greedy replies do not depend on it.
        max_new_tokens: a reply is cut after this many tokens.
        bootstrap_samples: resamples behind each 95 % interval.
        seed: of the resampling.
    """

    column: Name = "joint"
    rows: dict[Name, RowConfig] = Field(default_factory=dict)
    batch_size: int = Field(default=32, ge=1)
    max_new_tokens: int = Field(default=128, ge=1)
    bootstrap_samples: int = Field(default=1000, ge=1)
    seed: int = Field(default=0, ge=0)
