"""Training the gates of a composition on the base with all its experts, everything else frozen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lora.composing import MAX_BYTES
from lora.compositions import COMPOSITIONS
from lora.examples import Example, in_turns
from lora.layout import layer_of
from lora.lazy_torch import torch
from lora.runtime.adapted import AdaptedModel
from lora.runtime.composed import Change, Composition
from lora.runtime.descent import LEARNING_RATE, NO_SAMPLES, NotTrainable, descend, encoded
from lora.runtime.gate_starts import shaped, sizes_at, started
from lora.runtime.probe import RunningBase
from lora.runtime.text import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lora.weights import AdapterFile

MOST_SAMPLES = 1_000
# Slower than `LEARNING_RATE`, at which these go up and down over four experts of the zoo; the others learn most at it.
RATES: Mapping[str, float] = {
    "mole": 1e-3,
    "meteora": 1e-3,
    "wemoe": 1e-3,
    "twin_merging": 1e-3,
    "adapter_fusion": 2e-4,
}


@dataclass(frozen=True)
class Trained:
    """What training has found.

    Attributes:
        tensors: `<place>.<tensor>` → values, float32, as a file of gates has them.
        losses: of every step, before it: the mean of −log p per token of the answers.
    """

    tensors: dict[str, Tensor]
    losses: tuple[float, ...]


def train_gates(
    base: RunningBase,
    kind: str,
    params: Mapping[str, Any],
    files: Sequence[AdapterFile],
    examples: Sequence[Sequence[Example]],
    *,
    steps: int,
    seed: int = 0,
) -> Trained:
    """Train gates of one type by the answers of samples, from the equal mix of the experts.

    There is one for each layer, for each adapted module where the type reads outputs, or one at the model's head. The
    tasks' samples count alike, each task's in turn, up to 1,000.

    Args:
        kind: of `COMPOSITIONS`, one that runs. params: its parameters, complete.
        files: of the experts, plain LoRA on linear layers.
        examples: of each expert's task; those without an output teach nothing and are left out.
    Raises: NotTrainable: no sample has an output, a loss is not finite, the gates would be larger than those that are
        taken, or the model has no head. DoesNotFit: the base is another one.
    """
    AdaptedModel(base.model, files)  # compares every module
    samples, owners = _samples(base, examples)
    composition = _begun(base, kind, params, files, samples[0].ids, seed)
    leaves = [tensor for own in composition.gates.values() for tensor in own.values()]
    told = Told(composition, owners, np.random.Philox(seed))
    losses = descend(
        base,
        leaves,
        samples,
        steps,
        seed,
        rate=RATES.get(kind, LEARNING_RATE),
        during=lambda batch, chosen: composition.on(base.model, **told.of(batch, chosen)),
    )
    trained = {f"{place}.{part}": tensor for place, own in composition.gates.items() for part, tensor in own.items()}
    return Trained({name: tensor.detach().cpu() for name, tensor in trained.items()}, tuple(losses))


@dataclass
class Told:
    """What a composition is told beside the samples of a step.

    Attributes:
        owners: of each sample, the place of the expert of its task. draw: what is random about it.
    """

    composition: Composition
    owners: Sequence[int]
    draw: np.random.Philox

    def of(self, batch: Batch, chosen: Sequence[int]) -> dict[str, Any]:
        """Return the arguments of `Composition.on` for samples at these places."""
        if self.composition.reads == "example":
            return {"prompt": {"input_ids": batch.ids, "attention_mask": batch.is_prompt}}
        if self.composition.reads == "preference":
            return {"preference": [self._preferences(self.owners[place]) for place in chosen]}
        if self.composition.type == "ramole":
            return {"among": self._half()}
        return {}

    def _preferences(self, own: int) -> list[float]:
        """Draw preferences (n,) from all that there are, given that the own task was drawn by them.

        The expected loss is then the sum of the tasks' losses weighted by the preferences, as in PWE MoE.
        """
        raw = -np.log((self.draw.random_raw(len(self.composition.experts) + 1) + 0.5) / 2.0**64)
        shares = raw[:-1]
        shares[own] += raw[-1]
        found: list[float] = (shares / shares.sum()).tolist()
        return found

    def _half(self) -> list[str]:
        """Draw half of the experts, one at least, as RAMoLE drops them: so that a RouterLoRA knows no fixed set."""
        experts = self.composition.experts
        order = np.argsort(self.draw.random_raw(len(experts)), kind="stable")
        return [experts[place] for place in sorted(order[: (len(experts) + 1) // 2].tolist())]


def _samples(base: RunningBase, examples: Sequence[Sequence[Example]]) -> tuple[list[Batch], list[int]]:
    """Return single samples, and of each the place of its task; one of several tasks is the first one's."""
    chosen = [example for example in in_turns(examples, MOST_SAMPLES) if example.output]
    if not chosen:
        raise NotTrainable(NO_SAMPLES)
    first = {example: place for place, task in reversed(list(enumerate(examples))) for example in task}
    tasks = {place: [example for example in chosen if first[example] == place] for place in range(len(examples))}
    owned = [(sample, place) for place, task in tasks.items() if task for sample in encoded(base, task)]
    return [sample for sample, _ in owned], [place for _, place in owned]


def _begun(
    base: RunningBase, kind: str, params: Mapping[str, Any], files: Sequence[AdapterFile], ids: Tensor, seed: int
) -> Composition:
    """Return the experts with gates that nothing has been learnt by yet, as leaves."""
    method, n, changes = COMPOSITIONS.get(kind), len(files), changes_of(files)
    device = next(base.model.parameters()).device
    places = _places(base, method.traits["place"], sorted(changes))
    shapes = {}
    for place, width in _widths(base, places, ids.to(device)).items():
        outputs = changes[place].B.shape[0] if place in changes else 0
        shapes[place] = shaped(method.run(COMPOSITIONS.parse(kind, params)), sizes_at(n, width, outputs))
    values = sum(math.prod(shape) for own in shapes.values() for shape in own.values())
    if 4 * values > MAX_BYTES:
        text = f"Gates of {kind} for these experts would have {4 * values} bytes; at most {MAX_BYTES} are taken."
        raise NotTrainable(f"{text} Choose another type, or experts that adapt fewer modules.")
    draw = np.random.Philox(seed)
    gates = {
        place: {part: tensor.to(device).requires_grad_() for part, tensor in started(kind, own, n, draw).items()}
        for place, own in shapes.items()
    }
    return Composition(kind, params, method.traits["reads"], [str(i) for i in range(n)], gates, places, changes)


def _places(base: RunningBase, place: str, paths: Sequence[str]) -> dict[str, list[str]]:
    """Return place → the adapted modules that follow its gate."""
    if place == "module":
        return {path: [path] for path in paths}
    if place == "any":
        return layers_of(paths)
    model: Any = base.model
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is head and head is not None]
    if not names:
        raise NotTrainable("The base has no head, whose input the gate is to read.")
    return {names[0]: list(paths)}


def changes_of(files: Sequence[AdapterFile]) -> dict[str, Change]:
    """Return what experts do to each module that any of them adapts."""
    factors: dict[str, dict[int, tuple[Tensor, Tensor, float]]] = {}
    for i, file in enumerate(files):
        for path in file.layout.modules:
            found = file.factors(path)
            factors.setdefault(path, {})[i] = found.A, found.B, found.scaling
    return {path: Change.of(own) for path, own in factors.items()}


def layers_of(paths: Iterable[str]) -> dict[str, list[str]]:
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
