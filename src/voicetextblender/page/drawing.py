"""Drawings as inline SVG that take their colours and their font from the page around them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK, LINE, FAINT, GROUND = "#010203", "#010204", "#010205", "#010206"
"""Stand-ins in the drawing for colours that the page's theme decides."""
_THEME = {INK: "currentColor", LINE: "var(--line)", FAINT: "var(--muted)", GROUND: "var(--panel)"}
COLUMN_COLOURS = {
    "base": "#7f8aa3",
    "cascade": "#e09f3e",
    "speech_only": "#d1495b",
    "frozen_llm": "#4c8fd6",
    "joint": "#14a38b",
}
_OTHER_COLOURS = ("#9a6dd7", "#8c7b4f", "#c76ba0", "#5f9e4a", "#b3613a")
_KIND_COLOURS = {
    "text": "#7f8aa3",
    "transcription": "#4c8fd6",
    "translation": "#9a6dd7",
    "answering": "#e09f3e",
    "mixed": "#14a38b",
    "instruction": "#d1495b",
}
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "axes.axisbelow": True,
}


def colour_of(name: str, others: Sequence[str] = ()) -> str:
    """The colour of a column or a kind; unknown names take theirs by their place in `others`."""
    known = COLUMN_COLOURS | _KIND_COLOURS
    if name in known:
        return known[name]
    unknown = [other for other in others if other not in known]
    return _OTHER_COLOURS[unknown.index(name) % len(_OTHER_COLOURS) if name in unknown else 0]


def to_svg(figure: Figure, description: str) -> str:
    """The drawing as an `<svg>` element: no fixed size, no file header, theme colours put in."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    # A style element inside an inline drawing would apply to the whole page: the page's own sheet has its rules.
    drawing = re.sub(r"<(metadata|style)[^>]*>.*?</\1>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*">', "<g>", drawing)
    drawing = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawing, count=1)
    drawing = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawing, count=1)
    drawing = re.sub(r'\s(?:xmlns:xlink|xmlns|version)="[^"]*"', "", drawing)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    drawing = drawing.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    for stand_in, colour in _THEME.items():
        drawing = drawing.replace(stand_in, colour)
    return drawing.replace("xlink:href", "href")
