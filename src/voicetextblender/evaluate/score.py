"""From replies to figures: normalised text, counts per item, corpus scores and bootstrap intervals."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Protocol

import jiwer
import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from voicetextblender.errors import DataError, describe
from voicetextblender.evaluate.config import Metric

NORMALISER = "Whisper's BasicTextNormalizer as shipped by transformers (lower case, no punctuation, diacritics kept)"
EXACT_MATCH_RULE = "case, runs of white space, and punctuation or quotes at either end do not count; all else does"
COUNTED: frozenset[Metric] = frozenset({"wer", "cer", "exact_match"})
"""Metrics that are a sum over items divided by a sum over items; BLEU and chrF are not."""
ERROR_RATES: frozenset[Metric] = frozenset({"wer", "cer"})
METRIC_NAMES: dict[str, str] = {
    "wer": "WER", "cer": "CER", "bleu": "BLEU", "chrf": "chrF", "exact_match": "exact match",
}  # fmt: skip
_RESAMPLES_AT_ONCE = 64


class Scored(Protocol):
    """An item with what was expected and what came; items of one `id` are resampled together."""

    @property
    def id(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def hypothesis(self) -> str: ...


@dataclass(frozen=True)
class Interval:
    """A figure in percent (BLEU and chrF as usual) with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class UnitCounts:
    """Numerators and denominators of a counted metric, float64 [units]; a unit is a whole conversation,
    since the turns of one conversation are not independent of each other."""

    ids: tuple[str, ...]
    numerators: NDArray[np.float64]
    denominators: NDArray[np.float64]

    @property
    def rate(self) -> float:
        """The metric over all units, in percent."""
        return float(100 * self.numerators.sum() / max(self.denominators.sum(), 1.0))


@cache
def _normaliser() -> BasicTextNormalizer:
    return BasicTextNormalizer()


def normalise(text: str) -> str:
    """Text as word and character error rates see it: `NORMALISER`, white space collapsed."""
    return " ".join(_normaliser()(text).split())


def normalise_answer(text: str) -> str:
    """Text as exact match sees it: `EXACT_MATCH_RULE`. A leading minus sign stays, it changes the answer."""
    return re.sub(r"\s+", " ", text.casefold()).strip(" .,;:!?\"'`´’‘“”„«»…¿¡")


def count(metric: Metric, reference: str, hypothesis: str) -> tuple[int, int]:
    """Numerator and denominator of one item under a counted metric.

    Errors and reference words for `wer` (characters for `cer`), 1 or 0 and 1 for `exact_match`.
    """
    if metric == "exact_match":
        return int(normalise_answer(reference) == normalise_answer(hypothesis)), 1
    expected, found = normalise(reference), normalise(hypothesis)
    if not expected:
        return len(found.split() if metric == "wer" else found), 0
    aligned = (jiwer.process_words if metric == "wer" else jiwer.process_characters)(expected, found)
    return (
        aligned.substitutions + aligned.deletions + aligned.insertions,
        aligned.substitutions + aligned.deletions + aligned.hits,
    )


def score_item(metric: Metric, reference: str, hypothesis: str) -> float:
    """The metric of one item alone, in percent; sentence BLEU stops at the longest n-gram the item has."""
    if metric in COUNTED:
        numerator, denominator = count(metric, reference, hypothesis)
        return 100 * numerator / max(denominator, 1)
    scorer = BLEU(effective_order=True) if metric == "bleu" else CHRF()
    return float(scorer.sentence_score(hypothesis, [reference]).score)


def count_units(metric: Metric, items: Sequence[Scored]) -> UnitCounts:
    """Counts per conversation, in order of first appearance."""
    sums: dict[str, tuple[int, int]] = {}
    for item in items:
        numerator, denominator = count(metric, item.reference, item.hypothesis)
        before = sums.get(item.id, (0, 0))
        sums[item.id] = (before[0] + numerator, before[1] + denominator)
    table = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 2)
    return UnitCounts(tuple(sums), table[:, 0], table[:, 1])


def require_same_units(runs: Sequence[UnitCounts], where: str) -> None:
    """Refuse to average or compare what was asked of different items.

    Raises:
        DataError: the ids differ, or their order.
    """
    if any(run.ids != runs[0].ids for run in runs):
        found = "its results are of different items"
        expected = "results that are averaged or compared come from the same manifest"
        raise DataError(describe(where, found, expected, "Evaluate them again on one manifest"))


def bootstrap_rates(runs: Sequence[UnitCounts], samples: int, seed: int, where: str) -> NDArray[np.float64]:
    """Resampled rates in percent, float64 [samples]: the mean over `runs`, which saw the same units.

    One resample draws the same units from every run, so the variation between items is not halved by a second
    seed. Two calls with the same seed and as many units draw the same units: their results are paired.

    Raises:
        DataError: the runs were not asked the same items.
    """
    require_same_units(runs, where)
    numerators = np.stack([run.numerators for run in runs], axis=1)
    denominators = np.stack([run.denominators for run in runs], axis=1)
    num_units = len(runs[0].ids)
    rng = np.random.default_rng(seed)
    rates = np.empty(samples)
    for start in range(0, samples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, samples - start)
        drawn = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=size).astype(np.float64)
        ratios = (drawn @ numerators) / np.maximum(drawn @ denominators, 1.0)
        rates[start : start + size] = 100 * ratios.mean(axis=1)
    return rates


def interval(value: float, draws: NDArray[np.float64]) -> Interval:
    """The value with the middle 95 % of its resamples, widened to hold the value itself."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(value, min(value, float(low)), max(value, float(high)))


def score_row(metric: Metric, runs: Sequence[Sequence[Scored]], samples: int, seed: int, where: str) -> Interval:
    """The metric of one row: the mean over `runs` (seeds of one column), with its interval."""
    if metric in COUNTED:
        counts = [count_units(metric, items) for items in runs]
        draws = bootstrap_rates(counts, samples, seed, where)
        return interval(sum(run.rate for run in counts) / len(counts), draws)
    scores = [_score_corpus(metric, items, samples) for items in runs]
    # The interval of a mean is at most as wide as the mean of the intervals: this errs on the wide side.
    mean = np.mean([(score.value, score.low, score.high) for score in scores], axis=0)
    return Interval(*(float(part) for part in mean))


def _score_corpus(metric: Metric, items: Sequence[Scored], samples: int) -> Interval:
    """BLEU or chrF of all items, with sacrebleu's own bootstrap."""
    scorer: BLEU | CHRF = BLEU() if metric == "bleu" else CHRF()
    hypotheses, references = [item.hypothesis for item in items], [[item.reference for item in items]]
    score = scorer.corpus_score(hypotheses, references, n_bootstrap=samples)
    value = float(score.score)
    if samples < 2:
        return Interval(value, value, value)
    # The JSON form is the public way to the bootstrap's result; it leaves it out where the mean is 0.
    told = json.loads(score.format(width=6, is_json=True, signature=scorer.get_signature().format()))
    mean, half = told.get("confidence_mean", 0.0), told.get("confidence_var", 0.0)
    low, high = mean - half, mean + half
    return Interval(value, max(0.0, min(value, low)), min(100.0, max(value, high)))


def signature(metric: Metric) -> str:
    """How the metric was computed, in one line for the report."""
    if metric == "exact_match":
        return EXACT_MATCH_RULE
    if metric in ERROR_RATES:
        return f"jiwer {version('jiwer')} after {NORMALISER}"
    scorer: BLEU | CHRF = BLEU() if metric == "bleu" else CHRF()
    scorer.corpus_score(["a"], [["a"]])
    return f"sacrebleu {scorer.get_signature()}"
