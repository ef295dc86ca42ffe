"""WebDataset shards: tar files in which the members of a sample stand side by side and share a name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from voicetextblender.audio.storage import StoredAudio, is_remote, open_binary
from voicetextblender.chat.fields import refusal, show
from voicetextblender.data.readers.columns import ColumnsParser
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.files import AUDIO_SUFFIXES, find_files
from voicetextblender.data.readers.huggingface import RowParser
from voicetextblender.data.readers.source import Item, RawRow, Source, Span
from voicetextblender.data.readers.spoken import Wordings
from voicetextblender.data.readers.talk import TalkParser
from voicetextblender.data.readers.values import USUAL_NAMES
from voicetextblender.errors import DataError, describe

_MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<extension>[^/]+)")
"""The key of a sample ends at the first dot of the file name. Source: the WebDataset format, "base name, extension"."""


def open_webdataset(config: SourceConfig, cache_dir: Path) -> Source:
    """Shards of the kind webdataset."""
    wordings = Wordings(config.prompts)
    talk = TalkParser(config.audio_mark or "<audio>", config.language)
    parser = RowParser(talk, ColumnsParser(config, wordings))
    return Source(config, Samples(find_files(config.path, config.name)), parser, wordings.fingerprint)


class Samples:
    """The samples of uncompressed tar files; each is a run of bytes, read at once with the clips in it.

    A sample becomes a row: its `.json` an object of named values, `.txt` the text, a recording `audio` (several:
    `audios`), and every other member in UTF-8 a value under its extension.

    Args:
        paths: the files, local or remote.
    """

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.paths = paths

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(0 if is_remote(path) else os.path.getsize(path) for path in self.paths)

    @property
    def fingerprint(self) -> str:
        """Of names, sizes and times of change: the content is too much to read at every start."""
        stats = [(path, *(() if is_remote(path) else _stat(path))) for path in self.paths]
        return hashlib.sha256(repr(stats).encode()).hexdigest()

    def where(self, line: int, file: int = 0) -> str:
        return f"{self.paths[file]} sample {line}"

    def spans(self) -> Iterator[Span]:
        return (Span(file, 1, 0, size) for file, size in enumerate(self.sizes))

    def scan(self, span: Span) -> Iterator[RawRow]:
        path = self.paths[span.file]
        try:
            with open_binary(path) as file:
                yield from (row._replace(file=span.file) for row in _scan(file))
        except (tarfile.TarError, OSError) as error:
            expected = "an uncompressed tar is needed, so that its samples can be read in place"
            raise DataError(describe(path, f"cannot be read ({error})", expected, "Unzip or make it again")) from None

    def fetch(self, line: int, offset: int, num_bytes: int, file: int) -> RawRow:
        try:
            content = StoredAudio(self.paths[file], offset, num_bytes).open().getvalue()
        except OSError as error:
            found, expected = f"cannot be read ({error})", "the tar as it was indexed is needed"
            raise refusal(self.where(line, file), found, expected, "Start again, or restore the file") from None
        return RawRow(line, offset, content, file)

    def decode(self, row: RawRow) -> Item:
        where = self.where(row.line, row.file)
        try:
            with tarfile.open(fileobj=BytesIO(row.content), mode="r:") as tar:
                members = [(member.name, tar.extractfile(member)) for member in tar if member.isfile()]
                files = [(name, file.read()) for name, file in members if file is not None]
        except tarfile.TarError as error:
            raise refusal(where, f"no sample of a tar ({error})", "whole members are needed", "Make it again") from None
        key = _split(files[0][0])[0]
        return Item(_row(files, where), where, os.path.dirname(self.paths[row.file]), key, row.file)


def _stat(path: str) -> tuple[int, int]:
    return os.path.getsize(path), os.stat(path).st_mtime_ns


def _split(name: str) -> tuple[str, str]:
    """Key and extension; members without extension are no part of any sample."""
    match = _MEMBER.fullmatch(name.removeprefix("./"))
    return (match["key"], match["extension"].lower()) if match else ("", "")


def _scan(file: BinaryIO) -> Iterator[RawRow]:
    line, key, begin, end = 0, "", 0, 0

    def cut() -> RawRow:
        file.seek(begin)
        return RawRow(line, begin, file.read(end - begin))

    with tarfile.open(fileobj=file, mode="r:") as tar:
        while True:
            member = tar.next()
            tar.members = []  # type: ignore[attr-defined]  # otherwise they pile up
            name = _split(member.name)[0] if member is not None and member.isfile() else ""
            if key and (member is None or (name and name != key)):
                yield cut()
            if member is None:
                return
            if name and name != key:
                key, begin, line = name, member.offset, line + 1
            if name:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _row(files: list[tuple[str, bytes]], where: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    clips = []
    for name, content in files:
        extension = _split(name)[1]
        if f".{extension.rpartition('.')[2]}" in AUDIO_SUFFIXES:
            clips.append({"bytes": content, "path": name})
        elif extension == "json":
            row |= _load(content, where)
        elif text := _decode(content):
            row["text" if extension == "txt" else extension] = text.strip()
    if clips:
        for column in USUAL_NAMES["audio"]:  # where the clip was before it came into the shard
            row.pop(column, None)
        row["audios"] = clips
    if len(clips) == 1:
        row["audio"] = clips[0]
    return row


def _load(content: bytes, where: str) -> dict[str, Any]:
    try:
        loaded = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise refusal(where, f"its .json is no JSON ({error})", "an object is expected", "Make it again") from None
    if not isinstance(loaded, dict):
        raise refusal(where, f"its .json is {show(loaded)}", "an object with named values is expected", "Rewrite it")
    return loaded


def _decode(content: bytes) -> str | None:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
