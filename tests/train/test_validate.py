"""Values checked against a config."""

from __future__ import annotations

from typing import Self

import pytest
from pydantic import Field, model_validator

from voicetextblender.config import StrictConfig
from voicetextblender.errors import RecipeError, describe
from voicetextblender.train.validate import validate
from voicetextblender.train.yaml_tree import parse_yaml


class Inner(StrictConfig):
    rank: int = Field(8, ge=1)
    alpha: float = 8.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.alpha < 0:
            raise ValueError(describe("inner.alpha", f"{self.alpha}", "0 or more", "Raise it"))
        return self


class Outer(StrictConfig):
    steps: int
    inner: Inner = Inner()
    maybe: Inner | None = None
    items: tuple[Inner, ...] = ()
    named: dict[str, Inner] = {}


def problems(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        validate(Outer, parse_yaml(text, "r.yaml"))
    return str(caught.value).split("\n")


def test_a_valid_tree_becomes_the_config() -> None:
    config = validate(Outer, parse_yaml("steps: 3\nmaybe: {rank: 2}\nitems: [{alpha: 1}]", "r.yaml"))
    assert config == Outer(steps=3, maybe=Inner(rank=2), items=(Inner(alpha=1.0),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "stpes: 3\nsteps: 1",
            "r.yaml:1 stpes: unknown key 'stpes'; allowed are steps, inner, maybe, items, named. "
            "Did you mean 'steps'? Rename or remove it.",
        ),
        (
            "steps: 1\ninner:\n  rnk: 3",
            "r.yaml:3 inner.rnk: unknown key 'rnk'; allowed are rank, alpha. Did you mean 'rank'? Rename or remove it.",
        ),
        (
            "steps: 1\nmaybe: {wholly_other: 3}",
            "r.yaml:2 maybe.wholly_other: unknown key 'wholly_other'; allowed are rank, alpha. Rename or remove it.",
        ),
        (
            "steps: 1\nitems:\n  - {rank: 1}\n  - {alfa: 3}",
            "r.yaml:4 items.1.alfa: unknown key 'alfa'; allowed are rank, alpha. "
            "Did you mean 'alpha'? Rename or remove it.",
        ),
        (
            "steps: 1\nnamed:\n  x: {ranks: 3}",
            "r.yaml:3 named.x.ranks: unknown key 'ranks'; allowed are rank, alpha. "
            "Did you mean 'rank'? Rename or remove it.",
        ),
        ("inner: {rank: 1}", "r.yaml steps: not given; it has no default. Add it."),
        (
            "steps: 1\ninner: {rank: 0}",
            "r.yaml:2 inner.rank: value 0; it should be greater than or equal to 1. Change the value.",
        ),
        (
            "steps: many",
            "r.yaml:1 steps: value 'many'; it should be a valid integer, unable to parse string as an integer. "
            "Change the value.",
        ),
        ("steps: 1\ninner: {alpha: -1}", "r.yaml:2 inner.alpha: -1.0; 0 or more. Raise it."),
    ],
)
def test_each_offender_is_told_with_its_place(text: str, message: str) -> None:
    assert problems(text) == [message]


def test_five_offenders_are_written_out_and_the_rest_counted() -> None:
    found = problems("\n".join(f"key{i}: {i}" for i in range(7)) + "\nsteps: 1")
    assert len(found) == 6
    assert found[0].startswith("r.yaml:1 key0: ") and found[4].startswith("r.yaml:5 key4: ")
    assert found[5] == "... and 2 more"
