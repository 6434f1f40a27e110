"""What adapters hold beside ΔW: biases, heads, vocabularies, trained tokens; and whether it can be merged.

Whatever replaces weights of the base is absolute. Its weighted sum is b₀ + Σ cᵢ·(bᵢ − b₀), which needs the base's b₀
unless the coefficients of those that bring one sum to 1. A head that no base has cannot be added up at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lora.binding import listed
from lora.errors import InputProblem
from lora.layout import PREFIX
from lora.recipe import MergeInput

Coefficients = Sequence[float]

VOCABULARY_MODULES = {"embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "shared"}
TOKENS = ".token_adapter.trainable_tokens_delta"
SUM_TOLERANCE = 1e-6  # by how much coefficients that sum to 1 may miss it


def coefficients(traits: Any, params: Any, weights: Sequence[float]) -> Coefficients | None:
    """Return cᵢ where a method yields Σ cᵢ·ΔWᵢ with cᵢ known beforehand, so that biases can be added up alike.

    Args:
        traits, params: of the method.
        weights: as it applies them.
    """
    if (traits["family"], traits["weights"]) != ("linear", "absolute"):
        return None
    scale = getattr(params, "scale", 1.0)
    return [scale * weight for weight in weights]


def check_biases(
    method: str, inputs: Sequence[MergeInput], coefficients: Coefficients | None, base_at_hand: bool
) -> Iterator[InputProblem]:
    """Yield a problem for every input with biases of which the method cannot say what becomes of them."""
    for index, item in enumerate(inputs):
        if has_lora_bias(item) and coefficients is None:
            text = f"{item.name} has biases inside its LoRA layers, and {method} is defined for weights only."
            yield InputProblem(index, "lora_bias", f"{text} Take weighted_sum.")
        if not base_biases(item):
            continue
        text = f"{item.name} replaces biases of the base (bias={item.config.bias!r})"
        if coefficients is None:
            text = f"{text}, and {method} is defined for weights only. Take weighted_sum."
            yield InputProblem(index, "trained_bias", text)
        elif not base_at_hand and any(
            abs(1 - share(inputs, coefficients, p)) > SUM_TOLERANCE for p in base_biases(item)
        ):
            text = f"{text}. Without the base they are merged only if all inputs bring them and the weights sum to 1."
            yield InputProblem(index, "trained_bias", text)


def check_vocabularies(inputs: Sequence[MergeInput]) -> Iterator[InputProblem]:
    """Yield a problem for every input with a vocabulary, or trained tokens, that the others do not fit."""
    for index, item in enumerate(inputs):
        own = {name: tensor.shape for name, tensor in item.layout.extra.items() if is_vocabulary(name)}
        for other in inputs:
            theirs = {name: tensor.shape for name, tensor in other.layout.extra.items() if is_vocabulary(name)}
            if own and own != theirs:
                text = f"{item.name} brings {listed(own, 3)}, on top of which it was trained; {other.name} has another."
                yield InputProblem(index, "trained_vocabulary", text)
                break
        tokens = trained_tokens(item)
        for other in inputs[:index]:
            shared = {t for name, ids in trained_tokens(other).items() for t in ids if t in tokens.get(name, ())}
            if shared:
                text = f"{item.name} and {other.name} both train token {listed(map(str, sorted(shared)), 3)}."
                yield InputProblem(index, "trained_vocabulary", text)
                break


def has_lora_bias(item: MergeInput) -> bool:
    """Return whether an adapter has biases inside its LoRA layers."""
    return any(module.bias_name for module in item.layout.modules.values())


def base_biases(item: MergeInput) -> dict[str, str]:
    """Return module path → name of every bias of the base that an adapter replaces."""
    if item.config.bias == "none":
        return {}
    heads = {"modules_to_save", "original_module", *item.config.modules_to_save}
    names = [name for name in item.layout.extra if name.endswith(".bias") and heads.isdisjoint(name.split("."))]
    return {name.removeprefix(PREFIX).removesuffix(".bias").removesuffix(".base_layer"): name for name in names}


def is_vocabulary(name: str) -> bool:
    """Return whether a tensor is a whole trained vocabulary; `base_layer` is PEFT's copy of the base's own weights."""
    parts = set(name.split("."))
    return bool(parts & VOCABULARY_MODULES) and "base_layer" not in parts and not name.endswith(TOKENS)


def trained_tokens(item: MergeInput) -> dict[str, tuple[int, ...]]:
    """Return tensor name → ids of the tokens whose embeddings an adapter replaces, in the order of the rows."""
    found = {}
    for name in item.layout.extra:
        if name.endswith(TOKENS):
            path = f".{token_layer(name)}"
            by_layer = item.config.trainable_token_indices.items()
            found[name] = next((ids for layer, ids in by_layer if not layer or path.endswith(f".{layer}")), ())
    return found


def token_layer(name: str) -> str:
    """Return the module path of the embedding that a tensor of trained tokens belongs to."""
    return name.removeprefix(PREFIX).removesuffix(TOKENS)


def head_modules(item: MergeInput) -> dict[str, list[str]]:
    """Return module path → tensors of every head that an adapter's modules_to_save names, without vocabularies."""
    heads: dict[str, list[str]] = {}
    for name in sorted(item.layout.extra):
        path = name.removeprefix(PREFIX).rpartition(".")[0]
        if saved_names(item, path) and not is_vocabulary(name) and not name.endswith(TOKENS):
            heads.setdefault(path, []).append(name)
    return heads


def saved_names(item: MergeInput, path: str) -> set[str]:
    """Return the entries of an adapter's modules_to_save that a module is, or lies in."""
    return {saved for saved in item.config.modules_to_save if f".{saved}." in f".{path}."}


def left_out(item: MergeInput) -> list[str]:
    """Return the tensors of which a merge says nothing: neither heads, biases nor vocabulary."""
    known = {name for names in head_modules(item).values() for name in names}
    known |= set(base_biases(item).values()) | set(trained_tokens(item))
    return [name for name in sorted(item.layout.extra) if name not in known and not is_vocabulary(name)]


def share(inputs: Sequence[MergeInput], coefficients: Coefficients, path: str) -> float:
    """Return the sum of the coefficients of the inputs that bring a bias of this module."""
    return sum(c for c, item in zip(coefficients, inputs, strict=True) if path in base_biases(item))
