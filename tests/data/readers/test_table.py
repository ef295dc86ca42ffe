"""Tables of Common Voice, CoVoST and spreadsheets."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.readers.reading import OpenKind, read_all, say
from voicetextblender.chat.conversation import AudioPart
from voicetextblender.data.readers.source import scan_store
from voicetextblender.data.readers.table import TableRows
from voicetextblender.errors import DataError

CELL = st.text(st.characters(exclude_characters="\r\x00", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=6), st.sampled_from(",;"))
def test_rows_of_any_table_are_read_by_their_offset(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], delimiter: str
) -> None:
    folder = tmp_path_factory.mktemp("table")
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    store = TableRows(str(path), "train", folder, delimiter)
    found = list(scan_store(store))
    assert [list(store.decode(row).value.values()) for row in found] == rows
    assert all(store.fetch(row.line, row.offset, len(row.content), 0) == row for row in found)


def test_common_voice(open_kind: OpenKind, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(
        "client_id\tpath\tsentence\tup_votes\tlocale\n"
        'ab\tcommon_voice_de_1.mp3\tEr sagte: "Nein\t2\tde\n'
        "cd\tcommon_voice_de_2.mp3\tDoch.\t2\tde\n",
        "utf-8",
    )
    first, second = read_all(open_kind("table", "train.tsv", audio_folder=str(tmp_path / "clips")))
    assert first.clips == (AudioPart(f"{tmp_path}/clips/common_voice_de_1.mp3", transcript='Er sagte: "Nein'),)
    assert (first.task, first.language, say(first)[1]) == ("transcription", "de", 'assistant: Er sagte: "Nein')
    assert second.turns[1].text == "Doch."


def test_covost(open_kind: OpenKind, tmp_path: Path) -> None:
    (tmp_path / "covost_v2.de_en.tsv").write_text("path\tsentence\ttranslation\nx.mp3\tDoch.\tYes, it is.\n")
    (one,) = read_all(open_kind("table", "covost_v2.de_en.tsv", language="de", target_language="en"))
    assert (one.task, one.language, say(one)[1]) == ("translation", "de", "assistant: Yes, it is.")
    assert one.clips[0].transcript == "Doch."
    with pytest.raises(DataError, match=r"tsv:2: the row has no target language; 'target_lang', .* is looked for\."):
        read_all(open_kind("table", "covost_v2.de_en.tsv"))


def test_columns_of_any_name_or_none(open_kind: OpenKind, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('Datei,Wortlaut,Dauer\nx.wav,"Eins, zwei",1.5\n')
    columns = {"audio": "Datei", "text": "Wortlaut", "duration": "Dauer"}
    (one,) = read_all(open_kind("table", "a.csv", columns=columns))
    assert (one.clips[0].duration_s, one.turns[1].text) == (1.5, "Eins, zwei")
    (tmp_path / "b.txt").write_text("x.wav|One\ny.wav|Two\n")
    columns = {"audio": "1", "text": "2"}
    read = read_all(open_kind("table", "b.txt", columns=columns, delimiter="|", header=False))
    assert [one.turns[1].text for one in read] == ["One", "Two"]


def test_a_table_of_text(open_kind: OpenKind, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\n1 + 1?,2\n")
    (one,) = read_all(open_kind("table", "a.csv"))
    assert say(one) == ["user: 1 + 1?", "assistant: 2"] and one.task == "text"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.csv: the table is empty; its first line names the columns. Fill it, or remove it."),
        ("a,a\n", "a.csv: the header is a, a; each column has a name of its own. Rename columns, or set header: false"),
        ("path,text\nx.wav\n", "a.csv:2: 1 values; the header names 2 columns. Mend the line, or set delimiter."),
        ('path,text\nx.wav,"a\nb', "a.csv:2: no row of a table (unexpected end of data); a line of a table in UTF-8"),
        ("path,text,duration\nx.wav,a,long\n", "a.csv:2: the duration is 'long'; a number of seconds, at least 0, is"),
    ],
)
def test_tables_that_are_refused(open_kind: OpenKind, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        read_all(open_kind("table", "a.csv"))
