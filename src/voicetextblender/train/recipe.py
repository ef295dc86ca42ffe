"""A recipe: all that decides a training, in one frozen value; read from YAML, overlaid, overridden, written back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, model_validator

from voicetextblender.config import StrictConfig
from voicetextblender.data.loader import DataConfig
from voicetextblender.errors import RecipeError, describe
from voicetextblender.evaluate.config import EvaluateConfig
from voicetextblender.model.build import ModelConfig
from voicetextblender.train.config import TrainConfig
from voicetextblender.train.validate import suggest, validate
from voicetextblender.train.yaml_tree import Tree, apply_override, dotted, overlay, read_yaml

Count = Literal["speech_encoder", "adapter", "llm", "lora", "whole", "trained"]
"""What parameters are counted of."""


BESIDE_TRAINING = ("description", "published", "evaluate")
"""Sections that may change while a run goes on, and afterwards: its weights do not depend on them."""


class Recipe(StrictConfig):
    """One training from its base models to its report. Paths in it are relative to the working directory."""

    name: str = Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")
    """What the run is called; `vtb train` writes to `runs/<name>` when no folder is given."""
    description: str = ""
    """One line for people."""
    seed: int = Field(0, ge=0)
    """Key of all randomness: weights made new, order of the data, augmentation, dropout."""
    model: ModelConfig
    """What is joined."""
    data: DataConfig
    """What is read."""
    train: TrainConfig
    """How it learns."""
    published: dict[Count, str | None] = {}
    """Parameters that others have published for this model, null where it is not known; `vtb recipe check` prints them
    beside its own count."""
    evaluate: EvaluateConfig | None = None
    """Held-out items to measure on; without it `vtb evaluate` has nothing to do."""

    @model_validator(mode="after")
    def _check_held_out(self) -> Self:
        known = [source.name for source in self.data.all_sources.values() if source.held_out is not None]
        for name, row in self.evaluate.rows.items() if self.evaluate else ():
            if row.source is not None and row.source not in known:
                listed = ", ".join(known) or "none"
                raise ValueError(
                    f"it should have in evaluate.rows.{name}.source one of the sources with held_out: {listed}"
                )
        return self


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The resolved recipe: a shipped one by name (`mini`) or a file (with a `/` or ending in `.yaml`), then overrides.

    Args:
        overrides: dotted assignments such as `train.steps=10` or `model.lora.rank=8`, applied in order.

    Raises:
        RecipeError: every offender (the first five) with file, line and key, what is allowed, and a suggestion.
    """
    return validate(Recipe, read_tree(name_or_path, overrides))


def read_tree(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Tree:
    """The values of a recipe file laid over what it `extends`, with overrides; not yet checked against any config."""
    tree = _read_extended(_find(str(name_or_path), Path(), "recipe"), ())
    for override in overrides:
        apply_override(tree, override)
    return tree


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package, sorted."""
    return sorted(path.stem for path in _shipped_folder().glob("*.yaml"))


def dump_recipe(recipe: BaseModel) -> str:
    """The resolved recipe as YAML: every default written out, in the order of the configs; loads to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def recipe_fingerprint(recipe: Recipe) -> str:
    """SHA-256 of what a training depends on, in hexadecimal: equal for equal recipes, however they were written."""
    values = recipe.model_dump(mode="json", exclude=set(BESIDE_TRAINING))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def recipe_differences(ours: BaseModel, theirs: BaseModel) -> list[str]:
    """The dotted keys whose values differ, as `train.steps: 100 -> 200`, in the order of the keys."""
    before, after = (dict(_leaves(recipe.model_dump(mode="json"), ())) for recipe in (ours, theirs))
    keys = list(dict.fromkeys([*before, *after]))
    return [
        f"{dotted(key)}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in keys
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not children:
        yield path, value
        return
    for key, child in children:
        yield from _leaves(child, (*path, str(key)))


def _shipped_folder() -> Path:
    return Path(str(files("voicetextblender") / "recipes"))


def _find(name_or_path: str, folder: Path, where: str) -> Path:
    """The file of a shipped name, or of a path relative to `folder`."""
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return folder / name_or_path
    if name_or_path in shipped_recipes():
        return _shipped_folder() / f"{name_or_path}.yaml"
    raise RecipeError(
        describe(
            f"{where} '{name_or_path}'",
            "no recipe of that name in the package",
            f"there are {', '.join(shipped_recipes())}",
            f"{suggest(name_or_path, shipped_recipes())}For a file of your own write its path, ending in .yaml",
        )
    )


def _read_extended(path: Path, seen: tuple[Path, ...]) -> Tree:
    """The file and, below it, the chain that it extends."""
    if path.resolve() in seen:
        chain = " -> ".join(str(step.name) for step in (*seen, path))
        raise RecipeError(describe(str(path), f"extends itself ({chain})", "a chain with an end", "Break the circle"))
    tree = read_yaml(path)
    base = tree.values.pop("extends", None)
    if base is None:
        return tree
    where = f"{tree.origin(('extends',))} extends"
    if not isinstance(base, str):
        raise RecipeError(describe(where, f"{base!r}", "one name or path", "Write it like `extends: mini`"))
    return overlay(_read_extended(_find(base, path.parent, where), (*seen, path.resolve())), tree)
