"""The trainings that the claims are made of."""

from __future__ import annotations

from pathlib import Path

from voicetextblender.mini.pipeline import CLAIM_RECIPES, CLAIM_STEPS, Claim


def test_each_claim_has_a_run_and_replies_of_its_own() -> None:
    world = Path("elsewhere/world")
    claims = [Claim(recipe, seed) for recipe in CLAIM_RECIPES for seed in range(3)]
    recipes = [claim.resolve(world) for claim in claims]
    assert [recipe.seed for recipe in recipes] == 3 * [0, 1, 2]
    assert all("runs/mini" not in recipe.model_dump_json() for recipe in recipes)
    assert {recipe.train.steps for recipe in recipes} == {CLAIM_STEPS}
    assert len({world / "joint", *(claim.run_dir(world) for claim in claims)}) == 10
    columns = [recipe.evaluate.column for recipe in recipes if recipe.evaluate]
    assert len({(claim.replies(world), column) for claim, column in zip(claims, columns, strict=True)}) == 9
