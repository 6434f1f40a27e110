"""How long after its job's success a new adapter is in the answers of every web process (bar: 2 s).

Two web processes share one DATA_DIR. Each upload's job is polled through the first; from the moment it has succeeded,
both processes are asked until both return the adapter. The clock stands on the client's side and includes the requests.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.journeys.server import Site, running_site
from tests.lora.factories import write_adapter_files


def second_web(site: Site) -> Site:
    """Another web process over the same data."""
    from tests.journeys.server import free_port

    port = str(free_port())
    other = Site(f"http://127.0.0.1:{port}", site.data_dir, site.env | {"PORT": port}, site.processes)
    other.start_web()
    return other


def lag_s(client, sites: list[Site], name: str, folder: Path, text: str) -> float:
    """Seconds from the job's success to both processes' answers."""
    (folder / "samples.jsonl").write_text(json.dumps({"input": text}) + "\n")
    job = client.finished(client.upload(name, folder).json()["job"])
    assert job["status"] == "succeeded", job
    started = time.perf_counter()
    for site in sites:
        while not _found(site, name, text):
            assert time.perf_counter() - started < 60
    return time.perf_counter() - started


def _found(site: Site, name: str, text: str) -> bool:
    [result] = (
        site.client().post("/retrieve/", json={"text": text, "k": 1, "params": {"abstain": False}}).json()["results"]
    )
    return [match["adapter"] for match in result["matches"]] == [name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=20)
    count = parser.parse_args().adapters
    with tempfile.TemporaryDirectory() as scratch, running_site(Path(scratch) / "data") as site:
        sites = [site, second_web(site)]
        for each in sites:
            each.client().post("/retrieve/", json={"text": "warm up"})
        client = site.client(site.create_token("ada"))
        lags = []
        for number in range(count):
            folder = write_adapter_files(Path(scratch) / str(number), seed=number)
            lags.append(
                lag_s(client, sites, f"ada/expert-{number}", folder, f"question {number} about topic {number**3}")
            )
        median, worst = statistics.median(lags), max(lags)
        print(f"{count} adapters, 2 web processes: median {median:.3f} s, worst {worst:.3f} s (bar 2 s)")


if __name__ == "__main__":
    main()
