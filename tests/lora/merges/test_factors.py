"""Methods that add factors: the published sums in dense numpy, PEFT itself, and what makes them no merge of ΔW."""

from pathlib import Path

import numpy as np
import pytest

from lora.errors import NotMergeable
from lora.merges import MERGES
from lora.weights import Factors
from tests.lora.factories import write_adapter_files
from tests.lora.in_memory import dense, merged, random_delta
from tests.lora.peft_models import peft_merge, save_adapter
from tests.lora.raw_files import read_deltas, relative_error
from tests.lora.recipes import run_merge

METHODS = ["peft_linear", "lorahub_factors", "fusion_factors"]


@pytest.fixture
def deltas() -> list[Factors]:
    return [random_delta(seed, rank=3, scaling=0.5) for seed in range(3)]


@pytest.mark.parametrize("weights", [[0.7, 0.2, 0.4], [0.7, -0.2, 0.4]])
def test_peft_linear_is_that_of_peft(weights: list[float], tmp_path: Path) -> None:
    folders = [
        save_adapter(tmp_path / str(seed), seed, r=3, lora_alpha=alpha, target_modules=["q", "v"])
        for seed, alpha in enumerate((3, 7, 2))
    ]
    run_merge(tmp_path / "out", folders, "peft_linear", weights=weights)
    ours = read_deltas(tmp_path / "out")
    for path, delta in peft_merge(folders, weights, combination_type="linear").items():
        assert relative_error(ours[path], delta.double().numpy()) < 1e-5


@pytest.mark.parametrize("weights", [[0.7, 0.2, 0.4], [1.5, -0.2, 0.4]])
def test_lorahub_adds_state_dicts(weights: list[float], deltas: list[Factors]) -> None:
    B = sum(weight * delta.B.numpy() for weight, delta in zip(weights, deltas, strict=True))
    A = sum(weight * delta.A.numpy() for weight, delta in zip(weights, deltas, strict=True))
    assert relative_error(merged("lorahub_factors", deltas, weights), 0.5 * B @ A) < 1e-12
    assert relative_error(merged("lorahub_factors", deltas[:1], [-1.0]), dense(deltas[0])) < 1e-12


@pytest.mark.parametrize("weights", [[3.0, 2.0, 1.0], [3.0, -2.0, 1.0]])
def test_fusion_averages_state_dicts_and_negates_by_b(weights: list[float], deltas: list[Factors]) -> None:
    applied = [weight * len(weights) / sum(map(abs, weights)) for weight in weights]
    shares = [abs(weight) / 6 for weight in weights]
    B = sum(a * np.sign(w) * delta.B.numpy() for a, w, delta in zip(shares, weights, deltas, strict=True))
    A = sum(a * delta.A.numpy() for a, delta in zip(shares, deltas, strict=True))
    assert relative_error(merged("fusion_factors", deltas, applied), 0.5 * B @ A) < 1e-12
    assert relative_error(merged("fusion_factors", deltas[:1], [-1.0]), -dense(deltas[0])) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_different_scalings_are_in_the_factors(method: str, deltas: list[Factors]) -> None:
    """Each input's own term is sᵢ·Bᵢ·Aᵢ, whatever the others' scalings are."""
    lone = Factors(deltas[2].A, deltas[2].B, 3.0)
    empty = [Factors(0 * delta.A, 0 * delta.B, 2.0) for delta in deltas[:2]]
    actual = merged(method, [*empty, lone], [1, 1, 1])
    share = 1 / 9 if method == "fusion_factors" else 1
    assert relative_error(actual, share * dense(lone)) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_unequal_ranks_are_refused_with_the_reason_of_each_input(method: str, tmp_path: Path) -> None:
    folders = [write_adapter_files(tmp_path / str(i), rank=rank, seed=i) for i, rank in enumerate((4, 2, 4, 3))]
    with pytest.raises(NotMergeable) as refusal:
        run_merge(tmp_path / "out", folders, method)
    problems = refusal.value.inputs
    assert [(problem.index, problem.code) for problem in problems] == [(1, "different_ranks"), (3, "different_ranks")]
    assert "has rank 2 in ada/1 and 4 in ada/0" in problems[0].message
    assert "weighted_sum takes any" in problems[0].message


def test_they_are_labelled_and_no_other_method_is() -> None:
    labelled = {name for name in MERGES.names() if MERGES.get(name).traits["family"] == "factors"}
    assert labelled == set(METHODS)
    assert labelled == {name for name in MERGES.names() if MERGES.get(name).traits.get("equal_ranks")}
    assert all("reproduce" in MERGES.get(name).traits["when"] for name in labelled)


def test_cross_terms_outweigh_the_mean_of_independent_adapters() -> None:
    """Of n independent adapters the factor average has a cosine of 1/√n to their mean."""
    for n in (2, 8):
        many = [random_delta(seed, 4, 200, 200, 1.0) for seed in range(n)]
        mean = sum(dense(delta) for delta in many) / n
        added = merged("peft_linear", many, [1 / n] * n)
        cosine = np.sum(mean * added) / np.linalg.norm(mean) / np.linalg.norm(added)
        assert cosine == pytest.approx(n**-0.5, abs=0.1)
