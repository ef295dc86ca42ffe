"""Values checked against a config; what does not fit is told by file, line and key."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from voicetextblender.errors import RecipeError, describe, describe_many
from voicetextblender.train.yaml_tree import Tree, dotted

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def validate(config_class: type[ConfigT], tree: Tree) -> ConfigT:
    """The tree as a config.

    Raises:
        RecipeError: keys that are unknown or missing and values that are not allowed, the first five of them.
    """
    try:
        return config_class.model_validate(tree.values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems = [_explain(config_class, tree, details) for details in found if not _follows(details, found)]
        raise RecipeError(describe_many(problems)) from None


def _follows(details: ErrorDetails, found: Sequence[ErrorDetails]) -> bool:
    """Whether a list is only too short because its items were refused."""
    below = (one["loc"][: len(details["loc"])] == details["loc"] and one is not details for one in found)
    return details["type"] == "too_short" and any(below)


def _explain(config_class: type[BaseModel], tree: Tree, details: ErrorDetails) -> str:
    """One of pydantic's findings in the form of all errors."""
    path = _place(tree.values, details["loc"], is_missing=details["type"] == "missing")
    where = f"{tree.origin(path)} {dotted(path)}".rstrip()
    if details["type"] == "extra_forbidden":
        allowed = _keys_at(config_class, details["loc"][:-1])
        fix = f"{suggest(path[-1], allowed)}Rename or remove it"
        return describe(where, f"unknown key '{path[-1]}'", f"allowed are {', '.join(allowed)}", fix)
    if details["type"] == "missing":
        return describe(where, "not given", "it has no default", "Add it")
    if details["type"] == "union_tag_invalid":
        tag, tags = details["ctx"]["tag"], details["ctx"]["expected_tags"]
        known = [known.strip("'") for known in tags.split(", ")]
        return describe(
            f"{where}.kind", f"value '{tag}'", f"it should be {tags}", f"{suggest(tag, known)}Change the value"
        )
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error" and "; " in message:  # a config's own check already speaks in this form
        return f"{tree.origin(path)} {message}"
    together = details["type"] == "value_error" and isinstance(details["input"], dict)
    found = "its values do not fit together" if together else "value " + _shorten(repr(details["input"]))
    expected = (message[:1].lower() + message[1:]).replace("input should", "it should", 1).rstrip(".")
    return describe(where, found, expected, "Change the value")


def _place(values: Any, location: Sequence[str | int], is_missing: bool) -> tuple[str, ...]:
    """The keys of a location; what else pydantic puts there (the branch of a union that was tried) is left out."""
    path: list[str] = []
    for part in location:
        if part in (values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()):
            values = values[part]
        elif not (is_missing and part == location[-1]):
            continue
        path.append(str(part))
    return tuple(path)


def _shorten(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def suggest(word: str, known: Sequence[str]) -> str:
    """A question that ends in a space, or nothing when no known word is near."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean '{close[0]}'? " if close else ""


def _keys_at(config_class: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys that are allowed in the section at `path`."""
    here: list[_Choice] = [_Choice(None, config_class)]
    for part in path:
        chosen = [choice for choice in here if choice.is_called(part)]
        here = chosen or [below for choice in here for below in _step(choice, part)]
    return [key for choice in here for key in choice.config.model_fields]


class _Choice(NamedTuple):
    """A config that may stand at a place, and what pydantic calls it where there are several."""

    tag: str | None
    config: type[BaseModel]

    def is_called(self, part: str | int) -> bool:
        kind = self.config.model_fields.get("kind")
        return part == self.tag or (kind is not None and part in get_args(kind.annotation))


def _step(choice: _Choice, part: str | int) -> list[_Choice]:
    """The configs that may stand under one key; the position in a list leads nowhere new."""
    if isinstance(part, str) and part in choice.config.model_fields:
        return list(_choices_in(choice.config.model_fields[part].annotation))
    return [choice]


def _choices_in(annotation: Any, tag: str | None = None) -> Iterator[_Choice]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield _Choice(tag, annotation)
    elif get_origin(annotation) in (Union, types.UnionType, Annotated, list, tuple, dict):
        first, *others = get_args(annotation)
        tags = [one.tag for one in others if isinstance(one, Tag)]
        for argument in (first, *others):
            yield from _choices_in(argument, tags[0] if tags else tag)
