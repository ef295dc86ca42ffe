"""The columns of a report: a trained run, and what it is measured against, its own base LLM and the cascade."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig

from voicetextblender.data.loader import DataConfig
from voicetextblender.evaluate.config import EvaluateConfig
from voicetextblender.evaluate.predictions import ColumnResult
from voicetextblender.evaluate.suite import evaluate_column
from voicetextblender.files import fingerprint_folder
from voicetextblender.model.build import ModelConfig
from voicetextblender.model.reply import CascadeReplier, Replier, SpeechReplier, TextReplier
from voicetextblender.model.transcribe import CtcTranscriber
from voicetextblender.model.weights import load_composite
from voicetextblender.progress import ShowProgress, show_progress


def evaluate_bases(
    model: ModelConfig,
    config: EvaluateConfig,
    out: Path,
    rows: Sequence[str] | None = None,
    data: DataConfig | None = None,
    show: ShowProgress = show_progress,
) -> list[ColumnResult]:
    """The columns that no training fills: `base`, the LLM on text, and `cascade`, both bases one after the other.

    There is no cascade where the speech encoder comes without a CTC head. `rows` and `data` as in `evaluate_run`.
    """
    text_replier = TextReplier(model.llm, model.audio_token)
    llm_key = _weights_key(model.llm)
    results = [_evaluate("base", text_replier, config, out, rows, llm_key, data, show)]
    if AutoConfig.from_pretrained(model.speech_encoder).model_type == "parakeet_ctc":
        cascade = CascadeReplier(CtcTranscriber(model.speech_encoder).transcribe, text_replier)
        key = llm_key + _weights_key(model.speech_encoder)
        results.append(_evaluate("cascade", cascade, config, out, rows, key, data, show))
    return [result for result in results if result.rows]


def evaluate_run(
    model_dir: Path,
    config: EvaluateConfig,
    out: Path,
    rows: Sequence[str] | None = None,
    data: DataConfig | None = None,
    show: ShowProgress = show_progress,
) -> ColumnResult:
    """The column of a trained model. Replies are kept in `out` and used again while model and items are the same.

    Args:
        rows: names of `config.rows`; None or none for all.
        data: the training's, for rows that read what its sources hold out.
    """
    replier = SpeechReplier(load_composite(model_dir))
    return _evaluate(config.column, replier, config, out, rows, _weights_key(str(model_dir)), data, show)


def _evaluate(
    column: str,
    replier: Replier,
    config: EvaluateConfig,
    out: Path,
    rows: Sequence[str] | None,
    key: str,
    data: DataConfig | None,
    show: ShowProgress = show_progress,
) -> ColumnResult:
    num_rows = len(rows or config.rows)
    done: dict[str, float] = {}
    with show(f"Evaluating {column}") as report:

        def progress(row: str, replies: int, total: int) -> None:
            done[row] = replies / total
            report(int(100 * sum(done.values())), 100 * num_rows)

        return evaluate_column(column, replier, config, rows, out, progress, model_fingerprint=key, data=data)


def _weights_key(model: str) -> str:
    """Changes with any file of a model's folder; a model that is none is known by its name."""
    return fingerprint_folder(Path(model)) if Path(model).is_dir() else model
