"""Searching: equal to brute force under any visibility and filter, with and without an index, blind to the unseen."""

import numpy as np
import pytest
from django.contrib.auth.models import AnonymousUser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.changes import current_seq
from retrieval import live, search
from retrieval.index import VectorIndex
from retrieval.live import current_view
from retrieval.models import Space
from retrieval.pool import Pool
from retrieval.search import View, exact_scores
from retrieval.services import retrieve
from tests.retrieval.rows import add_centroid, make_expert, make_user, publish, unit_rows

pytestmark = pytest.mark.django_db

OWNERS = ("ada", "bo", "cy")
TAGS = ("qa", "math", "code")
LICENCES = ("mit", "apache-2.0", "")
EXPERTS = 40
ANY_EXPERT = st.fixed_dictionaries(
    {
        "visibility": st.sampled_from(["public", "private"]),
        "tags": st.lists(st.sampled_from(TAGS), unique=True),
        "license": st.sampled_from(LICENCES),
        "base_model": st.sampled_from(["org/a", "org/b"]),
    }
)
ANY_FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "tag": st.lists(st.sampled_from(TAGS), min_size=1),
        "license": st.lists(st.sampled_from([*LICENCES[:2], "unknown"]), min_size=1),
        "owner": st.lists(st.sampled_from(OWNERS), min_size=1),
        "base_model": st.lists(st.sampled_from(["org/a", "org/b"]), min_size=1),
    },
)
EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def experts():
    vectors = unit_rows(EXPERTS, seed=0)
    vectors[7] = vectors[8] = vectors[9]  # ties
    found = []
    for number in range(EXPERTS):
        found.append(make_expert(f"{OWNERS[number % 3]}/e{number:02}"))
        add_centroid(found[-1], vectors[number])
    return found, vectors


def brute_force(experts, vectors, caller, filters, query, k):
    seen = []
    for expert, vector in zip(experts, vectors, strict=True):
        owner = expert.full_name.split("/")[0]
        columns = {
            "tag": expert.tags,
            "license": [expert.license],
            "owner": [owner],
            "base_model": [expert.base_model],
        }
        visible = expert.visibility == "public" or owner == caller
        if visible and all(set(values) & set(columns[key]) for key, values in filters.items()):
            score = round(float(np.dot(vector.astype(np.float64), query.astype(np.float64))), 6)
            seen.append((-score, expert.full_name))
    return [(name, -score) for score, name in sorted(seen)[:k]]


def answer(view, query, k, user, filters):
    chosen = tuple((key, tuple(values)) for key, values in sorted(filters.items()))
    rows, scores = view.search(query, k, view.select(user.pk, chosen))
    return list(zip(view.pool.rows["name"][rows], scores, strict=True))


def with_index(view, share):
    """The same view with the first share of its vectors in an index."""
    ids = np.sort(view.pool.rows["prototype"])[: int(share * len(view.pool))]
    rows = [int(np.flatnonzero(view.pool.rows["prototype"] == one)[0]) for one in ids]
    vectors = np.stack([view.vector(row) for row in rows])
    return View(view.pool, VectorIndex.build([(ids, vectors)]), "test", view)


@EXAMPLES
@given(data=st.data())
def test_search_equals_brute_force(experts, data):
    rows, vectors = experts
    for expert in rows:
        publish(expert, **data.draw(ANY_EXPERT))
    caller = data.draw(st.sampled_from([*OWNERS, "nobody"]))
    user = AnonymousUser() if caller == "nobody" else make_user(caller)
    filters = data.draw(ANY_FILTERS)
    near = data.draw(st.sampled_from([7, 20]))
    query = vectors[near] if data.draw(st.booleans()) else unit_rows(1, seed=5)[0]
    k = data.draw(st.integers(1, EXPERTS + 5))
    expected = brute_force(rows, vectors, caller, filters, query, k)
    view = current_view()
    for place in (view, with_index(view, 1.0), with_index(view, 0.6)):
        found = answer(place, query, k, user, filters)
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-9)


def test_ties_at_the_boundary_are_all_looked_at():
    same = unit_rows(1, seed=1)[0]
    for number in range(60):
        add_centroid(make_expert(f"ada/{59 - number:02}"), same)
    view = current_view()
    for place in (view, with_index(view, 1.0), with_index(view, 0.5)):
        found = answer(place, same, 3, AnonymousUser(), {})
        assert [name for name, _ in found] == ["ada/00", "ada/01", "ada/02"]


def test_a_score_depends_on_its_own_vectors_only():
    rows, [query] = unit_rows(50, seed=2), unit_rows(1, seed=3)
    together = exact_scores(query, rows)
    assert [exact_scores(query, rows[place : place + 1])[0] for place in range(50)] == together.tolist()


def test_vectors_of_another_space_are_not_found():
    other = Space.objects.create(
        pk="other@0", encoder="other", revision="0" * 64, pooling="mean", dim=384, max_tokens=256
    )
    [vector] = unit_rows(1, seed=4)
    add_centroid(make_expert("ada/foreign"), vector, other)
    add_centroid(make_expert("ada/ours"), vector)
    assert answer(current_view(), vector, 10, AnonymousUser(), {}) == [("ada/ours", 1.0)]


def test_only_what_changed_is_read_again(experts, django_assert_max_num_queries, monkeypatch):
    current_view()
    monkeypatch.setattr(search, "read_vectors", lambda ids: pytest.fail(f"{ids} were read again"))
    publish(experts[0][0], tags=["new"])
    # The position, the space in service before and after, the changed adapters, the newest snapshot.
    with django_assert_max_num_queries(7):
        assert "new" in current_view().pool.codes
    with django_assert_max_num_queries(1):
        current_view()


def test_a_change_that_comes_while_the_pool_is_read_counts_as_seen(experts, monkeypatch):
    """Otherwise two processes would call different experts the same version."""
    before = current_seq()
    publish(experts[0][0], tags=["new"])
    monkeypatch.setattr("retrieval.pool.current_seq", lambda: before)
    assert Pool(current_view().pool.space).refreshed().seq == current_seq() > before


TEXTS = {
    "ada/capitals": ["Name the capital of France.", "What is the capital of Japan?"],
    "bo/sums": ["What is 12 + 30?", "Add 4 and 5."],
    "cy/verbs": ["Past tense of 'eat'?"],
    "bo/capitals": ["Name the capital of France.", "Capital of Mali?"],
}


ASKED = (
    {"router": "lora_retriever", "params": {"min_score": 0.6}},
    {"router": "adapter_soup"},
    {"router": "adapter_soup", "params": {"selection": "gmm"}},
    {"router": "retrieval_of_experts"},
    {"router": "airoboros"},
    {"router": "what_the_weight"},
    {"router": "what_the_weight", "params": {"score": "tf_idf"}},
)


@settings(EXAMPLES, max_examples=16)
@given(data=st.data())
def test_what_a_caller_may_not_see_changes_nothing(data):
    """The answer equals that of a server that holds only what the caller may see."""
    experts = {name: make_expert(name, texts) for name, texts in TEXTS.items() if not exists(name)}
    experts |= {name: exists(name) for name in TEXTS if name not in experts}
    caller = data.draw(st.sampled_from(["ada", "bo", "nobody"]))
    user = AnonymousUser() if caller == "nobody" else make_user(caller)
    hidden = []
    for name, expert in experts.items():
        visibility = data.draw(st.sampled_from(["public", "private"]))
        publish(expert, visibility=visibility, yanked_at=None)
        if visibility == "private" and name.split("/")[0] != caller:
            hidden.append(expert)
    asked = {
        "texts": ["Name the capital of Peru.", "What is 3 + 4?"],
        "k": data.draw(st.integers(1, 5)),
        "explain": True,
        **data.draw(st.sampled_from(ASKED)),
    }
    full = retrieve(user, asked)
    for expert in hidden:
        publish(expert, yanked_at=expert.created_at)
    live.forget()
    assert retrieve(user, asked)["results"] == full["results"]


def exists(name):
    from registry.models import Adapter

    return Adapter.objects.filter(full_name=name).first()
