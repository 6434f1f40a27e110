"""Brokers, databases, stores and disks that go away under running processes: nothing is lost, nothing half done."""

import resource
import threading
import time

import psutil
import pytest
import requests

from tests.journeys.server import wait_for
from tests.services import fault_proxy
from tests.services.stacks import EXPERTS, Stack

pytestmark = pytest.mark.journey
# An answer that waited for a broker which is away; the machine may be busy.
PROMPT_S = 10


def test_queued_jobs_survive_a_broker_that_comes_back_empty(stack: Stack):
    """Twenty accepted requests end although every message was lost: the rows are the truth."""
    asked = [stack.ask_merge() for _ in range(20)]
    stack.stop_broker()
    stack.start_broker()
    with stack.worker():
        done = [stack.finished(merge) for merge in asked]
    assert {job["status"] for job in done} == {"succeeded"}
    for merge in asked:
        stack.assert_published_once(merge)


def test_requests_are_accepted_while_the_broker_is_away_and_done_when_it_is_back(stack: Stack):
    """A worker that was connected before the outage works again after it, without a restart."""
    with stack.worker() as worker:
        assert stack.finished(stack.ask_merge())["status"] == "succeeded"
        stack.stop_broker()
        try:
            started = time.monotonic()
            asked = [stack.ask_merge() for _ in range(2)]
            assert time.monotonic() - started < 2 * PROMPT_S
            assert requests.get(stack.site.url + "/readyz", timeout=30).json()["checks"]["broker"] is False
        finally:
            stack.start_broker()
        assert [stack.finished(merge)["status"] for merge in asked] == ["succeeded"] * 2, stack.site.logs()[-5000:]
        assert worker.poll() is None


real_services = pytest.mark.parametrize("stack", ["services"], indirect=True)


@pytest.fixture
def services(stack: Stack) -> Stack:
    assert stack.redis is not None, "mark the test as one for real services"
    return stack


@real_services
def test_a_worker_whose_job_ends_while_the_broker_is_away_takes_the_next_one(services: Stack, tmp_path):
    """An acknowledgement that cannot be sent costs the worker its connection, never its readiness."""
    marker = tmp_path / "held"
    asked = services.ask_merge()
    with services.held_worker("commit", marker):
        services.reached(marker)
        services.stop_broker()
        marker.unlink()
        wait_for(lambda: "Connection refused" in services.site.last_log(), 60, "the acknowledgement to fail")
        services.start_broker()
        assert services.finished(asked)["status"] == "succeeded"
        assert services.finished(services.ask_merge())["status"] == "succeeded", services.site.logs()[-5000:]


@real_services
def test_a_job_outlives_a_restart_of_its_database(services: Stack, postgres, tmp_path):
    """What the job did before is not done twice: one artefact, one revision, one end."""
    marker = tmp_path / "held"
    asked = services.ask_merge(named=True)
    with services.held_worker("compute", marker):
        services.reached(marker)
        with services.worker():
            postgres.stop()
            marker.unlink()
            postgres.start()
            done = services.finished(asked)
    assert done["status"] == "succeeded", services.site.logs()[-5000:]
    services.assert_published_once(asked)


@real_services
def test_requests_during_a_restart_of_the_database_get_200_or_503(services: Stack, postgres):
    """Nobody gets a crash or waits for ever, and the first request afterwards is answered as if nothing had been."""
    url = f"{services.site.url}/api/v1/adapters/{EXPERTS[0]}/"
    answers: list[requests.Response] = []
    stopped = threading.Event()

    def ask() -> None:
        while not stopped.is_set():
            answers.append(requests.get(url, timeout=30))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(answers) > 8, 60, "requests to be under way")
        postgres.stop()
        seen = len(answers)
        wait_for(lambda: len(answers) > seen + 8, 120, "answers without a database")
        assert requests.get(services.site.url + "/readyz", timeout=30).json()["checks"]["database"] is False
    finally:
        postgres.start()
        stopped.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.json()["code"] == "not_ready"
    assert refused.headers["Retry-After"]
    wait_for(lambda: requests.get(url, timeout=30).status_code == 200, 30, "the site to serve again")


@pytest.fixture(scope="module")
def proxy(seaweed):
    with fault_proxy.running_proxy(seaweed.url) as running:
        yield running


@pytest.fixture
def worker_behind_proxy(services: Stack, proxy):
    with services.worker(S3_ENDPOINT_URL=proxy.url) as worker:
        yield worker
    proxy.heal()


@real_services
def test_a_worker_retries_what_the_store_refuses(services: Stack, proxy, worker_behind_proxy):
    """A store in trouble fails no job: it waits, says so in its log, and is done once the store is well."""
    proxy.inject(fault_proxy.answer(500))
    asked = services.ask_merge(named=True)
    wait_for(lambda: "Trying again in" in str(services.job(asked)["log"]), 120, "the job to be put back")
    proxy.heal()
    assert services.finished(asked)["status"] == "succeeded"
    services.assert_published_once(asked)


@real_services
@pytest.mark.parametrize(
    "fault",
    [fault_proxy.truncate(lambda size: size // 2), fault_proxy.flip_bit, fault_proxy.drop],
    ids=["truncated", "bit flipped", "dropped"],
)
def test_wrong_bytes_from_the_store_are_never_used(services: Stack, proxy, worker_behind_proxy, fault):
    """Bytes that do not hash to their name are read again or fail the job; a merge over them is never published."""
    proxy.inject(fault, methods="GET", count=2)
    asked = services.ask_merge(named=True)
    done = services.finished(asked)
    assert done["status"] in ("succeeded", "failed")
    if done["status"] == "succeeded":
        services.assert_published_once(asked)
        assert services.ada.get(f"/merges/{asked['merge']['id']}/").json()["report"]["relative_error"] < 1e-5
    else:
        assert done["error"]["code"] == "not_ready"
        assert services.ada.get(f"/merges/{asked['merge']['id']}/").json()["adapter"] is None
    assert "GET" in {method for method, _ in proxy.seen}


def scratch(stack: Stack) -> set[str]:
    return {path.name for path in (stack.site.data_dir / "scratch").glob("*")}


@real_services
def test_a_full_disk_puts_the_job_back_and_leaves_nothing_behind(services: Stack):
    """The worker lives on, its scratch is empty, and the same job succeeds once there is room."""
    with services.worker() as worker:
        assert services.finished(services.ask_merge())["status"] == "succeeded"
        processes = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
        _, hard = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
        for process in processes:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (64 * 1024, hard))
        before = scratch(services)  # of workers that other tests have killed
        asked = services.ask_merge(named=True)
        wait_for(lambda: "disk is full" in str(services.job(asked)["log"]), 120, "the job to be put back")
        wait_for(lambda: scratch(services) <= before, 60, "the job's scratch to be removed")
        for process in processes:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert services.finished(asked)["status"] == "succeeded"
        assert worker.poll() is None
    services.assert_published_once(asked)
