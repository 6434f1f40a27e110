"""The router that answers who names none, from the first expert on, in the version of the space that ships."""

import pytest
from django.contrib.auth.models import AnonymousUser

from lora.hybrid.default import load_default
from registry.models import Job
from retrieval import hybrid, live
from retrieval.encoders import current_encoder
from retrieval.hybrid import load_space, served_version
from retrieval.models import HybridVersion, Prototype, Space
from retrieval.reembedding import Watch
from retrieval.services import retrieve
from retrieval.spaces import served_space_id
from tests.retrieval.rows import make_expert
from workers.runner import run

pytestmark = pytest.mark.django_db

NOBODY = AnonymousUser()
CAPITALS = ["Name the capital of France.", "What is the capital of Japan?", "Capital of Spain?"]
SUMS = ["What is 12 + 30?", "Add 4 and 5.", "What is 7 + 8?"]
ASK = {"text": "Name the capital of Peru."}


@pytest.fixture(autouse=True)
def _own_data(settings, tmp_path):
    settings.DATA_DIR = tmp_path


def names(answer):
    return [match["adapter"] for match in answer["results"][0]["matches"]]


def test_it_answers_in_the_version_that_ships_as_soon_as_there_is_an_expert():
    empty = retrieve(NOBODY, ASK)
    assert (empty["router"], empty["results"][0]["reason"]) == ("hybrid", "no_experts")
    make_expert("ada/capitals", CAPITALS)
    alone = retrieve(NOBODY, ASK)
    make_expert("bo/sums", SUMS)
    both = retrieve(NOBODY, ASK)
    base = served_space_id()
    assert empty["space"] == alone["space"] == both["space"] == load_default(base).space_id(base)
    assert names(alone) == ["ada/capitals"]
    assert names(both) == ["ada/capitals", "bo/sums"]
    assert names(retrieve(NOBODY, {"text": "What is 3 + 9?"}))[0] == "bo/sums"
    assert alone["results"][0]["matches"][0]["score"] == both["results"][0]["matches"][0]["score"]
    Watch().look()
    assert not Job.objects.filter(kind="fit_space").exists()


def test_what_is_stored_is_what_ships():
    make_expert("ada/capitals", CAPITALS)
    version = served_version(served_space_id())
    assert (version.experts, version.space_id) == (0, retrieve(NOBODY, ASK)["space"])
    assert load_space(version).digest == load_default(served_space_id()).digest
    assert load_default("other@123") is None


def test_vectors_are_compared_with_the_mean_of_the_samples():
    make_expert("ada/capitals", CAPITALS)
    vector = current_encoder().encode([ASK["text"]])[0].tolist()
    answer = retrieve(NOBODY, {"vector": vector, "space": served_space_id()})
    assert (answer["router"], names(answer)) == ("lora_retriever", ["ada/capitals"])


def test_experts_of_an_older_site_have_rows_before_the_router_answers():
    make_expert("ada/capitals", CAPITALS)
    HybridVersion.objects.all().delete()
    Prototype.objects.filter(kind="hybrid").delete()
    Space.objects.filter(pk__startswith="hybrid-").delete()
    live.forget()
    assert retrieve(NOBODY, ASK)["router"] == "lora_retriever"
    make_expert("bo/sums", SUMS)
    assert served_version(served_space_id()) is None
    [job] = Job.objects.filter(kind="fit_space")
    run(str(job.pk))
    answer = retrieve(NOBODY, ASK)
    assert (answer["router"], names(answer)) == ("hybrid", ["ada/capitals", "bo/sums"])
    assert HybridVersion.objects.count() == 1


def test_a_pool_that_has_grown_is_fitted_to(monkeypatch):
    monkeypatch.setattr(hybrid, "GROWTH_MIN", 1)
    make_expert("ada/capitals", CAPITALS)
    Watch().look()
    assert not Job.objects.filter(kind="fit_space").exists()
    make_expert("bo/sums", SUMS)
    upload = Job.objects.create(kind="ingest", status="queued")
    Watch().look()
    assert not Job.objects.filter(kind="fit_space").exists()
    upload.delete()
    Watch().look()
    assert Job.objects.filter(kind="fit_space").count() == 1
