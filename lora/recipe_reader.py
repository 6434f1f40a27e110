"""A recipe as JSON has it, read to its end: what it says, everything that is wrong with it, and where."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, TypeVar

from lora.errors import LoraError
from lora.merges import MERGES
from lora.recipe import OutputSpec, check_rank_mode, default_rank_mode, resolve_weights
from lora.recipe_tree import Input, Source, Step

MAX_DEPTH = 8
MAX_INPUTS = 100
MAX_WEIGHT = 1e6

Answer = TypeVar("Answer")


class InvalidRecipe(LoraError):
    """A part of a recipe is missing, unknown or not of its form."""


@dataclass(frozen=True)
class Flaw:
    """One refusal, and the part that it is about: `inputs[1].recipe.params.density`, `output.rank`, …"""

    where: str
    error: Exception


@dataclass(frozen=True)
class Draft(Generic[Source]):
    """A step as far as it is understood.

    Attributes:
        method: "" where it is refused; `params` are complete then, else {}.
        sources: one per input of the request; None where it is refused.
        weights: as given; None is the method's default.
        applied: the weights as the method applies them; None where they are refused.
    """

    method: str
    params: dict[str, Any]
    sources: list[Source | Step[Source] | None]
    weights: list[float | None]
    applied: list[float] | None

    @property
    def step(self) -> Step[Source]:
        """The step with its weights completed; inputs that are refused are left out."""
        default = 1 / max(1, len(self.weights))
        pairs = zip(self.sources, self.weights, strict=True)
        inputs = tuple(Input(s, default if w is None else w) for s, w in pairs if s is not None)
        return Step(self.method, self.params, inputs)


class RecipeReader(Generic[Source]):
    """Reads the recipes of one kind of source. Subclasses say what an input names and how it is found.

    Attributes:
        flaws: in the order in which a caller should mend them.
        source_fields: what an input that is no recipe may have beside its weight.
        refusals: what is noted as a flaw; `passing` of these is not, because it may be right a moment later.
    """

    source_fields: ClassVar[frozenset[str]] = frozenset()
    refusals: ClassVar[tuple[type[Exception], ...]] = (LoraError,)
    passing: ClassVar[tuple[type[Exception], ...]] = ()

    def __init__(self) -> None:
        self.flaws: list[Flaw] = []
        self._inputs = 0

    def find_source(self, where: str, item: Mapping[str, Any]) -> Source | None:
        """Return what an input names; None where it is refused, which is noted."""
        raise NotImplementedError

    def name_of(self, source: Source) -> str:
        """Return what tells a source from every other."""
        raise NotImplementedError

    def list_inputs(self, value: Any) -> Any:
        """Return `inputs` as a list where it is given in another form."""
        return value

    def refuse_repeated(self, repeated: Sequence[tuple[str, Source | Step[Source]]]) -> None:
        """Refuse inputs of one step that are there already. Raises: one of `refusals`."""
        raise InvalidRecipe(f"{repeated[0][0]} is in the recipe already: add the weights up in one input.")

    def attempt(self, where: str, step: Callable[..., Answer], *args: Any) -> Answer | None:
        """Return the step's answer; None where it refuses, which is noted."""
        try:
            return step(*args)
        except self.passing:
            raise
        except self.refusals as error:
            if isinstance(error, LoraError):
                where = error.where = error.where or where
            self.flaws.append(Flaw(where, error))
            return None

    def object_at(self, where: str, value: Any, known: frozenset[str]) -> dict[str, Any] | None:
        """Return an object that has no other fields; None where it is refused, which is noted."""
        return self.attempt(where or "request", _checked_object, where or "The recipe", value, known)

    def read_step(self, fields: Mapping[str, Any], place: str = "", depth: int = 1) -> Draft[Source]:
        """Read `method`, `params` and `inputs` of a recipe.

        Args:
            place: what stands before the names of its fields, such as `inputs[0].recipe.`.
        """
        method, params = self._read_method(fields, place)
        items = self.attempt(f"{place}inputs", self._items, fields.get("inputs"), f"{place}inputs", depth) or []
        before = len(self.flaws)
        inputs = [self._read_input(f"{place}inputs[{index}]", item, depth) for index, item in enumerate(items)]
        self._check_distinct(place, [source for source, _ in inputs])
        weights = [weight for _, weight in inputs]
        well_weighed = not any(_is_weight_of(flaw.where, place) for flaw in self.flaws[before:])
        applied = None
        if method and weights and well_weighed:
            applied = self.attempt(f"{place}weights", resolve_weights, method, weights)
        return Draft(method, params, [source for source, _ in inputs], weights, applied)

    def read_spec(self, fields: Mapping[str, Any], method: str) -> OutputSpec | None:
        """Read `rank` and `dtype` of `output`.

        Args:
            method: of the outermost recipe, which has its default; "" where it was refused.
        """
        rank = self.object_at("output.rank", fields.get("rank", {}), frozenset({"mode", "value"})) or {}
        mode, value, dtype = rank.get("mode", default_rank_mode(method)), rank.get("value"), fields.get("dtype")
        if mode == "energy" and type(value) is int:
            value = float(value)  # equal requests are one request
        spec = self.attempt("output.rank", OutputSpec, mode, value)
        if spec:
            self.attempt("output.rank", check_rank_mode, method, spec)
        typed = self.attempt("output.dtype", OutputSpec, "max_input", None, dtype)
        return OutputSpec(spec.rank_mode, spec.rank_value, dtype) if spec and typed else None

    def _read_method(self, fields: Mapping[str, Any], place: str) -> tuple[str, dict[str, Any]]:
        method = self.attempt(f"{place}method", _method, fields.get("method"))
        if method is None:
            return "", {}
        params = fields.get("params", {})
        before = len(self.flaws)
        for name, value in params.items() if isinstance(params, dict) else ():
            self.attempt(f"{place}params.{name}", MERGES.parse, method, {name: value})
        if len(self.flaws) > before:
            return method, {}
        # Together, because bounds may hold between parameters.
        parsed = self.attempt(f"{place}params", MERGES.parse, method, params)
        return method, {} if parsed is None else asdict(parsed)

    def _items(self, value: Any, where: str, depth: int) -> list[Any]:
        if depth > MAX_DEPTH:
            raise InvalidRecipe(f"{where}: recipes may stand in each other {MAX_DEPTH} deep, no deeper.")
        value = self.list_inputs(value)
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_INPUTS:
            names = ", ".join(sorted(self.source_fields))
            raise InvalidRecipe(
                f"{where} must be a list of 1 to {MAX_INPUTS} objects with {names} or recipe, and weight."
            )
        self._inputs += len(value)
        if self._inputs > MAX_INPUTS:
            raise InvalidRecipe(f"The recipe has more than {MAX_INPUTS} inputs in all.")
        return value

    def _read_input(self, where: str, item: Any, depth: int) -> tuple[Source | Step[Source] | None, float | None]:
        nested = isinstance(item, dict) and "recipe" in item
        known = frozenset({"recipe"}) if nested else self.source_fields
        given = self.object_at(where, item, known | {"weight"})
        if given is None:
            return None, None
        weight = self.attempt(f"{where}.weight", _weight, f"{where}.weight", given.get("weight"))
        return (self._read_nested if nested else self._find)(where, given, depth), weight

    def _find(self, where: str, given: dict[str, Any], depth: int) -> Source | None:
        return self.find_source(where, given)

    def _read_nested(self, where: str, given: dict[str, Any], depth: int) -> Step[Source] | None:
        place, before = f"{where}.recipe", len(self.flaws)
        fields = self.object_at(place, given["recipe"], frozenset({"method", "inputs", "params"}))
        if fields is None:
            return None
        draft = self.read_step(fields, f"{place}.", depth + 1)
        return draft.step if len(self.flaws) == before else None

    def _check_distinct(self, place: str, sources: Sequence[Source | Step[Source] | None]) -> None:
        seen: set[str] = set()
        repeated: list[tuple[str, Source | Step[Source]]] = []
        for index, source in enumerate(sources):
            if source is None:
                continue
            name = _identity(source, self.name_of)
            if name in seen:
                repeated.append((f"{place}inputs[{index}]", source))
            seen.add(name)
        if repeated:
            self.attempt(f"{place}inputs", self.refuse_repeated, repeated)


def _identity(source: Source | Step[Source], name: Callable[[Source], str]) -> str:
    return json.dumps(source.identity(name), sort_keys=True) if isinstance(source, Step) else name(source)


def _is_weight_of(where: str, place: str) -> bool:
    """Return whether a flaw is about a weight of the step at this place, and not of one within."""
    return where.endswith(".weight") and "." not in where.removeprefix(place).removesuffix(".weight")


def _checked_object(where: str, value: Any, known: frozenset[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRecipe(f"{where} must be an object.")
    if unknown := sorted(str(key) for key in set(value) - known):
        raise InvalidRecipe(f"{where} has no field {unknown[0][:60]!r}. Known: {', '.join(sorted(known))}.")
    return value


def _method(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRecipe("method is missing: the name of a merge method.")
    return MERGES.get(value).name


def _weight(where: str, value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > MAX_WEIGHT:
        raise InvalidRecipe(f"{where} must be a finite number, at most 1e6 in size.")
    return float(value)
