"""Recipes: what a merge is made of, resolved to revisions, with its hash."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lora.merging import ENGINE_VERSION
from lora.recipe import OutputSpec
from lora.recipe_tree import Input, Step
from registry.models import Merge, Revision

Inputs = list[dict[str, Any]]


@dataclass(frozen=True)
class Parent:
    """An adapter that takes part, wherever in the recipe.

    Attributes:
        weight: as given or completed. Where recipes stand in each other the product of the weights on the way to it,
            summed over its places.
    """

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
    """What is merged how, and what becomes of it."""

    step: Step[Revision]
    output: Output

    @property
    def method(self) -> str:
        return self.step.method

    @property
    def parents(self) -> list[Parent]:
        """Every revision of the tree once, in the order of their first places."""
        return parents_of(self.step)

    @property
    def places(self) -> dict[str, Revision]:
        """Every adapter by its place in the request."""
        return {leaf.where: leaf.source for leaf in self.step.leaves}

    @property
    def base_model(self) -> str:
        return next(self.step.leaves).source.base_model

    @property
    def hash(self) -> str:
        """sha256 over everything that decides the bytes."""
        spec = self.output.spec
        rest = {"rank": [spec.rank_mode, spec.rank_value], "dtype": spec.dtype, "engine": ENGINE_VERSION}
        return _hash(self.step.identity(lambda revision: revision.commit) | rest)

    @property
    def request_hash(self) -> str:
        """sha256 over the recipe and the adapter that it is to become."""
        return _hash([self.hash, self.output.name, self.output.visibility])

    def as_json(self, describe: Callable[[Revision], dict[str, Any]] | None = None) -> dict[str, Any]:
        """The recipe in the words of `POST /merges/`, resolved.

        Args:
            describe: what is said of a revision, where that is not its name and commit.
        """
        step = step_json(self.step, describe or adapter_and_revision)
        return step | {"output": self.output.as_json()}

    @property
    def tree(self) -> Inputs | None:
        """What a row keeps of the inputs beside its parents: None where these say it all, else the tree over them."""
        if self.step.is_flat:
            return None
        positions = {parent.revision.pk: position for position, parent in enumerate(self.parents)}
        inputs: Inputs = step_json(self.step, lambda revision: {"parent": positions[revision.pk]})["inputs"]
        return inputs


def parents_of(step: Step[Revision]) -> list[Parent]:
    """Every revision of a step's tree once, in the order of their first places."""
    revisions: dict[int, Revision] = {}
    weights: dict[int, float] = {}
    for leaf in step.leaves:
        revisions.setdefault(leaf.source.pk, leaf.source)
        weights[leaf.source.pk] = weights.get(leaf.source.pk, 0.0) + leaf.weight
    return [Parent(revision, weights[pk]) for pk, revision in revisions.items()]


def adapter_and_revision(revision: Revision) -> dict[str, Any]:
    return {"adapter": revision.adapter.full_name, "revision": revision.commit}


def step_json(step: Step[Revision], describe: Callable[[Revision], dict[str, Any]]) -> dict[str, Any]:
    """`{method, inputs, params}` of a step and of those in it."""
    inputs = [
        ({"recipe": step_json(item.source, describe)} if isinstance(item.source, Step) else describe(item.source))
        | {"weight": item.weight}
        for item in step.inputs
    ]
    return {"method": step.method, "inputs": inputs, "params": step.params}


def published(step: Step[Revision]) -> Step[Revision]:
    """A step as all readers of its result may know it: examples, which are the caller's own, by number and digest."""
    params = dict(step.params)
    if examples := params.get("examples"):
        params["examples"] = {"count": len(examples), "sha256": _hash(examples)}
    inputs = (
        replace(item, source=published(item.source)) if isinstance(item.source, Step) else item for item in step.inputs
    )
    return Step(step.method, params, tuple(inputs))


def recipe_of(merge: Merge) -> Recipe:
    """The recipe that a stored merge was asked for with."""
    rows = list(merge.inputs.select_related("revision__adapter").defer("revision__modules"))
    if merge.tree is None:
        inputs = tuple(Input(row.revision, row.weight) for row in rows)
        step = Step(merge.method, merge.params, inputs)
    else:
        step = _planted(
            {"method": merge.method, "inputs": merge.tree, "params": merge.params}, [row.revision for row in rows]
        )
    return Recipe(step, Output.from_json(merge.output))


def _planted(stored: dict[str, Any], parents: list[Revision]) -> Step[Revision]:
    """The step of a row's tree."""
    inputs = (
        Input(_planted(item["recipe"], parents) if "recipe" in item else parents[item["parent"]], item["weight"])
        for item in stored["inputs"]
    )
    return Step(stored["method"], stored["params"], tuple(inputs))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
