"""`description` over real vectors: experts without samples are found, edits are caught up on, and a language model may
pick, whatever it answers."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.test import Client

from registry.adapters import edit_adapter
from registry.errors import Invalid, NotReady
from registry.intake import Described
from registry.models import Job, Revision
from retrieval import descriptions, language_model
from retrieval.descriptions import embed_missing_descriptions, lacking_descriptions, store_description
from retrieval.encoders import current_encoder
from retrieval.language_model import LanguageModelUnavailable
from retrieval.models import Prototype
from retrieval.reembedding import Watch
from retrieval.services import retrieve
from retrieval.spaces import space_of
from tests.retrieval.rows import add_revision, make_expert, make_user, publish
from workers.runner import run

pytestmark = pytest.mark.django_db

NOBODY = AnonymousUser()
SAID = {
    "ada/capitals": "Names the capital of a country.",
    "bo/sums": "Adds two numbers.",
    "cy/verbs": "Puts English verbs into the past tense.",
}


@pytest.fixture
def experts() -> dict[str, Any]:
    found = {name: make_expert(name, description=text) for name, text in SAID.items()}
    catch_up()
    return found


def catch_up() -> int:
    encoder = current_encoder()
    return sum(embed_missing_descriptions(encoder, space_of(encoder)))


def ask(text: str = "Name the capital of Peru.", **fields: Any) -> dict[str, Any]:
    return retrieve(NOBODY, {"router": "description", "text": text, **fields})["results"][0]


def names(result: dict[str, Any]) -> list[str]:
    return [match["adapter"] for match in result["matches"]]


def test_experts_without_samples_are_found_by_what_is_said_about_them(experts):
    result = ask(explain=True)
    assert names(result)[0] == "ada/capitals"
    assert len(result["matches"]) == 3
    assert [match["score"] for match in result["matches"]] == sorted(
        (m["score"] for m in result["matches"]), reverse=True
    )
    assert result["matches"][0]["evidence"] == {"samples": [], "description": SAID["ada/capitals"]}
    assert names(ask("What is 3 + 4?", k=1)) == ["bo/sums"]
    assert ask(params={"min_score": 0.99})["reason"] == "below_threshold"


def test_a_score_is_the_cosine_of_the_two_texts(experts):
    rows = current_encoder().encode(["Name the capital of Peru.", "capitals.\nNames the capital of a country."])
    assert ask()["matches"][0]["score"] == pytest.approx(float(rows[0] @ rows[1]), abs=2e-6)


def test_filters_and_owners_decide_who_is_found(experts):
    publish(experts["ada/capitals"], visibility="private", tags=["geo"])
    catch_up()
    assert "ada/capitals" not in names(ask())
    mine = retrieve(
        make_user("ada"), {"router": "description", "text": "Capital of Peru?", "filters": {"tag": ["geo"]}}
    )
    assert names(mine["results"][0]) == ["ada/capitals"]
    assert ask(filters={"owner": ["nobody"]})["reason"] == "no_experts"


def test_an_edit_is_found_once_it_is_embedded(experts):
    edit_adapter(experts["bo/sums"], Described(description="Translates into Finnish."))
    assert [revision.pk for revision in lacking_descriptions(current_encoder().space_id)] == [
        experts["bo/sums"].head_id
    ]
    before = ask("Say it in Finnish.")
    assert catch_up() == 1
    assert catch_up() == 0
    assert names(ask("Say it in Finnish."))[0] == "bo/sums"
    assert before["matches"] != ask("Say it in Finnish.")["matches"]
    edit_adapter(experts["bo/sums"], Described(license="mit"))
    assert catch_up() == 0


def test_without_a_description_there_is_nothing_to_embed(experts):
    silent = make_expert("di/silent")
    store_description(silent.head)
    assert catch_up() == 0
    assert "di/silent" not in names(ask(k=10))


def test_a_new_revision_is_described_at_admission(experts):
    # As a worker reads it.
    revision = Revision.objects.get(pk=add_revision(experts["ada/capitals"]).pk)
    store_description(revision)
    store_description(revision)
    publish(experts["ada/capitals"], revision)
    assert catch_up() == 0
    [first] = ask(k=1)["matches"]
    assert first["revision"] == revision.commit
    assert Prototype.objects.filter(revision=revision, kind="description").count() == 1


def test_an_adapter_is_admitted_where_no_text_can_be_embedded(monkeypatch):
    expert = make_expert("ada/capitals", description="Names capitals.")

    def away() -> Any:
        raise NotReady("no encoder")

    monkeypatch.setattr(descriptions, "encoders_in_use", away)
    store_description(expert.head)
    assert not Prototype.objects.filter(kind="description").exists()


def test_a_worker_catches_up_by_itself_also_where_nobody_has_samples(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    for name, text in SAID.items():
        make_expert(name, description=text)
    Watch().look()
    [job] = Job.objects.filter(kind="reembed", status="queued")
    run(str(job.pk))
    job.refresh_from_db()
    assert job.status == "succeeded", job.error
    assert names(ask())[0] == "ada/capitals"
    Watch().look()
    assert Job.objects.filter(kind="reembed").count() == 1


def test_the_prompt_can_be_taken_to_any_language_model(experts):
    result = ask(params={"choose": "prompt"}, k=2)
    assert names(result) == names(ask(k=2))
    assert "Name the capital of Peru." in result["prompt"]
    for name, text in SAID.items():
        assert f'- "{name}": {text}' in result["prompt"]
    assert "prompt" not in ask()


class Model:
    """A server that speaks OpenAI's protocol and answers what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.status, self.headers, self.body, self.pause = 200, {}, b"", 0.0
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.asked.append((self.path, body, dict(self.headers)))
                self.send_response(model.status)
                for name, value in model.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for start in range(0, len(model.body), 1000):
                    self.wfile.write(model.body[start : start + 1000])
                    self.wfile.flush()
                    time.sleep(model.pause)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def says(self, content: Any) -> None:
        self.body = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


@pytest.fixture
def model(settings) -> Iterator[Model]:
    found = Model()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    settings.ROUTER_LLM_URL, settings.ROUTER_LLM_MODEL, settings.ROUTER_LLM_KEY = found.url, "tiny", "secret"
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def test_a_language_model_picks_among_the_nearest(experts, model):
    model.says('{"experts": ["cy/verbs", "bo/sums"]}')
    result = ask(params={"choose": "llm"})
    assert names(result) == ["cy/verbs", "bo/sums"]
    assert [match["score"] for match in result["matches"]] == [1, 0.5]
    assert [match["weight"] for match in result["matches"]] == pytest.approx([2 / 3, 1 / 3])
    [(path, question, headers)] = model.asked
    assert path == "/v1/chat/completions"
    assert question["model"] == "tiny"
    assert question["messages"] == [{"role": "user", "content": ask(params={"choose": "prompt"})["prompt"]}]
    assert headers["Authorization"] == "Bearer secret"


def test_a_language_model_may_find_nobody_and_gives_no_more_than_k(experts, model):
    model.says('{"experts": []}')
    assert ask(params={"choose": "llm"})["reason"] == "below_threshold"
    model.says('{"experts": ["cy/verbs", "bo/sums"]}')
    assert names(ask(params={"choose": "llm"}, k=1)) == ["cy/verbs"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (401, b"{}"),
        (200, b"not json"),
        (200, b"{}"),
        (200, b'{"choices": []}'),
        (200, b'{"choices": [{"message": {"content": null}}]}'),
        (200, b'{"choices": [{"message": {"content": "{\\"experts\\": [\\"eve/x\\"]}"}}]}'),
        (200, b" " * (language_model.MAX_BYTES + 1)),
    ],
)
def test_a_language_model_that_answers_anything_else_is_a_503(experts, model, status, body):
    model.status, model.body = status, body
    with pytest.raises(LanguageModelUnavailable):
        ask(params={"choose": "llm"})


def test_the_key_goes_nowhere_else(experts, model):
    model.status, model.headers = 307, {"Location": f"{model.url}/elsewhere"}
    with pytest.raises(LanguageModelUnavailable):
        ask(params={"choose": "llm"})
    assert len(model.asked) == 1


def test_a_language_model_that_drips_is_given_up(experts, model, monkeypatch):
    monkeypatch.setattr(language_model, "TIMEOUT_S", 0.2)
    model.body, model.pause = b" " * 20_000, 0.05
    started = time.monotonic()
    with pytest.raises(LanguageModelUnavailable):
        ask(params={"choose": "llm"})
    assert time.monotonic() - started < 5


def test_without_a_language_model_the_answer_says_what_to_do(experts, client: Client):
    body = {"router": "description", "text": "Capital of Peru?", "params": {"choose": "llm"}}
    answer = client.post("/api/v1/retrieve/", body, content_type="application/json")
    assert answer.status_code == 503
    assert answer.json()["code"] == "llm_unavailable"
    assert "ROUTER_LLM_URL" in answer.json()["message"]
    assert answer["Retry-After"]


@pytest.mark.parametrize("form", [{"texts": ["a", "b"]}, {"vector": [1.0] * 384, "space": "x"}])
def test_what_a_language_model_cannot_read_is_refused(experts, form):
    with pytest.raises(Invalid):
        retrieve(NOBODY, {"router": "description", "params": {"choose": "llm"}, **form})
