"""Tables of `vtb data` on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from voicetextblender.chat.conversation import AudioPart, TextPart
from voicetextblender.data.held_out import HELD_OUT

if TYPE_CHECKING:
    from voicetextblender.data.preview import Simulation
    from voicetextblender.data.preview_page import Preview
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
    for title in ("weight", "at first", "share", f"epochs by step {stats.num_steps}", "used up", "held out", "dropped"):
        blend.add_column(title, justify="right")
    for one in stats.sources:
        held_out = one.drops.get(HELD_OUT, 0)
        dropped = sum(one.drops.values()) - held_out
        blend.add_row(
            Text(" / ".join((*one.groups, one.name))),
            f"{one.weight:g}",
            f"{100 * one.first_share:.1f} %",
            f"{100 * one.share:.1f} %",
            f"{one.epochs:.2f}",
            "" if one.last_step is None else Text(f"step {one.last_step:,}", "yellow"),
            f"{held_out:,}" if held_out else "",
            _warn(dropped),
        )
    console.print(blend)
    if stats.num_steps_of_data is not None:
        is_short = stats.num_steps_of_data < stats.num_steps
        found = f"max_epochs ends every source: the data lasts {stats.num_steps_of_data:,} steps"
        console.print(Text(found, "red" if is_short else ""), soft_wrap=True)
    print_drops(stats.sources, console)


def print_preview(preview: Preview, console: Console) -> None:
    """Figures of the data and of the plan, what comes twice, and a row of each kind."""
    print_stats(preview.stats, console)
    print_simulation(preview.simulation, console)
    repeats = _count_table("in training", "words twice", "clips twice")
    for one in preview.repeats:
        repeats.add_row(Text(one.name), shorten(one.num_rows), _warn(one.same_words), _warn(one.same_clips))
    console.print(repeats)
    if preview.overlaps:
        overlaps = _count_table("held out", "same words", "same speech", "same clip")
        for held in preview.overlaps:
            counts = (held.same_words, held.same_speech, held.same_clips)
            overlaps.add_row(Text(held.name), shorten(held.num_rows), *map(_warn, counts))
        console.print()
        console.print(overlaps)
        if unread := sum(held.num_unread for held in preview.overlaps):
            console.print(f"{unread:,} held-out rows cannot be read: `vtb data check` names them", style="yellow")
    for kind in dict.fromkeys(row.kind for row in preview.rows):
        row = next(row for row in preview.rows if row.kind == kind)
        console.print(Text(f"\n{kind} · {row.where} · step {row.step}", "dim"), soft_wrap=True)
        for turn in row.conversation.turns:
            words = "".join(part.text if isinstance(part, TextPart) else _hear(part) for part in turn.parts)
            style = "green" if turn.role == "assistant" else ""
            console.print(Text.assemble((f"{turn.role}: ", "dim"), (words, style)), soft_wrap=True)


def print_simulation(simulation: Simulation, console: Console) -> None:
    """The plan in sampled steps."""
    table = Table(f"plan, {len(simulation.steps)} sampled steps", box=None, pad_edge=False, header_style="bold")
    for title in ("mean", "least", "most"):
        table.add_column(title, justify="right")
    for name, spread in (
        ("tokens of a step", simulation.tokens_per_step),
        ("supervised", simulation.supervised_per_step),
    ):
        table.add_row(name, *(f"{value:,.0f}" for value in (spread.mean, spread.least, spread.most)))
    counts = simulation.microbatches_per_rank
    table.add_row("microbatches of a rank", f"{counts.mean:.1f}", f"{counts.least:.0f}", f"{counts.most:.0f}")
    work = simulation.imbalance
    title = f"busiest of {simulation.num_ranks} ranks above their mean"
    table.add_row(title, *(f"{100 * value:.1f} %" for value in (work.mean, work.least, work.most)))
    table.add_row("padding in the rows", f"{100 * simulation.padding:.1f} %")
    table.add_row("token budget unused", f"{100 * simulation.unused_budget:.1f} %")
    if simulation.encoder_padding is not None:
        table.add_row("padding in the encoder", f"{100 * simulation.encoder_padding:.1f} %")
    for kind, (_, learned) in simulation.shares.items():
        table.add_row(Text(f"of supervised tokens: {kind}"), f"{100 * learned:.1f} %")
    console.print()
    console.print(table)
    console.print()


def _count_table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, no_wrap=True)
    for name in ("rows", *columns):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _warn(count: int) -> Text:
    return Text(f"{count:,}", "yellow" if count else "")


def _hear(clip: AudioPart) -> str:
    return f"[audio: {clip.transcript}]" if clip.transcript else "[audio]"


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
    return _count_table(title, "hours", "tokens", "superv.", "longest", "clip s", "share", "learned")


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
