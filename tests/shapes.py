"""The checker behind `--jaxtyping-packages`: every call of a function that annotates tensors has its shapes checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from beartype import beartype

_TENSOR = re.compile(r"\b(Float|Int|Bool|UInt8|Shaped|Num)\[")


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its arguments and result checked, where at least one of them is a tensor with named axes."""
    annotations = getattr(function, "__annotations__", {})
    return beartype(function) if any(_TENSOR.search(str(value)) for value in annotations.values()) else function
