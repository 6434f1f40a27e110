"""Low-rank algebra against dense float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora import elementwise
from lora.algebra import gram, low_rank_spectrum
from lora.elementwise import Elementwise, entry_blocks, kth_largest, streamed_spectrum
from lora.weights import Factors


def random_factors(d_out: int, d_in: int, ranks: list[int], scaling: float = 1.5, seed: int = 0) -> list[Factors]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Factors(
            torch.randn(r, d_in, generator=generator, dtype=torch.float64),
            torch.randn(d_out, r, generator=generator, dtype=torch.float64),
            scaling,
        )
        for r in ranks
    ]


def dense(terms: list[Factors]) -> torch.Tensor:
    return sum(term.scaling * term.B @ term.A for term in terms)


def whole(delta: Elementwise) -> torch.Tensor:
    return torch.cat([block.double() for _, block in delta.blocks()])


def total(entries: torch.Tensor) -> torch.Tensor:
    return entries.sum(0)


@pytest.mark.parametrize(("d_out", "d_in", "ranks"), [(9, 7, [2, 3]), (4, 6, [3, 3, 3]), (8, 5, [1]), (3, 3, [7])])
def test_low_rank_spectrum_is_the_dense_svd(d_out: int, d_in: int, ranks: list[int]) -> None:
    terms = random_factors(d_out, d_in, ranks)
    spectrum = low_rank_spectrum(terms)
    expected = torch.linalg.svdvals(dense(terms))
    assert torch.allclose(spectrum.sigma, expected[: len(spectrum.sigma)])
    assert len(spectrum.sigma) == min(d_out, d_in, sum(ranks))
    assert torch.allclose(spectrum.B @ spectrum.A, dense(terms), atol=1e-12)
    assert spectrum.energy == pytest.approx(float(dense(terms).square().sum()))


def test_cut_spectrum_is_the_best_approximation_and_balanced() -> None:
    terms = random_factors(9, 7, [2, 3])
    U, sigma, Vh = torch.linalg.svd(dense(terms))
    cut = low_rank_spectrum(terms).truncate(2)
    assert torch.allclose(cut.B @ cut.A, (U[:, :2] * sigma[:2]) @ Vh[:2], atol=1e-12)
    assert torch.allclose(cut.B.square().sum(0), sigma[:2])
    assert torch.allclose(cut.A.square().sum(1), sigma[:2])
    assert cut.kept == pytest.approx(float(sigma[:2].square().sum()))
    assert (cut.B.gather(0, cut.B.abs().argmax(0, keepdim=True)) > 0).all()


def test_terms_that_cancel_leave_rank_zero() -> None:
    [term] = random_factors(6, 5, [2])
    spectrum = low_rank_spectrum([term, term.scaled(-1)])
    assert len(spectrum.sigma) == 0
    assert spectrum.energy == 0
    assert (spectrum.A.shape, spectrum.B.shape) == ((0, 5), (6, 0))


def test_small_directions_survive_beside_large_ones() -> None:
    large, small = random_factors(40, 30, [2, 2])
    spectrum = low_rank_spectrum([large, small.scaled(1e-9)])
    assert len(spectrum.sigma) == 4
    assert torch.allclose(spectrum.sigma, torch.linalg.svdvals(dense([large, small.scaled(1e-9)]))[:4], rtol=1e-5)


def test_gram_holds_inner_products() -> None:
    terms = random_factors(9, 7, [2, 3, 1])
    flat = torch.stack([dense([term]).flatten() for term in terms])
    assert torch.allclose(gram(terms), flat @ flat.T)


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream in tiny blocks and approximate, as for a large module."""
    monkeypatch.setattr(elementwise, "BLOCK_ENTRIES", 90)
    monkeypatch.setattr(elementwise, "PANEL_BLOCKS", 2)
    monkeypatch.setattr(elementwise, "EXACT_SIDE", 0)
    monkeypatch.setattr(elementwise, "HELD_ENTRIES", 0)


@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.parametrize(("d_out", "d_in"), [(31, 8), (8, 31), (29, 29)])
def test_streamed_spectrum_without_a_rank_is_the_dense_svd(d_out: int, d_in: int) -> None:
    delta = Elementwise(random_factors(d_out, d_in, [2, 3]), lambda _, entries: entries.sum(0).clamp(-1, 1))
    spectrum, expected = streamed_spectrum(delta, None), whole(delta)
    assert torch.allclose(spectrum.sigma, torch.linalg.svdvals(expected), rtol=1e-6)
    assert torch.allclose(spectrum.B @ spectrum.A, expected, atol=1e-6)
    assert spectrum.energy == pytest.approx(float(expected.square().sum()))


@pytest.mark.usefixtures("tiny_blocks")
def test_randomized_compression_is_near_the_best_and_repeatable() -> None:
    delta = Elementwise(random_factors(150, 120, [9, 9]), lambda _, entries: entries.sum(0).clamp(-4, 4))
    spectrum = streamed_spectrum(delta, 6)
    expected = whole(delta)
    best = float(torch.linalg.svdvals(expected)[6:].square().sum().sqrt())
    assert torch.linalg.norm(spectrum.B @ spectrum.A - expected) <= 1.01 * best
    assert len(spectrum.sigma) == 6
    assert spectrum.energy == pytest.approx(float(expected.square().sum()))
    assert torch.equal(spectrum.B, streamed_spectrum(delta, 6).B)


@pytest.mark.usefixtures("tiny_blocks")
def test_entries_do_not_depend_on_blocks_or_factorisation() -> None:
    [term] = random_factors(20, 11, [3])
    mix = torch.tensor([[2.0, 1, 0], [0, 1, -1], [1, 0, 3]], dtype=torch.float64)
    regauged = Factors(mix @ term.A, term.B @ torch.linalg.inv(mix), term.scaling)
    streamed = torch.cat([entries[0] for _, entries in entry_blocks([term])])
    assert torch.equal(streamed, dense([term]).float())
    assert (torch.cat([e[0] for _, e in entry_blocks([regauged])]) == streamed).double().mean() > 0.99


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    split=st.integers(1, 7),
    position=st.floats(0, 1),
)
def test_kth_largest_is_that_of_a_sort(values: list[float], split: int, position: float) -> None:
    k = max(1, round(position * len(values)))
    tensor = torch.tensor(values)
    expected = tensor.abs().sort(descending=True).values[k - 1]
    assert kth_largest(lambda: tensor.split(split), k) == expected
