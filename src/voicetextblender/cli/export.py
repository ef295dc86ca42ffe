"""`vtb export`: a trained model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from voicetextblender.cli.console import console, examples
from voicetextblender.errors import RunError, describe

if TYPE_CHECKING:
    from voicetextblender.model.build import Composite

EXAMPLES = examples(
    (
        "vtb export runs/mini/joint --out exported",
        "one model, LoRA merged, with its own code, for transformers and vLLM",
    ),
    (
        "vtb export RUN --out exported --form lora --precision bf16",
        "the base LLM, and LoRA beside it for peft and vLLM",
    ),
    ("vtb export RUN --out parts --form parts", "only what training made: speech parts and LoRA"),
    ("vtb export RUN --check", "only tell what the model lacks for stock vLLM"),
)


def export(
    run: Annotated[Path, typer.Argument(help="A finished run, or a model folder.")],
    out: Annotated[Path | None, typer.Option(help="New folder for the model.")] = None,
    form: Annotated[
        Literal["merged", "lora", "parts"],
        typer.Option(help="One model; the base LLM with LoRA beside it; or only what training made."),
    ] = "merged",
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of the stored weights.")] = "fp32",
    max_shard_gb: Annotated[float, typer.Option(min=0.001, help="Size of a file of weights at most.")] = 5.0,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit status 1 if something is lacking.")
    ] = False,
) -> None:
    """Write a trained model as a Hugging Face folder that loads where this package is not installed.

    Tells what the model lacks for being served by stock vLLM, and what to do about it.
    """
    if (out is None) != check:
        found = "both --out and --check" if check else "neither --out nor --check"
        raise RunError(describe("vtb export", found, "one of them", "Name a folder to write, or only check"))
    from voicetextblender.cli.run_folder import find_model, load_model

    folder = find_model(run)
    from voicetextblender.serve.export import export as write
    from voicetextblender.serve.export import refuse_used

    if out is not None:
        refuse_used(out)
    composite = load_model(folder)
    if form != "parts":
        num_lacking = print_findings(composite)
    if out is None:
        raise typer.Exit(1 if num_lacking else 0)
    write(composite, out, form, precision, max_shard_gb)
    console.print(f"{form} model: {out}", soft_wrap=True)


def print_findings(composite: Composite) -> int:
    """Print what stock vLLM would miss; returns how many findings prevent serving."""
    from voicetextblender.serve.servable import CHECKS, check_servable

    findings = check_servable(composite)
    for finding in findings:
        style = "red" if finding.level == "lack" else "yellow"
        console.print(f"[{style}]{finding.level}[/{style}]", end=" ")
        console.print(str(finding), markup=False, soft_wrap=True)
    num_lacking = sum(finding.level == "lack" for finding in findings)
    verdict = "does not serve it" if num_lacking else "serves it without a plugin"
    console.print(
        f"stock vLLM {verdict}: {len(CHECKS)} checks, {num_lacking} lacking, {len(findings) - num_lacking} notes"
    )
    return num_lacking
