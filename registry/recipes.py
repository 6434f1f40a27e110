"""Recipes: what a merge is made of, resolved to revisions, with its hash."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from lora.merging import ENGINE_VERSION
from lora.recipe import OutputSpec
from registry.models import Revision


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
