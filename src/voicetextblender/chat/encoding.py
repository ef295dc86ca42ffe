"""Text to token ids such that only a chat template can write a control token, never a person's text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Tokenizer

from voicetextblender.errors import ChatTemplateError, describe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

After = Literal["nothing", "control", "text"]
"""What stands before a piece of text: nothing at all, a control token, or other text of the same run."""


@dataclass(frozen=True)
class ControlToken:
    """A token that structures a conversation and that text can never produce.

    Args:
        id: Its token id.
        content: Its spelling in a rendered template.
        strips_left: White space before it is dropped, by the tokenizer's own rule.
        strips_right: White space after it is dropped, by the tokenizer's own rule.
        is_special: The tokenizer calls it special; otherwise it is an added token that the chat template spells.
    """

    id: int
    content: str
    strips_left: bool = False
    strips_right: bool = False
    is_special: bool = True


class TextEncoder:
    """A tokenizer's view of plain text, beside its control tokens.

    Control tokens are all special tokens and each added token that the chat template spells out. Text that happens to
    spell one is encoded as the characters that it is.

    Args:
        tokenizer: Any tokenizer with a `tokenizers` backend.
        template_source: The Jinja text of the chat template.
        audio_token: The audio placeholder, one special token.

    Raises:
        ChatTemplateError: The tokenizer has no such backend, or `audio_token` is not one special token of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template_source: str, audio_token: str) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ChatTemplateError(
                describe(
                    "tokenizer",
                    f"{type(tokenizer).__name__} has no `tokenizers` backend",
                    "a fast tokenizer is needed to know each token's place",
                    "Convert it to a tokenizer.json first",
                )
            )
        self._controls = _find_controls(backend, set(tokenizer.all_special_tokens), template_source)
        self.audio = self._require_special(audio_token)
        pattern = "|".join(re.escape(text) for text in sorted(self._controls, key=len, reverse=True))
        self._pattern = re.compile(f"({pattern})")
        self._forbidden_ids = {control.id for control in self._controls.values()}
        self._forbidden_ids.discard(backend.token_to_id(str(tokenizer.unk_token)))

        self._literals: dict[tuple[str, After], list[int]] = {}
        self._stock = backend
        spec = _plain_spec(backend, self._controls)
        self.fingerprint = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
        self._first = _load(spec)
        self._inner = _load(spec) if _drop_prefix_space(spec) else self._first
        self._after_control = self._first if self._prefixes_after_control() else self._inner

    def split(self, literal: str) -> list[str | ControlToken]:
        """The text and the control tokens of a string that the chat template itself has written, in order."""
        return [self._controls.get(piece, piece) for piece in self._pattern.split(literal) if piece]

    def encode(self, text: str, after: After) -> list[int]:
        """Ids of `text` as text, whatever it spells; never an id of a control token."""
        encoder = self._inner if after == "text" else self._first if after == "nothing" else self._after_control
        ids: list[int] = encoder.encode(text, add_special_tokens=False).ids
        if self._forbidden_ids.isdisjoint(ids):
            return ids
        return self._encode_broken(text, encoder)

    def encode_literal(self, text: str, after: After) -> list[int]:
        """As `encode`, remembered: for the few texts that a chat template itself writes again and again."""
        key = (text, after)
        if key not in self._literals:
            self._literals[key] = self.encode(text, after)
        return self._literals[key]

    def stock_controls(self, rendered: str) -> list[int]:
        """Ids of the control tokens that the tokenizer itself finds in a rendered string, in order."""
        return self.keep_controls(self._stock.encode(rendered, add_special_tokens=False).ids)

    def keep_controls(self, ids: Iterable[int]) -> list[int]:
        """Those of `ids` that no text may yield: the control tokens, but for the one for unknown characters."""
        return [token_id for token_id in ids if token_id in self._forbidden_ids]

    def _encode_broken(self, text: str, encoder: Tokenizer) -> list[int]:
        """Encode in pieces, for vocabularies in which a control token's spelling is an ordinary piece."""
        pieces = [part for piece in self._pattern.split(text) for part in (piece[:1], piece[1:]) if part]
        for attempt in (pieces, list(text)):
            ids: list[int] = []
            for number, piece in enumerate(attempt):
                ids += (self._inner if number else encoder).encode(piece, add_special_tokens=False).ids
            if self._forbidden_ids.isdisjoint(ids):
                return ids
        raise ChatTemplateError(
            describe(
                "tokenizer",
                f"the text {text[:40]!r} yields a control token even letter by letter",
                "text must stay text",
                "Remove that letter from the tokenizer's special tokens",
            )
        )

    def _require_special(self, audio_token: str) -> ControlToken:
        control = self._controls.get(audio_token)
        if control is None or not control.is_special:
            raise ChatTemplateError(
                describe(
                    "tokenizer",
                    f"the audio placeholder {audio_token!r} is not a special token",
                    "it must be one special token of the tokenizer",
                    "Choose a reserved token, or add one with `tokenizer.add_special_tokens`",
                )
            )
        return control

    def _prefixes_after_control(self) -> bool:
        """Whether the tokenizer opens a text after a control token as it opens a whole string."""
        stock: list[int] = self._stock.encode(self.audio.content + "a", add_special_tokens=False).ids
        return stock[1:] == self._first.encode("a", add_special_tokens=False).ids

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._first.encode_special_tokens = True  # not part of what the backend pickles
        self._inner.encode_special_tokens = True
        self._after_control.encode_special_tokens = True


def _find_controls(backend: Tokenizer, special: Collection[str], template_source: str) -> dict[str, ControlToken]:
    return {
        token.content: ControlToken(
            token_id, token.content, token.lstrip, token.rstrip, token.special or token.content in special
        )
        for token_id, token in backend.get_added_tokens_decoder().items()
        if token.special or token.content in special or (token.content.strip() and token.content in template_source)
    }


def _plain_spec(backend: Tokenizer, controls: Collection[str]) -> dict[str, Any]:
    """The backend's JSON with every control token marked special, so that one switch turns them all into text."""
    spec: dict[str, Any] = json.loads(backend.to_str())
    for token in spec["added_tokens"]:
        token["special"] = token["content"] in controls
    spec["truncation"] = spec["padding"] = None
    return spec


def _load(spec: dict[str, Any]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _drop_prefix_space(spec: dict[str, Any]) -> bool:
    """Turn off, in place, whatever puts a space before a string; True when something did."""
    before = json.dumps(spec)
    normalizer = spec.get("normalizer") or {}
    if normalizer.get("type") == "Prepend":
        spec["normalizer"] = None
    elif normalizer.get("type") == "Sequence":
        normalizer["normalizers"] = [step for step in normalizer["normalizers"] if step["type"] != "Prepend"]
    pre_tokenizer = spec.get("pre_tokenizer") or {}
    for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        if step.get("type") == "Metaspace":
            step["prepend_scheme"] = "never"
        elif step.get("type") == "ByteLevel":
            step["add_prefix_space"] = False
    return json.dumps(spec) != before
