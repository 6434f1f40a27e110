"""The sites whose pages are photographed: an empty one, one with real experts, one with more than fits a page."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import torch

from tests.journeys.server import ROOT, Client, Site, running_site, wait_for
from tests.lora.factories import MODULES, adapter_config, factors, write_adapter_files, write_files

ZOO = ROOT / "examples" / "zoo"
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
PRIVATE = "review-sentiment"
OF_BO = ("antonym", "pluralise", "utterance-topic", "weekday-after")
JOB_S = 300


@dataclass
class Scene:
    """A site, and the ids in it that nobody knows beforehand, by what they are called in `states.py`."""

    site: Site
    marks: dict[str, str] = field(default_factory=dict)


def _write_rows(site: Site, *what: str) -> str:
    command = [sys.executable, "-m", "tests.journeys.gallery.rows", *what]
    done = subprocess.run(command, cwd=ROOT, env=site.env, check=True, timeout=300, stdout=subprocess.PIPE, text=True)
    return done.stdout


@contextmanager
def empty_scene(data_dir: Path) -> Iterator[Scene]:
    with running_site(data_dir, worker=False, SIGNUP="open") as site:
        _write_rows(site, "people")
        yield Scene(site)


@contextmanager
def crowded_scene(data_dir: Path) -> Iterator[Scene]:
    with running_site(data_dir, worker=False, SIGNUP="closed") as site:
        _write_rows(site, "crowd")
        _write_rows(site, "evaluations")
        [expert] = site.client().get("/adapters/?page_size=1").json()["results"]
        yield Scene(site, {"expert": expert["name"]})


@contextmanager
def filled_scene(data_dir: Path) -> Iterator[Scene]:
    """What it holds came through the API and a real worker, which is gone when the pictures are taken."""
    with running_site(data_dir, worker=False, SIGNUP="open") as site:
        ada, bo, operator = map(site.client, _write_rows(site, "people").split())
        site.manage("add_base_model", BASE, "--config", str(ROOT / "examples" / "smollm2-135m-instruct.json"))
        worker = site.start_worker()
        marks = _ended_work(ada, bo, data_dir / "made") | _imports(site, operator, data_dir / "made" / "loras")
        os.killpg(worker.pid, signal.SIGTERM)
        worker.wait(30)
        marks |= _waiting_work(ada, data_dir / "made")
        jobs = ("trial", "running_trial", "failed_trial", "route", "running_route", "failed_route", "compose_job")
        marks |= dict(zip(jobs, _write_rows(site, "running").split(), strict=True))
        yield Scene(site, marks)


def _ended_work(ada: Client, bo: Client, folder: Path) -> dict[str, str]:
    """Uploads and merges that a worker has ended, well or badly."""
    jobs: list[tuple[Client, dict[str, Any]]] = []
    for expert in sorted(path.name for path in ZOO.iterdir() if path.is_dir()):
        client, owner = (bo, "bo") if expert in OF_BO else (ada, "ada")
        visibility = "private" if expert == PRIVATE else "public"
        jobs.append((client, _accepted(client.upload(f"{owner}/{expert}", ZOO / expert, visibility=visibility))))
    jobs.append((bo, _accepted(bo.upload("bo/stranger", write_adapter_files(folder / "stranger"), license="mit"))))
    jobs.append((ada, _accepted(ada.upload("ada/retired", write_adapter_files(folder / "retired", seed=1)))))
    spoilt = _accepted(ada.upload("ada/spoilt", _with_nan(folder / "spoilt")))
    for client, job in jobs:
        _succeeds(client, job)
    assert ada.finished(spoilt, JOB_S)["status"] == "failed"
    return {"failed_job": spoilt["id"], **_later_work(ada)}


def _later_work(ada: Client) -> dict[str, str]:
    """What is done to experts that are there: a second revision, downloads, a merge, a bundle, an end."""
    first = ada.get("/adapters/ada/roman-numerals/").json()["revision"]
    more = b'{"input": "Write 1987 as a Roman numeral.", "output": "MCMLXXXVII"}\n'
    _succeeds(ada, _accepted(ada.post("/adapters/ada/roman-numerals/samples/", files={"samples.jsonl": more})))
    assert ada.request("DELETE", "/adapters/ada/retired/").status_code == 204
    for _ in range(3):
        assert ada.get("/adapters/ada/date-format/archive/").ok
    merge = _merge(ada, "weighted_sum", ("record-to-json", "date-format"), name="ada/json-dates")
    _succeeds(ada, merge["job"])
    order = {"router": "spectr", "adapters": ["ada/record-to-json", "ada/date-format"]}
    bundle = _accepted(ada.post("/bundles/", json=order))
    _succeeds(ada, bundle)
    marks = {"old_revision": first, "merge": merge["merge"]["id"], "merged_job": merge["job"]["id"]}
    return marks | {"bundle_job": bundle["id"]}


def _imports(site: Site, operator: Client, folder: Path) -> dict[str, str]:
    """A directory of two adapters and two that are refused, looked at and taken in by the operator."""
    for seed, name in enumerate(("sql/checkpoint-500", "summaries", "damaged")):
        write_adapter_files(folder / name, seed=10 + seed)
    (folder / "damaged" / "adapter_model.safetensors").write_bytes(b"not a header")
    (write_adapter_files(folder / "pickled") / "adapter_model.safetensors").rename(folder / "pickled" / "model.bin")
    looked, taken = _write_rows(site, "imports", str(folder)).split()
    for job in (looked, taken):
        _succeeds(operator, {"id": job})
    for name in ("sql-checkpoint-500", "summaries"):
        path = f"/adapters/collection/{name}/"
        wait_for(lambda path=path: operator.get(path).ok, JOB_S, f"{path} to be there for all")
    return {"looked_job": looked, "import_job": taken}


def _waiting_work(ada: Client, folder: Path) -> dict[str, str]:
    """What is asked for while no worker is there: one job waits, one is cancelled; `rows.running` lets one run."""
    waiting = _accepted(ada.upload("ada/waiting", write_adapter_files(folder / "waiting", seed=2)))
    cancelled = _merge(ada, "ties", ("record-to-json", "title-case"))["job"]
    assert ada.post(f"/jobs/{cancelled['id']}/cancel/").ok
    running = _merge(ada, "ties", ("record-to-json", "date-format", "language-id"))
    return {
        "queued_job": waiting["id"],
        "cancelled_job": cancelled["id"],
        "running_job": running["job"]["id"],
        "running_merge": running["merge"]["id"],
    }


def _accepted(answer: requests.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    return answer.json()["job"]


def _succeeds(client: Client, job: dict[str, Any]) -> None:
    ended = client.finished(job, JOB_S)
    assert ended["status"] == "succeeded", ended


def _merge(client: Client, method: str, experts: tuple[str, ...], name: str | None = None) -> dict[str, Any]:
    inputs = [{"adapter": f"ada/{expert}"} for expert in experts]
    recipe = {"method": method, "inputs": inputs} | ({"output": {"name": name}} if name else {})
    answer = client.post("/merges/", json=recipe)
    assert answer.status_code == 202, answer.text
    return answer.json()


def _with_nan(folder: Path) -> Path:
    tensors = factors(MODULES)
    next(iter(tensors.values()))[0, 0] = torch.nan
    return write_files(folder, adapter_config(MODULES), tensors)
