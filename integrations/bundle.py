"""Run a bundle: every token in every module goes to the experts that its router chooses, mixed by their weights.

    bundle = Bundle.load(Path("bundle"))
    with bundle.on(model):
        model.generate(...)

It needs torch and safetensors. The model is left as it was: forward hooks add Σ w·s·B·A·x to what its modules return.
Experts may have different ranks and adapt different modules; one that does not adapt a module takes no part in it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

FORMAT = "loradex/bundle/v1"
WEIGHTS = "adapter_model.safetensors"
EPSILON = 1e-5  # of LayerNorm

Score = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def _abs_dot(x: torch.Tensor, vectors: torch.Tensor, baselines: torch.Tensor | None) -> torch.Tensor:
    """|x·v|, as Arrow has it: on the activation as it is."""
    return (x @ vectors.T).abs()


def _calibrated(x: torch.Tensor, vectors: torch.Tensor, baselines: torch.Tensor | None) -> torch.Tensor:
    """(|x·v|/|x| − μ)/σ with what generic texts gave."""
    if baselines is None:
        raise ValueError("The bundle has no baselines.safetensors, which its router compares with.")
    responses = (x @ vectors.T).abs() / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return (responses - baselines[:, 0]) / baselines[:, 1]


def _norm(x: torch.Tensor, vectors: torch.Tensor, baselines: torch.Tensor | None) -> torch.Tensor:
    """‖ΔW·x‖ by the rows σᵢ·vᵢᵀ, as SpectR has it; vectors are (n, r, d_in)."""
    return torch.einsum("...d,nrd->...nr", x, vectors).norm(dim=-1)


def _correlation(x: torch.Tensor, vectors: torch.Tensor, baselines: torch.Tensor | None) -> torch.Tensor:
    """LN(x)·LN(g)/√d, as PHATGOOSE has it."""
    return _standardised(x) @ _standardised(vectors).T / sqrt(x.shape[-1])


def _cosine(x: torch.Tensor, vectors: torch.Tensor, baselines: torch.Tensor | None) -> torch.Tensor:
    """x·c/(|x|·|c|)."""
    return torch.nn.functional.normalize(x, dim=-1) @ torch.nn.functional.normalize(vectors, dim=-1).T


def _standardised(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=EPSILON)


BY_PROMPT = "mean_calibrated_abs_cosine"
SCORES: Mapping[str, Score] = {
    "abs_dot": _abs_dot,
    "calibrated_abs_cosine": _calibrated,
    "norm": _norm,
    "correlation": _correlation,
    "cosine": _cosine,
    BY_PROMPT: _calibrated,
}


@dataclass(frozen=True)
class _Module:
    """What the experts that adapt a module do to it.

    Attributes:
        members: which experts they are, n of the bundle's.
        vectors: (n, d_in) or (n, r, d_in). baselines: (n, 2) of μ and σ, or None.
        A: (Σr, d_in). B: (d_out, Σr), with the scalings in it.
        owners: which of the n each of the Σr belongs to.
    """

    members: tuple[int, ...]
    vectors: torch.Tensor
    baselines: torch.Tensor | None
    A: torch.Tensor
    B: torch.Tensor
    owners: torch.Tensor

    def to(self, weight: torch.Tensor) -> "_Module":
        """The factors as the weight is; what is compared stays in float32."""
        baselines = None if self.baselines is None else self.baselines.to(weight.device)
        factors = (self.A.to(weight), self.B.to(weight), self.owners.to(weight.device))
        return _Module(self.members, self.vectors.to(weight.device), baselines, *factors)


class Bundle:
    """Experts of one base model and the router between them, as `POST /bundles/` makes them.

    Attributes:
        manifest: what `manifest.json` says.
        experts: their names, in the order in which everything counts them.
    """

    def __init__(self, manifest: Mapping[str, Any], modules: Mapping[str, _Module]) -> None:
        self.manifest = manifest
        self.experts = [expert["name"] for expert in manifest["experts"]]
        self._modules = modules
        router = manifest["router"]
        self._by_prompt = router["score"] == BY_PROMPT
        self._score, self._top_k, self._temperature = SCORES[router["score"]], router["top_k"], router["temperature"]

    @classmethod
    def load(cls, folder: Path) -> "Bundle":
        """Read an unpacked archive.

        Raises: ValueError: another format, or a file whose digest is not the manifest's.
        """
        manifest = read_manifest(folder)
        if manifest["router"]["score"] not in SCORES:
            raise ValueError(f"The score {manifest['router']['score']!r} is not known to this version.")
        vectors = load_file(folder / "prototypes.safetensors")
        is_calibrated = SCORES[manifest["router"]["score"]] is _calibrated
        baselines = load_file(folder / "baselines.safetensors") if is_calibrated else {}
        experts = [
            (load_file(folder / expert["folder"] / WEIGHTS), expert["scaling"]) for expert in manifest["experts"]
        ]
        found = {path: _module(path, own, baselines.get(path), experts) for path, own in vectors.items()}
        return cls(manifest, {path: module for path, module in found.items() if module is not None})

    @contextmanager
    def on(
        self,
        model: torch.nn.Module,
        watch: Callable[..., None] | None = None,
        prompt: Mapping[str, torch.Tensor] | None = None,
    ) -> Iterator[None]:
        """Route inside the model for as long as the block runs.

        Args:
            model: the base that the experts were trained on, plain, or whatever has its modules under the same names.
            prompt: what a router of whole prompts chooses by: `input_ids` and, where some are padding,
                `attention_mask`, as the model takes them. What the model is given then has as many rows.
            watch: called as `watch(path, members, weights)` with the weights (…, n) of every token of a module for
                the experts of these places in `experts`.
        Raises: ValueError: the model lacks a module, or has it in another size; or a prompt is missing.
        """
        known = dict(model.named_modules())
        placed = {path: module.to(_weight(known, path, module)) for path, module in self._modules.items()}
        shares = self._shares(model, known, placed, prompt) if self._by_prompt else None
        with ExitStack() as stack:
            for path, module in placed.items():
                handle = known[path].register_forward_hook(self._hook(path, module, watch, shares))
                stack.callback(handle.remove)
            yield

    def _hook(self, path: str, module: _Module, watch: Callable[..., None] | None, shares: torch.Tensor | None) -> Any:
        def add(layer: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            x = args[0]
            weights = self._weights(x, module) if shares is None else shares[:, None, list(module.members)]
            if watch is not None:
                watch(path, module.members, weights)
            low = (x.to(module.A) @ module.A.T) * weights[..., module.owners].to(module.A)
            return output + (low @ module.B.T).to(output)

        return add

    def _weights(self, x: torch.Tensor, module: _Module) -> torch.Tensor:
        """Softmax over the `top_k` best scores of each token, (…, n); 0 for the others."""
        return self._softmax(self._score(x.float(), module.vectors, module.baselines))

    def _softmax(self, scores: torch.Tensor) -> torch.Tensor:
        best, places = scores.topk(min(self._top_k, scores.shape[-1]), dim=-1)
        shares = torch.softmax(best / self._temperature, dim=-1)
        return torch.zeros_like(scores).scatter(-1, places, shares)

    def _shares(
        self,
        model: torch.nn.Module,
        known: Mapping[str, torch.nn.Module],
        placed: Mapping[str, _Module],
        prompt: Mapping[str, torch.Tensor] | None,
    ) -> torch.Tensor:
        """Run the base alone on prompts; the weights (b, n) of all experts for each."""
        if prompt is None:
            raise ValueError("This router chooses by the whole prompt: on(model, prompt=...), as the model takes it.")
        ids = prompt["input_ids"]
        is_token = prompt.get("attention_mask", torch.ones_like(ids)).to(torch.float32)
        sums = torch.zeros(len(ids), len(self.experts), device=ids.device)
        counts = torch.zeros(len(self.experts), device=ids.device)

        def look(module: _Module) -> Any:
            def add(layer: torch.nn.Module, args: tuple[Any, ...]) -> None:
                scores = self._score(args[0].float(), module.vectors, module.baselines)
                means = (scores * is_token[..., None]).sum(1) / is_token.sum(1)[:, None]
                sums[:, list(module.members)] += means
                counts[list(module.members)] += 1

            return add

        with ExitStack() as stack, torch.no_grad():
            for path, module in placed.items():
                stack.callback(known[path].register_forward_pre_hook(look(module)).remove)
            model(**prompt)
        spreads = torch.tensor([expert["spread"] for expert in self.manifest["experts"]], device=ids.device)
        scores = sums / counts / (spreads.square() + self.manifest["router"]["prior_spread"] ** 2).sqrt()
        return self._softmax(scores.masked_fill(counts == 0, -torch.inf))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an unpacked archive, whose files are those that it names.

    Raises: ValueError: another format, or a file that is missing or has another digest.
    """
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise ValueError(f"This reads {FORMAT}, not {manifest.get('format')!r}.")
    for path, digest in manifest["files"].items():
        with (folder / path).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                raise ValueError(f"{path} is not what the manifest says. Unpack the archive again.")
    return manifest


def _module(
    path: str,
    vectors: torch.Tensor,
    baselines: torch.Tensor | None,
    experts: list[tuple[dict[str, torch.Tensor], dict[str, float]]],
) -> _Module | None:
    """None where no expert takes part. Who has vectors of zeros, or no baselines that are asked for, takes none."""
    takes_part = vectors.flatten(1).any(dim=1)
    if baselines is not None:
        takes_part &= baselines[:, 1] > 0
    members = [i for i in takes_part.nonzero().flatten().tolist() if path in experts[i][1]]
    if not members:
        return None
    prefix = f"base_model.model.{path}.lora_"
    factors = [(experts[i][0][f"{prefix}A.weight"], experts[i][0][f"{prefix}B.weight"]) for i in members]
    scalings = [experts[i][1][path] for i in members]
    return _Module(
        members=tuple(members),
        vectors=vectors[members].float(),
        baselines=None if baselines is None else baselines[members],
        A=torch.cat([A.float() for A, _ in factors]),
        B=torch.cat([s * B.float() for s, (_, B) in zip(scalings, factors, strict=True)], dim=1),
        owners=torch.tensor([i for i, (A, _) in enumerate(factors) for _ in range(len(A))]),
    )


def _weight(known: Mapping[str, torch.nn.Module], path: str, module: _Module) -> torch.Tensor:
    weight = getattr(known.get(path), "weight", None)
    if weight is None:
        raise ValueError(f"The model has no module {path}. Is it the base of this bundle, without a wrapper?")
    needed = sorted((module.A.shape[1], module.B.shape[0]))
    # what quantised layers keep has another shape
    if weight.is_floating_point() and sorted(weight.shape) != needed:
        raise ValueError(f"{path} of the model is {list(weight.shape)}, and the experts' is {needed}.")
    return weight if weight.is_floating_point() else module.A.to(weight.device)
