"""The verbs on a tiny real model: train, look, generate, chat, evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.tiny import make_llm, make_recipe
from voicetextblender.chat.conversation import AudioPart, TextPart
from voicetextblender.cli.generate import place_clips
from voicetextblender.cli.main import app
from voicetextblender.errors import DataError
from voicetextblender.train.recipe import dump_recipe


def vtb(*arguments: str | Path, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed, catch_exceptions=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, and the run that it made."""
    folder = tmp_path_factory.mktemp("cli")
    recipe = make_recipe(folder, steps=2)
    lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "text.jsonl").write_text("".join(line for line in lines if '"audio"' not in line))
    rows = {
        "mixed": {"manifest": str(folder / "train.jsonl"), "metrics": ["exact_match", "wer"], "max_items": 4},
        "text": {"manifest": str(folder / "text.jsonl"), "metrics": ["exact_match"], "max_items": 2},
    }
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe) + f"evaluate_rows: {json.dumps(rows)}\n")
    text = (
        path.read_text()
        .replace("evaluate: null\n", "")
        .replace("evaluate_rows:", "evaluate: {max_new_tokens: 4, rows:")
    )
    path.write_text(text.rstrip() + "}\n")
    assert vtb("train", path, "--out", folder / "run").exit_code == 0
    return folder


def test_train_goes_to_the_folder_of_the_name(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    assert vtb("train", "recipe.yaml", "train.steps=1").exit_code == 0
    assert (world / "runs" / "tiny" / "model" / "voicetextblender.json").is_file()


def test_train_refuses_the_folder_of_another_recipe(world: Path) -> None:
    result = vtb("train", world / "recipe.yaml", "--out", world / "run", "train.steps=3")
    assert result.exit_code == 2
    assert "train.steps: 2 -> 3" in result.stderr


def test_look_shows_rows_with_their_clips(world: Path) -> None:
    result = vtb("look", world / "recipe.yaml", "--num", "2")
    assert result.exit_code == 0
    assert f"{world}/train.jsonl:2 · mixed" in result.output
    assert "<|bos|><|user|>Say it again, please.<|end|><|assistant|>Say it again, please.<|end|>" in result.output
    assert "[audio 0.2 s = 3 tokens]What is three plus five?<|end|>" in result.output


def test_look_refuses_an_unknown_source(world: Path) -> None:
    result = vtb("look", world / "recipe.yaml", "--source", "none")
    assert result.stderr == "error: --source none: no such source in the recipe; it has all. Choose one of these.\n"


def test_look_names_a_model_that_is_not_there(world: Path) -> None:
    result = vtb("look", world / "recipe.yaml", f"model.llm={world}/none")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {world}/none: no model there; a save_pretrained folder or a hub name.")


def test_generate_prints_one_reply(world: Path) -> None:
    clip = world / "clips" / "1_0.flac"
    arguments = ("--prompt", "What is {audio} plus {audio}?", "--audio", clip, "--audio", clip, "--max-new-tokens", "4")
    result = vtb("generate", world / "run", *arguments)
    assert result.exit_code == 0
    assert vtb("generate", world / "run", *arguments).stdout == result.stdout


def test_generate_names_a_missing_clip(world: Path) -> None:
    result = vtb("generate", world / "run", "--audio", world / "none.wav")
    assert result.exit_code == 2
    assert "does not exist; an audio file is needed. Correct the path." in result.stderr


def test_clips_go_where_the_marks_are(world: Path) -> None:
    first, second = world / "clips" / "1_0.flac", world / "clips" / "2_0.flac"
    clips = [AudioPart(str(first)), AudioPart(str(second))]
    texts = [TextPart("Is "), TextPart(" the same as "), TextPart("?")]
    assert place_clips("Is {audio} the same as {audio}?", [first, second]) == (
        texts[0], clips[0], texts[1], clips[1], texts[2],
    )  # fmt: skip
    assert place_clips("Well?", [first, second]) == (*clips, TextPart("Well?"))
    assert place_clips("", [first]) == (clips[0],)
    with pytest.raises(DataError) as caught:
        place_clips("Is {audio} good?", [first, second])
    assert str(caught.value) == (
        "--prompt: 1 times {audio} and 2 clips; a clip for every mark. Give --audio for each {audio}, in order."
    )
    with pytest.raises(DataError, match="neither --prompt nor --audio"):
        place_clips("", [])


def test_chat_holds_a_conversation(world: Path) -> None:
    clip = world / "clips" / "1_0.flac"
    typed = f"Say it again, please.\n/audio {clip} What is that?\n/audio {world}/none.wav\n/nonsense\n/reset\n/exit\n"
    result = vtb("chat", world / "run", "--max-new-tokens", "3", typed=typed)
    assert result.exit_code == 0
    assert f"[audio {clip}, 0.2 s]" in result.output
    assert "does not exist" in result.output
    assert "/nonsense: no such command." in result.output
    assert "The conversation starts anew." in result.output


def test_evaluate_writes_a_report_with_the_base_llm_beside_the_run(world: Path) -> None:
    def columns(*options: str) -> tuple[str, set[tuple[str, str, str]]]:
        result = vtb("evaluate", world / "run", *options)
        assert result.exit_code == 0
        report = json.loads((world / "run" / "report" / "report.json").read_text())
        assert report["schema"] == 1
        return result.output, {(cell["row"], cell["column"], cell["metric"]) for cell in report["cells"]}

    run = {("mixed", "joint", "exact_match"), ("mixed", "joint", "wer"), ("text", "joint", "exact_match")}
    output, cells = columns("--no-bases")
    assert cells == run
    assert "report.html" in output
    _, cells = columns()  # no cascade: the tiny encoder has no CTC head
    assert cells == run | {("text", "base", "exact_match")}


def test_evaluate_refuses_an_unknown_row_and_a_recipe_without_rows(world: Path) -> None:
    assert "there is no row 'none'" in vtb("evaluate", world / "run", "--row", "none").stderr
    result = vtb("evaluate", world / "run", "evaluate=null")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"error: {world}/run/recipe.yaml evaluate.rows: nothing to evaluate; at least one row."
    )


def test_an_unfinished_run_says_how_to_go_on(world: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text((world / "recipe.yaml").read_text())
    result = vtb("chat", tmp_path)
    assert result.stderr == (
        f"error: {tmp_path}: a run that is not finished; its folder 'model' is written at the end of training. "
        f"Continue it: vtb train {tmp_path}/recipe.yaml --out {tmp_path}.\n"
    )


def test_prepare_corpus_says_what_it_wrote(world: Path) -> None:
    corpus = world / "corpus"
    corpus.mkdir()
    row = {"id": "1", "audio": "../clips/1_0.flac", "text": "eight", "lang": "en", "speaker": "x", "split": "train"}
    gone = row | {"id": "2", "audio": "none.flac"}
    (corpus / "manifest.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(gone)}\n")
    result = vtb("prepare", "corpus", corpus, "--out", world / "prepared")
    assert result.exit_code == 0
    assert (world / "prepared" / "train.jsonl").is_file()
    assert "left out: 1 (" in result.output


def test_export_checks_and_writes(world: Path, tmp_path: Path) -> None:
    served = "stock vLLM serves it without a plugin: 11 checks, 0 lacking, 0 notes\n"
    assert vtb("export", world / "run", "--check").output == served
    result = vtb("export", world / "run", "--out", tmp_path / "exported")
    assert result.output == f"{served}merged model: {tmp_path}/exported\n"
    assert (tmp_path / "exported" / "model_modeling.py").is_file()
    again = vtb("export", world / "run", "--out", tmp_path / "exported")
    assert again.exit_code == 2 and "exported: is not empty; a folder that is new or empty." in again.stderr


def test_export_wants_a_folder_or_only_a_check(world: Path) -> None:
    result = vtb("export", world / "run")
    assert result.stderr.startswith("error: vtb export: neither --out nor --check; one of them.")


def test_export_tells_what_is_lacking(world: Path, tmp_path: Path) -> None:
    make_llm(tmp_path / "llm", num_attention_heads=2, num_key_value_heads=2, head_dim=20)
    trained = vtb(
        "train", world / "recipe.yaml", "--out", tmp_path / "run", f"model.llm={tmp_path}/llm", "train.steps=1"
    )
    assert trained.exit_code == 0
    result = vtb("export", tmp_path / "run", "--check")
    assert result.exit_code == 1
    assert result.output.startswith("lack model.llm: attention heads of size 20; a multiple of 8 up to 256 on a GPU,")
    assert result.output.endswith("stock vLLM does not serve it: 11 checks, 1 lacking, 0 notes\n")
