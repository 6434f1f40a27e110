"""Routers over hidden states against independent oracles: PEFT's own Arrow layer, torch's LayerNorm, dense products."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from peft.tuners.lora.config import ArrowConfig

from lora.errors import InvalidParams
from lora.module_routers import MODULE_ROUTERS, Expert, Floats, Ranking
from lora.module_routers.arrow_global import LEAST_DOUBT, SAMPLES_UNIT, baselines, by_samples
from lora.prototypes.arrow import arrow
from lora.prototypes.spectral import spectral
from lora.scores import softmax

NAMES = MODULE_ROUTERS.names()
PATHS = ("layers.0.q", "layers.1.q")
D = 16


def router(name: str, **params: object) -> Any:
    return MODULE_ROUTERS.get(name).run(MODULE_ROUTERS.parse(name, params))


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def units(*shape: int, seed: int = 0) -> Floats:
    rows = normal(*shape, seed=seed)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def background(texts: int = 20) -> list[dict[str, Floats]]:
    return [{path: normal(5, D, seed=100 + 10 * i + k) for k, path in enumerate(PATHS)} for i in range(texts)]


def experts(count: int = 4) -> list[Expert]:
    """Experts with vectors of one row in every module, and their baselines."""
    made = []
    for i in range(count):
        vectors = {path: units(D, seed=10 * i + k) for k, path in enumerate(PATHS)}
        made.append(Expert(vectors, baselines(background(), vectors)))
    return made


def query_of(expert: Expert) -> dict[str, Floats]:
    """Tokens of which a good part lies along an expert's directions."""
    return {path: normal(6, D, seed=k) + 6 * expert.vectors[path] for k, path in enumerate(PATHS)}


def peft_weights(x: Floats, prototypes: Floats, top_k: int, temperature: float) -> Floats:
    """The weights of PEFT's own layer, made visible: every expert writes its share of the same number elsewhere."""
    names = [f"task_{i}" for i in range(len(prototypes))]
    config = ArrowConfig(top_k=top_k, router_temperature=temperature)
    config.task_adapter_names, config.gks_adapter_names = names, []
    layer = ArrowLoraLinearLayer(D, config)
    layer.register_buffer("prototypes", torch.from_numpy(prototypes), persistent=False)
    layer._protos_ready = True
    probe = torch.ones(1, D)
    A = {name: SimpleNamespace(weight=probe) for name in names}
    B = {name: SimpleNamespace(weight=torch.eye(len(names))[:, i : i + 1]) for i, name in enumerate(names)}
    tokens = torch.from_numpy(x)[None]
    written = layer(tokens, A, B, torch.nn.Identity(), dict.fromkeys(names, 1.0))[0]
    return (written / (tokens[0] @ probe.T)).numpy()


@pytest.mark.parametrize(("top_k", "temperature"), [(1, 1.0), (2, 1.0), (3, 0.3), (4, 2.0)])
def test_arrow_shares_tokens_as_peft_does(top_k: int, temperature: float) -> None:
    x, prototypes = normal(9, D, seed=1), units(4, D, seed=2)
    ours = router("arrow", top_k=top_k, router_temperature=temperature)
    scores = np.stack([ours.compare(x, v) for v in prototypes], axis=1)
    assert ours.token_weights(scores) == pytest.approx(peft_weights(x, prototypes, top_k, temperature), abs=1e-5)


def test_top_k_is_clamped_and_absent_experts_get_nothing() -> None:
    ours = router("arrow", top_k=3)
    weights = ours.token_weights(np.array([[1.0, 2.0], [-np.inf, 0.5], [-np.inf, -np.inf]]))
    assert weights[0] == pytest.approx(np.exp([1, 2]) / np.exp([1, 2]).sum())
    assert weights[1].tolist() == [0, 1]
    assert weights[2].tolist() == [0, 0]


def test_spectr_scores_by_how_far_the_adapter_moves_a_token() -> None:
    A, B, x = torch.from_numpy(normal(3, D)), torch.from_numpy(normal(7, 3)), normal(5, D, seed=3)
    dense = 2.0 * B.double() @ A.double()
    found = router("spectr").compare(x, spectral(A, B, 2.0).numpy())
    assert found == pytest.approx((torch.from_numpy(x).double() @ dense.T).norm(dim=1).numpy(), rel=1e-5)


def test_phatgoose_scores_by_standardised_vectors() -> None:
    x, gate = normal(5, D, seed=1) * 3 + 1, normal(D, seed=2) - 2
    found = router("phatgoose").compare(x, gate)
    standard = [torch.nn.functional.layer_norm(torch.from_numpy(v).double(), (D,)) for v in (x, gate)]
    assert found == pytest.approx((standard[0] @ standard[1] / D**0.5).numpy(), abs=1e-6)
    correlations = [np.corrcoef(row, gate)[0, 1] for row in x]
    assert found == pytest.approx(D**0.5 * np.array(correlations), rel=1e-4)


def test_activation_scores_by_the_cosine_with_the_mean() -> None:
    x, mean = normal(5, D, seed=1) * 3 + 1, 2 * normal(D, seed=2)
    found = router("activation").compare(x, mean)
    expected = torch.cosine_similarity(torch.from_numpy(x).double(), torch.from_numpy(mean).double(), dim=-1)
    assert found == pytest.approx(expected.numpy(), abs=1e-9)


@pytest.mark.parametrize("shrinkage", [0.1, 0.7, 1.0])
def test_dam_scores_are_log_likelihoods_of_gaussians_with_one_covariance(shrinkage: float) -> None:
    [path, _], x = PATHS, normal(3, D, seed=1)
    classes = [normal(n, D, seed=10 + n) @ normal(D, D, seed=2) + n for n in (5, 2, 9)]
    pool = [Expert({path: rows}) for rows in classes]
    found = router("dam", shrinkage=shrinkage).rank({path: x}, pool).scores
    pooled = sum(np.cov(rows.astype(np.float64).T) * (len(rows) - 1) for rows in classes) / (5 + 2 + 9 - 3)
    shrunk = (1 - shrinkage) * pooled + shrinkage * np.trace(pooled) / D * np.eye(D)
    gaussians = [
        torch.distributions.MultivariateNormal(torch.from_numpy(rows.astype(float).mean(0)), torch.from_numpy(shrunk))
        for rows in classes
    ]
    likelihoods = np.array([float(one.log_prob(torch.from_numpy(x[-1].astype(float)))) for one in gaussians])
    assert np.diff(found) == pytest.approx(np.diff(likelihoods), rel=1e-4)
    assert (found <= 0).all()


def test_dam_without_any_spread_takes_the_nearest() -> None:
    [path, _] = PATHS
    pool = [Expert({path: units(1, D, seed=i)}) for i in range(3)]
    query = {path: np.concatenate([normal(4, D), pool[2].vectors[path] * 1.1])}
    assert int(router("dam").rank(query, pool).scores.argmax()) == 2


def test_arrow_global_is_the_mean_z_in_units_of_its_own_spread() -> None:
    pool, texts = experts(), background()
    states = query_of(pool[1])
    ranking = router("arrow_global").rank(states, pool)

    def means(x: dict[str, Floats], expert: Expert) -> torch.Tensor:
        cosines = [
            torch.cosine_similarity(torch.from_numpy(x[path]).double(), torch.from_numpy(expert.vectors[path]), dim=-1)
            for path in PATHS
        ]
        return torch.stack([one.abs().mean() for one in cosines])

    for expert, score in zip(pool, ranking.scores, strict=True):
        generic = torch.stack([means(text, expert) for text in texts])
        mean, deviation = generic.mean(0), generic.std(0, correction=0)
        spread = ((generic - mean) / deviation).mean(1).std(correction=0)
        z = (means(states, expert) - mean) / deviation
        assert score == pytest.approx(float(z.mean() / (spread**2 + 0.25).sqrt()), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_expert_whose_directions_the_query_has_comes_first(name: str) -> None:
    pool = experts()
    for i, expert in enumerate(pool):
        shaped = pool
        if name in ("spectr", "dam"):  # which compare with several rows
            shaped = [Expert({p: np.stack([v, 0.9 * v]) for p, v in e.vectors.items()}) for e in pool]
        ranking = router(name).rank(query_of(expert), shaped)
        assert int(ranking.scores.argmax()) == i
        assert ranking.parts.shape == (len(PATHS), len(pool))
        assert ranking.scores == pytest.approx(ranking.parts.mean(axis=0))


@pytest.mark.parametrize("name", ["arrow", "arrow_global"])
def test_mixed_targets_count_over_the_modules_that_an_expert_has(name: str) -> None:
    pool = experts()
    states = query_of(pool[2])
    half = {PATHS[1]: pool[2].vectors[PATHS[1]]}
    pool[2] = Expert(half, baselines(background(), half))
    dead = Expert({path: np.zeros(D, np.float32) for path in PATHS}, baselines(background(), {}))
    elsewhere = Expert({"other": units(D)}, baselines(background(), {"other": units(D)}))
    ranking = router(name).rank(states, [*pool, dead, elsewhere])
    assert int(ranking.scores.argmax()) == 2
    assert np.isnan(ranking.parts[0, 2])
    assert ranking.scores[4:].tolist() == [-np.inf, -np.inf]
    assert router(name).keep(ranking.scores).tolist() == [True] * 4 + [False] * 2


def test_arrow_global_knows_no_rivals_and_no_lengths() -> None:
    pool = experts()
    states = query_of(pool[0])
    alone = [router("arrow_global").rank(states, [expert]).scores[0] for expert in pool]
    longer = {path: x * np.linspace(1, 50, len(x), dtype=np.float32)[:, None] for path, x in states.items()}
    for given in (states, longer):
        assert router("arrow_global").rank(given, pool).scores == pytest.approx(alone, rel=1e-5)


def test_samples_are_a_second_witness_that_may_be_silent() -> None:
    posterior = np.array([0.9, 0.1, 0.0, 0.0])
    scores = np.array([0.1, 0.4, 0.3, 0.2])
    weights = softmax(scores, SAMPLES_UNIT)
    believed = 0.5 * posterior + 0.5 / 4
    together = weights * believed / (weights * believed).sum()
    assert softmax(scores + by_samples(posterior, 0.5), SAMPLES_UNIT) == pytest.approx(together, rel=1e-5)
    assert by_samples(posterior, 0.0) == pytest.approx(np.zeros(4))
    assert by_samples(np.zeros(4), 0.0) == pytest.approx(np.zeros(4))
    assert by_samples(np.full(4, 0.25), 1.0) == pytest.approx(np.zeros(4))


def test_samples_cannot_bury_what_weights_say() -> None:
    certain = by_samples(np.array([1.0, 0.0]), 1.0)
    assert np.isfinite(certain).all()
    assert certain[1] == pytest.approx(SAMPLES_UNIT * np.log(LEAST_DOUBT))


def test_arrow_vectors_of_files_are_what_is_compared() -> None:
    A, B = torch.from_numpy(normal(3, D)), torch.from_numpy(normal(7, 3))
    v, _ = arrow(A, B, 1.0)
    assert router("arrow").compare(v[None].numpy(), v.numpy()) == pytest.approx([1])


def test_pi_tuning_is_the_symmetric_cosine_of_diagonals_with_mean_one() -> None:
    pool = [Expert({path: normal(D, seed=7 * i + k) ** 2 for k, path in enumerate(PATHS)}) for i in range(3)]
    pool.append(Expert({PATHS[1]: pool[0].vectors[PATHS[1]]}))
    query = {path: normal(1, D, seed=50 + k) ** 2 for k, path in enumerate(PATHS)}
    found = router("pi_tuning").rank(query, pool)
    for i, expert in enumerate(pool):
        shared = [path for path in PATHS if path in expert.vectors]
        scale = np.concatenate([query[path][0] for path in shared]).mean()
        own = np.concatenate([expert.vectors[path] for path in shared]).mean()
        cosines = []
        for path in shared:
            a = torch.from_numpy(query[path][0] / scale).double()
            b = torch.from_numpy(expert.vectors[path] / own).double()
            cosines.append(float(torch.cosine_similarity(a / (a + b + 1e-6), b / (a + b + 1e-6), dim=0)))
        assert found.scores[i] == pytest.approx(np.mean(cosines), abs=1e-6)
    same = {path: 9 * pool[1].vectors[path][None] for path in PATHS}
    assert router("pi_tuning").rank(same, pool).scores[1] == pytest.approx(1)
    nothing = {path: np.zeros((1, D), np.float32) for path in PATHS}
    assert router("pi_tuning").rank(nothing, pool).scores.tolist() == [0] * 4


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_a_distribution_and_min_score_drops(name: str) -> None:
    scores = np.array([0.9, 0.5, 0.1])
    weights = router(name).weigh(scores)
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    assert (np.diff(weights) < 0).all()
    assert len(router(name).weigh(scores[:0])) == 0
    assert router(name, min_score=0.5).keep(scores).tolist() == [True, True, False]
    with pytest.raises(InvalidParams):
        router(name, temperature=0)


@pytest.mark.parametrize("name", NAMES)
def test_traits_say_what_is_compared_and_when(name: str) -> None:
    traits = MODULE_ROUTERS.get(name).traits
    assert traits["prototype"] in {"arrow", "spectral", "phatgoose", "activations", "dam", "fisher"}
    not_taken = {"dam": {"examples"}, "pi_tuning": {"text", "texts"}}
    assert set(traits["accepts"]) == {"text", "texts", "examples", "hidden_states"} - not_taken.get(name, set())
    assert traits["when"].endswith(".")
    assert 1 <= traits["k"] <= 100


def test_no_experts_are_ranked_as_none() -> None:
    for name in NAMES:
        ranking: Ranking = router(name).rank({"a": normal(2, D)}, [])
        assert ranking.scores.shape == (0,)
