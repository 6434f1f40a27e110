"""What a gallery's site holds beside what is uploaded for real; run inside the site's environment.

`python -m tests.journeys.gallery.rows people|imports DIR|running|crowd`
"""

import sys
from datetime import timedelta

import django

from bench.registry_rows import fill

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


def crowd() -> None:
    """More of everything than fits on a page. Without the table of tokens, asking for them fails on the server."""
    from django.db import connection

    people()
    fill(EXPERTS)
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
    {"people": people, "imports": imports, "running": running, "crowd": crowd}[sys.argv[1]](*sys.argv[2:])
