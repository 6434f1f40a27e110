"""Losses, entropies and Gram matrices of a base with adapters on top, against sums written out token by token."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lora.errors import NotMergeable
from lora.examples import MAX_CHARS, Example, drawn, in_turns
from lora.runtime import probe as probes
from lora.runtime.adapted import AdaptedModel
from lora.runtime.probe import ExampleParams, LabelledParams, Probe, SampleParams, View
from lora.runtime.text import MAX_TOKENS, batches
from tests.lora.runtime.tiny_language_model import TOKENS, ids, logits_of, opened, running_base, samples, write_inputs

PROMPT = "{line}>"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def probe(inputs):
    running = running_base()
    with AdaptedModel(running.model, opened(inputs)) as adapted:
        yield Probe(running, adapted, inputs, [0.5, 0.5])


def log_probabilities(probe, coefficients, tokens):
    """log p of every token given those before it, one text at a time."""
    probe.adapted.coefficients = coefficients
    logs = probe.base.logits(torch.tensor([tokens]))[0].log_softmax(-1)
    return [float(logs[k - 1, token]) for k, token in enumerate(tokens)][1:]


def test_the_loss_is_that_of_the_answers_and_the_surprise_that_of_the_prompts(probe):
    examples = samples(7, count=9)
    coefficients = torch.tensor([0.8, -0.3])
    task = probe.task(ExampleParams(examples=examples, prompt=PROMPT), labelled=True)
    losses, surprises = [], []
    for example in examples:
        question, answer = ids(example.input + ">"), [*ids(" " + example.output), 0]
        logs = log_probabilities(probe, coefficients, question + answer)
        losses.append(-sum(logs[-len(answer) :]) / len(answer))
        surprises.append(-sum(logs[: len(question) - 1]) / (len(question) - 1))
    assert probe.loss(task, coefficients) == pytest.approx(sum(losses) / 9, rel=1e-5)
    assert probe.surprise(task, coefficients) == pytest.approx(sum(surprises) / 9, rel=1e-5)
    assert probe.loss(task, None) != pytest.approx(probe.loss(task, coefficients), rel=1e-3)


def test_the_entropy_is_that_of_the_first_word_of_the_answer(probe):
    examples = samples(8, count=5)
    coefficients = torch.tensor([0.2, 0.9])
    task = probe.task(ExampleParams(examples=examples, prompt=PROMPT), labelled=False)
    expected = 0.0
    for example in examples:
        probe.adapted.coefficients = coefficients
        p = probe.base.logits(torch.tensor([ids(example.input + ">")]))[0, -1].softmax(-1)
        expected -= float((p * p.log()).sum()) / 5
    found = sum(len(batch.ids) / 5 * float(probe.entropy(batch, coefficients)) for batch in task)
    assert found == pytest.approx(expected, rel=1e-5)


def test_grams_are_sums_over_the_tokens_of_each_inputs_own_samples(probe, inputs, monkeypatch):
    project = torch.randn(11, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    views = [View("embed", 3, project), View("layers.1.q", 8), View("layers.1.v", 3, project[:8])]
    params = SampleParams(prompt=PROMPT, samples=4, seed=3)
    together = list(probe.grams(views, len(views), params))
    monkeypatch.setattr(probes, "GRAM_BYTES", 1)  # one pass per module
    for grams, alone in zip(together, probe.grams(views, len(views), params), strict=True):
        for whole, part in zip(grams, alone, strict=True):
            assert torch.equal(whole, part)
    for i, item in enumerate(inputs):
        embedded, full, projected = (torch.zeros(k, k, dtype=torch.float64) for k in (3, 8, 3))
        for sample in drawn(item.samples, 4, 3):
            tokens = [*ids(sample.input + ">"), *ids(" " + sample.output), 0]
            seen = {}
            probe.adapted.coefficients = probe.adapted.one(i)
            with probe.adapted.watching(["layers.1.q"], seen.__setitem__):
                probe.base.logits(torch.tensor([tokens]))
            for token, x in zip(tokens, seen["layers.1.q"], strict=True):
                embedded += torch.outer(project[token], project[token])
                full += torch.outer(x, x)
                projected += torch.outer(project[:8].T @ x, project[:8].T @ x)
        for gram, expected in zip(together, (embedded, full, projected), strict=True):
            assert float((gram[i] - expected).norm() / expected.norm()) < 1e-12


def test_scores_are_gradients_by_weights_of_modules_that_run_once_twice_or_never(probe):
    base = probe.base.model
    looped = SimpleNamespace(embed=base.embed, layers=[base.layers[0]] * 2)

    def logits(tokens):
        return logits_of(looped, tokens)

    twice = replace(probe, base=replace(probe.base, logits=logits))
    [example, *_] = [one for batch in probe.own_task(0, SampleParams()) for one in batch.apart()]
    found = {path: g.T @ x for path, x, g in twice.scores(example, 0, ["layers.0.v", "layers.1.v", "layers.0.q"])}
    assert list(found) == ["layers.0.v", "layers.0.q"]
    base.requires_grad_(True)
    tokens = example.ids[0].tolist()
    logs = logits(example.ids)[0].log_softmax(-1)
    sum(logs[k - 1, tokens[k]] for k in range(int(example.prompts), len(tokens))).backward()
    for path, gradient in found.items():
        torch.testing.assert_close(gradient, base.get_submodule(path).weight.grad, rtol=1e-5, atol=1e-6)
    assert list(twice.scores(example, 0, ["layers.1.v"])) == []


def test_what_is_missing_is_refused_with_the_input(inputs):
    mute = [inputs[0], replace(inputs[1], samples=())]
    unlabelled = [inputs[0], replace(inputs[1], samples=(Example("x"),))]
    running = running_base()
    with AdaptedModel(running.model, opened(inputs)) as adapted:
        for given, labelled, code in ((mute, False, "no_samples"), (unlabelled, True, "no_labels")):
            with pytest.raises(NotMergeable) as caught:
                Probe(running, adapted, given, [1, 1]).task(ExampleParams(), labelled=labelled)
            assert [(problem.index, problem.code) for problem in caught.value.inputs] == [(1, code)]
        Probe(running, adapted, unlabelled, [1, 1]).task(ExampleParams(), labelled=False)
    with pytest.raises(ValueError, match="needs an output"):
        LabelledParams(examples=(Example("x", "y"), Example("x")))


def test_running_the_base_can_be_stopped(inputs):
    def stop(fraction):
        raise InterruptedError

    running = running_base(progress=stop)
    with AdaptedModel(running.model, opened(inputs)) as adapted:
        probe = Probe(running, adapted, inputs, [1, 1])
        with pytest.raises(InterruptedError):
            probe.loss(probe.task(ExampleParams(), labelled=True), None)


def test_batches_hold_one_length_and_every_token():
    examples = (Example("aa", "b"), Example("a", "bb"), Example("abc"), Example("x" * 3000, "y"))
    encoded = batches(examples, TOKENS, "{line}")
    rows = [tuple(row) for batch in encoded for row in batch.ids.tolist()]
    assert sorted(map(len, rows)) == [3, 5, 5, MAX_TOKENS]
    assert {(*ids("aa b"), 0), (*ids("a bb"), 0), tuple(ids("abc"))} < set(rows)
    [cut] = [row for row in rows if len(row) == MAX_TOKENS]
    assert cut[-3:] == (*ids(" y"), 0)
    for batch in encoded:
        assert torch.equal(batch.is_answer.sum(1), batch.ids.shape[1] - batch.prompts)


def test_examples_are_read_strictly_and_drawn_alike():
    assert Example.from_json({"input": "a", "output": None}) == Example("a")
    for bad in ("a", {"output": "b"}, {"input": " "}, {"input": "a", "output": 3}, {"input": "a", "more": "b"}):
        with pytest.raises(ValueError, match=r"input|output"):
            Example.from_json(bad)
    for text in ("x" * (MAX_CHARS + 1), "\0", "\ud800"):
        with pytest.raises(ValueError, match="not valid text"):
            Example.from_json({"input": f"a{text}"})
    many = samples(1, count=50)
    assert drawn(many, 10, 4) == drawn(many, 10, 4) != drawn(many, 10, 5)
    assert drawn(many, 50, 4) == list(many)
    assert in_turns([many[:3], many[:1], many[7:9]], 4) == [many[0], many[7], many[1], many[8]]


def test_the_prompt_must_have_a_place_for_the_line():
    for prompt in ("Answer:", "{line}" + "x" * 2000):
        with pytest.raises(ValueError, match="prompt must have"):
            SampleParams(prompt=prompt)
    assert SampleParams(prompt="Q: {line}").prompt == "Q: {line}"
