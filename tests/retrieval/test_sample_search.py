"""Routers over samples: equal to brute force over all samples, whoever asks, and as fresh as the pool."""

import numpy as np
import pytest
from django.contrib.auth.models import AnonymousUser

from lora.routers import ROUTERS, TextSet
from retrieval import sample_rows, sample_search
from retrieval.live import current_view
from retrieval.models import Prototype
from retrieval.sample_rows import Block, runs
from retrieval.sample_search import search_samples
from retrieval.services import retrieve
from tests.retrieval.rows import add_revision, make_expert, make_user, publish, text_space, unit_rows

pytestmark = pytest.mark.django_db

NOBODY = AnonymousUser()
ROUTER_PARAMS = [
    ("retrieval_of_experts", {}),
    ("airoboros", {"neighbours": 3}),
    ("airoboros", {}),
    ("what_the_weight", {}),
]
SIZES = (1, 2, 20, 21, 60, 5, 5, 5)


def add_samples(adapter, rows):
    """Give the head of an adapter sample vectors of one's own, and their centroid, so that it is in the pool."""
    mean = rows.mean(axis=0, keepdims=True)
    for kind, vectors in (("samples", rows), ("centroid", mean / np.linalg.norm(mean))):
        Prototype.objects.create(
            revision=adapter.head,
            kind=kind,
            space=text_space(),
            count=len(vectors),
            dim=vectors.shape[1],
            vectors=vectors.astype("<f4").tobytes(),
        )
    publish(adapter)


@pytest.fixture
def experts():
    found = {}
    for number, size in enumerate(SIZES):
        # Around a centre of their own, as samples of one task are.
        rows = unit_rows(1, seed=number) + 0.8 * unit_rows(size, seed=100 + number)
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        name = f"{('ada', 'bo')[number % 2]}/e{number}"
        add_samples(make_expert(name, tags=["odd"] if number % 2 else []), rows)
        found[name] = rows
    return found


def query_rows(count=6):
    rows = np.stack([unit_rows(1, seed=number % len(SIZES))[0] for number in range(count)])
    rows = rows + unit_rows(count, seed=77)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make(name, params):
    return ROUTERS.get(name).run(ROUTERS.parse(name, params))


def brute_force(router, query, experts, k):
    names = sorted(experts)
    rows = np.vstack([experts[name] for name in names]).astype(np.float64)
    starts = np.cumsum([0, *[len(experts[name]) for name in names[:-1]]])
    scores = router.score(np.round(query.astype(np.float64) @ rows.T, 6), starts)
    best = sorted(range(len(names)), key=lambda place: (-round(scores[place], 9), names[place]))[:k]
    return [(names[place], pytest.approx(scores[place], abs=1e-5)) for place in best]


def answer(router, queries, k, mask=None):
    view = current_view()
    mask = view.select(None).mask if mask is None else mask
    found = search_samples(view.pool, router, [TextSet(rows) for rows in queries], k, mask)
    return [list(zip(view.pool.rows["name"][rows], scores, strict=True)) for rows, scores in found]


@pytest.mark.parametrize(("name", "params"), ROUTER_PARAMS)
def test_search_equals_brute_force(experts, name, params, monkeypatch):
    router = make(name, params)
    queries = [query_rows(), query_rows(1), query_rows(8)[3:]]
    expected = [brute_force(router, rows, experts, 4) for rows in queries]
    assert answer(router, queries, 4) == expected
    # In pieces, and with a short list that is shorter than the pool.
    monkeypatch.setattr(sample_search, "CHUNK_ROWS", 7)
    assert answer(router, queries, 4) == expected
    shown = {name: rows for name, rows in experts.items() if name.startswith("bo/")}
    mask = current_view().select(None, (("owner", ("bo",)),)).mask
    assert answer(router, queries, 4, mask) == [brute_force(router, rows, shown, 4) for rows in queries]


@pytest.mark.parametrize(("name", "params"), ROUTER_PARAMS)
def test_a_short_list_is_scored_by_all_samples(name, params, monkeypatch):
    """Each expert has more samples than are held, and there are more experts than a list has places."""
    monkeypatch.setattr(sample_rows, "INDEXED", 2)
    monkeypatch.setattr(sample_search, "SPARE", 4)
    experts = {}
    for number in range(20):
        rows = unit_rows(1, seed=number, dim=384) + 0.5 * unit_rows(3, seed=1000 + number)
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        experts[f"ada/e{number:03}"] = rows
        add_samples(make_expert(f"ada/e{number:03}"), rows)
    router = make(name, params)
    queries = [unit_rows(1, seed=5), unit_rows(1, seed=19)]
    assert answer(router, queries, 1) == [brute_force(router, rows, experts, 1) for rows in queries]


def test_ties_beyond_the_short_list_go_by_name(monkeypatch):
    monkeypatch.setattr(sample_search, "SPARE", 4)
    same = unit_rows(3, seed=1)
    for number in range(30):
        add_samples(make_expert(f"ada/{29 - number:02}"), same)
    for name, params in ROUTER_PARAMS:
        [found] = answer(make(name, params), [same[:1]], 2)
        assert [name for name, _ in found] == ["ada/00", "ada/01"]


def test_changes_show_at_once_and_only_they_are_read(experts, monkeypatch):
    router, query = make("retrieval_of_experts", {}), query_rows()
    answer(router, [query], 4)
    read = []
    original = sample_rows._read
    monkeypatch.setattr(sample_rows, "_read", lambda ids, *rest: read.append(len(ids)) or original(ids, *rest))
    new = unit_rows(4, seed=50)
    add_samples(make_expert("cy/new"), new)
    expected = brute_force(router, new, experts | {"cy/new": new}, 3)
    assert answer(router, [new], 3) == [expected]
    assert expected[0][0] == "cy/new"
    assert read == [1]
    adapter = current_adapter("cy/new")
    revision = add_revision(adapter)
    publish(adapter, revision)
    add_samples(adapter, query_rows())
    assert answer(router, [query], 1)[0][0] == ("cy/new", pytest.approx(1.001))
    publish(adapter, yanked_at=adapter.created_at)
    assert answer(router, [query], 4) == [brute_force(router, query, experts, 4)]


def test_a_long_tail_is_joined_and_what_is_gone_is_dropped(experts, monkeypatch):
    monkeypatch.setattr(sample_rows, "MIN_TAIL", 2)
    router, query = make("what_the_weight", {}), query_rows()
    answer(router, [query], 1)
    gone = current_adapter("ada/e0")
    publish(gone, yanked_at=gone.created_at)
    for number in range(6):
        rows = unit_rows(3, seed=60 + number)
        add_samples(make_expert(f"cy/e{number}"), rows)
        experts[f"cy/e{number}"] = rows
        shown = {name: rows for name, rows in experts.items() if name != "ada/e0"}
        assert answer(router, [query], 20) == [brute_force(router, query, shown, 20)]
    held = sample_rows.sample_rows(current_view().pool)
    assert len(held.blocks) <= 2
    assert gone.head_id not in held.blocks[0].revisions


def test_a_large_pool_holds_fewer_vectors_of_each(experts, monkeypatch):
    monkeypatch.setattr(sample_rows, "MAX_ROWS", 3 * len(SIZES))
    router, query = make("airoboros", {"neighbours": 4}), query_rows()
    assert answer(router, [query], 20) == [brute_force(router, query, experts, 20)]
    held = sample_rows.sample_rows(current_view().pool)
    assert sum(len(block.rows) for block in held.blocks) <= 3 * len(SIZES)


def current_adapter(name):
    from registry.models import Adapter

    return Adapter.objects.get(full_name=name)


def test_runs_are_numbers_one_after_the_other():
    assert runs(np.array([5, 0, 9]), np.array([2, 3, 1])).tolist() == [5, 6, 0, 1, 2, 9]
    assert runs(np.array([], int), np.array([], int)).tolist() == []
    empty = Block(np.array([], int), np.array([], int), np.array([0]), np.empty((0, 1), np.float32))
    assert empty.places_of(np.array([3])).tolist() == [-1]


CAPITALS = ["Name the capital of France.", "What is the capital of Japan?", "Capital of Spain?"]
SUMS = ["What is 12 + 30?", "Add 4 and 5.", "What is 7 + 8?"]
EXAMPLES = [{"input": "Capital of Chile?"}, {"input": "What is the capital of Mali?"}, {"input": "What is 1 + 1?"}]


# The hybrid router has a space, routers from outcomes and descriptions have texts: each kind has tests of its own.
IN_THE_ENCODERS_SPACE = [
    name
    for name in ROUTERS.names()
    if "examples" in ROUTERS.get(name).traits["accepts"]
    and ROUTERS.get(name).traits["prototype"] not in ("hybrid", "outcomes", "description")
]


@pytest.mark.parametrize("name", IN_THE_ENCODERS_SPACE)
def test_every_router_for_examples_answers_and_explains(name):
    make_expert("ada/capitals", CAPITALS)
    make_expert("bo/sums", SUMS, samples_public=False)
    make_expert("cy/secret", CAPITALS, visibility="private")
    answer = retrieve(NOBODY, {"router": name, "examples": EXAMPLES, "k": 5, "explain": True})
    [result] = answer["results"]
    assert [match["adapter"] for match in result["matches"]] == ["ada/capitals", "bo/sums"]
    capitals, sums = result["matches"]
    assert sum(match["weight"] for match in result["matches"]) == pytest.approx(1)
    assert capitals["score"] > sums["score"]
    assert capitals["evidence"]["samples"][0]["input"] in CAPITALS
    assert sums["evidence"]["samples"][0].keys() == {"score"}
    [own] = retrieve(make_user("cy"), {"router": name, "examples": EXAMPLES, "k": 5})["results"]
    assert "cy/secret" in [match["adapter"] for match in own["matches"]]


@pytest.mark.parametrize(
    ("name", "params"), [("adapter_soup", {"selection": "gmm"}), ("what_the_weight", {"score": "tf_idf"})]
)
def test_routers_that_rescore_a_short_list(name, params):
    make_expert("ada/capitals", CAPITALS)
    make_expert("bo/sums", SUMS)
    asked = {"router": name, "params": params, "examples": EXAMPLES, "explain": True}
    [result] = retrieve(NOBODY, asked)["results"]
    assert [match["adapter"] for match in result["matches"]] == ["ada/capitals", "bo/sums"]
    if name == "adapter_soup":
        assert [match["score"] for match in result["matches"]] == pytest.approx([2 / 3, 1 / 3], abs=1e-6)
    assert result["matches"][0]["evidence"]["samples"]


def test_evidence_is_what_is_nearest_to_any_example():
    make_expert("ada/both", [*CAPITALS, *SUMS])
    asked = {
        "router": "retrieval_of_experts",
        "examples": [{"input": CAPITALS[2]}, {"input": SUMS[1]}],
        "explain": True,
    }
    [result] = retrieve(NOBODY, asked)["results"]
    [first, second, _] = result["matches"][0]["evidence"]["samples"]
    assert {first["input"], second["input"]} == {CAPITALS[2], SUMS[1]}
    assert (first["score"], second["score"]) == (pytest.approx(1), pytest.approx(1))


def test_nobody_and_nobody_near_enough_abstain():
    asked = {"text": "anything", "router": "retrieval_of_experts"}
    assert retrieve(NOBODY, asked)["results"] == [{"abstained": True, "reason": "no_experts", "matches": []}]
    make_expert("ada/capitals", CAPITALS)
    far = {"text": "Bake a cake.", "router": "airoboros", "params": {"min_score": -0.1}}
    assert retrieve(NOBODY, far)["results"] == [{"abstained": True, "reason": "below_threshold", "matches": []}]
