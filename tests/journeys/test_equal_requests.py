"""Fifty callers' threads ask for the same merge at the same moment."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.journeys.server import Site
from tests.lora.factories import write_adapter_files

pytestmark = pytest.mark.journey
CALLERS = 50


def test_fifty_at_once_make_one_merge_and_one_job(site: Site, tmp_path: Path) -> None:
    token = site.create_token("fifty")
    client = site.client(token)
    for seed, name in enumerate(("one", "two")):
        client.upload_ready(f"fifty/{name}", write_adapter_files(tmp_path / name, seed=seed))
    inner = {"method": "weighted_sum", "inputs": [{"adapter": "fifty/one"}, {"adapter": "fifty/two"}]}
    recipe = {
        "method": "weighted_sum",
        "inputs": [{"adapter": "fifty/one", "weight": 1}, {"recipe": inner, "weight": -1}],
    }
    together = Barrier(CALLERS)

    def ask(number: int) -> tuple[int, str, str]:
        caller = site.client(token)
        together.wait()
        answer = caller.post("/merges/", json=recipe | {"output": {"name": "fifty/rest"}})
        told = answer.json()
        return answer.status_code, told["merge"]["id"], told["job"]["id"]

    with ThreadPoolExecutor(CALLERS) as threads:
        answers = list(threads.map(ask, range(CALLERS)))
    assert {status for status, _, _ in answers} <= {200, 202}
    assert len({(merge, job) for _, merge, job in answers}) == 1
    done = client.finished({"id": answers[0][2]}, 300)
    assert (done["status"], done["attempts"]) == ("succeeded", 1)
    revisions = client.get("/adapters/fifty/rest/revisions/").json()
    assert revisions["count"] == 1
