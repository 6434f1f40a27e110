"""Gates of LoRA-Flow trained over two experts on a tiny model: from the equal mix, one per layer, to a lower loss."""

import pytest
import torch

from lora.examples import Example
from lora.runtime.adapted import AdaptedModel, DoesNotFit
from lora.runtime.composed import Composition
from lora.runtime.descent import LEARNING_RATE, NotTrainable, answer_loss
from lora.runtime.gate_training import changes_of, layers_of, train_lora_flow
from lora.runtime.loading import load_running_base
from lora.runtime.text import PROMPT, batches
from tests.lora.factories import write_adapter_files
from tests.lora.recipes import merge_input
from tests.lora.runtime.tiny_language_model import opened
from tests.lora.tiny_llama import MODULES, save_tiny_llama

# Equally long, so that one batch holds all of them: every step sees the same.
TASKS = [[Example("ab", "c"), Example("bb", "a")], [Example("cc", "b"), Example("ca", "c")]]
LAYERS = ["model.layers.0", "model.layers.1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_running_base(save_tiny_llama(tmp_path_factory.mktemp("tiny") / "llama"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    return opened([merge_input(write_adapter_files(root / str(i), MODULES, 2 + i, 3, seed=i)) for i in (0, 1)])


def test_the_first_step_goes_down_from_the_equal_mix(base, files):
    trained = train_lora_flow(base, files, TASKS, steps=1)
    shapes = {"weight": (2, 8), "bias": (2,)}
    assert {name: tuple(tensor.shape) for name, tensor in trained.tensors.items()} == {
        f"{layer}.{part}": shape for layer in LAYERS for part, shape in shapes.items()
    }
    [batch] = batches([example for task in TASKS for example in task], base.tokens, PROMPT)
    with AdaptedModel(base.model, files) as adapted, torch.no_grad():
        adapted.coefficients = adapted.numbers([0.5, 0.5])
        assert trained.losses == pytest.approx((answer_loss(base.logits, batch, adapted.device).item(),), rel=1e-5)
    zeros = {layer: {part: torch.zeros(shape) for part, shape in shapes.items()} for layer in LAYERS}
    places = layers_of(set(MODULES))
    for layer in LAYERS:
        for part in shapes:
            found = []
            for side in (0.05, -0.05):
                gates = {name: dict(own) for name, own in zeros.items()}
                gates[layer][part] = zeros[layer][part].clone()
                gates[layer][part].view(-1)[0] = side
                made = Composition("lora_flow", {}, "token", "ab", gates, places, changes_of(files))
                with made.on(base.model), torch.no_grad():
                    found.append(answer_loss(base.logits, batch, torch.device("cpu")).item())
            # the first step of AdamW is as long as its rate, against the slope
            step = trained.tensors[f"{layer}.{part}"].view(-1)[0].item()
            assert step == pytest.approx(LEARNING_RATE if found[0] < found[1] else -LEARNING_RATE, rel=1e-2)


def test_training_lowers_the_loss_alike_each_time(base, files):
    trained = train_lora_flow(base, files, TASKS, steps=40)
    assert list(trained.losses) == sorted(trained.losses, reverse=True)
    again = train_lora_flow(base, files, TASKS, steps=40)
    assert again.losses == trained.losses
    assert not base.model.model.layers[0]._forward_pre_hooks


def test_what_cannot_be_trained_is_said(base, files, tmp_path):
    with pytest.raises(NotTrainable, match="no samples with outputs"):
        train_lora_flow(base, files, [[Example("ab")], []], steps=1)
    other = opened([merge_input(write_adapter_files(tmp_path / "other", {"model.layers.7.q": (8, 8)}, 2, 3))])
    with pytest.raises(DoesNotFit, match=r"model\.layers\.7"):
        train_lora_flow(base, other, TASKS[:1], steps=1)


def test_the_layer_of_a_module_ends_at_its_first_number():
    assert layers_of({"h.3.mlp.0.up", "h.3.q", "h.10.q", "head"}) == {
        "h.3": ["h.3.mlp.0.up", "h.3.q"],
        "h.10": ["h.10.q"],
        "head": ["head"],
    }
