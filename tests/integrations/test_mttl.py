"""Libraries of mttl: what `torch.save` wrote is read without running it, and what is written is read as it was."""

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from integrations.mttl import PHATGOOSE, export_library, import_library
from integrations.torch_archive import NotReadable, Opaque, read_archive
from tests.integrations.test_bundle import EXPERTS, MODULES, written
from tests.lora.recipes import merge_input


@dataclasses.dataclass
class Config:
    lora_rank: int = 2
    lora_alpha: float = 6.0


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def test_plain_data_and_tensors_come_back(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    value = {
        "a": whole.T,
        "b": [1, 2.5, None, True, "text", (1, 2, 3, 4)],
        "c": {"half": torch.ones(2).bfloat16(), "part": whole[1:, 2], "empty": torch.zeros(0, 3)},
        "d": torch.nn.Parameter(torch.ones(2, dtype=torch.float64)),
        "e": 2**40,
    }
    found = read_archive(saved(tmp_path / "x.ckpt", value))
    assert found["b"] == value["b"]
    assert found["e"] == value["e"]
    assert torch.equal(found["a"], whole.T)
    assert torch.equal(found["c"]["half"], value["c"]["half"])
    assert torch.equal(found["c"]["part"], whole[1:, 2])
    assert found["c"]["empty"].shape == (0, 3)
    assert torch.equal(found["d"], value["d"].detach())


def test_nothing_that_a_file_names_is_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    found = read_archive(saved(tmp_path / "x.meta", {"x": Evil(f"touch {ran}"), "config": Config()}))
    assert found["x"] == Opaque(f"{os.system.__module__}.system", (f"touch {ran}",))
    assert found["config"].name.endswith("Config")
    assert found["config"].state == {"lora_rank": 2, "lora_alpha": 6.0}
    assert not ran.exists()


def repacked(source: Path, target: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    good = saved(tmp_path / "good", {"a": torch.ones(4)})
    cut = lambda name, raw: raw[:-4] if name.endswith("data/0") else raw  # noqa: E731
    with pytest.raises(NotReadable, match="another size"):
        read_archive(repacked(good, tmp_path / "short", cut))
    with pytest.raises(NotReadable, match="compressed"):
        read_archive(repacked(good, tmp_path / "packed", lambda name, raw: raw, zipfile.ZIP_DEFLATED))
    for program in (
        b"",
        b".",
        b"garbage",
        b"\x80\x02]q\x00(K\x01u.",
        b"\x80\x02(cos\nsystem\nq\x00R.",
        b"\x80\x02Iabc\n.",
    ):
        replaced = lambda name, raw, program=program: program if name.endswith("data.pkl") else raw  # noqa: E731
        with pytest.raises(NotReadable):
            read_archive(repacked(good, tmp_path / "program", replaced))
    longer = lambda name, raw: raw.replace(b"K\x04\x85", b"K\x09\x85")  # noqa: E731
    with pytest.raises(NotReadable, match="beyond its storage"):
        read_archive(repacked(good, tmp_path / "beyond", longer))
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(NotReadable):
        read_archive(tmp_path / "text")


def test_a_bundle_goes_out_and_comes_back_with_the_same_changes(tmp_path: Path) -> None:
    bundle = written(tmp_path, "phatgoose")
    names = export_library(bundle, tmp_path / "library")
    assert names == ["ada--e0", "ada--e1", "ada--e2"]
    assert import_library(tmp_path / "library", tmp_path / "folders") == names
    gates = load_file(bundle / "prototypes.safetensors")
    for place, (name, (rank, alpha, paths)) in enumerate(zip(names, EXPERTS, strict=True)):
        folder = tmp_path / "folders" / name
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 4.0, sorted(paths))
        assert merge_input(folder).config.base_model == "acme/tiny-base"
        found = load_file(folder / "adapter_model.safetensors")
        own = load_file(tmp_path / f"e{place}" / "adapter_model.safetensors")
        for path in paths:
            key = f"base_model.model.{path}.lora_"
            expected = alpha / rank * own[f"{key}B.weight"] @ own[f"{key}A.weight"]
            torch.testing.assert_close(found[f"{key}B.weight"] @ found[f"{key}A.weight"], expected)
            assert torch.equal(load_file(folder / "gates.safetensors")[path], gates[path][place])
    assert (tmp_path / "library" / f"ada--e0.{PHATGOOSE}.bin").exists()


def test_experts_whose_scaling_is_not_known_are_refused(tmp_path: Path) -> None:
    factors = {f"{path}.lora_{p}": torch.ones(n, 2) for path, shape in MODULES.items() for p, n in (("a", shape[1]),)}
    factors |= {f"{path}.lora_b": torch.ones(2, shape[0]) for path, shape in MODULES.items()}
    saved(tmp_path / "one.ckpt", factors)
    saved(tmp_path / "one.meta", {"expert_name": "one", "expert_config": None, "training_config": None})
    with pytest.raises(ValueError, match="does not say lora_alpha"):
        import_library(tmp_path, tmp_path / "out")
    saved(tmp_path / "one.meta", {"expert_config": Config(), "training_config": {"model": "acme/base"}})
    assert import_library(tmp_path, tmp_path / "out") == ["one"]
    config = json.loads((tmp_path / "out" / "one" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (2, 6.0, "acme/base")
    saved(tmp_path / "one.ckpt", {"first.lora_a": torch.ones(8, 2)})
    with pytest.raises(ValueError, match="first is no plain LoRA"):
        import_library(tmp_path, tmp_path / "again")
