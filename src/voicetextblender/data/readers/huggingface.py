"""Datasets in binary tables: Arrow as `save_to_disk` writes it, and Parquet; clips are decoded by us."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voicetextblender.chat.conversation import Conversation
from voicetextblender.data.readers.binary import BinaryRows
from voicetextblender.data.readers.columns import ColumnsParser
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.files import expand_paths
from voicetextblender.data.readers.source import Item, Source
from voicetextblender.data.readers.spoken import Wordings
from voicetextblender.data.readers.talk import TalkParser
from voicetextblender.errors import DataError, describe

_SPLIT = re.compile(r"^(.*?)-\d+-of-\d+")


def open_huggingface(config: SourceConfig, cache_dir: Path) -> Source:
    """A dataset of the kind huggingface: a folder of one split, or a pattern of .parquet or .arrow files."""
    wordings = Wordings(config.prompts)
    talk = TalkParser(config.audio_mark or "<audio>", config.language)
    parser = RowParser(talk, ColumnsParser(config, wordings))
    store = BinaryRows(find_tables(config.path, config.name), config.audio_folder)
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
    """The .arrow or .parquet files of a path.

    Raises:
        DataError: there are none, or those of several splits.
    """
    folder, where = Path(path), f"source '{source}'"
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(one.name for one in folder.iterdir() if one.is_dir())
        found = f"'{path}' holds the splits {', '.join(splits)}"
        raise DataError(describe(where, found, "a source is one split", f"Name it, such as '{folder / splits[0]}'"))
    if (folder / "state.json").is_file():  # beside the files that it names, others may be kept from earlier uses
        state = json.loads((folder / "state.json").read_bytes())
        return tuple(str(folder / one["filename"]) for one in state["_data_files"])
    found_files = sorted(map(str, (*folder.glob("*.arrow"), *folder.glob("*.parquet")))) or expand_paths(path)
    files = tuple(one for one in found_files if one.endswith((".arrow", ".parquet")) and Path(one).is_file())
    if not files:
        expected = "a folder of save_to_disk, or files .parquet or .arrow on this machine are needed"
        raise DataError(describe(where, f"no table at '{path}'", expected, "Correct the path"))
    named = (_SPLIT.match(Path(one).name) for one in files)
    splits = sorted({match[1] for match in named if match})
    if folder.is_dir() and len(splits) > 1:
        found = f"'{path}' holds the splits {', '.join(splits)}"
        raise DataError(describe(where, found, "a source is one split", f"Name it, such as '{path}/{splits[0]}-*'"))
    return files
