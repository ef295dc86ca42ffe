"""What the folders of runs tell the report: loss curves, recipes, versions and the rows that training dropped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voicetextblender.errors import RunError, describe


@dataclass(frozen=True)
class RunLog:
    """A training behind the report.

    Args:
        column: the column that it fills, or any word for a training before them.
        label: what the report calls it.
        folder: of the run; what is missing in it is missing in the report.
    """

    column: str
    label: str
    folder: Path


def read_losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, loss) by kind from `log.jsonl`; the kind `""` is the whole blend.

    A step that was logged again after a resume counts once, as it was last; a last line cut short by a kill is
    left out.

    Raises:
        RunError: another line cannot be read.
    """
    path = folder / "log.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    steps: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            steps[int(record["step"])] = record
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                found, expected = "the line is no log record", "each line is a JSON object with a step"
                raise RunError(describe(f"{path}:{number}", found, expected, "Remove the line")) from None
    curves: dict[str, list[tuple[int, float]]] = {}
    for step, record in sorted(steps.items()):
        for kind, loss in {"": record.get("loss"), **(record.get("loss_by_task") or {})}.items():
            if loss is not None:
                curves.setdefault(kind, []).append((step, float(loss)))
    return curves


def read_recipe(folder: Path) -> str:
    """The resolved recipe as it stands in the run, or nothing."""
    path = folder / "recipe.yaml"
    return path.read_text("utf-8") if path.is_file() else ""


def read_environment(folder: Path) -> dict[str, str]:
    """Versions, commit and machine of the run, flattened."""
    return dict(_flatten(_read_json(folder / "environment.json")))


def read_drops(folder: Path) -> list[tuple[str, str, int]]:
    """(source, reason, rows) for every count of dropped rows in `data.json`."""
    return list(_find_drops(_read_json(folder / "data.json"), ""))


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        yield prefix, ", ".join(map(str, value))
    else:
        yield prefix, str(value)


def _find_drops(value: Any, name: str) -> Iterator[tuple[str, str, int]]:
    if isinstance(value, list):
        for inner in value:
            yield from _find_drops(inner, name)
    if not isinstance(value, dict):
        return
    own_name = str(value.get("name", name))
    for key, inner in value.items():
        if key == "drops" and isinstance(inner, dict):
            yield from ((own_name, str(reason), int(count)) for reason, count in inner.items())
        else:
            yield from _find_drops(inner, str(key) if isinstance(inner, dict) else own_name)
