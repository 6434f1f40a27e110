"""The body of `POST /merges/`: read into a recipe, with everything that is wrong with it and where."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora.errors import LoraError
from lora.recipe_documents import request_of
from lora.recipe_reader import Draft, Flaw, RecipeReader
from lora.recipe_tree import Step
from registry import licenses
from registry.adapters import open_adapter
from registry.errors import AppError, BlobDamaged, Conflict, Invalid, NotMergeable, NotReady
from registry.models import Revision
from registry.names import split_name
from registry.queries import Caller, find_adapter, find_base_model, find_revision
from registry.recipes import Output, Recipe

Resolve = Callable[[Any], Any]
FIELDS = frozenset({"method", "inputs", "params", "output", "base_model"})
OUTPUT_FIELDS = frozenset({"name", "visibility", "rank", "dtype"})


@dataclass
class Reading:
    """What a request says, as far as it is understood.

    Attributes:
        request: in our own words, where it was one.
        draft: the outermost step; None where the request is no recipe at all.
        places: every adapter of the tree that was found, by its place, such as `inputs[0].recipe.inputs[1]`.
        flaws: in the order in which a caller should mend them.
    """

    request: dict[str, Any] | None = None
    draft: Draft[Revision] | None = None
    places: dict[str, Revision] = field(default_factory=dict)
    output: Output | None = None
    flaws: list[Flaw] = field(default_factory=list)

    def check(self, step: Callable[..., None], *args: Any) -> None:
        """Note it if a check of the inputs refuses them."""
        try:
            step(*args)
        except NotMergeable as error:
            self.flaws.append(Flaw("inputs", error))

    @property
    def recipe(self) -> Recipe:
        """Raises: the first flaw's error."""
        if self.flaws:
            raise self.flaws[0].error
        return Recipe(self.draft.step, self.output)


class RequestReader(RecipeReader[Revision]):
    """Reads recipes over the adapters that a caller may merge.

    Args:
        resolve: turns `inputs` into a list where they are given in another form.
    """

    source_fields = frozenset({"adapter", "revision"})
    refusals = (AppError, LoraError)
    passing = (NotReady, BlobDamaged)

    def __init__(self, user: Caller, resolve: Resolve) -> None:
        super().__init__()
        self.places: dict[str, Revision] = {}
        self._user = user
        self._resolve = resolve

    def list_inputs(self, value: Any) -> Any:
        return self._resolve(value)

    def name_of(self, source: Revision) -> str:
        return source.commit

    def find_source(self, where: str, item: Mapping[str, Any]) -> Revision | None:
        name, ref = item.get("adapter"), item.get("revision", "main")
        if not isinstance(name, str) or not isinstance(ref, str):
            text = f"{where} needs adapter (owner/name); revision is main, a tag or 40 hex digits."
            self.flaws.append(Flaw(where, Invalid(text, detail={where: "adapter or revision is not a string"})))
            return None
        adapter = self.attempt(where, find_adapter, self._user, name)
        revision = adapter and self.attempt(f"{where}.revision", find_revision, self._user, adapter, ref)
        if revision and self.attempt(where, _ready, revision):
            self.places[where] = revision
        return self.places.get(where)

    def refuse_repeated(self, repeated: Sequence[tuple[str, Revision | Step[Revision]]]) -> None:
        reasons = []
        for where, source in repeated:
            is_recipe = isinstance(source, Step)
            message = f"The same {'recipe' if is_recipe else 'adapter and revision'} twice: add the weights up in one."
            reasons.append((where, next(source.leaves).source if is_recipe else source, "duplicate_input", message))
        raise_not_mergeable(reasons)


def parse_recipe(user: Caller, payload: Any, resolve: Resolve) -> Recipe:
    """The recipe of a request. Arguments as for `read_recipe`.

    Raises: Invalid, InvalidRecipe, UnknownMethod, InvalidParams, NotFound, PermissionRefused, Conflict, NotMergeable.
    """
    return read_recipe(user, payload, resolve).recipe


def read_recipe(user: Caller, payload: Any, resolve: Resolve) -> Reading:
    """Read a request to its end, noting every flaw on the way. An anonymous caller's output.name is not looked up.

    Args:
        resolve: turns `inputs` into a list where they are given in another form.
    """
    reader = RequestReader(user, resolve)
    reading = Reading(places=reader.places, flaws=reader.flaws)
    request = reader.attempt("request", request_of, payload)
    fields = None if reader.flaws else reader.object_at("", request, FIELDS)
    if fields is None:
        return reading
    reading.request = fields
    reading.draft = reader.read_step(fields)
    reader.attempt("inputs", _check_bases, reader.places)
    reader.attempt("inputs", _check_licenses, reader.places)
    if "base_model" in fields:
        reader.attempt("base_model", _check_stated_base, reader.places, fields["base_model"])
    reading.output = _read_output(reader, user, fields.get("output", {}), reading.draft.method)
    return reading


def _ready(revision: Revision) -> Revision:
    adapter = revision.adapter
    if adapter.yanked_at is not None or revision.state != Revision.State.READY:
        state = "yanked" if adapter.yanked_at else revision.state
        raise Conflict(
            f"{adapter.full_name} is {state}; only ready adapters are merged. Wait for its job, or take another "
            "revision."
        )
    return revision


def _check_bases(places: Mapping[str, Revision]) -> None:
    base = next((revision.base_model for revision in places.values()), "")
    others = [(where, revision) for where, revision in places.items() if revision.base_model != base]
    if others:
        end = f"the first input on {base or 'an unnamed base'}. Only adapters of one base model can be merged."
        raise_not_mergeable(
            [
                (where, revision, "other_base", f"It was trained on {revision.base_model or 'an unnamed base'}, {end}")
                for where, revision in others
            ]
        )


def _check_licenses(places: Mapping[str, Revision]) -> None:
    forbidden = [
        (where, revision, "license_forbids", f"Its licence, {revision.adapter.license}, allows no derived works.")
        for where, revision in places.items()
        if licenses.forbids_merging(revision.adapter.license)
    ]
    if forbidden:
        raise_not_mergeable(forbidden)


def _check_stated_base(places: Mapping[str, Revision], stated: Any) -> None:
    if not isinstance(stated, str):
        raise Invalid("base_model must be a string.")
    base = find_base_model(stated)
    names = {stated, base.name, *base.aliases} if base else {stated}
    found = next((revision.base_model for revision in places.values()), stated)
    if found not in names:
        raise Invalid(f"base_model is {stated[:200]!r}, but the inputs are of {found or 'an unnamed base'}.")


def raise_not_mergeable(reasons: Sequence[tuple[str, Revision, str, str]]) -> None:
    """Raise NotMergeable for (place in the request, revision, code, message) of each reason."""
    inputs = [
        {"where": where, "adapter": revision.adapter.full_name, "code": code, "message": message}
        for where, revision, code, message in reasons
    ]
    raise NotMergeable(f"{inputs[0]['adapter']}: {inputs[0]['message']}", detail={"inputs": inputs})


def _read_output(reader: RequestReader, user: Caller, value: Any, method: str) -> Output | None:
    fields = reader.object_at("output", value, OUTPUT_FIELDS)
    if fields is None:
        return None
    name = fields.get("name")
    if name is not None:
        reader.attempt("output.name", _check_name, user, name)
    private = any(revision.adapter.visibility == "private" for revision in reader.places.values())
    visibility = fields.get("visibility", "private" if private else "public")
    reader.attempt("output.visibility", _check_visibility, visibility)
    spec = reader.read_spec(fields, method)
    return Output(name, visibility, spec) if spec else None


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
