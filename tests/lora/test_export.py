"""The export changes how an adapter is written, and never what it computes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora.binding import BaseModules
from lora.errors import LoraError
from lora.export import NotExportable, export_adapter
from lora.serving import ENGINES, judge
from tests.lora.factories import adapter_config, factors, write_adapter_files, write_files
from tests.lora.peft_models import loaded_deltas, save_adapter
from tests.lora.raw_files import read_config, read_deltas, read_tensors, relative_error
from tests.lora.recipes import merge_input

PLAIN: dict[str, Any] = {"r": 3, "lora_alpha": 5, "target_modules": ["q", "v"]}
FEATURES: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "rslora": PLAIN | {"use_rslora": True},
    "rank_pattern": PLAIN | {"rank_pattern": {"layers.0.q": 2, "v": 5}},
    "alpha_pattern": PLAIN | {"alpha_pattern": {"layers.1.v": 1, "q": 17}},
    "regex_targets": PLAIN | {"target_modules": r".*layers\.1\.(q|v)"},
    "conv1d": PLAIN | {"target_modules": ["c"], "fan_in_fan_out": True},
    "embedding": PLAIN | {"target_modules": ["embed", "q"]},
    "conv2d": PLAIN | {"target_modules": ["conv"]},
    "bf16": PLAIN | {"dtype": torch.bfloat16},
    "fp16": PLAIN | {"dtype": torch.float16, "use_rslora": True},
    "fp64": PLAIN | {"dtype": torch.float64},
}
TOLERANCE = {"bf16": 1e-2, "fp16": 1e-3}


def export(
    folder: Path, out: Path, engine: Any = "peft", base: BaseModules | None = None, base_model: str | None = None
) -> Path:
    item = merge_input(folder)
    out.mkdir(exist_ok=True)
    export_adapter(
        item.weights_path,
        item.layout,
        item.config,
        engine,
        out,
        base=base,
        base_model=base_model,
        metadata={"from": "x"},
    )
    return out


@pytest.mark.parametrize("feature", FEATURES)
def test_peft_loads_the_same_change(feature: str, tmp_path: Path) -> None:
    source = save_adapter(tmp_path / "source", 1, **FEATURES[feature])
    exported = export(source, tmp_path / "out")
    before, after = loaded_deltas(source), loaded_deltas(exported)  # warnings are errors
    assert after.keys() == before.keys()
    for path, delta in before.items():
        error = relative_error(after[path].double().numpy(), delta.double().numpy())
        assert error < TOLERANCE.get(feature, 1e-6)
    config = read_config(exported)
    assert (config["r"], config["lora_alpha"]) == (8, 8)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["use_rslora"] is False
    assert config["init_lora_weights"] is True
    assert config["target_modules"] == sorted(before)


def test_scaling_by_a_power_of_two_is_exact_in_any_dtype(tmp_path: Path) -> None:
    source = write_adapter_files(tmp_path / "source", rank=4, alpha=8, dtype=torch.bfloat16)
    before, after = read_deltas(source), read_deltas(export(source, tmp_path / "out"))
    assert all((after[path] == before[path]).all() for path in before)


def test_rank_is_padded_and_bytes_repeat(tmp_path: Path) -> None:
    source = write_adapter_files(tmp_path / "source", {"m.q_proj": (32, 32)}, rank=12)
    first = export(source, tmp_path / "out")
    assert read_config(first)["r"] == 16
    second = export(source, tmp_path / "again")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert b'"from":"x"' in (first / "adapter_model.safetensors").read_bytes()


ATTENTION = {"q_proj": (8, 8), "k_proj": (4, 8), "v_proj": (4, 8), "o_proj": (8, 8)}
BASE = {f"model.layers.{i}.self_attn.{name}": shape for i in range(3) for name, shape in ATTENTION.items()}


@pytest.mark.parametrize(
    ("engine", "added"),
    [
        ("sglang", {"1.self_attn.k_proj", "1.self_attn.v_proj"}),
        ("lorax", {"0.self_attn.q_proj", "2.self_attn.q_proj"}),
        ("vllm", set()),
        ("peft", set()),
    ],
)
def test_zero_pairs_where_the_engine_needs_them(engine: Any, added: set[str], tmp_path: Path) -> None:
    """The adapter that SGLang refuses and LoRAX leaves out: q_proj of one layer, rank 5, rsLoRA."""
    q1 = {"model.layers.1.self_attn.q_proj": (8, 8)}
    source = write_adapter_files(tmp_path / "source", q1, rank=5, config_overrides={"use_rslora": True})
    exported = export(source, tmp_path / "out", engine, BASE, "acme/served")
    before, after = read_deltas(source), read_deltas(exported)
    assert set(after) - set(before) == {f"model.layers.{path}" for path in added}
    for path, delta in after.items():
        assert delta.shape == BASE[path]
        assert relative_error(delta, before[path]) < 1e-6 if path in before else not delta.any()
    item = merge_input(exported)
    assert judge(item.config, item.layout, BASE)[engine].verdict == "yes"
    assert read_config(exported)["base_model_name_or_path"] == "acme/served"


def test_every_verdict_after_an_export_is_yes(tmp_path: Path) -> None:
    shapes = {path: BASE[path] for path in BASE if "o_proj" not in path}
    overrides = {"target_modules": r".*_proj", "use_rslora": True, "alpha_pattern": {"q_proj": 2}}
    source = write_adapter_files(tmp_path / "source", shapes, rank=6, config_overrides=overrides)
    for engine in ENGINES:
        item = merge_input(export(source, tmp_path / engine, engine, BASE))
        assert judge(item.config, item.layout, BASE)[engine].verdict == "yes"


def test_names_that_hold_the_adapters_name_are_mended(tmp_path: Path) -> None:
    modules = {path: shape for path, shape in BASE.items() if "q_proj" in path}
    renamed = {name.replace(".weight", ".default.weight"): tensor for name, tensor in factors(modules).items()}
    source = write_files(tmp_path / "source", adapter_config(modules), renamed)
    assert all(
        ".default." not in name for name in read_tensors(export(source, tmp_path / "o") / "adapter_model.safetensors")
    )


def test_heads_and_biases_come_along_where_they_are_read(tmp_path: Path) -> None:
    modules = {path: shape for path, shape in BASE.items() if "q_proj" in path}
    head = {"base_model.model.score.weight": torch.randn(2, 8, dtype=torch.float16)}
    biases = {f"base_model.model.{path}.lora_B.bias": torch.ones(8) for path in modules}
    config = adapter_config(modules, rank=4, alpha=12) | {"modules_to_save": ["score"], "lora_bias": True}
    source = write_files(tmp_path / "source", config, factors(modules) | head | biases)
    exported = export(source, tmp_path / "out")
    tensors = load_file(exported / "adapter_model.safetensors")
    assert torch.equal(tensors["base_model.model.score.weight"], head["base_model.model.score.weight"])
    assert all(torch.equal(tensors[name], 3 * bias) for name, bias in biases.items())
    assert read_config(exported)["modules_to_save"] == ["score"]
    assert read_config(exported)["lora_bias"] is True


@pytest.fixture
def with_config(tmp_path: Path) -> Callable[..., Path]:
    def make(extra: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
        modules = {path: BASE[path] for path in BASE}
        return write_files(tmp_path / "source", adapter_config(modules) | config, factors(modules) | (extra or {}))

    return make


MAGNITUDES = {f"base_model.model.{path}.lora_magnitude_vector": torch.ones(shape[0]) for path, shape in BASE.items()}


@pytest.mark.parametrize(
    ("engine", "config", "extra", "reason"),
    [
        ("vllm", {"use_dora": True}, MAGNITUDES, "DoRA"),
        ("peft", {"use_dora": True}, MAGNITUDES, "DoRA.* download it as it is"),
        ("sglang", {"bias": "all"}, {}, "biases"),
        ("vllm", {"modules_to_save": ["lm_head"]}, {}, "modules_to_save: lm_head"),
        ("peft", {"init_lora_weights": "pissa"}, {}, "pissa"),
        ("lorax", {"trainable_token_indices": [1]}, {}, "single tokens"),
    ],
)
def test_what_no_export_mends_is_refused_with_the_reason(
    engine: Any,
    config: dict[str, Any],
    extra: dict[str, Any],
    reason: str,
    with_config: Callable[..., Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(NotExportable, match=reason) as caught:
        export(with_config(extra, **config), tmp_path / "out", engine, BASE)
    assert caught.value.reasons
    assert list((tmp_path / "out").iterdir()) == []


def test_a_scaling_that_overflows_is_refused(tmp_path: Path) -> None:
    source = write_adapter_files(tmp_path / "source", rank=4, alpha=1e6, dtype=torch.float16)
    with pytest.raises(LoraError, match="do not fit float16"):
        export(source, tmp_path / "out")


def test_the_config_is_plain_json(tmp_path: Path) -> None:
    source = write_adapter_files(tmp_path / "source")
    assert json.loads((export(source, tmp_path / "out") / "adapter_config.json").read_text())["peft_type"] == "LORA"
