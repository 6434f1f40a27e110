"""Evidence that an adapter was made unmergeable on purpose. Evidence, not proof: what is told is what was measured.

MergeLock (arXiv:2509.01548) turns W_q into R·W_q and W_k into R⁻ᵀ·W_k: attention stays as it is, and the weights move
far away, so that merged with others the model breaks. From weights alone it shows as changes of q and k that dwarf
all others; with the base, as changes that cancel in every W_qᵀ·W_k. Trap² (arXiv:2601.21898) makes the loss low at
full strength and high at any other, which only running the model tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from lora.base import Base
from lora.lazy_torch import torch
from lora.recipe import MergeInput
from lora.runtime.probe import SampleParams
from lora.weights import AdapterFile

if TYPE_CHECKING:
    from torch import Tensor

    from lora.layout import ModuleLayout
    from lora.merge_report import Measurements
    from lora.runtime.probe import Probe

NORM_RATIO = 10.0  # of q's and k's typical change per entry to that of the other modules
CANCELLED = 0.05  # share of the first-order change of W_qᵀ·W_k that is left: about 1 in trained adapters, 0 if locked
TRIED_SCALES = (0.0, 0.3, 0.5, 0.8, 1.0, 1.2)
TRIED_SAMPLES = 2  # of each input, so that a look at every input stays short beside what a method does with the base
SPIKE = 0.25  # how far a loss may rise above both ends, in parts of the higher one


def lock_warnings_from_norms(names: Sequence[str], measured: Measurements) -> Iterator[dict[str, str]]:
    """Yield a warning for every input whose q and k change far more than its other modules; `names` are the inputs'."""
    for index, name in enumerate(names):
        found = [
            {"path": m.layout.path, "d_in": m.layout.d_in, "d_out": m.layout.d_out, "norm": float(m.norms[index])}
            for m in measured.modules
            if float(m.norms[index]) > 0
        ]
        if warning := lock_warning(name, found):
            yield warning


def lock_warning(name: str, modules: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """Return a warning where q and k of an adapter change far more per entry than all its other modules.

    Args:
        name: of the adapter, for the message.
        modules: `{path, d_in, d_out, norm}` each, as the facts of an adapter have them.
    """
    sizes: dict[str, list[float]] = {"q_proj": [], "k_proj": [], "": []}
    for module in modules:
        leaf = module["path"].rpartition(".")[2]
        per_entry = (module.get("norm") or 0.0) / math.sqrt(module["d_in"] * module["d_out"])
        sizes[leaf if leaf in sizes else ""].append(per_entry)
    if not all(sizes.values()) or not (others := median(sizes[""])):
        return None
    ratio = min(median(sizes["q_proj"]), median(sizes["k_proj"])) / others
    if ratio < NORM_RATIO:
        return None
    text = (
        f"{name} changes q_proj and k_proj {ratio:.0f} times as much as its other modules; the example experts, which "
        "were only trained, 0.8 to 1.2 times. Evidence, not proof, that it was made unmergeable (MergeLock)."
    )
    return _warning("possible_merge_lock", text)


def lock_warnings_from_base(inputs: Sequence[MergeInput], base: Base) -> Iterator[dict[str, str]]:
    """Yield a warning for every input whose changes of q and k cancel in the attention of the base.

    Args:
        base: with `head_dim`; without it nothing is found.
    """
    for item in inputs:
        left = sorted(_residuals(item, base))
        if left and (typical := median(left)) < CANCELLED:
            text = (
                f"{item.name} changes q_proj and k_proj so that {1 - typical:.0%} of it cancels in attention; nothing "
                "cancels in adapters that were only trained. Evidence, not proof, of MergeLock against merging."
            )
            yield _warning("possible_merge_lock", text)


def _residuals(item: MergeInput, base: Base) -> Iterator[float]:
    modules = item.layout.modules
    with AdapterFile(item.weights_path, item.layout) as file:
        for path, q_module in modules.items():
            k_module = modules.get(path.removesuffix("q_proj") + "k_proj")
            if not path.endswith("q_proj") or k_module is None or base.head_dim is None:
                continue
            pair = [_weights(file, module, base) for module in (q_module, k_module)]
            if pair[0] and pair[1]:
                yield from qk_residuals(*pair[0], *pair[1], base.head_dim)


def _weights(file: AdapterFile, module: ModuleLayout, base: Base) -> tuple[Tensor, Tensor] | None:
    """Return W₀ and ΔW, (d_out, d_in) float64; None where the base has no such weight."""
    name = base.find(module.path, "weight")
    factors = file.factors(module.path, torch.float64)
    weight = base.load(name).double() if name else None
    change = (factors.B * factors.scaling) @ factors.A
    return (weight, change) if weight is not None and weight.shape == change.shape else None


def qk_residuals(q_weight: Tensor, q_change: Tensor, k_weight: Tensor, k_change: Tensor, head_dim: int) -> list[float]:
    """Return ‖(W_q+Δ_q)ᵀ(W_k+Δ_k) − W_qᵀW_k‖ / (‖Δ_qᵀW_k‖ + ‖W_qᵀΔ_k‖) of every query head that changes.

    Args:
        q_weight, q_change: (heads·head_dim, d), float64.
        k_weight, k_change: (key heads·head_dim, d), each shared by the same number of query heads.
    """
    shared = q_weight.shape[0] // k_weight.shape[0]
    found = []
    for head in range(q_weight.shape[0] // head_dim):
        rows = slice(head * head_dim, (head + 1) * head_dim)
        q, dq = q_weight[rows], q_change[rows]
        rows = slice(head // shared * head_dim, (head // shared + 1) * head_dim)
        k, dk = k_weight[rows], k_change[rows]
        first_order = _product_norm(dq, k) + _product_norm(q, dk)
        if first_order > 0:
            found.append(_product_norm(torch.cat([dq, q, dq]), torch.cat([k, dk, dk])) / first_order)
    return found


def _product_norm(left: Tensor, right: Tensor) -> float:
    """Return ‖leftᵀ·right‖ without forming it."""
    return math.sqrt(max(0.0, float(((left @ left.T) * (right @ right.T)).sum())))


def trap_warnings(probe: Probe, prompt: str) -> Iterator[dict[str, str]]:
    """Yield a warning for every input whose loss on its own samples spikes between the base and the whole adapter.

    Inputs whose samples have no outputs are passed over.

    Args:
        prompt: what the model is asked, see `SampleParams`.
    """
    params = SampleParams(samples=TRIED_SAMPLES, prompt=prompt)
    for index, item in enumerate(probe.inputs):
        if any(sample.output for sample in item.samples):
            task = probe.own_task(index, params)
            losses = {scale: probe.loss(task, probe.adapted.one(index, scale)) for scale in TRIED_SCALES}
            if warning := trap_warning(item.name, losses):
                yield warning


def trap_warning(name: str, losses: Mapping[float, float]) -> dict[str, str] | None:
    """Return a warning where the loss at some strength spikes above those of the base and of the whole adapter.

    Args:
        losses: on the adapter's own task by strength, 0 (the base) and 1 among them; see `TRIED_SCALES`.
    """
    if any(map(math.isnan, losses.values())):
        return None
    ends = max(losses[0.0], losses[1.0])
    worst = max((scale for scale in losses if scale not in (0.0, 1.0)), key=lambda scale: losses[scale], default=None)
    if worst is None or losses[worst] <= (1 + SPIKE) * ends:
        return None
    text = (
        f"{name} does not tolerate scaling: its loss is {losses[worst]:.3g} at strength {worst:g}, {losses[0.0]:.3g} "
        f"without it and {losses[1.0]:.3g} in full. Evidence, not proof, of a trap against merging (Trap²)."
    )
    return _warning("intolerant_to_scaling", text)


def _warning(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}
