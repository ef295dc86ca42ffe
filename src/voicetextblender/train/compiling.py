"""`torch.compile` of the layers, where the recipe asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._dynamo.exc import TorchDynamoException

from voicetextblender.errors import RunError, describe
from voicetextblender.model.blocks import blocks_of
from voicetextblender.model.modeling import VoiceTextBlenderModel


def compile_layers(model: VoiceTextBlenderModel, backend: str = "inductor") -> None:
    """Let torch compile each layer of the LLM, the speech encoder and the adapter when it first runs.

    Layers of a part are alike and share what was compiled. Rows and clips have any length, so sizes stay symbols. What
    joins the layers (masks, the audio's place in the rows, the loss) runs as it is.
    """
    for part in (model.language_model, model.audio_tower, model.adapter):
        for layer in blocks_of(part):
            layer.compile(dynamic=True, backend=backend)


@contextmanager
def no_silent_fallback() -> Iterator[None]:
    """Inside, what cannot be compiled is an error, and so is a layer that would be compiled again and again.

    Raises:
        RunError: in place of what torch raises.
    """
    try:
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, suppress_errors=False):
            yield
    except TorchDynamoException as error:
        found = f"torch.compile failed with {type(error).__name__} ({' '.join(str(error).split())[:200]})"
        expected = "layers that this version of torch can compile, and a C++ compiler on a CPU"
        raise RunError(describe("train.compile", found, expected, "Set it to false")) from error
