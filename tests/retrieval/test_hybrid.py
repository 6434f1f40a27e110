"""The hybrid router over real rows: fitted by a job, followed by every expert, replaced without a gap.

No version ships here, as for an encoder of one's own; test_default_router.py has the one that does.
"""

import numpy as np
import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.management import CommandError, call_command
from safetensors.numpy import load

from lora.hybrid import shortlist
from lora.hybrid.background import load_background, load_far
from lora.hybrid.wrappers import unwrap
from registry.errors import NotReady
from registry.models import Blob, Job
from registry.reconciliation import referenced, unreferenced
from retrieval import hybrid, hybrid_search, live
from retrieval.encoders import current_encoder
from retrieval.hybrid import encoded_texts, load_space, served_version
from retrieval.live import current_view
from retrieval.models import HybridVersion, Prototype, Space
from retrieval.prototypes import as_safetensors, find_prototype
from retrieval.reembedding import Watch
from retrieval.services import retrieve
from retrieval.spaces import served_space_id
from tests.retrieval.models import write_encoder
from tests.retrieval.rows import add_revision, make_expert, make_user, publish
from workers.runner import run

pytestmark = pytest.mark.django_db

NOBODY = AnonymousUser()
CAPITALS = ["Name the capital of France.", "What is the capital of Japan?", "Capital of Spain?"]
SUMS = ["What is 12 + 30?", "Add 4 and 5.", "What is 7 + 8?"]
VERBS = ["Past tense of 'eat'?", "Past tense of 'go'?"]
ASK = {"router": "hybrid", "text": "Name the capital of Peru.", "k": 10}
ANY = ASK | {"params": {"abstain": False}}


@pytest.fixture(autouse=True)
def _small_background(settings, tmp_path, monkeypatch):
    """A part of the background texts, so that a fit takes seconds."""
    settings.DATA_DIR = tmp_path
    tasks = [type(task)(task.name, task.licence, task.texts[:6]) for task in load_background()[:8]]
    far = load_far()[::8]
    monkeypatch.setattr(hybrid, "load_background", lambda: tasks)
    monkeypatch.setattr(hybrid, "load_far", lambda: far)
    for module in (hybrid, hybrid_search):
        monkeypatch.setattr(module, "load_default", lambda encoder: None)


@pytest.fixture
def experts():
    return {
        "capitals": make_expert("ada/capitals", CAPITALS, base_model="org/base", tags=["qa"]),
        "sums": make_expert("bo/sums", SUMS),
        "verbs": make_expert("cy/verbs", VERBS),
    }


def run_fit():
    [job] = Job.objects.filter(kind="fit_space", status="queued")
    run(str(job.pk))
    job.refresh_from_db()
    assert job.status == "succeeded", job.error
    return job


@pytest.fixture
def fitted(experts):
    with pytest.raises(NotReady, match="being fitted"):
        retrieve(NOBODY, ASK)
    return run_fit()


def names(answer):
    [result] = answer["results"]
    return [match["adapter"] for match in result["matches"]]


def test_the_first_question_has_the_space_fitted_once(experts):
    for _ in range(2):
        with pytest.raises(NotReady):
            retrieve(NOBODY, ASK)
    job = run_fit()
    version = served_version(served_space_id())
    assert job.result == {"space": version.pk, "experts": 3, "skipped": 0}
    answer = retrieve(NOBODY, ANY)
    assert answer["space"] == version.pk
    assert answer["space"].startswith("hybrid-")
    assert names(answer)[0] == "ada/capitals"
    assert len(names(answer)) == 3


def test_scores_are_those_of_the_numerics(experts, fitted):
    """Score, weights and probabilities against the space used by hand, expert by expert."""
    space, encoder = load_space(served_version(served_space_id())), current_encoder()
    text = ASK["text"]
    query = space.query(encoded_texts(encoder, [text]), [text])
    samples = {"ada/capitals": CAPITALS, "bo/sums": SUMS, "cy/verbs": VERBS}
    rows = np.stack([space.expert_row(encoded_texts(encoder, texts), texts) for texts in samples.values()])
    scores = space.combine(query, query.rows.astype(float) @ rows.astype(float).T)
    expected = dict(zip(samples, scores, strict=True))
    [result] = retrieve(NOBODY, ANY | {"explain": True})["results"]
    matches = result["matches"]
    assert {match["adapter"]: match["score"] for match in matches} == pytest.approx(expected, abs=0.01)
    assert [match["weight"] for match in matches] == pytest.approx(
        space.posterior(np.array([match["score"] for match in matches])), abs=1e-5
    )
    assert sum(match["evidence"]["probability"] for match in matches) == pytest.approx(1, abs=1e-5)
    assert result["evidence"]["margin"] == pytest.approx(matches[0]["score"] - matches[1]["score"])
    assert result["evidence"]["threshold"] == pytest.approx(space.abstention.threshold, abs=1e-6)
    assert matches[0]["evidence"]["samples"][0]["input"] in CAPITALS


def test_chat_templates_change_nothing(experts, fitted):
    wrapped = f"<|im_start|>user\n{ASK['text']}<|im_end|>\n<|im_start|>assistant\n"
    [plain] = retrieve(NOBODY, ANY)["results"]
    [inside] = retrieve(NOBODY, ANY | {"text": wrapped})["results"]
    assert inside == plain
    late = [f"<|im_start|>user\n{text}<|im_end|>" for text in CAPITALS]
    assert unwrap(late[0]) == CAPITALS[0]
    make_expert("ada/wrapped", late)
    scores = {match["adapter"]: match["score"] for match in retrieve(NOBODY, ANY)["results"][0]["matches"]}
    assert scores["ada/wrapped"] == pytest.approx(scores["ada/capitals"], abs=0.01)


def test_far_text_is_abstained_from_unless_told_otherwise(experts, fitted):
    text = "0x7f 0x45 0x4c 0x46 ;;;; mov eax, ebx // \u2603\u2603\u2603 %%%% {{{{ }}}} <<< >>>"
    [far] = retrieve(NOBODY, {"router": "hybrid", "text": text, "explain": True})["results"]
    assert far["evidence"]["familiar"] < far["evidence"]["threshold"]
    assert (far["abstained"], far["reason"], far["matches"]) == (True, "below_threshold", [])
    [asked] = retrieve(NOBODY, {"router": "hybrid", "text": text, "params": {"abstain": False}})["results"]
    assert len(asked["matches"]) == 3
    floor = {"abstain": False, "min_score": -0.5}
    assert retrieve(NOBODY, ANY | {"params": floor})["results"][0]["reason"] == "below_threshold"


def test_texts_examples_and_adapters(experts, fitted):
    asked = ANY | {"text": None, "texts": ["What is 1 + 1?", "Capital of Chile?"], "k": 1}
    answer = retrieve(NOBODY, asked)
    assert [result["matches"][0]["adapter"] for result in answer["results"]] == ["bo/sums", "ada/capitals"]
    examples = [{"input": "What is 1 + 1?"}, {"input": "What is 3 + 9?"}]
    assert names(retrieve(NOBODY, ANY | {"text": None, "examples": examples}))[0] == "bo/sums"
    make_expert("cy/capitals", ["Capital of Peru?", "Name the capital of Mali."])
    assert names(retrieve(NOBODY, ANY | {"text": None, "adapter": "cy/capitals"}))[0] == "ada/capitals"
    assert "cy/capitals" not in names(retrieve(NOBODY, ANY | {"text": None, "adapter": "cy/capitals"}))


def test_late_experts_have_rows_at_once_and_move_nobody_elses_score(experts, fitted):
    before = {match["adapter"]: match["score"] for match in retrieve(NOBODY, ANY)["results"][0]["matches"]}
    make_expert("cy/one", ["Name the capital of Peru."])
    after = {match["adapter"]: match["score"] for match in retrieve(NOBODY, ANY)["results"][0]["matches"]}
    assert after.pop("cy/one") == pytest.approx(0, abs=0.01)
    assert after == before
    publish(experts["sums"], yanked_at=experts["sums"].created_at)
    assert "bo/sums" not in names(retrieve(NOBODY, ANY))
    capitals = experts["capitals"]
    publish(capitals, add_revision(capitals, VERBS))
    scores = {match["adapter"]: match["score"] for match in retrieve(NOBODY, ANY)["results"][0]["matches"]}
    assert scores["ada/capitals"] == pytest.approx(scores["cy/verbs"], abs=0.01)


def test_private_experts_are_for_their_owners_and_shape_no_space(experts):
    make_expert("bo/secret", CAPITALS, visibility="private")
    with pytest.raises(NotReady):
        retrieve(NOBODY, ASK)
    run_fit()
    assert "bo/secret" not in names(retrieve(NOBODY, ANY))
    assert "bo/secret" in names(retrieve(make_user("bo"), ANY))
    assert served_version(served_space_id()).experts == 3
    with_it = load_space(served_version(served_space_id())).digest
    HybridVersion.objects.all().delete()
    secret = Prototype.objects.filter(revision__adapter__full_name="bo/secret")
    secret.delete()
    hybrid.request_fit(served_space_id())
    run_fit()
    assert load_space(served_version(served_space_id())).digest == with_it


def test_missing_rows_are_computed_and_the_space_is_fitted_again_as_it_grows(experts, fitted, monkeypatch):
    first = served_version(served_space_id())
    Prototype.objects.filter(kind="hybrid", revision=experts["sums"].head).delete()
    live.forget()
    publish(experts["sums"])
    Watch().look()
    run_fit()
    assert "bo/sums" in names(retrieve(NOBODY, ANY))
    assert HybridVersion.objects.count() == 1
    monkeypatch.setattr(hybrid, "GROWTH_MIN", -3)
    make_expert("cy/new", ["Translate to French: bread", "Translate to French: water"])
    Watch().look()
    assert names(retrieve(NOBODY, ANY))[0] == "ada/capitals"
    run_fit()
    second = served_version(served_space_id())
    assert (second.experts, second != first) == (4, True)
    answer = retrieve(NOBODY, ANY)
    assert (answer["space"], len(names(answer))) == (second.pk, 4)
    monkeypatch.setattr(hybrid, "KEPT", 1)
    hybrid.drop_old_versions(served_space_id())
    assert not Space.objects.filter(pk=first.pk).exists()
    assert not Prototype.objects.filter(space_id=first.pk).exists()


def test_who_names_no_router_is_answered_before_the_first_fit_and_told_by_whom(experts):
    assert retrieve(NOBODY, {"text": ASK["text"]})["router"] == "lora_retriever"
    with pytest.raises(NotReady):
        retrieve(NOBODY, {"text": ASK["text"], "params": {"abstain": False}})
    run_fit()
    assert retrieve(NOBODY, {"text": ASK["text"]})["router"] == "hybrid"


def test_the_first_expert_has_the_space_fitted(experts):
    Watch().look()
    run_fit()
    assert Prototype.objects.filter(kind="hybrid").count() == 3


def test_nothing_is_fitted_before_there_are_vectors():
    assert retrieve(NOBODY, {"text": ASK["text"]})["results"][0]["reason"] == "no_experts"
    assert not Job.objects.filter(kind="fit_space").exists()


def test_another_encoder_answers_without_a_gap(experts, fitted, settings, tmp_path):
    old = retrieve(NOBODY, ANY)
    settings.ENCODER_MODEL = str(write_encoder(tmp_path / "tiny"))
    live.forget()
    Watch().look()
    assert retrieve(NOBODY, ANY)["space"] == old["space"]
    [job] = Job.objects.filter(kind="reembed", status="queued")
    run(str(job.pk))
    job.refresh_from_db()
    assert job.status == "succeeded", job.error
    answer = retrieve(NOBODY, ANY)
    assert answer["space"].endswith(current_encoder().space_id)
    assert sorted(names(answer)) == sorted(names(old))
    base = old["space"].split("@", 1)[1]
    with pytest.raises(CommandError, match="There is no space"):
        call_command("drop_space", old["space"])
    call_command("drop_space", base)
    assert not Space.objects.filter(pk__in=[base, old["space"]]).exists()
    assert names(retrieve(NOBODY, ANY)) == names(answer)


def test_the_fitted_file_is_kept_and_rows_are_served(experts, fitted):
    version = served_version(served_space_id())
    assert version.blob in referenced()
    assert load(as_safetensors(find_prototype(experts["sums"].head, "hybrid")))["hybrid"].shape == (
        1,
        load_space(version).width,
    )
    HybridVersion.objects.all().delete()
    assert Blob.objects.get(pk=version.blob_id) in unreferenced()


def test_short_lists_change_no_score(experts, fitted, monkeypatch):
    for number in range(5):
        make_expert(
            f"cy/more-{number}", [f"Translate to French: {'bread ' * number}", f"Write a poem of {number} lines."]
        )
    one = ANY | {"k": 1}
    [best] = retrieve(NOBODY, one)["results"][0]["matches"]
    monkeypatch.setattr(shortlist, "LISTED", 1)
    [listed] = retrieve(NOBODY, one)["results"][0]["matches"]
    assert (listed["adapter"], listed["score"]) == (best["adapter"], best["score"]) == ("ada/capitals", listed["score"])


def test_filters_and_an_empty_pool(experts, fitted):
    assert names(retrieve(NOBODY, ANY | {"filters": {"tag": ["qa"]}})) == ["ada/capitals"]
    nobody = retrieve(NOBODY, ANY | {"filters": {"tag": ["none"]}, "explain": True})["results"]
    assert (nobody[0]["abstained"], nobody[0]["reason"]) == (True, "no_experts")
    assert current_view().pool.space == served_space_id()
