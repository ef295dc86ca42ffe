"""Values checked against a config; what does not fit is told by file, line and key."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
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
        problems = [_explain(config_class, tree, details) for details in error.errors(include_url=False)]
        raise RecipeError(describe_many(problems)) from None


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
    here: list[Any] = [config_class]
    for part in path:
        here = [model for annotation in here for model in _step(annotation, part)]
    return [key for config in here for key in config.model_fields]


def _step(config: type[BaseModel], part: str | int) -> list[type[BaseModel]]:
    """The configs that may stand under one key; a position in a list leads nowhere new, a `kind` chooses among them."""
    if isinstance(part, str) and part in config.model_fields:
        return list(_configs_in(config.model_fields[part].annotation))
    kinds = get_args(config.model_fields["kind"].annotation) if "kind" in config.model_fields else ()
    return [] if isinstance(part, str) and kinds and part not in kinds else [config]


def _configs_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated, list, tuple, dict):
        for argument in get_args(annotation):
            yield from _configs_in(argument)
