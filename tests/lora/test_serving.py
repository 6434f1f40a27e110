"""Which engines serve an adapter, property by property: the rows of the engines' own rules."""

import io
import json
from typing import Any

import pytest
import torch
from safetensors.torch import save

from lora.binding import BaseModules
from lora.config import LoraConfig, parse_config
from lora.header import Header, read_header
from lora.layout import Layout, ModuleLayout, read_layout
from lora.serving import ENGINES, Verdict, judge
from lora.serving_rules import max_lora_rank, served_rank
from tests.lora.factories import adapter_config, factors

ATTENTION = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64)}
BASE = {f"model.layers.{i}.self_attn.{name}": shape for i in range(2) for name, shape in ATTENTION.items()}
Q0 = "model.layers.0.self_attn.q_proj"


def header_of(tensors: dict[str, torch.Tensor]) -> Header:
    raw = save(tensors)
    return read_header(io.BytesIO(raw), len(raw))


def verdicts(
    modules: BaseModules = BASE,
    rank: int = 8,
    extra: dict[str, torch.Tensor] | None = None,
    base: BaseModules | None = BASE,
    **overrides: Any,
) -> dict[str, Verdict]:
    tensors = factors(modules, rank) | (extra or {})
    config = parse_config(json.dumps(adapter_config(modules, rank, 2 * rank) | overrides).encode())
    return judge(config, read_layout(header_of(tensors), config), base)  # type: ignore[return-value]


def words(found: dict[str, Verdict]) -> list[str]:
    """Return the verdicts of vLLM, SGLang, LoRAX and PEFT."""
    return [found[engine].verdict for engine in ENGINES]


YES, EXPORT, WRONG, NO = "yes", "yes-after-export", "wrong-silently", "no"
MODULE = "base_model.model." + Q0
MAGNITUDES = {f"base_model.model.{path}.lora_magnitude_vector": torch.ones(shape[0]) for path, shape in BASE.items()}
BIASES = {f"base_model.model.{path}.lora_B.bias": torch.ones(shape[0]) for path, shape in BASE.items()}
HEAD = {"base_model.model.score.weight": torch.ones(2, 8)}
LM_HEAD = {"base_model.model.lm_head.weight": torch.ones(2, 8)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, [YES, YES, YES, YES], id="plain"),
        pytest.param({"rank": 32}, [YES, YES, YES, YES], id="multiple of 16"),
        pytest.param({"rank": 4}, [YES, YES, EXPORT, YES], id="rank 4"),
        pytest.param({"rank": 24}, [YES, YES, EXPORT, YES], id="rank 24"),
        pytest.param({"alpha_pattern": {Q0: 3}}, [YES, EXPORT, EXPORT, YES], id="alpha_pattern"),
        pytest.param({"use_rslora": True}, [YES, EXPORT, YES, YES], id="rslora"),
        pytest.param({"use_rslora": True, "rank": 12}, [YES, EXPORT, EXPORT, YES], id="rslora, rank 12"),
        pytest.param({"use_dora": True, "extra": MAGNITUDES}, [NO, NO, WRONG, YES], id="dora"),
        pytest.param({"bias": "all"}, [NO, WRONG, WRONG, YES], id="bias"),
        pytest.param({"lora_bias": True, "extra": BIASES}, [NO, WRONG, WRONG, YES], id="lora_bias"),
        pytest.param({"modules_to_save": ["score"], "extra": HEAD}, [YES, WRONG, NO, YES], id="classifier"),
        pytest.param({"modules_to_save": ["lm_head"], "extra": LM_HEAD}, [NO, WRONG, NO, YES], id="modules_to_save"),
        pytest.param({"extra": LM_HEAD}, [NO, WRONG, NO, YES], id="undeclared whole weights"),
        pytest.param({"init_lora_weights": "pissa"}, [NO, WRONG, WRONG, YES], id="pissa"),
        pytest.param({"init_lora_weights": "pissa_niter_16"}, [NO, WRONG, WRONG, YES], id="pissa_niter_16"),
        pytest.param({"init_lora_weights": "olora"}, [NO, WRONG, WRONG, YES], id="olora"),
        pytest.param({"init_lora_weights": "corda"}, [NO, WRONG, WRONG, YES], id="corda"),
        pytest.param({"init_lora_weights": "loftq"}, [NO, WRONG, WRONG, YES], id="loftq"),
        pytest.param({"init_lora_weights": "gaussian"}, [YES, YES, YES, YES], id="gaussian"),
        pytest.param({"init_lora_weights": "eva"}, [YES, YES, YES, YES], id="eva"),
        pytest.param({"init_lora_weights": "orthogonal"}, [YES, YES, YES, YES], id="orthogonal"),
        pytest.param({"init_lora_weights": "mica"}, [YES, YES, YES, YES], id="mica"),
        pytest.param({"layer_replication": [[0, 2], [1, 2]]}, [NO, WRONG, WRONG, YES], id="layer_replication"),
        pytest.param({"alora_invocation_tokens": [1]}, [NO, WRONG, WRONG, YES], id="alora"),
        pytest.param({"use_bdlora": True}, [NO, WRONG, WRONG, YES], id="bdlora"),
        pytest.param({"use_qalora": True}, [NO, WRONG, WRONG, YES], id="qalora"),
        pytest.param({"target_modules": r".*_proj"}, [YES, EXPORT, YES, YES], id="regex targets"),
        pytest.param({"target_modules": "all-linear"}, [YES, YES, YES, YES], id="all-linear"),
        pytest.param({"trainable_token_indices": [1, 2]}, [NO, WRONG, NO, YES], id="trainable tokens"),
    ],
)
def test_rows_of_the_engines_rules(options: dict[str, Any], expected: list[str]) -> None:
    found = verdicts(**options)
    assert words(found) == expected
    for verdict in found.values():
        assert bool(verdict.reasons) is (verdict.verdict != YES)
        assert all(reason.endswith(".") for reason in verdict.reasons)


def test_ranks_that_differ() -> None:
    tensors = factors(BASE, 8) | {
        name: t[:2].clone() if "_A" in name else t[:, :2].clone() for name, t in factors({Q0: (64, 64)}).items()
    }
    config = parse_config(json.dumps(adapter_config(BASE, 8, 16) | {"rank_pattern": {Q0: 2}}).encode())
    found = judge(config, read_layout(header_of(tensors), config), BASE)
    assert words(found) == [YES, EXPORT, EXPORT, YES]  # type: ignore[arg-type]
    assert found["vllm"].max_lora_rank == 8
    assert "2 to 8" in found["vllm"].cautions[0]


def select(*names: str, layers: tuple[int, ...] = (0, 1)) -> dict[str, tuple[int, int]]:
    return {f"model.layers.{i}.self_attn.{name}": ATTENTION[name] for i in layers for name in names}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("q_proj",), EXPORT),
        (("q_proj", "k_proj"), EXPORT),
        (("v_proj",), EXPORT),
        (("k_proj", "v_proj"), EXPORT),
        (("q_proj", "v_proj"), YES),
    ],
)
def test_sglang_fuses_whole_groups_only(names: tuple[str, ...], expected: str) -> None:
    found = verdicts(select(*names))
    assert words(found) == [YES, expected, YES, YES]
    how = "refuses" if "v_proj" not in names else "wrong without a word"
    assert not found["sglang"].reasons or how in found["sglang"].reasons[0]


def test_shapes_of_zero_pairs_come_from_the_base() -> None:
    found = verdicts(select("q_proj"), base=None)
    assert words(found) == [YES, NO, YES, YES]
    assert "until its base is registered" in found["sglang"].reasons[0]
    assert verdicts(select("q_proj", "k_proj"), base=None)["sglang"].verdict == EXPORT  # v is like k


@pytest.mark.parametrize("base", [BASE, None], ids=["known base", "unknown base"])
def test_lorax_leaves_out_a_kind_that_one_layer_lacks(base: BaseModules | None) -> None:
    found = verdicts(select("q_proj", "v_proj", layers=(1,)), base=base)
    assert words(found) == [YES, YES, EXPORT, YES]
    assert "layers.0.self_attn.q_proj" in found["lorax"].reasons[0]


def test_a_wrapped_base_is_understood() -> None:
    wrapped = {f"base.{path}": shape for path, shape in BASE.items()}
    assert verdicts(select("q_proj", layers=(1,)), base=wrapped)["lorax"].verdict == EXPORT


def test_names_that_peft_does_not_write() -> None:
    tensors = {name.replace(".weight", ".default.weight"): tensor for name, tensor in factors(BASE, 8).items()}
    config = parse_config(json.dumps(adapter_config(BASE, 8, 16)).encode())
    assert words(judge(config, read_layout(header_of(tensors), config), BASE)) == [EXPORT] * 4  # type: ignore[arg-type]


def test_other_kinds_of_layers() -> None:
    def kinds(kind: Any) -> list[str]:
        module = ModuleLayout("m.x", kind, "base_model.model.m.x.lora_A.weight", "base_model.model.m.x.lora_B.weight",
                              8, 8, 8, 1.0)  # fmt: skip
        return words(judge(LoraConfig(r=8, lora_alpha=8), Layout({"m.x": module}, {}), None))  # type: ignore[arg-type]

    assert kinds("conv") == [NO, NO, WRONG, YES]


@pytest.mark.parametrize(
    ("rank", "flag"),
    [(1, 1), (2, 8), (8, 8), (9, 16), (17, 32), (64, 64), (65, 128), (129, 256), (257, 320), (321, 512), (512, 512)],
)
def test_the_flag_is_the_next_value_that_vllm_takes(rank: int, flag: int) -> None:
    assert max_lora_rank(rank) == flag


def test_no_value_admits_a_rank_above_the_last() -> None:
    assert max_lora_rank(513) is None
    wide = {Q0: (600, 600)}
    found = verdicts(wide, rank=528, base=wide)
    assert found["vllm"].verdict == NO
    assert found["peft"].verdict == YES
    verdict = found["vllm"]
    assert verdict.max_lora_rank is None
    assert "ends at 512" in verdict.reasons[0]


@pytest.mark.parametrize(("rank", "padded"), [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (100, 112)])
def test_exports_pad_to_what_every_kernel_takes(rank: int, padded: int) -> None:
    assert served_rank(rank) == padded


def test_cautions_of_a_classifier_on_an_unknown_base() -> None:
    found = verdicts(modules_to_save=["score"], extra=HEAD, base=None, task_type="SEQ_CLS")
    assert found["vllm"].verdict == YES
    assert len(found["vllm"].cautions) == 3
    assert found["peft"].cautions == ()
