"""NeMo's `input_cfg`: a YAML list of data sets and of groups of them, as the sources of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from voicetextblender.chat.fields import refusal, show
from voicetextblender.chat.slots import CLIP_SLOT
from voicetextblender.errors import DataError, describe

_KINDS = {
    "nemo": "nemo",
    "nemo_tarred": "nemo_tarred",
    "lhotse": "lhotse",
    "lhotse_shar": "lhotse_shar",
    "multimodal_conversation": "nemo_conversation",
}
_PATHS = {
    "nemo": "manifest_filepath",
    "nemo_tarred": "manifest_filepath",
    "lhotse": "cuts_path",
    "lhotse_shar": "shar_path",
    "multimodal_conversation": "manifest_filepath",
}
"""Which key of a data set names its files."""
_KNOWN = ("type", "weight", "tags", "tarred_audio_filepaths", "audio_locator_tag", "text_field", "lang_field")


def read_input_cfg(path: str, name: str) -> list[dict[str, Any]]:
    """The data sets of a file as values of `data.sources`, called by the name of their group and a number.

    Tags tell the languages (`lang` or `source_lang`, `target_lang`) and what is asked (`context`); others are labels
    and are not read.

    Raises:
        DataError: no such file, or an entry that has no counterpart here.
    """
    try:
        loaded = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        found = " ".join(str(error).split())
        raise DataError(describe(path, f"cannot be read ({found})", "a YAML list", "Correct input_cfg")) from None
    return _convert_all(loaded.get("input_cfg") if isinstance(loaded, Mapping) else loaded, name, path)


def _convert_all(entries: Any, name: str, where: str) -> list[dict[str, Any]]:
    if isinstance(entries, str):
        return read_input_cfg(entries, name)
    if not isinstance(entries, list) or not entries:
        raise refusal(where, f"input_cfg is {show(entries)}", "a list of data sets is expected", "Write one")
    return [_convert(entry, f"{name}-{number}", f"{where} {name}-{number}") for number, entry in enumerate(entries)]


def _convert(entry: Any, name: str, where: str) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise refusal(where, f"the entry is {show(entry)}", "an entry has named values", "Rewrite it")
    kind = entry.get("type")
    common = {"name": name, "weight": entry.get("weight", 1.0)}
    if kind == "group":
        _check_keys(entry, ("type", "weight", "tags", "input_cfg"), where)
        sources = _convert_all(entry.get("input_cfg"), name, where)
        return {**common, "sources": [_inherit(source, _read_tags(entry, where)) for source in sources]}
    if kind not in _KINDS:
        known = ", ".join((*_KINDS, "group"))
        raise refusal(where, f"the type is {show(kind)}", f"read are {known}", "Write it as a source of the recipe")
    _check_keys(entry, (*_KNOWN, _PATHS[kind]), where)
    source = {
        **common,
        "kind": _KINDS[kind],
        "path": _join(entry.get(_PATHS[kind]), _PATHS[kind], where),
        **_read_tags(entry, where),
    }
    if "tarred_audio_filepaths" in entry:
        source["tars"] = _join(entry["tarred_audio_filepaths"], "tarred_audio_filepaths", where)
    if "audio_locator_tag" in entry:
        source["audio_mark"] = entry["audio_locator_tag"]
    fields = {"text": entry.get("text_field"), "language": entry.get("lang_field")}
    if columns := {column: field for column, field in fields.items() if field is not None}:
        source["columns"] = columns
    return source


def _check_keys(entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := [key for key in entry if key not in known]:
        fix = "Remove it, or write the data set as a source of the recipe"
        raise refusal(where, f"'{unknown[0]}' has no counterpart here", f"read are {', '.join(known)}", fix)


def _inherit(source: dict[str, Any], tags: dict[str, Any]) -> dict[str, Any]:
    """What a group's tags tell counts for all in it that do not tell themselves."""
    if "sources" in source:
        return {**source, "sources": [_inherit(one, tags) for one in source["sources"]]}
    return tags | source


def _read_tags(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    tags = entry.get("tags") or {}
    if not isinstance(tags, Mapping):
        raise refusal(where, f"the tags are {show(tags)}", "tags have names", "Rewrite them")
    values = {"language": tags.get("lang") or tags.get("source_lang"), "target_language": tags.get("target_lang")}
    told = {name: value for name, value in values.items() if value is not None}
    if context := tags.get("context"):
        asked = [f"{context} {CLIP_SLOT}"]
        told["prompts"] = {"package": False, "transcription": asked, "translation": asked}
    return told


def _join(paths: Any, key: str, where: str) -> str:
    """One path, or several as one pattern."""
    several = [paths] if isinstance(paths, str) else paths
    if not isinstance(several, list) or not several or not all(isinstance(path, str) for path in several):
        raise refusal(where, f"'{key}' is {show(paths)}", "a path or a list of paths is expected", "Correct it")
    if len(several) == 1:
        return str(several[0])
    if any(sign in path for path in several for sign in ("{", ",", "_OP_")):
        found = f"'{key}' is a list of patterns"
        raise refusal(where, found, "a list holds plain paths", "Write an entry for each pattern")
    return f"{{{','.join(several)}}}"
