"""What a recipe says of a blend: its sources, in groups of any depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from voicetextblender.config import StrictConfig
from voicetextblender.data.mixture import Group, Member
from voicetextblender.data.readers.config import SourceConfig
from voicetextblender.data.readers.nemo_blend import read_input_cfg

Temperature = Annotated[float | None, Field(ge=0, allow_inf_nan=False)]


class GroupConfig(StrictConfig):
    """In place of a source: sources, or further groups, that share what the group is given.

    Args:
        name: how the recipe and the reports call it.
        weight: share of the draws beside its siblings, on any scale; 0 leaves the group out.
        temperature: multiplies the weight of each member by its number of usable rows to this power: 1 shares in
            proportion to the rows, 0 and null by the weights alone.
        input_cfg: a file of NeMo's, a YAML list of data sets and groups, in place of `sources`. It is read with the
            recipe; the recipe that a run keeps has the sources instead.
        sources: what it holds.
    """

    name: str = Field(min_length=1)
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    temperature: Temperature = None
    input_cfg: str | None = None
    sources: tuple[SourceOrGroup, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _read_input_cfg(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("input_cfg") is None:
            return values
        if "sources" in values:
            raise ValueError("it should have either sources or input_cfg")
        sources = read_input_cfg(str(values["input_cfg"]), str(values.get("name")))
        return {**values, "sources": sources, "input_cfg": None}


def _tell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "source" if {"sources", "input_cfg"}.isdisjoint(value) else "group"
    return "group" if isinstance(value, GroupConfig) else "source"


SourceOrGroup = Annotated[
    Annotated[SourceConfig, Tag("source")] | Annotated[GroupConfig, Tag("group")], Discriminator(_tell)
]
"""Whatever has `sources` or `input_cfg` is a group."""
GroupConfig.model_rebuild()
Sources = tuple[SourceConfig | GroupConfig, ...]


def walk_sources(sources: Sources, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], SourceConfig]]:
    """The sources of all levels in order, each with the names of the groups around it."""
    for one in sources:
        if isinstance(one, GroupConfig):
            yield from walk_sources(one.sources, (*path, one.name))
        else:
            yield path, one


def find_repeated_names(sources: Sources) -> list[str]:
    """Names of sources that come twice, at any level, and of groups that do so beside each other."""
    names = [source.name for _, source in walk_sources(sources)]
    groups = [one for one in sources if isinstance(one, GroupConfig)]
    beside = [group.name for group in groups] + [one.name for one in sources if isinstance(one, SourceConfig)]
    repeated = {name for name in names if names.count(name) > 1} | {name for name in beside if beside.count(name) > 1}
    return sorted(repeated.union(*(find_repeated_names(group.sources) for group in groups)))


def make_group(sources: Sources, temperature: float | None, name: str = "", weight: float = 1.0) -> Group:
    """The sources as the blend takes them, without those whose weight, or whose group's, is 0."""
    members = tuple(
        make_group(one.sources, one.temperature, one.name, one.weight)
        if isinstance(one, GroupConfig)
        else Member(one.name, one.weight, one.max_epochs)
        for one in sources
        if one.weight > 0
    )
    return Group(members, name, weight, temperature)
