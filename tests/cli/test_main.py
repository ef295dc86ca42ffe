"""The command line as such: help, errors, speed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from voicetextblender.cli.main import app
from voicetextblender.errors import RecipeError

VERBS = (
    ("demo",),
    ("prepare", "mini"),
    ("prepare", "corpus"),
    ("prepare", "digits"),
    ("train",),
    ("evaluate",),
    ("generate",),
    ("chat",),
    ("export",),
    ("look",),
    ("data", "check"),
    ("data", "stats"),
    ("data", "preview"),
    ("recipe", "show"),
    ("recipe", "list"),
)


@pytest.mark.parametrize("verb", [(), ("prepare",), ("data",), ("recipe",), *VERBS])
def test_every_help_shows_examples(verb: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*verb, "--help"])
    assert result.exit_code == 0
    _, _, shown = result.output.partition("Examples")
    assert f"$ {' '.join(('vtb', *verb))}" in shown


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom voicetextblender.cli.main import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=os.environ)


def test_an_error_is_one_red_line_and_status_2() -> None:
    result = CliRunner().invoke(app, ["train", "minni"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(
        "error: recipe 'minni': no recipe of that name in the package; there are canary-qwen, "
    )
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("flags", "environment"), [(["--debug"], {}), ([], {"VTB_DEBUG": "1"})])
def test_debug_lets_the_error_through(flags: list[str], environment: dict[str, str]) -> None:
    result = CliRunner().invoke(app, [*flags, "recipe", "show", "minni"], env=environment)
    assert isinstance(result.exception, RecipeError)


def test_an_error_with_markup_in_it_is_printed_as_it_is(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "mini", "model.lora.targets=[bold"])
    assert result.exit_code == 2
    assert "command line 'model.lora.targets=[bold'" in result.stderr


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert re.fullmatch(r"voicetextblender \d+\.\d+\.\d+\n", result.output)


def test_recipe_list_names_the_shipped_ones() -> None:
    result = CliRunner().invoke(app, ["recipe", "list"])
    assert [line.split()[0] for line in result.output.splitlines() if not line.startswith(" ")] == [
        "canary-qwen",
        "canary-qwen-conformer",
        "canary-qwen-gated",
        "mini",
        "mini-digits",
        "mini-frozen-llm",
        "mini-readings",
        "mini-speech-only",
        "voicetextblender-3b",
        "voicetextblender-3b-frozen-llm",
        "voicetextblender-3b-gated",
        "voicetextblender-3b-linear",
        "voicetextblender-3b-speech-only",
        "whisper-llama",
        "whisper-llama-8b",
        "whisper-llama-qformer",
        "whisper-llama-top-layers",
    ]


def test_recipe_show_prints_what_loads_again(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["recipe", "show", "mini", "train.steps=7"])
    assert "steps: 7\n" in shown.stdout
    (tmp_path / "again.yaml").write_text(shown.stdout)
    again = CliRunner().invoke(app, ["recipe", "show", str(tmp_path / "again.yaml")])
    assert again.stdout == shown.stdout


@pytest.mark.parametrize("verb", ["chat", "generate", "evaluate"])
def test_a_folder_that_is_no_run_is_refused(verb: str, tmp_path: Path) -> None:
    arguments = ["--prompt", "Hello"] if verb == "generate" else []
    result = CliRunner().invoke(app, [verb, str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {tmp_path}: not a run; `vtb train` writes one with recipe.yaml and model. Check the path.\n"
    )
