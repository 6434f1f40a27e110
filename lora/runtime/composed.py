"""Run a composition: in every module the experts are mixed by the weights that trained gates give them.

    composition = Composition.load(Path("composition"))
    with composition.on(model):
        model.generate(...)

It needs torch and safetensors, and nothing else of this project: it comes with every composition as `composition.py`.
The model is left as it was: forward hooks add Σ wᵢ·sᵢ·Bᵢ·Aᵢ·x to what its modules return. Experts may have different
ranks and adapt different modules; where one adapts nothing, it adds nothing, and keeps its weight.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import layer_norm, leaky_relu, linear, relu

FORMAT = "loradex/composition/v1"
GATES = "gates.safetensors"
EPSILON = 1e-5  # of LayerNorm


def _two_layers(x: Tensor, g: Mapping[str, Tensor], bend: Callable[[Tensor], Tensor]) -> Tensor:
    return linear(bend(linear(x, g["hidden_weight"], g["hidden_bias"])), g["weight"], g["bias"])


# Of x, what enters the place, (…, d): of every token, a prompt's mean, or preferences (n,); of what every expert adds
# to the module's output, (…, n, d_out), for gates that read it; of the gate's tensors and parameters. In float32.
Gate = Callable[[Tensor, Tensor, Mapping[str, Tensor], Mapping[str, Any]], Tensor]


def lora_flow(x: Tensor, outputs: Tensor, g: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """softmax(W·x) + b."""
    return linear(x, g["weight"]).softmax(-1) + g["bias"]


def mole(x: Tensor, outputs: Tensor, g: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """softmax(W·LN([o₁; …; oₙ]) / τ), o the experts' outputs."""
    flat = outputs.flatten(-2)
    return (linear(layer_norm(flat, flat.shape[-1:], eps=EPSILON), g["weight"]) / g["temperature"]).softmax(-1)


def meteora(x: Tensor, outputs: Tensor, g: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """Softmax over the `top_k` largest of W·x; 0 for the others."""
    scores = linear(x, g["weight"])
    best, places = scores.topk(min(params["top_k"], scores.shape[-1]), dim=-1)
    return torch.zeros_like(scores).scatter(-1, places, best.softmax(-1))


def mixda(x: Tensor, outputs: Tensor, g: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """σ(V·ReLU(U·x̄ + a) + b)."""
    return _two_layers(x, g, relu).sigmoid()


def adapter_fusion(x: Tensor, outputs: Tensor, g: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """Softmax over i of (Q·x)·(K·oᵢ); the mix is then sent through V, see `_Placed.change`."""
    query, keys = linear(x, g["query"]), linear(outputs, g["key"])
    return torch.softmax((keys @ query[..., None])[..., 0], dim=-1)


def ramole(x: Tensor, outputs: Tensor, g: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """Softmax over i of (B·A·x)·oᵢ / τ; τ is √d_out where none is given."""
    query = linear(linear(x, g["router_A"]), g["router_B"])
    scores = (outputs @ query[..., None])[..., 0]
    return torch.softmax(scores / (params["temperature"] or query.shape[-1] ** 0.5), dim=-1)


def pemt(x: Tensor, outputs: Tensor, g: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """softmax(K·q / √a)."""
    return torch.softmax(g["keys"] @ g["query"] / g["query"].numel() ** 0.5, dim=-1)


def wemoe(x: Tensor, outputs: Tensor, g: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """V·ReLU(U·x̄ + a) + b; PWE MoE is the same of the preferences."""
    return _two_layers(x, g, relu)


def twin_merging(x: Tensor, outputs: Tensor, g: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """(1, softmax(V·LeakyReLU(U·x̄ + a) + b)): the first expert is what all share."""
    own = _two_layers(x, g, leaky_relu).softmax(-1)
    return torch.cat([torch.ones_like(own[..., :1]), own], dim=-1)


_GATES: Sequence[Any] = (lora_flow, mole, meteora, mixda, adapter_fusion, ramole, pemt, wemoe, twin_merging)
RUN: Mapping[str, Gate] = {gate.__name__: gate for gate in _GATES} | {"pwe_moe": wemoe}
OPEN = ("adapter_fusion", "ramole")  # types whose tensors are for no experts in particular


@dataclass(frozen=True)
class Change:
    """What the experts do to one module.

    Attributes:
        A: (Σr, d_in). B: (d_out, Σr), with the scalings in it.
        owners: which of the n experts each of the Σr belongs to.
    """

    A: Tensor
    B: Tensor
    owners: Tensor

    @classmethod
    def of(cls, factors: Mapping[int, tuple[Tensor, Tensor, float]]) -> "Change":
        """From (A, B, scaling) of the experts of these places that adapt the module."""
        owners = [i for i, (A, _, _) in factors.items() for _ in range(len(A))]
        A = torch.cat([A.float() for A, _, _ in factors.values()])
        B = torch.cat([s * B.float() for _, B, s in factors.values()], dim=1)
        return cls(A, B, torch.tensor(owners, device=A.device))

    def to(self, weight: Tensor) -> "Change":
        """The same in the dtype and on the device of the module's weight."""
        return Change(self.A.to(weight), self.B.to(weight), self.owners.to(weight.device))

    def among(self, places: Sequence[int]) -> "Change":
        """The same of the experts of some places, which count anew, in order."""
        kept = torch.tensor([i in places for i in self.owners.tolist()], dtype=torch.bool)
        owners = torch.tensor([places.index(i) for i in self.owners.tolist() if i in places], dtype=torch.long)
        return Change(self.A[kept], self.B[:, kept], owners)

    def apart(self, low: Tensor, n: int) -> Tensor:
        """ΔWᵢ·x of each of n experts, (…, n, d_out), of low = A·x (…, Σr)."""
        return torch.stack([low[..., self.owners == i] @ self.B[:, self.owners == i].T for i in range(n)], dim=-2)


@dataclass
class _Placed:
    """A gate on a model for as long as a block runs.

    Attributes:
        mask: (b, t) while a prompt is read whose mean decides. weights: what was decided, (…, n), None before that.
    """

    gate: Gate
    tensors: Mapping[str, Tensor]
    params: Mapping[str, Any]
    reads: str
    n: int
    mask: Tensor | None = None
    weights: Tensor | None = None

    def look(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Decide by what enters the place."""
        x = (args[0] if args else kwargs["hidden_states"]).float()
        if self.reads == "token":
            self.weights = self.decided(x)
        elif self.mask is not None:
            # What is read counts as given; gates that are being trained learn from what they make of it.
            with torch.enable_grad():
                self.weights = self.decided((x * self.mask[..., None]).sum(1) / self.mask.sum(1, keepdim=True))[:, None]

    def decided(self, x: Tensor, outputs: Tensor | None = None) -> Tensor:
        """The weights (…, n) of the experts."""
        return self.gate(x, x if outputs is None else outputs, self.tensors, self.params)

    def change(self, x: Tensor, change: Change) -> Tensor:
        """What the experts add to a module's output; as long as nothing is decided, the first expert alone."""
        low = x.to(change.A) @ change.A.T
        if self.reads == "outputs":
            weights = self.decided(x.float(), change.apart(low, self.n).float())
        else:
            weights = torch.eye(self.n, device=low.device)[0] if self.weights is None else self.weights
        mix = (low * weights[..., change.owners].to(low)) @ change.B.T
        return mix @ self.tensors["value"].to(mix).T if "value" in self.tensors else mix


@dataclass(frozen=True)
class Composition:
    """Experts of one base model and trained gates over them.

    Attributes:
        type: a name of `RUN`. params: its parameters. reads: as the manifest has it.
        experts: their names, in the order in which everything counts them.
        gates: place → tensors of its gate. places: place → the modules that follow it.
        changes: module → what the experts do to it.
    """

    type: str
    params: Mapping[str, Any]
    reads: str
    experts: Sequence[str]
    gates: Mapping[str, Mapping[str, Tensor]]
    places: Mapping[str, Sequence[str]]
    changes: Mapping[str, Change]

    @classmethod
    def load(cls, folder: Path) -> "Composition":
        """Read an unpacked archive.

        Raises: ValueError: another format, a type that is not run here, or a file whose digest is not the manifest's.
        """
        manifest = read_manifest(folder)
        if manifest["type"] not in RUN:
            raise ValueError(f"Compositions of type {manifest['type']} are kept, and not run here.")
        gates: dict[str, dict[str, Tensor]] = {}
        for name, tensor in load_file(folder / GATES).items():
            place, _, part = name.rpartition(".")
            gates.setdefault(place, {})[part] = tensor
        factors: dict[str, dict[int, tuple[Tensor, Tensor, float]]] = {}
        for i, expert in enumerate(manifest["experts"]):
            tensors = load_file(folder / expert["folder"] / "adapter_model.safetensors")
            for path, module in expert["modules"].items():
                factors.setdefault(path, {})[i] = tensors[module["A"]], tensors[module["B"]], module["scaling"]
        told = {key: manifest[key] for key in ("type", "params", "reads", "places")}
        names = [expert["name"] for expert in manifest["experts"]]
        return cls(**told, experts=names, gates=gates, changes={path: Change.of(own) for path, own in factors.items()})

    @contextmanager
    def on(
        self,
        model: torch.nn.Module,
        *,
        prompt: Mapping[str, Tensor] | None = None,
        preference: Sequence[float] | Sequence[Sequence[float]] | None = None,
        among: Sequence[str] = (),
    ) -> Iterator[None]:
        """Mix inside the model for as long as the block runs.

        Args:
            model: the base that the experts were trained on, plain, or whatever has its modules under the same names.
            prompt: what gates of whole examples decide by: `input_ids` and, where some are padding, `attention_mask`,
                as the model takes them. What the model is given then has as many rows.
            preference: how much the task of each expert counts, for gates that read that: once, or for each row of what
                the model is given. 1/n each by default.
            among: names of experts, the others are left out; all by default. For gates of `OPEN`.
        Raises: ValueError: the model lacks a module, or has it in another size; a prompt or an expert is missing.
        """
        if among and (self.type not in OPEN or not set(among) <= set(self.experts)):
            raise ValueError(f"Only gates of {', '.join(OPEN)} take some experts, out of {', '.join(self.experts)}.")
        chosen = sorted({self.experts.index(name) for name in among or self.experts})
        known = dict(model.named_modules())
        if lacking := sorted({*self.places, *self.changes} - known.keys()):
            raise ValueError(f"The model has no module {lacking[0]}. Is it the experts' base, without a wrapper?")
        with ExitStack() as stack:
            placed = [self._place(known, place, chosen, stack) for place in self.places]
            if self.reads in ("task", "preference"):
                wanted = torch.tensor(preference or [1 / len(self.experts)] * len(self.experts))[..., None, :]
                for one in placed:
                    one.weights = one.decided(wanted.to(next(iter(one.tensors.values()))))
            if self.reads == "example":
                _read(model, prompt, placed)
            yield

    def _place(self, known: Mapping[str, Any], place: str, chosen: Sequence[int], stack: ExitStack) -> _Placed:
        changes = {path: _fitting(known[path], path, self.changes[path].among(chosen)) for path in self.places[place]}
        device = next(iter(changes.values())).A.device
        tensors = {name: tensor.to(device).float() for name, tensor in self.gates[place].items()}
        placed = _Placed(RUN[self.type], tensors, self.params, self.reads, len(chosen))
        if self.reads in ("token", "example"):
            stack.callback(known[place].register_forward_pre_hook(placed.look, with_kwargs=True).remove)
        for path, change in changes.items():
            stack.callback(known[path].register_forward_hook(_adding(placed, change)).remove)
        return placed


def _adding(placed: _Placed, change: Change) -> Any:
    def add(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + placed.change(args[0], change).to(output)

    return add


def _read(model: torch.nn.Module, prompt: Mapping[str, Tensor] | None, placed: Sequence[_Placed]) -> None:
    """Read prompts once, for gates whose weights follow from the mean of all their tokens."""
    if prompt is None:
        raise ValueError("These gates decide by whole prompts: on(model, prompt=...), as the model takes them.")
    mask = prompt.get("attention_mask", torch.ones_like(prompt["input_ids"])).float()
    for one in placed:
        one.mask = mask
    with torch.no_grad():
        model(**prompt)
    for one in placed:
        one.mask = None


def _fitting(module: torch.nn.Module, path: str, change: Change) -> Change:
    weight: Any = module.weight
    needed = sorted((change.A.shape[1], change.B.shape[0]))
    # what quantised layers keep has another shape
    if weight.is_floating_point() and sorted(weight.shape) != needed:
        raise ValueError(f"{path} of the model is {list(weight.shape)}, and the experts' is {needed}.")
    return change.to(weight if weight.is_floating_point() else change.A.to(weight.device))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an unpacked archive. Raises: ValueError: another format, or other bytes than it says."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise ValueError(f"This reads {FORMAT}, not {manifest.get('format')!r}.")
    for path, digest in manifest["files"].items():
        with (folder / path).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                raise ValueError(f"{path} is not what the manifest says. Unpack the archive again.")
    return manifest
