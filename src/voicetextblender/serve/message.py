"""A message as a person types it: text with clips at any place, from files (`/audio`) or spoken from text (`/say`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from voicetextblender.audio.waveform import read_waveform
from voicetextblender.chat.conversation import AudioPart, Part, TextPart
from voicetextblender.errors import DataError, describe

_COMMAND = re.compile(r"(?:^|(?<=\s))/(audio|say)(?=\s|$)")
_ARGUMENT = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|(\S+))""")
_SPACE_BEFORE_PUNCTUATION = re.compile(r"^\s+(?=[.,;:!?])")


def parse_message(line: str, speak: Callable[[str], np.ndarray]) -> tuple[Part, ...]:
    """Parts of one typed line, clips read or spoken.

    `/audio` takes the next word as a file, in quotes if it has spaces. `/say` takes the text in quotes that follows it,
    or everything up to the next command. White space between a clip and a punctuation mark is dropped.

    Args:
        speak: makes a waveform (float32, 16 kHz) of a text.

    Raises:
        DataError: a command without its file or text, or a clip that cannot be read or spoken.
    """
    parts: list[Part] = []
    position, after_clip = 0, False
    while match := _COMMAND.search(line, position):
        _add_text(parts, line[position : match.start()], after_clip)
        take = _take_file if match[1] == "audio" else _take_speech
        argument, position = take(line, match.end())
        parts.append(
            _clip_of_file(argument)
            if match[1] == "audio"
            else AudioPart(None, transcript=argument, waveform=speak(argument))
        )
        after_clip = True
    _add_text(parts, line[position:], after_clip)
    return _strip_ends(parts)


def _clip_of_file(name: str) -> AudioPart:
    path = str(Path(name).expanduser())
    return AudioPart(path, waveform=read_waveform(Path(path), where=f"/audio {name}"))


def _take_file(line: str, start: int) -> tuple[str, int]:
    match = _ARGUMENT.match(line, start)
    name = next((group for group in match.groups() if group), "") if match else ""
    if not match or not name:
        raise DataError(
            describe("/audio", "no file named", "the path of a sound file follows", "Write /audio clip.wav")
        )
    return name, match.end()


def _take_speech(line: str, start: int) -> tuple[str, int]:
    match = _ARGUMENT.match(line, start)
    if match and match[3] is None:
        text, end = match[1] or match[2] or "", match.end()
    else:
        following = _COMMAND.search(line, start)
        end = following.start() if following else len(line)
        text = line[start:end].strip()
    if not text.strip():
        raise DataError(
            describe("/say", "no text", "the words to speak follow", 'Write /say what time is it, or /say "..."')
        )
    return text, end


def _add_text(parts: list[Part], text: str, after_clip: bool) -> None:
    if after_clip:
        text = _SPACE_BEFORE_PUNCTUATION.sub("", text)
    if text:
        parts.append(TextPart(text))


def _strip_ends(parts: list[Part]) -> tuple[Part, ...]:
    """Without white space at both ends of the message and without parts that held nothing else there."""
    if parts and isinstance(parts[0], TextPart):
        parts[0] = TextPart(parts[0].text.lstrip())
    if parts and isinstance(parts[-1], TextPart):
        parts[-1] = TextPart(parts[-1].text.rstrip())
    return tuple(part for part in parts if not isinstance(part, TextPart) or part.text)
