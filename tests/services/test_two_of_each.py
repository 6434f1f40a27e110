"""Two web processes and two workers on one database, queue and bucket answer as one site."""

import json
import threading
from collections import defaultdict

import pytest
import requests

from tests.journeys.server import free_port, wait_for
from tests.lora.factories import write_adapter_files

pytestmark = pytest.mark.journey
QUERY = "which expert knows number seven?"
BUILD_SNAPSHOT = (
    "from retrieval import snapshots; snapshots.MIN_TAIL = snapshots.TAIL_SHARE = 0; snapshots.build_if_due()"
)


def test_new_experts_are_found_everywhere_at_once_and_each_answer_is_of_one_version(site, tmp_path):
    """Answers of one index version are equal, whoever gives them and whatever is published meanwhile."""
    second = site.start_web(free_port())
    site.start_worker()
    ada = site.client(site.create_token("twins"))
    stopped = threading.Event()
    answers: dict[str, set[str]] = defaultdict(set)
    errors: list[str] = []

    def ask(url: str) -> None:
        body = {"router": "lora_retriever", "text": QUERY, "k": 50, "filters": {"owner": ["twins"]}}
        while not stopped.is_set():
            answer = requests.post(url + "/api/v1/retrieve/", json=body, timeout=180)
            if answer.status_code != 200:
                errors.append(answer.text)
                continue
            told = answer.json()
            answers[told["index_version"]].add(json.dumps(told["results"], sort_keys=True))

    threads = [threading.Thread(target=ask, args=(url,)) for url in (site.url, second)]
    # Each process loads its encoder at its first question.
    assert found(site.url) == found(second) == []
    for thread in threads:
        thread.start()
    try:
        jobs = {}
        for number in range(8):
            folder = write_adapter_files(tmp_path / str(number), seed=number)
            answer = ada.upload(f"twins/e{number}", folder, samples=[f"Who knows number {number}?", f"Say {number}."])
            jobs[f"twins/e{number}"] = answer.json()["job"]
        for name, job in jobs.items():
            assert ada.finished(job)["status"] == "succeeded", site.logs()[-3000:]
            # The promise is two seconds; what is kept is the next question, which no busy machine can spoil.
            assert all(name in found(url) for url in (site.url, second))
            site.manage("shell", "-c", BUILD_SNAPSHOT)
        wait_for(lambda: any(not version.startswith("0.") for version in answers), 60, "a snapshot to be served")
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(answers) > 1, "nothing was published while questions were asked"
    assert {version: len(told) for version, told in answers.items() if len(told) > 1} == {}


def found(url: str) -> list[str]:
    body = {"router": "lora_retriever", "text": QUERY, "k": 50, "filters": {"owner": ["twins"]}}
    [result] = requests.post(url + "/api/v1/retrieve/", json=body, timeout=180).json()["results"]
    return [match["adapter"] for match in result["matches"]]
