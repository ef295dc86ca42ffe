"""Which class an `adapter_config` means."""

from __future__ import annotations

from typing import Any

from .base import ModalityAdapter
from .conformer import ConformerAdapter
from .linear import LinearAdapter
from .qformer import QFormerAdapter
from .stack import StackAdapter

ADAPTERS: dict[str, type[ModalityAdapter]] = {
    "conformer": ConformerAdapter,
    "linear": LinearAdapter,
    "stack": StackAdapter,
    "qformer": QFormerAdapter,
}


def make_adapter(encoder_size: int, hidden_size: int, adapter_config: dict[str, Any]) -> ModalityAdapter:
    """The adapter of `adapter_config["kind"]`, a Conformer where none is named, with random weights."""
    return ADAPTERS[adapter_config.get("kind", "conformer")](encoder_size, hidden_size, adapter_config)
