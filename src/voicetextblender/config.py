"""The base of every component's configuration: frozen, and strict about what it does not know."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictConfig(BaseModel):
    """A frozen set of values beside the component that takes it; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
