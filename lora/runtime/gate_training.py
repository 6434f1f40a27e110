"""Training the gates of a composition on the base with all its experts, everything else frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora.compositions import COMPOSITIONS
from lora.examples import Example, in_turns
from lora.layout import layer_of
from lora.lazy_torch import torch
from lora.runtime.adapted import AdaptedModel
from lora.runtime.composed import Change, Composition
from lora.runtime.descent import descend, encoded
from lora.runtime.probe import RunningBase

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lora.weights import AdapterFile

MOST_SAMPLES = 1_000


@dataclass(frozen=True)
class Trained:
    """What training has found.

    Attributes:
        tensors: `<place>.<tensor>` → values, float32, as a file of gates has them.
        losses: of every step, before it: the mean of −log p per token of the answers.
    """

    tensors: dict[str, Tensor]
    losses: tuple[float, ...]


def train_lora_flow(
    base: RunningBase,
    files: Sequence[AdapterFile],
    examples: Sequence[Sequence[Example]],
    *,
    steps: int,
    seed: int = 0,
) -> Trained:
    """Train a gate of LoRA-Flow for each layer: softmax(W·x) + b of what enters it, from W = 0 and b = 0.

    That is the equal mix to begin with. The tasks' samples count alike, each task's in turn, up to 1,000.

    Args:
        files: of the experts, plain LoRA on linear layers.
        examples: of each expert's task; those without an output teach nothing and are left out.
    Raises: NotTrainable: no sample has an output, or a loss is not finite. DoesNotFit: the base is another one.
    """
    AdaptedModel(base.model, files)  # compares every module
    samples = encoded(base, in_turns(examples, MOST_SAMPLES))
    places = layers_of({path for file in files for path in file.layout.modules})
    device = next(base.model.parameters()).device
    widths = _widths(base, places, samples[0].ids.to(device))
    n = len(files)
    gates = {
        place: {
            "weight": torch.zeros(n, widths[place], device=device, requires_grad=True),
            "bias": torch.zeros(n, device=device, requires_grad=True),
        }
        for place in places
    }
    reads = COMPOSITIONS.get("lora_flow").traits["reads"]
    composition = Composition("lora_flow", {}, reads, [str(i) for i in range(n)], gates, places, changes_of(files))
    leaves = [tensor for own in gates.values() for tensor in own.values()]
    with composition.on(base.model):
        losses = tuple(descend(base, leaves, samples, steps, seed))
    return Trained(
        {f"{place}.{part}": t.detach().cpu() for place, own in gates.items() for part, t in own.items()}, losses
    )


def changes_of(files: Sequence[AdapterFile]) -> dict[str, Change]:
    """Return what experts do to each module that any of them adapts."""
    factors: dict[str, dict[int, tuple[Tensor, Tensor, float]]] = {}
    for i, file in enumerate(files):
        for path in file.layout.modules:
            found = file.factors(path)
            factors.setdefault(path, {})[i] = found.A, found.B, found.scaling
    return {path: Change.of(own) for path, own in factors.items()}


def layers_of(paths: set[str]) -> dict[str, list[str]]:
    """Return layer → the modules in it: a path up to its first number, or a module that is in no layer itself."""
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        words = path.split(".")
        number = layer_of(path)
        place = path if number is None else ".".join(words[: words.index(str(number)) + 1])
        found.setdefault(place, []).append(path)
    return found


def _widths(base: RunningBase, places: Mapping[str, Sequence[str]], ids: Tensor) -> dict[str, int]:
    """Return how many values enter each place, seen in one pass."""
    found: dict[str, int] = {}
    known = dict(base.model.named_modules())

    def look(place: str) -> Any:
        def keep(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            found[place] = (args[0] if args else kwargs["hidden_states"]).shape[-1]

        return keep

    with ExitStack() as stack, torch.no_grad():
        for place in places:
            stack.callback(known[place].register_forward_pre_hook(look(place), with_kwargs=True).remove)
        base.logits(ids)
    return found
