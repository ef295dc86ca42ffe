"""Progress for people: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Report = Callable[[int, int], None]
"""Takes what is done and what there is in all, in any one unit."""
ShowProgress = Callable[[str], AbstractContextManager[Report]]
"""Opens a display under a description."""


@contextmanager
def show_progress(description: str, console: Console | None = None) -> Iterator[Report]:
    """Yield a function to report progress to; written to standard error unless a console is given."""
    console = console or Console(file=sys.stderr)
    if not console.is_terminal:
        yield _plain_lines(description, console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def show_nothing(description: str) -> Iterator[Report]:
    """As `show_progress`, for those whom nobody watches."""
    yield lambda done, total: None


def _plain_lines(description: str, console: Console) -> Report:
    """A line whenever another quarter is done."""
    quarters_shown = -1

    def report(done: int, total: int) -> None:
        nonlocal quarters_shown
        quarters = 4 * done // total if total else 4
        if quarters > quarters_shown:
            quarters_shown = quarters
            console.print(f"{description}: {25 * quarters} %", highlight=False, markup=False)

    return report
