"""`trial`: runs experts on the caller's examples, ranks them, and makes the best merge of the best where asked to."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from django.db import transaction

from lora.errors import LoraError
from lora.examples import Example
from lora.recipe import MergeInput
from lora.samples import SAMPLES_NAME
from lora.trial_score import Score
from lora.trials import Trial
from registry import jobs
from registry.describe import may_read
from registry.errors import AppError
from registry.merge_samples import examples_of
from registry.merges import check_inputs, described_files, first_places, local_file, request_merge
from registry.models import Revision
from registry.recipe_requests import parse_recipe
from registry.recipes import Recipe, adapter_and_revision
from retrieval.models import Outcome
from retrieval.outcomes import Measured, store
from workers.base_models import running_base
from workers.offered import offered
from workers.runner import Work


def handle(work: Work) -> None:
    """Nothing is stored but the result and, at the same moment, the merge, whose own job computes it."""
    order, private = work.job.payload, work.job.private
    revisions = offered(work)
    work.log(f"Loading {order['base_model']}")
    base = running_base(order["base_model"], lambda fraction: None)
    examples = [Example.from_json(example) for example in private["examples"]]

    def mergeable(chosen: Sequence[int]) -> bool:
        return _recipe(work, [(revisions[i], 1 / len(chosen)) for i in chosen]) is not None

    with ExitStack() as stack:
        work.log(f"Running {len(revisions)} experts on {len(examples)} examples")
        files = [_file(work, revision, stack) for revision in revisions]
        trial = Trial(base, files, examples, prompt=private["prompt"], say=work.log, progress=work.part(0.1, 1.0))
        scores = trial.run(mergeable if order["merge"] else None)
    result = {
        "base_model": order["base_model"],
        "examples": len(examples),
        "ranking": [_row(score, revisions) for score in scores],
        "skipped": [{"adapter": revisions[i].adapter.full_name, "reason": text} for i, text in trial.skipped.items()],
    }
    if order.get("outcomes"):
        result["outcomes"] = _keep_outcomes(work, examples, revisions, scores)
    _finish(work, result, revisions, scores)


def _file(work: Work, revision: Revision, stack: ExitStack) -> MergeInput:
    """With its samples where the trial's owner may read them: a line of them comes into the result."""
    file = local_file(revision, stack)
    is_open = may_read(work.job.owner, revision.adapter, SAMPLES_NAME)
    return replace(file, samples=examples_of(revision)) if is_open else file


def _recipe(work: Work, weights: Sequence[tuple[Revision, float]]) -> Recipe | None:
    """The sum that a search evaluates, at no lower rank; None where it may not be made, and the log says why."""
    inputs = [adapter_and_revision(revision) | {"weight": weight} for revision, weight in weights]
    body = {"method": "weighted_sum", "inputs": inputs, "output": {"rank": {"mode": "exact"}}}
    try:
        recipe = parse_recipe(work.job.owner, body, lambda given: given)
        places = first_places(recipe.places)
        check_inputs(places, described_files(places.values()), recipe.step)
    except (AppError, LoraError) as error:
        work.log(f"The best {len(weights)} are not merged: {error}")
        return None
    return recipe


def _row(score: Score, revisions: Sequence[Revision]) -> dict[str, Any]:
    who: dict[str, Any] = {"adapter": None, "revision": None}
    if score.candidate is not None:
        who = adapter_and_revision(revisions[score.candidate])
    inputs = [adapter_and_revision(revisions[i]) | {"weight": weight} for i, weight in score.weights.items()]
    measured = {
        "loss": score.loss,
        "probability": score.probability,
        "exact_match": score.exact_match,
        "examples": score.examples,
        "instruction": score.instruction,
    }
    return {"kind": score.kind, **who, **measured} | ({"inputs": inputs} if inputs else {})


def _keep_outcomes(
    work: Work, examples: Sequence[Example], revisions: Sequence[Revision], scores: Sequence[Score]
) -> int:
    """How many answers were kept as outcomes of the caller; a run that is repeated keeps the same ones."""
    inputs = [example.input for example in examples]
    # The same input twice, with two right answers, is one probe: what its last line says counts.
    measured = {
        (revisions[score.candidate].pk, text): Measured("", revisions[score.candidate], text, None, float(right))
        for score in scores
        if score.candidate is not None and score.answered
        for text, right in zip(inputs, score.answered, strict=True)
    }
    try:
        store(work.job.owner, list(measured.values()), Outcome.Source.TRIAL)
    except AppError as error:
        work.log(f"The answers are not kept as outcomes: {error.message}")
        return 0
    return len(measured)


def _finish(work: Work, result: dict[str, Any], revisions: Sequence[Revision], scores: Sequence[Score]) -> None:
    """The merge is there when the trial has succeeded, and not before; its weights are those that were found."""
    found = next((score.weights for score in scores if score.kind == "merge"), {})
    weights = [(revisions[i], weight) for i, weight in found.items() if weight]
    recipe = _recipe(work, weights) if weights else None
    with transaction.atomic():
        merge = request_merge(work.job.owner, recipe)[0] if recipe else None
        with jobs.finishing(work.job, result | {"merge": str(merge.pk) if merge else None}):
            pass
