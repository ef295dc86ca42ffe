"""Tables of `vtb data` on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from voicetextblender.data.stats import Group, SourceGroup, Stats


def print_stats(stats: Stats, console: Console) -> None:
    """Sources with their weights and epochs, kinds, languages, and what is dropped."""
    for title, groups in (("source", stats.sources), ("kind", stats.kinds), ("language", stats.languages)):
        table = _table(title)
        for group in groups:
            table.add_row(*_cells(group))
        console.print(table)
        console.print()
    blend = Table("blend", box=None, pad_edge=False, header_style="bold")
    for title in ("weight", "share", f"epochs by step {stats.num_steps}", "dropped"):
        blend.add_column(title, justify="right")
    for one in stats.sources:
        dropped = sum(one.drops.values())
        left_out = Text(f"{dropped:,}", "yellow" if dropped else "")
        blend.add_row(Text(one.name), f"{one.weight:g}", f"{100 * one.share:.1f} %", f"{one.epochs:.2f}", left_out)
    console.print(blend)
    print_drops(stats.sources, console)


def print_drops(groups: Sequence[SourceGroup], console: Console) -> None:
    """Rows that training leaves out, by source and reason; nothing if there are none."""
    drops = [(group.name, reason, count) for group in groups for reason, count in group.drops.items()]
    if drops:
        table = Table("dropped from", "reason", box=None, pad_edge=False, header_style="bold")
        table.add_column("rows", justify="right")
        for name, reason, count in drops:
            table.add_row(Text(name), Text(reason, "yellow"), f"{count:,}")
        console.print()
        console.print(table)


def _table(title: str) -> Table:
    """Columns that every group has. `share` is of the conversations drawn, `learned` of their supervised tokens."""
    table = Table(title, box=None, pad_edge=False, header_style="bold")
    for name in ("rows", "hours", "tokens", "supervised", "longest", "clip s", "share", "learned"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(group: Group) -> list[str | Text]:
    return [
        Text(group.name),
        shorten(group.num_rows),
        f"{group.hours:,.2f}",
        shorten(group.num_tokens),
        shorten(group.num_supervised),
        shorten(group.longest_num_tokens),
        f"{group.longest_clip_s:.1f}",
        f"{100 * group.share:.1f} %",
        f"{100 * group.supervised_share:.1f} %",
    ]


def shorten(count: int) -> str:
    """A count in few places: `9,876`, `123.5k`, `12.3M`."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * size:
            return f"{count / size:,.1f}{letter}"
    return f"{count:,}"
