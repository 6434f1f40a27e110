"""PHATGOOSE gates against the paper's formula written out: hooks, gradients and AdamW by hand."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from lora.examples import Example
from lora.prototypes import phatgoose
from lora.prototypes.phatgoose import train_gates
from lora.runtime import descent
from lora.runtime.adapted import AdaptedModel
from lora.runtime.descent import LEARNING_RATE, NotTrainable
from lora.runtime.text import PROMPT
from tests.lora.factories import write_files
from tests.lora.peft_models import loaded_deltas, save_adapter
from tests.lora.recipes import merge_input
from tests.lora.runtime.tiny_language_model import ids, opened, running_base

# PEFT settles fan_in_fan_out by module, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")

# As many as one batch: every step sees all of them, in whatever order.
EXAMPLES = [Example("abc", "de"), Example("b", "a"), Example("hh ia", "cab"), Example("ce", "gg")]
TARGETS = ["q", "v", "c", "embed"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_adapter(tmp_path_factory.mktemp("gated") / "one", seed=3, r=2, lora_alpha=3, target_modules=TARGETS)


def trained(folder, examples=EXAMPLES, **options):
    [file] = opened([merge_input(folder)])
    return train_gates(running_base(), file, examples, **options)


def written_out(deltas, gates):
    """The loss as a function of the gates: W·x + σ(g·x)·ΔW·x in every linear module, each example by itself."""
    base = running_base()
    base.model.embed.weight.data += deltas["embed"]
    for path, g in gates.items():
        module, change = base.model.get_submodule(path), deltas[path].double()
        if not isinstance(module, torch.nn.Linear):  # Conv1D has its weight the other way round
            change = change.T

        def add(module, args, output, change=change, g=g):
            [x] = args
            return output + torch.sigmoid((x * g).sum(-1, keepdim=True)) * torch.einsum("oi,bti->bto", change, x)

        module.register_forward_hook(add)
    total, count = 0.0, 0
    for example in EXAMPLES:
        prompt, answer = ids(PROMPT.replace("{line}", example.input)), [*ids(" " + example.output), 0]
        tokens = torch.tensor([prompt + answer])
        logs = base.logits(tokens)[0].log_softmax(-1)
        for place, token in enumerate(answer, len(prompt)):
            total = total - logs[place - 1, token]
            count += 1
    return total / count


def zeros(folder):
    modules = merge_input(folder).layout.modules.values()
    linear = {module.path: module.d_in for module in modules if module.kind == "linear"}
    return {path: torch.zeros(d_in, dtype=torch.float64, requires_grad=True) for path, d_in in linear.items()}


def test_gates_follow_the_formula_step_by_step(folder):
    steps = 3
    gates, deltas = zeros(folder), loaded_deltas(folder)
    assert len(gates) == 6
    mean, square = dict.fromkeys(gates, 0.0), dict.fromkeys(gates, 0.0)
    expected = []
    for t in range(1, steps + 1):
        loss = written_out(deltas, gates)
        expected.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, list(gates.values()))
        for (path, g), gradient in zip(gates.items(), gradients, strict=True):
            mean[path] = 0.9 * mean[path] + 0.1 * gradient
            square[path] = 0.999 * square[path] + 0.001 * gradient**2
            step = (mean[path] / (1 - 0.9**t)) / ((square[path] / (1 - 0.999**t)).sqrt() + 1e-8)
            g.data -= LEARNING_RATE * step
    found = trained(folder, steps=steps)
    assert found.losses == pytest.approx(expected, rel=1e-6)
    assert expected[-1] < expected[0]
    for path, g in gates.items():
        torch.testing.assert_close(found.vectors[path].double(), g.detach(), rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_finite_differences(folder):
    found, gates, deltas = trained(folder, steps=1).vectors, zeros(folder), loaded_deltas(folder)
    path, width = "layers.0.q", 1e-5
    with torch.no_grad():
        for place in range(4):
            losses = []
            for side in (width, -width):
                gates[path][place] = side
                losses.append(float(written_out(deltas, gates)))
            gates[path][place] = 0
            slope = (losses[0] - losses[1]) / (2 * width)
            assert found[path][place] == pytest.approx(-math.copysign(LEARNING_RATE, slope), rel=1e-3)


def test_the_rate_rises_over_the_first_steps(folder, monkeypatch):
    full = trained(folder, steps=1).vectors["layers.0.q"]
    monkeypatch.setattr(descent, "WARM_UP", 1.0)
    risen = trained(folder, steps=4)
    with monkeypatch.context() as patch:
        patch.setattr(phatgoose, "LEARNING_RATE", LEARNING_RATE / 4)
        patch.setattr(descent, "WARM_UP", 0.0)
        quarter = trained(folder, steps=1).vectors["layers.0.q"]
    torch.testing.assert_close(quarter, full / 4)
    assert risen.losses[1] > trained(folder, steps=2).losses[1], "the first of four rising steps is a quarter"


def split_otherwise(folder, target):
    """The same ΔW by other factors: A turned and B turned back, alpha doubled and B halved."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors, turn = load_file(folder / "adapter_model.safetensors"), torch.tensor([[2.0, 1.0], [0.5, -1.0]])
    for name in [name for name in tensors if "lora_A" in name or "lora_embedding_A" in name]:
        other = name.replace("_A", "_B")
        tensors[name] = turn @ tensors[name]
        tensors[other] = tensors[other] @ torch.linalg.inv(turn) / 2
    return write_files(target, config | {"lora_alpha": 2 * config["lora_alpha"]}, tensors)


def test_gates_do_not_know_how_a_change_is_split_or_scaled(folder, tmp_path):
    found = trained(folder, steps=4).vectors
    for path, g in trained(split_otherwise(folder, tmp_path / "other"), steps=4).vectors.items():
        torch.testing.assert_close(g, found[path], rtol=1e-4, atol=1e-6)


def test_only_gates_move_and_nothing_stays_on_the_model(folder):
    base = running_base()
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    [file] = opened([merge_input(folder)])
    factors = file.factors("layers.0.q")
    first = train_gates(base, file, EXAMPLES, steps=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    assert not any(module._forward_hooks for module in base.model.modules())
    assert torch.equal(file.factors("layers.0.q").A, factors.A)
    assert all(tensor.grad is None for tensor in base.model.parameters())
    again = trained(folder, [*EXAMPLES, Example("no output teaches nothing")], steps=2)
    assert again.losses == first.losses
    assert all(torch.equal(again.vectors[path], g) for path, g in first.vectors.items())


def test_training_lowers_the_loss_and_the_curve_is_kept(folder):
    found = trained(folder, EXAMPLES * 2, steps=60)
    assert len(found.losses) == 60
    assert sum(found.losses[-10:]) < sum(found.losses[:10])
    facts = found.facts
    assert (facts["steps"], len(json.loads(facts["losses"]))) == ("60", 60)


def test_what_cannot_be_trained_is_said(folder, tmp_path):
    with pytest.raises(NotTrainable, match="no samples with outputs"):
        trained(folder, [Example("abc")])
    words = save_adapter(tmp_path / "words", seed=1, r=2, target_modules=["embed"])
    with pytest.raises(NotTrainable, match="no linear modules"):
        trained(words)


def test_coefficients_may_be_functions_of_tokens(folder):
    running, [file] = running_base(), opened([merge_input(folder)])
    tokens = torch.tensor([[1, 2, 3]])
    with AdaptedModel(running.model, [file]) as adapted:
        adapted.coefficients = adapted.one(0, 0.5)
        halved = running.logits(tokens)
        adapted.coefficients = lambda path, x: adapted.one(0, 0.5).expand(1, 3, 1)
        torch.testing.assert_close(running.logits(tokens), halved)
