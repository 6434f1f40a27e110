"""Configs that real tools write pass; every way to run, open or overwhelm something through one is refused."""

import json
import math
from typing import Any

import peft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.config import LoraConfig, parse_config
from lora.errors import InvalidAdapter

BASE: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}

# What each version of PEFT added to the keys of 0.4, with the values it writes by default.
PEFT_0_4 = BASE | {
    "auto_mapping": None, "base_model_name_or_path": "meta-llama/Llama-2-7b-hf", "bias": "none",
    "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "layers_pattern": None,
    "layers_to_transform": None, "lora_dropout": 0.05, "modules_to_save": None, "revision": None,
    "task_type": "CAUSAL_LM",
}  # fmt: skip
ADDED = {
    "0.6": {"rank_pattern": {}, "alpha_pattern": {}},
    "0.7": {"loftq_config": {}, "megatron_config": None, "megatron_core": "megatron.core"},
    "0.8": {"use_rslora": False},
    "0.9": {"use_dora": False},
    "0.10": {"layer_replication": None},
    "0.14": {"exclude_modules": None, "eva_config": None, "lora_bias": False},
    "0.15": {"corda_config": None, "trainable_token_indices": None},
    "0.17": {"qalora_group_size": 16, "target_parameters": None, "use_qalora": False},
    "0.18": {
        "alora_invocation_tokens": None, "arrow_config": None, "ensure_weight_tying": False, "peft_version": "0.18.0",
    },
}  # fmt: skip
HISTORY = [PEFT_0_4]
for keys in ADDED.values():
    HISTORY.append(HISTORY[-1] | keys)


def parse(**changes: Any) -> LoraConfig:
    return parse_config(json.dumps(BASE | changes).encode())


def problems(raw: bytes) -> list[tuple[str, str]]:
    with pytest.raises(InvalidAdapter) as refusal:
        parse_config(raw)
    assert all(p.message.isprintable() and len(p.message) < 300 for p in refusal.value.problems)
    return [(p.code, p.where) for p in refusal.value.problems]


@pytest.mark.parametrize("config", HISTORY, ids=["0.4", *ADDED])
def test_defaults_of_every_peft_version_pass(config: dict[str, Any]) -> None:
    parsed = parse_config(json.dumps(config).encode())
    assert parsed.ignored == ()
    assert parsed.variants == ()
    assert (parsed.r, parsed.lora_alpha, parsed.base_model) == (8, 16.0, "meta-llama/Llama-2-7b-hf")


def test_what_the_installed_peft_writes_passes(tmp_path: Any) -> None:
    written = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["up"], use_rslora=True, rank_pattern={"mlp.up": 8}, bias="all",
        layers_to_transform=[0, 1], layers_pattern="layers", modules_to_save=["score"], exclude_modules=["lm_head"],
        layer_replication=[(0, 4), (2, 5)], trainable_token_indices={"embed_tokens": [1, 2, 3]}, task_type="SEQ_CLS",
        init_lora_weights="gaussian", alpha_pattern={"^model.layers.0.mlp.up": 3}, target_parameters=["e.w"],
    )  # fmt: skip
    written.save_pretrained(tmp_path)
    parsed = parse_config((tmp_path / "adapter_config.json").read_bytes())
    assert parsed == LoraConfig(
        r=4, lora_alpha=8.0, target_modules=("up",), use_rslora=True, rank_pattern={"mlp.up": 8}, bias="all",
        layers_to_transform=(0, 1), layers_pattern=("layers",), modules_to_save=("score",),
        exclude_modules=("lm_head",), layer_replication=((0, 4), (2, 5)),
            trainable_token_indices={"embed_tokens": (1, 2, 3)},
        task_type="SEQ_CLS", init_lora_weights="gaussian", alpha_pattern={"^model.layers.0.mlp.up": 3.0},
        target_parameters=("e.w",), peft_version=peft.__version__,
    )  # fmt: skip


@pytest.mark.parametrize("init", [True, False, "gaussian", "pissa", "pissa_niter_16", "olora", "corda", "loftq", "eva"])
def test_initialisations_are_kept_as_facts(init: bool | str) -> None:
    assert parse(init_lora_weights=init).init_lora_weights == init


def test_rank_and_scaling_follow_patterns() -> None:
    config = parse(
        rank_pattern={r"layers\.\d+\.mlp\.up": 32, "q_proj": 4, "model.layers.0.q_proj": 64},
        alpha_pattern={"^model.layers.0.k_proj$": 3, "q_proj": 12},
    )
    assert config.rank_of("model.layers.7.mlp.up") == 32
    assert config.rank_of("model.layers.0.q_proj") == 4  # the first key that matches, not the best
    assert config.rank_of("model.layers.0.xq_proj") == 8
    assert config.scaling_of("model.layers.0.q_proj", 4) == 3.0
    assert config.scaling_of("model.layers.0.k_proj", 8) == 3 / 8
    assert config.scaling_of("encoder.model.layers.0.k_proj", 8) == 2.0
    assert parse(use_rslora=True).scaling_of("q_proj", 4) == 16 / math.sqrt(4)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "empty_file"),
        (b" \n", "empty_file"),
        (b"[]", "not_json"),
        (b'"LORA"', "not_json"),
        (b"{", "not_json"),
        (b"\xff\xfe{}", "not_utf8"),
        (b"\xef\xbb\xbf{}", "not_json"),
        (b'{"peft_type": "LORA", "r": 8, "r": 999999, "lora_alpha": 16}', "duplicate_key"),
        (b'{"rank_pattern": {"a": 1, "a": 2}}', "duplicate_key"),
        (b'{"lora_alpha": NaN}', "bad_number"),
        (b'{"lora_alpha": -Infinity}', "bad_number"),
        (b'{"lora_alpha": 1e999}', "bad_number"),
        (b'{"r": ' + b"9" * 4_000 + b"}", "bad_number"),
        (b'{"r": ' + b"9" * 5_000 + b"}", "bad_number"),
        (b'{"r": ' + b"[" * 100_000 + b"}", "too_deep"),
        (b'{"a": ' * 100_000, "too_deep"),
        (b'{"revision": "a\\u0000"}', "bad_text"),
        (b'{"revision": "\\udc00"}', "bad_text"),
        (b'{"x": "' + b"y" * 20_000_000 + b'"}', "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "_",
)
def test_bad_json_is_refused(raw: bytes, code: str) -> None:
    assert problems(raw) == [(code, "adapter_config.json")]


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("r", True, "bad_value"),
        ("r", "8", "bad_value"),
        ("r", 8.0, "bad_value"),
        ("r", 0, "bad_value"),
        ("r", -8, "bad_value"),
        ("r", 65_536, "bad_value"),
        ("r", None, "bad_value"),
        ("lora_alpha", -1e30, "bad_value"),
        ("lora_alpha", 0, "bad_value"),
        ("lora_alpha", "16", "bad_value"),
        ("lora_alpha", False, "bad_value"),
        ("peft_type", "IA3", "not_lora"),
        ("peft_type", "PROMPT_TUNING", "not_lora"),
        ("peft_type", None, "not_lora"),
        ("peft_type", ["LORA"], "not_lora"),
        ("bias", "some", "bad_value"),
        ("bias", [], "bad_value"),
        ("task_type", "TELEPATHY", "bad_value"),
        ("use_dora", "yes", "bad_value"),
        ("use_rslora", 1, "bad_value"),
        ("init_lora_weights", "magic", "bad_value"),
        ("init_lora_weights", 3, "bad_value"),
        ("lora_dropout", 2, "bad_value"),
        ("target_modules", "(a+)+$", "unsafe_pattern"),
        ("target_modules", ["a", 1], "bad_value"),
        ("target_modules", {"a": 1}, "bad_value"),
        ("exclude_modules", "(x|x)*y", "unsafe_pattern"),
        ("layers_pattern", ["layers", "(.*)*"], "unsafe_pattern"),
        ("rank_pattern", {"(a|aa)+$": 8}, "unsafe_pattern"),
        ("rank_pattern", {"(?!vision)q": 8}, "unsafe_pattern"),
        ("rank_pattern", {"q": True}, "bad_value"),
        ("rank_pattern", {"q": 0}, "bad_value"),
        ("rank_pattern", {"": 4}, "bad_value"),
        ("rank_pattern", [["q", 4]], "bad_value"),
        ("alpha_pattern", {"(a+)+": 8}, "unsafe_pattern"),
        ("alpha_pattern", {"q": "8"}, "bad_value"),
        ("modules_to_save", ["(a+)+"], "bad_value"),
        ("modules_to_save", "score", "bad_value"),
        ("auto_mapping", {"base_model_class": "system", "parent_library": "os"}, "imports_code"),
        ("auto_mapping", {"parent_library": "os.path"}, "imports_code"),
        ("auto_mapping", {"parent_library": 3}, "imports_code"),
        ("auto_mapping", "subprocess", "imports_code"),
        ("megatron_core", "evil", "imports_code"),
        ("corda_config", {"cache_file": "/etc/passwd"}, "opens_file"),
        ("corda_config", {"covariance_file": "\\\\host\\share"}, "opens_file"),
        ("lora_ga_config", {"cache_file": "file:///etc/passwd"}, "opens_file"),
        ("eva_config", "x", "bad_value"),
        ("base_model_name_or_path", "http://169.254.169.254/latest", "bad_base_model"),
        ("base_model_name_or_path", "file:///etc/passwd", "bad_base_model"),
        ("base_model_name_or_path", "../../etc", "bad_base_model"),
        ("base_model_name_or_path", "/models/../../etc", "bad_base_model"),
        ("base_model_name_or_path", "\\\\host\\share", "bad_base_model"),
        ("base_model_name_or_path", "m" * 10_000, "bad_value"),
        ("base_model_name_or_path", "gpt2\u202e", "bad_value"),
        ("base_model_name_or_path", "gpt2\n", "bad_value"),
        ("base_model_name_or_path", "mеta/llama", "bad_base_model"),  # a Cyrillic letter
        ("base_model_name_or_path", 7, "bad_value"),
        ("revision", "a..b", "bad_value"),
        ("revision", "a b", "bad_value"),
        ("layer_replication", [[0, 4]] * 1_000_000, "bad_value"),
        ("layer_replication", [[0, 1, 2]], "bad_value"),
        ("layer_replication", [[0]], "bad_value"),
        ("trainable_token_indices", list(range(100_001)), "bad_value"),
        ("trainable_token_indices", ["a"], "bad_value"),
        ("layers_to_transform", -1, "bad_value"),
        ("<script>", 1, "bad_key"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "_",
)
def test_a_hostile_value_is_refused_by_its_key(key: str, value: object, code: str) -> None:
    raw = json.dumps(BASE | {key: value}).encode()
    if len(raw) > 4_000_000:
        assert problems(raw) == [("too_large", "adapter_config.json")]
    else:
        assert problems(raw) == [(code, f"adapter_config.json: {key}")]


def test_all_problems_are_told_at_once() -> None:
    raw = json.dumps({"r": "8", "bias": "x", "megatron_core": "evil"}).encode()
    assert [code for code, _ in problems(raw)] == [
        "missing_key",
        "missing_key",
        "bad_value",
        "bad_value",
        "imports_code",
    ]


@pytest.mark.parametrize(
    ("pattern"),
    [
        r".*(q_proj|v_proj)$",
        r".*\.(mlp|self_attn)\.(up|down|gate|k|q|v|o)_proj",
        r"^(?!.*(?:visual)).*(?:down_proj|q_proj).*",
        r"(?:.*?(?:language|text).*?(?:self_attn|attn|mlp).*?(?:k_proj|v_proj|q_proj).*?)",
    ],
)
def test_regexes_of_real_configs_are_kept(pattern: str) -> None:
    assert parse(target_modules=pattern).target_modules == pattern


@pytest.mark.parametrize(
    "name", ["/home/x/models/llama", "C:\\models\\llama", "~/llama", "./llama", "a/b/c", "/srv/模型/llama", ""]
)
def test_a_local_folder_is_no_base_and_is_listed(name: str) -> None:
    config = parse(base_model_name_or_path=name)
    assert (config.base_model, config.ignored) == (None, ("base_model_name_or_path",))


@pytest.mark.parametrize("name", ["gpt2", "meta-llama/Llama-2-7b-hf", "HuggingFaceTB/SmolLM2-135M-Instruct", "a.b/c_d"])
def test_an_id_is_the_base(name: str) -> None:
    assert parse(base_model_name_or_path=name).base_model == name


def test_what_has_no_effect_is_listed_not_dropped_in_silence() -> None:
    config = parse(
        enable_lora=False,
        lora_dtype="bf16",
        auto_mapping={"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama"},
        loftq_config={"loftq_bits": 4},
        eva_config={"rho": 2.0},
        megatron_core="megatron.core",
    )
    assert config.ignored == ("auto_mapping", "enable_lora", "eva_config", "loftq_config", "lora_dtype")


def test_variants_that_are_no_plain_lora_are_named() -> None:
    config = parse(use_qalora=True, alora_invocation_tokens=[1, 2], arrow_config=None, kasa_config={"beta": 1})
    assert config.variants == ("alora_invocation_tokens", "kasa_config", "use_qalora")


def test_a_flood_of_unknown_keys_is_refused() -> None:
    assert problems(json.dumps(BASE | {f"k{i}": 1 for i in range(200)}).encode()) == [
        ("bad_key", "adapter_config.json")
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=10_000)
@given(key=st.sampled_from(sorted(HISTORY[-1])), value=JSON)
def test_any_value_is_read_or_refused(key: str, value: object) -> None:
    try:
        parse_config(json.dumps(BASE | {key: value}).encode())
    except InvalidAdapter:
        return


GOOD = json.dumps(HISTORY[-1], indent=2).encode()


@settings(max_examples=200, deadline=10_000)
@given(at=st.integers(0, len(GOOD)), cut=st.integers(0, 30), inserted=st.binary(max_size=10))
def test_a_damaged_config_is_read_or_refused(at: int, cut: int, inserted: bytes) -> None:
    try:
        parse_config(GOOD[:at] + inserted + GOOD[at + cut :])
    except InvalidAdapter:
        return
