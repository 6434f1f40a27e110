"""What would come of a merge request: checked as `POST /merges/` checks it, nothing stored."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lora.dora import is_dora
from lora.merge_lock import lock_warning
from lora.merge_preview import measure_warnings
from lora.merge_report import energy_rows
from lora.mergeable import merge_warnings, runs_base
from lora.merging import MergeInput as InputFile
from lora.recipe import known_rank
from lora.recipe_reader import Draft, Flaw
from lora.recipe_tree import Step
from registry import licenses
from registry.base_weights import can_run
from registry.describe import job_json
from registry.errors import AppError, NotMergeable
from registry.merge_measures import DIRECT_BYTES, Answer, measures_of
from registry.merge_suggestion import suggest
from registry.merges import check_inputs, described_files, first_places
from registry.models import Adapter, Revision
from registry.queries import Caller
from registry.recipe_requests import Reading, Resolve, read_recipe
from registry.recipes import Parent, adapter_and_revision, parents_of, step_json

Problem = dict[str, Any]
# Of the measures, what is answered as it is.
MEASURES = (
    "cosine",
    "overlap",
    "overlap_in",
    "overlap_chance",
    "sign_conflict",
    "stable_rank",
    "contributions",
    "dominates",
)
TOO_LARGE = {
    "code": "not_measured",
    "message": f"Together the files are over {DIRECT_BYTES // 10**6} MB: log in to have a worker measure them.",
}


def preview_merge(user: Caller, payload: Any, resolve: Resolve) -> dict[str, Any]:
    """Every problem of a request, and what is known of its result, as the JSON of `POST /merges/preview/`."""
    reading = read_recipe(user, payload, resolve)
    places = _comparable(reading)
    files = described_files(places.values())
    if files:
        reading.check(check_inputs, places, files, None if reading.flaws else reading.draft.step)
    spec = reading.output.spec if reading.output else None
    rank = known_rank(spec, files) if spec and files else None
    measured = _Measured.of(user, reading, list(places.values()), files, rank)
    problems = [problem for flaw in reading.flaws for problem in _problems(flaw)]
    return {
        "mergeable": not problems,
        "recipe": reading.request,
        "problems": problems,
        "warnings": [*merge_warnings(files), *_warnings(user, reading), *measured.warnings],
        "suggestion": suggest(reading, files),
        "inputs": _inputs(reading),
        "norms": [_norm(source) for source in _sources(reading)],
        "rank": rank,
        "license": licenses.suggest(revision.adapter.license for revision in reading.places.values()) or None,
        **measured.as_json(),
    }


@dataclass(frozen=True)
class _Measured:
    """How the adapters relate, as far as it is known.

    Attributes:
        parents: what was measured, in this order; in a recipe of recipes the adapters of the whole tree.
    """

    parents: list[Parent] = field(default_factory=list)
    answer: Answer = field(default_factory=Answer)
    rank: int | None = None
    warnings: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def of(
        cls, user: Caller, reading: Reading, revisions: list[Revision], files: list[InputFile], rank: int | None
    ) -> "_Measured":
        """Measured once nothing stands in the way of adding the inputs up, whatever else is wrong."""
        draft = reading.draft
        is_comparable = files and draft and draft.applied and None not in draft.sources
        in_the_way = any(flaw.where.startswith(("inputs", "weights", "method")) for flaw in reading.flaws)
        # The change of a DoRA adapter is not B·A.
        if not is_comparable or in_the_way or any(map(is_dora, files)):
            return cls()
        parents = _parents(draft)
        by_revision = {revision.pk: file for revision, file in zip(revisions, files, strict=True)}
        weights = [parent.weight for parent in parents]
        answer = measures_of(user, [parent.revision for parent in parents], weights)
        if answer.measures:
            ordered = [by_revision[parent.revision.pk] for parent in parents]
            warnings = list(measure_warnings(answer.measures, ordered, weights, rank))
        else:
            warnings = [] if answer.job else [TOO_LARGE]
        return cls(parents, answer, rank, warnings)

    def as_json(self) -> dict[str, Any]:
        found = self.answer.measures or {}
        ranks = [] if self.rank is None else [self.rank]
        shown = {name: found.get(name) for name in MEASURES}
        parents = [adapter_and_revision(parent.revision) | {"weight": parent.weight} for parent in self.parents]
        return shown | {
            "energy": energy_rows(found["kept"], *ranks) if found else None,
            "measured": parents if found else None,
            "job": job_json(self.answer.job) if self.answer.job else None,
        }


def _parents(draft: Draft[Revision]) -> list[Parent]:
    """The adapters with the weights that the method applies; in a tree with the products of the weights as given."""
    if draft.step.is_flat:
        return [Parent(source, weight) for source, weight in zip(draft.sources, draft.applied, strict=True)]
    return parents_of(draft.step)


def _comparable(reading: Reading) -> dict[str, Revision]:
    """The adapters that are of one base, each once: of the others, shapes say nothing new."""
    refused = [flaw.error for flaw in reading.flaws if isinstance(flaw.error, NotMergeable)]
    out = {item["where"] for error in refused for item in error.detail["inputs"]}
    return first_places({where: revision for where, revision in reading.places.items() if where not in out})


def _problems(flaw: Flaw) -> Iterator[Problem]:
    """`{where, code, message}`; one for each input that stands in the way of a merge."""
    error = flaw.error
    if isinstance(error, NotMergeable):
        for item in error.detail["inputs"]:
            yield {"where": item["where"], "code": item["code"], "message": item["message"]}
    else:
        message = error.message if isinstance(error, AppError) else str(error)
        yield {"where": flaw.where, "code": error.code, "message": message}


def _inputs(reading: Reading) -> list[dict[str, Any] | None]:
    """Per input of the request what is known of it, with the weight that the method applies; None where refused."""
    sources = _sources(reading)
    applied = (reading.draft.applied if reading.draft else None) or [None] * len(sources)
    return [source and _input(source, weight) for source, weight in zip(sources, applied, strict=True)]


def _sources(reading: Reading) -> list[Revision | Step[Revision] | None]:
    return reading.draft.sources if reading.draft else []


def _input(source: Revision | Step[Revision], weight: float | None) -> dict[str, Any]:
    if isinstance(source, Step):
        leaves = [leaf.source for leaf in source.leaves]
        return {
            "recipe": step_json(source, adapter_and_revision),
            "weight": weight,
            "base_model": leaves[0].base_model,
            "rank": max(revision.summary.get("rank", 0) for revision in leaves),
        }
    revision = source
    facts = {name: revision.facts.get(name) for name in ("rank", "dtype")}
    return adapter_and_revision(revision) | {
        "weight": weight,
        "base_model": revision.base_model,
        "visibility": revision.adapter.visibility,
        "license": revision.adapter.license,
        **facts,
    }


def _norm(source: Revision | Step[Revision] | None) -> float | None:
    return source.norm if isinstance(source, Revision) else None


def _lock_warnings(reading: Reading) -> Iterator[dict[str, str]]:
    for revision in first_places(reading.places).values():
        if warning := lock_warning(revision.adapter.full_name, revision.modules):
            yield warning


def _base_warnings(reading: Reading) -> Iterator[dict[str, str]]:
    """Whether a worker has a base can be known only where this process, which shares their settings, has it, too."""
    draft = reading.draft
    names = [revision.base_model for revision in reading.places.values()]
    if draft and draft.method and names and runs_base(draft.step) and not can_run(names[0]):
        name = names[0] or "of the inputs, which they do not name"
        message = f"It needs a worker with the base model {name}; if none has it, the job ends with base_not_here."
        yield {"code": "base_needed", "message": message}


def _warnings(user: Caller, reading: Reading) -> Iterator[dict[str, str]]:
    adapters = [revision.adapter for revision in first_places(reading.places).values()]
    yield from licenses.warnings({adapter.full_name: adapter.license for adapter in adapters})
    yield from _lock_warnings(reading)
    yield from _base_warnings(reading)
    if reading.output is None:
        return
    private = [adapter.full_name for adapter in adapters if adapter.visibility == Adapter.Visibility.PRIVATE]
    if private and reading.output.visibility == "public" and reading.output.name:
        message = f"The merge will be public and holds the weights of {', '.join(private)}, which you keep private."
        yield {"code": "private_parent", "message": message}
    name = reading.output.name
    if name and user.is_authenticated and Adapter.objects.filter(full_name=name, head__isnull=False).exists():
        yield {"code": "new_revision", "message": f"{name} exists: the merge becomes its next revision."}
    if not user.is_authenticated:
        yield {"code": "not_authenticated", "message": "Log in to merge; a name is checked then."}
