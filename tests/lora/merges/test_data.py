"""Methods that run the base, against their formulas in numpy, given what the base says."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import nn

from lora.errors import LoraError, NotMergeable
from lora.merges import MERGES
from lora.merging import merge
from lora.recipe import OutputSpec
from lora.runtime import fisher as fisher_information
from lora.runtime.adapted import AdaptedModel
from lora.runtime.probe import BaseNotHere, Probe
from tests.lora.in_memory import Recipe, dense, random_delta
from tests.lora.peft_models import tiny_base
from tests.lora.raw_files import read_deltas, relative_error
from tests.lora.recipes import merge_input, run_merge
from tests.lora.runtime.tiny_language_model import ids, logits_of, opened, running_base, samples, write_inputs

DATA = [method for method in MERGES.names() if "base_model" in MERGES.get(method).needs]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"), count=3)


@pytest.fixture
def probe(inputs):
    running = running_base()
    with AdaptedModel(running.model, opened(inputs)) as adapted:
        yield Probe(running, adapted, inputs, [1.0, 0.5, 1.5])


@dataclass
class Seen:
    """A probe whose Gram matrices are given: of x in the order of the inputs, (tokens, d_in) each."""

    x: list[np.ndarray]
    found: dict = field(default_factory=dict)

    def grams(self, views, count, params):
        for view in views:
            project = np.eye(view.width) if view.project is None else view.project.numpy()
            yield [torch.from_numpy((x @ project).T @ (x @ project)) for x in self.x]


def merged(method, recipe, **params):
    [(_, terms)] = MERGES.get(method).run(recipe, MERGES.parse(method, params))
    return sum(dense(term) for term in terms)


def merged_entries(method, recipe, **params):
    """The merged ΔW by module, of a method that makes some entry by entry."""
    return {
        module.layout.path: torch.cat([block for _, block in merged.blocks()]).numpy()
        for module, merged in MERGES.get(method).run(recipe, MERGES.parse(method, params))
    }


def of_files(inputs):
    """Their ΔW: path → input → factors."""
    deltas = {}
    for i, file in enumerate(opened(inputs)):
        for path in file.paths:
            deltas.setdefault(path, {})[i] = file.factors(path, torch.float64)
    return deltas


def seen(tokens, d_in=10):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(tokens, d_in)) * generator.uniform(0.1, 3, d_in) for _ in range(3)]


DELTAS = {0: random_delta(0, 2), 2: random_delta(2, 3)}  # the second input lacks the module
WEIGHTS = [0.7, 1.0, -1.4]


@pytest.mark.parametrize("tokens", [40, 2])  # more and fewer than there are features
def test_regmean_is_least_squares_over_all_samples(tokens):
    x = seen(tokens)
    found = merged("regmean", Recipe({"m": DELTAS}, WEIGHTS, probe=Seen(x)), off_diagonal=1.0)
    targets = [x[i] @ (WEIGHTS[i] * dense(DELTAS[i])).T if i in DELTAS else np.zeros((tokens, 12)) for i in range(3)]
    expected = np.linalg.lstsq(np.concatenate(x), np.concatenate(targets), rcond=None)[0].T
    assert relative_error(found, expected) < 1e-8


def test_regmean_damps_what_is_beside_the_diagonal():
    x = seen(40)
    found = merged("regmean", Recipe({"m": DELTAS}, WEIGHTS, probe=Seen(x)))
    grams = [0.95 * g + 0.05 * np.diag(np.diag(g)) for g in (one.T @ one for one in x)]
    answers = sum(WEIGHTS[i] * dense(delta) @ grams[i] for i, delta in DELTAS.items())
    assert relative_error(found, answers @ np.linalg.inv(sum(grams))) < 1e-10


def test_regmean_in_core_space_is_least_squares_on_the_joint_row_space():
    x = seen(40)
    found = merged("regmean_core", Recipe({"m": DELTAS}, WEIGHTS, probe=Seen(x)))
    basis = np.linalg.qr(np.concatenate([delta.A.numpy() for delta in DELTAS.values()]).T)[0]
    targets = [x[i] @ (WEIGHTS[i] * dense(DELTAS[i])).T if i in DELTAS else np.zeros((40, 12)) for i in range(3)]
    answers = np.linalg.lstsq(np.concatenate(x) @ basis, np.concatenate(targets), rcond=None)[0].T
    assert relative_error(found, answers @ basis.T) < 1e-10


def test_regmean_in_core_space_is_lorm_where_a_is_shared():
    x = seen(40)
    A = DELTAS[0].A
    shared = {i: random_delta(i, 2) for i in range(3)}
    shared = {i: type(delta)(A, delta.B, delta.scaling) for i, delta in shared.items()}
    found = merged("regmean_core", Recipe({"m": shared}, [1.0] * 3, probe=Seen(x)))
    cores = [A.numpy() @ one.T @ one @ A.numpy().T for one in x]
    B = sum(0.7 * delta.B.numpy() @ cores[i] for i, delta in shared.items()) @ np.linalg.pinv(sum(cores))
    assert relative_error(found, B @ A.numpy()) < 1e-10


def adapted_by_hand(deltas, i):
    """The base with one input's ΔW in its weights, which want gradients."""
    base = tiny_base().double()
    weights = {path: base.get_submodule(path).weight for path in deltas}
    for path, owners in deltas.items():
        if i in owners:
            change = torch.from_numpy(dense(owners[i]))
            weights[path].data += change if isinstance(base.get_submodule(path), nn.Linear) else change.T
    return base, weights


def squared_gradients(deltas, i, item, prompt):
    """Of every module, the mean over an input's samples of (∂ log p(answer)/∂W)², by backpropagation to W itself."""
    base, weights = adapted_by_hand(deltas, i)
    squares = dict.fromkeys(deltas, 0.0)
    for sample in item.samples:
        question, answer = ids(prompt.format(line=sample.input)), [*ids(" " + sample.output), 0]
        logs = logits_of(base, torch.tensor([question + answer]))[0].log_softmax(-1)
        likelihood = sum(logs[len(question) + k - 1, token] for k, token in enumerate(answer))
        for path, gradient in zip(weights, torch.autograd.grad(likelihood, weights.values()), strict=True):
            is_linear = isinstance(base.get_submodule(path), nn.Linear)
            squares[path] = squares[path] + (gradient if is_linear else gradient.T).square().numpy() / len(item.samples)
    return squares


def test_fisher_averages_entries_by_squared_gradients(inputs, probe, monkeypatch):
    deltas, weights = of_files(inputs), [1.0, -0.5, 1.5]
    probe.weights = weights
    params = {"scale": 0.7, "floor": 0.01, "prompt": "{line}>"}
    found = merged_entries("fisher", Recipe(deltas, weights, probe=probe), **params)
    squares = [squared_gradients(deltas, i, item, params["prompt"]) for i, item in enumerate(inputs)]
    means = [np.concatenate([part.flatten() for part in one.values()]).mean() for one in squares]
    assert set(found) == set(deltas) > {"embed", "layers.0.c"}  # the second input does not adapt the embedding
    for path, owners in deltas.items():
        shares = [one[path] / mean + 0.01 for one, mean in zip(squares, means, strict=True)]
        wanted = sum(weights[i] * shares[i] * dense(delta) for i, delta in owners.items())
        total = sum(abs(weight) * share for weight, share in zip(weights, shares, strict=True))
        assert relative_error(found[path], 0.7 * wanted / total) < 1e-5
    monkeypatch.setattr(fisher_information, "FISHER_BYTES", 1)  # one pass per module
    again = merged_entries("fisher", Recipe(deltas, weights, probe=probe), **params)
    assert all(np.array_equal(found[path], again[path]) for path in deltas)


def test_fisher_without_information_is_the_mean(inputs, probe):
    deltas = of_files(inputs)
    probe.weights = [1.0, 1.0, 1.0]
    recipe = Recipe(deltas, probe.weights, probe=probe)
    for path, found in merged_entries("fisher", recipe, floor=1e9).items():
        assert relative_error(found, sum(map(dense, deltas[path].values())) / 3) < 1e-5


def test_fisher_wants_samples_with_answers(inputs, probe):
    probe.inputs = [*inputs[:2], replace(inputs[2], samples=samples(2, labelled=False))]
    with pytest.raises(NotMergeable) as caught:
        merged_entries("fisher", Recipe(of_files(inputs), probe.weights, probe=probe))
    assert [(problem.index, problem.code) for problem in caught.value.inputs] == [(2, "no_labels")]


def coefficients(method, inputs, probe, **params):
    """c of the Σ c·ΔW that a method makes, by least squares from the merged ΔW of one module."""
    deltas = of_files(inputs)
    recipe = Recipe(deltas, probe.weights, probe=probe)
    path, found = "layers.0.q", {}
    for module, terms in MERGES.get(method).run(recipe, MERGES.parse(method, params)):
        found[module.layout.path] = sum(dense(term) for term in terms).flatten()
    own = np.stack([dense(delta).flatten() for delta in deltas[path].values()], axis=1)
    return np.linalg.lstsq(own, found[path], rcond=None)[0]


def test_packllm_weighs_by_perplexity(inputs, probe):
    found = coefficients("packllm", inputs, probe, temperature=0.5)
    surprises = np.array(probe.found["log_perplexities"])
    task = probe.task(MERGES.parse("packllm", {}), labelled=False)
    expected = [
        probe.surprise(task, torch.tensor([w * (j == i) for j in range(3)])) for i, w in enumerate([1, 0.5, 1.5])
    ]
    assert surprises == pytest.approx(expected, rel=1e-6)
    shares = np.exp(-surprises / 0.5)
    assert found == pytest.approx(shares / shares.sum() * probe.weights)


def test_greedy_soup_keeps_what_lowers_the_loss(inputs, probe):
    found = coefficients("greedy_soup", inputs, probe, samples=3, seed=1)
    task = probe.task(MERGES.parse("greedy_soup", {"samples": 3, "seed": 1}), labelled=True)
    weights = np.array(probe.weights)

    def loss(soup):
        return probe.loss(task, torch.tensor(weights * [i in soup for i in range(3)] / len(soup)))

    first, *others = sorted(range(3), key=lambda i: loss([i]))
    soup = [first]
    for i in others:
        if loss([*soup, i]) < loss(soup):
            soup.append(i)
    assert found == pytest.approx(weights * [i in soup for i in range(3)] / len(soup), abs=1e-9)
    assert probe.found["loss"] == pytest.approx(loss(soup))


def test_adamerging_begins_with_a_step_of_adam_down_the_entropy(inputs, probe):
    found = coefficients("adamerging", inputs, probe, steps=1, rate=0.01)
    [batch, *_] = probe.task(MERGES.parse("adamerging", {}), labelled=False)
    start = torch.tensor([0.3, 0.3, 0.3], dtype=torch.float64)
    paths = {path for item in inputs for path in item.layout.modules}
    step = []
    for unit in torch.eye(3, dtype=torch.float64):
        ends = [
            float(
                probe.entropy(
                    batch,
                    {
                        path: (start + (sign * 1e-5 * unit if path == "layers.0.q" else 0))
                        * torch.tensor(probe.weights)
                        for path in paths
                    },
                )
            )
            for sign in (1, -1)
        ]
        step.append(0.01 * np.sign(ends[0] - ends[1]))  # the first step of Adam has the length of its rate
    assert found == pytest.approx((0.3 - np.array(step)) * probe.weights, rel=1e-4)


@pytest.mark.parametrize("method", ["lorahub", "swarm"])
def test_a_search_ends_no_worse_than_it_began_and_tells_its_weights(method, inputs, probe):
    found = coefficients(method, inputs, probe, budget=20)
    assert found == pytest.approx(probe.found["weights"], abs=1e-6)
    assert len(probe.found["losses"]) == 20
    assert probe.found["loss"] == min(probe.found["losses"]) < probe.found["losses"][0]
    task = probe.task(MERGES.parse(method, {}), labelled=True)
    loss = probe.loss(task, torch.tensor(probe.found["weights"]))
    shrinkage = 0.05 * np.abs(probe.found["weights"]).mean() if method == "lorahub" else 0
    assert probe.found["loss"] == pytest.approx(loss + shrinkage, rel=1e-6)


def test_examples_of_the_recipe_take_the_place_of_samples(inputs, probe):
    params = {"budget": 5, "examples": [{"input": one.input, "output": one.output} for one in samples(9)]}
    coefficients("lorahub", inputs, probe, **params)
    with_examples = probe.found["losses"]
    coefficients("lorahub", inputs, probe, budget=5)
    assert with_examples != probe.found["losses"]


@pytest.mark.parametrize("method", DATA)
def test_without_the_base_or_samples_it_is_refused(method, inputs, tmp_path):
    folders = [item.weights_path.parent for item in inputs][: MERGES.get(method).traits.get("max_inputs")]
    with pytest.raises(BaseNotHere, match=f"{method} runs the base model"):
        run_merge(tmp_path / "out", folders, method)
    assert merge_input(folders[0]).samples == ()
    with pytest.raises(LoraError, match="has no samples"):
        run_merge(tmp_path / "other", folders, method, running=running_base())


@pytest.mark.parametrize("method", DATA)
def test_outputs_are_missed_by_those_that_say_they_need_them(method, inputs, tmp_path):
    mute = [replace(item, samples=samples(i, labelled=False)) for i, item in enumerate(inputs)]
    chosen = mute[: MERGES.get(method).traits.get("max_inputs")]

    def run():
        merge(method, {}, chosen, OutputSpec(), tmp_path, metadata={}, running=running_base())

    if "labels" in MERGES.get(method).needs:
        with pytest.raises(NotMergeable, match="no samples with outputs"):
            run()
    else:
        run()


def test_the_report_says_what_was_found(inputs, tmp_path):
    folders = [item.weights_path.parent for item in inputs]
    params = {"budget": 3, "examples": [{"input": "abc", "output": "d"}]}
    exact = OutputSpec("exact")
    report = run_merge(tmp_path / "out", folders, "lorahub", params, output=exact, running=running_base())
    weights = report["found"]["weights"]
    deltas = [read_deltas(folder) for folder in folders]
    for path, delta in read_deltas(tmp_path / "out").items():
        expected = sum(weight * one.get(path, 0) for weight, one in zip(weights, deltas, strict=True))
        assert relative_error(delta, expected) < 1e-5
