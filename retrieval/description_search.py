"""The experts whose descriptions fit: the nearest, or those of the nearest that a language model picks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.routers import TextSet
from lora.routers.description import BadChoice, Description, choice_prompt, pick_scores, read_choice
from registry.models import Adapter
from retrieval.language_model import LanguageModelUnavailable, ask
from retrieval.request import RetrieveRequest, refuse
from retrieval.search import Selection, View

# Of a description that is shown as evidence.
SHOWN_CHARS = 500


@dataclass(frozen=True)
class Described:
    """What was found for a query: rows of the view and their scores, best first, and what to ask a language model."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    prompt: str = ""


def search_descriptions(
    view: View, router: Description, request: RetrieveRequest, queries: list[TextSet], wanted: int, selection: Selection
) -> list[Described]:
    """Raises: Invalid: a language model is asked about one task at a time. LanguageModelUnavailable."""
    choose = router.params.choose
    if choose == "llm" and len(queries) > 1:
        refuse(request.form, "A language model is asked about one task at a time: send text, or examples of one task.")
    count = wanted if choose == "embedding" else max(wanted, router.params.candidates)
    found = []
    for query in queries:
        rows, scores = view.search(router.query(query.rows), count, selection)
        kept = router.keep(scores)
        nearest = Described(rows[kept], scores[kept])
        found.append(nearest if choose == "embedding" else _prompted(view, router, query, nearest, wanted))
    return found


def _prompted(view: View, router: Description, query: TextSet, nearest: Described, wanted: int) -> Described:
    """The nearest with the prompt, or what the operator's language model picks."""
    if not len(nearest.rows):
        return nearest
    shown = nearest.rows[: router.params.candidates]
    names = view.pool.rows["name"][shown].tolist()
    prompt = choice_prompt(query.texts, list(zip(names, _descriptions(names), strict=True)), wanted)
    if router.params.choose == "prompt":
        return Described(nearest.rows[:wanted], nearest.scores[:wanted], prompt)
    try:
        picked = read_choice(ask(prompt), names)[:wanted]
    except BadChoice as error:
        raise LanguageModelUnavailable(f"{error} Try again, or choose by embedding.") from error
    return Described(shown[picked], pick_scores(len(picked)))


def shown_descriptions(view: View, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Of each row of the view, `{description}`: what its vector was made of."""
    names = view.pool.rows["name"][rows].tolist()
    return [{"description": text[:SHOWN_CHARS]} for text in _descriptions(names)]


def _descriptions(names: list[str]) -> list[str]:
    said = dict(Adapter.objects.filter(full_name__in=names).values_list("full_name", "description"))
    return [said.get(name, "") for name in names]
