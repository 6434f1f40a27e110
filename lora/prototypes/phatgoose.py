"""PHATGOOSE gates: per module, the direction that tells which tokens an expert is for, trained on the expert alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora.examples import Example
from lora.lazy_torch import torch
from lora.prototypes import PROTOTYPES
from lora.runtime.adapted import AdaptedModel
from lora.runtime.descent import BATCH, LEARNING_RATE, NotTrainable, descend, encoded
from lora.runtime.probe import RunningBase

if TYPE_CHECKING:
    from torch import Tensor

    from lora.weights import AdapterFile

STEPS = 100


@dataclass(frozen=True)
class Gates:
    """What training has found.

    Attributes:
        vectors: path of a linear module → g (d_in,), float32.
        losses: of every step, before it: the mean of −log p per token of the answers.
    """

    vectors: dict[str, Tensor]
    losses: tuple[float, ...]

    @property
    def facts(self) -> dict[str, str]:
        """How they were trained, as a safetensors file keeps it: the loss curve among it."""
        losses = json.dumps([round(loss, 4) for loss in self.losses])
        return {"steps": str(len(self.losses)), "batch": str(BATCH), "rate": str(LEARNING_RATE), "losses": losses}


@PROTOTYPES.register(
    "phatgoose",
    title="PHATGOOSE gates",
    summary="Per module, a gate trained on the frozen expert's own samples to let through the tokens that it is for.",
    source="PHATGOOSE, arXiv:2402.05859, section 3, with batches of 4",
    needs=("labels", "base_model"),
    space="module",
)
def train_gates(
    base: RunningBase,
    file: AdapterFile,
    examples: Sequence[Example],
    *,
    steps: int | None = None,
    seed: int = 0,
) -> Gates:
    """Train one vector g per linear module, with the base and the adapter frozen.

    The change of a module becomes σ(g·x)·ΔW·x, token by token. Every g starts at zero, where half of ΔW·x is let
    through, and AdamW (no decay; the rate rises over the first 6 % of the steps and stays) lowers the loss of the
    answers. Modules that are no linear layers are let through whole.

    Args:
        examples: of the expert's task; those without an output teach nothing and are left out.
        steps: `STEPS` where it is not said.
        seed: decides in which order the samples come, each once before any comes again.
    Raises: NotTrainable: no sample has an output, the adapter has no linear modules, or a loss is not finite.
        DoesNotFit: the base is another one.
    """
    steps = steps or STEPS
    samples = encoded(base, examples)
    widths = {path: module.d_in for path, module in file.layout.modules.items() if module.kind == "linear"}
    if not widths:
        raise NotTrainable("The adapter has no linear modules, which gates are for.")
    with AdaptedModel(base.model, [file]) as adapted:
        gates = {path: torch.zeros(d_in, device=adapted.device, requires_grad=True) for path, d_in in widths.items()}
        adapted.coefficients = lambda path, x: openings(x, gates[path]) if path in gates else adapted.one(0)
        losses = tuple(descend(base, list(gates.values()), samples, steps, seed, rate=LEARNING_RATE))
    return Gates({path: g.detach().cpu() for path, g in gates.items()}, losses)


def openings(x: Tensor, g: Tensor) -> Tensor:
    """Return σ(g·x), how far a gate (d_in,) opens for every token, (…, 1); x is (…, d_in)."""
    return torch.sigmoid(x.float() @ g.float())[..., None]
