"""The runtime of bundles against dense float64 arithmetic, on two layers and experts of mixed ranks and targets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from integrations.bundle import Bundle
from integrations.peft_arrow import bundle_model
from lora.bundled_adapters import problems_of
from lora.bundles import BUNDLES
from lora.bundling import BundleBase, BundledExpert, write_bundle
from lora.module_routers import Baselines
from lora.prototypes.arrow import arrow_file
from lora.prototypes.spectral import spectral_file
from tests.lora.factories import write_adapter_files
from tests.lora.recipes import merge_input

RUNTIME = Path(__file__).resolve().parents[2] / "integrations" / "bundle.py"
MODULES = {"first": (6, 8), "second": (4, 6)}
# Of three experts: rank, alpha, and what they adapt.
EXPERTS = [(2, 3, ("first", "second")), (4, 4, ("first", "second")), (3, 9, ("first",))]
ROUTERS = {
    "arrow": {"top_k": 2},
    "spectr": {"top_k": 2, "temperature": 3.0},
    "phatgoose": {"top_k": 1},
    "activation": {"top_k": 9},
}
Dense = NDArray[np.float64]


class Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(8, 6), torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def vectors_of(kind: str, item: Any, seed: int) -> dict[str, torch.Tensor]:
    if kind == "arrow":
        return arrow_file(item.weights_path, item.layout)[0]
    if kind == "spectral":
        return spectral_file(item.weights_path, item.layout)
    generator = torch.Generator().manual_seed(seed)
    return {path: torch.randn(m.d_in, generator=generator) for path, m in item.layout.modules.items()}


def written(root: Path, router: str, baselines: Baselines | None = None, **params: Any) -> Path:
    kind = BUNDLES.get(router).traits["prototype"]
    experts = []
    for seed, (rank, alpha, paths) in enumerate(EXPERTS):
        folder = write_adapter_files(root / f"e{seed}", {p: MODULES[p] for p in paths}, rank, alpha, seed=seed)
        item, vectors = merge_input(folder), root / f"{seed}.safetensors"
        save_file(vectors_of(kind, item, seed), vectors)
        sigma = {path: [1.0] for path in paths}
        experts.append(BundledExpert(item, folder / "adapter_config.json", "0" * 40, vectors, sigma, baselines))
    target = root / "bundle"
    target.mkdir()
    settings = BUNDLES.parse(router, {"uniform": False} | params)
    write_bundle(target, router, settings, experts, BundleBase("acme/tiny-base", modules=MODULES), RUNTIME)
    return target


def deltas(root: Path, path: str) -> dict[int, Dense]:
    """Dense ΔW of the experts that adapt a module, from what was written as their own files."""
    found = {}
    for seed, (rank, alpha, paths) in enumerate(EXPERTS):
        if path in paths:
            item = merge_input(root / f"e{seed}")
            tensors = load_file(item.weights_path)
            A, B = (tensors[f"base_model.model.{path}.lora_{factor}.weight"].double().numpy() for factor in "AB")
            found[seed] = alpha / rank * B @ A
    return found


def dense_score(router: str, x: Dense, delta: Dense, vector: Dense) -> float:
    if router == "arrow":
        return float(abs(x @ np.linalg.svd(delta)[2][0]))
    if router == "spectr":
        return float(np.linalg.norm(delta @ x))
    if router == "phatgoose":
        return float(np.sqrt(len(x)) * np.corrcoef(x, vector)[0, 1])
    return float(x @ vector / np.linalg.norm(x) / np.linalg.norm(vector))


def dense_layer(router: str, root: Path, path: str, layer: torch.nn.Linear, x: Dense, params: Any) -> Dense:
    """One token through one layer, expert by expert."""
    known = deltas(root, path)
    vectors = {i: vectors_of("gates", merge_input(root / f"e{i}"), i)[path].double().numpy() for i in known}
    scores = {i: dense_score(router, x, delta, vectors[i]) for i, delta in known.items()}
    best = sorted(scores, key=lambda i: -scores[i])[: params.top_k]
    shares = {i: np.exp(scores[i] / params.temperature) for i in best}
    y = layer.weight.detach().double().numpy() @ x + layer.bias.detach().double().numpy()
    return y + sum(shares[i] / sum(shares.values()) * known[i] @ x for i in best)


@pytest.mark.parametrize("router", ROUTERS)
def test_outputs_are_those_of_the_formula(tmp_path: Path, router: str) -> None:
    folder = written(tmp_path, router, **ROUTERS[router])
    model, params = Two(), BUNDLES.parse(router, ROUTERS[router])
    # Of a length of about 1, as behind a normalisation: shares are exponents of scores, whose errors are float32's.
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(7)) / 8**0.5
    plain = model(x)
    with Bundle.load(folder).on(model), torch.no_grad():
        found = model(x)
    rows = x.double().numpy().reshape(-1, 8)
    hidden = [dense_layer(router, tmp_path, "first", model.first, row, params) for row in rows]
    expected = [dense_layer(router, tmp_path, "second", model.second, row, params) for row in hidden]
    np.testing.assert_allclose(found.double().numpy().reshape(-1, 4), np.array(expected), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)
    assert torch.equal(model(x), plain)


def test_calibrated_arrow_compares_with_generic_texts(tmp_path: Path) -> None:
    """z = (|x·v|/|x| − μ)/σ: of two experts the first is chosen where it is further above its own mean."""
    baselines = Baselines({"first": (0.3, 0.1), "second": (0.2, 0.05)}, 1.0)
    bundle = Bundle.load(written(tmp_path, "arrow", baselines, calibrated=True, top_k=1))
    x, seen = torch.randn(6, 8, generator=torch.Generator().manual_seed(3)), {}
    model = Two()
    with bundle.on(model, lambda path, members, weights: seen.update({path: (members, weights)})), torch.no_grad():
        model(x)
    members, weights = seen["first"]
    assert members == (0, 1, 2)
    for row, chosen in zip(x.double().numpy(), weights.argmax(-1).tolist(), strict=True):
        z = []
        for delta in deltas(tmp_path, "first").values():
            z.append((abs(row @ np.linalg.svd(delta)[2][0]) / np.linalg.norm(row) - 0.3) / 0.1)
        assert chosen == int(np.argmax(z))
    assert seen["second"][0] == (0, 1)


def test_whole_prompts_go_to_the_expert_that_responds_most_above_generic_texts(tmp_path: Path) -> None:
    baselines = Baselines({"first": (0.3, 0.1), "second": (0.2, 0.05)}, 0.7)
    bundle = Bundle.load(written(tmp_path, "arrow_global", baselines, top_k=2))
    ids = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(5))
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1], [1] * 6])

    class Model(Two):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(input_ids)

    model, seen = Model(), {}
    with (
        bundle.on(
            model,
            lambda path, members, weights: seen.update({path: weights}),
            {"input_ids": ids, "attention_mask": mask},
        ),
        torch.no_grad(),
    ):
        model(ids)
    layers = {"first": ids.double().numpy(), "second": model.first(ids).detach().double().numpy()}
    for row in range(3):
        scores = []
        for expert in range(3):
            z = []
            for path, (mean, deviation) in baselines.modules.items():
                if expert in deltas(tmp_path, path):
                    v = np.linalg.svd(deltas(tmp_path, path)[expert])[2][0]
                    x = layers[path][row][mask[row].bool().numpy()]
                    z.append((np.mean(np.abs(x @ v) / np.linalg.norm(x, axis=1)) - mean) / deviation)
            scores.append(np.mean(z) / np.hypot(0.7, 0.5))
        best = np.argsort(scores)[::-1][:2]
        shares = np.exp(np.array(scores) / 0.5)
        expected = [shares[i] / shares[best].sum() if i in best else 0.0 for i in range(3)]
        np.testing.assert_allclose(seen["first"][row, 0].numpy(), expected, atol=1e-4)
    assert seen["second"].shape == (3, 1, 2)
    with pytest.raises(ValueError, match="chooses by the whole prompt"), bundle.on(model):
        pass


def test_equal_inputs_give_equal_files_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, "phatgoose") for name in "ab")
    for path in sorted(first.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()
    weights = second / "prototypes.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"prototypes.safetensors is not what the manifest says"):
        Bundle.load(second)
    manifest = json.loads((first / "manifest.json").read_text())
    (first / "manifest.json").write_text(json.dumps(manifest | {"format": "loradex/bundle/v9"}))
    with pytest.raises(ValueError, match="loradex/bundle/v9"):
        Bundle.load(first)


def test_a_model_that_is_another_one_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.load(written(tmp_path, "spectr"))
    wrong = Two()
    wrong.second = torch.nn.Linear(6, 5)
    with pytest.raises(ValueError, match=r"second of the model is \[5, 6\]"), bundle.on(wrong):
        pass
    with pytest.raises(ValueError, match="has no module first"), bundle.on(torch.nn.Linear(2, 2)):
        pass
    with pytest.raises(ValueError, match=r"PEFT has Arrow's"):
        bundle_model(Two(), tmp_path / "bundle")


def test_what_is_more_than_linear_factors_cannot_be_routed(tmp_path: Path) -> None:
    plain = merge_input(write_adapter_files(tmp_path / "plain", MODULES))
    other = merge_input(write_adapter_files(tmp_path / "b", {"first": (6, 8)}, seed=1))
    assert problems_of([plain, other]) == []
    folder = write_adapter_files(tmp_path / "head", MODULES, seed=2, config_overrides={"modules_to_save": ["score"]})
    tensors = load_file(folder / "adapter_model.safetensors") | {"base_model.model.score.weight": torch.ones(2, 8)}
    save_file(tensors, folder / "adapter_model.safetensors")
    [problem] = problems_of([plain, merge_input(folder)])
    assert (problem.index, problem.code) == (1, "whole_weights")
    narrow = merge_input(write_adapter_files(tmp_path / "narrow", {"first": (6, 4)}, rank=2))
    assert [(p.index, p.code) for p in problems_of([plain, narrow])] == [(1, "different_shapes")]
