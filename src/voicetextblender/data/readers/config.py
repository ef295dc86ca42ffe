"""What a recipe says of one source."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from voicetextblender.audio.distort import AugmentConfig
from voicetextblender.chat.slots import CLIP_SLOT, QUESTION_SLOT
from voicetextblender.config import StrictConfig

Kind = Literal[
    "jsonl",
    "nemo",
    "nemo_tarred",
    "nemo_conversation",
    "lhotse",
    "lhotse_shar",
    "sharegpt",
    "openai",
    "alpaca",
    "qa",
    "table",
    "folder",
    "huggingface",
    "webdataset",
]

By = Literal["recording", "speaker", "row"]
"""What must not stand on both sides of a split."""

_TARRED = ("nemo_tarred", "nemo_conversation")
_IN_COLUMNS = ("nemo", "nemo_tarred", "qa", "table", "huggingface", "webdataset")
_PROMPTED = ("nemo", "nemo_tarred", "lhotse", "lhotse_shar", "qa", "table", "folder", "huggingface", "webdataset")
_WITH_FILES = ("nemo", "nemo_tarred", "nemo_conversation", "lhotse", "sharegpt", "openai", "qa", "table", "huggingface")
_USED_BY: dict[str, tuple[str, ...]] = {
    "tars": _TARRED,
    "columns": _IN_COLUMNS,
    "delimiter": ("table",),
    "header": ("table",),
    "audio_folder": _WITH_FILES,
    "audio_mark": ("sharegpt", "nemo", "nemo_tarred", "nemo_conversation", "huggingface", "webdataset"),
    "language": (*_PROMPTED, "nemo_conversation", "sharegpt", "openai"),
    "target_language": _PROMPTED,
    "prompts": _PROMPTED,
}
"""The kinds for which an option means something; for others it is refused."""


class ColumnsConfig(StrictConfig):
    """Which column or key of a row holds what; those not named are looked for under their usual names.

    Args:
        id: name of the row; made of the file and the row's number where there is none.
        audio: path of the clip, or the clip itself.
        start: where the clip begins in its file, in seconds.
        duration: length of the clip, in seconds.
        text: what is said.
        translation: what is said, in the target language.
        question: what the user asks.
        answer: what the assistant answers.
        language: language of the speech.
        target_language: language of the translation.
        speaker: who speaks; nothing but held-out splits looks at it.
    """

    id: str | None = None
    audio: str | None = None
    start: str | None = None
    duration: str | None = None
    text: str | None = None
    translation: str | None = None
    question: str | None = None
    answer: str | None = None
    language: str | None = None
    target_language: str | None = None
    speaker: str | None = None


class PromptsConfig(StrictConfig):
    """More wordings of what is asked about a clip, `{clip}`; each is as likely as one of the package's own.

    Args:
        package: whether the package's wordings are used too.
        transcription: for rows to be written down.
        translation: for rows to be translated; `{language}` becomes the English name of the target language.
        answering: for rows that bring a question, `{question}`.
    """

    package: bool = True
    transcription: tuple[str, ...] = ()
    translation: tuple[str, ...] = ()
    answering: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_slots(self) -> Self:
        needed = {"transcription": (CLIP_SLOT,), "translation": (CLIP_SLOT,), "answering": (CLIP_SLOT, QUESTION_SLOT)}
        for task, slots in needed.items():
            for prompt in getattr(self, task):
                if any(prompt.count(slot) != 1 for slot in slots):
                    raise ValueError(f"it should have {' and '.join(slots)} once in every {task} prompt: {prompt!r}")
        return self


class HeldOutConfig(StrictConfig):
    """Rows that are kept out of training, to measure on: give `fraction` or `list`.

    What is chosen depends on the names of recordings, speakers or rows alone. So all segments of a recording stand on
    one side, and training draws a recording that one source holds out from no other source either.

    Args:
        fraction: of the recordings, speakers or rows; a larger one holds out all that a smaller one does.
        list: a text file with one name a line: of a recording its path, or its file name with or without suffix.
        by: what must not stand on both sides. A row without a clip counts as a recording of its own.
    """

    fraction: float | None = Field(None, gt=0, lt=1)
    list: str | None = None
    by: By = "recording"

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        if (self.fraction is None) == (self.list is None):
            raise ValueError("it should have either fraction or list")
        return self


class ReaderConfig(StrictConfig):
    """Where rows lie, and in which shape they are: keys that each source has too.

    Args:
        path: the file or folder, relative to the working directory, or a URL that fsspec opens. Most kinds take
            several files as shell patterns: `part_{0..7}.jsonl` (or `part__OP_0..7_CL_.jsonl`), `part_*.jsonl`.
        kind: the shape of the rows, as docs/data.md shows them.
        task: the kind of every conversation of the source, in place of what its rows say.
        tars: the tar files with the clips, as `path`; members are read in place, nothing is unpacked.
        audio_folder: the folder that relative audio paths start from; that of the file with the rows when null.
        audio_mark: the text that stands where a clip is heard; the usual one of the kind when null.
        columns: names of columns or keys, where they are not the usual ones.
        delimiter: between the columns of a table; by the suffix when null: comma, or tab for .tsv.
        header: whether the first line of a table names its columns; if not, they are called "1", "2", ...
        language: language of the speech, for rows that do not tell.
        target_language: language of the translation, for rows that do not tell.
        prompts: more wordings of what is asked about a clip.
    """

    path: str = Field(min_length=1)
    kind: Kind = "jsonl"
    task: str | None = None
    tars: str | None = None
    audio_folder: str | None = None
    audio_mark: str | None = Field(None, min_length=1)
    columns: ColumnsConfig = ColumnsConfig()
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    header: bool = True
    language: str | None = None
    target_language: str | None = None
    prompts: PromptsConfig = PromptsConfig()

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        for option, kinds in _USED_BY.items():
            if getattr(self, option) != type(self).model_fields[option].default and self.kind not in kinds:
                raise ValueError(f"it should have no {option}: kind '{self.kind}' takes none")
        if self.kind == "nemo_tarred" and self.tars is None:
            raise ValueError("it should have tars, the tar files with the clips: kind 'nemo_tarred' needs them")
        return self


class SourceConfig(ReaderConfig):
    """One source of a blend.

    Args:
        name: how the recipe, the logs and the reports call it.
        weight: share of the draws beside its siblings, on any scale; 0 leaves the source out.
        max_epochs: how often each row is drawn at most; what is left of the source's share goes to its siblings.
        held_out: rows to measure on, kept out of training.
        augment: `shared` does what `data.augment` says, `none` nothing; or a section of its own in place of that one.
    """

    name: str = Field(min_length=1)
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    max_epochs: float | None = Field(None, gt=0, allow_inf_nan=False)
    held_out: HeldOutConfig | None = None
    augment: Literal["shared", "none"] | AugmentConfig = "shared"
