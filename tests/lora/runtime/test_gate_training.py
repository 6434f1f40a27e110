"""Gates of every type trained over two experts on a tiny model: from the equal mix to a lower loss."""

from io import BytesIO

import numpy as np
import pytest
import torch
from safetensors.torch import save

from lora.composing import Modules, check_gates
from lora.compositions import COMPOSITIONS
from lora.examples import Example
from lora.header import read_header
from lora.runtime.adapted import AdaptedModel, DoesNotFit
from lora.runtime.composed import Composition
from lora.runtime.descent import LEARNING_RATE, NotTrainable, answer_loss
from lora.runtime.gate_training import Told, changes_of, layers_of, train_gates
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
def items(tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    return [merge_input(write_adapter_files(root / str(i), MODULES, 2 + i, 3, seed=i)) for i in (0, 1, 2)]


@pytest.fixture(scope="module")
def files(items):
    return opened(items[:2])


@pytest.fixture(scope="module")
def three(items):
    return opened(items)


def batch_of(base):
    [batch] = batches([example for task in TASKS for example in task], base.tokens, PROMPT)
    return batch


def equal_loss(base, files):
    """Of the samples, with all experts in equal parts."""
    with AdaptedModel(base.model, files) as adapted, torch.no_grad():
        adapted.coefficients = adapted.numbers([1 / len(files)] * len(files))
        return answer_loss(base.logits, batch_of(base), adapted.device).item()


def loss_with(base, files, kind, tensors):
    """Of the samples, with these gates over all experts."""
    gates = {}
    for name, tensor in tensors.items():
        place, _, part = name.rpartition(".")
        gates.setdefault(place, {})[part] = tensor
    traits, batch = COMPOSITIONS.get(kind).traits, batch_of(base)
    places = {
        place: [path for path in MODULES if traits["place"] == "model" or path.startswith(place)] for place in gates
    }
    params, names = vars(COMPOSITIONS.parse(kind, {})), [str(i) for i in range(len(files))]
    made = Composition(kind, params, traits["reads"], names, gates, places, changes_of(files))
    with made.on(base.model, prompt={"input_ids": batch.ids, "attention_mask": batch.is_prompt}), torch.no_grad():
        return answer_loss(base.logits, batch, torch.device("cpu")).item()


def test_the_first_step_goes_down_from_the_equal_mix(base, files):
    trained = train_gates(base, "lora_flow", {}, files, TASKS, steps=1)
    shapes = {"weight": (2, 8), "bias": (2,)}
    assert {name: tuple(tensor.shape) for name, tensor in trained.tensors.items()} == {
        f"{layer}.{part}": shape for layer in LAYERS for part, shape in shapes.items()
    }
    assert trained.losses == pytest.approx((equal_loss(base, files),), rel=1e-5)
    zeros = {layer: {part: torch.zeros(shape) for part, shape in shapes.items()} for layer in LAYERS}
    for layer in LAYERS:
        for part in shapes:
            found = []
            for side in (0.05, -0.05):
                tensors = {f"{place}.{name}": tensor for place, own in zeros.items() for name, tensor in own.items()}
                tensors[f"{layer}.{part}"] = zeros[layer][part].clone()
                tensors[f"{layer}.{part}"].view(-1)[0] = side
                found.append(loss_with(base, files, "lora_flow", tensors))
            # the first step of AdamW is as long as its rate, against the slope
            step = trained.tensors[f"{layer}.{part}"].view(-1)[0].item()
            assert step == pytest.approx(LEARNING_RATE if found[0] < found[1] else -LEARNING_RATE, rel=1e-2)


@pytest.mark.parametrize("kind", [name for name in COMPOSITIONS.names() if COMPOSITIONS.get(name).traits["runs"]])
def test_training_lowers_the_loss_alike_each_time(base, three, kind):
    params = vars(COMPOSITIONS.parse(kind, {}))
    trained = train_gates(base, kind, params, three, [*TASKS, TASKS[0]], steps=60)
    first = train_gates(base, kind, params, three, [*TASKS, TASKS[0]], steps=1)
    assert loss_with(base, three, kind, trained.tensors) < loss_with(base, three, kind, first.tensors)
    assert trained.losses == train_gates(base, kind, params, three, [*TASKS, TASKS[0]], steps=60).losses
    assert all(tensor.isfinite().all() and tensor.any() for tensor in trained.tensors.values())
    assert not base.model.model.layers[0]._forward_pre_hooks
    assert not base.model.lm_head._forward_pre_hooks


@pytest.mark.parametrize("kind", ["lora_flow", "mole", "adapter_fusion", "pemt", "mixda", "wemoe", "pwe_moe"])
def test_training_begins_with_the_equal_mix(base, three, kind):
    """The others choose some experts, or have one that is always on."""
    trained = train_gates(base, kind, vars(COMPOSITIONS.parse(kind, {})), three, TASKS, steps=1)
    assert trained.losses == pytest.approx((equal_loss(base, three),), rel=1e-5)


@pytest.mark.parametrize("kind", ["meteora", "ramole", "twin_merging", "mole"])
def test_trained_gates_are_such_as_are_taken(base, items, three, kind):
    shapes = COMPOSITIONS.get(kind).run(COMPOSITIONS.parse(kind, {}))
    trained = train_gates(base, kind, vars(COMPOSITIONS.parse(kind, {})), three, TASKS, steps=1)
    raw = save(trained.tensors)
    header = read_header(BytesIO(raw), len(raw), "gates.safetensors")
    assert check_gates(COMPOSITIONS.get(kind), shapes, header, 3, Modules.of(items, None))[1] == []


def test_preferences_are_drawn_by_the_task_of_each_sample():
    """Of all preferences for three tasks, those by which one was drawn count it half in the mean."""
    told = Told(Composition("pwe_moe", {}, "preference", "abc", {}, {}, {}), [0, 1, 2], np.random.Philox(0))
    rows = np.array([told.of(None, [0, 1, 2])["preference"] for _ in range(3000)])
    assert rows.sum(axis=2) == pytest.approx(np.ones((3000, 3)))
    assert rows.mean(axis=0) == pytest.approx(np.full((3, 3), 0.25) + np.eye(3) / 4, abs=0.01)


def test_a_router_lora_meets_half_of_the_experts_at_a_time():
    told = Told(Composition("ramole", {}, "outputs", "abcde", {}, {}, {}), [], np.random.Philox(0))
    met = [told.of(None, [])["among"] for _ in range(50)]
    assert {len(some) for some in met} == {3}
    assert {name for some in met for name in some} == set("abcde")


def test_gates_that_nobody_would_take_are_not_begun(base, files, monkeypatch):
    monkeypatch.setattr("lora.runtime.gate_training.MAX_BYTES", 1000)
    with pytest.raises(NotTrainable, match="at most 1000"):
        train_gates(base, "adapter_fusion", {}, files, TASKS, steps=1)


def test_what_cannot_be_trained_is_said(base, files, tmp_path):
    with pytest.raises(NotTrainable, match="no samples with outputs"):
        train_gates(base, "lora_flow", {}, files, [[Example("ab")], []], steps=1)
    other = opened([merge_input(write_adapter_files(tmp_path / "other", {"model.layers.7.q": (8, 8)}, 2, 3))])
    with pytest.raises(DoesNotFit, match=r"model\.layers\.7"):
        train_gates(base, "lora_flow", {}, other, TASKS[:1], steps=1)


def test_the_layer_of_a_module_ends_at_its_first_number():
    assert layers_of({"h.3.mlp.0.up", "h.3.q", "h.10.q", "head"}) == {
        "h.3": ["h.3.mlp.0.up", "h.3.q"],
        "h.10": ["h.10.q"],
        "head": ["head"],
    }
