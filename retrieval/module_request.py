"""The body of `POST /retrieve/` for routers that run the base model: every field checked, nothing ignored."""

from dataclasses import dataclass
from typing import Any

from lora.catalogue import Method
from lora.module_routers import MODULE_ROUTERS
from lora.trial_routers import TRIAL_ROUTERS, is_tried
from registry.errors import Invalid
from registry.queries import find_base_model
from retrieval.request import MAX_TEXTS, read_example, read_explain, read_filters, read_k, read_text, refuse
from retrieval.search import Filters

FORMS = ("text", "texts", "examples")
FIELDS = {"router", *FORMS, "k", "base_model", "filters", "params", "explain"}


@dataclass(frozen=True)
class ModuleRequest:
    """A checked request.

    Attributes:
        method: the router's entry in the catalogue; `params` are its parsed parameters.
        queries: one list of texts per result, or of examples {input, output} where the router reads labels; empty where
            hidden states came instead.
        base_model: the registered name, or as it was given; `bases` are it and its aliases.
        filters: (key, alternatives), all of which must hold.
    """

    method: Method
    params: Any
    queries: list[list[Any]]
    base_model: str
    bases: tuple[str, ...]
    k: int
    filters: Filters
    explain: bool

    @property
    def reads_labels(self) -> bool:
        """Whether the queries are labelled examples."""
        return "labels" in self.method.needs

    @property
    def is_trial(self) -> bool:
        """Whether experts are run on the queries, rather than their vectors compared with what the base reads."""
        return "only" in self.method.traits


def names_module_router(payload: Any) -> bool:
    """Whether a request is for a router that looks inside, which can be told what enters the modules instead."""
    return isinstance(payload, dict) and payload.get("router") in MODULE_ROUTERS.names()


def parse_module_request(payload: dict[str, Any], *, has_states: bool = False) -> ModuleRequest:
    """Read a request whose router is one of these; with hidden states it has no texts.

    Raises: Invalid naming the field; InvalidParams.
    """
    given = {name: value for name, value in payload.items() if value is not None}
    for name in given:
        if name not in FIELDS:
            refuse(repr(name)[:100], f"{name[:100]!r} is no field here. Known: {', '.join(sorted(FIELDS))}.")
    catalogue = TRIAL_ROUTERS if is_tried(given["router"], given.get("params")) else MODULE_ROUTERS
    method = catalogue.get(given["router"])
    name = given.pop("base_model", None)
    if not isinstance(name, str) or not name.strip():
        refuse("base_model", f"{method.name} compares experts of one base model: say which, as base_model.")
    base = find_base_model(name)
    return ModuleRequest(
        method=method,
        params=catalogue.parse(method.name, given.get("params", {})),
        queries=_no_queries(given) if has_states else _queries(given, method),
        base_model=base.name if base else name,
        bases=(base.name, *base.aliases) if base else (name,),
        k=read_k(given.get("k", method.traits["k"])),
        filters=read_filters(given),
        explain=read_explain(given.get("explain", False)),
    )


def _no_queries(given: dict[str, Any]) -> list[list[str]]:
    for form in FORMS:
        if form in given:
            refuse(form, f"Send either {form} or hidden states.")
    return []


def _queries(given: dict[str, Any], method: Method) -> list[list[Any]]:
    forms = [form for form in FORMS if form in given]
    if len(forms) != 1:
        text = f"Send exactly one of {', '.join(FORMS)}, or hidden_states as a part of a multipart request."
        raise Invalid(text, detail={forms[-1] if forms else "text": text})
    form = forms[0]
    if form not in method.traits["accepts"]:
        known = ", ".join(method.traits["accepts"])
        refuse(form, f"{method.name} does not take {form}, but {known}.")
    if form == "text":
        return [[read_text(given[form], form)]]
    items = given[form]
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_TEXTS:
        refuse(form, f"{form} must be a list of 1 to {MAX_TEXTS} items.")
    if form == "texts":
        return [[read_text(item, f"texts[{place}]")] for place, item in enumerate(items)]
    read = _labelled if "labels" in method.needs else read_example
    return [[read(item, f"examples[{place}]") for place, item in enumerate(items)]]


def _labelled(value: Any, where: str) -> dict[str, str]:
    given = read_example(value, where)
    return {"input": given, "output": read_text(value.get("output", ""), f"{where}.output")}
