"""Vectors from what the base makes of samples, against its own activations averaged by hand."""

import numpy as np
import pytest
import torch

from lora.examples import Example
from lora.prototypes import activations as module
from lora.prototypes.activations import NoSamples, activations
from lora.prototypes.dam import late_module, late_states
from lora.prototypes.fisher import fisher
from lora.runtime.adapted import DoesNotFit
from lora.runtime.probe import RunningBase
from lora.runtime.text import PROMPT, batches
from tests.lora.runtime.tiny_language_model import TOKENS, ids, running_base

EXAMPLES = [Example("abc", "de"), Example("b"), Example("hh ia", "cab")]


def embedded(base, example):
    """What goes into the first layer, (t, d)."""
    return base.model.embed(torch.tensor(ids(PROMPT.replace("{line}", example.input)))).numpy()


def test_activations_are_means_of_directions_each_sample_alike():
    base = running_base()
    found = activations(base, ["layers.0.q", "layers.1.q"], EXAMPLES)
    assert list(found) == ["layers.0.q", "layers.1.q"]
    per_sample = []
    for example in EXAMPLES:
        x = embedded(base, example)
        per_sample.append((x / np.linalg.norm(x, axis=1, keepdims=True)).mean(0))
    assert found["layers.0.q"] == pytest.approx(np.mean(per_sample, axis=0).astype(np.float32), abs=1e-6)
    assert not np.allclose(found["layers.1.q"], found["layers.0.q"])


def test_late_states_are_last_tokens_of_the_chosen_layer(monkeypatch):
    base = running_base()
    assert late_module(base) == "layers.1.q"
    monkeypatch.setattr("lora.prototypes.dam.DEPTH", 0.0)
    found = late_states(base, EXAMPLES)
    assert list(found) == ["layers.0.q"]
    assert found["layers.0.q"] == pytest.approx(np.stack([embedded(base, e)[-1] for e in EXAMPLES]).astype(np.float32))


def test_many_samples_are_drawn_and_none_refused(monkeypatch):
    base = running_base()
    monkeypatch.setattr(module, "MOST", 2)
    some = activations(base, ["layers.0.q"], EXAMPLES)["layers.0.q"]
    two = (EXAMPLES[:2], EXAMPLES[1:], EXAMPLES[::2])
    pairs = [activations(base, ["layers.0.q"], pair)["layers.0.q"] for pair in two]
    assert sum(np.array_equal(some, pair) for pair in pairs) == 1
    for compute in (lambda: activations(base, ["layers.0.q"], []), lambda: late_states(base, [])):
        with pytest.raises(NoSamples):
            compute()


def test_a_base_without_layers_has_no_late_module():
    with pytest.raises(DoesNotFit, match="layers"):
        late_module(RunningBase(torch.nn.Linear(2, 2), lambda tokens: tokens, TOKENS))


def test_fisher_is_the_mean_square_of_every_weight_s_gradient():
    """Against autograd by the weight itself."""
    base = running_base()
    found = fisher(base, ["layers.0.q", "layers.1.q"], EXAMPLES)
    weights = {name: parameter for name, parameter in base.model.named_parameters() if name.endswith("q.weight")}
    base.model.requires_grad_(True)
    expected = {name: np.zeros(weight.shape[1]) for name, weight in weights.items()}
    labelled = [example for example in EXAMPLES if example.output]
    for example in labelled:
        [batch] = batches([example], TOKENS, PROMPT)
        logs = base.logits(batch.ids)[:, :-1].log_softmax(-1)
        picked = logs.gather(-1, batch.ids[:, 1:, None])[..., 0]
        gradients = torch.autograd.grad(picked[batch.is_answer[:, 1:]].sum(), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            expected[name] += gradient.square().mean(0).numpy() / len(labelled)
    for path, values in found.items():
        assert values == pytest.approx(expected[f"{path}.weight"], rel=1e-4)
        assert (values > 0).any()


def test_fisher_needs_answers_and_modules_of_the_base():
    with pytest.raises(NoSamples):
        fisher(running_base(), ["layers.0.q"], [Example("b"), Example("c", "")])
    with pytest.raises(DoesNotFit):
        fisher(running_base(), ["layers.9.q"], EXAMPLES)
