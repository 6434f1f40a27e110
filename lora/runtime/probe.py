"""What data-driven merges ask of the base with their inputs on top: losses, entropies, inputs of modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lora.catalogue import param
from lora.errors import InputProblem, LoraError, NotMergeable
from lora.examples import MAX_EXAMPLES, Example, drawn, in_turns, lack_of_samples
from lora.lazy_torch import torch
from lora.runtime.adapted import AdaptedModel, Coefficients, answer_scores
from lora.runtime.text import LINE, PROMPT, Batch, Tokens, batches, joined

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lora.recipe import MergeInput

GRAM_BYTES = 2**30  # of one pass; a base whose modules need more is run several times
PROMPT_CHARS = 2000

_Item = TypeVar("_Item")


class BaseNotHere(LoraError):
    """What is asked for runs the base model, and it is not at hand."""

    code = "base_not_here"


def check_prompt(prompt: str) -> None:
    """Raises: ValueError: it has no place for a line, or is too long."""
    if LINE not in prompt or len(prompt) > PROMPT_CHARS:
        raise ValueError(f"prompt must have {LINE} in it, and at most {PROMPT_CHARS} characters.")


@dataclass(frozen=True)
class SampleParams:
    """Parameters of methods that look at samples of the inputs."""

    samples: int = param(64, "how many samples of each input are looked at", minimum=1, maximum=MAX_EXAMPLES)
    seed: int = param(0, "which samples, where an input has more", minimum=0, maximum=2**32 - 1)
    prompt: str = param(PROMPT, "what the model is asked, with {line} for a sample's input")

    def __post_init__(self) -> None:
        check_prompt(self.prompt)


@dataclass(frozen=True)
class ExampleParams(SampleParams):
    """Parameters of methods that judge weights by examples of a task."""

    samples: int = param(16, "how many samples of each input, without examples", minimum=1, maximum=MAX_EXAMPLES)
    examples: tuple[Example, ...] = param((), "lines of the task, {input, output}; without any the inputs' own samples")


@dataclass(frozen=True)
class LabelledParams(ExampleParams):
    """The same of methods that compare with the outputs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not example.output for example in self.examples):
            raise ValueError("Every one of examples needs an output, which the search compares with.")


@dataclass(frozen=True)
class RunningBase:
    """A base model in memory.

    Attributes:
        model: what the adapters' paths are relative to.
        logits: runs it; token ids (b, t) → (b, t, vocabulary).
        progress: called with a fraction in [0, 1] while it is run. It may raise, which is how the work is stopped.
    """

    model: nn.Module
    logits: Callable[[Tensor], Tensor]
    tokens: Tokens
    progress: Callable[[float], None] = lambda fraction: None


@dataclass(frozen=True)
class View:
    """What is looked at of all that goes into a module.

    Attributes:
        project: (d_in, width), float64: x·project instead of x, which is all that an embedding allows; or None.
    """

    path: str
    width: int
    project: Tensor | None = None

    def gram_bytes(self, n: int) -> int:
        """Return what the sums of n inputs take in memory, with what is needed to form them."""
        return 8 * (n * self.width**2 + (0 if self.project is None else self.project.numel()))

    def of(self, x: Tensor) -> Tensor:
        """Return what is looked at of x, (tokens, d_in) or ids (tokens,), as (tokens, width) float64."""
        if self.project is None:
            return x.double()
        project = self.project.to(x.device)
        return x.double() @ project if x.is_floating_point() else torch.nn.functional.embedding(x, project)


@dataclass
class Probe:
    """The base with the inputs of one recipe on top.

    Attributes:
        inputs: of the recipe, in order.
        weights: as the method applies them.
        found: what the method has found out, for the report.
    """

    base: RunningBase
    adapted: AdaptedModel
    inputs: Sequence[MergeInput]
    weights: Sequence[float]
    check: Callable[[], None] = lambda: None
    found: dict[str, Any] = field(default_factory=dict)
    _fraction: float = 0.0

    @property
    def n(self) -> int:
        """How many inputs there are."""
        return self.adapted.n

    def advance(self, fraction: float) -> None:
        """Tell how much of what has to be run was run."""
        self._fraction = fraction
        self._tick()

    def task(self, params: ExampleParams, *, labelled: bool) -> list[Batch]:
        """Return the examples to judge by: those of the recipe, or the inputs' own samples, each input's in turn.

        Args:
            labelled: whether their outputs are needed, which `LabelledParams` has seen to for those of the recipe.
        Raises: NotMergeable: an input has no samples, or none with outputs.
        """
        chosen: Sequence[Example] = params.examples
        if not chosen:
            own = [self._samples(index, params, labelled=labelled) for index in range(self.n)]
            chosen = in_turns(own, MAX_EXAMPLES)
        if not labelled:
            chosen = [Example(example.input) for example in chosen]
        return self._batches(chosen, params)

    def own_task(self, index: int, params: SampleParams) -> list[Batch]:
        """Return the samples of one input that have outputs. Raises: NotMergeable: there are none."""
        return self._batches(self._samples(index, params, labelled=True), params)

    def loss(self, task: Sequence[Batch], coefficients: Coefficients | None) -> float:
        """Return the mean over the examples of −log p per token of the answer."""
        return fmean(self.losses(task, coefficients))

    def surprise(self, task: Sequence[Batch], coefficients: Coefficients | None) -> float:
        """Return the same of the prompts: the logarithm of their perplexity."""
        return fmean(self.losses(task, coefficients, answers=False))

    def losses(self, task: Sequence[Batch], coefficients: Coefficients | None, *, answers: bool = True) -> list[float]:
        """Return of each example, in the order of the batches, −log p per token of its answer, or of its prompt."""
        found: list[float] = []
        with torch.no_grad():
            for batch in joined(task):
                losses = self._losses(batch, coefficients)
                counted = (batch.is_answer if answers else batch.is_prompt)[:, 1:].to(losses)
                found += ((losses * counted).sum(1) / counted.sum(1).clamp_min(1)).tolist()
        return found

    def entropy(self, batch: Batch, coefficients: Coefficients) -> Tensor:
        """Return the mean entropy of the first token after prompts; its gradient reaches the coefficients."""
        logs = self._logits(batch, coefficients)[:, -1].float().log_softmax(-1)
        return -(logs.exp() * logs).sum(-1).mean()

    def reading(self, batch: Batch, coefficients: Coefficients | None) -> tuple[Tensor, Tensor]:
        """Return of each text log p given its first token, and the mean entropy of what follows each of its tokens.

        Both are (b,), float64 on the CPU, in nats; a text of one token has log p = 0.
        """
        with torch.no_grad():
            logs = self._logits(batch, coefficients).double().log_softmax(-1)
        following = batch.ids[:, 1:, None].to(logs.device)
        likelihoods = logs[:, :-1].gather(-1, following).sum(dim=(1, 2))
        return likelihoods.cpu(), -(logs.exp() * logs).sum(-1).mean(-1).cpu()

    def grams(self, views: Iterable[View], count: int, params: SampleParams) -> Iterator[list[Tensor]]:
        """Yield Σ x·xᵀ over all tokens of each input's own samples, with that input on the base, in order of the views.

        Answers that are known stand behind their prompts. One pass collects what fits into `GRAM_BYTES`.

        Args:
            count: how many views there are.
        Returns: for every view one matrix (width, width) per input, float64.
        Raises: NotMergeable: an input has no samples.
        """
        tasks = [self._batches(self._samples(index, params), params) for index in range(self.n)]
        done = 0
        for part in in_parts(views, lambda view: view.gram_bytes(self.n), GRAM_BYTES):
            yield from self._collect(part, tasks, (done / count, (done + len(part)) / count))
            done += len(part)

    def scores(self, example: Batch, index: int, paths: Sequence[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield `answer_scores` of the likelihood of an answer, with one input on the base."""

        def log_likelihood() -> Tensor:
            losses = self._losses(example, self.adapted.one(index))
            return -(losses * example.is_answer[:, 1:].to(losses)).sum()

        return answer_scores(self.adapted.modules(paths), log_likelihood)

    def _collect(
        self, views: Sequence[View], tasks: Sequence[list[Batch]], span: tuple[float, float]
    ) -> Iterator[list[Tensor]]:
        """Yield the Gram matrices of some views from one pass, which is this part of all that has to be run."""
        by_path = {view.path: view for view in views}
        device = self.adapted.device
        sums = {
            view.path: torch.zeros(self.n, view.width, view.width, dtype=torch.float64, device=device) for view in views
        }
        steps = iter(fractions(*span, sum(map(len, tasks))))
        for index, task in enumerate(tasks):

            def visit(path: str, x: Tensor, index: int = index) -> None:
                seen = by_path[path].of(x)
                sums[path][index] += seen.T @ seen

            with self.adapted.watching(list(by_path), visit), torch.no_grad():
                for batch in task:
                    self._logits(batch, self.adapted.one(index))
                    self.advance(next(steps))
        for view in views:
            yield list(sums.pop(view.path))

    def _losses(self, batch: Batch, coefficients: Coefficients | None) -> Tensor:
        """Return −log p of every token but the first, (b, t − 1)."""
        logits = self._logits(batch, coefficients)[:, :-1].float()
        return torch.nn.functional.cross_entropy(logits.mT, batch.ids[:, 1:].to(logits.device), reduction="none")

    def _logits(self, batch: Batch, coefficients: Coefficients | None) -> Tensor:
        self._tick()
        self.adapted.coefficients = coefficients
        return self.base.logits(batch.ids.to(self.adapted.device))

    def _tick(self) -> None:
        self.check()
        self.base.progress(self._fraction)

    def _samples(self, index: int, params: SampleParams, *, labelled: bool = False) -> list[Example]:
        item = self.inputs[index]
        usable = [sample for sample in item.samples if sample.output or not labelled]
        if not usable:
            code, text = lack_of_samples(labelled=labelled, has_examples=isinstance(params, ExampleParams))
            raise NotMergeable([InputProblem(index, code, f"{item.name} {text}")])
        return drawn(usable, params.samples, params.seed)

    def _batches(self, examples: Sequence[Example], params: SampleParams) -> list[Batch]:
        return batches(examples, self.base.tokens, params.prompt)


def in_parts(items: Iterable[_Item], size: Callable[[_Item], int], most: int) -> Iterator[list[_Item]]:
    """Cut what one pass collects into parts of at most so many bytes together, at least one item in each."""
    part: list[_Item] = []
    used = 0
    for item in items:
        needed = size(item)
        if part and used + needed > most:
            yield part
            part, used = [], 0
        part.append(item)
        used += needed
    if part:
        yield part


def fractions(start: float, stop: float, steps: int) -> Iterator[float]:
    """Yield how far one is after each of so many equal steps from one fraction to another."""
    yield from (start + (stop - start) * step / steps for step in range(1, steps + 1))


class HasProbe(Protocol):
    """What may have a probe: the modules of a recipe."""

    probe: Probe | None


def probe_of(modules: HasProbe, method: str) -> Probe:
    """Return the probe of a recipe's modules. Raises: BaseNotHere: nobody has brought the base model."""
    if modules.probe is None:
        raise BaseNotHere(
            f"{method} runs the base model, which is not at hand here. Have its folder under BASE_MODELS_DIR of a "
            "worker, or take a method that needs weights alone."
        )
    return modules.probe
