"""The job `import_folder`, from its request over REST to the rows of its folders."""

import hashlib
import os

import pytest

from registry import jobs
from registry.models import Adapter, ImportedFolder, Job, Namespace, Revision
from tests.api.conftest import Api, run_jobs, stored
from tests.api.test_bad_input import refused
from tests.lora.factories import write_adapter_files
from workers.runner import run

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ops(ada):
    ada.user.is_staff = True
    ada.user.save()
    return ada


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    write_adapter_files(root / "first", seed=1)
    write_adapter_files(root / "runs" / "a b", seed=2)
    (root / "first" / "optimizer.pt").write_bytes(b"state")
    (root / "broken").mkdir()
    (root / "broken" / "adapter_config.json").write_text("{")
    (root / "broken" / "adapter_model.safetensors").write_bytes(b"not safetensors")
    return root


def start(ops, root, **options):
    answer = ops.post("/imports/", {"dir": str(root), "owner": "zoo"} | options)
    assert answer.status_code == 202, answer.content
    assert answer.headers["Location"] == f"/api/v1/jobs/{answer.json()['job']['id']}/"
    return answer.json()["job"]["id"]


def work_off():
    """Run the jobs, and those that they have started."""
    while Job.objects.filter(status="queued").exists():
        run_jobs()


def folders(ops, job, **query):
    return {row["adapter"]: row for row in ops.get(f"/imports/{job}/", **query).json()["results"]}


def test_a_dry_look_judges_every_folder_and_stores_nothing_else(ops, tree):
    before = stored()
    job = start(ops, tree, dry=True)
    work_off()
    rows = folders(ops, job)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "zoo/broken": "refused",
        "zoo/first": "fits",
        "zoo/runs-a-b": "fits",
    }
    assert "not valid JSON" in rows["zoo/broken"]["reason"]
    assert (rows["zoo/first"]["rank"], rows["zoo/first"]["left_out"]) == (4, ["optimizer.pt"])
    assert rows["zoo/first"]["size_bytes"] == sum(
        (tree / "first" / name).stat().st_size for name in ("adapter_config.json", "adapter_model.safetensors")
    )
    after = {name: count for name, count in stored().items() if before[name] != count}
    assert set(after) <= {"Job", "JobLog", "ImportedFolder"}
    assert ops.get(f"/jobs/{job}/").json()["result"] == {"folders": 3, "fits": 2, "refused": 1}


def test_an_import_takes_in_what_is_usable_and_says_why_the_rest_is_not(ops, tree):
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in tree.rglob("*") if path.is_file()}
    job = start(ops, tree)
    assert Namespace.objects.filter(name="zoo").exists()
    run(job)
    assert {row["verdict"] for row in folders(ops, job, verdict="checking").values()} == {"checking"}
    work_off()
    assert set(folders(ops, job, verdict="ready")) == {"zoo/first", "zoo/runs-a-b"}
    assert set(folders(ops, job, verdict="refused")) == {"zoo/broken"}
    assert set(Adapter.objects.values_list("full_name", "visibility")) == {
        ("zoo/first", "public"),
        ("zoo/runs-a-b", "public"),
    }
    assert digests == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in digests}


def test_a_second_run_takes_in_only_what_is_new(ops, tree):
    start(ops, tree, visibility="private")
    work_off()
    write_adapter_files(tree / "third", seed=3)
    job = start(ops, tree, visibility="private")
    work_off()
    assert {name: row["is_new"] for name, row in folders(ops, job, verdict="ready").items()} == {
        "zoo/first": False,
        "zoo/runs-a-b": False,
        "zoo/third": True,
    }
    assert Revision.objects.count() == 3
    assert set(Adapter.objects.values_list("visibility", flat=True)) == {"private"}


def test_a_second_attempt_goes_on_where_the_first_one_stopped(ops, tree):
    job = Job.objects.get(pk=start(ops, tree))
    ImportedFolder.objects.create(job=job, path="first", name="zoo/first", outcome="refused", reason="seen before")
    run(str(job.pk))
    rows = folders(ops, job.pk)
    assert rows["zoo/first"]["reason"] == "seen before"
    assert len(rows) == 3
    assert "1 of them were done before" in str(ops.get(f"/jobs/{job.pk}/").json()["log"])


def test_cancelling_stops_before_the_next_folder(ops, tree, monkeypatch):
    job = start(ops, tree)
    monkeypatch.setattr("workers.runner.PROGRESS_EVERY_S", -1)
    store = ImportedFolder.objects.get_or_create

    def store_then_cancel(**fields):
        made = store(**fields)
        jobs.cancel(Job.objects.get(pk=job))
        return made

    monkeypatch.setattr(ImportedFolder.objects, "get_or_create", store_then_cancel)
    run(job)
    assert Job.objects.get(pk=job).status == "cancelled"
    assert ImportedFolder.objects.count() == 1


def test_asking_twice_while_it_is_open_is_one_job(ops, tree):
    assert start(ops, tree) == start(ops, str(tree) + "/")
    assert start(ops, tree) != start(ops, tree, dry=True)


def test_a_directory_that_the_worker_does_not_see_fails_with_what_to_do(ops, tmp_path):
    job = start(ops, tmp_path / "elsewhere")
    work_off()
    error = ops.get(f"/jobs/{job}/").json()["error"]
    assert error["code"] == "invalid"
    assert "sees no directory" in error["message"]
    assert "mounting" in error["message"]


def test_links_that_lead_out_are_refused_and_links_to_folders_are_not_followed(ops, tmp_path):
    write_adapter_files(tmp_path / "outside", seed=1)
    (tmp_path / "secret").write_text("not for the registry")
    root = tmp_path / "tree"
    write_adapter_files(root / "sneaky", seed=2)
    (root / "sneaky" / "README.md").symlink_to(tmp_path / "secret")
    (root / "linked").symlink_to(tmp_path / "outside")
    # As in the cache of huggingface_hub: the files of a folder are links into the same tree.
    write_adapter_files(root / "blobs", seed=3)
    (root / "snapshot").mkdir()
    for path in list((root / "blobs").iterdir()):
        moved = path.rename(path.with_suffix(".blob"))
        (root / "snapshot" / path.name).symlink_to(os.path.relpath(moved, root / "snapshot"))
    job = start(ops, root)
    work_off()
    rows = folders(ops, job)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "zoo/linked": "refused",
        "zoo/sneaky": "refused",
        "zoo/snapshot": "ready",
    }
    assert "leads out" in rows["zoo/sneaky"]["reason"]
    assert "not followed" in rows["zoo/linked"]["reason"]


def test_names_that_are_not_utf8_are_shown_and_stop_nothing(ops, tmp_path):
    root = tmp_path / "tree"
    folder = write_adapter_files(root / "ok", seed=1)
    (folder / os.fsdecode(b"note\xff.txt")).write_text("x")
    write_adapter_files(root / os.fsdecode(b"b\xe9ta"), seed=2)
    job = start(ops, root)
    work_off()
    assert set(folders(ops, job, verdict="ready")) == {"zoo/ok", "zoo/b-ta"}
    assert folders(ops, job)["zoo/ok"]["left_out"] == ["note?.txt"]


@pytest.mark.parametrize("body", [
    {}, [], {"dir": "/srv"}, {"dir": "srv", "owner": "zoo"}, {"dir": "/srv/../etc", "owner": "zoo"},
    {"dir": "/srv\0", "owner": "zoo"}, {"dir": "/" + "x" * 5000, "owner": "zoo"}, {"dir": "/srv", "owner": "admin"},
    {"dir": "/srv", "owner": ""}, {"dir": "/srv", "owner": "zoo", "visibility": "secret"},
    {"dir": "/srv", "owner": "zoo", "dry": "yes"}, {"dir": "/srv", "owner": "zoo", "recursive": True},
])  # fmt: skip
def test_orders_that_make_no_sense_are_400(ops, body):
    refused(ops.post("/imports/", body), 400, "invalid")
    assert not Job.objects.exists()


def test_only_staff_may_import(ops, bob, anyone, tree):
    order = {"dir": str(tree), "owner": "bob"}
    refused(bob.post("/imports/", order), 403, "permission_denied")
    refused(anyone.post("/imports/", order), 401, "not_authenticated")
    job = start(ops, tree)
    assert bob.get(f"/imports/{job}/").status_code == 403
    assert Api("carol").get(f"/jobs/{job}/").status_code == 404
    ingest = Job.objects.create(kind="ingest", owner=ops.user)
    assert ops.get(f"/imports/{ingest.pk}/").status_code == 404
    assert ops.get(f"/imports/{job}/", verdict="nice").status_code == 400
