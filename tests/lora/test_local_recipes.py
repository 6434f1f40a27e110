"""Merging folders by a recipe, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from django.core.management import CommandError, call_command

from lora.__main__ import main
from lora.local_recipes import merge_folders
from tests.lora.factories import MODULES, adapter_config, factors, write_adapter_files, write_files
from tests.lora.raw_files import read_deltas, relative_error
from tests.lora.tiny_llama import MODULES as LLAMA_MODULES
from tests.lora.tiny_llama import NAME, SAMPLES, save_tiny_llama

RECIPE = """
format: loradex/v1
method: weighted_sum
inputs:
  - {path: a, weight: 1}
  - recipe:
      method: weighted_sum
      inputs: [{path: a}, {path: ./b}]
    weight: -1
output: {rank: {mode: exact}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_adapter_files(tmp_path / name, seed=seed, rank=2)
    return tmp_path


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def assert_half_the_difference(folder: Path, out: Path) -> None:
    a, b, merged = (read_deltas(where) for where in (folder / "a", folder / "b", out))
    for path in MODULES:
        assert relative_error(merged[path], (a[path] - b[path]) / 2) < 1e-6


def test_a_yaml_recipe_is_merged_without_a_database(folder: Path, capsys: Any) -> None:
    call_command("merge", str(write(folder, RECIPE)), out=folder / "new" / "out")
    said = capsys.readouterr().out
    assert "energy kept    1.0000" in said
    assert "rank           4" in said
    assert_half_the_difference(folder, folder / "new" / "out")
    with pytest.raises(CommandError, match="is not empty"):
        call_command("merge", str(folder / "recipe.yaml"), out=folder / "new" / "out")


def test_json_needs_no_django(folder: Path, capsys: Any) -> None:
    inner = {"method": "weighted_sum", "inputs": [{"path": "a"}, {"path": "b"}]}
    recipe: dict[str, Any] = {"method": "weighted_sum"}
    recipe["inputs"] = [{"path": "a", "weight": 1}, {"recipe": inner, "weight": -1}]
    recipe["output"] = {"rank": {"mode": "exact"}}
    path = write(folder, json.dumps(recipe), "recipe.json")
    assert main(["merge", str(path), "--out", str(folder / "out"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["per_module"]) == len(MODULES)
    assert_half_the_difference(folder, folder / "out")


def test_mergekits_paths_are_folders(folder: Path, capsys: Any) -> None:
    models = "[{model: ./a, parameters: {weight: 3}}, {model: b, parameters: {weight: 1}}]"
    config = f"merge_method: linear\nmodels: {models}\n"
    call_command("merge", str(write(folder, config)), out=folder / "out")
    a, b, merged = (read_deltas(folder / name) for name in ("a", "b", "out"))
    for path in MODULES:
        # At the rank of the inputs; half of the sum's directions are cut off.
        assert relative_error(merged[path], 0.75 * a[path] + 0.25 * b[path]) < 0.5


def test_every_flaw_is_a_line_and_nothing_is_written(folder: Path, capsys: Any) -> None:
    write_adapter_files(folder / "other", config_overrides={"base_model_name_or_path": "acme/another"})
    recipe = {
        "method": "ties",
        "params": {"densty": 1},
        "inputs": [{"path": "a"}, {"path": "none"}, {"path": "other"}, {"adapter": "ada/x"}],
        "output": {"name": "ada/x"},
    }
    path = write(folder, json.dumps(recipe), "recipe.json")
    assert main(["merge", str(path), "--out", str(folder / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "params.densty",
        "inputs[1]",
        "inputs[3]",
        "base_model",
        "output",
    ]
    assert not (folder / "out").exists()
    with pytest.raises(CommandError, match="base_model: other was trained on acme/another"):
        call_command(
            "merge", str(write(folder, "method: ties\ninputs: [{path: a}, {path: other}]\n")), out=folder / "out"
        )
    with pytest.raises(CommandError, match="line 2"):
        call_command("merge", str(write(folder, "method: [\n")), out=folder / "out")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def llamas(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        of_llama = {"base_model_name_or_path": NAME}
        made = write_adapter_files(tmp_path / name, LLAMA_MODULES, rank=2, seed=seed, config_overrides=of_llama)
        (made / "samples.jsonl").write_bytes(SAMPLES)
    return tmp_path


def test_methods_with_data_run_the_base_of_a_folder_on_the_samples_beside_the_adapters(
    llamas: Path, base: Path, capsys: Any
) -> None:
    recipe = write(llamas, json.dumps({"method": "regmean", "inputs": [{"path": "a"}, {"path": "b"}]}), "recipe.json")
    asked = ["merge", str(recipe), "--out", str(llamas / "out")]
    assert main(asked) == 1
    assert "--base" in capsys.readouterr().err
    assert main([*asked, "--base", str(llamas)]) == 1
    assert "holds no safetensors" in capsys.readouterr().err
    assert not (llamas / "out").exists()

    assert main([*asked, "--base", str(base)]) == 0
    a, b, merged = (read_deltas(llamas / name) for name in ("a", "b", "out"))
    assert any(relative_error(merged[path], (a[path] + b[path]) / 2) > 0.01 for path in LLAMA_MODULES)
    call_command("merge", str(recipe), out=llamas / "again", base=base)
    again = read_deltas(llamas / "again")
    assert all((again[path] == merged[path]).all() for path in LLAMA_MODULES)

    (llamas / "b" / "samples.jsonl").write_text("no JSON")
    with pytest.raises(CommandError, match=r"b: samples\.jsonl line 1 is not JSON"):
        call_command("merge", str(recipe), out=llamas / "third", base=base)
    (llamas / "b" / "samples.jsonl").unlink()
    with pytest.raises(CommandError, match="b has no samples"):
        call_command("merge", str(recipe), out=llamas / "third", base=base)


def test_running_the_base_is_part_of_the_progress(llamas: Path, base: Path) -> None:
    told: list[float] = []
    document = {"method": "regmean", "inputs": [{"path": "a"}, {"path": "b"}]}
    merge_folders(document, llamas, llamas / "out", base=base, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert any(0 < fraction < 0.7 for fraction in told)


def test_a_dora_adapter_merges_with_the_base(llamas: Path, base: Path, capsys: Any) -> None:
    magnitudes = {f"base_model.model.{path}.lora_magnitude_vector": torch.ones(8) for path in LLAMA_MODULES}
    config = adapter_config(LLAMA_MODULES) | {"base_model_name_or_path": NAME, "use_dora": True}
    write_files(llamas / "dora", config, factors(LLAMA_MODULES, seed=2) | magnitudes)
    document = {"method": "weighted_sum", "inputs": [{"path": "a"}, {"path": "dora"}]}
    asked = ["merge", str(write(llamas, json.dumps(document), "recipe.json")), "--out", str(llamas / "out")]
    assert main(asked) == 1
    assert "DoRA" in capsys.readouterr().err
    assert main([*asked, "--base", str(base)]) == 0
    assert "warning dora_compressed" in capsys.readouterr().out
    assert set(read_deltas(llamas / "out")) == set(LLAMA_MODULES)
