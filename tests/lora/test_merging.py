"""The engine's promises to methods and callers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora.errors import NotMergeable, UnknownMethod
from lora.merges import MERGES
from lora.merging import OutputSpec, merge
from tests.lora.factories import MODULES, write_adapter_files
from tests.lora.raw_files import read_deltas
from tests.lora.recipes import merge_input, run_merge


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [write_adapter_files(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Return a function that registers a method for this test only."""
    MERGES.names()
    monkeypatch.setattr(MERGES, "_methods", dict(MERGES._methods))

    def add(run: Callable[..., Any]) -> None:
        traits = {"weights": "relative", "family": "spectral"}
        MERGES.register("mine", title="Mine", source="here", summary="Mine.", **traits)(run)

    return add


def test_method_of_one_function_runs_like_any_other(
    folders: list[Path], register: Callable[..., None], tmp_path: Path
) -> None:
    def first_one(modules: Any, params: Any) -> Iterator[Any]:
        for module in modules:
            yield module, module.deltas[:1]

    register(first_one)
    run_merge(tmp_path / "out", folders, "mine")
    for path, delta in read_deltas(folders[0]).items():
        assert read_deltas(tmp_path / "out")[path] == pytest.approx(delta, abs=1e-5)


def test_method_that_drops_a_module_is_an_error(
    folders: list[Path], register: Callable[..., None], tmp_path: Path
) -> None:
    register(lambda modules, params: ((module, module.weighted) for module in list(modules)[1:]))
    with pytest.raises(RuntimeError, match="did not yield every module"):
        run_merge(tmp_path / "out", folders, "mine")


def test_modules_come_sorted_with_weights_and_may_be_read_twice(
    folders: list[Path], register: Callable[..., None], tmp_path: Path
) -> None:
    def look(modules: Any, params: Any) -> Iterator[Any]:
        assert modules.n == 2
        assert [module.layout.path for module in modules] == sorted(MODULES)
        for module in modules:
            assert module.inputs == (0, 1)
            assert module.weights == (0.5, -1.5)
            assert module.weighted[1].scaling == -1.5 * module.deltas[1].scaling
            yield module, module.weighted

    register(look)
    run_merge(tmp_path / "out", folders, "mine", weights=[1, -3])


def test_unknown_method_and_unmergeable_inputs_write_nothing(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UnknownMethod):
        run_merge(tmp_path / "x", folders, "average")
    with pytest.raises(NotMergeable):
        run_merge(tmp_path / "y", [folders[0], folders[0]])
    assert list((tmp_path / "x").iterdir()) == list((tmp_path / "y").iterdir()) == []


def test_a_device_that_torch_does_not_know_is_an_error(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nowhere"):
        merge("weighted_sum", {}, [merge_input(folders[0])], OutputSpec(), tmp_path, metadata={}, device="nowhere")


def test_metadata_stands_in_the_header(folders: list[Path], tmp_path: Path) -> None:
    run_merge(tmp_path / "out", folders)
    raw = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    assert b'"__metadata__":{"format":"pt","recipe":"test"}' in raw
