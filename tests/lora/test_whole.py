"""What adapters hold beside ΔW, merged and then loaded by PEFT: biases, heads, vocabularies, trained tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from lora.base import Base
from lora.errors import NotMergeable
from lora.merging import OutputSpec
from tests.lora.peft_models import loaded_deltas, save_adapter, tiny_base
from tests.lora.raw_files import read_config, read_tensors, relative_error, weighted_total
from tests.lora.recipes import run_merge

EXACT = OutputSpec("exact")
PLAIN: dict[str, Any] = {"r": 2, "lora_alpha": 6, "target_modules": ["q"]}
WEIGHTS = "adapter_model.safetensors"


def randomised(folder: Path, seed: int, part: str) -> Path:
    """Replace the tensors whose names hold `part` by random ones, as training would."""
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(folder / WEIGHTS)
    for name, tensor in tensors.items():
        if part in name:
            tensors[name] = torch.randn(tensor.shape, generator=generator)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def loaded(folder: Path) -> nn.Module:
    """Load a merge with PEFT; warnings are errors, so that every key is found."""
    return PeftModel.from_pretrained(tiny_base(), folder)


def base_at_hand() -> Base:
    state = tiny_base().state_dict()
    return Base(state.keys(), state.__getitem__)


@pytest.mark.filterwarnings("ignore:.*have invalid shape")  # PEFT takes every 1-D lora_B for a broken one
def test_biases_of_lora_layers_are_added_up(tmp_path: Path) -> None:
    first = PLAIN | {"target_modules": r".*layers\.0\.q", "lora_bias": True}
    folders = [
        save_adapter(tmp_path / "a", 1, **first),
        save_adapter(tmp_path / "b", 2, **first | {"use_rslora": True}),
        save_adapter(tmp_path / "c", 3, **PLAIN),
    ]
    run_merge(tmp_path / "out", folders, weights=[0.7, -0.4, 1.0], output=EXACT, params={"scale": 2.0})
    assert read_config(tmp_path / "out")["lora_bias"] is True
    layers = loaded(tmp_path / "out").base_model.model.layers
    name = "base_model.model.layers.0.q.lora_B.bias"
    biases = [read_tensors(folder / WEIGHTS)[name] for folder in folders[:2]]
    expected = 2 * (0.7 * 3 * biases[0] - 0.4 * 6 / 2**0.5 * biases[1])
    assert layers[0].q.lora_B["default"].bias.detach().numpy() == pytest.approx(expected, rel=1e-5)
    assert not layers[1].q.lora_B["default"].bias.any()
    deltas = loaded_deltas(tmp_path / "out")
    for path, delta in weighted_total(folders, [1.4, -0.8, 2.0]).items():
        assert relative_error(deltas[path].double().numpy(), delta) < 1e-5


def test_biases_of_the_base_are_averaged_where_the_weights_sum_to_one(tmp_path: Path) -> None:
    one = randomised(save_adapter(tmp_path / "a", 1, **PLAIN, bias="all"), 1, ".bias")
    two = randomised(save_adapter(tmp_path / "b", 2, **PLAIN | {"target_modules": ["q", "v"]}, bias="all"), 2, ".bias")
    run_merge(tmp_path / "out", [one, two], weights=[0.3, 0.7], output=EXACT)
    assert read_config(tmp_path / "out")["bias"] == "all"
    state = loaded(tmp_path / "out").base_model.model.state_dict()
    files = [read_tensors(folder / WEIGHTS) for folder in (one, two)]
    for name in ("layers.0.q.base_layer.bias", "layers.1.c.bias", "conv.bias"):
        expected = 0.3 * files[0][f"base_model.model.{name}"] + 0.7 * files[1][f"base_model.model.{name}"]
        assert state[name].numpy() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(NotMergeable, match="weights sum to 1"):
        run_merge(tmp_path / "not", [one, two], weights=[0.5, 0.7])


def test_biases_of_the_base_are_told_from_the_bases(tmp_path: Path) -> None:
    one = randomised(save_adapter(tmp_path / "a", 1, **PLAIN, bias="lora_only"), 1, ".bias")
    plain = save_adapter(tmp_path / "b", 2, **PLAIN)
    run_merge(tmp_path / "out", [one, plain], weights=[0.4, 0.9], base=base_at_hand())
    assert read_config(tmp_path / "out")["bias"] == "lora_only"
    before = tiny_base().state_dict()
    after = load_file(tmp_path / "out" / WEIGHTS)
    for i in range(2):
        name = f"base_model.model.layers.{i}.q.base_layer.bias"
        b0 = before[f"layers.{i}.q.bias"]
        expected = b0 + 0.4 * (load_file(one / WEIGHTS)[name] - b0)
        torch.testing.assert_close(after[name], expected)


def test_a_head_of_one_adapter_comes_along(tmp_path: Path) -> None:
    head = randomised(save_adapter(tmp_path / "a", 1, **PLAIN, modules_to_save=["conv"]), 1, "conv")
    plain = save_adapter(tmp_path / "b", 2, **PLAIN)
    report = run_merge(tmp_path / "out", [plain, head], output=EXACT)
    assert [w["code"] for w in report["warnings"]] == ["head_copied"]
    conv = loaded(tmp_path / "out").base_model.model.conv.modules_to_save["default"]
    expected = load_file(head / WEIGHTS)
    torch.testing.assert_close(conv.weight.detach(), expected["base_model.model.conv.weight"])
    torch.testing.assert_close(conv.bias.detach(), expected["base_model.model.conv.bias"])


def test_trained_tokens_are_joined(tmp_path: Path) -> None:
    tokens = ({"embed": [1, 3]}, {"embed": [8]})
    folders = [
        randomised(save_adapter(tmp_path / f"in{i}", i, **PLAIN, trainable_token_indices=ids), i, "trainable_tokens")
        for i, ids in enumerate(tokens)
    ]
    report = run_merge(tmp_path / "out", folders, output=EXACT)
    assert [w["code"] for w in report["warnings"]] == ["tokens_copied"]
    assert read_config(tmp_path / "out")["trainable_token_indices"] == {"embed": [1, 3, 8]}
    model = loaded(tmp_path / "out").base_model.model
    name = "base_model.model.embed.token_adapter.trainable_tokens_delta"
    rows = torch.cat([load_file(folder / WEIGHTS)[name] for folder in folders])
    torch.testing.assert_close(model.embed(torch.tensor([1, 3, 8])).detach(), rows)
    torch.testing.assert_close(model.embed(torch.tensor([2])).detach(), tiny_base().embed(torch.tensor([2])).detach())


def test_equal_vocabularies_are_kept_and_others_refused(tmp_path: Path) -> None:
    vocabulary = {"base_model.model.embed_tokens.weight": torch.randn(11, 8)}

    def with_vocabulary(name: str, tensors: dict[str, torch.Tensor]) -> Path:
        folder = save_adapter(tmp_path / name, len(name), **PLAIN)
        save_file(load_file(folder / WEIGHTS) | tensors, folder / WEIGHTS, metadata={"format": "pt"})
        return folder

    other = {name: tensor + 1 for name, tensor in vocabulary.items()}
    a, bb, ccc = with_vocabulary("a", vocabulary), with_vocabulary("bb", vocabulary), with_vocabulary("ccc", other)
    run_merge(tmp_path / "out", [a, bb])
    torch.testing.assert_close(
        load_file(tmp_path / "out" / WEIGHTS) | vocabulary, load_file(tmp_path / "out" / WEIGHTS)
    )
    with pytest.raises(NotMergeable, match="bring different"):
        run_merge(tmp_path / "not", [a, ccc])


def test_other_methods_refuse_what_they_are_not_defined_for(tmp_path: Path) -> None:
    biased = save_adapter(tmp_path / "a", 1, **PLAIN, bias="all")
    plain = save_adapter(tmp_path / "b", 2, **PLAIN)
    for method in ("ties", "peft_linear", "slerp"):
        with pytest.raises(NotMergeable, match="Take weighted_sum"):
            run_merge(tmp_path / method, [biased, plain], method)
        assert list((tmp_path / method).iterdir()) == []
