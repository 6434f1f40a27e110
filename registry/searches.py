"""Weight searches by ask and tell: the registry proposes weights, the client evaluates them and tells the loss."""

import math
from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AbstractBaseUser

from lora.search import STRATEGIES, Space
from lora.search import Search as Running
from registry.errors import Conflict, Invalid, NotFound
from registry.merges import check_inputs, described_files, first_places
from registry.models import Search
from registry.queries import Caller
from registry.recipe_requests import Resolve, parse_recipe
from registry.recipes import adapter_and_revision, step_json

MAX_BUDGET = 1000
MAX_BOUND = 10
FIELDS = frozenset({"inputs", "strategy", "budget", "bound", "seed"})


def start_search(user: AbstractBaseUser, payload: Any, resolve: Resolve) -> Search:
    """A new search, which asks for the loss of the weights that it begins with.

    Args:
        resolve: as for `parse_recipe`.
    Raises: as `parse_recipe`; Invalid.
    """
    if not isinstance(payload, dict) or not set(payload) <= FIELDS:
        raise Invalid(f"A search is an object with {', '.join(sorted(FIELDS))}, and nothing else.")
    strategy = payload.get("strategy", "evolution")
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise _refused("strategy", f"one of {', '.join(STRATEGIES)}")
    budget = _whole(payload, "budget", 40, 1, MAX_BUDGET)
    seed = _whole(payload, "seed", 0, 0, 2**32 - 1)
    bound = payload.get("bound", 1.5)
    if type(bound) not in (int, float) or not 0 < bound <= MAX_BOUND:
        raise _refused("bound", f"a number above 0, at most {MAX_BOUND}")
    recipe = parse_recipe(user, {"method": "weighted_sum", "inputs": payload.get("inputs")}, resolve)
    places = first_places(recipe.places)
    check_inputs(places, described_files(places.values()), recipe.step)
    inputs = step_json(recipe.step, adapter_and_revision)["inputs"]
    return Search.objects.create(
        owner_id=user.pk, inputs=inputs, strategy=strategy, budget=budget, bound=float(bound), seed=seed
    )


def find_search(user: Caller, search_id: Any) -> Search:
    """The caller's own search. Raises: NotFound."""
    search = Search.objects.filter(pk=search_id, owner_id=user.pk).first() if user.is_authenticated else None
    if search is None:
        raise NotFound("There is no search of that id that you may see.")
    return search


def tell(search: Search, payload: Any) -> Search:
    """The search one loss further. The last one told again, after an answer that got lost, changes nothing.

    Args:
        payload: `{ask, loss}`, the number of what was asked and its loss.
    Raises: Invalid; Conflict: the loss of another ask is wanted, or none.
    """
    ask, loss = _told(payload)
    if ask == search.told - 1 and search.losses[ask] == loss:
        return search
    if search.told == search.budget:
        raise Conflict("The search has used up its budget. Merge with its best weights, or start another one.")
    rows = Search.objects.filter(pk=search.pk, told=ask)
    if ask != search.told or not rows.update(losses=[*search.losses, loss], told=ask + 1):
        search.refresh_from_db()
        raise Conflict(f"The loss of ask {search.told} is wanted, not of ask {ask}.", detail={"ask": search.told})
    search.refresh_from_db()
    return search


def search_json(search: Search) -> dict[str, Any]:
    """The state of a search; `merge` is the body of `POST /merges/` with the best weights so far."""
    start = tuple(item["weight"] for item in search.inputs)
    running = Running(search.strategy, Space(start, -search.bound, search.bound, search.seed), search.losses)
    is_finished, found = search.told == search.budget, running.found
    best = [dict(item, weight=weight) for item, weight in zip(search.inputs, found.weights, strict=True)]
    return {
        "id": str(search.pk),
        "status": "finished" if is_finished else "running",
        "inputs": search.inputs,
        "strategy": search.strategy,
        "budget": search.budget,
        "bound": search.bound,
        "seed": search.seed,
        "losses": search.losses,
        "ask": None if is_finished else {"number": search.told, "weights": list(running.ask)},
        "best": {"weights": list(found.weights), "loss": found.loss} if search.told else None,
        "merge": {"method": "weighted_sum", "inputs": best} if search.told else None,
        "created_at": search.created_at,
    }


def _told(payload: Any) -> tuple[int, float]:
    if not isinstance(payload, dict) or set(payload) != {"ask", "loss"}:
        raise Invalid("Tell {ask, loss}: the number of what was asked, and its loss.")
    ask, loss = payload["ask"], payload["loss"]
    if type(ask) is not int or ask < 0:
        raise _refused("ask", "the number of what was asked")
    if type(loss) not in (int, float) or not math.isfinite(loss):
        raise _refused("loss", "a finite number; for weights that cannot be evaluated tell a high one")
    return ask, float(loss)


def _whole(payload: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = payload.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise _refused(name, f"a whole number from {low} to {high}")
    return value


def _refused(name: str, expected: str) -> Invalid:
    return Invalid(f"{name} must be {expected}.", detail={name: f"expected {expected}"})
