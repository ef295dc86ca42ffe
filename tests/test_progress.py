"""Progress without a terminal: a few plain lines."""

from __future__ import annotations

import io

from rich.console import Console

from voicetextblender.progress import show_progress


def test_plain_lines_without_a_terminal() -> None:
    written = io.StringIO()
    with show_progress("Indexing [text]", Console(file=written)) as report:
        for done in range(0, 101, 10):
            report(done, 100)
    lines = [f"Indexing [text]: {percent} %" for percent in (0, 25, 50, 75, 100)]
    assert written.getvalue().splitlines() == lines


def test_bar_on_a_terminal() -> None:
    written = io.StringIO()
    with show_progress("Indexing", Console(file=written, force_terminal=True, width=80)) as report:
        report(1, 2)
        report(2, 2)
    assert "100%" in written.getvalue()
