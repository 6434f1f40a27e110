"""The retrieval tasks as experts of a running site, and the queries asked over HTTP."""

from pathlib import Path

from tests.journeys.server import Site, wait_for
from tests.lora.factories import write_adapter_files
from tests.retrieval.dataset import DEPTHS, hit_rates, load_tasks

OWNER = "gate"


def rates_over_http(site: Site, scratch: Path, *, core_only: bool) -> list[float]:
    """Upload one tiny expert per task, ask all queries. Returns: percent found in the first 1, 3 and 8."""
    tasks = load_tasks(core_only=core_only)
    client = site.client(site.create_token(OWNER))
    for number, task in enumerate(tasks):
        folder = write_adapter_files(scratch / task.name, rank=1, seed=number)
        answer = client.upload(f"{OWNER}/{task.name}", folder, samples=task.samples)
        assert answer.status_code == 202, answer.text
    wait_for(lambda: _ready(client) == len(tasks), 300, "the experts to be ready")

    def ask(texts: list[str]) -> list[list[str]]:
        request = {"router": "lora_retriever", "texts": texts, "k": max(DEPTHS), "filters": {"owner": [OWNER]}}
        answer = client.post("/retrieve/", json=request)
        assert answer.status_code == 200, answer.text
        found = [[match["adapter"] for match in result["matches"]] for result in answer.json()["results"]]
        return [[name.removeprefix(f"{OWNER}/") for name in names] for names in found]

    return hit_rates(tasks, ask)


def _ready(client) -> int:
    return client.get("/adapters/", params={"owner": OWNER, "state": "ready", "page_size": 1}).json()["count"]
