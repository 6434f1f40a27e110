"""Recipes as trees: a method over inputs that are adapters or recipes themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Source = TypeVar("Source")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Input(Generic[Source]):
    """What goes into a step, and the weight it has there."""

    source: Source | Step[Source]
    weight: float


@dataclass(frozen=True)
class Leaf(Generic[Source]):
    """An adapter at one place of a tree.

    Attributes:
        weight: the product of the weights on the way to it.
        where: its place, such as `inputs[0].recipe.inputs[1]`.
    """

    source: Source
    weight: float
    where: str


@dataclass(frozen=True)
class Step(Generic[Source]):
    """A method with complete parameters over ordered inputs: a whole recipe, or an input of one.

    `Source` is what stands for an adapter: files to the engine, a row to the registry.
    """

    method: str
    params: dict[str, Any]
    inputs: tuple[Input[Source], ...]

    @property
    def is_flat(self) -> bool:
        """Whether no input is a recipe."""
        return not any(isinstance(item.source, Step) for item in self.inputs)

    @property
    def leaves(self) -> Iterator[Leaf[Source]]:
        """Every adapter, left to right."""
        for index, item in enumerate(self.inputs):
            where = f"inputs[{index}]"
            if isinstance(item.source, Step):
                for leaf in item.source.leaves:
                    yield Leaf(leaf.source, item.weight * leaf.weight, f"{where}.recipe.{leaf.where}")
            else:
                yield Leaf(item.source, item.weight, where)

    def map(self, change: Callable[[Source], Other]) -> Step[Other]:
        """Return the same tree over other sources."""
        inputs = (
            Input(item.source.map(change) if isinstance(item.source, Step) else change(item.source), item.weight)
            for item in self.inputs
        )
        return Step(self.method, self.params, tuple(inputs))

    def identity(self, name: Callable[[Source], str]) -> dict[str, Any]:
        """Return all that decides the result, for JSON: equal recipes are equal here.

        Args:
            name: what tells one adapter from every other.
        """
        inputs = [
            [item.source.identity(name) if isinstance(item.source, Step) else name(item.source), item.weight]
            for item in self.inputs
        ]
        return {"method": self.method, "inputs": inputs, "params": self.params}
