"""The pages of compositions: the list, one of them, and the form that asks for another."""

import json
from collections import Counter
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from lora.catalogue import Method
from lora.composing import GATES
from lora.composition_readme import arguments_of
from lora.compositions import COMPOSITIONS, UnknownComposition, formula_of
from lora.header import Header, read_header
from lora.losses import ends
from registry.errors import AppError, Invalid, NotFound
from registry.queries import Caller, find_job, visible_adapters
from registry.recipes import adapter_and_revision
from registry.storage import open_blob
from registry.views.charts import training
from registry.views.pages import page
from retrieval.composition_jobs import KIND, MAX_STEPS, STEPS, TRAINED, order_of
from retrieval.compositions import (
    FILTERS,
    composition_json,
    delete_composition,
    filtered,
    find_composition,
    visible_compositions,
)
from retrieval.models import Composition
from retrieval.views.ask import suggestions

PER_PAGE = 50
SHOWN_VERSIONS = 20
# What a gate looks at, in the words of its page.
READS = {
    "token": "at every token, by what enters the place",
    "outputs": "at every token, by what each expert would add",
    "example": "once for a prompt, by the mean of what enters the place",
    "preference": "once, by numbers that you give",
    "task": "once for all inputs: the weights were learnt with the task",
}


@require_safe
@page
def compositions(request: HttpRequest) -> HttpResponse:
    """All that the caller may see, by the filters of the REST API."""
    asked = {name: found for name in FILTERS if (found := [text for text in request.GET.getlist(name) if text])}
    visible = visible_compositions(request.user)
    try:
        rows = filtered(visible, asked)
    except UnknownComposition as error:
        raise Invalid(str(error)) from error
    found = Paginator(rows, PER_PAGE).get_page(request.GET.get("page"))
    bases = visible.filter(is_head=True).order_by("base_model").values_list("base_model", flat=True).distinct()
    context = {
        "section": "compositions",
        "page": found,
        "rows": [_listed(row) for row in found],
        "types": {name: COMPOSITIONS.get(name).title for name in COMPOSITIONS.names()},
        "bases": bases,
        "asked": {name: values[0] for name, values in asked.items()},
        "trained": TRAINED[0],
        "steps": STEPS,
    }
    return render(request, "compositions/list.html", context)


def _listed(row: Composition) -> dict[str, Any]:
    shown = composition_json(row) | {"title": COMPOSITIONS.get(row.type).title}
    if losses := row.training.get("losses"):
        shown["first_loss"], shown["last_loss"] = ends(losses)
    return shown


@require_safe
@page
def composition(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    row = find_composition(request.user, f"{owner}/{name}", request.GET.get("revision", "main"))
    method = COMPOSITIONS.get(row.type)
    experts = _experts(request.user, row)
    versions = Composition.objects.filter(full_name=row.full_name).only("commit", "is_head", "created_at")
    context = {
        "section": "compositions",
        "composition": composition_json(row),
        "short_name": name,
        "method": method,
        "formula": formula_of(method),
        "reads": READS.get(method.traits["reads"], method.traits["reads"]),
        "experts": experts,
        "is_offered": all(expert["is_offered"] for expert in experts),
        "is_main": row.is_head,
        "is_owner": row.namespace.owner_id == request.user.pk,
        "versions": versions[:SHOWN_VERSIONS],
        "base_literal": json.dumps(row.base_model),
        "arguments": arguments_of(method, str([1.0] * len(experts))),
        **_gates(row, method),
        **training(row.training.get("losses")),
    }
    return render(request, "compositions/page.html", context)


def _experts(user: Caller, row: Composition) -> list[dict[str, Any]]:
    """In their order, with what has become of each since the gates were made."""
    revisions = [expert.revision for expert in row.experts.all()]
    adapters = [revision.adapter_id for revision in revisions]
    offered = set(visible_adapters(user).filter(pk__in=adapters).values_list("pk", flat=True))
    return [
        adapter_and_revision(revision)
        | {
            "rank": revision.summary.get("rank"),
            "is_offered": revision.adapter_id in offered,
            "is_older": revision.adapter.head_id not in (None, revision.pk),
        }
        for revision in revisions
    ]


def _gates(row: Composition, method: Method) -> dict[str, Any]:
    """The tensors of the gates, alike ones in one line; why not, where the store does not give them."""
    declared = method.run(COMPOSITIONS.parse(row.type, row.params))
    try:
        header = _header(row)
    except AppError as error:
        return {"trouble": error.message}
    alike = Counter((name.rpartition(".")[2], info.shape, info.dtype) for name, info in header.tensors.items())
    order = list(declared)
    return {
        "gates": [
            {"name": part, "letters": declared[part], "shape": shape, "dtype": dtype, "places": count}
            for (part, shape, dtype), count in sorted(alike.items(), key=lambda item: order.index(item[0][0]))
        ]
    }


def _header(row: Composition) -> Header:
    blob = next(file.blob for file in row.files.all() if file.path == GATES)
    with open_blob(blob) as stream:
        return read_header(stream, blob.size_bytes, GATES)


@require_safe
def compose(request: HttpRequest) -> HttpResponse:
    """The form, which calls the REST API from the browser, with the address."""
    owners = request.user.namespaces.order_by("name") if request.user.is_authenticated else []
    context = {
        "section": "compositions",
        "owners": [namespace.name for namespace in owners],
        "suggestions": suggestions(request.user),
        "trained": TRAINED,
        "steps": STEPS,
        "max_steps": MAX_STEPS,
    }
    return render(request, "compositions/new.html", context)


@require_safe
@login_required
@page
def compose_again(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """The form, as a training was asked for."""
    job = find_job(request.user, job_id)
    if job.kind != KIND:
        raise NotFound("This job trains no gates.")
    fields = [("input", f"{revision.adapter.full_name}@{revision.commit}") for revision in order_of(job).revisions]
    fields += [(name, job.payload[name]) for name in ("name", "type", "steps", "seed", "visibility", "description")]
    return redirect(f"{reverse('compose')}?{urlencode(fields, safe='/@')}")


@require_POST
@login_required
@page
def delete(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    delete_composition(request.user, f"{owner}/{name}")
    messages.success(request, f"{owner}/{name} is deleted, with all its versions. Its experts stay.")
    return redirect("compositions")
