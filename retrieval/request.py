"""The body of `POST /retrieve/`: every field checked, nothing ignored."""

from dataclasses import dataclass
from typing import Any, NoReturn

from lora.catalogue import Method
from lora.errors import UnknownRouter
from lora.module_routers import MODULE_ROUTERS
from lora.routers import ROUTERS
from lora.trial_routers import TRIAL_ROUTERS, is_tried
from registry.errors import Invalid
from registry.models import BaseModel
from retrieval.search import Filters

DEFAULT_ROUTER = "hybrid"
# What answers who names no router where the default cannot: vectors have no characters, and other encoders than the
# one that ships wait for the first fit.
PLAIN_ROUTER = "lora_retriever"
FORMS = ("text", "texts", "examples", "vector", "vectors", "adapter")
PARTS = ("hidden_states",)
FIELDS = {"router", *FORMS, "space", "k", "base_model", "filters", "params", "explain", "outcomes"}
FILTERS = ("tag", "license", "owner", "base_model")
MAX_K = 100
MAX_TEXTS = 256
MAX_CHARS = 100_000
MAX_DIM = 8192
MAX_FILTER_VALUES = 100


@dataclass(frozen=True)
class RetrieveRequest:
    """A checked request.

    Attributes:
        method: the router's entry in the catalogue; `params` are its parsed parameters.
        form: which of FORMS was sent; `queries` are one list per result.
        queries: of texts, which describe one task together; or of one vector, as it was sent; or of an adapter's name.
        space: of the vectors.
        filters: (key, alternatives), all of which must hold.
        outcomes: whether what experts scored near the query shifts their ranks.
    """

    method: Method
    params: Any
    form: str
    queries: list[list[Any]]
    space: str | None
    k: int
    filters: Filters
    explain: bool
    outcomes: bool


def parse_request(payload: Any) -> RetrieveRequest:
    """Raises: Invalid naming the field; UnknownRouter, InvalidParams."""
    if not isinstance(payload, dict):
        refuse("request", 'The request must be a JSON object such as {"text": "Name the capital of Peru."}.')
    given = {name: value for name, value in payload.items() if value is not None}
    for name in given:
        if name in PARTS:
            refuse(name, f"Send {name} as a part of a multipart request, beside the part request with this JSON.")
        if name not in FIELDS:
            refuse(_encodable(name)[:100], f"There is no field {name[:100]!r}. Known: {', '.join(sorted(FIELDS))}.")
    router = given.get("router", PLAIN_ROUTER if {"vector", "vectors"} & given.keys() else DEFAULT_ROUTER)
    if not isinstance(router, str):
        refuse("router", "router must be a string.")
    method = _method(router, given.get("params"))
    form = _form(given, method)
    return RetrieveRequest(
        method=method,
        params=ROUTERS.parse(router, given.get("params", {})),
        form=form,
        queries=_queries(given, form),
        space=_space(given, form),
        k=read_k(given.get("k", method.traits["k"])),
        filters=read_filters(given),
        explain=read_explain(given.get("explain", False)),
        outcomes=_outcomes(given.get("outcomes", False), method),
    )


def runs_base(payload: Any) -> bool:
    """Whether a request is for a router that runs the base model: by its name, or by its name and parameters."""
    if not isinstance(payload, dict):
        return False
    router = payload.get("router")
    return router in MODULE_ROUTERS.names() or is_tried(router, payload.get("params"))


def _method(router: str, params: Any) -> Method:
    if runs_base({"router": router, "params": params}):
        refuse("router", f"{router} runs the base model in a job of its own; only POST /retrieve/ itself takes it.")
    if router not in ROUTERS.names():
        known = {*ROUTERS.names(), *MODULE_ROUTERS.names(), *TRIAL_ROUTERS.names()}
        raise UnknownRouter(router, sorted(known))
    return ROUTERS.get(router)


def refuse(field: str, message: str) -> NoReturn:
    """Raises: Invalid, naming the field."""
    raise Invalid(message, detail={field: message})


def read_k(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_K:
        refuse("k", f"k must be a whole number from 1 to {MAX_K}.")
    return value


def read_explain(value: Any) -> bool:
    if not isinstance(value, bool):
        refuse("explain", "explain must be true or false.")
    return value


def _outcomes(value: Any, method: Method) -> bool:
    if not isinstance(value, bool):
        refuse("outcomes", "outcomes must be true or false.")
    if value and method.traits["prototype"] == "outcomes":
        refuse("outcomes", f"{method.name} ranks by nothing but outcomes; the switch is for the other routers.")
    return value


def _form(given: dict[str, Any], method: Method) -> str:
    forms = [form for form in FORMS if form in given]
    if len(forms) != 1:
        refuse(forms[-1] if forms else "text", f"Send exactly one of {', '.join(FORMS)}.")
    form = forms[0]
    if form not in method.traits["accepts"]:
        refuse(form, f"{method.name} does not take {form}, but {', '.join(method.traits['accepts'])}.")
    return form


def _queries(given: dict[str, Any], form: str) -> list[list[Any]]:
    if form == "text":
        return [[read_text(given[form], form)]]
    if form == "adapter":
        return [[_name(given[form])]]
    if form == "vector":
        return [[_numbers(given[form], form)]]
    items = given[form]
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_TEXTS:
        refuse(form, f"{form} must be a list of 1 to {MAX_TEXTS} items.")
    if form == "examples":
        return [[read_example(item, f"examples[{position}]") for position, item in enumerate(items)]]
    read = read_text if form == "texts" else _numbers
    return [[read(item, f"{form}[{position}]")] for position, item in enumerate(items)]


def _numbers(value: Any, where: str) -> list[float]:
    is_list = isinstance(value, list) and 1 <= len(value) <= MAX_DIM
    if not is_list or not all(type(number) in (int, float) for number in value):
        refuse(where, f"{where} must be a list of numbers.")
    return value


def _space(given: dict[str, Any], form: str) -> str | None:
    space = given.get("space")
    if form not in ("vector", "vectors"):
        if space is not None:
            refuse("space", f"space says where vectors come from; leave it out with {form}.")
    elif not isinstance(space, str):
        refuse("space", "Say which space the vectors are from: space is the string that answers of this server hold.")
    return space


def _name(value: Any) -> str:
    if not isinstance(value, str) or value.count("/") != 1:
        refuse("adapter", "adapter must be a string such as 'ada/capitals'.")
    return _encodable(value.replace("\0", " "))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def read_text(value: Any, where: str) -> str:
    """The text as it can be encoded: NUL and lone surrogates, which JSON can carry, are no characters."""
    if not isinstance(value, str):
        refuse(where, f"{where} must be a string.")
    if len(value) > MAX_CHARS:
        refuse(where, f"{where} has {len(value)} characters; at most {MAX_CHARS}.")
    text = _encodable(value.replace("\0", " "))
    if not text.strip():
        refuse(where, f"{where} is blank. Say what the expert is to be good at.")
    return text


def read_example(value: Any, where: str) -> str:
    if not isinstance(value, dict) or not set(value) <= {"input", "output"}:
        refuse(where, f'{where} must be an object with "input" and optionally "output".')
    if not isinstance(value.get("output", ""), str):
        refuse(f"{where}.output", f"{where}.output must be a string.")
    return read_text(value.get("input"), f"{where}.input")


def read_filters(given: dict[str, Any]) -> Filters:
    filters = given.get("filters", {})
    if not isinstance(filters, dict):
        refuse("filters", 'filters must be an object such as {"tag": ["qa"]}.')
    for key in filters:
        if key not in FILTERS:
            refuse("filters", f"There is no filter {key[:100]!r}. Known: {', '.join(FILTERS)}.")
    found = [(key, _values(filters[key], f"filters.{key}")) for key in sorted(filters)]
    if "base_model" in given:
        found.append(("base_model", _values([given["base_model"]], "base_model")))
    return tuple((key, _with_aliases(values) if key == "base_model" else values) for key, values in found)


def _values(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_FILTER_VALUES:
        refuse(where, f"{where} must be a list of 1 to {MAX_FILTER_VALUES} strings.")
    if not all(isinstance(value, str) and value.strip() for value in values):
        refuse(where, f"{where} must hold strings that are not blank.")
    return tuple(sorted(set(values)))


def _with_aliases(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names and every other name of the same base models."""
    found = set(names)
    for name, aliases in BaseModel.objects.order_by().values_list("name", "aliases"):
        same = {name, *aliases}
        if same & set(names):
            found |= same
    return tuple(sorted(found))
