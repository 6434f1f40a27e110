"""`reembed`: every expert's vectors in the space of another encoder, and then that space in service."""

from registry import jobs
from retrieval.descriptions import embed_missing_descriptions
from retrieval.encoders import Encoder
from retrieval.hybrid import prepare
from retrieval.models import ServedSpace, Space
from retrieval.reembedding import Skipped, embed_missing, embed_missing_probes
from retrieval.snapshots import build_if_due
from retrieval.spaces import heads, lacking, serve, space_of, wanted_encoder
from workers.runner import Work

LOG_EVERY = 500


class _Behind(Exception):
    """Experts were published since the last look, or another encoder is wanted."""


def handle(work: Work) -> None:
    """Embeds until nothing is missing and switches, in one step with the end of the job."""
    encoder = wanted_encoder()
    space = space_of(encoder)
    work.log(f"Embedding the experts by {space.pk}; {lacking(space.pk).count()} have no vectors there")
    skipped: Skipped = {}
    embedded = 0
    while True:
        embedded += _embed(work, encoder, space, skipped)
        if not _is_wanted(space):
            with jobs.finishing(work.job, _result(space, embedded, skipped)):
                work.log("Another encoder is wanted by now; what was computed is kept")
            return
        for _ in (*embed_missing_probes(encoder, space), *embed_missing_descriptions(encoder, space)):
            work.progress(1.0)
        prepare(space, encoder)
        build_if_due(space.pk)
        try:
            with jobs.finishing(work.job, _result(space, embedded, skipped)):
                if not serve(space, list(skipped)):
                    raise _Behind
                for item in skipped.values():
                    work.log(f"{item['adapter']} is left out: {item['message']}")
                work.log(f"{space.pk} is in service")
            return
        except _Behind:
            work.log("Experts arrived meanwhile; going on")


def _embed(work: Work, encoder: Encoder, space: Space, skipped: Skipped) -> int:
    """Returns: how many revisions were looked at."""
    total = max(heads().count(), 1)
    done = start = total - lacking(space.pk).count()
    for count in embed_missing(encoder, space, skipped):
        told, done = done, done + count
        work.progress(min(done / total, 1.0))
        if done // LOG_EVERY > told // LOG_EVERY:
            work.log(f"{done} of {total}")
        if not _is_wanted(space):
            break
    return done - start


def _is_wanted(space: Space) -> bool:
    return ServedSpace.objects.filter(pk=1, wanted=space.pk).exists()


def _result(space: Space, embedded: int, skipped: Skipped) -> dict[str, object]:
    return {"space": space.pk, "embedded": embedded, "skipped": list(skipped.values())}
