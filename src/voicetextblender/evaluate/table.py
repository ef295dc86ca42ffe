"""The figures of a report: a cell for each row, column and metric; text retention; the modality gap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voicetextblender.evaluate.config import Metric
from voicetextblender.evaluate.predictions import ColumnResult, RowResult
from voicetextblender.evaluate.score import (
    ERROR_RATES,
    Interval,
    bootstrap_rates,
    count_units,
    interval,
    require_same_units,
    score_row,
)
from voicetextblender.files import derive_seed

COLUMN_NAMES = {
    "base": "base LLM",
    "cascade": "cascade",
    "speech_only": "speech-only SFT",
    "frozen_llm": "frozen LLM",
    "joint": "joint SFT",
}
ROW_NAMES = {
    "text.touched": "text tasks that speech data touches",
    "text.untouched": "text tasks that speech data never touches",
    "transcription.en": "transcription, English",
    "transcription.de": "transcription, German",
    "translation.speech": "translation of speech",
    "translation.text": "translation of text",
    "answering.spoken": "spoken question answering",
    "instructions.spoken": "instructions, spoken",
    "instructions.written": "instructions, written (same items)",
    "mixed": "mixed-modal turns",
    "multi_turn.spoken": "several spoken turns",
    "unseen.prompts": "unseen prompt wordings",
    "unseen.voices": "unseen voices",
    "unseen.entities": "unseen entities",
    "unseen.combinations": "unseen combinations of tasks",
}
RETENTION_ROWS = ("text.touched", "text.untouched")
GAP_ROWS = ("instructions.written", "instructions.spoken")
_BASELINE = "base"


@dataclass(frozen=True)
class Cell:
    """One figure of the report, in percent (BLEU and chrF as usual), with its 95 % interval.

    `items` are the scored replies of one run. `retention` is a percentage of the base LLM's exact match, `gap` a
    difference of exact matches in points.
    """

    row: str
    column: str
    metric: str
    value: float
    low: float
    high: float
    items: int


@dataclass(frozen=True)
class Table:
    """All figures, in the report's order; `runs` are the results behind them by (column, row)."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]
    retention: tuple[Cell, ...]
    gaps: tuple[Cell, ...]
    runs: dict[tuple[str, str], tuple[RowResult, ...]]

    def cell(self, row: str, column: str, metric: str | None = None) -> Cell | None:
        """The figure at a place, the row's headline when no metric is named."""
        if row not in self.rows:
            return None
        wanted = metric or self.headline(row)
        return next((c for c in self.cells if (c.row, c.column, c.metric) == (row, column, wanted)), None)

    def headline(self, row: str) -> Metric:
        """The metric that stands for a row."""
        return self.metrics(row)[0]

    def metrics(self, row: str) -> tuple[Metric, ...]:
        """The metrics of a row, the headline first."""
        return next(runs[0].metrics for (_, name), runs in self.runs.items() if name == row)

    def spoken(self, row: str) -> bool:
        """Whether the row asks the model to hear."""
        return any(run.spoken for (_, name), runs in self.runs.items() if name == row for run in runs)

    def num_seeds(self, column: str) -> int:
        """How many runs stand behind a column."""
        return max(len(runs) for (name, _), runs in self.runs.items() if name == column)

    def retained(self, column: str, row: str = "text") -> Cell | None:
        """Text retention of a column: of one text row, or of `text`, the mean over them."""
        return next((cell for cell in self.retention if (cell.column, cell.row) == (column, row)), None)

    def gap(self, column: str) -> Cell | None:
        """Modality gap of a column."""
        return next((cell for cell in self.gaps if cell.column == column), None)


def build_table(results: Sequence[ColumnResult], bootstrap_samples: int = 1000, seed: int = 0) -> Table:
    """Figures from replies; several results of one row and column are its seeds and are averaged.

    Raises:
        DataError: results that are averaged or compared are of different items.
    """
    runs: dict[tuple[str, str], tuple[RowResult, ...]] = {}
    for result in results:
        for row in result.rows:
            runs[result.column, row.row] = (*runs.get((result.column, row.row), ()), row)
    columns = _in_order((column for column, _ in runs), COLUMN_NAMES)
    rows = _in_order((row for _, row in runs), ROW_NAMES)
    cells = tuple(
        _score_cell(row, column, metric, runs[column, row], bootstrap_samples, seed)
        for row in rows
        for column in columns
        if (column, row) in runs
        for metric in runs[column, row][0].metrics
    )
    retention = _measure_retention(runs, columns, bootstrap_samples, seed)
    gaps = tuple(_measure_gap(column, runs, bootstrap_samples, seed) for column in columns if _has_gap(column, runs))
    return Table(rows, columns, cells, retention, gaps, runs)


def goodness(cell: Cell) -> float:
    """The figure turned so that more is better, at least 0: an error rate counts as 100 minus itself."""
    return max(0.0, 100 - cell.value) if cell.metric in ERROR_RATES else cell.value


def mean_speech_score(table: Table, column: str) -> Interval | None:
    """Mean `goodness` over the spoken rows that every hearing column has; None for a column that hears nothing.

    The interval takes the rows as independent of each other.
    """
    rows = speech_rows_in_common(table)
    cells = [cell for row in rows if (cell := table.cell(row, column))]
    if not rows or len(cells) < len(rows):
        return None
    mean = float(np.mean([goodness(cell) for cell in cells]))
    spread = float(np.sqrt(sum(((cell.high - cell.low) / 2) ** 2 for cell in cells)) / len(cells))
    return Interval(mean, max(0.0, mean - spread), min(100.0, mean + spread))


def speech_rows_in_common(table: Table) -> list[str]:
    """The spoken rows that every column with any spoken row has."""
    spoken = [row for row in table.rows if table.spoken(row)]
    hearing = [column for column in table.columns if any((column, row) in table.runs for row in spoken)]
    return [row for row in spoken if all((column, row) in table.runs for column in hearing)]


def _in_order(names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Known names in their own order, then the others by alphabet."""
    found, order = set(names), list(known)
    return tuple(name for name in order if name in found) + tuple(sorted(found - set(order)))


def _score_cell(row: str, column: str, metric: Metric, runs: Sequence[RowResult], samples: int, seed: int) -> Cell:
    where = f"row {row}, column {column}"
    score = score_row(metric, [run.predictions for run in runs], samples, derive_seed(seed, row), where)
    return Cell(row, column, metric, score.value, score.low, score.high, len(runs[0].predictions))


def _draws(runs: Sequence[RowResult], samples: int, seed: int, where: str) -> tuple[float, NDArray[np.float64]]:
    """Exact match of a row and its resamples, float64 [samples]."""
    counts = [count_units("exact_match", run.predictions) for run in runs]
    return sum(one.rate for one in counts) / len(counts), bootstrap_rates(counts, samples, seed, where)


def _measure_retention(
    runs: dict[tuple[str, str], tuple[RowResult, ...]], columns: Sequence[str], samples: int, seed: int
) -> tuple[Cell, ...]:
    """Exact match in percent of the base LLM's on the same items: of each text row, and their mean as `text`."""
    rows = [row for row in RETENTION_ROWS if "exact_match" in _metrics(runs.get((_BASELINE, row)))]
    cells = []
    for column in columns:
        ratios = []
        for row in rows:
            if column == _BASELINE or (column, row) not in runs:
                continue
            where = f"row {row}, columns {_BASELINE} and {column}"
            base_runs, own_runs = runs[_BASELINE, row], runs[column, row]
            require_same_units([count_units("exact_match", run.predictions) for run in (*base_runs, *own_runs)], where)
            base, base_draws = _draws(base_runs, samples, derive_seed(seed, row), where)
            own, own_draws = _draws(own_runs, samples, derive_seed(seed, row), where)
            if base == 0:
                continue
            ratios.append((100 * own / base, 100 * own_draws / np.maximum(base_draws, base * 1e-6)))
            cells.append(_as_cell(row, column, "retention", *ratios[-1], len(own_runs[0].predictions)))
        if ratios:
            mean = sum(value for value, _ in ratios) / len(ratios)
            draws = np.mean([draws for _, draws in ratios], axis=0)
            items = sum(len(runs[column, row][0].predictions) for row in rows)
            cells.append(_as_cell("text", column, "retention", mean, draws, items))
    return tuple(cells)


def _metrics(runs: Sequence[RowResult] | None) -> tuple[Metric, ...]:
    return runs[0].metrics if runs else ()


def _has_gap(column: str, runs: dict[tuple[str, str], tuple[RowResult, ...]]) -> bool:
    return all("exact_match" in _metrics(runs.get((column, row))) for row in GAP_ROWS)


def _measure_gap(column: str, runs: dict[tuple[str, str], tuple[RowResult, ...]], samples: int, seed: int) -> Cell:
    """Exact match of written minus spoken instructions; paired where both ask the same items in the same order."""
    written, spoken = (runs[column, row] for row in GAP_ROWS)
    paired = [item.reference for item in written[0].predictions] == [item.reference for item in spoken[0].predictions]
    keys = (GAP_ROWS[0], GAP_ROWS[0] if paired else GAP_ROWS[1])
    value, draws = _draws(written, samples, derive_seed(seed, keys[0]), f"row {GAP_ROWS[0]}, column {column}")
    other, other_draws = _draws(spoken, samples, derive_seed(seed, keys[1]), f"row {GAP_ROWS[1]}, column {column}")
    return _as_cell("instructions", column, "gap", value - other, draws - other_draws, len(spoken[0].predictions))


def _as_cell(row: str, column: str, metric: str, value: float, draws: NDArray[np.float64], items: int) -> Cell:
    bounds = interval(value, draws)
    return Cell(row, column, metric, bounds.value, bounds.low, bounds.high, items)
