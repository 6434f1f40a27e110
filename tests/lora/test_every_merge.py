"""What every registered merge method must do; a new file in lora/merges is tested on arrival.

A method has every property of `PROPERTIES` that it does not list under `lacks`, and shows here that it lacks those.
"""

import hashlib
import itertools
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.algebra import low_rank_spectrum
from lora.elementwise import Elementwise, streamed_spectrum
from lora.errors import InvalidParams
from lora.merges import FAMILIES, MERGES, PROPERTIES, Stacked
from lora.merging import MergeCancelled, OutputSpec, merge, resolve_weights
from lora.runtime.adapted import AdaptedModel
from lora.runtime.probe import Probe
from lora.weights import AdapterFile, Factors
from tests.lora.factories import adapter_config, factors, write_files
from tests.lora.in_memory import Recipe
from tests.lora.peft_models import loaded_deltas
from tests.lora.raw_files import best_of_rank, read_deltas, relative_error
from tests.lora.recipes import merge_input, run_merge
from tests.lora.runtime.tiny_language_model import running_base, samples

METHODS = MERGES.names()
MODULES = {"layers.0.q": (6, 8), "layers.0.v": (9, 8), "layers.1.v": (9, 8)}  # of `TinyBase`
EXACT = OutputSpec("exact")
MODES = [EXACT, OutputSpec("fixed", 3), OutputSpec("max_input"), OutputSpec("energy", 0.7)]
# settings at which a method shows what it lacks, where its defaults happen to hide it
PARAMS: dict[str, dict[str, Any]] = {
    "add_skill": {"samples": 2, "bound": 2.0, "tolerance": 1.0},
    "slerp": {"t": 0.3},
    "greedy_soup": {"samples": 2, "seed": 1},
    "packllm": {"temperature": 2.0},
}
RUNNING = running_base()  # for methods that need the base model; the others do not look at it
HELD, BROKEN = 1e-5, 1e-3  # relative deviation: at most rounding of float32; clearly more than that


class Subject:
    """A method with small adapters that it can merge; the second has other ranks and lacks a module."""

    def __init__(self, method: str, root: Path) -> None:
        self.method = method
        self.traits = MERGES.get(method).traits
        self.root = root
        self.most = self.traits.get("max_inputs", 3)
        self.weights = [1.0, 2.0, 1.5][: self.most]
        self._names = (f"out{i}" for i in itertools.count())
        ranks = (2, 2, 2) if self.traits.get("equal_ranks") else (2, 1, 3)
        self.folders = [
            self.write(f"in{i}", rank, alpha, seed=i, fewer=i == 1)
            for i, (rank, alpha) in enumerate(zip(ranks, (8, 3, 1), strict=True))
        ][: self.most]

    def write(self, name: str, rank: int, alpha: float, seed: int, fewer: bool) -> Path:
        """Write an adapter that has a direction in common with all others, as adapters of one base do."""
        modules = dict(list(MODULES.items())[:2]) if fewer else MODULES
        config = adapter_config(modules, rank, alpha) | {"task_type": None}
        tensors, common = factors(modules, rank, seed=seed), factors(modules, 1, seed=99)
        for key, tensor in tensors.items():
            (tensor if "lora_A" in key else tensor.T)[0].add_(common[key].flatten())
        folder = write_files(self.root / name, config, tensors)
        lines = [json.dumps(asdict(example)) for example in samples(seed)]
        (folder / "samples.jsonl").write_text("\n".join(lines))
        return folder

    def run(self, folders: list[Path], **options: Any) -> tuple[Path, dict[str, Any]]:
        """Merge into a new folder; return it and the report."""
        out = self.root / next(self._names)
        options = {"output": EXACT, "params": PARAMS.get(self.method), "running": RUNNING} | options
        return out, run_merge(out, folders, self.method, **options)

    @cached_property
    def usual(self) -> tuple[Path, dict[str, Any]]:
        """All adapters merged."""
        return self.run(self.folders, weights=self.weights)

    @cached_property
    def unweighted(self) -> tuple[Path, dict[str, Any]]:
        """All adapters merged with the method's own weights."""
        return self.run(self.folders)

    @cached_property
    def untrained(self) -> Path:
        """The last adapter with B = 0, as training starts."""
        return self.rewrite(self.folders[-1], lambda name, tensor: tensor * 0 if "lora_B" in name else tensor)

    def rewrite(self, folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
        """Copy an adapter with its tensors changed."""
        target = self.root / next(self._names)
        target.mkdir()
        for file in ("adapter_config.json", "samples.jsonl"):
            (target / file).write_bytes((folder / file).read_bytes())
        tensors = load_file(folder / "adapter_model.safetensors")
        changed = {name: change(name, tensor).contiguous() for name, tensor in tensors.items()}
        save_file(changed, target / "adapter_model.safetensors")
        return target


@pytest.fixture(scope="module", params=METHODS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(request.param, tmp_path_factory.mktemp(request.param))


def deviation(actual: Path, expected: Path, factor: float = 1.0) -> float:
    """Return the largest relative error of a module."""
    left, right = read_deltas(actual), read_deltas(expected)
    assert left.keys() == right.keys()
    return max(
        relative_error(left[path], factor * right[path]) for path in left if left[path].any() or right[path].any()
    )


def identity(subject: Subject) -> float:
    return deviation(subject.run(subject.folders[:1])[0], subject.folders[0])


def permutation(subject: Subject) -> float:
    turned = subject.run(subject.folders[::-1], weights=subject.weights[::-1])
    return deviation(turned[0], subject.usual[0])


def gauge(subject: Subject) -> float:
    mix = torch.tensor([[2.0, 1.0], [0.0, 0.5]])  # it and its inverse are exact in float32
    regauged = subject.rewrite(
        subject.folders[0],
        lambda name, tensor: mix @ tensor if "lora_A" in name else tensor @ torch.linalg.inv(mix),
    )
    other = subject.run([regauged, *subject.folders[1:]], weights=subject.weights)
    return deviation(other[0], subject.usual[0])


def scale(subject: Subject) -> float:
    larger = [
        subject.rewrite(folder, lambda name, tensor: tensor * (4 if "lora_B" in name else 1))
        for folder in subject.folders
    ]
    return deviation(subject.run(larger, weights=subject.weights)[0], subject.usual[0], 4)


def zero_adapter(subject: Subject) -> float:
    others = subject.folders[:-1]
    weights = subject.weights[: len(others)]
    mean = sum(weights) / len(weights)  # relative weights of the others stay as they are
    alone = subject.run(others, weights=weights)
    joined = subject.run([*others, subject.untrained], weights=[*weights, mean])
    return deviation(joined[0], alone[0])


def low_rank(subject: Subject) -> float:
    inputs = [merge_input(folder).layout.modules for folder in subject.folders]
    beyond = [0.0]
    for path, delta in read_deltas(subject.usual[0]).items():
        total = sum(modules[path].rank for modules in inputs if path in modules)
        sigma = np.linalg.svd(delta, compute_uv=False)
        beyond += list(sigma[total:] / sigma[0])
    return max(beyond)


CHECKS: dict[str, Callable[[Subject], float]] = {
    "identity": identity,
    "permutation": permutation,
    "gauge": gauge,
    "scale": scale,
    "zero_adapter": zero_adapter,
    "low_rank": low_rank,
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_it_has_every_property_but_exactly_those_it_lacks(name: str, subject: Subject) -> None:
    found = CHECKS[name](subject)
    if name in subject.traits["lacks"]:
        assert found > BROKEN, f"{subject.method} says that it lacks {name}, and has it"
    else:
        assert found < HELD, f"{subject.method} does not say that it lacks {name}"


@pytest.mark.parametrize("method", METHODS)
def test_it_says_what_it_is_for(method: str) -> None:
    traits = MERGES.get(method).traits
    assert traits["family"] in FAMILIES
    assert traits["weights"] in ("absolute", "relative")
    assert traits["when"].endswith(".")
    assert set(traits["lacks"]) <= set(PROPERTIES)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.rank_mode)
def test_output_is_finite_canonical_and_as_reported(mode: OutputSpec, subject: Subject) -> None:
    if mode.rank_mode != subject.traits.get("rank_mode", mode.rank_mode):
        with pytest.raises(InvalidParams, match=r"rank\.mode"):
            subject.run(subject.folders, output=mode)
        return
    exact, report_of_exact = subject.unweighted
    out, report = subject.run(subject.folders, output=mode)
    item = merge_input(out)  # our own strict reader takes it
    whole, written = read_deltas(exact), read_deltas(out)
    rank_aware = subject.traits.get("rank_aware", False)
    assert set(written) == set(MODULES)
    assert {module.rank for module in item.layout.modules.values()} == {item.config.r}
    assert item.config.lora_alpha == item.config.r
    assert report_of_exact["energy_kept"] == pytest.approx(1)
    assert report_of_exact["relative_error"] < 1e-6
    for row in report["per_module"]:
        delta = written[row["path"]]
        assert np.isfinite(delta).all()
        if not rank_aware:
            assert relative_error(delta, best_of_rank(whole[row["path"]], item.config.r)) < 1e-5
        assert np.linalg.norm(delta) == pytest.approx(row["norm_out"], rel=1e-5)
        if mode.rank_mode == "energy":
            assert row["energy_kept"] >= 0.7
    if mode.rank_mode == "energy" and item.config.r > 1 and not rank_aware:
        _, lower = subject.run(subject.folders, output=OutputSpec("fixed", item.config.r - 1))
        assert min(row["energy_kept"] for row in lower["per_module"]) < 0.7


def test_a_rank_aware_result_is_not_the_exact_one_cut(subject: Subject) -> None:
    if subject.traits.get("rank_aware", False):
        whole = read_deltas(subject.unweighted[0])
        cut = read_deltas(subject.run(subject.folders, output=OutputSpec("fixed", 2))[0])
        assert max(relative_error(cut[path], best_of_rank(whole[path], 2)) for path in cut) > BROKEN


def test_a_negative_weight_counts_in_any_order(subject: Subject) -> None:
    weights = [1.0, 2.0, -1.5] if subject.most > 2 else [1.0, -2.0]
    out, _ = subject.run(subject.folders, weights=weights)
    assert deviation(out, subject.usual[0]) > BROKEN
    if "permutation" not in subject.traits["lacks"]:
        turned, _ = subject.run(subject.folders[::-1], weights=weights[::-1])
        assert deviation(turned, out) < HELD


def test_peft_loads_what_was_written(subject: Subject) -> None:
    out, report = subject.usual
    loaded, written = loaded_deltas(out), read_deltas(out)  # warnings are errors: PEFT finds every key and no more
    assert loaded.keys() == written.keys() == set(MODULES)
    for row in report["per_module"]:
        delta = loaded[row["path"]].double().numpy()
        assert relative_error(delta, written[row["path"]]) < 1e-6
        assert np.linalg.norm(delta) == pytest.approx(row["norm_out"], rel=1e-5)


def test_same_recipe_gives_the_same_bytes_and_leaves_inputs_alone(subject: Subject) -> None:
    def digests(folders: list[Path]) -> list[str]:
        files = [file for folder in folders for file in sorted(folder.iterdir())]
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    before = digests(subject.folders)
    (first, report), (second, same) = subject.usual, subject.run(subject.folders, weights=subject.weights)
    assert digests([first]) == digests([second])
    assert report == same
    assert digests(subject.folders) == before
    assert {file.name for file in first.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_untrained_inputs_are_harmless(subject: Subject) -> None:
    out, report = subject.run([subject.folders[0], subject.untrained])
    assert all(np.isfinite(delta).all() for delta in read_deltas(out).values())
    assert report["interference"]["cosine"][0][1] == 0
    twin = subject.rewrite(subject.untrained, lambda name, tensor: tensor)
    for nothing in ([subject.untrained], [subject.untrained, twin]):
        out, report = subject.run(nothing)
        assert "zero_result" in {warning["code"] for warning in report["warnings"]}
        assert report["energy_kept"] == 1
        assert not any(delta.any() for delta in read_deltas(out).values())


def test_duplicates_opposites_and_more_ranks_than_dimensions_are_finite(subject: Subject) -> None:
    for sign in (1, -1):
        twin = subject.rewrite(subject.folders[0], lambda name, t, s=sign: t * s if "lora_B" in name else t)
        copies = [twin, *(subject.rewrite(folder, lambda name, tensor: tensor) for folder in subject.folders)]
        folders = [subject.folders[0], *copies][: subject.traits.get("max_inputs", 5)]
        out, _ = subject.run(folders)
        for delta in read_deltas(out).values():
            assert np.isfinite(delta).all()
            assert np.linalg.norm(delta) < 1e3


def test_progress_rises_to_one_and_a_cancelled_merge_stops(subject: Subject) -> None:
    inputs = [merge_input(folder) for folder in subject.folders]
    seen: list[float] = []
    out = subject.root / "progress"
    out.mkdir()
    merge(subject.method, {}, inputs, EXACT, out, metadata={}, progress=seen.append, running=RUNNING)
    assert seen == sorted(seen)
    assert len(seen) == len(MODULES) + 1
    assert seen[-1] == 1
    with pytest.raises(MergeCancelled):
        merge(subject.method, {}, inputs, EXACT, out, metadata={}, cancelled=lambda: True, running=RUNNING)


def test_unknown_parameter_is_refused(subject: Subject) -> None:
    with pytest.raises(InvalidParams, match="no parameter 'zeal'"):
        subject.run(subject.folders, params={"zeal": 1})


def in_memory(folders: list[Path]) -> Recipe:
    """The modules of some adapters, as the engine hands them to a method."""
    deltas: dict[str, dict[int, Factors]] = {}
    for i, item in enumerate(map(merge_input, folders)):
        with AdapterFile(item.weights_path, item.layout) as file:
            for path in file.paths:
                deltas.setdefault(path, {})[i] = file.factors(path, torch.float64)
    return Recipe(deltas, [1.0] * len(folders))


def test_new_tensors_are_made_where_the_inputs_are(subject: Subject) -> None:
    """Tensors made without a device land on another one here, where they cannot meet those of the inputs."""
    modules, method = in_memory(subject.folders), MERGES.get(subject.method)
    params = MERGES.parse(subject.method, PARAMS.get(subject.method, {}))
    inputs = [merge_input(folder) for folder in subject.folders]
    with ExitStack() as stack:
        files = [stack.enter_context(AdapterFile(item.weights_path, item.layout)) for item in inputs]
        adapted = stack.enter_context(AdaptedModel(RUNNING.model, files))
        modules.probe = Probe(RUNNING, adapted, inputs, modules.weights)
        stack.enter_context(torch.device("meta"))
        for _, merged in method.run(modules, params):
            if isinstance(merged, Elementwise):
                spectrum = streamed_spectrum(merged, 2)
            else:
                spectrum = low_rank_spectrum(merged.terms if isinstance(merged, Stacked) else merged)
            assert spectrum.A.device.type == spectrum.B.device.type == spectrum.sigma.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_computes_the_same(subject: Subject) -> None:
    out = subject.root / "gpu"
    out.mkdir()
    inputs = [merge_input(folder, w) for folder, w in zip(subject.folders, subject.weights, strict=True)]
    options = {"device": "cuda", "running": running_base("cuda")}
    merge(subject.method, PARAMS.get(subject.method, {}), inputs, EXACT, out, metadata={}, **options)
    assert deviation(out, subject.usual[0]) < HELD


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_checked_and_normalised(method: str) -> None:
    relative = MERGES.get(method).traits["weights"] == "relative"
    for bad in ([1.0, float("nan")], [1.0, float("inf")], [0.0, 0.0], [1e308, 1e308]):
        with pytest.raises(InvalidParams):
            resolve_weights(method, bad)
    assert resolve_weights(method, [None, None]) == ([1, 1] if relative else [0.5, 0.5])
    assert resolve_weights(method, [1.0, -1.0]) == [1, -1]
    if relative:
        assert resolve_weights(method, [1, 1]) == resolve_weights(method, [0.5, 0.5])
        assert resolve_weights(method, [1, -3]) == [0.5, -1.5]
        with pytest.raises(InvalidParams, match="all of them or none"):
            resolve_weights(method, [1.0, None])
    else:
        assert resolve_weights(method, [2.0, None]) == [2, 0.5]
