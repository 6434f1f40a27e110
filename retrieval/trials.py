"""Trials: labelled examples in, a job out that runs the experts that may fit on them."""

from typing import Any, NoReturn

from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Count, QuerySet

from lora.examples import Example
from lora.runtime.text import LINE, PROMPT
from lora.strict_json import is_storable
from registry.errors import Conflict, Invalid, Throttled
from registry.jobs import enqueue
from registry.models import Adapter, Job
from registry.queries import Caller, find_base_model, visible_adapters
from retrieval.runnable import MAX_TOTAL_CHARS, runnable

KIND = "trial"
FIELDS = frozenset({"examples", "base_model", "k", "merge", "prompt", "outcomes"})
DEFAULT_K = 10
MAX_CANDIDATES = 32
MAX_EXAMPLES = 64
MAX_PROMPT_CHARS = 2_000
MAX_OPEN = 3
MAX_BASES = 30


def start_trial(user: AbstractBaseUser, payload: Any) -> Job:
    """The job of a new trial; the one there is where the caller's same request is still open.

    The examples are in the job's `private` part alone, which its end erases; with `outcomes` their inputs become probes
    of the caller.

    Raises: Invalid; Conflict: no expert of the base can be run; Throttled; NotReady: the encoder.
    """
    examples, prompt, base, k, wants_merge = _parse(payload)
    names = _names_of(base)
    order = {"base_model": names[0], "merge": wants_merge, "examples": len(examples)}
    if _wants_outcomes(payload):
        order["outcomes"] = True
    private = {"examples": [{"input": one.input, "output": one.output} for one in examples], "prompt": prompt}
    pool = visible_adapters(user).filter(head__isnull=False, base_model__in=names)
    order["revisions"] = _candidates(user, pool, names[0], [one.input for one in examples], k)
    open_jobs = list(Job.objects.filter(kind=KIND, owner_id=user.pk).exclude(status__in=Job.FINAL))
    if same := next((job for job in open_jobs if (job.payload, job.private) == (order, private)), None):
        return same
    if len(open_jobs) >= MAX_OPEN:
        raise Throttled(f"{len(open_jobs)} of your trials wait or run already. Wait for one to end, or cancel one.")
    return enqueue(KIND, owner=user, payload=order, private=private)


def _wants_outcomes(payload: dict[str, Any]) -> bool:
    wanted = payload.get("outcomes")
    if not isinstance(wanted, bool | None):
        _refuse("outcomes", "outcomes must be true or false.")
    return bool(wanted)


def choices_of_bases(user: Caller) -> list[dict[str, Any]]:
    """`{name, experts}` of the base models with the most experts that the caller may see, these first."""
    ready = visible_adapters(user).filter(head__isnull=False).exclude(base_model="").order_by()
    counts = ready.values_list("base_model").annotate(count=Count("pk")).order_by("-count", "base_model")
    return [{"name": name, "experts": count} for name, count in counts[:MAX_BASES]]


def _refuse(field: str, message: str) -> NoReturn:
    raise Invalid(message, detail={field: message})


def _parse(payload: Any) -> tuple[list[Example], str, str, int, bool]:
    """Raises: Invalid, naming the field."""
    if not isinstance(payload, dict) or not set(payload) <= FIELDS:
        raise Invalid(f"A trial is an object with {', '.join(sorted(FIELDS))}, and nothing else.")
    given = {name: value for name, value in payload.items() if value is not None}
    examples = _examples(given.get("examples"))
    base, k, merge = given.get("base_model"), given.get("k", DEFAULT_K), given.get("merge", False)
    if not isinstance(base, str) or not base.strip():
        _refuse("base_model", "base_model must name the base model whose experts are tried.")
    if type(k) is not int or not 1 <= k <= MAX_CANDIDATES:
        _refuse("k", f"k must be a whole number from 1 to {MAX_CANDIDATES}.")
    if not isinstance(merge, bool):
        _refuse("merge", "merge must be true or false.")
    if merge and len(examples) < 2:
        _refuse(
            "merge", "A merge is judged by examples that its search has not seen, which takes at least two of them."
        )
    return examples, _prompt(given.get("prompt", PROMPT)), base.strip(), k, merge


def _prompt(value: Any) -> str:
    if not isinstance(value, str) or LINE not in value or len(value) > MAX_PROMPT_CHARS or not is_storable(value):
        _refuse("prompt", f"prompt must be text with {LINE} in it, of at most {MAX_PROMPT_CHARS} characters.")
    return value


def _examples(values: Any) -> list[Example]:
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_EXAMPLES:
        _refuse("examples", f"examples must be a list of 1 to {MAX_EXAMPLES} objects with input and output.")
    examples = [_example(value, f"examples[{place}]") for place, value in enumerate(values)]
    chars = sum(len(one.input) + len(one.output or "") for one in examples)
    if chars > MAX_TOTAL_CHARS:
        text = f"The examples have {chars} characters together; at most {MAX_TOTAL_CHARS}. Send fewer, or shorter ones."
        _refuse("examples", text)
    return examples


def _example(value: Any, where: str) -> Example:
    try:
        example = Example.from_json(value)
    except ValueError as error:
        _refuse(where, f"{where} {error}.")
    if example.output is None or not example.output.strip():
        _refuse(where, f"{where} has no output: what the right answer is. Experts are compared with it.")
    return example


def _names_of(base_model: str) -> tuple[str, ...]:
    """Every name of a base model, the registered one first."""
    base = find_base_model(base_model)
    return (base.name, *base.aliases) if base else (base_model,)


def _candidates(user: Caller, pool: QuerySet[Adapter], base: str, inputs: list[str], k: int) -> list[int]:
    """Up to k revisions that can be run. Raises: Invalid, Conflict: there are none."""
    if not pool.exists() and not find_base_model(base):
        _refuse(
            "base_model", f"The base model {base[:200]!r} is not known here, and no expert that you may see is of it."
        )
    chosen, reasons = runnable(user, pool, {"base_model": base}, inputs, k)
    if not chosen:
        why = f" {reasons[0]}" if reasons else ""
        raise Conflict(f"No expert of {base[:200]} that you may see can be tried.{why}")
    return chosen
