"""What survives the death of a process."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import requests

from tests.journeys.server import ROOT, free_port, running_site, wait_for
from tests.lora.factories import write_adapter_files

pytestmark = pytest.mark.journey
MODULES = {f"model.layers.{layer}.self_attn.{name}": (768, 768) for layer in range(24) for name in ("q_proj", "v_proj")}


def test_a_merge_survives_the_sigkill_of_its_worker_and_is_published_once(tmp_path):
    with running_site(tmp_path / "data", worker=False, JOB_LEASE_S="4") as site:
        ada = site.client(site.create_token("ada"))
        first = site.start_worker()
        for seed in (1, 2):
            ada.upload_ready(f"ada/e{seed}", write_adapter_files(tmp_path / f"e{seed}", MODULES, rank=8, seed=seed))
        recipe = {
            "method": "ties",
            "inputs": [{"adapter": "ada/e1"}, {"adapter": "ada/e2"}],
            "output": {"name": "ada/merged"},
        }
        job = ada.post("/merges/", json=recipe).json()["job"]
        wait_for(lambda: ada.get(f"/jobs/{job['id']}/").json()["progress"] > 0, 60, "the merge to be under way")
        os.killpg(first.pid, signal.SIGKILL)
        site.start_worker()
        done = ada.finished(job, 120)
        assert (done["status"], done["attempts"]) == ("succeeded", 2), site.logs()
        assert ada.get("/adapters/ada/merged/").json()["state"] == "ready"
        with sqlite3.connect(site.data_dir / "db.sqlite3") as database:
            count = {
                table: database.execute(f"SELECT count(*) FROM registry_{table}").fetchone()[0]
                for table in ("mergeartefact", "merge", "adapter", "revision")
            }
        assert count == {"mergeartefact": 1, "merge": 1, "adapter": 3, "revision": 3}


def test_serve_stops_within_ten_seconds_and_gives_its_job_back(tmp_path):
    port = free_port()
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "config.settings", "DATA_DIR": str(tmp_path), "PORT": str(port)}
    serve = subprocess.Popen([sys.executable, "manage.py", "serve"], cwd=ROOT, env=env)
    url = f"http://127.0.0.1:{port}"

    def ready():
        try:
            return requests.get(url + "/readyz", timeout=2).ok
        except requests.RequestException:
            return False

    try:
        wait_for(ready, 60, "serve to be ready")
        started = time.monotonic()
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(10) == 0
        assert time.monotonic() - started < 10
    finally:
        if serve.poll() is None:
            serve.kill()
    with pytest.raises(requests.ConnectionError):
        requests.get(url + "/healthz", timeout=2)
