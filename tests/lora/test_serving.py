"""What vLLM serves of an adapter."""

import json

import pytest

from lora.config import LoraConfig, parse_config
from lora.serving import max_lora_rank, vllm_verdict
from tests.lora.factories import MODULES, adapter_config

PLAIN = LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM")


@pytest.mark.parametrize(
    ("rank", "flag"),
    [(1, 1), (2, 8), (8, 8), (9, 16), (17, 32), (64, 64), (65, 128), (129, 256), (257, 320), (321, 512), (512, 512)],
)
def test_the_flag_is_the_next_value_that_vllm_takes(rank, flag):
    assert max_lora_rank(rank) == flag


def test_no_value_admits_a_rank_above_the_last():
    assert max_lora_rank(513) is None
    verdict = vllm_verdict(LoraConfig(r=513, lora_alpha=1), [513])
    assert verdict.max_lora_rank is None
    assert "ends at 512" in verdict.obstacles[0]


def test_a_plain_adapter_meets_no_obstacle():
    verdict = vllm_verdict(PLAIN, [8] * 4)
    assert (verdict.max_lora_rank, verdict.obstacles, verdict.cautions) == (8, (), ())


def test_the_largest_rank_of_a_pattern_counts():
    verdict = vllm_verdict(PLAIN, [8, 24, 8])
    assert verdict.max_lora_rank == 32
    assert verdict.obstacles == ()
    assert "8 to 24" in verdict.cautions[0]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"modules_to_save": ["lm_head", "score"]}, "modules_to_save: lm_head)"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora"),
        ({"trainable_token_indices": [1, 2]}, "tokens"),
    ],
)
def test_what_vllm_refuses_or_ignores_is_said(overrides, said):
    config = parse_config(json.dumps(adapter_config(MODULES) | overrides).encode())
    assert any(said in sentence for sentence in vllm_verdict(config, [4]).obstacles)


@pytest.mark.parametrize("code", ["extra_head", "unusual_names"])
def test_warnings_of_the_check_count(code):
    assert vllm_verdict(PLAIN, [8], [code]).obstacles


def test_a_classifiers_head_is_a_caution_and_no_obstacle():
    config = LoraConfig(r=8, lora_alpha=16, task_type="SEQ_CLS", modules_to_save=("classifier", "score"))
    verdict = vllm_verdict(config, [8], ["extra_head", "base_unknown"])
    assert verdict.obstacles == ()
    assert len(verdict.cautions) == 3
