"""`vtb prepare`: data made ready for training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voicetextblender.cli.console import console, examples
from voicetextblender.units import SAMPLING_RATE

if TYPE_CHECKING:
    from voicetextblender.prepare.corpora import PrepareSummary

app = typer.Typer(
    name="prepare",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Make manifests, clips and models: of the small world, of recordings, of a NeMo archive.",
    epilog=examples(
        ("vtb prepare mini", "the small world, spoken, and its two base models"),
        ("vtb prepare corpus ~/corpora/readings --out runs/readings", "a folder with manifest.jsonl and recordings"),
        ("vtb prepare encoder canary-1b.nemo --out models/canary-encoder", "the speech encoder of a NeMo archive"),
    ),
)


@app.command(epilog=examples(("vtb prepare mini --out runs/mini", "data and base models, without the joint training")))
def mini(out: Annotated[Path, typer.Option(help="Folder of everything that is made.")] = Path("runs/mini")) -> None:
    """Make the small world: its conversations, their clips, and the two base models that learn from it."""
    from voicetextblender.mini.pipeline import prepare_mini

    prepare_mini(out)


@app.command(
    epilog=examples(
        ("vtb prepare corpus ~/corpora/readings --out runs/readings", "train, dev and test manifests"),
        ("vtb prepare corpus en/ de/ --out runs/both --limit 64", "two corpora, at most 64 rows of each split"),
    )
)
def corpus(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders with manifest.jsonl: id, audio, duration, text, lang, speaker, split.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the manifests.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of each split at most.")] = None,
    max_clip_s: Annotated[float, typer.Option(help="Longer recordings, in seconds, are left out and counted.")] = 40.0,
    seed: Annotated[int, typer.Option(help="Key of the prompts' wording and of what a limit keeps.")] = 0,
) -> None:
    """Turn recorded corpora into transcription conversations, with prompts worded in several ways."""
    from voicetextblender.prepare.corpora import prepare_corpus

    print_summary(prepare_corpus(folders, out, limit=limit, max_clip_s=max_clip_s, seed=seed), out)


@app.command(
    epilog=examples(("vtb prepare digits ~/corpora/digits --out runs/digits", "one speaker is kept for the test"))
)
def digits(
    folder: Annotated[Path, typer.Argument(help="A corpus, as for `corpus`, of single spoken English digits.")],
    out: Annotated[Path, typer.Option(help="Folder of the manifests.")],
    num_train: Annotated[int, typer.Option(min=1, help="Conversations for training.")] = 6000,
    held_out_speaker: Annotated[
        str | None, typer.Option(help="Who is heard in the test alone.", show_default="the last by name")
    ] = None,
    voices: Annotated[int, typer.Option(min=0, help="Invented speakers beside the people, in training alone.")] = 160,
    seed: Annotated[int, typer.Option(help="Key of what is asked.")] = 0,
) -> None:
    """Put recordings of single digits into mixed-modal turns: add, read back, sort, translate."""
    from voicetextblender.prepare.digits import prepare_digits

    summary = prepare_digits(
        folder, out, num_train=num_train, held_out_speaker=held_out_speaker, num_voices=voices, seed=seed
    )
    print_summary(summary, out)


@app.command(
    epilog=examples(
        ("vtb prepare adapt ~/corpora/readings --out runs/people/encoder", "after `vtb prepare mini`"),
        ("vtb prepare adapt runs/digits/data/train.jsonl --narrow-band --out runs/digits/encoder", "telephone speech"),
    )
)
def adapt(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Corpora, as for `corpus`, or manifests of conversations whose clips have text."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the adapted encoder.")],
    start: Annotated[Path, typer.Option(help="The encoder to start from.")] = Path("runs/mini/base/encoder"),
    keep: Annotated[
        Path, typer.Option(help="Folder of manifests; a share of their clips is heard too, so as not to be forgotten.")
    ] = Path("runs/mini/data/train"),
    narrow_band: Annotated[bool, typer.Option(help="Nothing above 4 kHz, each clip normalised as a whole.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 4000,
) -> None:
    """Let the small world's speech encoder hear people: more CTC training, on recordings and its own clips."""
    from voicetextblender.mini.adapt import adapt_encoder, adaptation, collect_clips

    data = collect_clips(sources, sorted(keep.glob("*.jsonl")))
    hours = sum(clip.num_samples for clip in data.recordings) / SAMPLING_RATE / 3600
    console.print(f"{len(data.recordings)} recordings, {hours:.2f} h, and {len(data.kept)} clips of {keep}")
    for reason, count in Counter(drop.reason for drop in data.drops).items():
        console.print(f"left out: {count} ({reason})", style="yellow", markup=False)
    result = adapt_encoder(start, data, out, adaptation(steps, narrow_band=narrow_band), console)
    if result.num_dropped:
        console.print(f"left out: {result.num_dropped} (too short for their transcript)", style="yellow")
    console.print(f"{out}: a speech encoder with its CTC head", highlight=False)


@app.command(
    epilog=examples(
        ("vtb prepare encoder canary-1b.nemo --out models/canary-encoder", "as model.speech_encoder takes it")
    )
)
def encoder(
    archive: Annotated[Path, typer.Argument(help="A .nemo archive with a FastConformer encoder.")],
    out: Annotated[Path, typer.Option(help="Folder of the encoder in the library's own layout.")],
) -> None:
    """Take the speech encoder out of a NeMo archive; training reads archives as they are, too."""
    from voicetextblender.model.encoders.convert import convert_nemo

    left = convert_nemo(str(archive), out)
    console.print(f"{out}: the encoder, every tensor accounted for", highlight=False)
    for part, count in left.items():
        console.print(f"left in the archive: {count} tensors of {part}", style="yellow", markup=False)


def print_summary(summary: PrepareSummary, out: Path) -> None:
    """Rows and hours of each manifest, and what was left out for which reason."""
    from rich.table import Table

    table = Table("manifest", "rows", "hours", box=None, pad_edge=False)
    for split, rows in summary.rows.items():
        table.add_row(str(out / f"{split}.jsonl"), str(rows), f"{summary.hours[split]:.2f}")
    console.print(table)
    for reason, count in summary.drops_by_reason.items():
        console.print(f"left out: {count} ({reason})", style="yellow", markup=False)
