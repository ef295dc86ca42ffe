"""`vtb demo`: the whole method, small, from nothing to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voicetextblender.cli.console import examples

EXAMPLES = examples(
    ("vtb demo", "base models, joint training, report; continues where it was stopped"),
    ("vtb demo --claims --seeds 2", "longer trainings with every baseline, two seeds each, about an hour"),
)


def demo(
    out: Annotated[Path, typer.Option(help="Folder of everything that is made.")] = Path("runs/mini"),
    claims: Annotated[bool, typer.Option("--claims", help="Longer, with baselines: speech only, frozen LLM.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each kind, with --claims.")] = 2,
) -> None:
    """Pretrain a small LLM and a small speech encoder, join them in one training, and show what came of it.

    Needs no GPU and no network. What is finished is kept: a second call starts where the first one stopped.
    """
    from voicetextblender.mini.pipeline import run_claims, run_demo

    if claims:
        run_claims(out, seeds)
    else:
        run_demo(out)
