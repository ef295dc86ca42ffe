"""Load a speech encoder; every weight of it must be in the checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, WhisperModel
from transformers.utils import logging

from voicetextblender.errors import ModelError, describe
from voicetextblender.model.encoders.families import FAMILIES, build_tower
from voicetextblender.model.encoders.nemo import load_nemo_encoder
from voicetextblender.model.encoders.nemo_archive import SUFFIX
from voicetextblender.model.encoders.plan import EncoderPlan


def load_encoder(plan: EncoderPlan) -> PreTrainedModel:
    """The encoder of `plan` in fp32.

    Heads, decoders and layers behind the chosen one are left in the checkpoint.

    Raises:
        ModelError: Weights are missing.
    """
    if plan.path.endswith(SUFFIX):
        return load_nemo_encoder(plan.path, plan.config)[0]
    if plan.config.model_type == "whisper":
        return _load_whisper(plan)
    return load_whole(FAMILIES[plan.config.model_type].tower, plan.path, config=plan.config)


def load_whole(model_class: Any, path: str, **options: Any) -> PreTrainedModel:
    """A pretrained model in fp32, with every weight of the model found in the checkpoint.

    Raises:
        ModelError: No such folder, or weights missing from it (they would stay random).
    """
    try:
        with _quiet_library():
            model, report = model_class.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **options)
    except OSError as error:
        raise ModelError(
            describe(
                path,
                f"no model can be loaded ({str(error).splitlines()[0]})",
                "a save_pretrained folder or a hub name",
                "Check the path; the embedded base models are made by `vtb prepare mini`",
            )
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            describe(
                path,
                f"{len(missing)} weights are missing, first {missing[:5]}",
                f"every weight of {type(model).__name__}",
                "Use a complete checkpoint",
            )
        )
    return model


@contextmanager
def _quiet_library() -> Iterator[None]:
    """No table of the weights, which are accounted for here; and no progress bar where nobody sees it move."""
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _load_whisper(plan: EncoderPlan) -> PreTrainedModel:
    """Whisper's encoder is half of a checkpoint, and no class of the library's loads it alone."""
    encoder = load_whole(WhisperModel, plan.path).encoder
    tower = build_tower(plan.config)
    wanted = tower.state_dict()
    tower.load_state_dict({key: value for key, value in encoder.state_dict().items() if key in wanted})
    return tower
