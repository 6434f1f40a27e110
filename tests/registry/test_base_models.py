"""Base models, registered without their weights."""

import json

import pytest
from django.core.management import CommandError, call_command

from registry.base_models import modules_from_config, modules_from_header, register_base_model
from registry.errors import Invalid
from registry.models import BaseModel
from registry.queries import find_base_model

TINY_LLAMA = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32,
}  # fmt: skip
TINY_GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 32, "n_positions": 16}


def config_file(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return path


def test_a_config_gives_every_module_with_its_shape(tmp_path):
    modules = modules_from_config(config_file(tmp_path, TINY_LLAMA))
    assert modules["model.layers.0.self_attn.k_proj"] == [8, 16]
    assert modules["model.layers.0.mlp.down_proj"] == [16, 24]
    assert modules["lm_head"] == [32, 16]
    assert modules["model.embed_tokens"] == [16, 32]


def test_conv1d_weights_are_told_in_the_convention_of_linear(tmp_path):
    assert modules_from_config(config_file(tmp_path, TINY_GPT2))["transformer.h.0.attn.c_attn"] == [24, 8]
    header = {"h.0.attn.c_attn.weight": {"dtype": "F32", "shape": [8, 24]}, "h.0.ln_1.weight": {"shape": [8]}}
    assert modules_from_header(json.dumps(header).encode()) == {"h.0.attn.c_attn": [24, 8]}


def test_a_header_file_may_also_list_shapes():
    assert modules_from_header(b'{"a.b": [3, 4]}') == {"a.b": [3, 4]}


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"a.weight": {"shape": [3]}}', b"{"])
def test_headers_that_say_nothing_are_refused(raw):
    with pytest.raises(Invalid):
        modules_from_header(raw)


@pytest.mark.parametrize("config", [{"model_type": "no-such-model"}, {}, {"model_type": "llama", "hidden_size": "x"}])
def test_configs_that_cannot_be_built_are_refused(tmp_path, config):
    with pytest.raises(Invalid):
        modules_from_config(config_file(tmp_path, config))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "modules"),
    [("", {"a": [1, 1]}), ("x", {}), ("x", {"a": [1]}), ("x", {"a": [0, 1]}), ("x", {"a": [True, 1]}), ("x", [])],
)
def test_base_models_that_make_no_sense_are_refused(name, modules):
    with pytest.raises(Invalid):
        register_base_model(name, modules)


@pytest.mark.django_db
def test_the_command_registers_and_an_alias_finds_it(tmp_path, capsys):
    path = config_file(tmp_path, TINY_LLAMA)
    call_command(
        "add_base_model", "acme/llama", "--config", str(path), "--revision", "abc", "--alias", "acme/llama-4bit"
    )
    assert "acme/llama: 9 modules" in capsys.readouterr().out
    assert find_base_model("acme/llama-4bit") == BaseModel.objects.get(name="acme/llama", revision="abc")


@pytest.mark.django_db
def test_the_command_says_what_it_needs():
    with pytest.raises(CommandError, match="--config"):
        call_command("add_base_model", "acme/llama")


@pytest.mark.django_db
def test_create_token_prints_a_token_last_and_makes_the_user(capsys):
    call_command("create_token", "ada", "--days", "3", "--staff")
    secret = capsys.readouterr().out.split()[-1]
    assert secret.startswith("hf_")
    assert len(secret) == 43
    with pytest.raises(CommandError, match="reserved"):
        call_command("create_token", "admin")
