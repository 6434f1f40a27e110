"""The hybrid space against a dense float64 Gaussian, and what must not change a score."""

import numpy as np
import pytest
from safetensors.numpy import load

from lora.array_file import array_file
from lora.errors import LoraError
from lora.hybrid import fitting, shortlist
from lora.hybrid.abstention import Judgement, Logistic
from lora.hybrid.default import load_default
from lora.hybrid.features import CHARS, EDGES, FORMATS
from lora.hybrid.fitting import Background, Labelled, fit
from lora.hybrid.held_out import Means
from lora.hybrid.shortlist import Head
from lora.hybrid.space import HybridSpace, joint
from lora.hybrid.whitening import Whitening
from lora.routers.hybrid import Hybrid, HybridParams

DIM = 6
FAR = [["数独を解いて", "明日は雨です", "駅はどこ"], ["#@!! %%", "~~ ^^ ||", ";;;; ::"], ["zzzzz"]]
SUBJECTS = ["cats", "dogs", "tea", "rain", "bread", "ships", "stars", "moss", "ink", "salt"]
FORMS = [
    "Name the capital of the country of {}.",
    "Q: is {} more than 12?\nA:",
    '{{"item": "{}", "count": 3}}',
    "def {}(x):\n    return x + 1",
    "¿Dónde están los {} y por qué?",
]


def embed(texts: list[str]) -> np.ndarray:
    """A stand-in for the encoder: unit rows that follow from the letters of a text."""
    rows = np.array(
        [[text.count(letter) + 0.1 * len(text) / (i + 1) for i, letter in enumerate("aeostr")] for text in texts]
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def labelled(forms: list[str], per_form: int = 10) -> Labelled:
    texts = [form.format(subject) for form in forms for subject in SUBJECTS[:per_form]]
    return Labelled(texts, embed(texts), np.repeat(np.arange(len(forms)), per_form))


def shipped() -> Background:
    return Background.encoded([[form.format(subject) for subject in SUBJECTS] for form in FORMS], FAR, embed)


def fitted(pool: Labelled | None = None) -> HybridSpace:
    return fit(shipped(), pool)


@pytest.fixture(scope="module")
def space() -> HybridSpace:
    return fitted()


def test_inner_product_is_the_log_density_of_a_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "NUISANCE_PART", 0.0)
    background = labelled(FORMS)
    space = fit(shipped())
    x = joint(background.embeddings, space.surface.rows(background.texts)).astype(np.float64)
    means = x.reshape(5, 10, -1).mean(axis=1)
    within = (x - np.repeat(means, 10, axis=0)).T @ (x - np.repeat(means, 10, axis=0)) / (50 - 5)
    d = x.shape[1]
    blended = (1 - fitting.SHRINKAGE) * within + fitting.SHRINKAGE * np.trace(within) / d * np.eye(d)
    queries = [form.format("wool") for form in FORMS]
    q = joint(embed(queries), space.surface.rows(queries)).astype(np.float64)
    values, vectors = np.linalg.eigh(blended)
    root = vectors / np.sqrt(values) @ vectors.T

    def placed(rows: np.ndarray) -> np.ndarray:
        z = (rows - x.mean(axis=0)) @ root
        return z / np.linalg.norm(z, axis=1, keepdims=True) ** 0.5 * d**0.25

    means = placed(x).reshape(5, 10, -1).mean(axis=1)
    densities = -0.5 * np.square(placed(q)[:, None] - means).sum(axis=2)

    rows = np.stack([space.expert_row(embed(t), t) for t in np.array(background.texts).reshape(5, 10).tolist()])
    for query, wanted in zip(queries, densities, strict=True):
        asked = space.query(embed([query]), [query])
        assert asked.rows.shape == (1, space.width) == (1, DIM + CHARS + EDGES + FORMATS + 1)
        scores = space.combine(asked, asked.rows.astype(np.float64) @ rows.T.astype(np.float64))
        assert scores == pytest.approx(wanted, rel=1e-4)
    assert densities.argmax(axis=1).tolist() == list(range(5))


def test_low_rank_whitening_is_the_inverse_square_root() -> None:
    residuals = np.random.default_rng(1).normal(size=(30, 12)) * np.linspace(3, 0.1, 12)
    W = residuals.T @ residuals
    for a, rank in ((0.3, 12), (1.0, 12), (0.05, 40)):
        R = Whitening.fit(residuals, a, rank).apply(np.eye(12))
        blended = (1 - a) * W + a * np.trace(W) / 12 * np.eye(12)
        assert R.T @ R @ blended == pytest.approx(np.eye(12), abs=1e-4)
    whitening = Whitening.fit(residuals, 0.3, 12)
    for count in (0, 1, 3, 12):
        assert whitening.apply(np.eye(12)[:count]) == pytest.approx(whitening.apply(np.eye(12))[:count])


def test_many_rows_are_whitened_as_few_are() -> None:
    rng = np.random.default_rng(2)
    residuals = rng.normal(size=(1500, 40)) * 1.3 ** -np.arange(40)
    found, W = Whitening.fit(residuals, 0.5, 20), residuals.T @ residuals
    values, vectors = np.linalg.eigh(W)
    floor = 0.5 * np.trace(W) / 40
    gains = np.sqrt(floor / (floor + 0.5 * values[::-1][:20])) - 1
    assert found.gains == pytest.approx(gains, abs=1e-5)
    assert np.abs((found.basis[:, :5] * vectors[:, ::-1][:, :5]).sum(axis=0)) == pytest.approx(np.ones(5), abs=1e-4)


def test_a_strange_text_is_less_long_than_it_is_strange() -> None:
    whitening = Whitening.fit(np.random.default_rng(1).normal(size=(30, 9)), 0.3, 9)
    rows = np.random.default_rng(2).normal(size=(2, 9))
    z, placed = whitening.apply(rows), whitening.place(rows)
    assert placed / np.linalg.norm(placed, axis=1, keepdims=True) == pytest.approx(
        z / np.linalg.norm(z, axis=1, keepdims=True)
    )
    assert np.linalg.norm(placed, axis=1) == pytest.approx(np.sqrt(3 * np.linalg.norm(z, axis=1)))
    assert whitening.place(4 * rows) == pytest.approx(2 * placed)
    assert whitening.place(np.zeros((1, 9))).tolist() == [[0.0] * 9]


def test_nothing_varies_and_every_direction_counts_the_same() -> None:
    assert Whitening.fit(np.zeros((4, 3)), 0.8, 2).apply(np.eye(3)) == pytest.approx(np.eye(3))


def test_left_out_samples_are_measured_from_the_mean_of_the_others() -> None:
    z = np.random.default_rng(3).normal(size=(7, 4))
    labels = np.array([0, 0, 0, 1, 1, 2, 1])
    asked = np.flatnonzero(labels != 2)
    experts = Means.of(z, labels, np.array([0, 1, 4]))
    for changed in (z[asked], z[asked] + 0.5):
        found = experts.against(changed, np.zeros((6, 2)), labels[asked], z[asked])
        everybody = found.nearness(np.ones((6, 3), bool))
        for row, i in enumerate(asked):
            means = np.stack([z[(labels == k) & (np.arange(7) != i)].mean(axis=0) for k in range(3)])
            wanted = -0.5 * np.square(changed[row] - means).sum(axis=1)
            assert found.densities()[row] == pytest.approx(wanted)
            assert everybody.scores[row] == pytest.approx(-np.sort(-wanted))
            best = means[wanted.argmax()]
            assert everybody.inner[row] == pytest.approx([changed[row, 0] * best[0], changed[row, 1:] @ best[1:]])
            assert everybody.means[row] == pytest.approx([best[0] ** 2, best[1:] @ best[1:]])


def test_pools_of_several_sizes_hold_the_own_expert_or_not() -> None:
    z = np.random.default_rng(4).normal(size=(60, 3))
    labels = np.repeat(np.arange(20), 3)
    found = Means.of(z, labels, np.array([0, 3])).against(z, np.zeros((60, 2)), labels)
    present, absent = found.evidence(np.random.default_rng(0))
    assert len(present) == len(absent) == 3 * 60
    strangers = Means.of(z, labels, np.array([0, 3])).against(z, np.zeros((60, 2)))
    assert len(strangers.evidence(np.random.default_rng(0))[0]) == 0
    assert strangers.densities().max() == pytest.approx(
        -0.5 * min(np.square(row - z.reshape(20, 3, 3).mean(axis=1)[k]).sum() for row in z for k in range(20))
    )


def test_logistic_model_finds_the_odds() -> None:
    rows = np.random.default_rng(5).normal(size=(4000, 2))
    odds = 1 / (1 + np.exp(-(2 * rows[:, 0] - 1)))
    labels = np.random.default_rng(6).random(4000) < odds
    share = labels.mean()
    model = Logistic.fit([(rows[labels], True, share), (rows[~labels], False, 1 - share)])
    assert 1 / (1 + np.exp(-model.logits(np.array([[0.0, 0.0], [1.0, 3.0]])))) == pytest.approx([0.27, 0.73], abs=0.05)


def test_row_of_an_expert_is_its_own_affair(space: HybridSpace) -> None:
    texts = ["one plus one", "two plus two", "three plus four"]
    row = space.expert_row(embed(texts), texts)
    assert space.expert_row(embed(texts[::-1]), texts[::-1]) == pytest.approx(row, abs=1e-3)
    assert row.dtype == np.float32
    assert row.shape == (space.width,)
    assert row[-1] == pytest.approx(-0.5 * np.square(row[:-1].astype(np.float64)).sum(), rel=1e-5)


def test_written_and_read_space_is_the_same(space: HybridSpace) -> None:
    arrays = space.to_arrays()
    again = HybridSpace.from_arrays(arrays)
    assert again.digest == space.digest
    assert {name: array.tobytes() for name, array in again.to_arrays().items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    texts = ["¿Qué es esto? 🐙", ""]
    found, wanted = (one.query(embed(["a", "b"]), texts) for one in (again, space))
    assert (found.rows == wanted.rows).all()
    assert (found.novelty == wanted.novelty).all()
    assert space.space_id("mini@abc") == f"hybrid-{space.digest[:12]}@mini@abc"
    assert fitted().digest == space.digest


@pytest.mark.parametrize(
    "texts", [["x"], ["数独を解いてください。"], [""], ["\ud800 lone"], ["a" * 100_000], ["🐙" * 50]]
)
def test_one_sample_of_any_kind_makes_an_expert(space: HybridSpace, texts: list[str]) -> None:
    row = space.expert_row(embed(["stand-in"]), texts)
    assert np.isfinite(row).all()
    asked = space.query(embed(["stand-in"]), texts)
    assert 0 <= space.judge(np.zeros(1), asked, row).fits <= 1
    assert space.combine(asked, asked.rows.astype(np.float64) @ row[:, None]) == pytest.approx([0], abs=1e-2)


def test_spans_count_half(space: HybridSpace) -> None:
    texts = ["Name the capital of the country of wool.", "Name the capital", "something else entirely"]
    asked = space.query(embed(texts), texts)
    experts = np.stack([space.expert_row(embed([text]), [text]) for text in texts]).astype(np.float64)
    T = space.temperature
    z = asked.rows[:, :-1].astype(np.float64)
    densities = -0.5 * np.square(z[:, None] - experts[None, :, :-1]).sum(axis=2)
    wanted = (densities[0] + T * np.log(np.exp(densities / T).mean(axis=0))) / 2
    assert space.combine(asked, asked.rows.astype(np.float64) @ experts.T) == pytest.approx(wanted, rel=1e-3, abs=1e-2)
    assert space.posterior(wanted).sum() == pytest.approx(1)
    assert space.posterior(wanted, 1e9) == pytest.approx([1 / 3] * 3, abs=1e-3)
    assert len(space.posterior(wanted[:0])) == 0


def test_experts_that_fit_are_told_from_those_that_do_not(space: HybridSpace) -> None:
    background = labelled(FORMS)
    rows = np.stack([space.expert_row(embed(t), t) for t in np.array(background.texts).reshape(5, 10).tolist()])

    def judged(text: str, experts: np.ndarray) -> Judgement:
        asked = space.query(embed([text]), [text])
        scores = space.combine(asked, asked.rows.astype(np.float64) @ experts.T.astype(np.float64))
        return space.judge(-np.sort(-scores), asked, experts[scores.argmax()])

    query = FORMS[2].format("wool")
    assert judged(query, rows).fits > judged(query, rows[[0, 1, 3, 4]]).fits
    assert judged(query, rows).familiar > space.abstention.threshold > judged("数独はどこ", rows).familiar
    alone = judged(query, rows[:1])
    assert 0 <= alone.fits <= 1
    assert 0 <= alone.familiar <= 1


def test_router_abstains_from_what_is_strange_or_hopeless() -> None:
    def answers(fits: float, familiar: float, **params: float) -> bool:
        return Hybrid(HybridParams(**params)).answers(Judgement(fits, familiar), threshold=0.7)

    assert answers(0.9, 0.8)
    assert answers(0.01, 0.7)
    assert not answers(0.9, 0.6)
    assert not answers(0.0005, 0.8)
    assert answers(0.0005, 0.8, min_fit=0)
    assert not answers(0.2, 0.8, min_fit=0.3)
    assert answers(0.001, 0.1, abstain=False)


def test_head_of_all_directions_is_exact() -> None:
    rng = np.random.default_rng(7)
    z = rng.normal(size=(50, 12)).astype(np.float32)
    experts = np.hstack([z, -0.5 * np.square(z).sum(axis=1, keepdims=True)])
    queries = np.hstack([rng.normal(size=(3, 12)), np.ones((3, 1))]).astype(np.float32)
    assert Head.of(experts).products(queries) == pytest.approx(queries @ experts.T, abs=1e-4)


def test_head_of_few_directions_lists_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlist, "WIDTH", 16)
    rng = np.random.default_rng(8)
    spread = 3 * 0.8 ** np.arange(60)
    z = (rng.normal(size=(1000, 60)) * spread).astype(np.float32)
    experts = np.hstack([z, -0.5 * np.square(z).sum(axis=1, keepdims=True)])
    queries = np.hstack([z[:20] + 0.1 * rng.normal(size=(20, 60)), np.ones((20, 1))]).astype(np.float32)
    head = Head.of(experts)
    assert head.rows.shape == (1000, 16)
    best = np.argsort(-queries @ experts.T, axis=1)[:, :8]
    listed = np.argsort(-head.products(queries), axis=1)[:, :64]
    assert np.mean([np.isin(wanted, found).mean() for wanted, found in zip(best, listed, strict=True)]) > 0.99


def test_short_lists_grow_with_the_pool() -> None:
    assert [shortlist.length(experts) for experts in (1, 10_000, 100_000)] == [320, 320, 2000]


def test_no_expert_bends_the_space() -> None:
    loud = Labelled(["!!! ### ???"] * 5000, embed(["a"] * 5000), np.zeros(5000, np.int64))
    capped = loud.capped()
    assert len(capped.texts) == fitting.SAMPLES_PER_EXPERT
    crowd = Labelled(["x"] * 2000, embed(["x"] * 2000), np.arange(2000))
    assert len(np.unique(crowd.capped().experts)) == fitting.MAX_EXPERTS
    assert {0, 1999} <= set(crowd.capped().experts.tolist())
    whole, cut = fitted(loud), fitted(Labelled(loud.texts[:20], loud.embeddings[:20], loud.experts[:20]))
    assert whole.digest == cut.digest


def test_embeddings_of_another_encoder_are_refused(space: HybridSpace) -> None:
    with pytest.raises(LoraError, match="need embeddings"):
        space.expert_row(np.eye(4, dtype=np.float32)[:2], ["a", "b"])
    with pytest.raises(LoraError, match="unit vectors"):
        space.query(2 * embed(["a"]), ["a"])


def test_texts_that_others_have_do_not_calibrate() -> None:
    """An expert that is in the background, too, must not make every other look like a stranger."""
    alone, twice = fitted(), fitted(labelled(FORMS))
    assert twice.samples == 2 * alone.samples
    assert 0.5 < twice.temperature / alone.temperature < 2


def test_a_space_is_read_as_it_was_fitted(space: HybridSpace) -> None:
    assert HybridSpace.from_arrays(load(array_file(space.to_arrays()))).digest == space.digest


def test_the_directions_of_the_space_that_ships_are_orthonormal() -> None:
    found = load_default("all-MiniLM-L6-v2@b5c9b60c7a7a")
    assert found is not None
    basis = found.whitening.basis
    assert basis.T @ basis == pytest.approx(np.eye(basis.shape[1]), abs=2e-3)
