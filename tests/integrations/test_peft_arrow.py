"""PEFT with the registry's vectors against routing by this project's own router, on a real small model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from integrations.peft_arrow import VECTORS, arrow_model
from lora.module_routers import MODULE_ROUTERS
from lora.prototypes.arrow import arrow_file
from lora.weights import AdapterFile
from tests.lora.factories import write_adapter_files
from tests.lora.recipes import merge_input
from tests.lora.tiny_llama import MODULES, NAME, save_tiny_llama

IDS = torch.tensor([[3, 4, 5, 3, 7, 8, 4, 1, 6, 2]])


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("bases") / NAME)


def write_experts(root: Path, count: int = 4, rank: int = 2) -> list[Path]:
    """Adapters with their vectors beside them, as they are downloaded."""
    folders = []
    for seed in range(count):
        overrides = {"base_model_name_or_path": NAME}
        folder = write_adapter_files(root / f"e{seed}", MODULES, rank, 2 + seed, seed=seed, config_overrides=overrides)
        vectors, _ = arrow_file(folder / "adapter_model.safetensors", merge_input(folder).layout)
        save_file(vectors, folder / VECTORS)
        folders.append(folder)
    return folders


def routed_logits(base: Any, folders: list[Path], top_k: int, temperature: float) -> torch.Tensor:
    """The base with Σ w·s·B·A·x added to every module, w from this project's router, by hooks."""
    router = MODULE_ROUTERS.get("arrow").run(
        MODULE_ROUTERS.parse("arrow", {"top_k": top_k, "router_temperature": temperature})
    )
    inputs = [merge_input(folder) for folder in folders]
    vectors = [arrow_file(item.weights_path, item.layout)[0] for item in inputs]
    hooks = []
    for path in MODULES:
        deltas = []
        for item in inputs:
            with AdapterFile(item.weights_path, item.layout) as file:
                found = file.factors(path, torch.float64)
                deltas.append(found.scaling * found.B @ found.A)

        def add(module: Any, args: Any, output: torch.Tensor, path: str = path, deltas: Any = deltas) -> torch.Tensor:
            x = args[0][0]
            scores = np.stack([router.compare(x.numpy(), own[path].numpy()) for own in vectors], axis=1)
            weights = torch.from_numpy(router.token_weights(scores))
            changes = torch.stack([x.double() @ delta.T for delta in deltas], dim=1)
            return output + (weights[..., None] * changes).sum(1).to(output)

        hooks.append(base.get_submodule(path).register_forward_hook(add))
    with torch.no_grad():
        logits = base(IDS).logits
    for hook in hooks:
        hook.remove()
    return logits


@pytest.mark.parametrize(("top_k", "temperature"), [(1, 1.0), (2, 0.5), (4, 1.0)])
def test_logits_are_those_of_our_own_routing(base_folder: Path, tmp_path: Path, top_k: int, temperature: float) -> None:
    folders = write_experts(tmp_path)
    expected = routed_logits(LlamaForCausalLM.from_pretrained(base_folder), folders, top_k, temperature)
    base = LlamaForCausalLM.from_pretrained(base_folder)
    plain = base(IDS).logits
    model = arrow_model(base, folders, top_k=top_k, temperature=temperature)
    with torch.no_grad():
        logits = model(IDS).logits
    assert not torch.allclose(logits, plain, atol=1e-3)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


def test_more_experts_than_there_are_is_all_of_them(base_folder: Path, tmp_path: Path) -> None:
    folders = write_experts(tmp_path, count=2)
    models = [arrow_model(LlamaForCausalLM.from_pretrained(base_folder), folders, top_k=k) for k in (2, 9)]
    with torch.no_grad():
        torch.testing.assert_close(models[1](IDS).logits, models[0](IDS).logits)


def test_vectors_that_lack_a_module_are_refused(base_folder: Path, tmp_path: Path) -> None:
    folders = write_experts(tmp_path, count=2)
    save_file({"model.layers.0.self_attn.q_proj": torch.ones(8)}, folders[1] / VECTORS)
    with pytest.raises(ValueError, match=r"folder 1 have none"):
        arrow_model(LlamaForCausalLM.from_pretrained(base_folder), folders)
