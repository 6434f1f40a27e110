"""Workers that die or sleep in the middle of a job: it is done once, by another, without anybody's help."""

import os
import signal
import time

import pytest

from tests.journeys.server import wait_for
from tests.services.held_worker import POINTS
from tests.services.stacks import Stack

pytestmark = pytest.mark.journey
KILLED_AT = [point for point in POINTS if point != "die"]


@pytest.fixture(scope="module")
def killed(stack: Stack, tmp_path_factory: pytest.TempPathFactory):
    """Point → the merge whose worker was killed there. One more worker then finds what the dead have left."""
    asked = {}
    for point in KILLED_AT:
        marker = tmp_path_factory.mktemp("held") / point
        asked[point] = stack.ask_merge(named=True)
        with stack.held_worker(point, marker):
            stack.reached(marker)
    with stack.worker():
        for merge in asked.values():
            stack.finished(merge)
    return asked


@pytest.mark.parametrize("point", KILLED_AT)
def test_a_job_whose_worker_is_killed_is_done_again_and_published_once(stack: Stack, killed, point):
    """An accepted request ends, within a bound, whenever its worker dies, and a merge has one artefact."""
    done = stack.job(killed[point])
    # After the commit there is nothing left to do: the job's end and what it publishes are one transaction.
    assert done["status"] == "succeeded", stack.site.logs()
    assert (done["attempts"] == 1) is (point == "commit")
    stack.assert_published_once(killed[point])


def test_a_worker_that_slept_through_its_lease_publishes_nothing(stack: Stack, tmp_path):
    """Only the attempt that holds the job may change anything: the late one finds that it is no longer its job."""
    marker = tmp_path / "held"
    asked = stack.ask_merge(named=True)
    with stack.held_worker("put", marker) as sleeper:
        stack.reached(marker)
        os.killpg(sleeper.pid, signal.SIGSTOP)
        with stack.worker():
            done = stack.finished(asked)
        assert done["status"] == "succeeded"
        assert done["attempts"] > 1
        marker.unlink()
        os.killpg(sleeper.pid, signal.SIGCONT)
        wait_for(lambda: "is no longer ours" in stack.site.logs(), 60, "the sleeper to notice")
    assert stack.job(asked) == done
    stack.assert_published_once(asked)


def test_twenty_messages_for_one_job_are_one_run(stack: Stack):
    """A message is only a hint: whoever comes second finds the job taken."""
    asked = stack.ask_merge()
    send = (
        "import django; django.setup(); from celery import current_app; "
        f"[current_app.send_task('workers.tasks.run_job', args=['{asked['job']['id']}']) for _ in range(20)]"
    )
    assert stack.site.start("-c", f"import config; {send}").wait(60) == 0, stack.site.logs()
    with stack.worker(), stack.worker():
        done = stack.finished(asked)
    assert (done["status"], done["attempts"]) == ("succeeded", 1)
    assert len([line for line in done["log"] if "Merging" in str(line)]) == 1
    stack.assert_published_once(asked)


@pytest.mark.parametrize("stack", ["services"], indirect=True)
def test_a_job_that_kills_its_worker_ends_and_does_not_block_the_queue(stack: Stack, tmp_path):
    """Out of memory five times: the job fails and says so, its worker lives on and does the next one."""
    asked = stack.ask_merge()
    with stack.held_worker("die", tmp_path / "unused", JOB_LEASE_S="1"):
        failed = stack.finished(asked)
        samples = {"samples.jsonl": b'{"input": "%d"}\n' % time.time_ns()}
        answer = stack.ada.post("/adapters/ada/e1/samples/", files=samples)
        assert answer.status_code == 202, answer.text
        assert stack.finished(answer.json())["status"] == "succeeded"
    assert (failed["status"], failed["error"]["code"], failed["attempts"]) == ("failed", "internal", 5)
    assert "stopped 5 times" in failed["error"]["message"]
