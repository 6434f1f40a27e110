"""The body of `POST /retrieve/`: every field checked, nothing ignored."""

from dataclasses import dataclass
from typing import Any, NoReturn

from lora.catalogue import Method
from lora.routers import ROUTERS
from registry.errors import Invalid
from registry.models import BaseModel
from retrieval.search import Filters

DEFAULT_ROUTER = "lora_retriever"
FORMS = ("text", "texts", "examples")
LATER_FORMS = ("vector", "vectors", "space", "adapter", "hidden_states")
FIELDS = {"router", *FORMS, "k", "base_model", "filters", "params", "explain"}
FILTERS = ("tag", "license", "owner", "base_model")
MAX_K = 100
MAX_TEXTS = 256
MAX_CHARS = 100_000
MAX_FILTER_VALUES = 100


@dataclass(frozen=True)
class RetrieveRequest:
    """A checked request.

    Attributes:
        method: the router's entry in the catalogue; `params` are its parsed parameters.
        queries: one list of texts per result; its texts describe one task together.
        filters: (key, alternatives), all of which must hold.
    """

    method: Method
    params: Any
    queries: list[list[str]]
    k: int
    filters: Filters
    explain: bool


def parse_request(payload: Any) -> RetrieveRequest:
    """Raises: Invalid naming the field; UnknownRouter, InvalidParams."""
    if not isinstance(payload, dict):
        _refuse("request", 'The request must be a JSON object such as {"text": "Name the capital of Peru."}.')
    given = {name: value for name, value in payload.items() if value is not None}
    for name in given:
        if name in LATER_FORMS:
            _refuse(name, f"This version routes text only: send 'text', 'texts' or 'examples' instead of {name!r}.")
        if name not in FIELDS:
            _refuse(_encodable(name)[:100], f"There is no field {name[:100]!r}. Known: {', '.join(sorted(FIELDS))}.")
    router = given.get("router", DEFAULT_ROUTER)
    if not isinstance(router, str):
        _refuse("router", "router must be a string.")
    method = ROUTERS.get(router)
    return RetrieveRequest(
        method=method,
        params=ROUTERS.parse(router, given.get("params", {})),
        queries=_queries(given, method),
        k=_k(given.get("k", method.traits["k"])),
        filters=_filters(given),
        explain=_explain(given.get("explain", False)),
    )


def _refuse(field: str, message: str) -> NoReturn:
    raise Invalid(message, detail={field: message})


def _k(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_K:
        _refuse("k", f"k must be a whole number from 1 to {MAX_K}.")
    return value


def _explain(value: Any) -> bool:
    if not isinstance(value, bool):
        _refuse("explain", "explain must be true or false.")
    return value


def _queries(given: dict[str, Any], method: Method) -> list[list[str]]:
    forms = [form for form in FORMS if form in given]
    if len(forms) != 1:
        _refuse(forms[-1] if forms else "text", f"Send exactly one of {', '.join(FORMS)}.")
    form = forms[0]
    if form not in method.traits["accepts"]:
        _refuse(form, f"{method.name} does not take {form}, but {', '.join(method.traits['accepts'])}.")
    if form == "text":
        return [[_text(given[form], form)]]
    items = given[form]
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_TEXTS:
        _refuse(form, f"{form} must be a list of 1 to {MAX_TEXTS} items.")
    if form == "texts":
        return [[_text(item, f"texts[{position}]")] for position, item in enumerate(items)]
    return [[_example(item, f"examples[{position}]") for position, item in enumerate(items)]]


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _text(value: Any, where: str) -> str:
    """The text as it can be encoded: NUL and lone surrogates, which JSON can carry, are no characters."""
    if not isinstance(value, str):
        _refuse(where, f"{where} must be a string.")
    if len(value) > MAX_CHARS:
        _refuse(where, f"{where} has {len(value)} characters; at most {MAX_CHARS}.")
    text = _encodable(value.replace("\0", " "))
    if not text.strip():
        _refuse(where, f"{where} is blank. Say what the expert is to be good at.")
    return text


def _example(value: Any, where: str) -> str:
    if not isinstance(value, dict) or not set(value) <= {"input", "output"}:
        _refuse(where, f'{where} must be an object with "input" and optionally "output".')
    if not isinstance(value.get("output", ""), str):
        _refuse(f"{where}.output", f"{where}.output must be a string.")
    return _text(value.get("input"), f"{where}.input")


def _filters(given: dict[str, Any]) -> Filters:
    filters = given.get("filters", {})
    if not isinstance(filters, dict):
        _refuse("filters", 'filters must be an object such as {"tag": ["qa"]}.')
    for key in filters:
        if key not in FILTERS:
            _refuse("filters", f"There is no filter {key[:100]!r}. Known: {', '.join(FILTERS)}.")
    found = [(key, _values(filters[key], f"filters.{key}")) for key in sorted(filters)]
    if "base_model" in given:
        found.append(("base_model", _values([given["base_model"]], "base_model")))
    return tuple((key, _with_aliases(values) if key == "base_model" else values) for key, values in found)


def _values(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_FILTER_VALUES:
        _refuse(where, f"{where} must be a list of 1 to {MAX_FILTER_VALUES} strings.")
    if not all(isinstance(value, str) and value.strip() for value in values):
        _refuse(where, f"{where} must hold strings that are not blank.")
    return tuple(sorted(set(values)))


def _with_aliases(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names and every other name of the same base models."""
    found = set(names)
    for name, aliases in BaseModel.objects.order_by().values_list("name", "aliases"):
        same = {name, *aliases}
        if same & set(names):
            found |= same
    return tuple(sorted(found))
