"""The preview of a run as one HTML page, to read and to hear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from voicetextblender.data.index import SourceIndex
from voicetextblender.data.preview import Overlap, Repeats, ShownRow, Simulation
from voicetextblender.data.stats import Stats
from voicetextblender.data.survey import Survey
from voicetextblender.errors import AudioError
from voicetextblender.page.clips import ClipEmbedder
from voicetextblender.page.drawing import STYLE, colour_of, to_svg
from voicetextblender.page.render import render_page
from voicetextblender.units import SAMPLING_RATE

NUM_BINS = 40


@dataclass(frozen=True)
class Preview:
    """All that a preview knows."""

    name: str
    stats: Stats
    simulation: Simulation
    repeats: Sequence[Repeats]
    overlaps: Sequence[Overlap]
    rows: Sequence[ShownRow]
    limits: Mapping[str, float]
    """The values of the recipe that cut rows into steps."""


def render_preview(preview: Preview, indexes: Sequence[SourceIndex], surveys: Sequence[Survey]) -> str:
    """The page as text."""
    kinds = [group.name for group in preview.stats.kinds]
    durations, tokens = _by_kind(indexes, surveys)
    return render_page(
        "voicetextblender.data",
        "preview.html.jinja",
        title=f"What {preview.name} will see",
        preview=preview,
        stats=preview.stats,
        simulation=preview.simulation,
        kinds=[(kind, colour_of(kind, kinds)) for kind in kinds],
        tokens=Markup(plot_histogram(tokens, kinds, "tokens of a row", "rows")),
        durations=Markup(plot_histogram(durations, kinds, "seconds of a clip", "clips")) if durations else None,
        shares=Markup(plot_shares(preview.simulation.shares, kinds)),
        examples=_examples(preview.rows),
    )


def plot_histogram(values: Mapping[str, np.ndarray], kinds: Sequence[str], across: str, up: str) -> str:
    """How often each size comes, the kinds on top of each other."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.subplots()
        colours = [colour_of(kind, kinds) for kind in values]
        most = max(float(column.max()) for column in values.values())
        axes.hist(list(values.values()), bins=NUM_BINS, range=(0, most), stacked=True, color=colours)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.grid(axis="x", visible=False)
        axes.tick_params(length=0, labelsize=9)
        return to_svg(figure, f"Histogram: {up} by {across}")


def plot_shares(shares: Mapping[str, tuple[float, float]], kinds: Sequence[str]) -> str:
    """Each kind's share of the conversations and of the supervised tokens, one bar for each of the two."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.7), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(("conversations", "supervised tokens")):
            left = 0.0
            for kind in (kind for kind in kinds if kind in shares):
                width = 100 * shares[kind][place]
                axes.barh(-place, width, left=left, height=0.66, color=colour_of(kind, kinds))
                if width > 4:
                    axes.text(left + width / 2, -place, f"{width:.0f}", ha="center", va="center", color="#ffffff")
                left += width
            axes.text(-1, -place, name, ha="right", va="center")
        axes.set_xlim(0, 100)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0, labelsize=9)
        axes.set_xlabel("percent")
        return to_svg(figure, "Share of each kind in conversations and in supervised tokens")


def _by_kind(
    indexes: Sequence[SourceIndex], surveys: Sequence[Survey]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Clip durations in seconds, and tokens of rows, of each kind that has any."""
    task = np.concatenate([survey.task for survey in surveys])
    task_of_clip = np.repeat(task, np.concatenate([survey.num_clips for survey in surveys]))
    durations = np.concatenate([survey.clip_samples for survey in surveys]) / SAMPLING_RATE
    tokens = np.concatenate([index.num_tokens for index in indexes])
    return (
        {kind: durations[task_of_clip == kind] for kind in dict.fromkeys(task_of_clip.tolist())},
        {kind: tokens[task == kind] for kind in dict.fromkeys(task.tolist())},
    )


def _examples(rows: Sequence[ShownRow]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows of each kind with their clips; a clip that cannot be read is told in place of the row's turns."""
    clips = ClipEmbedder()
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        turns: list[Any] = []
        problem = ""
        try:
            turns = [clips.show_turn(turn) for turn in row.conversation.turns]
        except AudioError as error:
            problem = str(error)
        groups.setdefault(row.kind, []).append({"row": row, "turns": turns, "problem": problem})
    return list(groups.items())
