"""What every registered router must do; a new file in lora/routers is tested on arrival."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.errors import InvalidParams, LoraError
from lora.prototypes import PROTOTYPES
from lora.routers import ROUTERS, Floats, SampleRouter

NAMES = ROUTERS.names()
# Routers that compare one vector with one per expert, and those that compare all with all.
BY_VECTOR = [name for name in NAMES if ROUTERS.get(name).traits["prototype"] == "centroid"]
BY_SAMPLES = [name for name in NAMES if ROUTERS.get(name).traits["prototype"] == "samples"]
FORMS = {"text", "texts", "examples", "vector", "vectors", "adapter"}
SCORES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20)


def router(name: str, **params: object) -> Any:
    return ROUTERS.get(name).run(ROUTERS.parse(name, params))


def unit_rows(n: int, dim: int = 6, seed: int = 0) -> Floats:
    rows = np.random.default_rng(seed).normal(size=(n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_traits_tell_what_to_search_and_how_much(name: str) -> None:
    traits = ROUTERS.get(name).traits
    assert traits["prototype"] in PROTOTYPES.names()
    assert set(traits["accepts"]) <= FORMS
    assert traits["when"].endswith(".")
    assert 1 <= traits["k"] <= 100


@pytest.mark.parametrize("name", BY_VECTOR)
def test_query_is_one_finite_unit_vector_whatever_the_order(name: str) -> None:
    rows = unit_rows(5)
    vector = router(name).query(rows)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert router(name).query(rows[::-1].copy()) == pytest.approx(vector, abs=1e-6)
    assert router(name).query(rows[:1]) == pytest.approx(rows[0], abs=1e-6)


@pytest.mark.parametrize("name", BY_VECTOR)
@pytest.mark.parametrize("rows", [np.zeros((0, 4), np.float32), np.full((2, 4), np.nan, np.float32)])
def test_bad_embeddings_are_refused(name: str, rows: Floats) -> None:
    with pytest.raises(LoraError):
        router(name).query(rows)


@pytest.mark.parametrize("name", NAMES)
@given(values=SCORES)
def test_weights_are_a_distribution_that_follows_the_scores(name: str, values: list[float]) -> None:
    scores = np.array(sorted(values, reverse=True), dtype=np.float32)
    before = scores.copy()
    weights = router(name).weigh(scores)
    assert (scores == before).all()
    assert weights.dtype == np.float32
    assert weights.shape == scores.shape
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert (np.diff(weights) <= 1e-7).all()


@pytest.mark.parametrize("name", NAMES)
def test_min_score_drops_what_is_below_it(name: str) -> None:
    bounds = ROUTERS.schema(name)["properties"]["min_score"]
    # The upper end of what the parameter may be: a cosine or a share up to 1, or minus a distance up to 0.
    scores = np.array([0.9, 0.5, 0.1], dtype=np.float32) + np.float32(bounds["maximum"] - 1)
    floor = (scores[0] + scores[1]) / 2
    if bounds["maximum"] == 1:
        assert router(name).keep(scores).tolist() == [True, True, True]
    assert router(name, min_score=float(floor)).keep(scores)[1:].tolist() == [False, False]
    assert len(router(name).weigh(scores[:0])) == 0
    with pytest.raises(InvalidParams):
        router(name, min_score=float("nan"))


@pytest.mark.parametrize("name", BY_SAMPLES)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), m=st.integers(1, 5))
def test_a_score_by_samples_knows_no_order_and_no_other_expert(name: str, seed: int, sizes: list[int], m: int) -> None:
    """Of samples, texts and experts; what a text says of an expert is the same without the others."""
    rng = np.random.default_rng(seed)
    made: SampleRouter = router(name)
    parts = [rng.uniform(-1, 1, (m, size)) for size in sizes]
    starts = np.cumsum([0, *sizes[:-1]])
    scores = made.score(np.hstack(parts), starts)
    assert scores.dtype == np.float64
    assert scores.shape == (len(sizes),)
    assert np.isfinite(scores).all()
    mixed = [part[::-1, rng.permutation(part.shape[1])] for part in parts[::-1]]
    assert made.score(np.hstack(mixed), np.cumsum([0, *sizes[:0:-1]]))[::-1] == pytest.approx(scores, abs=1e-12)
    compared = made.compare(np.hstack(parts), starts)
    assert compared.shape == (m, len(sizes))
    for place, part in enumerate(parts):
        assert made.compare(part, np.array([0]))[:, 0] == pytest.approx(compared[:, place], abs=1e-12)


@pytest.mark.parametrize("name", BY_SAMPLES)
def test_samples_that_are_nearer_score_higher(name: str) -> None:
    near, far = np.full((3, 4), 0.9), np.full((3, 4), 0.1)
    scores = router(name).score(np.hstack([far, near]), np.array([0, 4]))
    assert scores[1] > scores[0]


def test_lora_retriever_weighs_by_softmax() -> None:
    scores = np.array([0.7, 0.5, -0.2], dtype=np.float32)
    exponents = np.exp(scores / 0.1)
    assert router("lora_retriever").weigh(scores) == pytest.approx(exponents / exponents.sum(), abs=1e-6)
    assert router("lora_retriever", temperature=None).weigh(scores) == pytest.approx([1 / 3] * 3)
    assert router("lora_retriever", temperature=1e-30).weigh(scores) == pytest.approx([1, 0, 0])
    assert router("lora_retriever").keep(scores).all()
    with pytest.raises(InvalidParams, match="temperature must be above 0"):
        router("lora_retriever", temperature=0)


def test_adapter_soup_mixes_positive_matches_in_equal_parts() -> None:
    scores = np.array([0.7, 0.5, 0.0, -0.2], dtype=np.float32)
    soup = router("adapter_soup")
    kept = soup.keep(scores)
    assert kept.tolist() == [True, True, False, False]
    assert soup.weigh(scores[kept]).tolist() == [0.5, 0.5]
