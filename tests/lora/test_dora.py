"""DoRA adapters merged where the base is at hand, against what PEFT makes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lora.base import Base, open_base
from lora.errors import LoraError, NotMergeable
from lora.merging import OutputSpec
from tests.lora.peft_models import loaded_deltas, save_adapter, tiny_base
from tests.lora.raw_files import Array, best_of_rank, read_config, read_deltas, relative_error
from tests.lora.recipes import run_merge

WEIGHTS = "adapter_model.safetensors"
DORA: dict[str, Any] = {"r": 2, "lora_alpha": 3, "use_dora": True}
TARGETS = {"linear": ["q", "v"], "conv1d": ["c"], "embedding": ["embed"], "conv2d": ["conv"]}


@pytest.fixture
def base() -> Base:
    state = tiny_base().state_dict()
    return Base(state.keys(), state.__getitem__)


def dora(folder: Path, seed: int, **config: Any) -> Path:
    """Let PEFT write a DoRA adapter with random factors, and magnitudes that training has moved."""
    save_adapter(folder, seed, **DORA | config)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(folder / WEIGHTS)
    for name, tensor in tensors.items():
        if "magnitude" in name:
            tensors[name] = tensor * (0.5 + torch.rand(tensor.shape, generator=generator))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def changes(folder: Path) -> dict[str, Array]:
    """Return path → change of the base's weight when PEFT folds an adapter in, float64."""
    folded, before = PeftModel.from_pretrained(tiny_base(), folder).merge_and_unload(), tiny_base()
    found = {}
    for path, module in before.named_modules():
        if isinstance(getattr(module, "weight", None), torch.Tensor):
            change = (folded.get_submodule(path).weight - module.weight).detach().double().numpy()
            if change.any():
                found[path] = change
    return found


@pytest.mark.parametrize("kind", TARGETS)
def test_a_whole_rank_merge_of_one_is_what_peft_folds_in(kind: str, base: Base, tmp_path: Path) -> None:
    folder = dora(tmp_path / "in", 1, target_modules=TARGETS[kind], fan_in_fan_out=kind == "conv1d")
    report = run_merge(tmp_path / "out", [folder], weights=[1.0], output=OutputSpec("fixed", 11), base=base)
    expected, found = changes(folder), changes(tmp_path / "out")
    assert found.keys() == expected.keys()
    for path, change in expected.items():
        assert relative_error(found[path], change) < 1e-5
    assert read_config(tmp_path / "out")["use_dora"] is False
    assert [w["code"] for w in report["warnings"]] == ["dora_compressed"]
    assert "100.0% of the energy" in report["warnings"][0]["message"]
    loaded_deltas(tmp_path / "out")  # warnings are errors


def test_what_is_cut_off_is_the_smallest_part_and_told(base: Base, tmp_path: Path) -> None:
    folder = dora(tmp_path / "in", 1, target_modules=TARGETS["linear"])
    report = run_merge(tmp_path / "out", [folder], weights=[0.5], output=OutputSpec("fixed", 2), base=base)
    written = read_deltas(tmp_path / "out")
    for path, change in changes(folder).items():
        assert relative_error(written[path], best_of_rank(0.5 * change, 2)) < 1e-4
    assert 0 < report["energy_kept"] < 1
    told = float(report["warnings"][0]["message"].split("keeps ")[1].split("%")[0]) / 100
    energy = sum(np.sum(change**2) for change in changes(folder).values())
    kept = sum(np.sum(best_of_rank(change, 4) ** 2) for change in changes(folder).values())
    assert told == pytest.approx(kept / energy, abs=1e-3)


@pytest.mark.parametrize("method", ["weighted_sum", "ties"])
def test_dora_and_plain_adapters_merge(method: str, base: Base, tmp_path: Path) -> None:
    one = dora(tmp_path / "a", 1, target_modules=["q"])
    plain = save_adapter(tmp_path / "b", 2, r=2, lora_alpha=3, target_modules=["q", "v"])
    out = tmp_path / "out"
    run_merge(out, [one, plain], method, {} if method == "weighted_sum" else {"density": 1.0}, [0.3, 0.7],
              OutputSpec("fixed", 6), base=base)  # fmt: skip
    if method == "weighted_sum":
        expected, deltas = changes(one), read_deltas(plain)
        for path, delta in read_deltas(out).items():
            total = 0.7 * deltas[path] + (0.3 * expected[path] if path in expected else 0)
            assert relative_error(delta, total) < 1e-5
    assert {path.name for path in out.iterdir()} == {"adapter_config.json", WEIGHTS}


def test_the_dtype_stays_that_of_the_files(base: Base, tmp_path: Path) -> None:
    folder = dora(tmp_path / "in", 1, target_modules=["q"])
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    run_merge(tmp_path / "out", [folder], base=base)
    assert {t.dtype for t in load_file(tmp_path / "out" / WEIGHTS).values()} == {torch.bfloat16}


def test_a_base_that_does_not_fit_is_refused(base: Base, tmp_path: Path) -> None:
    folder = dora(tmp_path / "in", 1, target_modules=["q"])
    with pytest.raises(NotMergeable, match="BASE_MODELS_DIR"):
        run_merge(tmp_path / "none", [folder])
    with pytest.raises(NotMergeable, match=r"has no layers\.0\.q"):
        run_merge(tmp_path / "empty", [folder], base=Base((), base.load))
    with pytest.raises(NotMergeable, match="is 3x3, not 6x8"):
        run_merge(tmp_path / "small", [folder], base=Base(base.names, lambda name: torch.zeros(3, 3)))


def test_a_folder_of_safetensors_is_a_base(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="no safetensors"):
        open_base(tmp_path)
    save_file({"model.layers.0.q.weight": torch.ones(2, 3)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"model.layers.1.q.weight": torch.zeros(2, 3)}, tmp_path / "model-00002-of-00002.safetensors")
    base = open_base(tmp_path)
    for path in ("model.layers.1.q", "layers.1.q", "wrapped.model.layers.1.q"):
        assert base.find(path, "weight") == "model.layers.1.q.weight"
    assert base.find("layers.2.q", "weight") is None
    assert torch.equal(base.load("model.layers.0.q.weight"), torch.ones(2, 3))
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(LoraError, match="cannot be read"):
        open_base(tmp_path)
