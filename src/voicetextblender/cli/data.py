"""`vtb data`: what a training will read, looked at before it starts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voicetextblender.cli.console import Overrides, RecipeArgument, console, examples
from voicetextblender.errors import RecipeError, describe

if TYPE_CHECKING:
    from voicetextblender.chat.render import Renderer
    from voicetextblender.data.check import CheckedSource, CheckResult
    from voicetextblender.data.loader import Loader
    from voicetextblender.data.measure import Geometry
    from voicetextblender.data.preview_page import Preview
    from voicetextblender.data.readers.config import SourceConfig
    from voicetextblender.data.survey import Survey
    from voicetextblender.model.build import ModelConfig
    from voicetextblender.train.recipe import Recipe

SHOWN_PER_REASON = 3
Workers = Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one for each core")]
"""How many processes read."""

app = typer.Typer(
    name="data",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Look at data before a training does: check it, count it, preview what a run will see.",
    epilog=examples(
        ("vtb data check mini --decode", "every row and every clip that the recipe names"),
        ("vtb data stats mini", "figures by source, kind and language"),
        ("vtb data preview mini", "what a run will see, as a page to read and hear"),
    ),
)


@app.command(
    epilog=examples(
        ("vtb data check mini", "every row of the recipe's sources and of its evaluation"),
        ("vtb data check recipe.yaml --decode --out problems.jsonl", "every clip too; all problems in a file"),
        ("vtb data check recipe.yaml new.jsonl", "only this manifest, by the recipe's model and limits"),
        ("vtb data check a.jsonl b.jsonl", "without a recipe: all but tokens"),
        ("vtb data check cuts.json kind=lhotse", "a source of another kind"),
    )
)
def check(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|MANIFEST|KEY=VALUE",
            help="A recipe, manifests, or both; values of the recipe (without one, of the sources) to change.",
        ),
    ],
    decode: Annotated[bool, typer.Option("--decode", help="Decode every clip.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON Lines file for all problems.")] = None,
    workers: Workers = None,
    time_limit_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds for one row or clip; beyond them it is a problem.")
    ] = 60.0,
) -> None:
    """Try every row, and with `--decode` every clip. Exit status 1 if anything has to be mended.

    Rows beyond a limit of the recipe are counted and change no exit status: training leaves them out.
    """
    from voicetextblender.data.check import check_sources, write_problems
    from voicetextblender.data.sources import CACHE_DIR
    from voicetextblender.progress import show_progress

    sources, recipe = find_sources(targets)
    renderer, geometry = open_geometry(recipe.model if recipe else None)
    with show_progress("Checking") as report:
        result = check_sources(
            sources,
            renderer,
            geometry,
            decode=decode,
            cache_dir=Path(recipe.data.cache_dir) if recipe else CACHE_DIR,
            num_workers=workers or count_cores(),
            time_limit_s=time_limit_s,
            report=report,
        )
    if out is not None:
        write_problems(result.problems, out)
    print_problems(result, decode, out)
    if result.faults:
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        ("vtb data stats mini", "hours, tokens, share and epochs of every source, kind and language"),
        ("vtb data stats recipe.yaml train.steps=20000 --out stats.json", "for another length; as JSON too"),
    )
)
def stats(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    workers: Workers = None,
) -> None:
    """Print figures of what a training reads, by source, kind and language, and what it leaves out.

    `share` is of the conversations that are drawn, `learned` of their supervised tokens.
    """
    import json
    from dataclasses import asdict

    from voicetextblender.cli.data_tables import print_stats
    from voicetextblender.data.stats import measure_stats
    from voicetextblender.files import write_atomically
    from voicetextblender.train.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    loader, surveys = read_data(loaded, workers or count_cores())
    size, steps = loader.plan.conversations_per_step, loaded.train.steps
    figures = measure_stats(loader.indexes, surveys, loader.plan.blend, size, steps)
    print_stats(figures, console)
    if out is not None:
        with write_atomically(out) as temporary:
            temporary.write_text(json.dumps(asdict(figures), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@app.command(
    epilog=examples(
        ("vtb data preview mini", "figures here, and a page in runs/preview/mini/joint"),
        ("vtb data preview recipe.yaml --step 5000 --ranks 16", "up to a step, on so many devices"),
        ("vtb data preview mini data.max_tokens_per_microbatch=1792", "what another budget would do"),
    )
)
def preview(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the page.", show_default="runs/preview/NAME")] = None,
    step: Annotated[
        int | None, typer.Option(min=1, help="Look at the run up to here.", show_default="the recipe's last step")
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Devices that share a step.")] = 1,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each kind to read and hear.")] = 3,
    workers: Workers = None,
) -> None:
    """Show what a training will see before any compute is spent: data, plan, padding, what comes twice, rows to hear.

    Needs the tokenizer and the data of the recipe, no weights and no GPU.
    """
    from voicetextblender.cli.data_tables import print_preview
    from voicetextblender.data.preview_page import render_preview
    from voicetextblender.files import write_atomically
    from voicetextblender.train.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    num_workers = workers or count_cores()
    loader, surveys = read_data(loaded, num_workers)
    made = make_preview(loaded, loader, surveys, step or loaded.train.steps, ranks, rows)
    path = (out or Path("runs/preview") / loaded.name) / "preview.html"
    with write_atomically(path) as temporary:
        temporary.write_text(render_preview(made, loader.indexes, surveys), encoding="utf-8")
    print_preview(made, console)
    console.print(f"\npage: {path}", soft_wrap=True)


def make_preview(
    recipe: Recipe,
    loader: Loader,
    surveys: Sequence[Survey],
    num_steps: int,
    num_ranks: int,
    rows_per_kind: int,
) -> Preview:
    """All figures of a preview.

    Raises:
        DataError: an evaluation manifest is missing.
    """
    from voicetextblender.data.preview import choose_rows, count_overlap, count_repeats, simulate
    from voicetextblender.data.preview_page import Preview
    from voicetextblender.data.stats import measure_stats
    from voicetextblender.data.survey import survey_source
    from voicetextblender.evaluate.rows import open_row
    from voicetextblender.progress import show_progress

    config, plan, indexes = recipe.data, loader.plan, loader.indexes
    _, geometry = open_geometry(recipe.model)
    with show_progress("Simulating") as report:
        simulation = simulate(
            plan,
            indexes,
            surveys,
            geometry.num_audio_tokens,
            num_steps=num_steps,
            num_ranks=num_ranks,
            report=report,
        )
    evaluation = {
        name: survey_source(open_row(name, row, config.all_sources, Path(config.cache_dir)), row.max_items)
        for name, row in (recipe.evaluate.rows if recipe.evaluate else {}).items()
    }
    keys = ("max_tokens_per_microbatch", "max_conversation_tokens", "max_clip_s")
    return Preview(
        name=recipe.name,
        stats=measure_stats(indexes, surveys, plan.blend, plan.conversations_per_step, num_steps),
        simulation=simulation,
        repeats=count_repeats(indexes, surveys),
        overlaps=count_overlap(surveys, evaluation),
        rows=choose_rows(plan, indexes, surveys, rows_per_kind, loader.reader.show),
        limits={"conversations_per_step": plan.conversations_per_step} | {key: getattr(config, key) for key in keys},
    )


def read_data(recipe: Recipe, num_workers: int) -> tuple[Loader, tuple[Survey, ...]]:
    """The loader of a recipe, and its sources surveyed; rows that cannot be used are counted.

    Raises:
        VoiceTextBlenderError: models or sources that cannot be used.
    """
    from voicetextblender.data.loader import build_loader
    from voicetextblender.data.survey import survey_indexes
    from voicetextblender.progress import show_progress

    renderer, geometry = open_geometry(recipe.model)
    assert renderer is not None
    config = recipe.data.model_copy(update={"on_bad_row": "skip"})
    loader = build_loader(config, renderer, geometry, recipe.seed, show_progress)
    with show_progress("Reading") as report:
        surveys = survey_indexes(loader.indexes, num_workers, report)
    return loader, surveys


def find_sources(targets: Sequence[str]) -> tuple[list[CheckedSource], Recipe | None]:
    """What the arguments of `check` name, and the recipe if one of them is one.

    Raises:
        RecipeError: two recipes, or values to change that nothing has.
    """
    from voicetextblender.data.check import CheckedSource
    from voicetextblender.data.measure import Limits
    from voicetextblender.data.readers.config import SourceConfig
    from voicetextblender.train.recipe import load_recipe, shipped_recipes
    from voicetextblender.train.validate import validate
    from voicetextblender.train.yaml_tree import Tree, apply_override

    overrides = [one for one in targets if re.match(r"[A-Za-z_][\w.]*=", one) and not os.path.exists(one)]
    names = [one for one in targets if one not in overrides]
    recipes = [one for one in names if one.endswith((".yaml", ".yml")) or one in shipped_recipes()]
    manifests = [one for one in names if one not in recipes]
    if len(recipes) > 1 or not names:
        found = f"{len(recipes)} recipes" if names else "neither a recipe nor a manifest"
        expected = "one recipe, or manifests, or one recipe and manifests"
        raise RecipeError(describe("vtb data check", found, expected, "Check one recipe at a time"))
    if not recipes:
        trees = []
        for path in dict.fromkeys(manifests):
            tree = Tree({}, {(): "command line"})
            for override in overrides:
                apply_override(tree, override)
            tree.values = {"name": path, "path": path} | tree.values  # last: another kind takes away what was there
            trees.append(tree)
        return [CheckedSource(validate(SourceConfig, tree)) for tree in trees], None
    recipe = load_recipe(recipes[0], overrides)
    limits = Limits(recipe.data.max_conversation_tokens, recipe.data.max_clip_s)
    if manifests:
        chosen = [SourceConfig(name=path, path=path) for path in dict.fromkeys(manifests)]
        return [CheckedSource(source, limits) for source in chosen], recipe
    sources = [CheckedSource(source, limits) for source in recipe.data.all_sources.values()]
    return [*sources, *map(CheckedSource, evaluation_sources(recipe).values())], recipe


def evaluation_sources(recipe: Recipe) -> dict[str, SourceConfig]:
    """What the recipe evaluates on beside what its sources hold out, by the names of the rows."""
    from voicetextblender.data.readers.config import SourceConfig

    rows = recipe.evaluate.rows if recipe.evaluate else {}
    read = {name: row.reader.model_dump() if row.reader else {"path": str(row.manifest)} for name, row in rows.items()}
    return {
        name: SourceConfig(name=f"evaluate.{name}", **read[name]) for name, row in rows.items() if row.source is None
    }


def open_geometry(config: ModelConfig | None) -> tuple[Renderer | None, Geometry]:
    """Renderer and audio tokens of a model, named as training names them, so that both use the same stored indexes.

    Without a model there is no renderer, and clips take tokens as the default encoder counts them.
    """
    from voicetextblender.audio.lengths import FASTCONFORMER_TOKENS
    from voicetextblender.cli.look import open_renderer
    from voicetextblender.data.measure import Geometry

    if config is None:
        return None, Geometry(FASTCONFORMER_TOKENS, FASTCONFORMER_TOKENS.fingerprint)
    _, renderer, count = open_renderer(config)
    return renderer, Geometry(count, count.fingerprint)


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def print_problems(result: CheckResult, decode: bool, out: Path | None) -> None:
    """The problems by reason, the first few of each written out."""
    from rich.table import Table
    from rich.text import Text

    reasons = result.by_reason()
    if reasons:
        table = Table("reason", "rows", "first", box=None, pad_edge=False)
        for reason, problems in reasons.items():
            style = "yellow" if problems[0].dropped else "red"
            table.add_row(Text(reason, style), f"{len(problems):,}", Text(problems[0].where))
        console.print(table)
    for reason, problems in reasons.items():
        console.print(Text(f"\n{reason}", "bold"))
        for problem in problems[:SHOWN_PER_REASON]:
            console.print(Text(f"  {problem.text}"), soft_wrap=True)
        if len(problems) > SHOWN_PER_REASON:
            rest = f"  ... and {len(problems) - SHOWN_PER_REASON:,} more"
            console.print(Text(rest if out else f"{rest} (all of them: --out FILE)", "dim"))
    num_dropped = len(result.problems) - len(result.faults)
    decoded = f", {result.num_clips_decoded:,} clips decoded" if decode else ""
    num_faults = len(result.faults)
    faults = f"{num_faults:,} problem{'s' if num_faults > 1 else ''}" if num_faults else "no problem"
    beyond = f", {num_dropped:,} beyond a limit (training leaves them out)" if num_dropped else ""
    console.print(f"\n{result.num_rows:,} rows{decoded}: {faults}{beyond}", soft_wrap=True)
    if out is not None:
        console.print(Text(f"all of them: {out}"), soft_wrap=True)
