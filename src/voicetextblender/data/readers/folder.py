"""Folders of recordings with their transcripts beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from voicetextblender.audio.storage import is_remote, list_remote, parent_folder
from voicetextblender.chat.fields import refusal
from voicetextblender.data.readers.columns import ColumnsParser
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.files import AUDIO_SUFFIXES, local_copy
from voicetextblender.data.readers.fingerprints import fingerprint_files
from voicetextblender.data.readers.lines import JsonRows
from voicetextblender.data.readers.source import Item, RawRow, RowStore, Source, Span
from voicetextblender.data.readers.spoken import Wordings
from voicetextblender.data.readers.table import TableRows
from voicetextblender.errors import DataError, describe

Layout = Literal["librispeech", "ljspeech", "pairs"]


def open_folder(config: SourceConfig, cache_dir: Path) -> Source:
    """A folder of the kind folder, in the layout of LibriSpeech, LJSpeech, the datasets library, or pairs of files."""
    wordings = Wordings(config.prompts)
    return Source(config, _open_store(config, cache_dir), ColumnsParser(config, wordings), wordings.fingerprint)


def _open_store(config: SourceConfig, cache_dir: Path) -> RowStore:
    folder, where = config.path.rstrip("/"), f"source '{config.name}'"
    files = list_files(folder)
    if not files and not os.path.isdir(folder):
        found = "is a file" if os.path.isfile(folder) else "does not exist"
        raise DataError(describe(where, f"'{folder}' {found}", "kind 'folder' reads a folder", "Correct the path"))
    if f"{folder}/metadata.jsonl" in files:
        return JsonRows(f"{folder}/metadata.jsonl", config.name, cache_dir)
    table = f"{folder}/metadata.csv"
    if table in files:
        with local_copy(table, cache_dir).open(encoding="utf-8-sig") as opened:
            has_header = "file_name" in opened.readline()
        if has_header:
            return TableRows(table, config.name, cache_dir)
        return TranscriptRows("ljspeech", [table], folder, cache_dir)
    if found_lists := [path for path in files if path.endswith(".trans.txt")]:
        return TranscriptRows("librispeech", found_lists, folder, cache_dir)
    pairs = [f"{stem}.txt" for stem, suffix in map(os.path.splitext, files) if suffix.lower() in AUDIO_SUFFIXES]
    if not set(files).isdisjoint(pairs):
        return TranscriptRows("pairs", pairs, folder, cache_dir)
    expected = "transcripts are *.trans.txt, metadata.csv, metadata.jsonl, or one .txt beside each recording"
    raise DataError(describe(where, f"no transcripts in '{folder}'", expected, "Correct the path, or write a table"))


def list_files(folder: str) -> tuple[str, ...]:
    """All files below a folder, local or remote, sorted; none if there is no such folder."""
    if is_remote(folder):
        return tuple(_list_remote(folder))
    found = (os.path.join(path, name) for path, _, names in os.walk(folder, followlinks=True) for name in names)
    return tuple(sorted(found, key=lambda path: path.split("/")))


@lru_cache(maxsize=4)
def _list_remote(folder: str) -> dict[str, None]:
    """In order, and quick to look up: one listing costs less than asking for each file."""
    try:
        return dict.fromkeys(list_remote(folder))
    except OSError as error:
        expected, fix = "a folder that its file system can list", "Check address and access"
        raise DataError(describe(folder, f"cannot be listed ({error})", expected, fix)) from None


class TranscriptRows:
    """Transcripts in files of text: `id words` (LibriSpeech), `id|words|normalised words` (LJSpeech), or words alone.

    Args:
        layout: how the lines of a file are read; of "pairs" each file is one row.
        files: the files with the transcripts; of "pairs" some may not exist.
        folder: the one in which all of them lie.
        cache_dir: folder for copies of remote ones.
    """

    def __init__(self, layout: Layout, files: Sequence[str], folder: str, cache_dir: Path) -> None:
        self.layout = layout
        self.paths = tuple(files)
        self.folder = folder
        self.cache_dir = cache_dir

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(0 if is_remote(path) or not os.path.isfile(path) else os.path.getsize(path) for path in self.paths)

    @property
    def fingerprint(self) -> str:
        files = tuple(self._local(path) for path in self.paths if self._exists(path))
        return fingerprint_files(files, self.cache_dir)

    def where(self, line: int, file: int = 0) -> str:
        return self.paths[file] if self.layout == "pairs" else f"{self.paths[file]}:{line}"

    def spans(self) -> Iterator[Span]:
        return (Span(file, 1, 0, size) for file, size in enumerate(self.sizes))

    def scan(self, span: Span) -> Iterator[RawRow]:
        path = self.paths[span.file]
        if self.layout == "pairs":
            yield RawRow(1, 0, self._local(path).read_bytes() if self._exists(path) else b"", span.file)
            return
        offset = 0
        with self._local(path).open("rb") as opened:
            for line, content in enumerate(opened, start=1):
                if content.strip():
                    yield RawRow(line, offset, content, span.file)
                offset += len(content)

    def fetch(self, line: int, offset: int, num_bytes: int, file: int) -> RawRow:
        if self.layout == "pairs" and not num_bytes:  # there may be no such file
            return RawRow(line, offset, b"", file)
        with self._local(self.paths[file]).open("rb") as opened:
            opened.seek(offset)
            return RawRow(line, offset, opened.read(num_bytes), file)

    def decode(self, row: RawRow) -> Item:
        path, where = self.paths[row.file], self.where(row.line, row.file)
        if self.layout == "pairs" and not self._exists(path):
            raise refusal(where, "the file does not exist", "each recording has its text beside it", "Write it")
        try:
            text = row.content.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            found = f"no UTF-8 text at byte {error.start + 1}"
            raise refusal(where, found, "a transcript in UTF-8 is needed", "Save it as UTF-8") from None
        if self.layout == "pairs":
            name, words = os.path.splitext(path.rpartition("/")[2])[0], text
        elif self.layout == "librispeech":
            name, _, words = text.partition(" ")
        else:
            name, _, words = text.partition("|")
            words = words.rpartition("|")[2] or words.partition("|")[0]
        value = {"id": name, "audio": self._find_audio(path, name, where), "text": words.strip()}
        if self.layout == "librispeech":
            value["speaker"] = name.partition("-")[0]
        return Item(value, where, parent_folder(path), name, row.file)

    def _exists(self, path: str) -> bool:
        return path in _list_remote(self.folder) if is_remote(path) else os.path.isfile(path)

    def _local(self, path: str) -> Path:
        return local_copy(path, self.cache_dir)

    def _find_audio(self, transcript: str, name: str, where: str) -> str:
        beside = parent_folder(transcript)
        folders = (beside, f"{beside}/wavs") if self.layout == "ljspeech" else (beside,)
        for folder in folders:
            for suffix in AUDIO_SUFFIXES:
                path = f"{folder}/{name}{suffix}"
                if self._exists(path):
                    return path if is_remote(path) else os.path.abspath(path)
        found = f"no recording '{name}' in '{folders[-1]}'"
        fix = "Correct the line, or remove it"
        raise refusal(where, found, f"a file is looked for that ends in {', '.join(AUDIO_SUFFIXES)}", fix)
