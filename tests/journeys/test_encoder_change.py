"""Another ENCODER_MODEL on a running site: no answer fails or mixes spaces, and the site follows without a restart."""

import signal

import pytest

from tests.journeys.server import running_site, wait_for
from tests.lora.factories import write_adapter_files
from tests.retrieval.models import write_encoder

pytestmark = pytest.mark.journey

SAMPLES = {"ada/capitals": ["Name the capital of France."], "ada/sums": ["What is 12 + 30?"]}


def test_the_site_answers_through_the_change_and_follows_it(tmp_path):
    model = write_encoder(tmp_path / "tiny")
    with running_site(tmp_path / "data", worker=False) as site:
        worker = site.start_worker()
        client = site.client(site.create_token("ada"))
        for number, (name, samples) in enumerate(SAMPLES.items()):
            folder = write_adapter_files(tmp_path / str(number), seed=number)
            answer = client.upload(name, folder, samples=samples)
            assert client.finished(answer.json()["job"], 180)["status"] == "succeeded"

        def ask():
            query = {"text": SAMPLES["ada/sums"][0], "explain": True}
            # Who names no router is answered all the while, by whichever can.
            assert client.post("/retrieve/", json=query).status_code == 200
            answer = client.post("/retrieve/", json=query | {"router": "lora_retriever"})
            assert answer.status_code == 200, answer.text
            return answer.json()

        old = ask()["space"]
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
        site.start_worker(ENCODER_MODEL=str(model))

        def switched():
            answer = ask()
            best = answer["results"][0]["matches"][0]
            assert best["adapter"] == "ada/sums"
            assert best["evidence"]["samples"][0]["score"] == pytest.approx(1, abs=1e-4)
            assert len(answer["results"][0]["matches"]) == len(SAMPLES)
            return answer["space"] != old and answer["space"]

        assert wait_for(switched, 240, "the new space in service").startswith("model@")
