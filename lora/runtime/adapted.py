"""A torch model with several adapters on top, in proportions that may change from one call to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from lora.errors import LoraError
from lora.lazy_torch import torch
from lora.weights import AdapterFile

if TYPE_CHECKING:
    from torch import Tensor, nn

Coefficients: TypeAlias = "Tensor | Mapping[str, Tensor] | Callable[[str, Tensor], Tensor]"
"""One number per adapter, (n,), for all modules or by the path of a module; or what gives them for each token of a
module, (path, x) → (…, n)."""


class DoesNotFit(LoraError):
    """An adapter adapts what the base does not have, or what cannot be run here."""

    code = "base_does_not_fit"


@dataclass(frozen=True)
class _Change:
    """What all adapters do to one module, side by side.

    Attributes:
        A: (Σr, d_in). B: (d_out, Σr). Both without scaling.
        bias: s_i·b_i of the adapters that have biases in their LoRA layers, (n, d_out), else None.
        owners: which adapter each of the Σr belongs to, (Σr,).
        scalings: s_i of each of the Σr, (Σr,).
    """

    A: Tensor
    B: Tensor
    bias: Tensor | None
    owners: Tensor
    scalings: Tensor

    def __call__(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """Return Σ c_i·s_i·((x·A_iᵀ)·B_iᵀ + b_i); x is (…, d_in), or token ids for embeddings; c is (n,) or (…, n)."""
        A, B, scalings, owners = self.A, self.B, self.scalings, self.owners
        counts = coefficients[..., owners] != 0
        if counts.dim() == 1 and not coefficients.requires_grad and not counts.all():
            # One of many adapters costs no more than it would alone.
            A, B, scalings, owners = A[counts], B[:, counts], scalings[counts], owners[counts]
        low = x @ A.T if x.is_floating_point() else torch.nn.functional.embedding(x, A.T)
        change = (low * (scalings * coefficients[..., owners])) @ B.T
        return change if self.bias is None else change + coefficients @ self.bias


class AdaptedModel:
    """The base with Σ c_i·ΔW_i on its weights, exactly, without touching them; a context manager.

    Forward hooks add the changes to what the modules return, so that new coefficients cost nothing: a search needs no
    merge and no reload. Gradients flow to coefficients that ask for them.

    Args:
        model: Linear, Conv1D and Embedding modules may be adapted. It is left as it was.
        adapters: open files, of plain LoRA.
    Raises: DoesNotFit: naming the module.
    """

    def __init__(self, model: nn.Module, adapters: Sequence[AdapterFile]) -> None:
        self.model = model
        self.n = len(adapters)
        self.coefficients: Coefficients | None = None  # None: the base alone
        self._stack = ExitStack()
        paths = sorted({path for file in adapters for path in file.layout.modules})
        modules = dict(model.named_modules())
        self._modules = {path: _fitting(modules, path, adapters) for path in paths}
        self._changes = {path: _change(self._modules[path], path, adapters) for path in paths}

    def __enter__(self) -> Self:
        for path, module in self._modules.items():
            handle = module.register_forward_hook(self._hook(path))
            self._stack.callback(handle.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def numbers(self, values: Sequence[float]) -> Tensor:
        """Return coefficients, (n,)."""
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def one(self, index: int, value: float = 1.0) -> Tensor:
        """Return the coefficients of one adapter alone."""
        return self.numbers([value * (i == index) for i in range(self.n)])

    def _hook(self, path: str) -> Any:
        change = self._changes[path]

        def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            if self.coefficients is None:
                return output
            chosen = _of_module(self.coefficients, path, args[0])
            return output + change(args[0], chosen.to(output))

        return add

    @contextmanager
    def watching(self, paths: Sequence[str], visit: Any) -> Iterator[None]:
        """Call `visit(path, x)` with what goes into these modules for as long as the block runs.

        x is (tokens, d_in), for an embedding the ids (tokens,).
        """
        with ExitStack() as stack:
            for path in paths:
                handle = self._modules[path].register_forward_pre_hook(_watch(path, visit))
                stack.callback(handle.remove)
            yield

    def modules(self, paths: Sequence[str]) -> dict[str, nn.Module]:
        """Return adapted modules by path."""
        return {path: self._modules[path] for path in paths}


def answer_scores(
    modules: Mapping[str, nn.Module], log_likelihood: Callable[[], Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield (path, x, g) of those modules that have a part in a likelihood, which runs the model.

    x is what goes into the module, (tokens, d_in) or ids (tokens,), and g the gradient of log p by what comes out,
    (tokens, d_out): gᵀ·x is that by the module's weight.
    """
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in modules}
    with ExitStack() as stack, torch.enable_grad():
        for path, module in modules.items():
            stack.callback(module.register_forward_hook(_record(calls[path])).remove)
        likelihood = log_likelihood()
    offsets = [offset for pairs in calls.values() for _, offset in pairs]
    if not offsets or not likelihood.requires_grad:
        return
    gradients = iter(torch.autograd.grad(likelihood, offsets, materialize_grads=True))
    for path, pairs in calls.items():
        if pairs:
            g = torch.cat([next(gradients).flatten(0, -2) for _ in pairs])
            yield path, torch.cat([x for x, _ in pairs]), g


def _of_module(given: Coefficients, path: str, x: Tensor) -> Tensor:
    if isinstance(given, Mapping):
        return given[path]
    return given(path, x) if callable(given) else given


def _watch(path: str, visit: Any) -> Any:
    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        visit(path, _by_token(args[0]))

    return look


def _record(calls: list[tuple[Tensor, Tensor]]) -> Any:
    def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        offset = torch.zeros_like(output, requires_grad=True)
        calls.append((_by_token(args[0]), offset))
        return output + offset

    return add


def _by_token(x: Tensor) -> Tensor:
    """Return what goes into a module as (tokens, d_in), or ids as (tokens,), apart from any graph."""
    return x.detach().flatten(0, -2) if x.is_floating_point() else x.flatten()


def find_modules(model: nn.Module, paths: Sequence[str]) -> dict[str, nn.Module]:
    """Return modules of a base by path. Raises: DoesNotFit: it has no such module."""
    known = dict(model.named_modules())
    for path in paths:
        if path not in known:
            raise DoesNotFit(f"The base at hand has no module {path}. Is it the model that adapters are trained on?")
    return {path: known[path] for path in paths}


def _fitting(modules: Mapping[str, nn.Module], path: str, adapters: Sequence[AdapterFile]) -> nn.Module:
    module = modules.get(path)
    layout = next(file.layout.modules[path] for file in adapters if path in file.layout.modules)
    weight = getattr(module, "weight", None)
    if module is None or weight is None:
        raise DoesNotFit(f"The base at hand has no module {path}. Is it the model that the adapters were trained on?")
    is_embedding = isinstance(module, torch.nn.Embedding)
    if layout.kind == "conv" or weight.dim() != 2 or is_embedding != (layout.kind == "embedding"):
        raise DoesNotFit(f"{path} cannot be run here: only linear layers and embeddings can, not a {layout.kind}.")
    if sorted(weight.shape) != sorted((layout.d_out, layout.d_in)):
        shape = "x".join(map(str, weight.shape))
        raise DoesNotFit(f"{path} of the base at hand is {shape}, but the adapters' is {layout.d_out}x{layout.d_in}.")
    return module


def _change(module: nn.Module, path: str, adapters: Sequence[AdapterFile]) -> _Change:
    """Read what the adapters do to a module, in the dtype and on the device of its weight."""
    weight: Any = module.weight
    owners = [i for i, file in enumerate(adapters) if path in file.layout.modules]
    factors = [adapters[i].factors(path) for i in owners]
    ranks = [item.A.shape[0] for item in factors]
    scalings = [item.scaling for item in factors]
    return _Change(
        torch.cat([item.A for item in factors]).to(weight),
        torch.cat([item.B for item in factors], dim=1).to(weight),
        _biases(path, adapters, weight),
        torch.tensor([i for i, r in zip(owners, ranks, strict=True) for _ in range(r)], device=weight.device),
        weight.new_tensor([s for s, r in zip(scalings, ranks, strict=True) for _ in range(r)]),
    )


def _biases(path: str, adapters: Sequence[AdapterFile], weight: Tensor) -> Tensor | None:
    layouts = [file.layout.modules.get(path) for file in adapters]
    if not any(layout and layout.bias_name for layout in layouts):
        return None
    d_out = next(layout.d_out for layout in layouts if layout)
    biases = weight.new_zeros(len(adapters), d_out)
    for i, (file, layout) in enumerate(zip(adapters, layouts, strict=True)):
        if layout and layout.bias_name:
            biases[i] = layout.scaling * file.tensor(layout.bias_name).to(weight)
    return biases
