from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from tests.evaluate.repliers import Oracle, make_clip, write_manifest
from voicetextblender.errors import DataError, RunError
from voicetextblender.evaluate.config import EvaluateConfig, RowConfig
from voicetextblender.evaluate.predictions import ColumnResult
from voicetextblender.evaluate.report import as_json, print_table, render_markdown, write_report
from voicetextblender.evaluate.runs import RunLog, read_drops, read_losses
from voicetextblender.evaluate.suite import evaluate_column
from voicetextblender.evaluate.table import build_table, mean_speech_score

EVIL = "<script>alert('x')</script>&\"</style>"


def wrong(prefix: str, numbers: range, said: str = "no") -> dict[tuple[str, int], str]:
    return {(f"{prefix}{number}", 0): said for number in numbers}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[ColumnResult]:
    """Base: 90 % on text. Joint, two seeds: 81 and 90 % of touched, 90 % of untouched; 80 % of speech, cascade 50 %."""
    folder = tmp_path_factory.mktemp("suite")
    clip = make_clip(folder, "tone.wav")
    asked = [{"type": "text", "text": EVIL}, clip]
    sizes = {"touched": "a", "untouched": "b"}
    manifests = {
        f"text.{name}": write_manifest(folder / f"{name}.jsonl", [[(EVIL, f"it is {n}")] for n in range(100)], prefix)
        for name, prefix in sizes.items()
    }
    manifests["instructions.written"] = write_manifest(
        folder / "w.jsonl", [[("q", f"yes {n}")] for n in range(20)], "w"
    )
    manifests["instructions.spoken"] = write_manifest(
        folder / "s.jsonl", [[(asked, f"yes {n}")] for n in range(20)], "s"
    )
    manifests["transcription.en"] = write_manifest(folder / "t.jsonl", [[(asked, "one two")] for _ in range(20)], "t")
    rows = {
        name: RowConfig(manifest=path, metrics=("wer", "cer") if name.startswith("trans") else ("exact_match",))
        for name, path in manifests.items()
    }
    config = EvaluateConfig(rows=rows)
    base_errors = wrong("a", range(10)) | wrong("b", range(10))
    errors = [
        ("base", base_errors),
        ("cascade", wrong("s", range(10)) | wrong("t", range(20), "one too")),
        ("joint", base_errors | wrong("a", range(19)) | wrong("s", range(4)) | wrong("t", range(4), f"one {EVIL}")),
        ("joint", base_errors | wrong("s", range(4))),
    ]
    return [
        evaluate_column(
            column, Oracle(list(manifests.values()), wrongs), config, None, folder / str(number), model_fingerprint="x"
        )
        for number, (column, wrongs) in enumerate(errors)
    ]


def test_cells_are_means_of_seeds_in_a_stable_order(results: list[ColumnResult]) -> None:
    table = build_table(list(reversed(results)), 200)
    assert table.columns == ("base", "cascade", "joint")
    assert table.rows == (
        "text.touched", "text.untouched", "transcription.en", "instructions.spoken", "instructions.written",
    )  # fmt: skip
    values = {(cell.row, cell.column, cell.metric): cell.value for cell in table.cells}
    assert values["text.touched", "joint", "exact_match"] == pytest.approx((81 + 90) / 2)
    assert values["instructions.spoken", "cascade", "exact_match"] == pytest.approx(50)
    assert values["transcription.en", "cascade", "wer"] == pytest.approx(50)
    assert ("text.touched", "cascade", "exact_match") not in values
    assert all(cell.low <= cell.value <= cell.high for cell in table.cells)
    assert {cell.items for cell in table.cells} == {100, 20}


def test_retention_is_paired_and_gap_is_written_minus_spoken(results: list[ColumnResult]) -> None:
    table = build_table(results, 500)
    touched, untouched, mean = (table.retained("joint", row) for row in ("text.touched", "text.untouched", "text"))
    assert touched and untouched and mean
    assert touched.value == pytest.approx(100 * 85.5 / 90)
    assert (untouched.value, untouched.low, untouched.high) == pytest.approx((100, 100, 100))
    assert mean.value == pytest.approx((100 * 85.5 / 90 + 100) / 2)
    assert mean.low < mean.value < mean.high <= 100
    assert table.retained("base") is None and table.retained("cascade") is None
    gap = table.gap("joint")
    assert gap and gap.value == pytest.approx(20)
    assert 0 < gap.low < 20 < gap.high


def test_mean_speech_score_counts_errors_backwards(results: list[ColumnResult]) -> None:
    score = mean_speech_score(build_table(results, 50), "cascade")
    assert score and score.value == pytest.approx((50 + 50) / 2)
    assert mean_speech_score(build_table(results, 50), "base") is None


def test_columns_of_different_items_are_not_compared(results: list[ColumnResult]) -> None:
    row = results[0].rows[0]
    fewer = ColumnResult("joint", (type(row)(row.row, row.metrics, row.predictions[1:], row.counts),))
    with pytest.raises(
        DataError, match=r"^row text.touched, columns base and joint: its results are of different items"
    ):
        build_table([results[0], fewer], 10)


def test_json_schema(results: list[ColumnResult], tmp_path: Path) -> None:
    report = as_json(build_table(results, 100))
    assert report["schema"] == 1
    assert list(report["cells"][0]) == ["row", "column", "metric", "value", "low", "high", "items"]
    assert report["cells"][0]["value"] == 90.0
    assert {"row": "text", "column": "joint", "metric": "retention"}.items() <= report["retention"][-1].items()
    assert report["counts"][0] == {
        "row": "text.touched", "column": "base", "seeds": 1, "conversations": 100, "replies": 100, "clips": 0,
        "audio_s": 0, "left_out": 0, "empty_replies": 0,
    }  # fmt: skip
    json.dumps(report)


def test_markdown_and_terminal(results: list[ColumnResult]) -> None:
    table = build_table(results, 100)
    markdown = render_markdown(table, "Title", "100 resamples")
    assert "| text.touched | exact match | 90.0 [" in markdown
    assert "| **text retained** | % of base |  |  | 97.5 [" in markdown
    for width, sample in ((140, r"text\.touched +exact ↑ +90\.0 \[\d"), (70, r"text\.touched +exact ↑ +90\.0 ±\d")):
        console = Console(width=width, file=io.StringIO())
        print_table(table, console)
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert re.search(sample, printed)
        assert re.search(r"text retained +% base +· +· +97\.5", printed)
        assert "mean of seeds: joint 2" in printed


class Page(HTMLParser):
    """Collects tags, addresses and text outside of styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def run(tmp_path: Path) -> RunLog:
    """A run that was killed within a line and had a step logged twice."""
    folder = tmp_path / "run"
    folder.mkdir()
    steps = [{"step": s, "loss": 2.0 - s / 10, "loss_by_task": {"text": 1.0, EVIL: 3.0}} for s in (0, 1, 2, 2, 3)]
    steps[3]["loss"] = 0.5
    (folder / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps) + '{"step": 4, "lo')
    (folder / "recipe.yaml").write_text(f"name: '{EVIL}'\n")
    (folder / "environment.json").write_text(json.dumps({"packages": {"torch": "2.13.0"}, "commit": None}))
    (folder / "data.json").write_text(json.dumps({"mixed": {"rows": 9, "drops": {"too long": 3}}}))
    return RunLog("joint", f"joint {EVIL}", folder)


def test_run_folder_readers(run: RunLog) -> None:
    losses = read_losses(run.folder)
    assert losses[""] == [(0, 2.0), (1, 1.9), (2, 0.5), (3, 1.7)]
    assert losses["text"][0] == (0, 1.0)
    assert read_drops(run.folder) == [("mixed", "too long", 3)]
    assert read_losses(run.folder / "nothing") == {}
    (run.folder / "log.jsonl").write_text("oops\n{}\n{}\n")
    with pytest.raises(
        RunError, match=r"log.jsonl:1: the line is no log record; each line is a JSON object with a step"
    ):
        read_losses(run.folder)


def test_html_is_self_contained_and_escaped(results: list[ColumnResult], run: RunLog, tmp_path: Path) -> None:
    written = write_report(results, [run], tmp_path / "report", bootstrap_samples=100)
    text = written.html.read_text()
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert all(address.startswith(("#", "data:audio/mpeg;base64,")) for address in page.addresses)
    assert not re.search(r"url\(\s*['\"]?(?!#)", text)
    assert page.tags.count("audio") >= 3
    assert page.tags.count("svg") == 1 + 5 + 1
    assert text.count("</style>") == 1
    for shown in (EVIL, "text retained", "97.5", "too long", "2.13.0", "joint SFT"):
        assert shown in page.text
    assert str(tmp_path) not in text


def test_same_results_give_the_same_bytes(results: list[ColumnResult], run: RunLog, tmp_path: Path) -> None:
    first = write_report(results, [run], tmp_path / "1", bootstrap_samples=50)
    second = write_report(list(results), [run], tmp_path / "2", bootstrap_samples=50)
    for name in ("json", "markdown", "html"):
        assert getattr(first, name).read_bytes() == getattr(second, name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["report.html", "report.json", "report.md"]


def test_a_lone_column_makes_a_report(results: list[ColumnResult], tmp_path: Path) -> None:
    written = write_report(results[2:3], [], tmp_path, bootstrap_samples=20)
    page = Page(written.html.read_text())
    assert "transcription.en" in page.text
    assert "Joint SFT reaches a mean score of" in page.text
    assert json.loads(written.json.read_text())["retention"] == []
