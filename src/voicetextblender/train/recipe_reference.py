"""Every key of a recipe, with type, default and meaning, as Markdown; read from the configs themselves."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from voicetextblender.train.recipe import Recipe

BEGIN, END = "<!-- keys: begin, written by `make docs` -->", "<!-- keys: end -->"
"""What stands around the reference in docs/recipes.md."""

_NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path", type(None): "null"}
_BOUNDS = {
    annotated_types.Ge: ("ge", ">="),
    annotated_types.Gt: ("gt", ">"),
    annotated_types.Le: ("le", "<="),
    annotated_types.Lt: ("lt", "<"),
}


def render_reference(config_class: type[BaseModel] = Recipe) -> str:
    """A table per section, where it first stands; `<name>` is a word of one's own, `<n>` the number of an item."""
    lines: list[str] = []
    for path, section in walk_sections(config_class, ""):
        lines += [f"## `{path}`" if path else "## at the top", "", _first_paragraph(section), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        meanings = describe_fields(section)
        for key, field in section.model_fields.items():
            row = (f"`{key}`", _describe_type(field), _describe_default(field), meanings.get(key, ""))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
        lines.append("")
    return "\n".join(lines)


def insert_reference(page: str) -> str:
    """The page with the reference between its two marks, in place of what was there."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert rest and after, f"the page must hold the lines {BEGIN} and {END}"
    return f"{before}{BEGIN}\n\n{render_reference()}\n{END}{after}"


def walk_sections(config_class: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every config of a recipe with the dotted path at which it first stands, from the top down.

    Where a section is one of several, the path ends in the `kind` that chooses it.
    """
    yield from _walk(config_class, path, set())


def _walk(
    config_class: type[BaseModel], path: str, told: set[type[BaseModel]]
) -> Iterator[tuple[str, type[BaseModel]]]:
    if config_class in told:
        return
    told.add(config_class)
    kinds = get_args(config_class.model_fields["kind"].annotation) if "kind" in config_class.model_fields else ()
    yield f"{path} (kind: {kinds[0]})" if len(kinds) == 1 else path, config_class
    for key, field in config_class.model_fields.items():
        for steps, section in _sections_in(field.annotation):
            yield from _walk(section, ".".join(part for part in (path, key, *steps) if part), told)


def describe_fields(config_class: type[BaseModel]) -> dict[str, str]:
    """Meanings by key: from the `Args` of the docstring, else from the text below the attribute; base classes first."""
    meanings: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            meanings |= _texts_below_attributes(base) | _arguments_of(base)
    return meanings


def _sections_in(annotation: Any) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Configs inside an annotation, with what stands for the key or number of an item."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield (), annotation
        return
    place = {dict: ("<name>",), list: ("<n>",), tuple: ("<n>",)}.get(get_origin(annotation), ())
    for argument in get_args(annotation):
        for steps, section in _sections_in(argument):
            yield (*place, *steps), section


def _describe_type(field: FieldInfo) -> str:
    name = _type_name(field.annotation)
    for bound in field.metadata:
        if type(bound) in _BOUNDS:
            attribute, sign = _BOUNDS[type(bound)]
            name += f" {sign} {getattr(bound, attribute)}"
    return name


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_type_name, arguments)))
    if origin is tuple and Ellipsis not in arguments:
        return f"list of {len(arguments)}: " + ", ".join(map(_type_name, arguments))
    if origin in (list, tuple):
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"mapping of {_type_name(arguments[1])} by {_type_name(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _NAMES[annotation]


def _describe_default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, (tuple, list)):
        return f"`[{', '.join(map(str, value))}]`"
    written = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value) or '""'
    return f"`{written}`"


def _first_paragraph(config_class: type[BaseModel]) -> str:
    return inspect.cleandoc(config_class.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def _arguments_of(config_class: type[BaseModel]) -> dict[str, str]:
    """The entries of the `Args` section of the class docstring."""
    _, _, section = inspect.cleandoc(config_class.__dict__.get("__doc__") or "").partition("Args:\n")
    block = re.split(r"\n\n|\n(?=\S)", section)[0]
    entries = re.findall(r"^(\w+): (.*(?:\n[ \t]+.*)*)", textwrap.dedent(block), re.MULTILINE)
    return {key: re.sub(r"\s+", " ", text) for key, text in entries}


def _texts_below_attributes(config_class: type[BaseModel]) -> dict[str, str]:
    """The string that follows each annotated attribute in the source of the class."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(config_class))).body[0]
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for attribute, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(attribute, ast.AnnAssign)
            and isinstance(text, ast.Expr)
            and isinstance(attribute.target, ast.Name)
        ):
            assert isinstance(text.value, ast.Constant)
            found[attribute.target.id] = re.sub(r"\s+", " ", str(text.value.value))
    return found


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(insert_reference(path.read_text("utf-8")), "utf-8")
