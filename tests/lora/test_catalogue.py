"""Catalogues: methods by name, and parameters as strict as the schema says."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from lora.catalogue import Catalogue, param
from lora.errors import InvalidParams, UnknownMethod, UnknownRouter
from lora.merges import MERGES
from lora.prototypes import PROTOTYPES
from lora.routers import ROUTERS


@dataclass(frozen=True)
class MixParams:
    density: float = param(0.2, "fraction kept", above=0, maximum=1)
    steps: int = param(3, "how often", minimum=1)
    rescale: bool = param(True, "whether to restore the norm")
    scope: Literal["tensor", "global"] = param("tensor", "where")
    floor: float | None = param(None, "lowest score")

    def __post_init__(self) -> None:
        if self.scope == "global" and self.steps > 5:
            raise ValueError("steps must be at most 5 where scope is global.")


@pytest.fixture
def catalogue() -> Catalogue:
    methods = Catalogue("merge method", "lora.merges")
    methods._loaded = True  # its own methods only, none from files

    @methods.register("mix", params=MixParams, title="Mix", source="a paper", summary="Mixes.", weights="relative")
    def mix() -> str:
        return "mixed"

    return methods


def test_method_is_found_and_described(catalogue: Catalogue) -> None:
    assert catalogue.get("mix").run() == "mixed"
    [described] = catalogue.describe()
    assert described["name"] == "mix"
    assert described["weights"] == "relative"
    properties = described["params"]["properties"]
    assert properties["density"] == {
        "type": "number",
        "default": 0.2,
        "description": "fraction kept",
        "exclusiveMinimum": 0,
        "maximum": 1,
    }
    assert properties["scope"]["enum"] == ["tensor", "global"]
    assert properties["floor"]["type"] == ["number", "null"]
    assert described["params"]["additionalProperties"] is False


def test_unknown_name_lists_the_known_ones(catalogue: Catalogue) -> None:
    with pytest.raises(UnknownMethod, match="mix") as caught:
        catalogue.get("mixx")
    assert caught.value.known == ["mix"]
    with pytest.raises(UnknownRouter):
        ROUTERS.get("mix")


def test_second_registration_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(ValueError, match="twice"):
        catalogue.register("mix", title="", source="", summary="")(lambda: None)


def test_values_fill_the_dataclass(catalogue: Catalogue) -> None:
    assert catalogue.parse("mix", {}) == MixParams()
    values = {"density": 1, "steps": 2, "rescale": False, "scope": "global", "floor": -0.5}
    parsed = catalogue.parse("mix", values)
    assert parsed == MixParams(**values)
    assert isinstance(parsed.density, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"denisty": 0.2}, "no parameter 'denisty'. Known: density, steps"),
        ({"density": 0}, "density must be above 0, not 0"),
        ({"density": 1.1}, "density must be at most 1, not 1.1"),
        ({"density": float("nan")}, "density must be a finite number"),
        ({"density": float("inf")}, "density must be a finite number"),
        ({"density": "0.2"}, "density must be number, not '0.2'"),
        ({"density": True}, "density must be number, not True"),
        ({"density": None}, "density must be number, not None"),
        ({"steps": 2.0}, "steps must be integer, not 2.0"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"rescale": 1}, "rescale must be boolean, not 1"),
        ({"scope": "module"}, "scope must be 'tensor' or 'global', not 'module'"),
        ({"scope": ["tensor"]}, "scope must be"),
        ({"floor": "x"}, "floor must be number or null, not 'x'"),
        ({"scope": "global", "steps": 6}, "steps must be at most 5"),
        ({"density": "x" * 10_000}, "density must be number, not 'xxx"),
        ([], "must be an object"),
    ],
)
def test_bad_values_are_refused_by_name(catalogue: Catalogue, values: Any, message: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        catalogue.parse("mix", values)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("catalogue", [MERGES, PROTOTYPES, ROUTERS], ids=["merges", "prototypes", "routers"])
def test_every_method_has_a_file_of_its_name_and_a_source(catalogue: Catalogue) -> None:
    for described in catalogue.describe():
        module = catalogue.get(described["name"]).run.__module__
        assert module.endswith(f".{described['name']}")
        assert described["title"]
        assert described["summary"].endswith(".")
        assert described["source"]
        for schema in described["params"]["properties"].values():
            assert schema["description"]


def test_listing_and_parsing_need_no_torch() -> None:
    code = """
import sys
from lora.merges import MERGES
from lora.prototypes import PROTOTYPES
from lora.routers import ROUTERS
import lora.merging
assert ROUTERS.describe() and MERGES.describe() and PROTOTYPES.describe()
MERGES.parse("ties", {"density": 0.5})
lora.merging.OutputSpec("energy", 0.9)
assert lora.merging.resolve_weights("ties", [1, 3]) == [0.5, 1.5]
loaded = sorted(name for name in ("torch", "sentence_transformers", "faiss", "django") if name in sys.modules)
sys.exit(f"imported: {loaded}" if loaded else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
