from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicetextblender.errors import DataError
from voicetextblender.evaluate.predictions import Prediction
from voicetextblender.evaluate.score import (
    UnitCounts,
    bootstrap_rates,
    count,
    count_units,
    normalise,
    normalise_answer,
    score_item,
    score_row,
    signature,
)


def item(id_: str, reference: str, hypothesis: str, turn: int = 0) -> Prediction:
    return Prediction(id_, turn, (), reference, hypothesis)


@pytest.mark.parametrize(
    ("metric", "reference", "hypothesis", "expected"),
    [
        ("wer", "The red house.", "the RED house", (0, 3)),
        ("wer", "the red house", "the read big house", (2, 3)),
        ("wer", "the red house", "", (3, 3)),
        ("wer", "?!", "oh well", (2, 0)),
        ("cer", "über", "uber", (1, 4)),
        ("exact_match", "Seven.", " seven ", (1, 1)),
        ("exact_match", "7", "-7", (0, 1)),
        ("exact_match", "red, green", "red green", (0, 1)),
        ("exact_match", "„Straße“", "STRASSE", (1, 1)),
    ],
)
def test_counts_of_one_item(metric: str, reference: str, hypothesis: str, expected: tuple[int, int]) -> None:
    assert count(metric, reference, hypothesis) == expected  # type: ignore[arg-type]


def test_normalisers() -> None:
    assert normalise(" Grüß Gott,  Herr [noise] Müller! ") == "grüß gott herr müller"
    assert normalise_answer('"It is\n 12."') == "it is 12"


@given(st.text(max_size=30))
def test_a_text_matches_itself(text: str) -> None:
    assert count("exact_match", text, text) == (1, 1)
    assert count("wer", text, text)[0] == 0


def test_corpus_rate_is_errors_over_words_not_a_mean_of_rates() -> None:
    nine = "one two three four five six seven eight nine"
    items = [item("a", "one", "two"), item("b", nine, nine)]
    assert score_row("wer", [items], 100, 0, "row").value == pytest.approx(10.0)


def test_turns_of_a_conversation_are_one_unit() -> None:
    counts = count_units("exact_match", [item("a", "x", "x"), item("a", "y", "n", 1), item("b", "z", "z")])
    assert counts.ids == ("a", "b")
    assert counts.numerators.tolist() == [1, 1]
    assert counts.denominators.tolist() == [2, 1]


def test_interval_agrees_with_the_normal_approximation() -> None:
    items = [item(str(n), "yes", "yes" if n % 5 else "no") for n in range(500)]
    score = score_row("exact_match", [items], 2000, 3, "row")
    half = 196 * np.sqrt(0.8 * 0.2 / 500)
    assert score.value == pytest.approx(80)
    assert score.low == pytest.approx(80 - half, abs=0.5)
    assert score.high == pytest.approx(80 + half, abs=0.5)
    assert score == score_row("exact_match", [items], 2000, 3, "row")


def test_a_second_equal_seed_does_not_narrow_the_interval() -> None:
    items = [item(str(n), "yes", "yes" if n % 3 else "no") for n in range(120)]
    assert score_row("exact_match", [items, items], 500, 0, "row") == score_row("exact_match", [items], 500, 0, "row")


def test_same_seed_draws_the_same_units() -> None:
    hits = np.arange(50, dtype=np.float64) % 2
    one = UnitCounts(tuple(map(str, range(50))), hits, np.ones(50))
    other = UnitCounts(one.ids, 1 - hits, np.ones(50))
    both = bootstrap_rates([one], 200, 7, "row") + bootstrap_rates([other], 200, 7, "row")
    assert both == pytest.approx(np.full(200, 100.0))


def test_results_of_different_items_are_not_averaged() -> None:
    with pytest.raises(DataError, match=r"^row x: its results are of different items; .* Evaluate them again"):
        score_row("wer", [[item("a", "x", "x")], [item("b", "x", "x")]], 10, 0, "row x")


def test_bleu_and_chrf_hold_their_value() -> None:
    right = [
        item(str(n), f"the {word} house is big today", f"the {word} house is big today")
        for n, word in enumerate("abcd")
    ]
    assert score_row("bleu", [right], 50, 0, "row").value == pytest.approx(100)
    half = [*right[:2], *(item(one.id, one.reference, "nothing like it at all") for one in right[2:])]
    for metric in ("bleu", "chrf"):
        score = score_row(metric, [half], 50, 0, "row")  # type: ignore[arg-type]
        assert 0 < score.low <= score.value <= score.high <= 100
    assert score_row("bleu", [[item("a", "x y", "")]], 50, 0, "row").value == 0


def test_score_of_one_item() -> None:
    assert score_item("wer", "a b c d", "a b c x") == pytest.approx(25)
    assert score_item("exact_match", "a", "a") == 100
    assert score_item("bleu", "a b", "a b") == pytest.approx(100)


def test_signatures_name_tool_and_version() -> None:
    assert signature("wer").startswith("jiwer 4")
    assert "BasicTextNormalizer" in signature("cer")
    assert "tok:13a" in signature("bleu")
