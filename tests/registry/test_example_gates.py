"""The example experts come with gates that an upload takes."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from lora.folder import find_adapter
from registry.gates import check_gate_values, check_gates
from tests.lora.recipes import merge_input

ZOO = Path(__file__).resolve().parents[2] / "examples" / "zoo"


@pytest.mark.parametrize("name", sorted(folder.name for folder in ZOO.iterdir() if folder.is_dir()))
def test_gates_fit_their_expert_and_were_trained(name):
    folder = ZOO / name
    gates, layout = folder / "gates.safetensors", merge_input(folder).layout
    assert find_adapter(folder).left_out == ["test.jsonl"]
    check_gates(gates, gates.stat().st_size, layout)
    check_gate_values(gates.read_bytes())
    with safe_open(gates, "np") as file:
        assert set(file.keys()) == set(layout.modules)
        losses = json.loads(file.metadata()["losses"])
    assert len(losses) == 100
    assert sum(losses[-20:]) < sum(losses[:20])
