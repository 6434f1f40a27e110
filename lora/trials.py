"""Trials: adapters run on a few labelled examples of a task, beside the base alone, and ranked by what was measured.

One pass over an example tells how probable its answer is, which goes on with few examples, and whether it is given.
Weights of a merge are searched on examples, and what a search has seen would flatter it: a merge is scored on the half
of the examples that its search has not seen, both ways round, and gets the weights that a third search finds on all.
An adapter whose own samples stand below an instruction may know its task by that line alone, and people leave it out:
such a candidate is run below its instruction, too, and goes on with what does better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from lora.binding import listed
from lora.errors import NotMergeable
from lora.examples import SHOTS, Example, below, instruction_of
from lora.mergeable import check_mergeable
from lora.recipe import MergeInput
from lora.runtime.adapted import AdaptedModel, DoesNotFit
from lora.runtime.answering import answers
from lora.runtime.probe import Probe, RunningBase
from lora.runtime.text import LINE, PROMPT, batches
from lora.search import Space, minimise
from lora.trial_score import Score
from lora.weights import AdapterFile

if TYPE_CHECKING:
    from torch import Tensor

FIRST = 8  # examples that every candidate is scored on; each further round has twice as many and half the candidates
SURVIVORS = 3
SHOT_CHARS = 2_000  # of all demonstrations together, so that they leave room for the question
BUDGET = 16  # weights that each search tries
SEARCHED = 16  # examples that a search looks at
BOUND = 1.5
WITH_SHOTS = 4  # what an example with demonstrations counts in the progress


def why_not_run(item: MergeInput) -> str | None:
    """Return what keeps an adapter from being run as the base plus ΔW, decided by its header alone; None if nothing."""
    try:
        check_mergeable([item])
    except NotMergeable as error:
        return error.inputs[0].message
    if any(module.kind == "conv" for module in item.layout.modules.values()):
        return f"{item.name} adapts convolutions, which are not run here."
    if item.layout.extra:
        return f"{item.name} holds more than LoRA factors ({listed(sorted(item.layout.extra), 2)})."
    return None


class Trial:
    """One task's examples, and what is run on them.

    Args:
        base: in memory. Its own `progress` is not called; `progress` is, before every pass, and may raise.
        candidates: that `why_not_run` has nothing against; those with samples may be run below their instruction.
        examples: all with outputs.
        prompt: with `{line}` for an example's input.
        say: gets a sentence for every step; it names candidates, never an example.
    """

    def __init__(
        self,
        base: RunningBase,
        candidates: Sequence[MergeInput],
        examples: Sequence[Example],
        *,
        prompt: str = PROMPT,
        say: Callable[[str], None] = lambda sentence: None,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> None:
        # In an order of its own: pasted examples are often sorted, and the first are looked at first.
        self._order = np.argsort(np.random.Philox(0).random_raw(len(examples)))
        self.examples = [examples[i] for i in self._order]
        self.candidates = candidates
        self.instructions = [self._lacking(item) for item in candidates]
        self.skipped: dict[int, str] = {}
        self._prompt, self._say, self._progress = prompt, say, progress
        self._done, self._total = 0, 1
        self._base = replace(base, logits=self._watched(base.logits), progress=lambda fraction: None)

    def run(self, mergeable: Callable[[Sequence[int]], bool] | None = None) -> list[Score]:
        """Return a score of the base, without and with demonstrations, of every candidate that fits it, and of a merge.

        Args:
            mergeable: whether candidates may be merged. The best three are, or the best two; None wants no merge.
        """
        self._total = self._work(wants_merge=mergeable is not None)
        scores = [self._base_alone(), self._few_shot()]
        found = self._halved()
        best = sorted(found, key=lambda i: found[i].key)[:SURVIVORS]
        scores += found.values()
        sound = [i for i in best if found[i].loss is not None]
        chosen = self._chosen(sound, mergeable) if mergeable else []
        if chosen and (merge := self._merged(chosen, found[chosen[0]].instruction)):
            scores.append(merge)
        return sorted(map(self._told, scores), key=lambda score: score.key)

    def _told(self, score: Score) -> Score:
        """With its answers in the order in which the examples were given, where it has seen them all."""
        whole = len(score.answered) == len(self.examples)
        return replace(score, answered=tuple(score.answered[i] for i in np.argsort(self._order)) if whole else ())

    def _work(self, *, wants_merge: bool) -> int:
        """How many examples will be run, about; a candidate that is skipped makes it fewer."""
        count, candidates = len(self.examples), len(self.candidates)
        total = sum(alive * (end - start) for alive, start, end in rounds(candidates, count))
        total += min(FIRST, count) * sum(line is not None for line in self.instructions)
        total += count * (1 + WITH_SHOTS)
        return total + wants_merge * (2 * BUDGET * min(count, SEARCHED) + count)

    def _lacking(self, item: MergeInput) -> str | None:
        """The instruction of a candidate's samples, where no example begins with it already."""
        line = instruction_of(sample.input for sample in item.samples)
        return None if line and any(example.input.startswith(line) for example in self.examples) else line

    def _advance(self, examples: int) -> None:
        self._done += examples

    def _watched(self, logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(ids: Tensor) -> Tensor:
            self._progress(min(self._done / self._total, 1.0))
            return logits(ids)

        return run

    @contextmanager
    def _on_base(self, positions: Sequence[int]) -> Iterator[Probe]:
        """The base with some of the candidates on top. Raises: DoesNotFit."""
        with ExitStack() as stack:
            items = [self.candidates[i] for i in positions]
            files = [stack.enter_context(AdapterFile(item.weights_path, item.layout)) for item in items]
            adapted = stack.enter_context(AdaptedModel(self._base.model, files))
            adapted.coefficients = adapted.one(0) if positions else None
            yield Probe(self._base, adapted, items, [1.0] * len(items))

    def _measured(self, score: Score, examples: Sequence[Example], prompt: str) -> Score:
        """The score with further examples, by what the base is set to; complete with the last of the trial's."""
        found = answers(self._base, examples, prompt)
        losses = score.losses + tuple(answer.loss for answer in found)
        answered = score.answered + tuple(answer.is_exact for answer in found)
        exact = fmean(answered) if len(answered) == len(self.examples) else None
        return replace(score, losses=losses, answered=answered, exact_match=exact)

    def _base_alone(self) -> Score:
        with self._on_base([]):
            score = self._measured(Score("base"), self.examples, self._prompt)
        self._advance(len(self.examples))
        return self._said("The base alone", score)

    def _few_shot(self) -> Score:
        shown = with_demonstrations(self.examples, self._prompt)
        if not shown:
            self._say("The base with demonstrations is not measured: there is nothing short to show beside each")
            return Score("base_few_shot")
        with self._on_base([]):
            score = self._measured(Score("base_few_shot"), shown, LINE)
        self._advance(WITH_SHOTS * len(shown))
        return self._said("The base with the other examples in its prompt", score)

    def _said(self, name: str, score: Score) -> Score:
        exact = "" if score.exact_match is None else f", {score.exact_match:.0%} exact"
        how = "" if score.instruction is None else ", below its own instruction"
        likely = "none" if score.probability is None else f"{score.probability:.3g}"
        self._say(f"{name}{how}: mean probability {likely} on {score.examples} examples{exact}")
        return score

    def _halved(self) -> dict[int, Score]:
        """Successive halving by probability: the worse half of the candidates sees no more examples."""
        alive = list(range(len(self.candidates)))
        scores = {i: Score("adapter", i) for i in alive}
        for wanted, start, end in rounds(len(alive), len(self.examples)):
            if wanted < len(alive):
                alive = sorted(alive, key=lambda i: scores[i].key)[:wanted]
                self._say(f"The best {len(alive)} go on: {', '.join(self.candidates[i].name for i in alive)}")
            for i in alive:
                self._further(scores, i, start, end)
            alive = [i for i in alive if i in scores]
        return scores

    def _further(self, scores: dict[int, Score], i: int, start: int, end: int) -> None:
        """Score a candidate on more examples; the score goes where the base does not take the candidate."""
        part = self.examples[start:end]
        try:
            with self._on_base([i]):
                found = [
                    self._measured(score, below(score.instruction, part), self._prompt)
                    for score in self._ways(scores[i])
                ]
        except DoesNotFit as error:
            del scores[i]
            self.skipped[i] = str(error)
            self._say(f"{self.candidates[i].name} is left out: {error}")
            return
        self._advance(len(part) * len(found))
        scores[i] = self._said(self.candidates[i].name, min(found, key=lambda score: score.key))

    def _ways(self, score: Score) -> list[Score]:
        """The score of a candidate by how it may be asked; after the first round that is decided."""
        line = self.instructions[score.candidate or 0]
        return [score] if score.losses or line is None else [score, replace(score, instruction=line)]

    def _chosen(self, best: Sequence[int], mergeable: Callable[[Sequence[int]], bool]) -> Sequence[int]:
        if len(self.examples) < 2:
            return []
        return next((best[:n] for n in (3, 2) if len(best) >= n and mergeable(best[:n])), [])

    def _merged(self, chosen: Sequence[int], instruction: str | None) -> Score | None:
        """Search the weights, first on all examples; None where no sum beats the best alone.

        Args:
            instruction: what the best alone was asked below.
        """
        self._say(f"Searching the weights of a sum of {', '.join(self.candidates[i].name for i in chosen)}")
        examples = below(instruction, self.examples)
        halves = examples[::2], examples[1::2]
        merge = Score("merge", instruction=instruction)
        with self._on_base(chosen) as probe:
            found = self._searched(probe, examples)
            if found == _first_alone(probe.n):
                self._say(f"No sum that was tried beats {self.candidates[chosen[0]].name} alone")
                return None
            for seen, unseen in (halves, halves[::-1]):
                probe.adapted.coefficients = probe.adapted.numbers(self._searched(probe, seen))
                merge = self._measured(merge, unseen, self._prompt)
                self._advance(len(unseen))
        merge = replace(merge, weights=dict(zip(chosen, found, strict=True)), answered=())
        return self._said("Their merge, on examples that its search has not seen", merge)

    def _searched(self, probe: Probe, examples: Sequence[Example]) -> tuple[float, ...]:
        """The best weights of the best alone, with which it begins, and of those that an evolution strategy tries."""
        seen = examples[:SEARCHED]
        task = batches(seen, self._base.tokens, self._prompt)

        def loss(weights: Sequence[float]) -> float:
            found = probe.loss(task, probe.adapted.numbers(weights))
            self._advance(len(seen))
            return found

        return minimise("evolution", Space(_first_alone(probe.n), -BOUND, BOUND), loss, BUDGET).weights


def _first_alone(n: int) -> tuple[float, ...]:
    return tuple(float(i == 0) for i in range(n))


def rounds(candidates: int, examples: int) -> list[tuple[int, int, int]]:
    """Return for every round of the halving how many candidates take part, and from which example to which they run."""
    found = [(candidates, 0, min(FIRST, examples))]
    while (start := found[-1][2]) < examples:
        alive = max(min(SURVIVORS, candidates), -(-found[-1][0] // 2))
        found.append((alive, start, min(2 * start, examples)))
    return found


def with_demonstrations(examples: Sequence[Example], prompt: str) -> list[Example]:
    """Return every example with a whole prompt for its input, in which up to five others are answered before it.

    Its own answer is in none of them: examples with the same input do not show each other, and long ones are not shown.
    Empty where there is none to show before some example.
    """
    shown = []
    for place, example in enumerate(examples):
        text, count = "", 0
        for other in (*examples[place + 1 :], *examples[:place]):
            more = f"{prompt.replace(LINE, other.input)} {other.output}\n\n"
            if count < SHOTS and other.input != example.input and len(text) + len(more) <= SHOT_CHARS:
                text, count = text + more, count + 1
        if not count:
            return []
        shown.append(Example(text + prompt.replace(LINE, example.input), example.output))
    return shown
