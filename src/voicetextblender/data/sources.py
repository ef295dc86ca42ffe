"""Sources: what a recipe points at, each read in the shape that its `kind` names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from voicetextblender.chat.conversation import Conversation, parse_conversation
from voicetextblender.data.readers.alpaca import parse_alpaca
from voicetextblender.data.readers.columns import ColumnsParser
from voicetextblender.data.readers.config import Kind, SourceConfig
from voicetextblender.data.readers.folder import open_folder
from voicetextblender.data.readers.huggingface import open_huggingface
from voicetextblender.data.readers.lhotse import open_lhotse, open_shar
from voicetextblender.data.readers.lines import JsonRows
from voicetextblender.data.readers.nemo import open_nemo
from voicetextblender.data.readers.source import Item, Source
from voicetextblender.data.readers.spoken import Wordings
from voicetextblender.data.readers.table import open_table
from voicetextblender.data.readers.talk import TalkParser
from voicetextblender.data.readers.webdataset import open_webdataset

CACHE_DIR = Path("runs/cache")
"""Where copies of files are kept that cannot be read by offset, unless it is told otherwise."""


def open_source(config: SourceConfig, cache_dir: Path = CACHE_DIR) -> Source:
    """The reader for the source's kind.

    Args:
        cache_dir: folder for what a reader must keep: tables of tar members, unpacked or fetched manifests.

    Raises:
        DataError: the files do not exist, or are not what the kind says.
    """
    return _OPEN[config.kind](config, cache_dir)


def _open_jsonl(config: SourceConfig, cache_dir: Path) -> Source:
    return Source(config, JsonRows(config.path, config.name, cache_dir, may_be_list=False), _parse_own)


def _parse_own(item: Item) -> tuple[Conversation, ...]:
    return (parse_conversation(item.value, item.where, item.folder),)


def _open_talk(config: SourceConfig, cache_dir: Path) -> Source:
    store = JsonRows(config.path, config.name, cache_dir, folder=config.audio_folder)
    return Source(config, store, TalkParser(config.audio_mark or "<audio>", config.language))


def _open_alpaca(config: SourceConfig, cache_dir: Path) -> Source:
    return Source(config, JsonRows(config.path, config.name, cache_dir), parse_alpaca)


def _open_columns(config: SourceConfig, cache_dir: Path) -> Source:
    store = JsonRows(config.path, config.name, cache_dir, folder=config.audio_folder)
    wordings = Wordings(config.prompts)
    return Source(config, store, ColumnsParser(config, wordings), wordings.fingerprint)


_OPEN: dict[Kind, Callable[[SourceConfig, Path], Source]] = {
    "jsonl": _open_jsonl,
    "nemo": open_nemo,
    "nemo_tarred": open_nemo,
    "nemo_conversation": open_nemo,
    "lhotse": open_lhotse,
    "lhotse_shar": open_shar,
    "sharegpt": _open_talk,
    "openai": _open_talk,
    "alpaca": _open_alpaca,
    "qa": _open_columns,
    "table": open_table,
    "folder": open_folder,
    "huggingface": open_huggingface,
    "webdataset": open_webdataset,
}
