"""`vtb evaluate`: what a finished run can do, measured and reported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voicetextblender.cli.console import console, examples
from voicetextblender.errors import RecipeError, RunError, describe

if TYPE_CHECKING:
    from voicetextblender.train.recipe import Recipe

EXAMPLES = examples(
    ("vtb evaluate runs/mini/joint", "every row of the run's recipe; the report goes to runs/mini/joint/report"),
    ("vtb evaluate RUN --row transcription.en --row mixed", "some rows"),
    ("vtb evaluate RUN --no-bases", "the run alone, without its base LLM and the cascade"),
    ("vtb evaluate RUN evaluate.max_new_tokens=64", "with another limit"),
)


def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Values of the run's recipe to change.")
    ] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row; give it again for more.")] = None,
    bases: Annotated[
        bool,
        typer.Option(help="Evaluate the base LLM and the cascade beside the run, to show what it gained and kept."),
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Folder of the report.", show_default="RUN/report")] = None,
) -> None:
    """Answer held-out conversations with a trained model, score the replies, and write a report.

    Replies are kept beside the report and used again while the model and the items stay the same.
    """
    from voicetextblender.cli.run_folder import find_model
    from voicetextblender.evaluate.columns import evaluate_bases, evaluate_run
    from voicetextblender.evaluate.report import print_table, write_report
    from voicetextblender.evaluate.runs import RunLog

    recipe = read_recipe(run, overrides or [])
    folder = find_model(run)
    config = recipe.evaluate
    assert config is not None
    out = out or run / "report"
    results = [
        *(evaluate_bases(recipe.model, config, out, row, recipe.data) if bases else ()),
        evaluate_run(folder, config, out, row, recipe.data),
    ]
    log = RunLog(config.column, recipe.name, run)
    written = write_report(results, [log], out, bootstrap_samples=config.bootstrap_samples, seed=config.seed)
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
