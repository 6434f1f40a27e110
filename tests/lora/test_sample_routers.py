"""Each router's formula, against one written down anew."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances
from sklearn.mixture import GaussianMixture

from lora.lexical import STOP_WORDS, document_similarity
from lora.mixture import FLOOR, fit_mixture, principal_axes
from lora.routers import TextSet
from tests.lora.test_every_router import router, unit_rows

SIZES = (3, 1, 25, 8)
STARTS = np.cumsum([0, *SIZES[:-1]])


def experts(seed: int = 0, dim: int = 6) -> list:
    return [unit_rows(size, dim, seed + place) for place, size in enumerate(SIZES)]


def score(name: str, queries: np.ndarray, samples: list, **params: object) -> np.ndarray:
    return router(name, **params).score(cosine_similarity(queries, np.vstack(samples)), STARTS)


def test_retrieval_of_experts_counts_votes() -> None:
    queries, samples = unit_rows(40, seed=9), experts()
    owners = np.repeat(range(len(SIZES)), SIZES)
    winners = [int(owners[np.argmax(np.vstack(samples) @ query)]) for query in queries]
    nearest = np.array([[max(rows @ query) for rows in samples] for query in queries])
    expected = [winners.count(place) / 40 + nearest[:, place].mean() / 1000 for place in range(len(SIZES))]
    found = score("retrieval_of_experts", queries, samples)
    assert found == pytest.approx(expected, abs=1e-6)
    kept = router("retrieval_of_experts", min_score=0.3).keep(found)
    assert kept.tolist() == [value >= 0.3 for value in expected]
    assert router("retrieval_of_experts").weigh(np.array([0.6, 0.2])) == pytest.approx([0.75, 0.25])


def test_equal_votes_are_decided_by_similarity_and_equal_neighbours_share_one() -> None:
    # One vote each; the first expert is nearer on the average.
    similarities = np.array([[0.9, 0.8], [0.5, 0.6]])
    scores = router("retrieval_of_experts").score(similarities, np.array([0, 1]))
    assert scores == pytest.approx([0.5007, 0.5007])
    similarities[0, 0] = 0.95
    scores = router("retrieval_of_experts").score(similarities, np.array([0, 1]))
    assert scores[0] > scores[1]
    same = router("retrieval_of_experts").score(np.full((1, 2), 0.5), np.array([0, 1]))
    assert same == pytest.approx([0.5005, 0.5005])


@pytest.mark.parametrize("neighbours", [1, 4, 20, 1000])
def test_airoboros_measures_squared_distances_to_the_nearest(neighbours: int) -> None:
    queries, samples = unit_rows(3, seed=9), experts()
    expected = []
    for rows in samples:
        count = max(1, min(neighbours, len(rows) - 1))
        squared = np.sort(euclidean_distances(queries, rows, squared=True), axis=1)[:, :count]
        expected.append(-squared.mean())
    assert score("airoboros", queries, samples, neighbours=neighbours) == pytest.approx(expected, abs=1e-5)
    assert router("airoboros").weigh(np.array([-0.2, -0.5])).tolist() == [0.5, 0.5]


def test_what_the_weight_means_clipped_cosines_of_all_pairs() -> None:
    queries, samples = unit_rows(7, seed=9), experts()
    expected = [np.maximum(cosine_similarity(queries, rows), 0).mean() for rows in samples]
    assert score("what_the_weight", queries, samples) == pytest.approx(expected, abs=1e-6)
    scores = np.array([0.6, 0.3, 0.0])
    assert router("what_the_weight").weigh(scores) == pytest.approx([2 / 3, 1 / 3, 0])
    assert router("what_the_weight", weights="uniform").weigh(scores) == pytest.approx([1 / 3] * 3)
    assert router("what_the_weight", score="uniform").weigh(scores) == pytest.approx([1 / 3] * 3)
    assert router("what_the_weight").weigh(np.zeros(2)).tolist() == [0.5, 0.5]


TEXTS = (
    ("The cat sat on the mat.", "A dog, and the cat again!"),
    ("What is 12 + 30?", "Add 12 and 30 and 30."),
    ("The the of and.",),
)


def test_what_the_weight_compares_word_counts() -> None:
    query = ("Where is the cat?", "Feed the dog 12 times; the dog is hungry")
    expected = []
    for texts in TEXTS:
        words = TfidfVectorizer(stop_words=sorted(STOP_WORDS), token_pattern=r"(?u)\w+")
        rows = words.fit_transform([" ".join(query), " ".join(texts)])
        expected.append(float((rows[0] @ rows[1].T).toarray()[0, 0]))
    by_words = router("what_the_weight", score="tf_idf")
    assert (by_words.reads_texts, by_words.shortlist > 0) == (True, True)
    row = unit_rows(1)
    found = by_words.rescore(TextSet(row, query), [TextSet(row, texts) for texts in TEXTS])
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[2] == 0
    assert document_similarity("same words here", "same words here") == pytest.approx(1)
    assert document_similarity("", "") == 0


def test_a_mixture_is_what_expectation_maximisation_gives() -> None:
    rng = np.random.default_rng(0)
    points = np.vstack([rng.normal(place, 0.5, (30, 4)) for place in (0.0, 1.0, 3.0)])
    means = rng.normal(1.0, 1.0, (3, 4))
    steps = 7
    oracle = GaussianMixture(
        3,
        covariance_type="diag",
        means_init=means,
        weights_init=np.full(3, 1 / 3),
        precisions_init=np.tile(1 / (points.var(axis=0) + FLOOR), (3, 1)),
        reg_covar=FLOOR,
        max_iter=steps,
        tol=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        oracle.fit(points)
    mixture = fit_mixture(points, means, steps)
    assert mixture.means == pytest.approx(oracle.means_, abs=1e-9)
    assert mixture.variances == pytest.approx(oracle.covariances_, abs=1e-9)
    assert mixture.posteriors(points) == pytest.approx(oracle.predict_proba(points), abs=1e-9)


def test_principal_axes_are_the_directions_of_most_variance() -> None:
    points = np.random.default_rng(1).normal(size=(50, 5)) * [1, 5, 0.1, 3, 2]
    axes = principal_axes(points, 2)
    assert axes.T @ axes == pytest.approx(np.eye(2), abs=1e-12)
    assert np.abs(axes).argmax(axis=0).tolist() == [1, 3]
    assert principal_axes(-points, 2) == pytest.approx(axes)
    assert principal_axes(points, 99).shape == (5, 5)


def test_adapter_soup_assigns_examples_to_clusters() -> None:
    rng = np.random.default_rng(2)
    centres = np.linalg.qr(rng.normal(size=(8, 4)))[0].T

    def around(place: int, count: int) -> np.ndarray:
        rows = centres[place] + rng.normal(0, 0.1, (count, 8))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    by_clusters = router("adapter_soup", selection="gmm")
    assert by_clusters.prototype == "samples"
    assert router("adapter_soup").prototype == "centroid"
    pool = [TextSet(around(place, 30)) for place in range(4)]
    query = TextSet(np.vstack([around(1, 6), around(3, 2)]))
    scores = by_clusters.rescore(query, pool)
    assert scores.tolist() == [0, 0.75, 0, 0.25]
    assert by_clusters.keep(scores).tolist() == [False, True, False, True]
    assert by_clusters.rescore(query, pool[:1]).tolist() == [1]


def test_molora_and_token_level_weigh_by_softmax() -> None:
    scores = np.array([0.7, 0.5, -0.2], dtype=np.float32)
    for name, temperature in (("molora", 0.1), ("token_level", 0.25)):
        exponents = np.exp(scores / temperature)
        assert router(name).weigh(scores) == pytest.approx(exponents / exponents.sum(), abs=1e-6)
        assert router(name, temperature=1e-30).weigh(scores) == pytest.approx([1, 0, 0])
        assert router(name).keep(scores).all()
