"""The body of `POST /merges/`: read into a recipe, with everything that is wrong with it and where."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from lora.errors import LoraError
from lora.merges import MERGES
from lora.recipe import OutputSpec, resolve_weights
from registry.adapters import open_adapter
from registry.errors import AppError, BlobDamaged, Conflict, Invalid, NotMergeable, NotReady
from registry.models import Revision
from registry.names import split_name
from registry.queries import Caller, find_adapter, find_revision
from registry.recipes import Output, Parent, Recipe

MAX_INPUTS = 100
MAX_WEIGHT = 1e6
Resolve = Callable[[Any], Any]


@dataclass(frozen=True)
class Flaw:
    """One refusal, and the part of the request that it is about: `inputs[1].weight`, `params.density`, …"""

    where: str
    error: AppError | LoraError


@dataclass
class Reading:
    """What a request says, as far as it is understood.

    Attributes:
        params: complete; `{}` where they are refused.
        parents: by position in the request, without the inputs that are refused.
        weights: as given, one per input of the request; None is the method's default.
        applied: weights as the method applies them; None where they are refused.
        flaws: in the order in which a caller should mend them.
    """

    method: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    parents: dict[int, Parent] = field(default_factory=dict)
    weights: list[float | None] = field(default_factory=list)
    applied: list[float] | None = None
    output: Output | None = None
    flaws: list[Flaw] = field(default_factory=list)

    def attempt(self, where: str, step: Callable[..., Any], *args: Any) -> Any:
        """The step's answer; None where it refuses, which is noted."""
        try:
            return step(*args)
        except (NotReady, BlobDamaged):
            # Not the request's fault: it may be right a moment later.
            raise
        except (AppError, LoraError) as error:
            self.flaws.append(Flaw(where, error))
            return None

    @property
    def recipe(self) -> Recipe:
        """Raises: the first flaw's error."""
        if self.flaws:
            raise self.flaws[0].error
        return Recipe(self.method, list(self.parents.values()), self.params, self.output)


def parse_recipe(user: Caller, payload: Any, resolve: Resolve) -> Recipe:
    """The recipe of a request. Arguments as for `read_recipe`.

    Raises: Invalid, UnknownMethod, InvalidParams, NotFound, PermissionRefused, Conflict, NotMergeable.
    """
    return read_recipe(user, payload, resolve).recipe


def read_recipe(user: Caller, payload: Any, resolve: Resolve) -> Reading:
    """Read a request to its end, noting every flaw on the way. An anonymous caller's output.name is not looked up.

    Args:
        resolve: turns `inputs` into a list where they are given in another form.
    """
    reading = Reading()
    fields = reading.attempt("request", _object, payload, "request", {"method", "inputs", "params", "output"})
    if fields is None:
        return reading
    _read_method(reading, fields)
    _read_inputs(reading, user, reading.attempt("inputs", _input_list, fields.get("inputs"), resolve) or [])
    if reading.method and reading.weights and not any(flaw.where.endswith(".weight") for flaw in reading.flaws):
        reading.applied = reading.attempt("weights", resolve_weights, reading.method, reading.weights)
    _read_output(reading, user, fields.get("output", {}))
    return reading


def _object(value: Any, what: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(f"{what} must be a JSON object.", detail={what: "not an object"})
    if unknown := sorted(set(value) - known):
        raise Invalid(
            f"{what} has no field {unknown[0]!r}. Known: {', '.join(sorted(known))}.",
            detail=dict.fromkeys(unknown, "unknown field"),
        )
    return value


def _read_method(reading: Reading, fields: dict[str, Any]) -> None:
    method = reading.attempt("method", _method, fields.get("method"))
    if method is None:
        return
    reading.method = method
    params = fields.get("params", {})
    before = len(reading.flaws)
    for name, value in params.items() if isinstance(params, dict) else ():
        reading.attempt(f"params.{name}", MERGES.parse, method, {name: value})
    if len(reading.flaws) == before:
        # Together, because bounds may hold between parameters.
        parsed = reading.attempt("params", MERGES.parse, method, params)
        reading.params = {} if parsed is None else asdict(parsed)


def _method(value: Any) -> str:
    if not isinstance(value, str):
        raise Invalid("method is missing: the name of a merge method, see GET /methods/.", detail={"method": "missing"})
    return MERGES.get(value).name


def _read_inputs(reading: Reading, user: Caller, items: list[Any]) -> None:
    revisions: dict[int, Revision] = {}
    for index, item in enumerate(items):
        where = f"inputs[{index}]"
        given = reading.attempt(where, _object, item, where, {"adapter", "revision", "weight"}) or {}
        reading.weights.append(reading.attempt(f"{where}.weight", _weight, f"{where}.weight", given.get("weight")))
        if given and (revision := _read_revision(reading, user, where, given)):
            revisions[index] = revision
    reading.attempt("inputs", _check_distinct, revisions)
    reading.attempt("inputs", _check_bases, revisions)
    for index, revision in revisions.items():
        weight = reading.weights[index]
        reading.parents[index] = Parent(revision, 1 / len(reading.weights) if weight is None else weight)


def _input_list(value: Any, resolve: Resolve) -> list[Any]:
    value = resolve(value)
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_INPUTS:
        raise Invalid(
            f"inputs must be a list of 1 to {MAX_INPUTS} objects {{adapter, revision?, weight?}}.",
            detail={"inputs": "missing or of the wrong length"},
        )
    return value


def _weight(where: str, value: Any) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or abs(value) > MAX_WEIGHT:
        raise Invalid(f"{where} must be a finite number, at most 1e6 in size.", detail={where: "not a finite number"})
    return float(value)


def _read_revision(reading: Reading, user: Caller, where: str, item: dict[str, Any]) -> Revision | None:
    name, ref = item.get("adapter"), item.get("revision", "main")
    if not isinstance(name, str) or not isinstance(ref, str):
        text = f"{where} needs adapter (owner/name); revision is main, a tag or 40 hex digits."
        reading.flaws.append(Flaw(where, Invalid(text, detail={where: "adapter or revision is not a string"})))
        return None
    adapter = reading.attempt(where, find_adapter, user, name)
    revision = adapter and reading.attempt(f"{where}.revision", find_revision, user, adapter, ref)
    return revision and reading.attempt(where, _ready, revision)


def _ready(revision: Revision) -> Revision:
    adapter = revision.adapter
    if adapter.yanked_at is not None or revision.state != Revision.State.READY:
        state = "yanked" if adapter.yanked_at else revision.state
        raise Conflict(
            f"{adapter.full_name} is {state}; only ready adapters are merged. Wait for its job, or take another "
            "revision."
        )
    return revision


def _check_distinct(revisions: dict[int, Revision]) -> None:
    first: dict[int, int] = {}
    repeated = [index for index, revision in revisions.items() if first.setdefault(revision.pk, index) != index]
    if repeated:
        message = "The same adapter and revision twice: add the weights up in one input."
        raise_not_mergeable([(index, revisions[index], "duplicate_input", message) for index in repeated])


def _check_bases(revisions: dict[int, Revision]) -> None:
    base = next((revision.base_model for revision in revisions.values()), "")
    others = [(index, revision) for index, revision in revisions.items() if revision.base_model != base]
    if others:
        end = f"the first input on {base or 'an unnamed base'}. Only adapters of one base model can be merged."
        raise_not_mergeable(
            [
                (index, revision, "other_base", f"It was trained on {revision.base_model or 'an unnamed base'}, {end}")
                for index, revision in others
            ]
        )


def raise_not_mergeable(reasons: list[tuple[int, Revision, str, str]]) -> None:
    """Raise NotMergeable for (position in the inputs, revision, code, message) of each reason."""
    inputs = [
        {"index": index, "adapter": revision.adapter.full_name, "code": code, "message": message}
        for index, revision, code, message in reasons
    ]
    raise NotMergeable(f"{inputs[0]['adapter']}: {inputs[0]['message']}", detail={"inputs": inputs})


def _read_output(reading: Reading, user: Caller, value: Any) -> None:
    fields = reading.attempt("output", _object, value, "output", {"name", "visibility", "rank", "dtype"})
    if fields is None:
        return
    name = fields.get("name")
    if name is not None:
        reading.attempt("output.name", _check_name, user, name)
    private = any(parent.revision.adapter.visibility == "private" for parent in reading.parents.values())
    visibility = fields.get("visibility", "private" if private else "public")
    reading.attempt("output.visibility", _check_visibility, visibility)
    rank = reading.attempt("output.rank", _object, fields.get("rank", {}), "output.rank", {"mode", "value"}) or {}
    spec = reading.attempt("output.rank", OutputSpec, rank.get("mode", "max_input"), rank.get("value"))
    dtype = fields.get("dtype")
    if spec and reading.attempt("output.dtype", OutputSpec, "max_input", None, dtype):
        reading.output = Output(name, visibility, OutputSpec(spec.rank_mode, spec.rank_value, dtype))


def _check_name(user: Caller, name: Any) -> None:
    if not isinstance(name, str):
        raise Invalid("output.name must be owner/name.", detail={"output.name": "not a string"})
    if user.is_authenticated:
        open_adapter(user, name)
    else:
        split_name(name)


def _check_visibility(value: Any) -> None:
    if value not in ("public", "private"):
        raise Invalid("output.visibility is 'public' or 'private'.", detail={"output.visibility": "unknown value"})
