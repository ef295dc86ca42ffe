"""Folders of recordings with their transcripts beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from voicetextblender.chat.fields import refusal
from voicetextblender.data.readers.columns import ColumnsParser
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.fingerprints import fingerprint_files
from voicetextblender.data.readers.lines import JsonRows
from voicetextblender.data.readers.source import Item, RawRow, RowStore, Source, Span
from voicetextblender.data.readers.spoken import Wordings
from voicetextblender.data.readers.table import TableRows
from voicetextblender.errors import DataError, describe

AUDIO_SUFFIXES = (".flac", ".wav", ".opus", ".ogg", ".mp3", ".m4a", ".webm")
Layout = Literal["librispeech", "ljspeech", "pairs"]


def open_folder(config: SourceConfig, cache_dir: Path) -> Source:
    """A folder of the kind folder, in the layout of LibriSpeech, LJSpeech, the datasets library, or pairs of files."""
    wordings = Wordings(config.prompts)
    return Source(config, _open_store(config, cache_dir), ColumnsParser(config, wordings), wordings.fingerprint)


def _open_store(config: SourceConfig, cache_dir: Path) -> RowStore:
    folder, where = Path(config.path), f"source '{config.name}'"
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise DataError(describe(where, f"'{folder}' {found}", "kind 'folder' reads a folder", "Correct the path"))
    if (folder / "metadata.jsonl").is_file():
        return JsonRows(str(folder / "metadata.jsonl"), config.name, cache_dir)
    table = folder / "metadata.csv"
    if table.is_file() and "file_name" in table.open(encoding="utf-8-sig").readline():
        return TableRows(str(table), config.name, cache_dir)
    if table.is_file():
        return TranscriptRows("ljspeech", [table], cache_dir)
    if found_lists := sorted(folder.rglob("*.trans.txt")):
        return TranscriptRows("librispeech", found_lists, cache_dir)
    audio = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    pairs = [path.with_suffix(".txt") for path in audio]
    if any(path.is_file() for path in pairs):
        return TranscriptRows("pairs", pairs, cache_dir)
    expected = "transcripts are *.trans.txt, metadata.csv, metadata.jsonl, or one .txt beside each recording"
    raise DataError(describe(where, f"no transcripts in '{folder}'", expected, "Correct the path, or write a table"))


class TranscriptRows:
    """Transcripts in files of text: `id words` (LibriSpeech), `id|words|normalised words` (LJSpeech), or words alone.

    Args:
        layout: how the lines of a file are read; of "pairs" each file is one row.
        files: the files with the transcripts.
        cache_dir: for what is remembered of them.
    """

    def __init__(self, layout: Layout, files: Sequence[Path], cache_dir: Path) -> None:
        self.layout = layout
        self.paths = tuple(map(str, files))
        self._cache_dir = cache_dir

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(path.stat().st_size if path.is_file() else 0 for path in map(Path, self.paths))

    @property
    def fingerprint(self) -> str:
        files = tuple(path for path in map(Path, self.paths) if path.is_file())
        return fingerprint_files(files, self._cache_dir)

    def where(self, line: int, file: int = 0) -> str:
        return self.paths[file] if self.layout == "pairs" else f"{self.paths[file]}:{line}"

    def spans(self) -> Iterator[Span]:
        return (Span(file, 1, 0, size) for file, size in enumerate(self.sizes))

    def scan(self, span: Span) -> Iterator[RawRow]:
        path = Path(self.paths[span.file])
        if self.layout == "pairs":
            yield RawRow(1, 0, path.read_bytes() if path.is_file() else b"", span.file)
            return
        offset = 0
        with path.open("rb") as opened:
            for line, content in enumerate(opened, start=1):
                if content.strip():
                    yield RawRow(line, offset, content, span.file)
                offset += len(content)

    def fetch(self, line: int, offset: int, num_bytes: int, file: int) -> RawRow:
        with open(self.paths[file], "rb") as opened:
            opened.seek(offset)
            return RawRow(line, offset, opened.read(num_bytes), file)

    def decode(self, row: RawRow) -> Item:
        path, where = Path(self.paths[row.file]), self.where(row.line, row.file)
        if self.layout == "pairs" and not path.is_file():
            raise refusal(where, "the file does not exist", "each recording has its text beside it", "Write it")
        try:
            text = row.content.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            found = f"no UTF-8 text at byte {error.start + 1}"
            raise refusal(where, found, "a transcript in UTF-8 is needed", "Save it as UTF-8") from None
        if self.layout == "pairs":
            name, words = path.stem, text
        elif self.layout == "librispeech":
            name, _, words = text.partition(" ")
        else:
            name, _, words = text.partition("|")
            words = words.rpartition("|")[2] or words.partition("|")[0]
        value = {"id": name, "audio": self._find_audio(path, name, where), "text": words.strip()}
        return Item(value, where, str(path.parent), name, row.file)

    def _find_audio(self, transcript: Path, name: str, where: str) -> str:
        folders = ("", "wavs") if self.layout == "ljspeech" else ("",)
        for folder in folders:
            for suffix in AUDIO_SUFFIXES:
                path = transcript.parent / folder / f"{name}{suffix}"
                if path.is_file():
                    return str(path.absolute())
        found = f"no recording '{name}' in '{transcript.parent / folders[-1]}'"
        fix = "Correct the line, or remove it"
        raise refusal(where, found, f"a file is looked for that ends in {', '.join(AUDIO_SUFFIXES)}", fix)
