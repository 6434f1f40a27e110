"""`prototype`: runs the base model on an expert's samples, and stores the vectors that it finds."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from lora.losses import ends
from lora.prototypes.activations import activations
from lora.prototypes.dam import late_states
from lora.prototypes.fisher import fisher
from lora.prototypes.phatgoose import train_gates
from lora.runtime.loading import in_bfloat16
from lora.runtime.probe import RunningBase
from lora.trials import why_not_run
from lora.weights import AdapterFile
from registry import jobs
from registry.errors import Conflict
from registry.merge_samples import examples_of
from registry.merges import local_file
from registry.models import Revision
from retrieval.module_routing import read_arrow
from retrieval.prototypes import store_modules, stored_kinds
from workers.base_models import base_for
from workers.runner import Work

Found = tuple[Mapping[str, Any], dict[str, str], dict[str, Any]]
"""Vectors by module path, what their file says of them, and what the job's result does."""


def handle(work: Work) -> None:
    """The kind is stored when the job has succeeded; one that is there already is left as it is."""
    order = work.job.payload
    revision = _revision(order["revision"])
    result = {"adapter": revision.adapter.full_name, "revision": revision.commit, "kind": order["kind"]}
    if order["kind"] not in stored_kinds(revision):
        vectors, facts, told = _computed(work, revision, order["kind"])
        store_modules(revision, order["kind"], vectors, facts)
        result |= {"modules": len(vectors)} | told
    with jobs.finishing(work.job, result):
        pass


def _revision(pk: int) -> Revision:
    """Raises: Conflict."""
    rows = Revision.objects.select_related("adapter").prefetch_related("files__blob")
    revision = rows.filter(pk=pk, state=Revision.State.READY, adapter__yanked_at=None).first()
    if revision is None:
        raise Conflict("The adapter was taken back while its job waited.")
    return revision


def _computed(work: Work, revision: Revision, kind: str) -> Found:
    base = base_for(work, revision.base_model, f"{kind} prototype", 1.0)
    started = time.process_time()
    vectors, facts, told = COMPUTE[kind](work, revision, base)
    seconds = time.process_time() - started
    work.log(f"Computed {len(vectors)} vectors in {seconds:.0f} CPU seconds")
    return vectors, facts, told | {"cpu_seconds": round(seconds, 1)}


def _gates(work: Work, revision: Revision, base: RunningBase) -> Found:
    """Raises: NotTrainable, DoesNotFit; Conflict: an adapter that is more than plain LoRA."""
    examples = examples_of(revision)
    with ExitStack() as stack:
        item = local_file(revision, stack)
        if reason := why_not_run(item):
            raise Conflict(f"Its gates cannot be trained: {reason}")
        file = stack.enter_context(AdapterFile(item.weights_path, item.layout))
        work.log(f"Training a gate for every linear module on {len(examples)} samples")
        gates = train_gates(in_bfloat16(base), file, examples)
    first, last = ends(gates.losses)
    work.log(f"The loss of the answers went from {first:.3f} to {last:.3f} (means of ten steps)")
    return gates.vectors, gates.facts, {"losses": [round(loss, 4) for loss in gates.losses]}


def _activations(work: Work, revision: Revision, base: RunningBase) -> Found:
    """Raises: NoSamples, DoesNotFit; Conflict: an adapter without linear modules."""
    paths = _linear_modules(revision)
    work.log("Reading the samples")
    return activations(base, paths, examples_of(revision)), {}, {}


def _fisher(work: Work, revision: Revision, base: RunningBase) -> Found:
    """Raises: NoSamples, DoesNotFit; Conflict: an adapter without linear modules."""
    paths = _linear_modules(revision)
    work.log("Reading the samples with their answers")
    return fisher(base, paths, examples_of(revision)), {}, {}


def _linear_modules(revision: Revision) -> list[str]:
    """Raises: Conflict: there are none."""
    paths = sorted(read_arrow([revision.pk]).get(revision.pk, ()))
    if not paths:
        raise Conflict("It adapts no linear modules, whose inputs this is about.")
    return paths


def _late_states(work: Work, revision: Revision, base: RunningBase) -> Found:
    """Raises: NoSamples, DoesNotFit."""
    work.log("Reading the samples")
    return late_states(base, examples_of(revision)), {}, {}


COMPUTE = {"phatgoose": _gates, "activations": _activations, "dam": _late_states, "fisher": _fisher}
