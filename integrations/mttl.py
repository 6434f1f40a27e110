"""Expert libraries of mttl, in and out, without unpickling anything.

    python -m integrations.mttl import LIBRARY FOLDER    # a PEFT folder per expert, with its gates where there are
    python -m integrations.mttl export BUNDLE LIBRARY    # an unpacked bundle as a library

A library is a folder of `{expert}.ckpt` (the factors), `{expert}.meta` (what it is) and `{expert}.{kind}.bin`
(vectors). It keeps transposes: `lora_a` (d_in, r), `lora_b` (r, d_out).
"""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from integrations.bundle import WEIGHTS, read_manifest
from integrations.torch_archive import Opaque, read_archive

ARROW = "arrowtransformconfig-a8327e21d374166ceeb94c40d2e7676f_protos"
PHATGOOSE = "phatgoosetransformconfig-f92413de5a2a587c9553c3b934d4eb6e"
PREFIX = "base_model.model."
Tensors = dict[str, torch.Tensor]


def import_library(library: Path, target: Path) -> list[str]:
    """Write a PEFT folder per expert of a library. Returns: their names.

    Raises: ValueError: an expert is no plain LoRA, or its files do not say its scaling; nothing of it is written.
    """
    names = sorted(path.name.removesuffix(".ckpt") for path in library.glob("*.ckpt"))
    for name in names:
        weights, config = _peft(name, read_archive(library / f"{name}.ckpt"), _facts(library / f"{name}.meta"))
        gates = _gates(library / f"{name}.{PHATGOOSE}.bin", name)
        folder = target / name
        folder.mkdir(parents=True)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        if gates:
            save_file(gates, folder / "gates.safetensors")
    return names


def _facts(path: Path) -> dict[str, Any]:
    """What a `.meta` says; older ones hold their config as an object, of which the fields are taken."""
    meta = _fields(read_archive(path))
    training = _fields(meta.get("training_config"))
    config = training | _fields(meta.get("expert_config"))
    return config | {"model": meta.get("expert_model") or training.get("model")}


def _fields(value: Any) -> dict[str, Any]:
    state = value.state if isinstance(value, Opaque) else value
    return state if isinstance(state, dict) else {}


def _peft(name: str, factors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    paths = sorted({key.rpartition(".")[0] for key in factors})
    weights: Tensors = {}
    for path in paths:
        try:
            A, B = factors[f"{path}.lora_a"].T, factors[f"{path}.lora_b"].T
        except (KeyError, AttributeError) as error:
            raise ValueError(f"{name}: {path} is no plain LoRA with lora_a and lora_b of its own.") from error
        weights[f"{PREFIX}{path}.lora_A.weight"], weights[f"{PREFIX}{path}.lora_B.weight"] = (
            A.contiguous(),
            B.contiguous(),
        )
    rank, alpha = next(iter(weights.values())).shape[0], facts.get("lora_alpha")
    shapes = {key: tensor.shape for key, tensor in weights.items()}
    if any(shape[0 if ".lora_A." in key else 1] != rank or len(shape) != 2 for key, shape in shapes.items()):
        raise ValueError(f"{name}: its modules are not all of rank {rank}.")
    if not isinstance(alpha, int | float) or facts.get("lora_rank", rank) != rank:
        raise ValueError(f"{name}: its .meta does not say lora_alpha and lora_rank as its factors have them.")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": paths, "bias": "none"}
    model = facts["model"] if isinstance(facts["model"], str) else None
    return weights, config | {"base_model_name_or_path": model, "task_type": "CAUSAL_LM", "inference_mode": True}


def _gates(path: Path, name: str) -> Tensors:
    if not path.exists():
        return {}
    end = f".selector.{name}.v"
    found = _fields(_fields(read_archive(path)).get("data"))
    return {key.removesuffix(end): gate.reshape(-1) for key, gate in found.items() if key.endswith(end)}


def export_library(bundle: Path, library: Path) -> list[str]:
    """Write an unpacked bundle as a library, which mttl itself reads. Returns: the experts' names in it.

    mttl takes rank and scaling of all experts from the first: factors are padded with zeros to one rank, and scalings
    are folded into `lora_b`, so that each is 1. Names lose their dots and slashes.

    Raises: ValueError: as `read_manifest`; or two experts would have one name.
    """
    manifest = read_manifest(bundle)
    names = [re.sub(r"[^A-Za-z0-9_-]", "_", expert["name"].replace("/", "--")) for expert in manifest["experts"]]
    if len(set(names)) < len(names):
        raise ValueError("Without dots and slashes, two experts have one name.")
    experts = [load_file(bundle / expert["folder"] / WEIGHTS) for expert in manifest["experts"]]
    rank = max(A.shape[0] for factors in experts for key, A in factors.items() if ".lora_A." in key)
    vectors = load_file(bundle / "prototypes.safetensors")
    library.mkdir(parents=True)
    for place, (name, expert, factors) in enumerate(zip(names, manifest["experts"], experts, strict=True)):
        torch.save(_transposed(factors, expert["scaling"], rank), library / f"{name}.ckpt")
        torch.save(_meta(name, manifest["base_model"]["id"], sorted(expert["scaling"]), rank), library / f"{name}.meta")
        own = {path: vectors[path][place].clone() for path in expert["scaling"]}
        if manifest["router"]["kind"] == "arrow":
            torch.save({"data": own, "config": None}, library / f"{name}.{ARROW}.bin")
        elif manifest["router"]["kind"] == "phatgoose":
            gates = {f"{path}.selector.{name}.v": gate[None] for path, gate in own.items()}
            torch.save({"data": gates, "config": None}, library / f"{name}.{PHATGOOSE}.bin")
    return names


def _transposed(factors: Tensors, scaling: Mapping[str, float], rank: int) -> Tensors:
    found = {}
    for path, scale in scaling.items():
        A, B = (factors[f"{PREFIX}{path}.lora_{part}.weight"] for part in "AB")
        missing = rank - len(A)
        found[f"{path}.lora_a"] = torch.nn.functional.pad(A, (0, 0, 0, missing)).T.contiguous()
        found[f"{path}.lora_b"] = torch.nn.functional.pad(scale * B, (0, missing)).T.contiguous()
    return found


def _meta(name: str, base: str, paths: list[str], rank: int) -> dict[str, Any]:
    config = {
        "__model_modifier__": "lora",
        "modify_modules": ".*",
        "modify_layers": "|".join(sorted({path.rpartition(".")[2] for path in paths})),
        "lora_rank": rank,
        "lora_alpha": float(rank),
        "lora_dropout": 0.0,
    }
    nothing = dict.fromkeys(("parent_node", "training_config"))
    return {"expert_name": name, "expert_task_name": name, "expert_config": config, "expert_model": base} | nothing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("direction", choices=("import", "export"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    convert = import_library if options.direction == "import" else export_library
    for name in convert(options.source, options.target):
        print(name)  # noqa: T201 - what a command says


if __name__ == "__main__":
    main()
