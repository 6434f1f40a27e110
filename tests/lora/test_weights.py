"""Reading factors and writing canonical adapters."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lora.errors import LoraError
from lora.weights import AdapterFile, write_adapter
from tests.lora.factories import write_adapter_files
from tests.lora.peft_models import save_adapter
from tests.lora.raw_files import read_config, read_deltas, read_tensors
from tests.lora.recipes import merge_input


def test_factors_multiply_to_the_delta(tmp_path: Path) -> None:
    targets = ["q", "v", "embed", "conv"]
    folder = save_adapter(tmp_path / "a", 0, r=2, lora_alpha=6, use_rslora=True, target_modules=targets)
    item, deltas = merge_input(folder), read_deltas(folder)
    with AdapterFile(item.weights_path, item.layout) as file:
        assert file.paths == sorted(deltas)
        for path in file.paths:
            found = file.factors(path)
            assert found.A.dtype == found.B.dtype == torch.float32
            product = found.scaling * found.B.double() @ found.A.double()
            assert product.numpy() == pytest.approx(deltas[path])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtype_of_a_file(dtype: torch.dtype, tmp_path: Path) -> None:
    item = merge_input(write_adapter_files(tmp_path / "a", dtype=dtype))
    with AdapterFile(item.weights_path, item.layout) as file:
        assert file.dtype == dtype
        assert file.factors(file.paths[0], torch.float64).A.dtype == torch.float64


def test_written_adapter_is_padded_aligned_and_read_back(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", 0, r=2, lora_alpha=2, target_modules=["q", "embed", "conv"])
    item = merge_input(folder)
    modules = list(item.layout.modules.values())
    out = tmp_path / "out"
    out.mkdir()
    with AdapterFile(item.weights_path, item.layout) as file:
        factors = [(file.factors(m.path).A, file.factors(m.path).B) for m in modules]
        write_adapter(
            out, modules, factors, rank=5, dtype="float32", config={"task_type": "CAUSAL_LM"}, metadata={"why": "é"}
        )
    assert {p: d.tolist() for p, d in read_deltas(out).items()} == {
        p: d.tolist() for p, d in read_deltas(folder).items()
    }
    before, after = (read_tensors(f / "adapter_model.safetensors") for f in (folder, out))
    assert after.keys() == before.keys()
    assert after["base_model.model.conv.lora_A.weight"].shape == (5, 3, 2, 3)
    assert after["base_model.model.conv.lora_B.weight"].shape == (5, 5, 1, 1)
    config = read_config(out)
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (5, 5, {})
    assert config["target_modules"] == sorted(item.layout.modules)
    with safe_open(out / "adapter_model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "why": "é"}
    raw = (out / "adapter_model.safetensors").read_bytes()
    assert int.from_bytes(raw[:8], "little") % 8 == 0
    json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])


def test_what_does_not_fit_the_dtype_is_refused(tmp_path: Path) -> None:
    item = merge_input(write_adapter_files(tmp_path / "a"))
    module = next(iter(item.layout.modules.values()))
    factors = [(torch.full((1, module.d_in), 1e6), torch.ones(module.d_out, 1))]
    with pytest.raises(LoraError, match="do not fit float16; choose a wider dtype"):
        write_adapter(tmp_path, [module], factors, rank=1, dtype="float16", config={}, metadata={})
