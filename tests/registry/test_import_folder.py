"""`manage.py import_folder` on small trees of real adapters."""

import hashlib
from io import StringIO

import pytest
import torch
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from registry.models import Adapter, Job, Revision
from tests.api.conftest import run_jobs
from tests.lora.factories import MODULES, adapter_config, factors, write_adapter_files, write_files

pytestmark = pytest.mark.django_db(transaction=True)


def run_import(root, *flags):
    """Returns: what it printed, as lines."""
    out = StringIO()
    call_command("import_folder", str(root), "--owner", "ada", *flags, stdout=out)
    return out.getvalue().splitlines()


def verdicts(lines):
    words = [line.split() for line in lines if line.startswith(("ready ", "checking ", "refused "))]
    return {name: verdict for verdict, name, *_ in words}


def digests(root):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    write_adapter_files(root / "first", seed=1)
    write_adapter_files(root / "runs" / "a b" / "checkpoint-500", seed=2)
    return root


def test_every_adapter_below_the_folder_is_copied_in_and_named_after_its_path(tree):
    before = digests(tree)
    lines = run_import(tree)
    assert verdicts(lines) == {"ada/first": "checking", "ada/runs-a-b-checkpoint-500": "checking"}
    run_jobs()
    assert verdicts(run_import(tree)) == {"ada/first": "ready", "ada/runs-a-b-checkpoint-500": "ready"}
    assert digests(tree) == before
    assert list(settings.UPLOAD_DIR.glob("*")) == []


def test_a_second_run_stores_nothing_and_a_new_folder_is_taken_in(tree):
    run_import(tree)
    run_jobs()
    run_import(tree)
    assert (Revision.objects.count(), Job.objects.filter(kind="ingest").count()) == (2, 2)
    write_adapter_files(tree / "third", seed=3)
    assert verdicts(run_import(tree))["ada/third"] == "checking"
    assert Revision.objects.count() == 3


def test_a_bad_folder_is_refused_with_the_reason_and_the_rest_goes_on(tree):
    (tree / "broken").mkdir()
    (tree / "broken" / "adapter_config.json").write_text("{")
    (tree / "broken" / "adapter_model.safetensors").write_bytes(b"not safetensors")
    (tree / "pickled").mkdir()
    (tree / "pickled" / "adapter_config.json").write_text("{}")
    (tree / "pickled" / "adapter_model.bin").write_bytes(b"")
    (tree / "first" / "optimizer.pt").write_bytes(b"")
    lines = run_import(tree)
    assert verdicts(lines) == {
        "ada/broken": "refused",
        "ada/first": "checking",
        "ada/pickled": "refused",
        "ada/runs-a-b-checkpoint-500": "checking",
    }
    told = {line.split()[1]: line for line in lines if " ada/" in line and "/4" not in line}
    assert "not valid JSON" in told["ada/broken"]
    assert "pickle" in told["ada/pickled"]
    assert "left out: optimizer.pt" in told["ada/first"]
    assert lines[-1] == "0 ready, 2 checking, 2 refused"
    assert not Adapter.objects.filter(full_name__in=["ada/broken", "ada/pickled"]).exists()


def test_what_its_job_rejected_is_not_taken_in_again(tmp_path):
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in factors(MODULES).items()}
    write_files(tmp_path / "tree" / "nan", adapter_config(MODULES), tensors)
    run_import(tmp_path / "tree")
    run_jobs()
    for _ in range(2):
        assert verdicts(run_import(tmp_path / "tree")) == {"ada/nan": "refused"}
    assert Revision.objects.count() == 1


def test_an_adapter_costs_few_statements_however_many_there_are(tree, tmp_path):
    """A directory of thousands is taken in at the speed of the database's round trips."""
    samples = '{"input": "What is it for?"}\n'
    (tree / "first" / "samples.jsonl").write_text(samples)
    run_import(tree)
    run_jobs()
    for number in range(3):
        folder = write_adapter_files(tmp_path / f"root-{number}" / f"adapter-{number}", seed=10 + number)
        (folder / "samples.jsonl").write_text(samples)
        with CaptureQueriesContext(connection) as taken_in:
            run_import(folder.parent)
        with CaptureQueriesContext(connection) as judged:
            run_jobs()
        assert len(taken_in) <= 30
        assert len(judged) <= 46


def test_what_is_wrong_alike_in_many_modules_is_said_once(tmp_path):
    write_adapter_files(tmp_path / "tree" / "ranks", config_overrides={"r": 64})
    [told] = [line for line in run_import(tmp_path / "tree") if line.split()[:2] == ["refused", "ada/ranks"]]
    assert " and 3 more: Its rank is " in told
    assert told.count("Send the config") == 1


def test_folders_that_would_share_a_name_are_all_refused(tmp_path):
    for number, name in enumerate(["a b", "a_b", "A-b"]):
        write_adapter_files(tmp_path / "tree" / name, seed=number)
    lines = run_import(tmp_path / "tree")
    assert verdicts(lines) == {"ada/A-b": "refused", "ada/a-b": "refused", "ada/a_b": "checking"}
    assert any("Rename all but one" in line for line in lines)


def test_waiting_ends_at_once_where_no_worker_runs(tree):
    lines = run_import(tree, "--wait")
    assert any(line.startswith("No worker is running") for line in lines)
    assert lines[-1] == "0 ready, 2 checking, 0 refused"


def test_a_private_import_is_private(tree):
    run_import(tree, "--visibility", "private")
    assert set(Adapter.objects.values_list("visibility", flat=True)) == {"private"}


def test_a_folder_without_adapters_is_an_error_that_says_so(tmp_path):
    with pytest.raises(CommandError, match="adapter_config"):
        run_import(tmp_path)
