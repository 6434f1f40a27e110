"""Recipes as JSON: every part checked, every flaw at its place."""

from collections.abc import Mapping
from typing import Any

import pytest

from lora.recipe_reader import MAX_DEPTH, MAX_INPUTS, Draft, Flaw, InvalidRecipe, RecipeReader
from lora.recipe_tree import Step


class Names(RecipeReader[str]):
    """Adapters that are their names."""

    source_fields = frozenset({"name"})

    def find_source(self, where: str, item: Mapping[str, Any]) -> str | None:
        if isinstance(item.get("name"), str):
            return str(item["name"])
        self.flaws.append(Flaw(where, InvalidRecipe("no name")))
        return None

    def name_of(self, source: str) -> str:
        return source


def read(recipe: Any) -> tuple[Draft[str], list[tuple[str, str]]]:
    reader = Names()
    draft = reader.read_step(recipe)
    return draft, [(flaw.where, flaw.error.code) for flaw in reader.flaws]


def nest(depth: int) -> dict[str, Any]:
    recipe: dict[str, Any] = {"method": "weighted_sum", "inputs": [{"name": "a"}]}
    for _ in range(depth - 1):
        recipe = {"method": "weighted_sum", "inputs": [{"recipe": recipe}]}
    return recipe


def test_a_tree_is_read_with_its_defaults() -> None:
    inner = {"method": "ties", "inputs": [{"name": "b"}, {"name": "c"}], "params": {"density": 1}}
    draft, flaws = read({"method": "weighted_sum", "inputs": [{"name": "a"}, {"recipe": inner, "weight": -1}]})
    assert flaws == []
    leaves = [(leaf.where, leaf.source, leaf.weight) for leaf in draft.step.leaves]
    assert leaves == [
        ("inputs[0]", "a", 0.5),
        ("inputs[1].recipe.inputs[0]", "b", -0.5),
        ("inputs[1].recipe.inputs[1]", "c", -0.5),
    ]
    nested = draft.step.inputs[1].source
    assert isinstance(nested, Step)
    assert nested.params["density"] == 1.0
    assert nested.params["scope"] == "tensor"


def test_every_flaw_is_told_with_its_place() -> None:
    inner = {
        "method": "ties",
        "params": {"densty": 1},
        "inputs": [{"name": "b"}, {"name": "c", "weight": float("nan")}, {"name": 5}, {"name": "b"}],
    }
    _, flaws = read({"method": "nope", "inputs": [{"recipe": inner, "wieght": 1}, {"recipe": inner}, {"recipe": []}]})
    place = "inputs[1].recipe."
    assert flaws == [
        ("method", "unknown_method"),
        ("inputs[0]", "invalid"),
        (f"{place}params.densty", "invalid_params"),
        (f"{place}inputs[1].weight", "invalid"),
        (f"{place}inputs[2]", "invalid"),
        (f"{place}inputs", "invalid"),
        ("inputs[2].recipe", "invalid"),
    ]


@pytest.mark.parametrize(
    ("weights", "where"),
    [
        ([0, 0], "weights"),
        ([float("inf"), 1], "inputs[0].weight"),
        ([True, 1], "inputs[0].weight"),
        ([2e6, 1], "inputs[0].weight"),
    ],
)
def test_weights_that_weigh_nothing_are_refused_at_every_depth(weights: list[float], where: str) -> None:
    recipe = {
        "method": "weighted_sum",
        "inputs": [{"name": n, "weight": w} for n, w in zip("ab", weights, strict=True)],
    }
    assert [flaw[0] for flaw in read(recipe)[1]] == [where]
    outer = {"method": "weighted_sum", "inputs": [{"recipe": recipe}]}
    assert [flaw[0] for flaw in read(outer)[1]] == [f"inputs[0].recipe.{where}"]


def test_depth_and_number_are_bounded() -> None:
    assert read(nest(MAX_DEPTH))[1] == []
    [(where, _)] = read(nest(MAX_DEPTH + 1))[1]
    assert where == "inputs[0].recipe." * MAX_DEPTH + "inputs"
    names = [{"name": f"a{number}"} for number in range(MAX_INPUTS)]
    assert read({"method": "weighted_sum", "inputs": names})[1] == []
    for inputs in ([], names * 100, [{"recipe": {"method": "weighted_sum", "inputs": names}}]):
        flaws = read({"method": "weighted_sum", "inputs": inputs})[1]
        assert len(flaws) == 1, flaws


def test_the_same_input_twice_is_one_too_many_also_where_it_is_a_recipe() -> None:
    mean = {"method": "weighted_sum", "inputs": [{"name": "a"}, {"name": "b"}]}
    explicit = {"method": "weighted_sum", "inputs": [{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.5}]}
    twice = {"method": "weighted_sum", "inputs": [{"recipe": mean}, {"recipe": explicit}]}
    assert read(twice)[1] == [("inputs", "invalid")]
    # The same adapter at two places of the tree is what a subtraction of shared knowledge is made of.
    subtraction = {"method": "weighted_sum", "inputs": [{"name": "a", "weight": 1}, {"recipe": mean, "weight": -1}]}
    assert read(subtraction)[1] == []
