"""What can go wrong at the hands of a person, in one form: where, what was found, what is allowed, what to do."""

from __future__ import annotations


class VoiceTextBlenderError(ValueError):
    """Root of every error that a person can cause and mend."""


class RecipeError(VoiceTextBlenderError):
    """A recipe or an override that cannot be used."""


class DataError(VoiceTextBlenderError):
    """A manifest, a conversation or a source that cannot be used."""


class AudioError(DataError):
    """A clip that cannot be read or has unusable samples."""


class ChatTemplateError(VoiceTextBlenderError):
    """A chat template, or a conversation under it, whose supervised spans cannot be known exactly."""


class ModelError(VoiceTextBlenderError):
    """Parts that do not fit together, or weights that are missing or surplus."""


class CheckpointError(VoiceTextBlenderError):
    """A checkpoint that is incomplete, of another model, or could not be written."""


class RunError(VoiceTextBlenderError):
    """A run folder that is in use or belongs to another recipe."""


def describe(where: str, found: str, expected: str, fix: str) -> str:
    """The text of every error: `{where}: {found}; {expected}. {fix}.`"""
    return f"{where}: {found}; {expected}. {fix}."


def describe_many(problems: list[str], limit: int = 5) -> str:
    """Several problems as one text, the first `limit` written out and the rest counted."""
    shown = problems[:limit]
    if len(problems) > limit:
        shown.append(f"... and {len(problems) - limit} more")
    return "\n".join(shown)
