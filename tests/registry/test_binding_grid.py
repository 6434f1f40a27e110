"""The grid of a base's modules."""

from lora.config import LoraConfig
from registry.models import BaseModel
from registry.views import binding
from registry.views.binding import binding_grid

BASE = BaseModel(
    name="acme/base",
    modules={f"model.layers.{layer}.self_attn.{kind}": [8, 8] for layer in range(3) for kind in ("q_proj", "v_proj")}
    | {"lm_head": [20, 8]},
)
CONFIG = LoraConfig(r=4, lora_alpha=8, target_modules=("q_proj",))


def states(grid):
    return {row["kind"]: [cell and cell["state"] for cell in row["cells"]] for row in grid["rows"]}


def test_each_module_is_bound_missing_or_untouched():
    paths = ["model.layers.0.self_attn.q_proj", "model.layers.2.self_attn.q_proj"]
    grid = binding_grid(paths, CONFIG, BASE)
    assert states(grid) == {
        "self_attn.q_proj": ["bound", "missing", "bound", None],
        "self_attn.v_proj": ["untouched", "untouched", "untouched", None],
        "lm_head": [None, None, None, "untouched"],
    }
    assert grid["counts"] == {"bound": 2, "missing": 1, "untouched": 4}
    row = grid["rows"][0]
    assert (row["short"], row["bound"], row["missing"], row["total"]) == ("q_proj", 2, 1, 3)
    assert row["cells"][1]["words"] == "layer 1, self_attn.q_proj: targeted, but without tensors"
    assert grid["layers"] == "columns: layers 0 to 2; the last: modules outside the layers"


def test_a_wrapped_adapter_is_found_under_the_names_of_the_base():
    grid = binding_grid(["transformer.model.layers.1.self_attn.q_proj"], None, BASE)
    assert states(grid)["self_attn.q_proj"] == ["untouched", "bound", "untouched", None]


def test_experts_of_a_mixture_share_a_cell_that_shows_the_worst():
    base = BaseModel(name="moe", modules={f"m.0.experts.{number}.w1": [4, 4] for number in range(3)})
    config = LoraConfig(r=4, lora_alpha=8, target_modules=("w1",))
    [row] = binding_grid(["m.0.experts.0.w1"], config, base)["rows"]
    assert row["cells"][0]["state"] == "missing"
    assert row["cells"][0]["words"] == "layer 0, experts.*.w1: 1 bound, 2 targeted, but without tensors"


def test_a_base_that_is_too_large_is_not_drawn(monkeypatch):
    monkeypatch.setattr(binding, "MAX_CELLS", 6)
    assert binding_grid([], CONFIG, BASE) is None
