"""Recipe documents: our format `loradex/v1`, and a subset of mergekit's, as the request that both stand for.

`loradex/v1` is the request itself with its format's name. Of mergekit's configuration (docs/merge_methods.md and
docs/README.md of github.com/arcee-ai/mergekit) the table below is understood; anything else is refused by name, because
a key that is ignored gives another merge than the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lora.errors import LoraError
from lora.recipe_reader import InvalidRecipe

FORMAT = "loradex/v1"


@dataclass(frozen=True)
class _Method:
    """What one of mergekit's methods is here.

    Attributes:
        name: ours.
        parameters: mergekit's name → ours and mergekit's default, None where we ask for it; one value for all models.
        params: what mergekit does always and we do where asked to.
        normalize: mergekit's default of dividing absolute weights by their sum; None: the weights are relative anyway.
        weighted: whether mergekit's method looks at weights.
        adds: whether it adds entries times their weights, where ours are relative: the scale makes up for it.
    """

    name: str
    parameters: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    normalize: bool | None = None
    weighted: bool = True
    adds: bool = False


_SCALE = ("scale", 1.0)
_SPARSE = {"density": ("density", 1.0), "lambda": _SCALE}
METHODS: dict[str, _Method] = {
    "linear": _Method("weighted_sum", normalize=True),
    "task_arithmetic": _Method("weighted_sum", {"lambda": _SCALE}, normalize=False),
    "ties": _Method("ties", _SPARSE, {"semantics": "mergekit"}),
    "dare_linear": _Method("dare", _SPARSE, normalize=False, adds=True),
    "dare_ties": _Method("dare_ties", _SPARSE, {"semantics": "mergekit"}, adds=True),
    "breadcrumbs": _Method(
        "breadcrumbs", _SPARSE | {"density": ("density", None), "gamma": ("gamma", 0.01)}, normalize=False, adds=True
    ),
    "sce": _Method("sce", {"select_topk": ("density", 1.0)}, weighted=False),
    "nuslerp": _Method("nuslerp"),
    "multislerp": _Method("multislerp"),
    "karcher": _Method("karcher", {"max_iter": ("max_iter", 10), "tol": ("tol", 1e-5)}, weighted=False),
    "model_stock": _Method("model_stock", weighted=False),
}
_KEYS = ("merge_method", "models", "parameters", "base_model", "dtype", "out_dtype", "output")
# Keys that many configurations have, and why we refuse them.
_WHY_NOT = {
    "int8_mask": "it saves memory in mergekit and has no meaning here; leave it out",
    "slices": "whole adapters are merged; layers cannot be stacked or left out",
    "tokenizer_source": "an adapter has no tokenizer; leave it out",
    "tokenizer": "an adapter has no tokenizer; leave it out",
    "chat_template": "an adapter has no chat template; leave it out",
    "normalize": "the weights of this method are relative to each other; leave it out",
    "slerp": "its order follows from base_model there; write method: slerp in loradex/v1, with t",
}


def request_of(document: Any, source: str = "adapter") -> Any:
    """Return the request that a document stands for; what is no object comes back as it is.

    Args:
        source: what an input of the request names: "adapter", as `owner/name`, or "path", of a folder.
    Raises: InvalidRecipe: with the key's place in `where`.
    """
    if not isinstance(document, dict):
        return document
    if "merge_method" in document:
        return _from_mergekit(document, source)
    if document.get("format", FORMAT) != FORMAT:
        raise _refusal("format", f"format is {FORMAT}, or left out, not {str(document['format'])[:60]!r}.")
    return {key: value for key, value in document.items() if key != "format"}


def document_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a request, its format first."""
    return {"format": FORMAT, **request}


def _from_mergekit(document: dict[str, Any], source: str) -> dict[str, Any]:
    _refuse_unknown("", document, _KEYS)
    name = str(document["merge_method"])
    method = METHODS.get(name)
    if method is None:
        why = f": {_WHY_NOT[name]}" if name in _WHY_NOT else f". Known: {', '.join(METHODS)}"
        raise _refusal("merge_method", f"merge_method {name[:60]!r} is not one that is understood here{why}.")
    models = list(_models(document, source, method))
    shared = _parameters("parameters", document.get("parameters", {}), _allowed(method, shared=True))
    normalize = shared.get("normalize", method.normalize)
    if not isinstance(normalize, bool | None):
        raise _refusal("parameters.normalize", "normalize is true or false.")
    weights, factor = _weights(method, [(model, shared | model.parameters) for model in models], normalize)
    inputs = [model.source | ({} if w is None else {"weight": w}) for model, w in zip(models, weights, strict=True)]
    params = {ours: _common(models, shared, theirs, default) for theirs, (ours, default) in method.parameters.items()}
    if method.adds:
        params["scale"] *= factor
    request = {"method": method.name, "inputs": inputs, "params": params | dict(method.params)}
    return request | _base_of(document, models) | _output_of(document)


@dataclass(frozen=True)
class _Model:
    where: str
    source: dict[str, str]
    base: str | None
    parameters: dict[str, Any]


def _models(document: dict[str, Any], source: str, method: _Method) -> Iterator[_Model]:
    items = document.get("models")
    if not isinstance(items, list) or not items:
        raise _refusal("models", "models must be a list of {model, parameters}.")
    for index, item in enumerate(items):
        where = f"models[{index}]"
        if not isinstance(item, dict) or not isinstance(item.get("model"), str):
            raise _refusal(where, f"{where} must be an object with model: the name of an adapter.")
        _refuse_unknown(where, item, ("model", "parameters"))
        parameters = _parameters(f"{where}.parameters", item.get("parameters", {}), _allowed(method))
        if item["model"] == document.get("base_model") and not parameters:
            continue  # the base among the models: mergekit subtracts it from itself
        named, base = _named(item["model"], source)
        yield _Model(where, named, base, parameters)


def _named(model: str, source: str) -> tuple[dict[str, str], str | None]:
    """Return the input that `[base+]adapter[@revision]` names, and the base."""
    if source == "path":
        return {source: model}, None
    base, _, adapter = model.rpartition("+")
    name, _, revision = adapter.partition("@")
    return {source: name} | ({"revision": revision} if revision else {}), base or None


def _allowed(method: _Method, *, shared: bool = False) -> tuple[str, ...]:
    weight = ("weight",) if method.weighted else ()
    return (*weight, *method.parameters, *(("normalize",) if shared and method.normalize is not None else ()))


def _parameters(where: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refusal(where, f"{where} must be an object.")
    _refuse_unknown(where, value, known)
    for key, item in value.items():
        if not isinstance(item, int | float):
            text = f"{where}.{key} must be one number: gradients and filters by layer are not understood here."
            raise _refusal(f"{where}.{key}", text)
    return value


def _weights(
    method: _Method, models: list[tuple[_Model, dict[str, Any]]], normalize: bool | None
) -> tuple[list[float | None], float]:
    """Return our weights, and for a method that adds the factor by which mergekit's result is larger than ours."""
    weights = [parameters.get("weight") for _, parameters in models]
    if normalize is None and not method.adds:
        return weights, 1.0
    for (model, _), weight in zip(models, weights, strict=True):
        if weight is None:
            where = f"{model.where}.parameters.weight"
            raise _refusal(where, f"{where} is missing: mergekit's method has no default for it.")
    total = sum(weight for weight in weights if weight is not None) if normalize else 1.0
    if abs(total) < 1e-8:
        raise _refusal("parameters.normalize", "The weights add up to zero and cannot be normalized.")
    if method.adds:
        return weights, sum(abs(weight) for weight in weights if weight is not None) / len(weights) / total
    return [weight / total for weight in weights if weight is not None], 1.0


def _common(models: list[_Model], shared: dict[str, Any], key: str, default: Any) -> Any:
    values = {model.parameters.get(key, shared.get(key, default)) for model in models}
    if len(values) > 1:
        text = f"{key} differs between the models; here it is one number for all of them."
        raise _refusal(f"{models[-1].where}.parameters.{key}", text)
    value = next(iter(values), default)
    if value is None:
        raise _refusal(f"parameters.{key}", f"parameters.{key} is missing.")
    return value


def _base_of(document: dict[str, Any], models: list[_Model]) -> dict[str, Any]:
    stated = document.get("base_model")
    for model in models:
        stated = model.base if stated is None else stated
        if model.base is not None and model.base != stated:
            raise _refusal(f"{model.where}.model", f"{model.where} is on {model.base}, the others on {stated}.")
    return {} if stated is None else {"base_model": stated}


def _output_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return `output`: our own, with mergekit's dtype. Everything is computed in float64 whatever dtype says."""
    output = document.get("output", {})
    dtype = document.get("out_dtype", document.get("dtype"))
    if dtype is None:
        return {"output": output}
    if not isinstance(output, dict) or "dtype" in output:
        raise _refusal("output", "output must be an object, and dtype be given once.")
    return {"output": output | {"dtype": dtype}}


def _refuse_unknown(where: str, value: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in value:
        if key not in known:
            place = f"{where}.{key}" if where else str(key)
            why = _WHY_NOT.get(key, f"known here: {', '.join(known)}")
            raise _refusal(place, f"{place[:120]} is not understood: {why}.")


def _refusal(where: str, message: str) -> LoraError:
    error = InvalidRecipe(message)
    error.where = where
    return error
