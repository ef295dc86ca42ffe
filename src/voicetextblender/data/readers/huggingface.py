"""Datasets in binary tables: Arrow as `save_to_disk` writes it, and Parquet; clips are decoded by us."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

from voicetextblender.audio.storage import is_remote, join_path, list_remote, open_binary
from voicetextblender.chat.conversation import Conversation
from voicetextblender.data.readers.binary import BinaryRows
from voicetextblender.data.readers.columns import ColumnsParser
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.files import expand_paths
from voicetextblender.data.readers.source import Item, Source
from voicetextblender.data.readers.spoken import Wordings
from voicetextblender.data.readers.talk import TalkParser
from voicetextblender.errors import DataError, describe

_SUFFIXES = (".arrow", ".parquet")
_SPLIT = re.compile(r"^(.*?)-\d+-of-\d+")


def open_huggingface(config: SourceConfig, cache_dir: Path) -> Source:
    """A dataset of the kind huggingface: a folder of one split, or a pattern of .parquet or .arrow files.

    Remote tables are copied to the cache: rows are read in any order, which takes a whole row group each time.
    """
    wordings = Wordings(config.prompts)
    talk = TalkParser(config.audio_mark or "<audio>", config.language)
    parser = RowParser(talk, ColumnsParser(config, wordings))
    store = BinaryRows(find_tables(config.path, config.name), cache_dir, config.audio_folder)
    return Source(config, store, parser, wordings.fingerprint)


@dataclass(frozen=True)
class RowParser:
    """Makes conversations of rows of either sort: with turns, or with columns."""

    talk: TalkParser
    columns: ColumnsParser

    def __call__(self, item: Item) -> Sequence[Conversation]:
        has_turns = item.value.get("messages") or item.value.get("conversations")
        return self.talk(item) if has_turns else self.columns(item)


def find_tables(path: str, source: str) -> tuple[str, ...]:
    """The .arrow or .parquet files of a path, local or remote.

    Raises:
        DataError: there are none, or those of several splits.
    """
    where, folder = f"source '{source}'", path.rstrip("/") or path
    names = _names_in(folder)
    if "dataset_dict.json" in names:
        splits = sorted(_read_json(join_path(folder, "dataset_dict.json"))["splits"])
        found = f"'{path}' holds the splits {', '.join(splits)}"
        fix = f"Name it, such as '{join_path(folder, splits[0])}'"
        raise DataError(describe(where, found, "a source is one split", fix))
    if "state.json" in names:  # beside the files that it names, others may be kept from earlier uses
        state = _read_json(join_path(folder, "state.json"))
        return tuple(join_path(folder, one["filename"]) for one in state["_data_files"])
    tables = [join_path(folder, name) for name in names if name.endswith(_SUFFIXES)]
    files = tuple(one for one in tables or expand_paths(path) if one.endswith(_SUFFIXES))
    if not files or not all(is_remote(one) or Path(one).is_file() for one in files):
        expected = "a folder of save_to_disk, or files .parquet or .arrow are needed"
        raise DataError(describe(where, f"no table at '{path}'", expected, "Correct the path"))
    named = (_SPLIT.match(one.rpartition("/")[2]) for one in files)
    splits = sorted({match[1] for match in named if match})
    if tables and len(splits) > 1:
        found = f"'{path}' holds the splits {', '.join(splits)}"
        raise DataError(describe(where, found, "a source is one split", f"Name it, such as '{path}/{splits[0]}-*'"))
    return files


def _names_in(folder: str) -> list[str]:
    """The files that lie in a folder, sorted; none where it is no folder."""
    if folder.endswith(_SUFFIXES) or has_magic(folder):
        return []
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    try:
        names = [url.removeprefix(f"{folder}/") for url in list_remote(folder)]
    except OSError as error:
        raise DataError(describe(folder, f"cannot be listed ({error})", "a folder is needed", "Correct it")) from None
    return [name for name in names if "/" not in name]


def _read_json(path: str) -> Any:
    with open_binary(path) as file:
        return json.load(file)
