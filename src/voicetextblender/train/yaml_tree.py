"""YAML read into plain values that remember where each one was written, overlaid and overridden."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from voicetextblender.errors import RecipeError, describe

KeyPath = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2: `1e-4` is a number; `no`, `on` and `1:30` are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


# Source: YAML 1.2.2, section 10.3.2, "Tag Resolution" of the core schema.
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


@dataclass
class Tree:
    """Nested values and, for each key path, the place where it was written (`mini.yaml:12` or `command line`)."""

    values: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        """The place of `path`, or of the nearest enclosing key that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return "recipe"


def read_yaml(path: Path) -> Tree:
    """The mapping in one YAML file.

    Raises:
        RecipeError: no such file, no text in UTF-8, bad YAML (with its line), a key written twice, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            describe(str(path), "no such file", "a recipe is a YAML file", "Check the path, or see `vtb recipe list`")
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            describe(str(path), f"not readable ({error})", "a recipe is a text file in UTF-8", "Check the file")
        ) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Tree:
    """As `read_yaml`, of a text."""
    tree = Tree({}, {(): where})
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise RecipeError(
                describe(where, "empty", "a recipe has keys and values", "Write at least `extends: mini`")
            )
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(
                describe(where, "no mapping at the top", "a recipe has lines `key: value`", "Write it as such lines")
            )
        tree.values = _plain(loader, node, where, (), tree.origins)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{where}:{mark.line + 1}" if mark else where
        problem = " ".join(part for part in (error.problem, error.context) if part)
        raise RecipeError(
            describe(line, f"no valid YAML ({problem})", "lines `key: value`, indented evenly", "Mend that line")
        ) from None
    except yaml.YAMLError as error:
        raise RecipeError(
            describe(where, f"no valid YAML ({error})", "lines `key: value`, indented evenly", "Mend the file")
        ) from None
    finally:
        loader.dispose()
    return tree


def _plain(loader: _Loader, node: yaml.Node, where: str, path: KeyPath, origins: dict[KeyPath, str]) -> Any:
    """The value of a node; the lines of its keys and items go to `origins`."""
    if not isinstance(node, yaml.ScalarNode) and node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
        raise yaml.constructor.ConstructorError(None, None, f"tag {node.tag}", node.start_mark)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = f"{where}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(describe(line, "a key that is no word", "keys are words", "Write `key: value`"))
            key = str(key_node.value)
            if key in mapping:
                raise RecipeError(
                    describe(
                        f"{line} {dotted((*path, key))}", "key written twice", "each key once", "Delete one of them"
                    )
                )
            origins[(*path, key)] = line
            mapping[key] = _plain(loader, value_node, where, (*path, key), origins)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            origins[(*path, str(index))] = f"{where}:{item.start_mark.line + 1}"
            items.append(_plain(loader, item, where, (*path, str(index)), origins))
        return items
    return loader.construct_object(node)


def dotted(path: Sequence[str | int]) -> str:
    """`("train", "steps")` as `train.steps`."""
    return ".".join(str(part) for part in path)


def overlay(base: Tree, top: Tree) -> Tree:
    """`base` with `top` laid over it: mappings merge key by key, anything else (lists too) is replaced whole.

    A mapping laid over a list changes items of it, named as in `apply_override`. A section that names another `kind`
    than the one below it replaces that whole, since the keys of one kind mean nothing to another.
    """
    merged = Tree(dict(base.values), dict(base.origins))
    _overlay_into(merged, merged.values, top, top.values, (), ())
    merged.origins[()] = top.origin(())
    return merged


def _overlay_into(
    merged: Tree, below: Any, top: Tree, above: Mapping[str, Any], path: KeyPath, top_path: KeyPath
) -> None:
    """Lay `above`, which stands at `top_path` of `top`, into the mapping or list `below`, at `path` of `merged`."""
    for key, value in above.items():
        there = (*top_path, key)
        is_item = isinstance(below, list)
        index: Any = _item_index(below, key, there, f"{top.origin(there)} {dotted(there)}") if is_item else key
        here = (*path, str(index))
        child = below[index] if is_item else below.get(index)
        begins_anew = not is_item and _is_of_another_kind(child, value)
        if isinstance(value, dict) and isinstance(child, (dict, list)) and not begins_anew:
            below[index] = child.copy()
            merged.origins[here] = top.origin(there)
            _overlay_into(merged, below[index], top, value, here, there)
        else:
            below[index] = value
            _move_origins(merged, top, here, there)


def _is_of_another_kind(below: Any, above: Any) -> bool:
    sections = isinstance(below, dict) and isinstance(above, dict)
    return sections and "kind" in above and above["kind"] != below.get("kind")


def _move_origins(merged: Tree, top: Tree, here: KeyPath, there: KeyPath) -> None:
    """Places at and below `here` are forgotten; those at and below `there` of `top` take their place."""
    for path in [path for path in merged.origins if path[: len(here)] == here]:
        del merged.origins[path]
    for path, place in top.origins.items():
        if path[: len(there)] == there:
            merged.origins[(*here, *path[len(there) :])] = place


def apply_override(tree: Tree, override: str) -> None:
    """Set one value in place, from `train.steps=10` or `data.sources.0.weight=2`; the value is read as YAML.

    An item of a list is named by its number or, when the items are mappings with a `name`, by that name. Another `kind`
    of a section takes its other keys away, as in `overlay`.

    Raises:
        RecipeError: no `=`, an empty key, bad YAML, no such list item, or a path through a plain value.
    """
    where = f"command line '{override}'"
    keys, equals, text = override.partition("=")
    path = tuple(keys.strip().split("."))
    if not equals or not all(path):
        raise RecipeError(describe(where, "no override", "`key.key=value`", "Write it like train.steps=10"))
    value = parse_yaml(f"value: {text}", where).values["value"]
    container: Any = tree.values
    is_section = False  # neither the whole tree nor an item of a list
    resolved: KeyPath = ()
    for depth, key in enumerate(path):
        if not isinstance(container, (dict, list)):
            found = f"{dotted(path[:depth])} is the value {container!r}"
            raise RecipeError(describe(where, found, "only a section has keys below it", "Shorten the key"))
        index: Any = _item_index(container, key, path[: depth + 1], where) if isinstance(container, list) else key
        resolved = (*resolved, str(index))
        if depth < len(path) - 1:
            is_section = isinstance(container, dict)
            container = _open_child(container, index)
            continue
        if is_section and key == "kind" and _is_of_another_kind(container, {key: value}):
            container.clear()
        container[index] = value
    _move_origins(tree, Tree({}, {resolved: where}), resolved, resolved)
    for depth in range(1, len(resolved)):
        tree.origins.setdefault(resolved[:depth], where)


def _open_child(container: Any, index: Any) -> Any:
    """What stands at `index`, copied in place so that a shared base stays as it is; a missing section is made."""
    child = container[index] if isinstance(container, list) else container.get(index)
    child = {} if child is None else child.copy() if isinstance(child, (dict, list)) else child
    container[index] = child
    return child


def _item_index(items: list[Any], key: str, path: KeyPath, where: str) -> int:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    known = ", ".join(str(name) for name in names if name is not None)
    raise RecipeError(
        describe(
            where,
            f"no item '{key}' in the list {dotted(path[:-1])}",
            f"it has {len(items)} items, numbered from 0" + (f" or named {known}" if known else ""),
            "Use one of these, or put the item into a recipe file",
        )
    )
