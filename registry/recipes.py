"""Recipes: a request for a merge, checked and resolved to revisions, with its hash."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from django.contrib.auth.models import AbstractBaseUser

from lora.merges import MERGES
from lora.merging import ENGINE_VERSION
from lora.recipe import OutputSpec, resolve_weights
from registry.adapters import open_adapter
from registry.errors import Conflict, Invalid, NotMergeable
from registry.models import Revision
from registry.queries import find_adapter, find_revision

MAX_INPUTS = 100


@dataclass(frozen=True)
class Parent:
    """One input: a revision and the weight given or completed."""

    revision: Revision
    weight: float

    @property
    def name(self) -> str:
        return self.revision.adapter.full_name


@dataclass(frozen=True)
class Output:
    """What to write. Without a name no adapter is registered."""

    name: str | None
    visibility: str
    spec: OutputSpec

    def as_json(self) -> dict[str, Any]:
        value = {} if self.spec.rank_value is None else {"value": self.spec.rank_value}
        named = {} if self.name is None else {"name": self.name}
        rank = {"mode": self.spec.rank_mode} | value
        return named | {"visibility": self.visibility, "rank": rank, "dtype": self.spec.dtype}

    @classmethod
    def from_json(cls, output: dict[str, Any]) -> "Output":
        """The inverse of `as_json`."""
        rank = output["rank"]
        spec = OutputSpec(rank["mode"], rank.get("value"), output["dtype"])
        return cls(output.get("name"), output["visibility"], spec)


@dataclass(frozen=True)
class Recipe:
    """Method, ordered parents, complete parameters, output."""

    method: str
    parents: list[Parent]
    params: dict[str, Any]
    output: Output

    @property
    def base_model(self) -> str:
        return self.parents[0].revision.base_model

    @property
    def hash(self) -> str:
        """sha256 over everything that decides the bytes."""
        return _hash(
            {
                "method": self.method,
                "inputs": [[parent.revision.commit, parent.weight] for parent in self.parents],
                "params": self.params,
                "rank": [self.output.spec.rank_mode, self.output.spec.rank_value],
                "dtype": self.output.spec.dtype,
                "engine": ENGINE_VERSION,
            }
        )

    @property
    def request_hash(self) -> str:
        """sha256 over the recipe and the adapter that it is to become."""
        return _hash([self.hash, self.output.name, self.output.visibility])

    def as_json(self) -> dict[str, Any]:
        """The recipe in the words of `POST /merges/`, resolved."""
        inputs = [
            {"adapter": parent.name, "revision": parent.revision.commit, "weight": parent.weight}
            for parent in self.parents
        ]
        return {"method": self.method, "inputs": inputs, "params": self.params, "output": self.output.as_json()}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def parse_recipe(user: AbstractBaseUser, payload: Any) -> Recipe:
    """The recipe of a request. Raises: Invalid, UnknownMethod, InvalidParams, NotFound, PermissionRefused, Conflict."""
    fields = _object(payload, "request", {"method", "inputs", "params", "output"})
    method = fields.get("method")
    if not isinstance(method, str):
        raise Invalid("method is missing: the name of a merge method, see GET /methods/.", detail={"method": "missing"})
    params = asdict(MERGES.parse(method, fields.get("params", {})))
    parents = _parse_inputs(user, fields.get("inputs"))
    resolve_weights(method, [parent.weight for parent in parents])  # refuses sums that mean nothing
    return Recipe(method, parents, params, _parse_output(user, fields.get("output", {}), parents))


def _object(value: Any, what: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(f"{what} must be a JSON object.", detail={what: "not an object"})
    if unknown := sorted(set(value) - known):
        raise Invalid(
            f"{what} has no field {unknown[0]!r}. Known: {', '.join(sorted(known))}.",
            detail=dict.fromkeys(unknown, "unknown field"),
        )
    return value


def _parse_inputs(user: AbstractBaseUser, value: Any) -> list[Parent]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_INPUTS:
        raise Invalid(
            f"inputs must be a list of 1 to {MAX_INPUTS} objects {{adapter, revision?, weight?}}.",
            detail={"inputs": "missing or of the wrong length"},
        )
    items = [_object(item, f"inputs[{index}]", {"adapter", "revision", "weight"}) for index, item in enumerate(value)]
    weights = [_parse_weight(index, item.get("weight"), 1 / len(items)) for index, item in enumerate(items)]
    revisions = [_parse_revision(user, index, item) for index, item in enumerate(items)]
    _check_distinct(revisions)
    _check_bases(revisions)
    return [Parent(revision, weight) for revision, weight in zip(revisions, weights, strict=True)]


def _parse_weight(index: int, value: Any, default: float) -> float:
    if value is None:
        return default
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or abs(value) > 1e6:
        raise Invalid(
            f"inputs[{index}].weight must be a finite number, at most 1e6 in size.",
            detail={f"inputs[{index}].weight": "not a finite number"},
        )
    return float(value)


def _parse_revision(user: AbstractBaseUser, index: int, item: dict[str, Any]) -> Revision:
    name, ref = item.get("adapter"), item.get("revision", "main")
    if not isinstance(name, str) or not isinstance(ref, str):
        raise Invalid(
            f"inputs[{index}] needs adapter (owner/name); revision is main, a tag or 40 hex digits.",
            detail={f"inputs[{index}]": "adapter or revision is not a string"},
        )
    adapter = find_adapter(user, name)
    revision = find_revision(user, adapter, ref)
    if adapter.yanked_at is not None or revision.state != Revision.State.READY:
        state = "yanked" if adapter.yanked_at else revision.state
        raise Conflict(
            f"{name} is {state}; only ready adapters are merged. Wait for its job, or take another revision."
        )
    return revision


def _check_distinct(revisions: list[Revision]) -> None:
    first: dict[int, int] = {}
    repeated = [index for index, revision in enumerate(revisions) if first.setdefault(revision.pk, index) != index]
    if repeated:
        message = "The same adapter and revision twice: add the weights up in one input."
        raise_not_mergeable([(revisions[index], "duplicate_input", message) for index in repeated])


def _check_bases(revisions: list[Revision]) -> None:
    base = revisions[0].base_model
    others = [revision for revision in revisions if revision.base_model != base]
    if others:
        raise_not_mergeable(
            [
                (
                    revision,
                    "other_base",
                    f"It was trained on {revision.base_model or 'an unnamed base'}, the first input on "
                    f"{base or 'an unnamed base'}. Only adapters of one base model can be merged.",
                )
                for revision in others
            ]
        )


def raise_not_mergeable(reasons: list[tuple[Revision, str, str]]) -> None:
    """Raise NotMergeable for (revision, code, message) triples."""
    inputs = [
        {"adapter": revision.adapter.full_name, "code": code, "message": message} for revision, code, message in reasons
    ]
    raise NotMergeable(f"{inputs[0]['adapter']}: {inputs[0]['message']}", detail={"inputs": inputs})


def _parse_output(user: AbstractBaseUser, value: Any, parents: list[Parent]) -> Output:
    fields = _object(value, "output", {"name", "visibility", "rank", "dtype"})
    name = fields.get("name")
    if name is not None:
        if not isinstance(name, str):
            raise Invalid("output.name must be owner/name.", detail={"output.name": "not a string"})
        open_adapter(user, name)
    private = any(parent.revision.adapter.visibility == "private" for parent in parents)
    visibility = fields.get("visibility", "private" if private else "public")
    if visibility not in ("public", "private"):
        raise Invalid("output.visibility is 'public' or 'private'.", detail={"output.visibility": "unknown value"})
    rank = _object(fields.get("rank", {}), "output.rank", {"mode", "value"})
    spec = OutputSpec(rank.get("mode", "max_input"), rank.get("value"), fields.get("dtype"))
    return Output(name, visibility, spec)
