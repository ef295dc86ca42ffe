"""`vtb look`: conversations as the model will see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voicetextblender.cli.console import Overrides, RecipeArgument, console, examples
from voicetextblender.errors import RecipeError, describe

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from voicetextblender.audio.lengths import TokenCount
    from voicetextblender.chat.conversation import Conversation
    from voicetextblender.chat.render import Renderer
    from voicetextblender.data.readers.config import SourceConfig
    from voicetextblender.model.build import ModelConfig

EXAMPLES = examples(
    ("vtb look mini", "the first rows of every source"),
    ("vtb look mini --source mixed --num 10", "ten rows of one source"),
)


def look(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    source: Annotated[str | None, typer.Option(help="Only this source of the recipe.")] = None,
    num: Annotated[int, typer.Option(min=1, help="Rows of each source.")] = 3,
) -> None:
    """Print rendered conversations: what is learned in green, what is only read dim, clips by length.

    Needs the tokenizer and the manifests of the recipe, no weights and no GPU.
    """
    from voicetextblender.chat.look import highlight
    from voicetextblender.train.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    chosen = choose_sources(list(loaded.data.all_sources.values()), source)
    tokenizer, renderer, num_audio_tokens = open_renderer(loaded.model)
    for config in chosen:
        console.rule(f"[bold]{config.name}[/bold] · weight {config.weight:g} · {config.path}", align="left")
        for where, conversation in first_rows(config, num, Path(loaded.data.cache_dir)):
            clips_s, counts = measure_clips(conversation, where, num_audio_tokens)
            rendered = renderer.render(conversation, counts, where=where)
            console.print(f"[dim]{where} · {conversation.task}[/dim]")
            console.print(highlight(rendered, tokenizer, clips_s), soft_wrap=True)
            supervised = int(rendered.supervision_mask.sum())
            console.print(f"[dim]{len(rendered.token_ids)} tokens, {supervised} supervised[/dim]\n")


def choose_sources(sources: Sequence[SourceConfig], name: str | None) -> list[SourceConfig]:
    """The source of that name, or all of them.

    Raises:
        RecipeError: no source of that name.
    """
    chosen = [source for source in sources if name in (None, source.name)]
    if not chosen:
        known = ", ".join(source.name for source in sources)
        raise RecipeError(
            describe(f"--source {name}", "no such source in the recipe", f"it has {known}", "Choose one of these")
        )
    return chosen


def open_renderer(config: ModelConfig) -> tuple[PreTrainedTokenizerBase, Renderer, TokenCount]:
    """Tokenizer, renderer and audio tokens by samples of a model, without its weights.

    Raises:
        ModelError: no tokenizer of the LLM or no configuration of the speech encoder where the recipe says.
    """
    from transformers import AutoTokenizer

    from voicetextblender.audio.lengths import TokenCount
    from voicetextblender.chat.render import Renderer
    from voicetextblender.errors import ModelError
    from voicetextblender.model.encoders.plan import plan_encoder

    try:
        tokenizer = AutoTokenizer.from_pretrained(config.llm)
    except OSError:
        fix = "Check the path; the embedded base models are made by `vtb prepare mini`"
        expected = "a save_pretrained folder or a hub name"
        raise ModelError(describe(config.llm, "no model there", expected, fix)) from None
    encoder = plan_encoder(config.speech_encoder, config.encoder).num_audio_tokens
    count = TokenCount((*encoder.stages, *config.adapter.stages))
    return tokenizer, Renderer(tokenizer, config.audio_token), count


def first_rows(config: SourceConfig, num: int, cache_dir: Path) -> Iterator[tuple[str, Conversation]]:
    """The first `num` conversations of a source, each with the name of its row and in other words than the last."""
    from voicetextblender.data.sources import open_source
    from voicetextblender.files import derive_seed

    source = open_source(config, cache_dir)
    for row in islice(source.scan(), num):
        yield source.where(row.line, row.file), source.parse(row, derive_seed("look", row.file, row.line))


def measure_clips(
    conversation: Conversation, where: str, num_audio_tokens: Callable[[int], int]
) -> tuple[list[float], list[int]]:
    """Seconds and audio placeholder tokens of each clip."""
    from voicetextblender.chat.clips import count_samples
    from voicetextblender.units import samples_to_seconds

    counts = [count_samples(clip, where) for clip in conversation.clips]
    return [samples_to_seconds(count) for count in counts], [num_audio_tokens(count) for count in counts]
