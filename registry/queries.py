"""Reads: what a caller may see."""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from registry.errors import NotFound, PermissionRefused
from registry.models import Adapter, BaseModel, Job, Merge, Revision, WorkerHeartbeat

Caller = AbstractBaseUser | AnonymousUser
WORKER_SILENCE_S = 15


def visible_adapters(user: Caller) -> QuerySet[Adapter]:
    """Public adapters that have passed their checks, and all of the caller's own; nothing that was yanked."""
    seen = Q(visibility="public", head__isnull=False)
    if user.is_authenticated:
        seen |= Q(namespace__owner_id=user.pk)
    return Adapter.objects.filter(seen, yanked_at=None)


def is_owner(user: Caller, adapter: Adapter) -> bool:
    return user.is_authenticated and adapter.namespace.owner_id == user.pk


def find_adapter(user: Caller, full_name: str, *, for_write: bool = False) -> Adapter:
    """The adapter, if the caller may see it (or write to it).

    Raises: NotFound for what the caller may not see, PermissionRefused for what it sees but may not change.
    """
    adapter = Adapter.objects.select_related("namespace", "head").filter(full_name=full_name).first()
    if adapter is None:
        raise NotFound(f"There is no adapter {full_name!r} that you may see.")
    if is_owner(user, adapter):
        return adapter
    if adapter.visibility != "public" or adapter.head_id is None or adapter.yanked_at is not None:
        raise NotFound(f"There is no adapter {full_name!r} that you may see.")
    if for_write:
        raise PermissionRefused(f"Only the owner of {full_name} may change it.")
    return adapter


def find_revision(user: Caller, adapter: Adapter, ref: str = "main") -> Revision:
    """The revision that a ref (`main`, a tag, 40 hex) names. Raises: NotFound.

    For its owner, `main` of an adapter without a head is the newest revision, so that a verdict can be read.
    """
    revisions = adapter.revisions.prefetch_related("files__blob")
    if not is_owner(user, adapter):
        revisions = revisions.filter(state=Revision.State.READY)
    if ref == "main":
        found = revisions.filter(pk=adapter.head_id).first() if adapter.head_id else revisions.first()
    elif re.fullmatch(r"[0-9a-f]{40}", ref):
        found = revisions.filter(commit=ref).first()
    else:
        found = revisions.filter(refs__name=ref).first()
    if found is None:
        raise NotFound(f"{adapter.full_name} has no revision {ref[:100]!r}. Use 'main', a tag or 40 hex digits.")
    found.adapter = adapter
    return found


def shown_revisions(adapters: Iterable[Adapter]) -> QuerySet[Revision]:
    """The revision of each adapter that its owner sees as `main`: the head or, without one, the newest."""
    heads = {adapter.pk: adapter.head_id for adapter in adapters}
    headless = [pk for pk, head in heads.items() if head is None]
    newest = Revision.objects.filter(adapter__in=headless).order_by("created_at", "pk").values_list("adapter_id", "pk")
    return Revision.objects.filter(pk__in=(heads | dict(newest)).values())


def find_base_model(name: str | None) -> BaseModel | None:
    """The base model of that name or alias."""
    if not name:
        return None
    exact = BaseModel.objects.filter(name=name).first()
    # The names alone first: the modules of a base can be a megabyte.
    aliases = () if exact else BaseModel.objects.values_list("pk", "aliases")
    alias = next((pk for pk, names in aliases if name in names), None)
    return exact or (BaseModel.objects.get(pk=alias) if alias else None)


def own_jobs(user: Caller) -> QuerySet[Job]:
    return Job.objects.filter(owner_id=user.pk) if user.is_authenticated else Job.objects.none()


def find_job(user: Caller, job_id: Any) -> Job:
    """The caller's own job (any job for staff). Raises: NotFound."""
    jobs = Job.objects.all() if user.is_authenticated and user.is_staff else own_jobs(user)
    job = jobs.select_related("revision__adapter", "merge").filter(pk=job_id).first()
    if job is None:
        raise NotFound("There is no job of that id that you may see.")
    return job


def find_merge(user: Caller, merge_id: Any) -> Merge:
    """The caller's own merge. Raises: NotFound."""
    merge = Merge.objects.filter(pk=merge_id, owner_id=user.pk).first() if user.is_authenticated else None
    if merge is None:
        raise NotFound("There is no merge of that id that you may see.")
    return merge


def worker_is_heard() -> bool:
    """Whether any worker has said lately that it lives."""
    return WorkerHeartbeat.objects.filter(seen_at__gt=Now() - timedelta(seconds=WORKER_SILENCE_S)).exists()
