"""Recipes: the named ones, changes to them, and their way through JSON."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nescient_fl.errors import UserError
from nescient_fl.lesion.network import NetworkOptions
from nescient_fl.lesion.recipe import RECIPES, Recipe, choose_recipe, recipe_from_json, recipe_to_json

positive = st.floats(1e-12, 1e6)
recipes = st.builds(
    Recipe,
    name=st.text(max_size=20),
    learning_rate=positive,
    weight_decay=st.floats(0, 1e3),
    batch_size=st.integers(1, 10_000),
    standardise=st.booleans(),
    flip=st.floats(0, 1),
    shift=st.integers(0, 159),
    final_rate=st.floats(1e-6, 1),
    clip_norm=st.none() | positive,
    proximal=st.floats(0, 1e3),
    network=st.builds(
        NetworkOptions,
        activation=st.sampled_from(["relu", "gelu"]),
        dropout=st.floats(0, 1, exclude_max=True),
    ),
)


@given(recipes)
def test_json_gives_the_same_recipe_back(recipe: Recipe) -> None:
    assert recipe_from_json(recipe_to_json(recipe)) == recipe


def test_json_with_an_unknown_key_is_refused() -> None:
    text = recipe_to_json(RECIPES["paper"]).replace('"flip"', '"flop"')
    with pytest.raises(TypeError, match="flop"):
        recipe_from_json(text)


def test_the_papers_recipe_is_the_write_ups() -> None:
    paper = RECIPES["paper"]
    assert (paper.learning_rate, paper.weight_decay, paper.batch_size) == (5e-4, 1e-4, 8)
    assert (paper.standardise, paper.flip, paper.shift) == (False, 0.0, 0)
    assert (paper.clip_norm, paper.proximal, paper.network) == (None, 0.0, NetworkOptions("relu", 0.0))


def test_the_step_size_falls_along_half_a_cosine() -> None:
    recipe = replace(RECIPES["default"], learning_rate=1.0, final_rate=0.2)
    assert [recipe.rate_in(number, 5) for number in (1, 3, 5)] == pytest.approx([1.0, 0.6, 0.2])
    assert recipe.rate_in(2, 5) == pytest.approx(1 - 0.8 * (1 - math.sqrt(0.5)) / 2)
    assert recipe.rate_in(1, 1) == 1.0
    assert {RECIPES["paper"].rate_in(number, 9) for number in range(1, 10)} == {5e-4}


def test_changes_of_none_keep_the_recipes_value() -> None:
    changed = choose_recipe("paper", learning_rate=0.1, batch_size=None, clip_norm=2.0)
    assert (changed.learning_rate, changed.batch_size, changed.clip_norm) == (0.1, 8, 2.0)
    assert choose_recipe("default") == RECIPES["default"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'papr'.*default"):
        choose_recipe("papr")


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"weight_decay": -1e-9},
        {"proximal": -1.0},
        {"batch_size": 0},
        {"flip": 1.5},
        {"flip": float("nan")},
        {"shift": -1},
        {"shift": 160},
        {"clip_norm": 0.0},
        {"final_rate": 0.0},
        {"final_rate": 1.5},
    ],
)
def test_values_that_cannot_be_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UserError):
        choose_recipe("default", **change)
