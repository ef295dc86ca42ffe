"""`vtb evaluate`: what a finished run can do, measured and reported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voicetextblender.cli.console import console, examples
from voicetextblender.errors import RecipeError, RunError, describe

if TYPE_CHECKING:
    from voicetextblender.progress import Report
    from voicetextblender.train.recipe import Recipe

EXAMPLES = examples(
    ("vtb evaluate runs/mini/joint", "every row of the run's recipe; the report goes to runs/mini/joint/report"),
    ("vtb evaluate RUN --row transcription.en --row mixed", "some rows"),
    ("vtb evaluate RUN evaluate.max_new_tokens=64", "with another limit"),
)


def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Values of the run's recipe to change.")
    ] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row; give it again for more.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report.", show_default="RUN/report")] = None,
) -> None:
    """Answer held-out conversations with a trained model, score the replies, and write a report.

    Replies are kept beside the report and used again while the model and the items stay the same.
    """
    from voicetextblender.cli.run_folder import find_model, load_replier
    from voicetextblender.evaluate.report import print_table, write_report
    from voicetextblender.evaluate.runs import RunLog
    from voicetextblender.evaluate.suite import evaluate_column

    recipe = read_recipe(run, overrides or [])
    folder = find_model(run)
    replier = load_replier(folder)
    config = recipe.evaluate
    assert config is not None
    out = out or run / "report"
    with row_progress() as progress:
        result = evaluate_column(
            config.column, replier, config, row, out, progress, model_fingerprint=fingerprint_folder(folder)
        )
    log = RunLog(config.column, recipe.name, run)
    written = write_report([result], [log], out, bootstrap_samples=config.bootstrap_samples, seed=config.seed)
    print_table(written.table, console)
    console.print(f"\nreport: {written.html}", soft_wrap=True)


def read_recipe(run: Path, overrides: list[str]) -> Recipe:
    """The recipe of a run, with rows to evaluate.

    Raises:
        RunError: no run.
        RecipeError: the recipe names nothing to evaluate.
    """
    from voicetextblender.train.recipe import load_recipe

    path = run / "recipe.yaml"
    if not path.is_file():
        expected = "`vtb train` writes one with recipe.yaml and model"
        raise RunError(describe(str(run), "not a run", expected, "Check the path"))
    recipe = load_recipe(path, overrides)
    if recipe.evaluate is None or not recipe.evaluate.rows:
        fix = "Train with a recipe that has some: see docs/recipes.md"
        raise RecipeError(describe(f"{path} evaluate.rows", "nothing to evaluate", "at least one row", fix))
    return recipe


def fingerprint_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of the files of a folder, in hexadecimal."""
    from voicetextblender.files import fingerprint

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listing = "\n".join(f"{path.relative_to(folder)} {fingerprint(path)}" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


@contextmanager
def row_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that takes a row's name, replies done and replies in all, and shows one bar per row."""
    from voicetextblender.progress import show_progress

    reports: dict[str, Report] = {}
    with ExitStack() as stack:

        def report(name: str, done: int, total: int) -> None:
            if name not in reports:
                stack.close()
                reports[name] = stack.enter_context(show_progress(name))
            reports[name](done, total)

        yield report
