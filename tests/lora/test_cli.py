"""`python -m lora check DIR` gives the server's verdict on a local folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lora.__main__ import REFUSED, USABLE, USAGE, main
from tests.lora.factories import MODULES, adapter_config, factors, write_adapter_files, write_files

ROOT = Path(__file__).parents[2]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr().out


def test_a_usable_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base.json"
    base.write_text(json.dumps({path: list(shape) for path, shape in MODULES.items()}))
    folder = write_adapter_files(tmp_path / "adapter")
    (folder / "training_args.bin").write_bytes(b"\x80\x02")
    (folder / "samples.jsonl").write_text('{"input": "x"}')
    status, text = run(capsys, "check", folder, "--base", base)
    assert status == USABLE
    assert "This is a usable LoRA adapter." in text
    assert "4 (of the 4 that the config targets in the base)" in text
    assert "not sent: training_args.bin" in text
    assert "warning" not in text


def test_a_base_as_the_api_answers_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base.json"
    modules = {path: list(shape) for path, shape in MODULES.items()}
    base.write_text(json.dumps({"id": "acme/tiny-base", "modules": modules}))
    status, text = run(capsys, "check", write_adapter_files(tmp_path / "a"), "--base", base, "--json")
    report = json.loads(text)
    assert status == USABLE
    assert report["usable"]
    assert report["facts"]["modules_bound"] == report["facts"]["modules_in_base"] == 4
    assert len(report["facts"]["tensor_digest"]) == 64


def test_problems_of_both_files_are_told_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_adapter_files(tmp_path, config_overrides={"r": "4"})
    (folder / "adapter_model.safetensors").write_bytes(b"PK\x03\x04" + bytes(600))
    status, text = run(capsys, "check", folder)
    assert status == REFUSED
    assert "problem bad_value in adapter_config.json: r: It must be an integer" in text
    assert "problem pickle in adapter_model.safetensors: This is a zip archive" in text


def test_values_are_judged_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {name: tensor * float("nan") for name, tensor in factors(MODULES).items()}
    status, text = run(capsys, "check", write_files(tmp_path, adapter_config(MODULES), tensors), "--json")
    assert status == REFUSED
    assert {problem["code"] for problem in json.loads(text)["problems"]} == {"not_finite"}


@pytest.mark.parametrize(
    ("names", "codes", "words"),
    [
        ([], ["missing_config", "missing_weights"], "save_pretrained"),
        (["adapter_config.json"], ["missing_weights"], "save_pretrained"),
        (["adapter_model.safetensors"], ["missing_config"], "save_pretrained"),
        (
            ["adapter_config.json", "adapter_model.bin"],
            ["pickle"],
            "load('adapter_model.bin', weights_only=True)",
        ),
        (["adapter_config.json", "adapter_model.pt"], ["pickle"], "torch.load('adapter_model.pt'"),
        (["adapter_config.json", "model.safetensors"], ["missing_weights"], "Rename"),
        (["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"], ["two_weights_files"], "Keep"),
        (["adapter_config.json", "training_args.bin"], ["missing_weights"], "save_pretrained"),
    ],
)
def test_a_folder_that_holds_no_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], codes: list[str], words: str
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    status, text = run(capsys, "check", tmp_path, "--json")
    problems = json.loads(text)["problems"]
    assert status == REFUSED
    assert [problem["code"] for problem in problems] == codes
    assert words in problems[-1]["message"]


def test_the_advice_on_pickles_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_files(tmp_path, adapter_config(MODULES), factors(MODULES))
    (folder / "adapter_model.safetensors").unlink()
    torch.save(factors(MODULES), folder / "adapter_model.bin")
    _, text = run(capsys, "check", folder, "--json")
    command = json.loads(text)["problems"][0]["message"].partition('python -c "')[2].partition('"')[0]
    monkeypatch.chdir(folder)
    exec(command, {})
    (folder / "adapter_model.bin").unlink()
    assert main(["check", str(folder)]) == USABLE


@pytest.mark.parametrize("content", ["[]", "{", '{"a": [1]}', '{"a": [1, -1]}', '{"a": [true, 2]}', '{"modules": 3}'])
def test_wrong_usage(tmp_path: Path, content: str) -> None:
    folder = write_adapter_files(tmp_path / "a")
    (tmp_path / "base.json").write_text(content)
    for arguments in (
        ["check", str(folder), "--base", str(tmp_path / "base.json")],
        ["check", str(folder), "--base", str(tmp_path / "nowhere.json")],
        ["check", str(tmp_path / "nowhere")],
        ["inspect", str(folder)],
        [],
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == USAGE


def test_it_runs_as_a_module_without_torch_or_django(tmp_path: Path) -> None:
    folder = write_adapter_files(tmp_path)
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['lora', 'check', {str(folder)!r}]\n"
        "try:\n    runpy.run_module('lora', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'django', 'safetensors'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "usable LoRA adapter" in done.stdout


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lora", "check", str(write_adapter_files(tmp_path))]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (USABLE, "")
