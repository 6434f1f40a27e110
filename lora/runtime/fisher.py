"""The diagonal Fisher information of whole weights: how much an input's answers depend on every single entry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lora.lazy_torch import torch
from lora.runtime.probe import Probe, SampleParams, fractions, in_parts

if TYPE_CHECKING:
    from torch import Tensor

    from lora.layout import ModuleLayout

FISHER_BYTES = 2**30  # of one pass; where the modules need more, the base is run several times


def fisher_diagonals(probe: Probe, modules: Sequence[ModuleLayout], params: SampleParams) -> Iterator[Tensor]:
    """Yield Fᵢ of each module for every input: the mean over its samples of (∂ log p(answer)/∂W)², entry by entry.

    W is the whole weight and not a factor, so that it does not matter how ΔW is split. The gradients are those of the
    input's own labelled samples with that input on the base, of one sample at a time, for the square is of each. Every
    Fᵢ is divided by its mean over all modules: it shrinks with the loss, and would otherwise favour who fits worst.

    One pass over the samples collects what fits into `FISHER_BYTES`, 4 bytes per input and entry: two inputs at once
    for all linear layers of a base of 135 million weights. A single module may take more.

    Returns: for every module, in order, (n, d_out, d_in), float32.
    Raises: NotMergeable: an input has no samples with outputs.
    Source: Matena & Raffel, arXiv:2111.09832, section 3, with the given answer for one drawn from the model.
    """
    tasks = [[one for batch in probe.own_task(i, params) for one in batch.apart()] for i in range(probe.n)]
    entries = sum(module.d_out * module.d_in for module in modules)
    lengths = torch.zeros(probe.n, dtype=torch.float64, device=probe.adapted.device)
    done = 0
    for part in in_parts(modules, lambda module: 4 * probe.n * module.d_out * module.d_in, FISHER_BYTES):
        sums = {one.path: lengths.new_zeros(probe.n, one.d_out, one.d_in, dtype=torch.float32) for one in part}
        watched = [module.path for module in modules] if not done else list(sums)
        steps = fractions(done / len(modules), (done + len(part)) / len(modules), sum(map(len, tasks)))
        for index, task in enumerate(tasks):
            for example in task:
                for path, x, g in probe.scores(example, index, watched):
                    if not done:
                        lengths[index] += _squared_length(x, g)
                    if path in sums:
                        _add_squares(sums[path][index], x, g)
                probe.advance(next(steps))
        done += len(part)
        means = (lengths / entries).float()
        for module in part:
            yield sums.pop(module.path).div_(means.where(means > 0, 1)[:, None, None])


def _add_squares(total: Tensor, x: Tensor, g: Tensor) -> None:
    """Add (gᵀ·x)² to a total (d_out, d_in); ids x (tokens,) stand for rows of the identity."""
    if x.is_floating_point():
        total += (g.T.float() @ x.float()).square_()
        return
    ids, places = torch.unique(x, return_inverse=True)
    sums = g.new_zeros(len(ids), g.shape[1], dtype=torch.float32).index_add_(0, places, g.float())
    total[:, ids] += sums.T.square()


def _squared_length(x: Tensor, g: Tensor) -> Tensor:
    """Return ‖gᵀ·x‖² without forming the product."""
    alike = x.double() @ x.double().T if x.is_floating_point() else x[:, None] == x
    return (g.double() @ g.double().T * alike).sum()
