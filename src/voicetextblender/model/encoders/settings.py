"""What a recipe may say about its speech encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from voicetextblender.config import StrictConfig


class EncoderSettings(StrictConfig):
    """How the speech encoder is used; the defaults are those of its checkpoint.

    Args:
        layer: the output of this layer, counted from 1, instead of the last; the layers behind it are left out.
        pad_clips: for Whisper: `window` pads every clip to its 30 s, as it was trained; `none` masks instead, which
            costs as much less as clips are shorter, and is new to weights that were trained with padding. `auto` is
            `window` for Whisper and `none` for the others.
        window_s: longer clips are cut into windows of so many seconds; null is 30 s for Whisper, no limit for others.
        overlap_s: seconds that neighbouring windows share.
    """

    layer: int | None = Field(None, ge=1)
    pad_clips: Literal["auto", "window", "none"] = "auto"
    window_s: float | None = Field(None, gt=0)
    overlap_s: float = Field(2.0, ge=0)
