"""The one renderer: a conversation to token ids, supervision mask and audio places, in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from voicetextblender.chat.conversation import AudioPart, Conversation, Role, TextPart, Turn, check_turn
from voicetextblender.chat.encoding import After, ControlToken, TextEncoder
from voicetextblender.chat.template import ChatTemplate, Layout, Strip, strip_content
from voicetextblender.errors import ChatTemplateError, DataError, describe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Rendered:
    """A conversation as a language model sees it.

    Args:
        token_ids: The tokens; one audio placeholder stands for each audio embedding.
        supervision_mask: True where the token is the assistant's own: all that follows the generation prompt up to
            and with the end of the turn. The loss shifts, not this.
        audio_spans: (start, length) of each clip's placeholders in `token_ids`, in the order of the clips.
    """

    token_ids: Int[np.ndarray, " tokens"]
    supervision_mask: Bool[np.ndarray, " tokens"]
    audio_spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Slot:
    """Where one turn's content goes, and what the template strips of it."""

    turn: int
    left: Strip
    right: Strip


@dataclass(frozen=True)
class _Switch:
    """Where supervision begins (True) or ends (False)."""

    to: bool


_Item = str | ControlToken | _Slot | _Switch


@dataclass(frozen=True)
class _Program:
    """A layout with its literals cut at the control tokens."""

    literals: tuple[str, ...]
    items: tuple[_Item, ...]
    end_of_turn_ids: frozenset[int]


class Renderer:
    """Renders conversations with a tokenizer's chat template, exactly or not at all.

    The ids are those of the tokenizer's own `apply_chat_template`, but for two things: text that spells a control
    token stays text, and no token straddles the end of a generation prompt, so that what is trained on is what will
    be shown.

    Args:
        tokenizer: Any fast tokenizer.
        audio_token: The audio placeholder, one special token of the tokenizer.
        chat_template: The Jinja text; the tokenizer's own when None.

    Raises:
        ChatTemplateError: The assistant's spans cannot be known exactly under this template, with the reason.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, audio_token: str, chat_template: str | None = None) -> None:
        source = chat_template if chat_template is not None else tokenizer.chat_template
        if not isinstance(source, str):
            raise _refuse(
                f"the tokenizer has {'several' if source else 'none'}", "one is needed", "Give one as `chat_template`"
            )
        self._template = ChatTemplate(source, tokenizer.special_tokens_map)
        self._encoder = TextEncoder(tokenizer, source, audio_token)
        self._programs: dict[tuple[tuple[Role, ...], bool], _Program] = {}
        self.audio_token = audio_token
        self.audio_token_id = self._encoder.audio.id
        self.end_of_turn_ids = self._probe(tokenizer.eos_token_id)

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same conversation could be rendered differently."""
        parts = (self._encoder.fingerprint, self._template.fingerprint, self.audio_token)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def render(
        self,
        conversation: Conversation,
        num_audio_tokens: Sequence[int],
        *,
        add_generation_prompt: bool = False,
        require_supervision: bool = False,
        where: str | None = None,
    ) -> Rendered:
        """Token ids, supervision mask and audio places of one conversation.

        Args:
            conversation: The conversation; its audio is not read.
            num_audio_tokens: For each clip, the number of audio embeddings that will stand in its place.
            add_generation_prompt: End with the prompt for the assistant's next turn.
            require_supervision: Refuse a conversation without an assistant turn.
            where: How errors name the conversation; by its id when None.

        Raises:
            ChatTemplateError: The template refuses the conversation, or changes the text of a turn.
            DataError: Audio in an assistant turn, or nothing to supervise where that is required.
        """
        where = where or f"conversation '{conversation.id}'"
        assert len(num_audio_tokens) == len(conversation.clips) and all(count > 0 for count in num_audio_tokens), (
            f"{where}: {len(conversation.clips)} clips but audio token counts {list(num_audio_tokens)}"
        )
        roles = tuple(turn.role for turn in conversation.turns)
        if require_supervision and "assistant" not in roles:
            raise DataError(
                describe(
                    where,
                    "no turn is the assistant's",
                    "training needs at least one",
                    "Add the answer, or drop the conversation",
                )
            )
        program = self._program(roles, add_generation_prompt, where)
        contents = self._contents(conversation, program, where)
        self._check_unchanged(roles, contents, program, add_generation_prompt, where)
        return self._write(program, contents, num_audio_tokens)

    def _contents(self, conversation: Conversation, program: _Program, where: str) -> list[list[str | None]]:
        """The pieces of each turn as the template prints them: texts, and None for each clip."""
        contents: list[list[str | None]] = []
        for slot in (item for item in program.items if isinstance(item, _Slot)):
            turn = conversation.turns[slot.turn]
            check_turn(turn, f"{where} turn {slot.turn + 1}")
            contents.append(_strip_pieces(turn, slot))
        return contents

    def _write(
        self, program: _Program, contents: Sequence[Sequence[str | None]], num_audio_tokens: Sequence[int]
    ) -> Rendered:
        writer = _Writer(self._encoder)
        counts = iter(num_audio_tokens)
        for item in program.items:
            if isinstance(item, str):
                writer.write_literal(item)
            elif isinstance(item, ControlToken):
                writer.write_control(item)
            elif isinstance(item, _Switch):
                writer.supervise(item.to)
            else:
                for piece in contents[item.turn]:
                    if piece is None:
                        writer.write_audio(next(counts))
                    else:
                        writer.write_text(piece)
        return writer.finish()

    def _check_unchanged(
        self,
        roles: tuple[Role, ...],
        contents: Sequence[Sequence[str | None]],
        program: _Program,
        add_generation_prompt: bool,
        where: str,
    ) -> None:
        """Raise unless the template, shown the real texts, prints them where and as the layout says."""
        texts = ["".join(self.audio_token if p is None else p for p in pieces) for pieces in contents]
        printed = self._template.render(roles, texts, add_generation_prompt)
        place = 0
        for number, literal in enumerate(program.literals):
            for expected in (literal, texts[number] if number < len(texts) else ""):
                if not printed.startswith(expected, place):
                    raise _changed(where, min(number, len(texts) - 1) + 1, printed[place:], expected)
                place += len(expected)
        if place != len(printed):
            raise _changed(where, len(texts), printed[place:], "")

    def _program(self, roles: tuple[Role, ...], add_generation_prompt: bool, where: str) -> _Program:
        key = (roles, add_generation_prompt)
        if key not in self._programs:
            try:
                self._programs[key] = self._compile(roles, self._template.layout(roles, add_generation_prompt))
            except ChatTemplateError as error:
                raise ChatTemplateError(f"{where}: {error}") from error
        return self._programs[key]

    def _compile(self, roles: tuple[Role, ...], layout: Layout) -> _Program:
        items: list[_Item] = []
        ends: set[int] = set()
        for number, literal in enumerate(layout.literals):
            if number and roles[number - 1] == "assistant":
                head = self._split_end_of_turn(literal, number)
                ends.add(head[-1].id)
                items += [*head, _Switch(False)]
                literal = literal[sum(len(item if isinstance(item, str) else item.content) for item in head) :]
            if number in layout.prompt_ends:
                done = len(layout.literals[number]) - len(literal)
                prompt, rest = _cut(literal, layout.prompt_ends[number] - done)
                self._check_opening(rest, layout.has_own_prompt[number], number)
                items += [*self._encoder.split(prompt), _Switch(True), *self._encoder.split(rest)]
            else:
                items += self._encoder.split(literal)
            if number < len(roles):
                items.append(_Slot(number, *layout.strips[number]))
        self._check_controls(layout, items)
        return _Program(layout.literals, tuple(items), frozenset(ends))

    def _split_end_of_turn(self, literal: str, number: int) -> tuple[*tuple[str, ...], ControlToken]:
        """The beginning of `literal` up to and with the control token that ends assistant turn `number`."""
        spaces: list[str] = []
        for item in self._encoder.split(literal):
            if isinstance(item, ControlToken):
                return (*spaces, item)
            if item.strip():
                break
            spaces.append(item)
        raise _refuse(
            f"turn {number}: no special token ends the assistant's text, which is followed by {literal[:40]!r}",
            "the end of an answer must be one special token",
            "Let the template print the end-of-turn or eos token there",
        )

    def _check_opening(self, rest: str, has_own_prompt: bool, number: int) -> None:
        """Refuse a template that opens assistant turns with a control token but has no generation prompt."""
        opens = any(isinstance(item, ControlToken) and item.is_special for item in self._encoder.split(rest))
        if opens and not has_own_prompt:
            raise _refuse(
                f"turn {number + 1} opens with {rest!r} but there is no generation prompt",
                "a generation prompt must open the assistant's turn",
                "Let the template print that opening when `add_generation_prompt` is set",
            )

    def _check_controls(self, layout: Layout, items: Sequence[_Item]) -> None:
        """Refuse a tokenizer that finds other control tokens in the template's text than were found here."""
        ours = self._encoder.keep_controls(item.id for item in items if isinstance(item, ControlToken))
        theirs = self._encoder.stock_controls("a".join(layout.literals))
        if ours != theirs:
            raise _refuse(
                f"the tokenizer reads the control tokens {theirs[:12]} where {ours[:12]} are written",
                "both must agree",
                "Use special tokens without `single_word` and `normalized`",
            )

    def _probe(self, eos_token_id: int | None) -> tuple[int, ...]:
        """Render short conversations; the ids that end an assistant turn, in rising order."""
        pair = (Turn("user", (TextPart("Hello, World 1?"),)), Turn("assistant", (TextPart("Yes, it's Two."),)))
        ends = set() if eos_token_id is None else {eos_token_id}
        for turns in (pair, pair + pair):
            self.render(Conversation("probe", turns), ())
            ends |= self._program(tuple(turn.role for turn in turns), False, "probe").end_of_turn_ids
        return tuple(sorted(ends))


class _Writer:
    """Collects ids and mask together, so that they cannot come apart."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._ids: list[int] = []
        self._mask: list[bool] = []
        self._spans: list[tuple[int, int]] = []
        self._run: list[str] = []
        self._run_is_literal = True
        self._after: After = "nothing"
        self._is_supervised = False
        self._strips_next = False

    def write_literal(self, text: str) -> None:
        self._run.append(text)

    def write_text(self, text: str) -> None:
        self._run.append(text)
        self._run_is_literal = False

    def write_control(self, control: ControlToken, count: int = 1) -> None:
        self._end_run(control.strips_left)
        self._add([control.id] * count)
        self._after = "control"
        self._strips_next = control.strips_right

    def write_audio(self, num_audio_tokens: int) -> None:
        self.write_control(self._encoder.audio, num_audio_tokens)
        self._spans.append((len(self._ids) - num_audio_tokens, num_audio_tokens))

    def supervise(self, to: bool) -> None:
        self._end_run()
        self._is_supervised = to

    def finish(self) -> Rendered:
        self._end_run()
        return Rendered(np.array(self._ids, np.int64), np.array(self._mask, np.bool_), tuple(self._spans))

    def _end_run(self, strip_right: bool = False) -> None:
        if not self._run:
            return
        text = "".join(self._run)
        self._run.clear()
        if self._strips_next:
            text = text.lstrip()
        if strip_right:
            text = text.rstrip()
        encode = self._encoder.encode_literal if self._run_is_literal else self._encoder.encode
        self._run_is_literal = True
        if text:
            self._add(encode(text, self._after))
            self._after = "text"
            self._strips_next = False

    def _add(self, ids: list[int]) -> None:
        self._ids += ids
        self._mask += [self._is_supervised] * len(ids)


def _strip_pieces(turn: Turn, slot: _Slot) -> list[str | None]:
    """The turn's texts, None for each clip; the outer edges stripped as the template does, never beside a clip."""
    pieces = [None if isinstance(part, AudioPart) else part.text for part in turn.parts]
    left = right = 0
    while left < len(pieces) and (text := pieces[left]) is not None:
        pieces[left] = strip_content(text, slot.left, "keep")
        left = left + 1 if not pieces[left] else len(pieces)
    while right < len(pieces) and (text := pieces[-1 - right]) is not None:
        pieces[-1 - right] = strip_content(text, "keep", slot.right)
        right = right + 1 if not pieces[-1 - right] else len(pieces)
    return pieces


def _cut(text: str, place: int) -> tuple[str, str]:
    return text[: max(place, 0)], text[max(place, 0) :]


def _changed(where: str, turn: int, printed: str, expected: str) -> ChatTemplateError:
    return ChatTemplateError(
        describe(
            f"{where} turn {turn}",
            f"the chat template prints {printed[:40]!r} where {expected[:40]!r} was expected",
            "a turn must be printed as it is",
            "Change the text, or use a template that does not edit it",
        )
    )


def _refuse(found: str, expected: str, fix: str) -> ChatTemplateError:
    return ChatTemplateError(describe("chat template", found, expected, fix))
