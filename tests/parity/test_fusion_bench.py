"""fusion-bench's functions on ΔW of full rank: on lower ones its TSV-M and Iso count null directions, ours do not.

Tolerance: 1e-5 relative; both decompose in float64, and our result has been through float32 factors.
"""

import pytest
import torch
from fusion_bench.method.isotropic_merging.iso_utils import iso_c, iso_cts
from fusion_bench.method.knots.knots_utils import subspace_alignment
from fusion_bench.method.task_singular_vector.utils.TSVM_utils import compute_and_sum_svd_mem_reduction
from fusion_bench.method.ties_merging.ties_merging_utils import disjoint_merge, resolve_sign, topk_values_mask

from lora.merging import OutputSpec
from tests.parity.engine import PATH, Adapters, deviation

TOLERANCE = 1e-5


def state_dicts(adapters: Adapters) -> list[dict[str, torch.Tensor]]:
    return [{PATH: delta} for delta in adapters.deltas]


@pytest.mark.parametrize("density", [0.3, 0.8])
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_knots_ties(density: float, scope: str, three: Adapters) -> None:
    U, sigma, rights = subspace_alignment(three.deltas)
    reps = torch.stack([(sigma[:, None] * right).flatten() for right in rights])
    kept, _ = topk_values_mask(reps, K=density)  # and one entry more than the fraction
    merged = disjoint_merge(kept, "dis-mean", resolve_sign(kept)).view(-1, rights[0].shape[1])
    size = reps.shape[1]
    ours = three.merged("knots_ties", density=(int(density * size) + 1.5) / size, scope=scope)
    assert deviation(ours, U @ merged) < TOLERANCE


def test_tsv_m(three: Adapters) -> None:
    expected = compute_and_sum_svd_mem_reduction(state_dicts(three), accelerator="cpu")[PATH]
    rank = min(expected.shape)  # of which it gives each of the inputs an equal share
    assert deviation(three.merged("tsv_m", output=OutputSpec("fixed", rank)), expected) < TOLERANCE


def test_iso_c(three: Adapters) -> None:
    expected = iso_c(state_dicts(three), accelerator="cpu")[PATH]
    assert deviation(three.merged("iso_c", norm="none"), expected) < TOLERANCE


@pytest.mark.parametrize("common", [0.8, 0.5, 0.0])
def test_iso_cts(common: float, three: Adapters) -> None:
    expected = iso_cts(state_dicts(three), common, accelerator="cpu")[PATH]
    assert deviation(three.merged("iso_cts", norm="none", common=common), expected) < TOLERANCE
