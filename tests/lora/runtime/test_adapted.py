"""The base with adapters on top is the base with Σ c·ΔW on its weights, whatever c."""

import copy

import pytest
import torch
from torch import nn

from lora.runtime.adapted import AdaptedModel, DoesNotFit
from tests.lora.peft_models import loaded_deltas, save_adapter, tiny_base
from tests.lora.raw_files import read_deltas
from tests.lora.recipes import merge_input
from tests.lora.runtime.tiny_language_model import logits_of, opened, running_base, write_inputs

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])

# PEFT settles fan_in_fan_out by module, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def with_changed_weights(inputs, coefficients):
    """A base with Σ c·ΔW on its weights, ΔW as PEFT computes it."""
    changed = running_base().model
    for i, item in enumerate(inputs):
        for path, delta in loaded_deltas(item.weights_path.parent).items():
            c = coefficients[path][i] if isinstance(coefficients, dict) else coefficients[i]
            changed.get_submodule(path).weight.data += c * delta
    return changed


def close(actual, expected):
    return float((actual - expected).norm() / expected.norm()) < 1e-6


def test_it_is_the_base_with_the_changes_on_its_weights(inputs):
    running = running_base()
    before = logits_of(running.model, IDS)
    with AdaptedModel(running.model, opened(inputs)) as adapted:
        for coefficients in (torch.tensor([1.0, 0.0]), torch.tensor([0.3, -1.2])):
            adapted.coefficients = coefficients
            expected = logits_of(with_changed_weights(inputs, coefficients), IDS)
            assert close(running.logits(IDS), expected)
            assert not close(running.logits(IDS), before)
        adapted.coefficients = None
        assert torch.equal(running.logits(IDS), before)
        adapted.coefficients = torch.ones(2)
    assert torch.equal(running.logits(IDS), before), "hooks are left behind"


def test_every_module_may_have_coefficients_of_its_own(inputs):
    running = running_base()
    paths = sorted(set(inputs[0].layout.modules) | set(inputs[1].layout.modules))
    coefficients = {path: torch.tensor([0.1 * k, 1 - 0.2 * k]) for k, path in enumerate(paths)}
    with AdaptedModel(running.model, opened(inputs)) as adapted:
        adapted.coefficients = coefficients
        assert close(running.logits(IDS), logits_of(with_changed_weights(inputs, coefficients), IDS))


def test_gradients_reach_the_coefficients(inputs):
    running = running_base()
    coefficients = torch.tensor([0.4, 0.7], dtype=torch.float64, requires_grad=True)
    with AdaptedModel(running.model, opened(inputs)) as adapted:

        def loss(c):
            adapted.coefficients = c
            return running.logits(IDS).square().mean()

        loss(coefficients).backward()
        step = 1e-6
        for i, unit in enumerate(torch.eye(2, dtype=torch.float64)):
            at = coefficients.detach()
            slope = (loss(at + step * unit) - loss(at - step * unit)) / (2 * step)
            assert float(coefficients.grad[i]) == pytest.approx(float(slope), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*have invalid shape")  # PEFT takes lora_B.bias for a broken factor
def test_biases_in_lora_layers_count(tmp_path):
    item = merge_input(save_adapter(tmp_path / "a", 0, r=2, target_modules=["q"], lora_bias=True))
    assert any(layout.bias_name for layout in item.layout.modules.values())
    running = running_base()
    expected, deltas = copy.deepcopy(running.model), read_deltas(tmp_path / "a")
    for path, layout in item.layout.modules.items():
        [file] = opened([item])
        expected.get_submodule(path).weight.data += 0.5 * torch.from_numpy(deltas[path])
        expected.get_submodule(path).bias.data += 0.5 * layout.scaling * file.tensor(layout.bias_name)
    with AdaptedModel(running.model, opened([item])) as adapted:
        adapted.coefficients = torch.tensor([0.5])
        assert close(running.logits(IDS), logits_of(expected, IDS))


def test_what_goes_into_a_module_can_be_watched(inputs):
    running, seen = running_base(), {}
    with AdaptedModel(running.model, opened(inputs)) as adapted:
        adapted.coefficients = torch.tensor([1.0, 0.0])
        with adapted.watching(["embed", "layers.0.q"], seen.__setitem__):
            running.logits(IDS)
        embedded = with_changed_weights(inputs, adapted.coefficients).embed(IDS)
        assert torch.equal(seen["embed"], IDS.flatten())
        assert close(seen["layers.0.q"], embedded.flatten(0, 1))
        seen.clear()
        running.logits(IDS)
        assert not seen


def test_another_base_is_refused_with_the_module(inputs, tmp_path):
    other = tiny_base()
    del other.layers[1]
    with pytest.raises(DoesNotFit, match=r"no module layers\.1\.c"):
        AdaptedModel(other, opened(inputs))
    wider = tiny_base()
    wider.layers[0].q = nn.Linear(9, 6)
    with pytest.raises(DoesNotFit, match=r"layers\.0\.q of the base at hand is 6x9"):
        AdaptedModel(wider, opened(inputs))
    convolving = merge_input(save_adapter(tmp_path / "conv", 0, r=2, target_modules=["conv"]))
    with pytest.raises(DoesNotFit, match="conv cannot be run here"):
        AdaptedModel(tiny_base(), opened([convolving]))
