"""What a blend is mixed of: sources in nested groups, and the share of the draws that each of them has."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from voicetextblender.errors import DataError, describe, describe_many

EXACT_BITS = 192
"""Shares whose common denominator has more bits are rounded."""
ROUNDED_BITS = 64
"""To this power of 1/2."""


@dataclass(frozen=True)
class Member:
    """A source as the blend knows it.

    Args:
        weight: share beside its siblings, on any scale; 0 leaves it out.
        max_epochs: how often each of its rows is drawn at most; None for no end.
    """

    name: str
    weight: float = 1.0
    max_epochs: float | None = None


@dataclass(frozen=True)
class Group:
    """Sources and groups that share what the group is given.

    Args:
        temperature: the weight of each member is multiplied by its number of rows to this power: 1 shares in proportion
            to the rows, 0 and None by the weights alone.
            Source: Conneau and Lample, Cross-lingual Language Model Pretraining (2019), section 3.1.
    """

    members: tuple[Member | Group, ...]
    name: str = ""
    weight: float = 1.0
    temperature: float | None = None

    @property
    def sources(self) -> Iterator[Member]:
        """The sources of all levels, in order."""
        for member in self.members:
            if isinstance(member, Group):
                yield from member.sources
            else:
                yield member

    @property
    def paths(self) -> Iterator[tuple[str, ...]]:
        """Of each source the names of the groups around it, from the outermost; this one's is not told."""
        for member in self.members:
            if isinstance(member, Group):
                yield from ((member.name, *path) for path in member.paths)
            else:
                yield ()


class Mixture:
    """The shares of the sources of a group, at the start and after some of them were used up.

    A source that is used up leaves its share to those beside it in its group; a group that is, to those beside it.

    Args:
        sizes: number of rows of each source by name.

    Raises:
        DataError: a weight that is negative or not finite, a group without a positive one, a weighted source without
            rows, or a cap that allows none.
    """

    def __init__(self, group: Group, sizes: Mapping[str, int]) -> None:
        _check(group, sizes)
        self.sources = tuple(group.sources)
        numbers = {source.name: number for number, source in enumerate(self.sources)}
        self._tree = _prepare(group, sizes, numbers)
        self.max_draws = tuple(_max_draws(source, sizes[source.name]) for source in self.sources)
        """Of each source; None for no end."""

    def integer_weights(self, gone: Collection[int] = ()) -> tuple[int, ...]:
        """The shares on one integer scale, 0 for those in `gone` (numbers of sources)."""
        shares = _shares(self._tree, gone)
        common = math.lcm(*{denominator for _, _, denominator in shares})
        weights = [0] * len(self.sources)
        for number, numerator, denominator in shares:
            if common.bit_length() <= EXACT_BITS:
                weights[number] = numerator * (common // denominator)
            else:
                weights[number] = max(1, (numerator << ROUNDED_BITS) // denominator)
        return tuple(weights)


@dataclass(frozen=True)
class _Level:
    """A group with the weights of its members as whole numbers; sources are told by their numbers."""

    weights: tuple[int, ...]
    members: tuple[int | _Level, ...]


def _prepare(group: Group, sizes: Mapping[str, int], numbers: Mapping[str, int]) -> _Level:
    weights = [_weight(member, group.temperature, sizes) for member in group.members]
    scale = math.lcm(*(weight.denominator for weight in weights))
    members = tuple(
        _prepare(member, sizes, numbers) if isinstance(member, Group) else numbers[member.name]
        for member in group.members
    )
    return _Level(tuple(int(weight * scale) for weight in weights), members)


def _weight(member: Member | Group, temperature: float | None, sizes: Mapping[str, int]) -> Fraction:
    """The weight as written in decimal, so that 0.1 and 0.3 are 1 to 3."""
    weight = Fraction(repr(float(member.weight)))
    if temperature is None or not weight:
        return weight
    # Nine digits: machines differ in the last digit of a power, and the order must not.
    return weight * Fraction(f"{_num_rows(member, sizes) ** temperature:.9g}")


def _num_rows(member: Member | Group, sizes: Mapping[str, int]) -> int:
    if not isinstance(member, Group):
        return sizes[member.name]
    return sum(_num_rows(one, sizes) for one in member.members if one.weight > 0)


def _shares(level: _Level, gone: Collection[int]) -> list[tuple[int, int, int]]:
    """Number, numerator and denominator of each source that is left."""
    left = []
    for weight, member in zip(level.weights, level.members, strict=True):
        if weight == 0:
            continue
        below = _shares(member, gone) if isinstance(member, _Level) else [(member, 1, 1)] if member not in gone else []
        if below:
            left.append((weight, below))
    whole = sum(weight for weight, _ in left)
    return [
        (number, weight * numerator, whole * denominator)
        for weight, below in left
        for number, numerator, denominator in below
    ]


def _max_draws(source: Member, size: int) -> int | None:
    return None if source.max_epochs is None else math.floor(Fraction(repr(float(source.max_epochs))) * size)


def _check(group: Group, sizes: Mapping[str, int]) -> None:
    problems = list(_problems(group, sizes, "blend"))
    if problems:
        raise DataError(describe_many(problems))


def _problems(group: Group, sizes: Mapping[str, int], name: str) -> Iterator[str]:
    is_sound = True
    for member in group.members:
        where = f"group '{member.name}'" if isinstance(member, Group) else f"source '{member.name}'"
        if not (math.isfinite(member.weight) and member.weight >= 0):
            is_sound = False
            yield describe(where, f"weight {member.weight}", "a weight is a number of 0 or more", "Mend the weight")
        elif member.weight > 0:
            within = _problems(member, sizes, where) if isinstance(member, Group) else _problems_of(member, sizes)
            for problem in within:
                is_sound = False
                yield problem
    if is_sound and not any(member.weight > 0 for member in group.members):
        fix = "Give one source a weight above 0" + ("" if name == "blend" else ", or the group a weight of 0")
        yield describe(name, f"{len(group.members)} sources, all weights 0", "one must be above 0", fix)


def _problems_of(source: Member, sizes: Mapping[str, int]) -> Iterator[str]:
    where, size = f"source '{source.name}'", sizes[source.name]
    if size == 0:
        fix = "Look at the rows that were dropped, raise the limits, or set the weight to 0"
        yield describe(where, "0 usable conversations", "a source with a weight needs at least 1", fix)
    elif _max_draws(source, size) == 0:
        found = f"max_epochs {source.max_epochs:g} of {size} rows is less than one row"
        yield describe(where, found, "at least 1 row is drawn", "Raise max_epochs, or set the weight to 0")
