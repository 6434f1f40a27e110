"""`ingest`: checks the values of a revision, computes its prototypes, admits it."""

import statistics
from dataclasses import dataclass
from typing import Any

from django.db.models import prefetch_related_objects

from lora.check import check_values
from lora.config import parse_config
from lora.header import read_header
from lora.layout import read_layout
from lora.prototypes.arrow import ambiguous_modules, arrow_file
from registry import jobs
from registry.adapters import publish
from registry.gates import GATES, check_gate_values
from registry.intake import CONFIG, WEIGHTS
from registry.models import Revision
from registry.samples import read_samples
from registry.storage import local_path, read_blob
from retrieval.baselines import store_baselines
from retrieval.descriptions import store_description
from retrieval.hubness import sample_warnings
from retrieval.prototypes import store_modules, store_text
from retrieval.sketches import store_sketch
from retrieval.snapshots import is_due
from workers.backgrounds import held_background
from workers.runner import Work

# A ΔW this many times the pool's median is a hint at a broken scale, or at an attack on merges.
NORM_OUTLIER_FACTOR = 10
NORM_POOL_MIN = 8
# Of the newest ones, so that a job costs the same in a pool of any size.
NORM_POOL_MAX = 1000


@dataclass(frozen=True)
class Findings:
    """What the job found out about a revision."""

    facts: dict[str, Any]
    norm: float
    warnings: list[dict[str, str]]


def handle(work: Work) -> None:
    """Revision `checking` → `ready`, or `rejected` when the job fails."""
    revision = work.job.revision
    findings = examine(work, revision, work.part(0.0, 1.0))
    result = {"adapter": revision.adapter.full_name, "revision": revision.commit}
    with jobs.finishing(work.job, result):
        publish(revision, findings.facts, findings.norm, findings.warnings)
    refresh_snapshot()


def examine(work: Work, revision: Revision, progress: Any) -> Findings:
    """Check every value and store every prototype that the revision's files allow. Raises: InvalidAdapter."""
    prefetch_related_objects([revision], "files__blob")
    weights = revision.file(WEIGHTS).blob
    config = parse_config(read_blob(revision.file(CONFIG).blob))
    with local_path(weights) as path:
        with path.open("rb") as stream:
            header = read_header(stream, weights.size_bytes)
        layout = read_layout(header, config)
        work.log(f"Checking the values of {len(header.tensors)} tensors")
        values = check_values(path, header, layout)
        progress(0.3)
        work.log(f"Computing Arrow prototypes of {len(layout.modules)} modules")
        vectors, modules = arrow_file(path, layout)
        store_sketch(revision, path, layout)
    if gates := revision.file(GATES):
        check_gate_values(read_blob(gates.blob))
    store_modules(revision, "arrow", vectors)
    if vectors and (background := held_background(revision.base_model, vectors)):
        store_baselines(revision.pk, {path: v.numpy() for path, v in vectors.items()}, background)
    progress(0.6)
    if samples := read_samples(revision):
        work.log(f"Embedding {len(samples)} samples")
        store_text(revision, [sample["input"] for sample in samples])
    store_description(revision)
    progress(0.95)
    norm = sum(module["norm"] ** 2 for module in modules) ** 0.5
    found = {"tensor_digest": values.tensor_digest, "ambiguous_modules": ambiguous_modules(modules)}
    facts = revision.facts | found | {"modules": modules}
    warnings = [*revision.warnings, *values.warnings, *_norm_warning(revision, norm), *sample_warnings(revision)]
    return Findings(facts, norm, list({warning["code"]: warning for warning in warnings}.values()))


def _norm_warning(revision: Revision, norm: float) -> list[dict[str, str]]:
    others = (
        Revision.objects.filter(base_model=revision.base_model, head_of__isnull=False, norm__gt=0)
        .exclude(adapter_id=revision.adapter_id)
        .order_by("-pk")
        .values_list("norm", flat=True)
    )
    pool = list(others[:NORM_POOL_MAX])
    if len(pool) < NORM_POOL_MIN or norm <= NORM_OUTLIER_FACTOR * (median := statistics.median(pool)):
        return []
    message = (
        f"Its ‖ΔW‖ is {norm:.3g}, {norm / median:.0f} times the median of {len(pool)} experts on this base: "
        "it would dominate any merge. Check lora_alpha and the learning rate."
    )
    return [{"code": "norm_outlier", "message": message}]


def refresh_snapshot() -> None:
    """Ask for a new index snapshot when enough has changed and none is under way."""
    open_jobs = jobs.Job.objects.filter(kind="snapshot", status__in=["queued", "running"])
    if is_due() and not open_jobs.exists():
        jobs.enqueue("snapshot")
