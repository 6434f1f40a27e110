"""`POST /retrieve/` for routers that run the base model: a job, or an answer from hidden states at once."""

import time
from datetime import timedelta
from typing import Any, BinaryIO

from django.contrib.auth.models import AbstractBaseUser
from django.utils import timezone

from lora.module_routers import Baselines
from registry.errors import Invalid, NotReady, Throttled
from registry.jobs import enqueue
from registry.models import Job
from registry.queries import Caller
from retrieval.baselines import read_baselines
from retrieval.hidden_states import check_fit, read_states
from retrieval.module_request import FORMS, ModuleRequest, parse_module_request
from retrieval.module_routing import Candidate, answer, candidates, visible_experts
from retrieval.runnable import MAX_TOTAL_CHARS, runnable

KIND = "route"
BASELINES = "baselines"
MAX_OPEN = 8
# How long a job that could not compute baselines speaks for another one.
FAILED_LATELY = timedelta(minutes=1)
ASK_AGAIN_S = 10


def start_route(user: AbstractBaseUser, payload: dict[str, Any]) -> Job:
    """The job that routes the texts of a request; its result is what other routers answer at once.

    The texts are in the job's `private` part alone, which its end erases. Raises: Invalid, InvalidParams; Throttled;
        NotReady: the encoder, where experts have to be chosen.
    """
    request = parse_module_request(payload)
    order = {name: value for name, value in payload.items() if name not in FORMS}
    if Job.objects.filter(kind=KIND, owner_id=user.pk).exclude(status__in=Job.FINAL).count() >= MAX_OPEN:
        raise Throttled(
            f"{MAX_OPEN} of your queries wait or run already. Wait for one to end, or send several as texts."
        )
    experts = {"revisions": _tried(user, request, payload)} if request.is_trial else {}
    return enqueue(KIND, owner=user, payload={"request": order} | experts, private={"queries": request.queries})


def _tried(user: AbstractBaseUser, request: ModuleRequest, payload: dict[str, Any]) -> list[int]:
    """The revisions that a worker is to run on the one query. Raises: Invalid: it is too long."""
    [query] = request.queries
    texts = [[item["input"], item["output"]] if request.reads_labels else [item] for item in query]
    chars = sum(len(part) for parts in texts for part in parts)
    if chars > MAX_TOTAL_CHARS:
        message = f"These are {chars} characters together; at most {MAX_TOTAL_CHARS}. Send fewer or shorter texts."
        raise Invalid(message, detail={next(form for form in FORMS if payload.get(form) is not None): message})
    asked = {name: payload[name] for name in ("base_model", "filters") if payload.get(name) is not None}
    most = request.method.run(request.params).most
    return runnable(user, visible_experts(user, request), asked, [parts[0] for parts in texts], most)[0]


def route_states(user: Caller, payload: dict[str, Any], stream: BinaryIO, size_bytes: int) -> dict[str, Any]:
    """The experts that fit hidden states, as the JSON of `POST /retrieve/`.

    Raises: Invalid, InvalidParams: the request. TooLarge, InvalidVectors: the states. NotReady: experts are yet to be
        compared with generic texts, which a job is about to do.
    """
    started = time.perf_counter()
    request = parse_module_request(payload, has_states=True)
    states = read_states(stream, size_bytes)
    read = time.perf_counter()
    found = candidates(user, request)
    check_fit(states, found)
    baselines = _baselines(request.base_model, found) if request.method.run.needs_baselines else {}
    result = answer(request, found, baselines, [states], {})
    took = {"encode": read - started, "search": time.perf_counter() - read}
    return result | {"took_ms": {name: round(seconds * 1000, 3) for name, seconds in took.items()}}


def _baselines(base_model: str, found: list[Candidate]) -> dict[int, Baselines]:
    known = read_baselines(one.revision for one in found)
    lacking = [one.revision for one in found if one.revision not in known]
    if not lacking:
        return known
    newest = Job.objects.filter(kind=BASELINES, payload__base_model=base_model).order_by("-queued_at").first()
    if (
        newest is not None
        and newest.status == Job.Status.FAILED
        and newest.finished_at > timezone.now() - FAILED_LATELY
    ):
        raise NotReady(
            f"What this router compares with cannot be computed: {newest.error['message']}", retry_after_s=60
        )
    if newest is None or newest.status in Job.FINAL:
        newest = enqueue(BASELINES, payload={"base_model": base_model, "revisions": lacking})
    raise NotReady(
        f"{len(lacking)} experts are yet to be compared with generic texts, which a worker does now. Ask again soon.",
        retry_after_s=ASK_AGAIN_S,
    )
