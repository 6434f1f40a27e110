"""What routed and merged experts answer: every query under the experts that a router chose for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lora.evaluation import Found, interval
from lora.examples import Example, below
from lora.lazy_torch import torch
from lora.routers import Router
from lora.runtime.adapted import AdaptedModel
from lora.runtime.answering import exactly_answered
from lora.runtime.probe import RunningBase
from lora.runtime.text import LINE, MAX_TOKENS, PROMPT

if TYPE_CHECKING:
    from torch import Tensor

    from lora.runtime.composed import Composition

MERGED = 3

Mix = tuple[tuple[int, float], ...]
"""Experts by their places in the pool, with their weights in the sum of ΔW; none: the base alone."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """One query of a task.

    Attributes:
        own: the place of its expert. shots: labelled samples of its task.
    """

    own: int
    example: Example
    shots: tuple[Example, ...] = ()

    def with_shots(self) -> Example:
        """Return the query below its task's labelled samples, in the form of the prompt."""
        shown = [PROMPT.replace("{line}", shot.input) + f" {shot.output}" for shot in self.shots]
        return Example("\n\n".join([*shown, self.example.input]), self.example.output)


Ask = tuple[Example, Mix]


def answered(base: RunningBase, adapted: AdaptedModel, asked: Sequence[Ask]) -> dict[Ask, bool]:
    """Return for every pair of a query and a mix whether the greedy answer is the right one; each is run once."""
    by_mix: dict[Mix, list[Example]] = {}
    for example, mix in dict.fromkeys(asked):
        by_mix.setdefault(mix, []).append(example)
    right: dict[Ask, bool] = {}
    for done, (mix, examples) in enumerate(by_mix.items()):
        base.progress(done / len(by_mix))
        weights = dict(mix)
        adapted.coefficients = adapted.numbers([weights.get(i, 0.0) for i in range(adapted.n)]) if mix else None
        hits = exactly_answered(base, examples, PROMPT)
        right.update({(example, mix): hit for example, hit in zip(examples, hits, strict=True)})
    return right


def composed(base: RunningBase, composition: Composition, examples: Sequence[Example]) -> list[bool]:
    """Return for every example whether the greedy answer is right while a composition mixes its experts.

    Gates of whole examples read each prompt first; preferences are equal. Raises: ValueError: it does not fit the base.
    """
    if composition.reads != "example":
        with composition.on(base.model):
            return exactly_answered(base, examples, PROMPT)
    right = []
    for done, example in enumerate(examples):
        base.progress(done / len(examples))
        with composition.on(base.model, prompt=_read(base, example)):
            right += exactly_answered(base, [example], PROMPT)
    return right


def _read(base: RunningBase, example: Example) -> dict[str, Tensor]:
    """Return the prompt as `exactly_answered` puts it."""
    tokens = base.tokens.prompt(PROMPT.replace(LINE, example.input))[-MAX_TOKENS:]
    return {"input_ids": torch.tensor([tokens], device=next(base.model.parameters()).device)}


def references(questions: Sequence[Question], n: int, seed: int = 0) -> dict[str, dict[str, list[Ask]]]:
    """Return what routers are compared with: by subject and form, the asks of all questions.

    `random` draws one of all n experts for each question, or one of the others.
    """
    draws = np.random.Philox(seed).random_raw(2 * len(questions)).reshape(2, -1)  # numpy guarantees its raw bits only
    any_one = [int(raw % np.uint64(n)) for raw in draws[0]]
    others = [(q.own + 1 + int(raw % np.uint64(n - 1))) % n for q, raw in zip(questions, draws[1], strict=True)]
    alone: dict[str, dict[str, list[Ask]]] = {
        "base_0_shot": {"all": [(q.example, ()) for q in questions]},
        "base_5_shot": {"all": [(q.with_shots(), ()) for q in questions]},
        "own_expert": {"all": [(q.example, ((q.own, 1.0),)) for q in questions]},
        "random_expert": {
            "all": [(q.example, ((i, 1.0),)) for q, i in zip(questions, any_one, strict=True)],
            "masked": [(q.example, ((i, 1.0),)) for q, i in zip(questions, others, strict=True)],
        },
        "uniform_merge": {
            "all": [(q.example, tuple((i, 1 / n) for i in range(n))) for q in questions],
            "masked": [(q.example, tuple((i, 1 / (n - 1)) for i in range(n) if i != q.own)) for q in questions],
        },
    }
    if any(not q.shots for q in questions):
        del alone["base_5_shot"]
    return alone


def routed(
    questions: Sequence[Question], router: Router, found: Found, instructions: Sequence[str | None] = ()
) -> dict[str, list[Ask]]:
    """Return the asks of a router's best match, and of its best three summed by its weights; each also masked.

    Where a router abstains, the base answers. The sum is Σ w·ΔW in full rank, as `weighted_sum` with rank `exact`.

    Args:
        instructions: of the experts' samples. With any, queries are asked below that of the best match, too.
    """
    own = np.array([q.own for q in questions], dtype=np.int64)
    asks: dict[str, list[Ask]] = {}
    for suffix, part in (("", found), ("_masked", found.without(own))):
        for form, k in (("top_1", 1), ("top_3", MERGED)):
            mixes = [_mix(router, part, row, k) for row in range(len(questions))]
            asks[form + suffix] = [(q.example, mix) for q, mix in zip(questions, mixes, strict=True)]
            if any(instructions):
                asks[f"{form}_told{suffix}"] = [
                    (_told(example, mix, instructions), mix) for example, mix in asks[form + suffix]
                ]
    return asks


def _told(example: Example, mix: Mix, instructions: Sequence[str | None]) -> Example:
    [told] = below(instructions[mix[0][0]] if mix else None, [example])
    return told


def _mix(router: Router, found: Found, row: int, k: int) -> Mix:
    best = [i for i in found.order[row, :k].tolist() if found.kept[row, i]]
    if not best:
        return ()
    weights = router.weigh(found.scores[row, best].astype(np.float32)).tolist()
    return tuple((i, round(weight, 6)) for i, weight in zip(best, weights, strict=True))


def exact_match(asks: Mapping[str, Sequence[Ask]], right: Mapping[Ask, bool], own: Ints) -> dict[str, Any]:
    """Return by form the share of right answers with its interval over tasks."""
    return {form: interval(np.array([right[ask] for ask in asked]), own).to_json() for form, asked in asks.items()}
