"""`report.html`: one file with its drawings and clips inside, that asks the network for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from voicetextblender.evaluate.examples import PICKING_RULE, ExampleMaker
from voicetextblender.evaluate.plots import Point, plot_gain_against_retention, plot_losses, plot_row
from voicetextblender.evaluate.runs import RunLog, read_drops, read_environment, read_losses, read_recipe
from voicetextblender.evaluate.score import ERROR_RATES, METRIC_NAMES, Interval, signature
from voicetextblender.evaluate.table import (
    COLUMN_NAMES,
    GAP_ROWS,
    RETENTION_ROWS,
    ROW_NAMES,
    Cell,
    Table,
    goodness,
    mean_speech_score,
    speech_rows_in_common,
)
from voicetextblender.page.drawing import colour_of
from voicetextblender.page.render import render_page

_FOCUS = "joint"
_COLOUR_RANGE = 20.0
"""Points of difference at which a cell has its full colour."""


@dataclass(frozen=True)
class Card:
    """A headline figure."""

    name: str
    value: str
    unit: str
    notes: tuple[str, ...]


def render_html(table: Table, runs: Sequence[RunLog], title: str, bootstrap: str) -> str:
    """The page as text."""
    maker = ExampleMaker(table)
    focus = _FOCUS if _FOCUS in table.columns else table.columns[-1]
    return render_page(
        "voicetextblender.evaluate",
        "report.html.jinja",
        title=title,
        lead=_lead(table, focus),
        cards=_cards(table, focus),
        focus=_name(focus),
        columns=[(column, _name(column), _colour(table, column), table.num_seeds(column)) for column in table.columns],
        scatter=_scatter(table),
        speech_rows=speech_rows_in_common(table),
        sections=_table_sections(table),
        retention=_summary_rows(table),
        bars=[(row, ROW_NAMES.get(row, ""), _metric_label(table, row), _bar(table, row)) for row in table.rows],
        losses=_loss_panels(runs),
        kinds=_kinds(runs),
        examples=[(row, ROW_NAMES.get(row, ""), maker.make(row)) for row in table.rows],
        names={column: _name(column) for column in table.columns},
        colours={column: _colour(table, column) for column in table.columns},
        picking_rule=PICKING_RULE,
        counts=_counts(table),
        drops=[(run.label, *drop) for run in runs for drop in read_drops(run.folder)],
        metrics=[(METRIC_NAMES[metric], signature(metric)) for metric in _used_metrics(table)],
        bootstrap=bootstrap,
        runs=[(run.label, run.folder.name, read_environment(run.folder), read_recipe(run.folder)) for run in runs],
    )


def _name(column: str) -> str:
    return COLUMN_NAMES.get(column, column)


def _colour(table: Table, column: str) -> str:
    return colour_of(column, table.columns)


def _used_metrics(table: Table) -> list[Any]:
    return sorted({metric for row in table.rows for metric in table.metrics(row)})


def _metric_label(table: Table, row: str) -> str:
    metric = table.headline(row)
    return METRIC_NAMES[metric] + (", lower is better" if metric in ERROR_RATES else "")


def _lead(table: Table, focus: str) -> str:
    """The result in one sentence, from what was measured."""
    parts = []
    if kept := table.retained(focus):
        parts.append(f"keeps {kept.value:.1f} % of the base LLM's score on text")
    if speech := mean_speech_score(table, focus):
        cascade = mean_speech_score(table, "cascade") if focus != "cascade" else None
        against = f", where the cascade reaches {cascade.value:.1f}" if cascade else ""
        parts.append(f"reaches a mean score of {speech.value:.1f} on speech{against}")
    name = _name(focus)
    return f"{name[:1].upper()}{name[1:]} {' and '.join(parts)}." if parts else ""


def _cards(table: Table, focus: str) -> list[Card]:
    """The figures to remember of the focus column."""
    cards = []
    if kept := table.retained(focus):
        rows = [(row, cell) for row in RETENTION_ROWS if (cell := table.retained(focus, row))]
        parts = ", ".join(f"{row.removeprefix('text.')} {cell.value:.1f} %" for row, cell in rows)
        cards.append(Card("text retained", f"{kept.value:.1f}", "%", (f"of the base LLM's; {_range(kept)}", parts)))
    for rows_of_card, name in (
        (("transcription.en", "transcription.de"), "transcription"),
        (("answering.spoken",), "spoken questions"),
        (("instructions.spoken",), "spoken instructions"),
        (("mixed",), "mixed-modal turns"),
        (("translation.speech",), "translation of speech"),
    ):
        cells = [cell for row in rows_of_card if (cell := table.cell(row, focus))]
        if cells:
            cards.append(_card(table, focus, name, cells))
    return cards


def _card(table: Table, focus: str, name: str, cells: Sequence[Cell]) -> Card:
    metric = METRIC_NAMES[cells[0].metric]
    unit = "" if cells[0].metric in ("bleu", "chrf") else "%"
    notes = [f"{metric}, {_range(cells[0])}" if len(cells) == 1 else f"{metric}, {_languages(cells)}"]
    cascade = [cell for one in cells if focus != "cascade" and (cell := table.cell(one.row, "cascade"))]
    if cascade:
        notes.append("cascade " + " / ".join(f"{cell.value:.1f}" for cell in cascade))
    gap = table.gap(focus)
    if gap and cells[0].row == GAP_ROWS[1]:
        written = table.cell(GAP_ROWS[0], focus, "exact_match")
        notes.append(f"the same in writing {written.value:.1f}" if written else "")
    return Card(
        name, " / ".join(f"{cell.value:.1f}" for cell in cells), unit, (" · ".join(notes[:1]), " · ".join(notes[1:]))
    )


def _languages(cells: Sequence[Cell]) -> str:
    return " / ".join(cell.row.rsplit(".", 1)[-1] for cell in cells)


def _range(cell: Cell) -> str:
    return f"{cell.low:.1f} to {cell.high:.1f}"


def _scatter(table: Table) -> Markup | None:
    """The large plot; a column whose text is the base LLM's own stands at 100 % by construction."""
    points = []
    for column in table.columns:
        kept, speech = table.retained(column), mean_speech_score(table, column)
        text = Interval(kept.value, kept.low, kept.high) if kept else Interval(100, 100, 100)
        if column == "base":
            points.append(Point(column, "base LLM (cannot hear)", text, None, False))
        elif speech and (kept or column == "cascade"):
            points.append(Point(column, _name(column), text, speech, kept is not None))
    return Markup(plot_gain_against_retention(points)) if table.retention and len(points) > 1 else None


def _table_sections(table: Table) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows of the large table in three groups."""
    groups: dict[str, list[dict[str, Any]]] = {"Text": [], "Speech": [], "What training never held": []}
    for row in table.rows:
        spoken = table.spoken(row)
        unseen = row.startswith("unseen.") or row == "multi_turn.spoken"
        group = "What training never held" if unseen else "Speech" if spoken else "Text"
        groups[group] += [
            {
                "row": row if metric == table.headline(row) else "",
                "name": ROW_NAMES.get(row, "") if metric == table.headline(row) else "",
                "metric": METRIC_NAMES[metric] + (" ↓" if metric in ERROR_RATES else ""),
                "cells": [_table_cell(table, row, column, metric, spoken) for column in table.columns],
            }
            for metric in table.metrics(row)
        ]
    return [(name, rows) for name, rows in groups.items() if rows]


def _table_cell(table: Table, row: str, column: str, metric: str, spoken: bool) -> dict[str, Any] | None:
    """A figure with the strength of its colour: the difference to the cascade, for text to the base LLM."""
    cell = table.cell(row, column, metric)
    if cell is None:
        return None
    reference = table.cell(row, "cascade" if spoken else "base", metric)
    difference = goodness(cell) - goodness(reference) if reference else 0.0
    strength = min(1.0, abs(difference) / _COLOUR_RANGE)
    kind = "" if strength < 0.01 else "better" if difference > 0 else "worse"
    return {"cell": cell, "kind": kind, "strength": f"{100 * strength:.0f}%", "difference": difference}


def _summary_rows(table: Table) -> list[tuple[str, str, list[Cell | None]]]:
    rows = [
        ("text retained", "% of base", [table.retained(column) for column in table.columns]),
        *(
            (f"of {row}", "% of base", [table.retained(column, row) for column in table.columns])
            for row in RETENTION_ROWS
        ),
        ("modality gap", "points ↓", [table.gap(column) for column in table.columns]),
    ]
    return [row for row in rows if any(row[2])]


def _bar(table: Table, row: str) -> Markup:
    cells = [cell for column in table.columns if (cell := table.cell(row, column))]
    return Markup(plot_row(cells, {column: _name(column) for column in table.columns}))


def _loss_panels(runs: Sequence[RunLog]) -> list[tuple[str, Markup]]:
    panels = [(run.label, read_losses(run.folder)) for run in runs]
    return [(label, Markup(plot_losses(curves, label))) for label, curves in panels if curves]


def _kinds(runs: Sequence[RunLog]) -> list[tuple[str, str]]:
    """Every kind of the loss curves with its colour."""
    kinds = sorted({kind for run in runs for kind in read_losses(run.folder) if kind})
    return [(kind, colour_of(kind, kinds)) for kind in kinds]


def _counts(table: Table) -> list[dict[str, Any]]:
    """What was asked, row by row; empty replies by column."""
    counts = []
    for row in table.rows:
        found = {column: table.runs[column, row] for column in table.columns if (column, row) in table.runs}
        first = next(iter(found.values()))[0].counts
        empty = {_name(column): sum(run.counts.empty_replies for run in runs) for column, runs in found.items()}
        counts.append({"row": row, "counts": first, "empty": [(name, num) for name, num in empty.items() if num]})
    return counts
