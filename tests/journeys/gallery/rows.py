"""What a gallery's site holds beside what is uploaded for real; run inside the site's environment.

`python -m tests.journeys.gallery.rows people|imports DIR|running|crowd`
"""

import math
import sys
from datetime import timedelta
from typing import Any

import django

from bench.registry_rows import fill
from tests.journeys.gallery import composed
from tests.journeys.gallery.routes import routes

PASSWORD = "a long enough passphrase"
PEOPLE = ("ada", "bo", "operator")
EXPERTS = 1_200
JOBS = 1_000


def people() -> None:
    """Who can log in: somebody new, and two contributors and the operator, of whom a token is written out."""
    from registry.accounts import create_user
    from registry.tokens import create_token

    create_user("newcomer", PASSWORD)
    for name in PEOPLE:
        user = create_user(name, PASSWORD, is_staff=name == "operator")
        sys.stdout.write(create_token(user, "first script", 30)[1] + "\n")


def imports(directory: str) -> None:
    """Write out the ids of two jobs of the operator: one that looks at a directory, one that takes it in."""
    from django.contrib.auth.models import User

    from registry.import_jobs import start_import

    operator = User.objects.get(username="operator")
    for dry in (True, False):
        sys.stdout.write(f"{start_import(operator, directory, 'collection', 'public', dry=dry).pk}\n")


def running() -> None:
    """Once no worker is there: a merge in the middle of its work, and the tokens of a person who has had some."""
    from django.contrib.auth.models import User
    from django.utils import timezone

    from registry.jobs import claim, log, set_progress
    from registry.models import AccessToken, Job
    from registry.tokens import create_token

    _trials()
    for route in routes(User.objects.get(username="ada")):
        sys.stdout.write(f"{route}\n")
    sys.stdout.write(f"{composed.compositions(User.objects.get(username='ada'))}\n")
    job = claim(Job.objects.filter(kind="merge", status="queued").latest("queued_at").pk, "worker")
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() + timedelta(days=1))
    log(job, "Reading 3 inputs")
    set_progress(job, 0.4)

    ada = User.objects.get(username="ada")
    for name, column in (("continuous integration", None), ("lost phone", "revoked_at"), ("old laptop", "expires_at")):
        token, _ = create_token(ada, name, 90)
        if column:
            past = {"created_at": timezone.now() - timedelta(days=100), column: timezone.now() - timedelta(days=10)}
            AccessToken.objects.filter(pk=token.pk).update(**past)


def _trials() -> None:
    """Write out the ids of three trials of ada: one that has ended, one that runs and one that found no base."""
    from django.contrib.auth.models import User
    from django.utils import timezone

    from registry.jobs import log
    from registry.models import Job, Merge

    ada, merge = User.objects.get(username="ada"), Merge.objects.filter(artefact__isnull=False).first()
    best, second, given_up = ("ada/date-format", "bo/weekday-after", "bo/antonym")

    def row(kind: str, loss: float, exact: float | None, adapter: str | None = None, **more: object) -> dict:
        likely = {"loss": loss, "probability": math.exp(-loss)}
        measured = {**likely, "exact_match": exact, "examples": 12 if exact is not None else 8, "instruction": None}
        return {"kind": kind, "adapter": adapter, "revision": "0" * 40 if adapter else None, **measured, **more}

    line = "Rewrite the ISO date (YYYY-MM-DD) as day, month name and year."
    inputs = [{"adapter": best, "revision": "0" * 40, "weight": 1.13}, {"adapter": second, "weight": -0.21}]
    ranking = [
        row("adapter", 0.021, 1.0, best, instruction=line),
        row("merge", 0.034, 11 / 12, inputs=inputs, instruction=line),
        row("base_few_shot", 0.412, 5 / 12),
        row("adapter", 1.204, 1 / 12, second),
        row("base", 2.318, 0.0),
        row("adapter", 2.207, None, given_up),
    ]
    skipped = [{"adapter": "bo/stranger", "reason": "The base at hand has no module model.layers.40.mlp.up_proj."}]
    result = {"base_model": "acme/base", "examples": 12, "ranking": ranking, "skipped": skipped, "merge": str(merge.pk)}
    message = (
        "This worker has no weights of acme/tiny-base. Register it, and put them at BASE_MODELS_DIR/acme/tiny-base."
    )
    lease = {"lease_until": timezone.now() + timedelta(days=1), "started_at": timezone.now()}
    for ending in (
        {"status": "succeeded", "result": result, "progress": 1},
        {"status": "running", "progress": 0.42, "attempts": 1, "worker": "worker", **lease},
        {"status": "failed", "error": {"code": "base_not_here", "message": message, "detail": {}}},
    ):
        job = Job.objects.create(kind="trial", owner=ada, payload={"examples": 12}, **ending)
        for line in (
            "Loading the base model",
            "ada/date-format: mean probability 0.979 on 8 examples",
            "The best 3 go on",
        ):
            log(job, line)
        sys.stdout.write(f"{job.pk}\n")


def evaluations() -> None:
    """Three routers on a suite of forty tasks, and what their experts answer beside four references."""
    from lora.suite import Suite
    from retrieval.evaluations import Result, store

    def share(value: float) -> dict[str, float]:
        return {"value": value, "low": max(0, value - 0.06), "high": min(1, value + 0.05)}

    def found(value: float) -> dict[str, Any]:
        top = {"1": share(value), "3": share(min(1, value + 0.12)), "8": share(min(1, value + 0.2))}
        return {"queries": 2000, "mrr": share(value + 0.05), "top": top}

    setting = {"samples": 20, "queries": None, "space": "all-MiniLM-L6-v2@b5c9b60c7a7a"}
    results = []
    for name, value in (("lora_retriever", 0.76), ("retrieval_of_experts", 0.68), ("airoboros", 0.64)):
        rates = [min(1, value * (place % 10) / 5) for place in range(40)]
        tasks = [{"task": f"task_{place:02}", "queries": 50, "top": {"1": rate}} for place, rate in enumerate(rates)]
        figures = {"experts": 40, "as_given": found(value), "without_instruction": found(value - 0.2)}
        figures |= {"category": found(value / 4), "took_ms": {"encode": 4.2, "route": 2 - 2 * value}, "tasks": tasks}
        results.append(Result("retrieval", name, setting, figures))
        forms = {"top_1": share(value), "top_3": share(value - 0.2), "top_1_masked": share(0.09)}
        results.append(
            Result("answers", name, setting | {"base_model": "acme/base"}, {"queries": 400, "as_given": forms})
        )
    for name, value in (("own_expert", 0.79), ("base_5_shot", 0.32), ("uniform_merge", 0.2), ("base_0_shot", 0.01)):
        told = {"queries": 400, "as_given": {"all": share(value)}}
        results.append(Result("answers", name, setting | {"base_model": "acme/base"}, told, is_reference=True))
    told = {"queries": 400, "as_given": {"all": share(0.41)}}
    params = {"type": "lora_flow", "revision": f"{1:040x}"}
    results.append(Result("answers", "team-000/set-0001", setting | {"base_model": "acme/base"}, told, params=params))
    store(Suite("our tasks", "a" * 64, ()), results)


def crowd() -> None:
    """More of everything than fits on a page. Without the table of tokens, asking for them fails on the server."""
    from django.db import connection

    people()
    fill(EXPERTS)
    composed.crowd()
    _jobs()
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE registry_accesstoken")


def _jobs() -> None:
    from django.contrib.auth.models import User

    from registry.models import Job, Revision

    ada = User.objects.get(username="ada")
    revisions = Revision.objects.select_related("adapter").defer("modules")[:JOBS]
    Job.objects.bulk_create(
        Job(
            kind="ingest",
            owner=ada,
            revision=revision,
            status="succeeded",
            progress=1,
            attempts=1,
            result={"adapter": revision.adapter.full_name, "revision": revision.commit},
        )
        for revision in revisions
    )


if __name__ == "__main__":
    django.setup()
    {"people": people, "imports": imports, "running": running, "crowd": crowd, "evaluations": evaluations}[sys.argv[1]](
        *sys.argv[2:]
    )
