"""Fields of rows that people wrote: taken with their type checked, or refused in the form of all errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from voicetextblender.errors import DataError, describe


def check_object(value: Any, known: tuple[str, ...], needed: tuple[str, ...], what: str, where: str) -> None:
    """Raise DataError unless `value` is an object with all `needed` keys and none but the `known` ones."""
    if not isinstance(value, dict):
        expected = f"{what} is an object with the keys {_list(known)}"
        raise refusal(where, f"found {show(value)}", expected, "Rewrite it")
    for key in needed:
        if key not in value:
            raise refusal(where, f"{what} lacks '{key}'", f"it must have {_join(needed)}", f"Add '{key}'")
    for key in value:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            fix = f"Write '{near[0]}'" if near else "Remove it, or put it under the conversation's 'metadata'"
            raise refusal(where, f"{what} has the unknown key '{key}'", f"known keys are {_list(known)}", fix)


def take_text(row: Mapping[str, Any], key: str, where: str, may_be_empty: bool = False) -> str:
    """The text under a key that is there."""
    value = row[key]
    if not isinstance(value, str) or not (value or may_be_empty):
        raise refusal(where, f"'{key}' is {show(value)}", "a text is expected", f"Write '{key}' as a string")
    return value


def take_seconds(
    row: Mapping[str, Any], key: str, where: str, is_allowed: Callable[[float], bool], expected: str
) -> float | None:
    """The number under a key; None where it is missing or null."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or not is_allowed(value):
        raise refusal(
            where, f"'{key}' is {show(value)}", f"a number of seconds, {expected}, is expected", f"Fix '{key}'"
        )
    return float(value)


def take_count(row: Mapping[str, Any], key: str, where: str) -> int | None:
    """The whole number under a key; None where it is missing or null."""
    value = row.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise refusal(where, f"'{key}' is {show(value)}", "a whole number, at least 0, is expected", f"Fix '{key}'")
    return value


def _list(keys: tuple[str, ...]) -> str:
    return ", ".join(f"'{key}'" for key in keys)


def _join(keys: tuple[str, ...]) -> str:
    return " and ".join(f"'{key}'" for key in keys)


def show(value: Any) -> str:
    """A value as errors quote it."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def refusal(where: str, found: str, expected: str, fix: str) -> DataError:
    """The error for a row, to be raised."""
    return DataError(describe(where, found, expected, fix))
