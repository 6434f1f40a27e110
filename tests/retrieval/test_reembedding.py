"""Another ENCODER_MODEL: the old space answers until the new one is whole, and no answer mixes the two."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.management import CommandError, call_command
from django.utils import timezone

from registry import jobs
from registry.errors import NotReady
from registry.models import Blob, Job, Revision
from retrieval import live, reembedding, snapshots, spaces
from retrieval.encoders import current_encoder, find_encoder
from retrieval.live import index_status
from retrieval.models import IndexSnapshot, ProbeVector, Prototype, Space
from retrieval.outcomes import lacking_vectors, report
from retrieval.reembedding import Watch
from retrieval.services import retrieve
from retrieval.spaces import served_space_id
from tests.retrieval.models import write_encoder
from tests.retrieval.rows import add_revision, make_expert, make_user, publish
from workers.runner import run

pytestmark = pytest.mark.django_db

TASKS = {
    "ada/capitals": ["Name the capital of France.", "What is the capital of Japan?"],
    "bo/sums": ["What is 12 + 30?", "Add 4 and 5."],
    "cy/verbs": ["Past tense of 'eat'?", "Past tense of 'go'?"],
}


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture
def experts(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    return {name: make_expert(name, texts) for name, texts in TASKS.items()}


def restart(settings, model):
    """A worker and a site that were started with another ENCODER_MODEL. Returns: the worker's watch."""
    settings.ENCODER_MODEL = str(model)
    live.forget()
    watch = Watch()
    watch.look()
    return watch


def run_job():
    [job] = Job.objects.filter(kind="reembed", status="queued")
    run(str(job.pk))
    job.refresh_from_db()
    return job


def ask(text="Name the capital of Peru."):
    return retrieve(AnonymousUser(), {"router": "lora_retriever", "text": text, "k": 10, "explain": True})


def names(answer):
    return [match["adapter"] for match in answer["results"][0]["matches"]]


def test_the_old_space_answers_until_the_new_one_is_whole(experts, other, settings):
    old, before = served_space_id(), ask()
    restart(settings, other)
    assert ask() | {"took_ms": None, "index_version": None} == before | {"took_ms": None, "index_version": None}
    assert index_status()["next"] == {"space": current_encoder().space_id, "progress": 0.0}
    job = run_job()
    assert job.status == "succeeded", job.error
    assert job.result == {"space": current_encoder().space_id, "embedded": 3, "skipped": []}
    after = ask()
    assert after["space"] == served_space_id() == current_encoder().space_id != old
    assert sorted(names(after)) == sorted(TASKS)
    assert index_status()["next"] is None
    for match in after["results"][0]["matches"]:
        assert {sample["input"] for sample in match["evidence"]["samples"]} <= set(TASKS[match["adapter"]])


def test_scores_are_those_of_the_space_that_is_named(experts, other, settings):
    restart(settings, other)
    for expected in (find_encoder(""), find_encoder(str(other))):
        answer = ask(TASKS["bo/sums"][0])
        assert answer["space"] == expected.space_id
        best = next(m for m in answer["results"][0]["matches"] if m["adapter"] == "bo/sums")
        assert best["evidence"]["samples"][0]["score"] == pytest.approx(1, abs=1e-5)
        if expected is find_encoder(""):
            run_job()


def test_a_killed_job_goes_on_where_it_was(experts, other, settings, monkeypatch):
    monkeypatch.setattr(reembedding, "BATCH", 1)
    restart(settings, other)
    [job] = Job.objects.filter(kind="reembed")
    claimed = jobs.claim(job.pk, "a worker that dies")
    encoder = spaces.wanted_encoder()
    space = spaces.space_of(encoder)
    embedding = reembedding.embed_missing(encoder, space, {})
    next(embedding)
    embedding.close()
    assert Prototype.objects.filter(space=space, kind="centroid").count() == 1
    assert ask()["space"] == find_encoder("").space_id
    Job.objects.filter(pk=claimed.pk).update(lease_until=timezone.now() - timedelta(minutes=1))
    jobs.sweep()
    assert run_job().result["embedded"] == 2
    assert sorted(names(ask())) == sorted(TASKS)


def test_what_is_uploaded_meanwhile_is_in_both_spaces(experts, other, settings):
    restart(settings, other)
    late = make_expert("di/late", ["Name the capital of Chile."])
    assert set(late.head.prototypes.exclude(kind="hybrid").values_list("space_id", flat=True)) == {
        find_encoder("").space_id,
        find_encoder(str(other)).space_id,
    }
    assert "di/late" in names(ask())
    run_job()
    assert "di/late" in names(ask())


def test_an_expert_published_at_the_last_moment_holds_the_switch_back(experts, other, settings, monkeypatch):
    restart(settings, other)
    built = []

    def publish_late(space):
        if not built:
            late = make_expert("di/late", ["Name the capital of Chile."])
            late.head.prototypes.filter(space_id=space).delete()
        built.append(space)

    monkeypatch.setattr("workers.handlers.reembed.build_if_due", publish_late)
    job = run_job()
    assert job.status == "succeeded"
    assert len(built) == 2
    assert "Experts arrived meanwhile; going on" in list(job.log.values_list("message", flat=True))
    assert "di/late" in names(ask())


def test_going_back_is_immediate(experts, other, settings):
    restart(settings, other)
    run_job()
    restart(settings, "")
    job = run_job()
    assert job.result == {"space": find_encoder("").space_id, "embedded": 0, "skipped": []}
    assert ask()["space"] == find_encoder("").space_id


def test_an_encoder_that_is_gone_is_said_with_the_progress(experts, other, settings, tmp_path):
    gone = write_encoder(tmp_path / "gone", seed=1)
    restart(settings, gone)
    run_job()
    assert ask()["space"] == find_encoder(str(gone)).space_id
    gone.rename(tmp_path / "away")
    find_encoder.cache_clear()
    restart(settings, other)
    for call in (ask, index_status):
        with pytest.raises(NotReady, match="0% done") as refused:
            call()
    assert refused.value.detail["progress"] == 0
    # Uploads go on, in the space that is to come.
    make_expert("di/late", ["Name the capital of Chile."])
    run_job()
    assert sorted(names(ask())) == sorted([*TASKS, "di/late"])


def test_samples_that_cannot_be_read_are_left_out_and_named(experts, other, settings):
    file = experts["bo/sums"].head.files.get()
    Blob.objects.create(sha256="0" * 64, size_bytes=1)
    Revision.objects.get(pk=experts["bo/sums"].head_id).files.update(blob_id="0" * 64)
    watch = restart(settings, other)
    job = run_job()
    assert [item["adapter"] for item in job.result["skipped"]] == ["bo/sums"]
    assert any("bo/sums is left out" in message for message in job.log.values_list("message", flat=True))
    assert sorted(names(ask())) == ["ada/capitals", "cy/verbs"]
    watch.look()
    assert not Job.objects.filter(kind="reembed", status="queued").exists()
    Revision.objects.get(pk=experts["bo/sums"].head_id).files.update(blob_id=file.blob_id)


def test_there_is_one_job_at_a_time_and_a_failed_one_is_not_repeated_at_once(experts, other, settings):
    watch = restart(settings, other)
    watch.look()
    Watch().look()
    [job] = Job.objects.filter(kind="reembed")
    Job.objects.filter(pk=job.pk).update(status="failed", error={}, finished_at=timezone.now())
    watch.look()
    assert Job.objects.filter(kind="reembed").count() == 1
    Job.objects.filter(pk=job.pk).update(finished_at=timezone.now() - timedelta(hours=1))
    watch.look()
    assert Job.objects.filter(kind="reembed").count() == 2


def test_a_head_without_vectors_in_the_space_in_service_is_caught_up(experts, settings):
    watch = Watch()
    watch.look()
    assert not Job.objects.filter(kind="reembed").exists()
    experts["ada/capitals"].head.prototypes.all().delete()
    publish(experts["ada/capitals"])
    assert "ada/capitals" not in names(ask())
    watch.look()
    run_job()
    publish(experts["ada/capitals"])
    assert "ada/capitals" in names(ask())


def test_a_job_that_is_overtaken_by_another_wish_ends_without_a_switch(experts, other, settings, monkeypatch):
    restart(settings, other)
    monkeypatch.setattr("workers.handlers.reembed.build_if_due", lambda space: spaces.want(""))
    job = run_job()
    assert job.status == "succeeded"
    assert served_space_id() == find_encoder("").space_id


def test_an_encoder_that_is_not_there_changes_nothing(experts, settings, tmp_path, caplog):
    restart(settings, tmp_path / "missing")
    assert "stays" in caplog.text
    assert not Job.objects.filter(kind="reembed").exists()
    assert ask()["space"] == find_encoder("").space_id


def test_every_answer_during_the_switch_is_of_one_space(experts, other, settings):
    """The view is taken first; the query is embedded for it, even if another space is in service by then."""
    restart(settings, other)
    view = live.current_view()
    run_job()
    assert live.current_view().pool.space != view.pool.space
    assert spaces.encoder_of(view.pool.space).space_id == view.pool.space
    rows, _ = view.search(spaces.encoder_of(view.pool.space).encode([TASKS["bo/sums"][0]])[0], 1, view.select(None))
    assert view.pool.rows["name"][rows[0]] == "bo/sums"


def test_old_revisions_keep_the_prototypes_they_have(experts, other, settings, client):
    adapter = experts["ada/capitals"]
    old = adapter.head
    publish(adapter, add_revision(adapter, ["Name the capital of Mali."]))
    restart(settings, other)
    run_job()
    from retrieval.prototypes import find_prototype

    assert find_prototype(old, "centroid").space_id == find_encoder("").space_id
    assert find_prototype(adapter.head, "centroid").space_id == find_encoder(str(other)).space_id


def test_snapshots_belong_to_their_space(experts, other, settings, monkeypatch):
    monkeypatch.setattr("retrieval.snapshots.MIN_TAIL", 1)
    restart(settings, other)
    run_job()
    assert [snapshot.space_id for snapshot in IndexSnapshot.objects.all()] == [find_encoder(str(other)).space_id]
    assert live.current_view().tail_count == 0


def test_an_unused_space_can_be_dropped_and_one_in_use_cannot(experts, other, settings, monkeypatch, capsys):
    monkeypatch.setattr("retrieval.snapshots.MIN_TAIL", 1)
    old = served_space_id()
    snapshots.build_if_due()
    restart(settings, other)
    run_job()
    with pytest.raises(CommandError, match="in service"):
        call_command("drop_space", served_space_id())
    with pytest.raises(CommandError, match="no space"):
        call_command("drop_space", "nothing@000")
    call_command("drop_space")
    assert f"{old}  unused, 100%" in capsys.readouterr().out
    call_command("drop_space", old)
    assert not Prototype.objects.filter(space=old).exists()
    assert [space.pk for space in Space.objects.filter(hybrid=None)] == [served_space_id()]
    assert len(list(snapshots.folder().iterdir())) == IndexSnapshot.objects.count() == 1
    assert sorted(names(ask())) == sorted(TASKS)


def test_probes_move_with_the_experts_and_stragglers_follow(experts, other, settings):
    ada = make_user("ada")
    [first], _ = report(ada, {"adapter": "ada/capitals", "text": "Capital of Peru?", "score": 1})
    restart(settings, other)
    assert run_job().status == "succeeded"
    assert {row.space_id for row in first.probe.vectors.all()} == {find_encoder("").space_id, served_space_id()}
    # One that was embedded just before the switch and stored just after it.
    ProbeVector.objects.filter(space_id=served_space_id()).delete()
    report(ada, {"adapter": "bo/sums", "text": "1 + 1?", "score": 1})
    Watch().look()
    assert run_job().status == "succeeded"
    assert not lacking_vectors(served_space_id()).exists()
    Watch().look()
    assert not Job.objects.filter(kind="reembed", status="queued").exists()
