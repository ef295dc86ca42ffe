"""Patterns of paths, JSON lists by offset, and copies of what has none."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.readers.reading import OpenKind, read_all
from voicetextblender.chat.render import Renderer
from voicetextblender.data.index import open_index
from voicetextblender.data.measure import Geometry, Limits
from voicetextblender.data.readers.files import expand_paths
from voicetextblender.data.readers.lines import JsonRows
from voicetextblender.data.readers.source import RawRow, scan_store
from voicetextblender.errors import DataError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def test_patterns() -> None:
    assert expand_paths("a/m__OP_0..2_CL_.json") == ("a/m_0.json", "a/m_1.json", "a/m_2.json")
    assert expand_paths("{08..10}.tar") == ("08.tar", "09.tar", "10.tar")
    assert expand_paths("{b,a}{2..1}") == ("b2", "b1", "a2", "a1")
    assert expand_paths("plain.json") == ("plain.json",)
    assert expand_paths("s3://bucket/x_{0..1}.tar") == ("s3://bucket/x_0.tar", "s3://bucket/x_1.tar")


@pytest.mark.parametrize("pattern", ["a_{0..3}.tar", "{00..11}/{x,y}_{2..2}", "{a}", "no", "{5..3}{1..2}"])
def test_braces_are_those_of_the_library_that_nemo_uses(pattern: str) -> None:
    braceexpand = pytest.importorskip("braceexpand", reason="compares with braceexpand")
    assert list(expand_paths(pattern)) == list(braceexpand.braceexpand(pattern))


def test_stars_are_sorted(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "c.txt"):
        (tmp_path / name).touch()
    assert expand_paths(f"{tmp_path}/*.json") == (f"{tmp_path}/a.json", f"{tmp_path}/b.json")


def test_missing_files_are_named(open_kind: OpenKind, tmp_path: Path) -> None:
    (tmp_path / "part_0.jsonl").touch()
    with pytest.raises(DataError, match=r"^source 'train': '\S*part_1.jsonl' does not exist; a manifest is a file\. "):
        open_kind("nemo", "part_{0..3}.jsonl")
    with pytest.raises(DataError, match=r"^source 'train': no file fits '\S*\*\.json'; at least one is needed\. "):
        open_kind("nemo", "*.json")


@given(st.lists(JSON, max_size=5), st.sampled_from([None, 2]), st.booleans())
def test_items_of_any_list_are_read_by_their_offset(
    tmp_path_factory: pytest.TempPathFactory, values: list[object], indent: int | None, is_ascii: bool
) -> None:
    folder = tmp_path_factory.mktemp("list")
    path = folder / "rows.json"
    path.write_text(f" \n{json.dumps(values, indent=indent, ensure_ascii=is_ascii)}\n", "utf-8")
    store = JsonRows(str(path), "train", folder)
    rows = list(scan_store(store))
    assert [store.decode(row).value for row in rows] == values
    for number, row in enumerate(rows, 1):
        assert store.fetch(row.line, row.offset, len(row.content), 0) == row
        assert store.where(row.line) == f"{path} item {number}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}, {"a": 2', "rows.json: the list is not closed; a list ends with ']'. Mend the file"),
        ('[{"a": 1},]', "rows.json item 2: no JSON at column 1 (Expecting value); every item is one JSON object."),
        ('[{"a": 1} 5]', "rows.json item 1: no JSON at column 10 (Extra data)"),
    ],
)
def test_lists_that_are_broken(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "rows.json").write_text(content)
    store = JsonRows(str(tmp_path / "rows.json"), "train", tmp_path)
    with pytest.raises(DataError, match=re.escape(message)):
        for row in scan_store(store):
            store.decode(row)


def test_gzipped_rows_are_read_by_offset_from_a_copy(open_kind: OpenKind, tmp_path: Path) -> None:
    rows = [{"question": f"Is {number}?", "answer": "Yes."} for number in range(3)]
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    (tmp_path / "rows.jsonl.gz").write_bytes(packed)
    source = open_kind("qa", "rows.jsonl.gz")
    assert [one.turns[0].text for one in read_all(source)] == ["Is 0?", "Is 1?", "Is 2?"]
    assert [one.id for one in read_all(source)] == ["rows.jsonl.gz:1", "rows.jsonl.gz:2", "rows.jsonl.gz:3"]
    (tmp_path / "rows.jsonl.gz").write_bytes(packed[:-9])
    with pytest.raises(DataError, match=r"rows.jsonl.gz: cannot be read \(.*\); a file, plain or gzipped\. Check it"):
        open_kind("qa", "rows.jsonl.gz")


def test_bad_rows_of_several_files_are_told_in_order(
    open_kind: OpenKind, tmp_path: Path, renderer: Renderer, geometry: Geometry
) -> None:
    for part in range(2):
        lines = ['{"question": "A?", "answer": "B"}', "oh", '{"question": "A?"}'][part:]
        (tmp_path / f"part_{part}.jsonl").write_text("\n".join(lines) + "\n")
    told: list[tuple[int, int]] = []
    arguments = (open_kind("qa", "part_{0..1}.jsonl"), renderer, geometry, Limits(100, 1.0), tmp_path / "cache")
    index = open_index(*arguments, on_bad_row="skip", report=lambda done, total: told.append((done, total)))
    assert len(index) == 1 and index.num_rows == 5
    names = [Path(drop.text.partition(": ")[0]).name for drop in index.dropped]
    assert names == ["part_0.jsonl:2", "part_0.jsonl:3", "part_1.jsonl:1", "part_1.jsonl:2"]
    size = sum((tmp_path / f"part_{part}.jsonl").stat().st_size for part in range(2))
    assert told == sorted(told) and told[-1] == (size, size)
    (tmp_path / "part_1.jsonl").write_text('{"question": "C?", "answer": "D"}\n')
    index = open_index(*(open_kind("qa", "part_{0..1}.jsonl"), *arguments[1:]), on_bad_row="skip")
    assert [index.read(row).turns[1].text for row in range(2)] == ["B", "D"]
    assert index.where(1) == f"{tmp_path}/part_1.jsonl:1"


def test_remote_rows_are_fetched_once(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://readers/rows.jsonl", "wb") as file:
        file.write(b'{"a": 1}\n{"a": 2}\n')
    store = JsonRows("memory://readers/rows.jsonl", "train", tmp_path)
    assert store.where(2) == "memory://readers/rows.jsonl:2"
    assert [Path(path).name for path in expand_paths("memory://readers/*.jsonl")] == ["rows.jsonl"]
    items = [store.decode(row) for row in scan_store(store)]
    assert [item.value["a"] for item in items] == [1, 2] and items[0].folder == "memory://readers"
    fsspec.filesystem("memory").rm("/readers/rows.jsonl")
    again = JsonRows("memory://readers/rows.jsonl", "train", tmp_path)
    assert list(scan_store(again))[1] == RawRow(2, 9, b'{"a": 2}\n')
    with pytest.raises(DataError, match=r"^memory://readers/gone.jsonl: cannot be read \("):
        JsonRows("memory://readers/gone.jsonl", "train", tmp_path)
    with pytest.raises(
        DataError, match=r"nowhere://x/y.jsonl: cannot be opened \(.*\); a URL that fsspec opens\. Inst"
    ):
        JsonRows("nowhere://x/y.jsonl", "train", tmp_path)
