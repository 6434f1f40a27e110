"""Documents: our own format, and what is understood of mergekit's."""

from typing import Any

import pytest

from lora.merges import MERGES
from lora.recipe import resolve_weights
from lora.recipe_documents import METHODS, document_of, request_of
from lora.recipe_reader import InvalidRecipe


def config(method: str = "linear", *weights: float | None, **changes: Any) -> dict[str, Any]:
    given = weights or (0.6, 0.2)
    models = [
        {"model": f"ada/{name}"} | ({} if weight is None else {"parameters": {"weight": weight}})
        for name, weight in zip("abc", given, strict=False)
    ]
    return {"merge_method": method, "models": models} | changes


def refusal(document: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(InvalidRecipe) as refused:
        request_of(document)
    return refused.value.where, str(refused.value)


def weights_of(request: dict[str, Any]) -> list[float]:
    return [item["weight"] for item in request["inputs"]]


def test_our_own_format_is_the_request() -> None:
    request = {"method": "ties", "inputs": [], "params": {}}
    assert request_of(document_of(request)) == request
    assert request_of(request) == request
    assert request_of([1]) == [1]
    assert refusal({"format": "loradex/v9"})[0] == "format"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_table_is_one_of_ours_with_these_parameters(method: str) -> None:
    weights = (None, None) if not METHODS[method].weighted else (0.5, 0.5)
    needed = {"parameters": {"density": 0.8}} if method == "breadcrumbs" else {}
    request = request_of(config(method, *weights, **needed))
    MERGES.parse(request["method"], request["params"])


def test_absolute_weights_are_normalized_where_mergekit_does() -> None:
    assert weights_of(request_of(config("linear", 3, 1))) == [0.75, 0.25]
    assert weights_of(request_of(config("linear", 3, 1, parameters={"normalize": False}))) == [3, 1]
    assert weights_of(request_of(config("task_arithmetic", 3, 1))) == [3, 1]
    assert refusal(config("linear", 1, -1))[0] == "parameters.normalize"
    assert refusal(config("linear", 1, None)) == (
        "models[1].parameters.weight",
        "models[1].parameters.weight is missing: mergekit's method has no default for it.",
    )


@pytest.mark.parametrize(("normalize", "total"), [(False, 1.0), (True, 0.8)])
def test_a_sum_is_mergekits_sum_whatever_relative_weights_do(normalize: bool, total: float) -> None:
    request = request_of(config("dare_linear", 1.0, -0.2, parameters={"lambda": 0.5, "normalize": normalize}))
    applied = resolve_weights(request["method"], weights_of(request))
    assert [request["params"]["scale"] * weight for weight in applied] == pytest.approx([0.5 / total, -0.1 / total])


def test_names_bases_and_revisions() -> None:
    models = [
        {"model": "acme/base"},
        {"model": "acme/base+ada/a@v1", "parameters": {"weight": 1}},
        {"model": "ada/b", "parameters": {"weight": 1}},
    ]
    request = request_of(config(models=models, base_model="acme/base", dtype="float32", out_dtype="bfloat16"))
    assert request["inputs"] == [
        {"adapter": "ada/a", "revision": "v1", "weight": 0.5},
        {"adapter": "ada/b", "weight": 0.5},
    ]
    assert (request["base_model"], request["output"]) == ("acme/base", {"dtype": "bfloat16"})
    assert refusal(config(models=models, base_model="acme/other"))[0] == "models[0].parameters.weight"
    assert refusal(config(models=models[1:], base_model="acme/other"))[0] == "models[0].model"
    paths = request_of(config(), "path")["inputs"]
    assert paths[0] == {"path": "ada/a", "weight": pytest.approx(0.75)}


@pytest.mark.parametrize(
    ("document", "where"),
    [
        (config("passthrough"), "merge_method"),
        (config("slerp"), "merge_method"),
        (config(["ties"]), "merge_method"),  # type: ignore[arg-type]
        (config(models={}), "models"),
        (config(models=["ada/a"]), "models[0]"),
        (config(models=[{"model": "ada/a", "weight": 1}]), "models[0].weight"),
        (config(models=[{"model": "ada/a", "parameters": {"densty": 1}}]), "models[0].parameters.densty"),
        (config("ties", parameters={"density": [0, 1]}), "parameters.density"),
        (config("ties", parameters={"density": [{"filter": "mlp", "value": 1}]}), "parameters.density"),
        (config("ties", parameters={"normalize": False}), "parameters.normalize"),
        (config("ties", parameters={"int8_mask": True}), "parameters.int8_mask"),
        (config("karcher"), "models[0].parameters.weight"),
        (config(parameters={"normalize": 1}), "parameters.normalize"),
        (config(tokenizer_source="union"), "tokenizer_source"),
        (config(slices=[]), "slices"),
        (config("breadcrumbs"), "parameters.density"),
        (config(dtype="float32", output={"dtype": "float16"}), "output"),
    ],
)
def test_the_rest_is_refused_by_name(document: dict[str, Any], where: str) -> None:
    assert refusal(document)[0] == where


def test_one_density_for_all() -> None:
    models = [
        {"model": f"ada/{name}", "parameters": {"weight": 1, "density": d}} for name, d in (("a", 0.5), ("b", 0.3))
    ]
    assert refusal(config("ties", models=models))[0] == "models[1].parameters.density"
