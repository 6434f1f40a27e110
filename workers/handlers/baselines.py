"""`baselines`: compares experts with generic texts, for routers that look inside the base model."""

from registry import jobs
from registry.models import Revision
from retrieval.baselines import read_baselines, store_baselines
from retrieval.module_routing import read_arrow
from workers.backgrounds import background
from workers.base_models import running_base
from workers.runner import Work


def handle(work: Work) -> None:
    """One row per revision; those that have one are left as they are."""
    base_model = work.job.payload["base_model"]
    wanted = list(Revision.objects.filter(pk__in=work.job.payload["revisions"]).values_list("pk", flat=True))
    known = read_baselines(wanted)
    vectors = read_arrow([revision for revision in wanted if revision not in known])
    if vectors:
        work.log(f"Comparing {len(vectors)} experts with generic texts")
        paths = {path for one in vectors.values() for path in one}
        states = background(base_model, paths, lambda: running_base(base_model, lambda fraction: None))
        for done, (revision, own) in enumerate(vectors.items()):
            work.progress(done / len(vectors))
            store_baselines(revision, own, states)
    with jobs.finishing(work.job, {"base_model": base_model, "revisions": len(vectors)}):
        pass
