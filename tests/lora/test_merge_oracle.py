"""What PEFT loads from a merge is the float64 formula over the raw input files, feature by feature."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora.merging import OutputSpec
from tests.lora.peft_models import TinyBase, loaded_deltas, save_adapter, tiny_base
from tests.lora.raw_files import (
    Array,
    best_of_rank,
    read_config,
    read_deltas,
    read_tensors,
    relative_error,
    weighted_total,
)
from tests.lora.recipes import run_merge

QV = ["q", "v"]
WEIGHTS = [0.7, 0.4, 0.9]
PLAIN: dict[str, Any] = {"r": 3, "lora_alpha": 6, "target_modules": QV}

FEATURES: dict[str, list[dict[str, Any]]] = {
    "rslora": [PLAIN | {"use_rslora": True}, PLAIN, PLAIN],
    "rank_pattern": [PLAIN | {"rank_pattern": {"layers.0.q": 2, "v": 5}}, PLAIN, PLAIN],
    "alpha_pattern": [PLAIN | {"alpha_pattern": {"layers.1.v": 1, "q": 17}}, PLAIN, PLAIN],
    "mixed_r": [PLAIN | {"r": 2}, PLAIN, PLAIN | {"r": 5}],
    "disjoint_targets": [PLAIN | {"target_modules": ["q"]}, PLAIN | {"target_modules": ["v"]}, PLAIN],
    "regex_targets": [PLAIN | {"target_modules": r".*layers\.1\.(q|v)"}, PLAIN, PLAIN],
    "conv1d": [PLAIN | {"target_modules": ["c"], "fan_in_fan_out": True}] * 3,
    "embedding": [PLAIN | {"target_modules": ["embed", "q"]}, PLAIN | {"target_modules": ["embed"]}, PLAIN],
    "conv2d": [PLAIN | {"target_modules": ["conv"]}, PLAIN | {"target_modules": ["conv", "q"]}, PLAIN],
    "bf16": [PLAIN | {"dtype": torch.bfloat16}] * 3,
    "negative_weight": [PLAIN, PLAIN, PLAIN],
    "all_at_once": [
        PLAIN | {"r": 4, "use_rslora": True, "rank_pattern": {"v": 2}, "alpha_pattern": {"layers.0.q": 3}},
        PLAIN | {"target_modules": r".*(embed|conv|layers\.0\.q)", "r": 2},
        PLAIN | {"target_modules": ["v"], "r": 7, "dtype": torch.float16},
    ],
}
MODES = {
    "exact": OutputSpec("exact"),
    "fixed": OutputSpec("fixed", 2),
    "max_input": OutputSpec("max_input"),
    "energy": OutputSpec("energy", 0.8),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return {
        feature: [save_adapter(tmp_path_factory.mktemp(feature), seed, **config) for seed, config in enumerate(configs)]
        for feature, configs in FEATURES.items()
    }


def weights_of(feature: str) -> list[float]:
    return [0.7, -0.4, 0.9] if feature in ("negative_weight", "all_at_once") else WEIGHTS


def expected_rank(mode: str, folders: list[Path], total: dict[str, Array]) -> int:
    """Return the uniform rank that the mode promises, from the dense sums."""
    if mode == "exact":
        return max(int(np.linalg.matrix_rank(delta)) for delta in total.values())
    if mode == "fixed":
        return 2
    if mode == "max_input":
        tensors = [read_tensors(folder / "adapter_model.safetensors") for folder in folders]
        return max(len(t) for file in tensors for name, t in file.items() if "A" in name.split("lora_")[1])
    ranks = []
    for delta in total.values():
        energy = np.linalg.svd(delta, compute_uv=False) ** 2
        ranks.append(int(np.argmax(np.cumsum(energy) >= 0.8 * energy.sum())) + 1)
    return max(ranks)


def in_base_orientation(base: TinyBase, path: str, delta: Array) -> Array:
    """Return ΔW (d_out, d_in) as the base stores the weight: Conv1D and embeddings transposed, kernels folded."""
    weight = base.get_submodule(path).weight
    transposed = path == "embed" or path.endswith(".c")
    return (delta.T if transposed else delta).reshape(weight.shape)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("feature", FEATURES)
def test_peft_loads_the_float64_sum(feature: str, mode: str, folders: dict[str, list[Path]], tmp_path: Path) -> None:
    weights = weights_of(feature)
    run_merge(tmp_path / "out", folders[feature], weights=weights, output=MODES[mode])
    total = weighted_total(folders[feature], weights)
    config = read_config(tmp_path / "out")
    assert config["r"] == config["lora_alpha"] == expected_rank(mode, folders[feature], total)

    loaded = loaded_deltas(tmp_path / "out")  # warnings are errors: PEFT finds every key and no more
    assert loaded.keys() == total.keys()
    base = tiny_base()
    for path, delta in total.items():
        expected = in_base_orientation(base, path, best_of_rank(delta, config["r"]))
        assert relative_error(loaded[path].double().numpy(), expected) < (1e-2 if feature == "bf16" else 1e-6)


@pytest.mark.parametrize("feature", FEATURES)
def test_report_states_what_the_file_keeps(feature: str, folders: dict[str, list[Path]], tmp_path: Path) -> None:
    weights = weights_of(feature)
    report = run_merge(tmp_path / "out", folders[feature], weights=weights, output=OutputSpec("fixed", 2, "float32"))
    total, written = weighted_total(folders[feature], weights), read_deltas(tmp_path / "out")
    inputs = [read_deltas(folder) for folder in folders[feature]]
    assert [row["path"] for row in report["per_module"]] == sorted(total)
    for row in report["per_module"]:
        delta, kept = total[row["path"]], written[row["path"]]
        assert row["relative_error"] == pytest.approx(relative_error(kept, delta), abs=1e-6)
        assert row["energy_kept"] == pytest.approx(1 - relative_error(kept, delta) ** 2, abs=1e-6)
        assert row["norm_out"] == pytest.approx(np.linalg.norm(kept))
        norms = [np.linalg.norm(item[row["path"]]) if row["path"] in item else 0.0 for item in inputs]
        assert row["norm_in"] == pytest.approx(norms)
    lost = sum(np.sum((written[path] - delta) ** 2) for path, delta in total.items())
    assert report["relative_error"] ** 2 == pytest.approx(lost / sum(np.sum(d**2) for d in total.values()))
    flat = [np.concatenate([item.get(p, np.zeros_like(total[p])).ravel() for p in total]) for item in inputs]
    assert report["interference"]["cosine"][0][2] == pytest.approx(
        flat[0] @ flat[2] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[2])
    )


def test_merged_adapter_folds_into_the_base(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    from peft import PeftModel

    run_merge(tmp_path / "out", folders["all_at_once"], weights=WEIGHTS, output=OutputSpec("exact"))
    folded = PeftModel.from_pretrained(tiny_base(), tmp_path / "out").merge_and_unload()
    base = tiny_base()
    for path, delta in weighted_total(folders["all_at_once"], WEIGHTS).items():
        change = (folded.get_submodule(path).weight - base.get_submodule(path).weight).detach().double().numpy()
        assert relative_error(change, in_base_orientation(base, path, delta)) < 1e-6
