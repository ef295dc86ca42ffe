"""The report's plots as inline SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from voicetextblender.evaluate.score import Interval
from voicetextblender.evaluate.table import Cell
from voicetextblender.page.drawing import FAINT, GROUND, INK, LINE, STYLE, colour_of, to_svg

_MAX_CURVE_POINTS = 160


@dataclass(frozen=True)
class Point:
    """A column in the plot of gain against retention.

    `speech` is None for a column that cannot hear; `measured` is False where `text` is so by construction.
    """

    column: str
    label: str
    text: Interval
    speech: Interval | None
    measured: bool


def plot_gain_against_retention(points: Sequence[Point]) -> str:
    """Mean speech score over text retained in percent; what is not measured is hollow."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 5.0), layout="constrained")
        axes = figure.subplots()
        floor = _limit_axes(axes, points)
        axes.axvline(100, color=FAINT, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
        heights = {point.column: point.speech.value if point.speech else floor for point in points}
        for point in points:
            colour = colour_of(point.column, [other.column for other in points])
            x, y = point.text.value, heights[point.column]
            axes.plot([point.text.low, point.text.high], [y, y], color=colour, linewidth=2, alpha=0.6)
            if point.speech:
                axes.plot([x, x], [point.speech.low, point.speech.high], color=colour, linewidth=2, alpha=0.6)
            face, marker = (colour if point.measured else GROUND), ("o" if point.speech else "v")
            axes.plot([x], [y], marker, ms=13, mfc=face, mec=colour, mew=2.2, zorder=3)
        _label_points(axes, heights, points)
        axes.set_xlabel("text retained, % of the base LLM's exact match")
        axes.set_ylabel("mean speech score")
        axes.tick_params(length=0)
        return to_svg(figure, "Mean speech score over text retained, one point for each column")


def _limit_axes(axes: Axes, points: Sequence[Point]) -> float:
    """Limits that show every interval and the base LLM's 100 %; returns the height of what cannot hear."""
    texts, speeches = [point.text for point in points], [point.speech for point in points if point.speech]
    left, right = min([90.0, *(text.low for text in texts)]), max([100.0, *(text.high for text in texts)])
    low, high = min([80.0, *(one.low for one in speeches)]), max([90.0, *(one.high for one in speeches)])
    floor = low - (high - low) * 0.16
    axes.set_xlim(left - (right - left) * 0.06, right + (right - left) * 0.09)
    axes.set_ylim(floor - (high - low) * 0.07, min(101.0, high + (high - low) * 0.1))
    return floor


def _label_points(axes: Axes, heights: Mapping[str, float], points: Sequence[Point]) -> None:
    """Names beside the points, towards the middle of the plot, pushed apart where they would overlap."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    offset, gap, highest = (right - left) * 0.045, (top - bottom) * 0.075, top - (top - bottom) * 0.04
    places = _spread([heights[point.column] for point in points], gap, highest)
    for point, y in zip(points, places, strict=True):
        to_the_left = point.text.value > (left + right) / 2
        x = min(point.text.low - offset / 3, point.text.value - offset)
        if not to_the_left:
            x = max(point.text.high + offset / 3, point.text.value + offset)
        axes.plot([point.text.value, x], [heights[point.column], y], color=LINE, linewidth=1, zorder=1)
        align = "right" if to_the_left else "left"
        axes.text(x, y, f" {point.label} ", ha=align, va="center", fontsize=12.5, fontweight="bold")


def _spread(heights: Sequence[float], gap: float, highest: float) -> list[float]:
    """The heights moved as little as needed to stand `gap` apart and no higher than `highest`."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    moved = list(heights)
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    limit = highest
    for index in reversed(order):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved


def plot_row(cells: Sequence[Cell], labels: Mapping[str, str]) -> str:
    """One row of the report: a bar with its interval for each column."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 0.42 * len(cells) + 0.5), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(cells))[::-1]
        top = max(
            [100.0 if cells[0].metric in ("exact_match", "bleu", "chrf") else 1.0, *(cell.high for cell in cells)]
        )
        for place, cell in zip(places, cells, strict=True):
            colour = colour_of(cell.column, list(labels))
            axes.barh(place, cell.value, height=0.66, color=colour, alpha=0.9)
            axes.plot([cell.low, cell.high], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")
            axes.text(top * 1.02, place, f"{cell.value:.1f}", va="center", ha="left", fontsize=11.5, fontweight="bold")
        axes.set_yticks(places, [labels[cell.column] for cell in cells])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_xlim(0, top * 1.16)
        axes.grid(axis="y", visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= top])
        axes.tick_params(axis="x", length=0, labelsize=9)
        return to_svg(figure, f"{cells[0].row}: " + ", ".join(f"{labels[c.column]} {c.value:.1f}" for c in cells))


def plot_losses(curves: Mapping[str, Sequence[tuple[int, float]]], name: str) -> str:
    """Training loss per supervised token over steps, one line a kind, logarithmic; neighbouring steps are averaged.

    Args:
        curves: (step, loss) by kind; the kind `""` is the whole blend.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.subplots()
        for kind, points in sorted(curves.items()):
            steps, losses = _thin(points)
            colour, width = (INK, 2.2) if not kind else (colour_of(kind, sorted(curves)), 1.6)
            axes.plot(
                steps, losses, color=colour, linewidth=width, solid_joinstyle="round", zorder=3 if not kind else 2
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("step")
        axes.set_ylabel("loss per supervised token")
        axes.tick_params(which="both", length=0, labelsize=9)
        axes.grid(which="minor", visible=False)
        return to_svg(figure, f"Training loss of {name}")


def _thin(points: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """At most `_MAX_CURVE_POINTS` points, each the mean of its neighbours; a logarithm cannot show 0."""
    chunks = np.array_split(np.array(points, dtype=np.float64), min(len(points), _MAX_CURVE_POINTS))
    means = [chunk.mean(axis=0) for chunk in chunks]
    return [float(mean[0]) for mean in means], [max(float(mean[1]), 1e-6) for mean in means]
