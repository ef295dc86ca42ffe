"""One joint speech-text supervised fine-tuning, from a recipe to a model: the whole training, top to bottom."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console

from voicetextblender.data.index import fingerprint_sources
from voicetextblender.data.loader import build_loader
from voicetextblender.data.measure import Geometry
from voicetextblender.model.build import Composite
from voicetextblender.model.trainable import trainable_parameters
from voicetextblender.model.warm_start import warm_start_adapter
from voicetextblender.model.weights import MANIFEST, save_composite, whole_state
from voicetextblender.progress import show_progress
from voicetextblender.train.checkpoint import CheckpointStore
from voicetextblender.train.compiling import no_silent_fallback
from voicetextblender.train.distributed import Ranks, join_ranks
from voicetextblender.train.flops import count_flops
from voicetextblender.train.log import RunLog
from voicetextblender.train.optim import build_optimizer, learning_rate_at, set_learning_rate
from voicetextblender.train.parallel import check_shard_size, is_sharded, open_composite, prepare_model, reads_weights
from voicetextblender.train.profiling import StepTrace
from voicetextblender.train.recipe import Recipe, recipe_fingerprint
from voicetextblender.train.run_folder import open_run, write_json
from voicetextblender.train.step import run_step
from voicetextblender.train.unreadable import Unreadable

MODEL_FOLDER = "model"
"""Where in the run folder the finished model is."""
WARM_START_CONVERSATIONS = 1024
"""The first conversations of a training, whose clips a warm start of the adapter is fitted on."""
NO_STEPS = range(0)


def train(recipe: Recipe, run_dir: Path, console: Console | None = None, profiled: range = NO_STEPS) -> Path:
    """Train by `recipe` in `run_dir` and return the folder of the finished model.

    An unfinished run of the same recipe goes on from its newest checkpoint and ends with the very same weights; a
    finished one is left as it is.

    Args:
        profiled: steps of which the first rank writes a trace to `trace/` in the run folder.

    Raises:
        RunError: The folder is in use or holds a run of another recipe; the number of ranks does not fit the recipe; a
            loss or gradient is not finite.
        VoiceTextBlenderError: Models, data or checkpoints that cannot be used.
    """
    console = console or Console()
    with join_ranks(recipe.train.device) as ranks, open_run(run_dir, recipe, ranks):
        check_shard_size(recipe.train, ranks)
        model_dir = run_dir / MODEL_FOLDER
        if (model_dir / MANIFEST).is_file():
            if ranks.is_first:
                console.print(f"{run_dir} is already trained to step {recipe.train.steps}", highlight=False)
            return model_dir
        composite = open_composite(recipe.model, recipe.seed, recipe.train, ranks)
        trace = StepTrace(run_dir / "trace", profiled if ranks.is_first else NO_STEPS)
        _train_steps(recipe, run_dir, composite, ranks, console, trace)
        tensors = whole_state(composite, is_kept=ranks.is_first)
        if ranks.is_first:
            save_composite(composite, model_dir, tensors)
        ranks.wait()
        return model_dir


def _train_steps(
    recipe: Recipe, run_dir: Path, composite: Composite, ranks: Ranks, console: Console, trace: StepTrace
) -> None:
    config, model = recipe.train, composite.model
    geometry = Geometry(composite.num_audio_tokens, composite.geometry_fingerprint)
    with ranks.first_rank_first():
        loader = build_loader(recipe.data, composite.renderer, geometry, recipe.seed, show_progress)
    loader.plan.check_length(config.steps)
    run_key, keep = recipe_fingerprint(recipe), config.keep_checkpoints
    store = CheckpointStore(run_dir / "checkpoints", run_key, keep, ranks, config.async_checkpoints)
    first = store.newest()
    trace.check(first, config.steps)
    if not is_sharded(config, ranks):
        model.to(ranks.device)
    if first == 0 and recipe.model.warm_start == "ctc" and reads_weights(config, ranks):
        num_steps = math.ceil(WARM_START_CONVERSATIONS / loader.plan.conversations_per_step)
        heard = (batch for loaded in loader.steps(0, num_steps) for batch in loaded.batches)
        explained = warm_start_adapter(composite, recipe.model.speech_encoder, heard)
        if ranks.is_first:
            console.print(f"warm start: the adapter gives {explained:.0%} of what the CTC head hears", highlight=False)
    flops = count_flops(model)
    parallel = prepare_model(composite, config, ranks, recipe.data.pack)
    parameters = trainable_parameters(model)
    optimizer = build_optimizer(parameters, config.optim)
    if first:
        store.load(first, parameters, optimizer)
    model.train()
    if ranks.is_first:
        write_json(run_dir / "data.json", fingerprint_sources({index.name: index for index in loader.indexes}))
    unreadable = Unreadable(run_dir, first, recipe.data.max_failed_share, ranks)
    shown_on = console if ranks.is_first else None
    with RunLog(run_dir, config.steps, first, shown_on, config.tensorboard, ranks.num_ranks) as log:
        loaded_steps = loader.steps(first, config.steps, ranks.rank, ranks.num_ranks, unreadable.known)
        for step, loaded in enumerate(loaded_steps, start=first):
            rows = unreadable.add(step, loaded)
            learning_rate = learning_rate_at(step, config.steps, config.optim)
            set_learning_rate(optimizer, learning_rate)
            with trace.step(step), no_silent_fallback():
                result = run_step(
                    composite, optimizer, list(parameters.values()), loaded.batches, config, parallel, recipe.seed, step
                )
            operations = ranks.sum_number(flops.of_batches(loaded.batches, composite.num_encoder_frames))
            log.write(step, result, rows, learning_rate, ranks.device, operations, loaded.waited_s)
            is_due = config.checkpoint_every and (step + 1) % config.checkpoint_every == 0
            if is_due or step + 1 == config.steps:
                store.save(step + 1, parameters, optimizer)
    store.wait()
    if ranks.is_first:
        unreadable.print_table(console)
    model.eval()
