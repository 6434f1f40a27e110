"""Routers that run experts, against sums written out token by token; nothing of it is shared with what is tested."""

import math

import numpy as np
import pytest
import torch

from lora.errors import InvalidParams, LoraError
from lora.examples import Example
from lora.runtime.adapted import AdaptedModel
from lora.runtime.probe import Probe
from lora.trial_routers import TRIAL_ROUTERS, Tried, is_tried
from lora.trial_routers.what_the_weight import certainty, posterior
from tests.lora.runtime.tiny_language_model import ids, logits_of, opened, running_base, samples, write_inputs

EXAMPLES = samples(11, count=7)
PROMPT = "{line}>"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"), count=3)


@pytest.fixture
def probe(inputs):
    running = running_base()
    with AdaptedModel(running.model, opened(inputs)) as adapted:
        yield Probe(running, adapted, inputs, [0.0] * 3)


def rank(probe: Probe, name: str, *, explain: bool = True, examples=EXAMPLES, **params: object) -> Tried:
    router = TRIAL_ROUTERS.get(name).run(TRIAL_ROUTERS.parse(name, params))
    return router.rank(probe, examples, explain=explain)


def logs_with(probe: Probe, weights: list[float], tokens: list[int]) -> np.ndarray:
    """log p of every token of the vocabulary after each token, (t, v), with Σ wᵢ·ΔWᵢ on the base."""
    probe.adapted.coefficients = torch.tensor(weights, dtype=torch.float64)
    logits = logits_of(probe.base.model, torch.tensor([tokens]))[0].numpy()
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def answer_loss(probe: Probe, weights: list[float]) -> float:
    losses = []
    for example in EXAMPLES:
        question, answer = ids(example.input + ">"), [*ids(" " + example.output), 0]
        tokens = question + answer
        logs = logs_with(probe, weights, tokens)
        losses.append(np.mean([-logs[k - 1, tokens[k]] for k in range(len(question), len(tokens))]))
    return float(np.mean(losses))


def alone(i: int) -> list[float]:
    return [float(i == j) for j in range(3)]


def test_lorahub_gives_the_weights_whose_loss_it_tells(probe):
    found = rank(probe, "lorahub", prompt=PROMPT, budget=60)
    assert found.scores.tolist() == list(found.weights)
    assert found.loss["before"] == pytest.approx(answer_loss(probe, [0.0] * 3), rel=1e-6)
    assert found.loss["after"] == pytest.approx(answer_loss(probe, list(found.weights)), rel=1e-6)
    assert found.loss["after"] + 0.05 * np.mean(np.abs(found.weights)) < found.loss["before"]
    assert found.loss["tried"] == 60
    for i, told in enumerate(found.evidence):
        without = [weight * (i != j) for j, weight in enumerate(found.weights)]
        assert told["loss_without"] == pytest.approx(answer_loss(probe, without), rel=1e-6)


def test_lorahub_is_the_merge_of_that_name_beginning_at_the_base(probe):
    """The same search, seed by seed; another seed takes other steps."""
    one, same, other = (rank(probe, "lorahub", prompt=PROMPT, seed=seed, explain=False) for seed in (3, 3, 4))
    assert one.weights == same.weights != other.weights
    assert one.evidence == []
    assert max(map(abs, rank(probe, "lorahub", prompt=PROMPT, bound=0.1).weights)) <= 0.1


def test_lorahub_where_nothing_beats_the_base(probe):
    found = rank(probe, "lorahub", prompt=PROMPT, shrinkage=1e6)
    assert found.weights == (0.0, 0.0, 0.0)
    assert found.loss["after"] == found.loss["before"]
    assert found.evidence == [{}, {}, {}]
    router = TRIAL_ROUTERS.get("lorahub").run(TRIAL_ROUTERS.parse("lorahub", {}))
    assert not router.keep(found.scores).any()


def test_lorahub_matches_are_what_is_added_and_never_what_is_taken_away():
    scores = np.array([1.2, 0.3, 0.0, -0.9])
    router = TRIAL_ROUTERS.get("lorahub").run(TRIAL_ROUTERS.parse("lorahub", {}))
    kept = router.keep(scores)
    assert kept.tolist() == [True, True, False, False]
    assert router.weigh(scores[kept]) == pytest.approx([0.8, 0.2])
    strict = TRIAL_ROUTERS.get("lorahub").run(TRIAL_ROUTERS.parse("lorahub", {"min_score": 0.5}))
    assert strict.keep(scores).tolist() == [True, False, False, False]


def test_the_prior_follows_the_probability_of_the_texts(probe):
    likelihoods = np.zeros((3, len(EXAMPLES)))
    for i in range(3):
        for k, example in enumerate(EXAMPLES):
            tokens = ids(example.input)
            logs = logs_with(probe, alone(i), tokens)
            likelihoods[i, k] = sum(logs[t - 1, tokens[t]] for t in range(1, len(tokens)))
    prior = [1 / 3] * 3
    for of_text in np.exp(likelihoods).T.tolist():
        joint = [a * b for a, b in zip(prior, of_text, strict=True)]
        prior = [0.7 * a + 0.3 * b / sum(joint) for a, b in zip(prior, joint, strict=True)]
    found = rank(probe, "what_the_weight", score="prior")
    assert found.scores == pytest.approx(prior, rel=1e-9)
    assert [told["log_likelihood"] for told in found.evidence] == pytest.approx(likelihoods.mean(1).tolist(), rel=1e-9)
    assert "prompts_only" in found.warnings


def test_entropy_favours_who_is_sure(probe):
    entropies = np.zeros(3)
    for i in range(3):
        for example in EXAMPLES:
            logs = logs_with(probe, alone(i), ids(example.input))
            entropies[i] += np.mean(-(np.exp(logs) * logs).sum(-1)) / len(EXAMPLES)
    found = rank(probe, "what_the_weight", score="entropy")
    shares = entropies.sum() - entropies
    assert found.scores == pytest.approx(shares / shares.sum(), rel=1e-9)
    assert [told["entropy"] for told in found.evidence] == pytest.approx(entropies.tolist(), rel=1e-9)
    assert found.scores.argmax() == entropies.argmin()
    assert "POST /trials/" in found.warnings["prompts_only"]


def test_outputs_are_not_read_and_the_order_counts_for_the_prior_alone(probe):
    bare = [Example(example.input) for example in EXAMPLES]
    for score, order_counts in (("prior", True), ("entropy", False)):
        found = rank(probe, "what_the_weight", score=score).scores
        assert rank(probe, "what_the_weight", score=score, examples=bare).scores.tolist() == found.tolist()
        turned = rank(probe, "what_the_weight", score=score, examples=bare[::-1]).scores
        assert np.allclose(turned, found, rtol=1e-9) != order_counts


def test_far_likelihoods_and_equal_entropies_stay_numbers():
    prior = posterior(np.array([[-5e4, -1.0], [-1.0, -5e4]]))
    assert prior == pytest.approx([0.7 * 0.5 * 0.7 + 0.3, 0.7 * (0.7 * 0.5 + 0.3)])
    assert certainty(np.zeros((2, 3))).tolist() == [0.5, 0.5]
    assert certainty(np.ones((1, 3))).tolist() == [1.0]


def test_an_expert_that_gives_no_numbers_is_ranked_by_none(probe):
    whole = probe.adapted.one

    def broken(index: int, value: float = 1.0) -> torch.Tensor:
        return whole(index, math.nan if index == 1 else value)

    probe.adapted.one = broken
    for score in ("prior", "entropy"):
        found = rank(probe, "what_the_weight", score=score)
        router = TRIAL_ROUTERS.get("what_the_weight").run(TRIAL_ROUTERS.parse("what_the_weight", {"score": score}))
        assert router.keep(found.scores).tolist() == [True, False, True]
        assert found.scores[[0, 2]].sum() == pytest.approx(1)


def test_a_base_without_a_finite_loss_is_refused(probe):
    with torch.no_grad():
        probe.base.model.embed.weight.fill_(math.inf)
    with pytest.raises(LoraError, match="finite loss"):
        rank(probe, "lorahub", prompt=PROMPT)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("lorahub", {"prompt": "no place"}, "{line}"),
        ("lorahub", {"candidates": 33}, "at most 32"),
        ("lorahub", {"budget": 0}, "at least 1"),
        ("lorahub", {"bound": 0}, "above 0"),
        ("lorahub", {"examples": []}, "no parameter"),
        ("what_the_weight", {"score": "posterior"}, "score must be"),
        ("what_the_weight", {"min_score": 2}, "at most 1"),
    ],
)
def test_bad_params_are_refused_by_name(name, params, message):
    with pytest.raises(InvalidParams, match=message.replace("{", r"\{")):
        TRIAL_ROUTERS.parse(name, params)


def test_a_request_names_one_of_them_by_its_parameters_too():
    assert is_tried("lorahub", None)
    assert is_tried("what_the_weight", {"score": "entropy"})
    assert not is_tried("what_the_weight", {"score": "tf_idf"})
    for params in (None, [], {}, {"score": ["prior"]}):
        assert not is_tried("what_the_weight", params)
    assert not is_tried("hybrid", {"score": "prior"})
    assert not is_tried(["lorahub"], {})


def test_what_they_are_registered_with():
    for name in TRIAL_ROUTERS.names():
        method = TRIAL_ROUTERS.get(name)
        assert method.run.__module__.endswith(f".{name}")
        assert method.traits["when"].endswith(".")
        assert 1 <= method.traits["k"] <= 100
        assert set(method.traits["accepts"]) <= {"text", "examples"}
        assert "base_model" in method.needs
