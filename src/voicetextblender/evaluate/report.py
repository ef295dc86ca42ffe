"""The report of a set of runs: `report.json` for programs, `report.md` for a repository, `report.html` to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from voicetextblender.evaluate.html import render_html
from voicetextblender.evaluate.predictions import ColumnResult
from voicetextblender.evaluate.runs import RunLog
from voicetextblender.evaluate.score import ERROR_RATES, METRIC_NAMES, signature
from voicetextblender.evaluate.table import COLUMN_NAMES, Cell, Table, build_table
from voicetextblender.files import write_atomically

SCHEMA = 1
_SHORT_NAMES = {"exact_match": "exact"}


@dataclass(frozen=True)
class WrittenReport:
    """Where the three forms of a report lie, and the figures in them."""

    json: Path
    markdown: Path
    html: Path
    table: Table


def write_report(
    results: Sequence[ColumnResult],
    runs: Sequence[RunLog],
    out_dir: Path,
    *,
    title: str = "What was gained in speech, what was kept in text",
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> WrittenReport:
    """Write all three forms; each appears whole or not at all, and the same results give the same bytes.

    Args:
        results: of `evaluate_column`; several of one column are its seeds, or further rows of it.
        runs: the trainings behind the columns, in the order in which the report shows them.

    Raises:
        DataError: results that are averaged or compared are of different items.
    """
    table = build_table(results, bootstrap_samples, seed)
    bootstrap = f"{bootstrap_samples} resamples of whole items, seed {seed}"
    written = WrittenReport(out_dir / "report.json", out_dir / "report.md", out_dir / "report.html", table)
    for path, text in (
        (written.json, json.dumps(as_json(table), indent=1, ensure_ascii=False) + "\n"),
        (written.markdown, render_markdown(table, title, bootstrap)),
        (written.html, render_html(table, runs, title, bootstrap)),
    ):
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return written


def as_json(table: Table) -> dict[str, Any]:
    """The report for programs, in a stable order; figures in percent, BLEU and chrF as usual, to three decimals."""
    used = sorted({metric for row in table.rows for metric in table.metrics(row)})
    return {
        "schema": SCHEMA,
        "cells": [_cell_json(cell) for cell in table.cells],
        "retention": [_cell_json(cell) for cell in table.retention],
        "gaps": [_cell_json(cell) for cell in table.gaps],
        "counts": [
            {"row": row, "column": column, "seeds": len(runs), **asdict(runs[0].counts)}
            for row in table.rows
            for column in table.columns
            if (runs := table.runs.get((column, row)))
        ],
        "metrics": {metric: signature(metric) for metric in used},
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(cell).items()}


def render_markdown(table: Table, title: str, bootstrap: str) -> str:
    """The table with intervals, text retention and the modality gap, in Markdown."""
    heads = [_column_head(table, column) for column in table.columns]
    lines = [f"# {title}", "", "| row | metric | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for row in table.rows:
        for metric in table.metrics(row):
            figures = [_figure(table.cell(row, column, metric)) for column in table.columns]
            lines.append(f"| {row} | {METRIC_NAMES[metric]} | " + " | ".join(figures) + " |")
    for row, name in (("text", "**text retained**"), ("text.touched", "- touched"), ("text.untouched", "- untouched")):
        cells = [table.retained(column, row) for column in table.columns]
        if any(cells):
            lines.append(f"| {name} | % of base | " + " | ".join(map(_figure, cells)) + " |")
    if table.gaps:
        gaps = [table.gap(column) for column in table.columns]
        lines.append("| **modality gap** (written - spoken) | points | " + " | ".join(map(_figure, gaps)) + " |")
    lines += ["", f"In brackets: 95 % bootstrap intervals ({bootstrap})."]
    used = sorted({metric for row in table.rows for metric in table.metrics(row)})
    lines += [f"- {METRIC_NAMES[metric]}: {signature(metric)}" for metric in used]
    return "\n".join(lines) + "\n"


def print_table(table: Table, console: Console) -> None:
    """The headline of every row on a terminal, coloured against the cascade, with text retention below.

    Intervals are written out where the terminal is wide enough for them, else as the wider half.
    """
    wide = console.width >= 36 + 20 * len(table.columns)
    grid = RichTable(box=None, pad_edge=False, header_style="bold")
    grid.add_column("", no_wrap=True)
    grid.add_column("", style="dim", no_wrap=True)
    for column in table.columns:
        grid.add_column(column, justify="right")
    for row in table.rows:
        metric = table.headline(row)
        reference = table.cell(row, "cascade" if table.spoken(row) else "base")
        cells = [table.cell(row, column) for column in table.columns]
        arrow = "↓" if metric in ERROR_RATES else "↑"
        grid.add_row(
            row,
            f"{_SHORT_NAMES.get(metric, METRIC_NAMES[metric])} {arrow}",
            *(_coloured(cell, reference, wide) for cell in cells),
        )
    grid.add_section()
    for name, unit, cells in (
        ("text retained", "% base", [table.retained(column) for column in table.columns]),
        ("modality gap", "points ↓", [table.gap(column) for column in table.columns]),
    ):
        if any(cells):
            grid.add_row(Text(name, style="bold"), unit, *(_coloured(cell, None, wide, "bold") for cell in cells))
    console.print(grid)
    seeds = [f"{column} {num}" for column in table.columns if (num := table.num_seeds(column)) > 1]
    if seeds:
        console.print(Text(f"mean of seeds: {', '.join(seeds)}", style="dim"))


def _coloured(cell: Cell | None, reference: Cell | None, wide: bool, style: str = "") -> Text:
    """Green or red where the interval lies wholly to one side of the reference's value."""
    if cell is None:
        return Text("·", style="dim")
    bounds = (
        f"[{cell.low:.1f}, {cell.high:.1f}]" if wide else f"±{max(cell.high - cell.value, cell.value - cell.low):.1f}"
    )
    if reference is not None and cell.column != reference.column:
        sign = -1 if cell.metric in ERROR_RATES else 1
        ends = sorted((sign * (cell.low - reference.value), sign * (cell.high - reference.value)))
        style = "green" if ends[0] > 0 else "red" if ends[1] < 0 else style
    return Text.assemble((f"{cell.value:.1f}", style), " ", (bounds, "dim"))


def _figure(cell: Cell | None) -> str:
    return f"{cell.value:.1f} [{cell.low:.1f}, {cell.high:.1f}]" if cell else ""


def _column_head(table: Table, column: str) -> str:
    seeds = table.num_seeds(column)
    return COLUMN_NAMES.get(column, column) + (f" ({seeds} seeds)" if seeds > 1 else "")
