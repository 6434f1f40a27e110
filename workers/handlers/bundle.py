"""`bundle`: gathers what a router inside the model compares with, and writes it with the adapters."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from lora.binding import listed
from lora.bundles import BUNDLES, CALIBRATED
from lora.bundling import MANIFEST, BundleBase, BundledExpert, write_bundle
from lora.module_routers import Baselines
from lora.prototypes.arrow import arrow_file
from lora.prototypes.spectral import spectral_file
from lora.recipe import MergeInput
from lora.runtime.probe import BaseNotHere
from registry import jobs
from registry.errors import Conflict
from registry.intake import CONFIG
from registry.merges import local_file
from registry.models import Revision
from registry.queries import find_base_model
from registry.serving import base_modules
from registry.storage import local_path, put_files, scratch_folder, sha256_of
from retrieval.baselines import read_baselines, store_baselines
from retrieval.bundles import check_offered, experts_of, vector_files
from retrieval.models import Bundle, BundleFile
from retrieval.module_routing import read_arrow
from workers.backgrounds import background
from workers.base_models import running_base
from workers.runner import Work

RUNTIME = Path(__file__).resolve().parents[2] / "integrations" / "bundle.py"


def handle(work: Work) -> None:
    """Bundle without files → with all of them."""
    bundle = Bundle.objects.select_related("owner").filter(pk=work.job.payload["bundle"]).first()
    if bundle is None:
        raise Conflict("The account that asked for this bundle is gone.")
    revisions = experts_of(bundle)
    check_offered(bundle.owner, revisions)
    params = BUNDLES.parse(bundle.router, bundle.params)
    kind = BUNDLES.get(bundle.router).traits["prototype"]
    work.log(f"Bundling {len(revisions)} experts for {bundle.router}")
    warnings: list[dict[str, str]] = []
    baselines: Mapping[int, Baselines] = {}
    if kind == "arrow":
        is_needed = BUNDLES.get(bundle.router).run(params)["score"] in CALIBRATED
        baselines = _baselines(work, bundle, revisions, warnings, is_needed=is_needed)
    with ExitStack() as stack:
        scratch, folder = (stack.enter_context(scratch_folder()) for _ in range(2))
        experts = []
        for position, revision in enumerate(revisions):
            work.progress(0.5 * position / len(revisions))
            item = local_file(revision, stack)
            vectors = _vectors(kind, revision, item, scratch, stack)
            config = stack.enter_context(local_path(revision.file(CONFIG).blob))
            sigma = {fact["path"]: fact["sigma"] for fact in revision.facts["modules"]}
            known = baselines.get(revision.pk)
            experts.append(BundledExpert(item, config, revision.commit, vectors, sigma, known))
        base = _base(bundle.base_model)
        manifest = write_bundle(folder, bundle.router, params, experts, base, RUNTIME, work.part(0.5, 0.9))
        warnings += [*_rewritten(manifest), *_unrouted(experts)]
        _store(work, bundle, folder, manifest, warnings)


def _base(name: str) -> BundleBase:
    known = find_base_model(name)
    return BundleBase(name, known.revision if known else "", base_modules(name))


def _vectors(kind: str, revision: Revision, item: MergeInput, scratch: Path, stack: ExitStack) -> Path:
    """A safetensors file of the expert's vectors: the stored one, or one computed from its weights."""
    if blob := vector_files(kind, [revision]).get(revision.pk):
        return stack.enter_context(local_path(blob))
    path = scratch / f"{revision.pk}.safetensors"
    if kind == "arrow":
        save_file(arrow_file(item.weights_path, item.layout)[0], path)
    else:
        save_file(spectral_file(item.weights_path, item.layout), path)
    return path


def _baselines(
    work: Work, bundle: Bundle, revisions: Sequence[Revision], warnings: list[dict[str, str]], *, is_needed: bool
) -> Mapping[int, Baselines]:
    """What the experts' vectors give on generic texts; computed where the base is here, and else left out.

    Raises: BaseNotHere: it is not, and the router compares with them.
    """
    known = read_baselines(revision.pk for revision in revisions)
    lacking = [revision.pk for revision in revisions if revision.pk not in known]
    if not lacking:
        return known
    vectors = read_arrow(lacking)
    try:
        work.log(f"Reading generic texts for {len(lacking)} experts that were not compared with them yet")
        paths = {path for own in vectors.values() for path in own}
        states = background(bundle.base_model, paths, lambda: running_base(bundle.base_model, lambda fraction: None))
    except BaseNotHere as error:
        if is_needed:
            raise
        work.log(f"μ and σ are left out: {error}")
        text = "The archive has no μ and σ of generic texts: the worker has no weights of the base model."
        warnings.append({"code": "no_baselines", "message": text})
        return {}
    return known | {pk: store_baselines(pk, own, states) for pk, own in vectors.items()}


def _rewritten(manifest: dict[str, Any]) -> list[dict[str, str]]:
    names = [expert["name"] for expert in manifest["experts"] if not expert["is_kept"]]
    if not names:
        return []
    text = f"{len(names)} adapters are written anew with the same ΔW, so that PEFT reads all of them together."
    return [{"code": "rewritten", "message": text}]


def _unrouted(experts: Sequence[BundledExpert]) -> list[dict[str, str]]:
    warnings = []
    for one in experts:
        with safe_open(one.vectors, framework="pt") as vectors:
            lacking = sorted(one.item.layout.modules.keys() - set(vectors.keys()))
        if lacking:
            text = f"{one.item.name} has no vectors for {listed(lacking, 2)}; there it takes no part."
            warnings.append({"code": "unrouted_modules", "message": text})
    return warnings


def _store(work: Work, bundle: Bundle, folder: Path, manifest: dict[str, Any], warnings: list[dict[str, str]]) -> None:
    """Put the files into the store, and make them the bundle's at the moment in which the job succeeds."""
    digests = manifest["files"] | {MANIFEST: sha256_of(folder / MANIFEST)}
    work.log(f"Storing {len(digests)} files")
    blobs = put_files({digest: folder / path for path, digest in digests.items()})
    with jobs.finishing(work.job, {"bundle": str(bundle.pk)}):
        BundleFile.objects.bulk_create(
            BundleFile(bundle=bundle, path=path, blob=blobs[digest]) for path, digest in digests.items()
        )
        Bundle.objects.filter(pk=bundle.pk).update(warnings=warnings)
