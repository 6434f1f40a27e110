"""Every refusal of `lora/`. Messages are safe to show and say what to do; codes are stable."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

MAX_PROBLEMS = 20


class LoraError(ValueError):
    """Base of all refusals; `str(error)` is a sentence for the person who sent the input.

    Attributes:
        where: the part of the input that it is about, such as `inputs[1].weight`; "" where the sentence says it all.
    """

    code = "invalid"
    where = ""


class InvalidParams(LoraError):
    """A parameter is unknown, has the wrong type or is outside its range.

    Args:
        known: where one is unknown, the names that exist.
    """

    code = "invalid_params"

    def __init__(self, message: str, known: Iterable[str] | None = None) -> None:
        super().__init__(message)
        self.known = None if known is None else sorted(known)


class UnknownMethod(LoraError):
    """No method has this name.

    Args:
        name: what was asked for.
        known: the names that exist.
    """

    code = "unknown_method"
    noun = "method"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        self.known = sorted(known)
        super().__init__(f"There is no {self.noun} {name!r}. Known: {', '.join(self.known)}.")


class UnknownRouter(UnknownMethod):
    """No router has this name."""

    code = "unknown_router"
    noun = "router"


@dataclass(frozen=True)
class Problem:
    """One reason why an adapter is refused.

    Attributes:
        code: stable identifier, snake_case.
        where: file, key, tensor or module that it is about.
        message: one sentence that says what is wrong and what to do.
    """

    code: str
    where: str
    message: str

    def as_json(self) -> dict[str, str]:
        """Return `{code, where, message}`."""
        return asdict(self)


class InvalidAdapter(LoraError):
    """The files are not a usable LoRA adapter.

    Args:
        problems: at least one, the most telling first; beyond `MAX_PROBLEMS` they are counted, not listed.
    """

    code = "invalid_adapter"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems[:MAX_PROBLEMS])
        unlisted = len(problems) - len(self.problems)
        if unlisted:
            self.problems.append(Problem("more_problems", "", f"{unlisted} more problems are not listed."))
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        first = self.problems[0]
        super().__init__(f"{first.where}: {first.message}{more}" if first.where else first.message + more)


@dataclass(frozen=True)
class InputProblem:
    """One reason why an input cannot be merged; `index` is its position in the recipe."""

    index: int
    code: str
    message: str


class NotMergeable(LoraError):
    """The inputs are valid adapters that cannot be merged with each other.

    Args:
        inputs: at least one problem.
    """

    code = "not_mergeable"

    def __init__(self, inputs: Sequence[InputProblem]) -> None:
        self.inputs = list(inputs)
        super().__init__(self.inputs[0].message)
