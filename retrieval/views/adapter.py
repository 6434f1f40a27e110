"""The page on which one decides about an adapter."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from lora.config import LoraConfig, parse_config
from lora.errors import InvalidAdapter
from lora.examples import instruction_of
from lora.prototypes import PROTOTYPES
from registry.adapters import read_card
from registry.describe import readable_files
from registry.errors import AppError
from registry.gates import GATES
from registry.intake import CONFIG
from registry.lineage import lineage_of
from registry.models import Adapter, Job, Revision
from registry.queries import find_adapter, find_base_model, find_revision, is_owner
from registry.samples import PATH as SAMPLES
from registry.samples import read_samples
from registry.storage import read_blob
from registry.views import charts
from registry.views.binding import binding_grid
from registry.views.card import render_card
from registry.views.changes import changes
from registry.views.lineage import draw_lineage, relatives
from registry.views.modules import modules_csv
from registry.views.pages import page
from registry.views.snippets import engines, tabs
from retrieval.api.adapters import full_json
from retrieval.compositions import visible_compositions
from retrieval.prototype_jobs import KINDS, LABELLED
from retrieval.similar import similar

SHOWN_SAMPLES = 3
SHOWN_REVISIONS = 20
SHOWN_SIMILAR = 5
SHOWN_COMPOSITIONS = 5
SHOWN_MODULES = 500


@require_safe
@page
def adapter(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    row, revision = _asked_for(request, owner, name)
    return render(request, "adapters/page.html", adapter_context(request, row, revision))


@require_safe
@page
def similar_adapters(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The part of the page that needs the index, and so comes after it."""
    row = find_adapter(request.user, f"{owner}/{name}")
    by = request.GET.get("by", "samples")
    matches = similar(request.user, row, by, SHOWN_SIMILAR)
    context = {"adapter": row, "by": by, "matches": matches, "shown_most": SHOWN_SIMILAR}
    return render(request, "adapters/similar.html", context)


@require_safe
@page
def modules(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The numbers behind the pictures as a table, which is large and comes when it is asked for."""
    found = _asked_for(request, owner, name)[1].modules
    more = max(0, len(found) - SHOWN_MODULES)
    return render(request, "adapters/modules.html", {"modules": found[:SHOWN_MODULES], "more": more})


@require_safe
@page
def modules_file(request: HttpRequest, owner: str, name: str) -> StreamingHttpResponse:
    _, revision = _asked_for(request, owner, name)
    filename = f"{owner}--{name}-{revision.commit[:10]}-modules.csv"
    return StreamingHttpResponse(
        modules_csv(revision.modules),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{filename}"'},
    )


@require_safe
@page
def progress(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """How far the check of a revision is; once it has ended, htmx is told to load the page anew."""
    _, revision = _asked_for(request, owner, name)
    if revision.state != Revision.State.CHECKING:
        return HttpResponse(headers={"HX-Refresh": "true"})
    context = {"adapter": {"name": f"{owner}/{name}", "revision": revision.commit}, "job": revision.jobs.first()}
    return render(request, "adapters/sections/checking.html", context)


def _asked_for(request: HttpRequest, owner: str, name: str) -> tuple[Adapter, Revision]:
    """Raises: NotFound."""
    row = find_adapter(request.user, f"{owner}/{name}")
    return row, find_revision(request.user, row, request.GET.get("revision", "main"))


def adapter_context(request: HttpRequest, row: Adapter, revision: Revision) -> dict[str, Any]:
    """Everything that the page shows about one revision."""
    may_write = is_owner(request.user, row)
    troubles: list[str] = []
    config = _readable(troubles, lambda: _config(revision))
    described = full_json(request.user, row, revision)
    texts = _texts(request, revision, troubles)
    return {
        "section": "adapters",
        "adapter": described,
        "row": row,
        "author": revision.author,
        "short_name": row.name,
        "is_owner": may_write,
        "visibilities": Adapter.Visibility.values,
        "is_main": revision.pk == row.head_id,
        "variants": _variants(config) if config else [],
        "tabs": tabs(row, revision, config, described["serving"]),
        "engines": engines(described["serving"]),
        "revisions": _revisions(row, may_write),
        "changes": _changes(revision, may_write),
        "job": revision.jobs.first() if may_write else None,
        "newer": _newer(row, revision) if may_write else None,
        **_pictures(revision, config),
        **texts,
        **_lineage(request, revision),
        **_compositions(request, row),
        "computable": _computable(revision, described["prototypes"], texts),
        "troubles": troubles,
    }


def _readable(troubles: list[str], read: Callable[[], Any]) -> Any:
    """What `read` returns; None, and a sentence in `troubles`, where the store does not give it."""
    try:
        return read()
    except AppError as error:
        if error.message not in troubles:
            troubles.append(error.message)
        return None


def _config(revision: Revision) -> LoraConfig | None:
    file = revision.file(CONFIG)
    try:
        return parse_config(read_blob(file.blob)) if file else None
    except InvalidAdapter:
        # A rejected revision says so elsewhere.
        return None


def _variants(config: LoraConfig) -> list[str]:
    """What makes it more, or other, than a plain LoRA, in the words of its field."""
    named = {
        "rsLoRA": config.use_rslora,
        "DoRA": config.use_dora,
        "biases": config.bias != "none" or config.lora_bias,
        "rank per module": bool(config.rank_pattern),
        "alpha per module": bool(config.alpha_pattern),
        f"whole {', '.join(config.modules_to_save)}": bool(config.modules_to_save),
    }
    return [name for name, is_used in named.items() if is_used] + list(config.variants)


def _pictures(revision: Revision, config: LoraConfig | None) -> dict[str, Any]:
    base = find_base_model(revision.base_model)
    modules, known = revision.modules, revision.summary.get("modules_in_base")
    paths = [module["path"] for module in modules]
    return {
        "binding": None if known is None else {"bound": revision.summary["modules_bound"], "in_base": known},
        "grid": binding_grid(paths, config, base) if base and known is not None else None,
        "heatmap": charts.heatmap(modules, "norm", "‖ΔW‖"),
        "spectrum": charts.spectrum(modules),
        "findings": charts.findings(modules),
    }


def _texts(request: HttpRequest, revision: Revision, troubles: list[str]) -> dict[str, Any]:
    """Card and samples. What cannot be read is said on the page, and the rest is shown."""
    visible = SAMPLES in readable_files(request.user, revision)
    samples = (_readable(troubles, lambda: read_samples(revision)) if visible else None) or []
    card = _readable(troubles, lambda: read_card(revision)) or ""
    return {
        "card": render_card(card, _file_urls(request, revision)),
        "samples": samples[:SHOWN_SAMPLES],
        "instruction": instruction_of(sample["input"] for sample in samples),
        "sample_count": len(samples),
        "labelled_count": sum(bool(sample.get("output")) for sample in samples),
        "has_samples": revision.file(SAMPLES) is not None,
        "samples_hidden": not visible and revision.file(SAMPLES) is not None,
    }


def _computable(revision: Revision, there: list[dict[str, Any]], texts: dict[str, Any]) -> list[dict[str, Any]]:
    """The kinds that take the base model and that no worker has computed: sent along, or missing.

    Args:
        there: the prototypes in the adapter's JSON.
        texts: as `_texts` returns them.
    """
    if revision.state != Revision.State.READY:
        return []
    rows = []
    for kind in sorted(set(KINDS) - {item["kind"] for item in there}):
        method = PROTOTYPES.get(kind)
        wanted, count = "samples", texts["sample_count"]
        if kind in LABELLED:
            wanted, count = "samples with outputs", texts["labelled_count"]
        rows.append(
            {
                "name": kind,
                "title": method.title,
                "summary": method.summary,
                "is_sent": kind == "phatgoose" and revision.file(GATES) is not None,
                "press": "Train" if kind == "phatgoose" else "Compute",
                "obstacle": "" if count else f"It takes {wanted}, of which this revision has none.",
            }
        )
    return rows


def _file_urls(request: HttpRequest, revision: Revision) -> dict[str, str]:
    """Where a card's relative links lead: to the files of its revision."""
    base = f"/api/v1/adapters/{revision.adapter.full_name}/files/"
    return {path: f"{base}{path}?revision={revision.commit}" for path in readable_files(request.user, revision)}


def _lineage(request: HttpRequest, revision: Revision) -> dict[str, Any]:
    lineage = lineage_of(request.user, revision)
    merge = getattr(revision, "merge", None)
    return {
        "parents": relatives(lineage, lineage.parents),
        "children": relatives(lineage, lineage.children),
        "left_out": lineage.more,
        "drawing": draw_lineage(lineage, revision.base_model),
        "merge": merge,
        "is_own_merge": merge is not None and merge.owner_id == request.user.pk,
    }


def _compositions(request: HttpRequest, row: Adapter) -> dict[str, Any]:
    """Those that the adapter is in, in any of its revisions."""
    heads = visible_compositions(request.user).filter(is_head=True, experts__revision__adapter=row)
    found = list(heads.values("full_name", "type")[: SHOWN_COMPOSITIONS + 1])
    return {"compositions": found[:SHOWN_COMPOSITIONS], "more_compositions": len(found) > SHOWN_COMPOSITIONS}


def _changes(revision: Revision, may_write: bool) -> dict[str, Any] | None:
    """Against the parent, where there is one that the caller may see."""
    parents = Revision.objects.filter(pk=revision.parent_id).defer("modules").prefetch_related("files__blob")
    before = parents.first() if revision.parent_id else None
    if before is None or not (may_write or before.state == Revision.State.READY):
        return None
    hides_samples = not may_write and not revision.adapter.samples_public
    return {"before": before, **changes(before, revision, hides_samples)}


def _newer(row: Adapter, shown: Revision) -> Revision | None:
    """The owner's last upload, where it is still being checked or was rejected and is not what is shown."""
    newest = row.revisions.defer("modules").first()
    if newest is None or newest.pk == shown.pk or newest.state == Revision.State.READY:
        return None
    is_open = newest.jobs.exclude(status__in=Job.FINAL).exists()
    return newest if is_open or newest.state == Revision.State.REJECTED else None


def _revisions(row: Adapter, may_write: bool) -> Any:
    revisions = row.revisions.select_related("author").defer("modules")
    if not may_write:
        revisions = revisions.filter(state=Revision.State.READY)
    return revisions[:SHOWN_REVISIONS]
