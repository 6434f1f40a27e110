"""Whether adapters can be merged at all: decided from layouts and configs, without reading a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lora.binding import listed
from lora.config import BASE_CHANGING_INITS
from lora.dora import is_dora
from lora.errors import InputProblem, LoraError, NotMergeable
from lora.layout import ModuleLayout
from lora.merges import MERGES
from lora.recipe import MergeInput, resolve_weights
from lora.recipe_tree import Step
from lora.whole import (
    TOKENS,
    Coefficients,
    check_biases,
    check_vocabularies,
    coefficients,
    has_lora_bias,
    head_modules,
    is_vocabulary,
    left_out,
)


def check_mergeable(inputs: Sequence[MergeInput], *, base_at_hand: bool = False) -> None:
    """Check that ΔW of the inputs can be added up, module by module.

    The bases are not compared: only who knows their aliases can.

    Args:
        base_at_hand: whether the weights of the base will be, without which the change of a DoRA adapter is unknown.
    Raises:
        LoraError: there are no inputs.
        NotMergeable: with every problem of every input.
    """
    if not inputs:
        raise LoraError("A merge needs at least one input.")
    problems = [problem for index in range(len(inputs)) for problem in _problems(inputs, index, base_at_hand)]
    problems += check_vocabularies(inputs)
    if problems:
        raise NotMergeable(sorted(problems, key=lambda problem: problem.index))


def check_fit(method: str, inputs: Sequence[MergeInput], summed: Coefficients | None, *, base_at_hand: bool) -> None:
    """Check what one method asks of inputs that can be added up.

    Args:
        summed: the coefficients where the method is a weighted sum, see `coefficients`.
        base_at_hand: whether the weights of the base are.
    Raises: NotMergeable: biases that the method is not defined for; ranks that differ where it adds factors.
    """
    if problems := list(_unfit(method, inputs, summed, base_at_hand)):
        raise NotMergeable(problems)


def _unfit(
    method: str, inputs: Sequence[MergeInput], summed: Coefficients | None, base_at_hand: bool
) -> Iterator[InputProblem]:
    yield from check_biases(method, inputs, summed, base_at_hand)
    if MERGES.get(method).traits.get("equal_ranks", False):
        yield from _different_ranks(method, inputs)


def check_steps(recipe: Step[MergeInput], leaves: Sequence[MergeInput], *, base_at_hand: bool) -> None:
    """Check, before anything is merged, what `check_fit` asks of the adapters in every step of a recipe.

    Args:
        leaves: the adapters of the recipe, each once, as the same objects; the problems count these.
        base_at_hand: whether the weights of the base will be.
    Raises: NotMergeable: with a reason for every adapter that does not fit the method or those beside it.
    """
    inner = [item.source for item in recipe.inputs if isinstance(item.source, Step)]
    direct = [item.source for item in recipe.inputs if not isinstance(item.source, Step)]
    weights = resolve_weights(recipe.method, [item.weight for item in recipe.inputs])
    params = MERGES.parse(recipe.method, recipe.params)
    summed = coefficients(MERGES.get(recipe.method).traits, params, weights)
    known = base_at_hand
    if inner and direct and summed is not None:
        # What inner recipes bring is known once they are merged; `merge` checks the sum of the weights then.
        summed, known = [1 / len(direct)] * len(direct), True
    places = {id(leaf): index for index, leaf in enumerate(leaves)}
    problems = [
        InputProblem(places[id(direct[problem.index])], problem.code, problem.message)
        for problem in (_unfit(recipe.method, direct, summed, known) if direct else ())
    ]
    if problems:
        raise NotMergeable(problems)
    for step in inner:
        check_steps(step, leaves, base_at_hand=base_at_hand)


def runs_base(recipe: Step[Any]) -> bool:
    """Return whether a method of a recipe, or of one within it, runs the base model."""
    inner = (item.source for item in recipe.inputs if isinstance(item.source, Step))
    return "base_model" in MERGES.get(recipe.method).needs or any(map(runs_base, inner))


def _different_ranks(method: str, inputs: Sequence[MergeInput]) -> Iterator[InputProblem]:
    first: dict[str, tuple[str, int]] = {}
    for index, item in enumerate(inputs):
        for path, module in item.layout.modules.items():
            name, rank = first.setdefault(path, (item.name, module.rank))
            if rank != module.rank:
                text = (
                    f"{path} has rank {module.rank} in {item.name} and {rank} in {name}; {method} adds factors, which "
                    "must be of one rank. weighted_sum takes any."
                )
                yield InputProblem(index, "different_ranks", text)
                break


def merge_warnings(inputs: Sequence[MergeInput]) -> list[dict[str, str]]:
    """Return what is known of a merge from headers alone: what counts as zero, is copied or left out."""
    warnings = missing_warnings(inputs)
    for item in inputs:
        if heads := sorted(head_modules(item)):
            alone = len([other for other in inputs if head_modules(other)]) == 1
            fate = "comes with the merge as it is" if alone else "comes with the merge if all that bring one agree"
            warnings.append({"code": "head_copied", "message": f"{item.name}: {listed(heads, 3)} {fate}."})
        if item.config.trainable_token_indices:
            message = f"{item.name}: its embeddings of single tokens come with the merge as they are."
            warnings.append({"code": "tokens_copied", "message": message})
        if is_dora(item):
            message = f"{item.name} is a DoRA adapter: its change is of full rank and will be compressed."
            warnings.append({"code": "dora_compressed", "message": message})
    return warnings


def missing_warnings(inputs: Sequence[MergeInput]) -> list[dict[str, str]]:
    """Return what a merge counts as zero or leaves out, as `{code, message}`."""
    warnings = []
    union = {path for item in inputs for path in item.layout.modules}
    for item in inputs:
        missing = len(union) - len(item.layout.modules)
        if missing:
            message = f"{item.name} does not adapt {missing} of the {len(union)} modules; there it counts as zero."
            warnings.append({"code": "missing_modules", "message": message})
        if dropped := left_out(item):
            message = f"{item.name}: left out {listed(dropped, 3)}; modules_to_save does not name it."
            warnings.append({"code": "extra_head", "message": message})
    return warnings


def _problems(inputs: Sequence[MergeInput], index: int, base_at_hand: bool) -> Iterator[InputProblem]:
    item = inputs[index]
    for code, message in (*_own_problems(item, base_at_hand), *_clashes(inputs[:index], item)):
        yield InputProblem(index, code, message)


def _own_problems(item: MergeInput, base_at_hand: bool) -> Iterator[tuple[str, str]]:
    """Yield what keeps this input out of any merge."""
    config, kinds = item.config, {module.kind for module in item.layout.modules.values()}
    if is_dora(item) and not base_at_hand:
        yield (
            "dora",
            f"{item.name} is a DoRA adapter: its change depends on the base's weights, which are not at hand here. "
            "Have them under BASE_MODELS_DIR (without a server: --base), or take a plain LoRA.",
        )
    if has_lora_bias(item) and ("embedding" in kinds or is_dora(item)):
        yield "lora_bias", f"{item.name} has biases in its LoRA layers and is a DoRA or adapts an embedding: no loader."
    init = str(config.init_lora_weights).lower()
    if init.startswith(BASE_CHANGING_INITS):
        yield (
            "modified_base",
            f"{item.name} was initialised with {init} and fits a modified base only. Convert it to plain LoRA: "
            "PEFT's save_pretrained with path_initial_model_for_weight_conversion.",
        )
    inexpressible = [*config.variants, *(["layer_replication"] if config.layer_replication else [])]
    if inexpressible:
        yield "variant", f"{item.name} uses {', '.join(inexpressible)}, which a plain LoRA cannot express."


def _clashes(earlier: Sequence[MergeInput], item: MergeInput) -> Iterator[tuple[str, str]]:
    """Yield what keeps this input from being merged with those before it, at most once per kind."""
    found: dict[str, str] = {}
    for other in earlier:
        if (other.name, other.weights_path) == (item.name, item.weights_path):
            found.setdefault("duplicate_input", f"{item.name} is in the recipe twice; change its weight instead.")
        if item.config.revision and other.config.revision and item.config.revision != other.config.revision:
            text = f"{item.name} was trained on revision {item.config.revision} of the base, "
            text += f"{other.name} on {other.config.revision}."
            found.setdefault("other_base_revision", text)
        if other.config.fan_in_fan_out != item.config.fan_in_fan_out:
            text = f"{item.name} and {other.name} differ in fan_in_fan_out, so that their bases differ."
            found.setdefault("different_fan_in_fan_out", text)
        for path, module in item.layout.modules.items():
            twin = other.layout.modules.get(path, module)
            if _shape(twin) != _shape(module):
                text = f"{path} is {_shape(module)} in {item.name} and {_shape(twin)} in {other.name}."
                found.setdefault("different_shapes", text)
        for name, tensor in item.layout.extra.items():
            if is_vocabulary(name) or name.endswith(TOKENS):
                continue  # judged by `check_vocabularies`
            if name in other.layout.extra and other.layout.extra[name].shape != tensor.shape:
                text = (
                    f"The heads differ: {name} is {list(tensor.shape)} in {item.name} and "
                    f"{list(other.layout.extra[name].shape)} in {other.name}, so that their labels differ."
                )
                found.setdefault("different_heads", text)
    yield from found.items()


def _shape(module: ModuleLayout) -> str:
    kernel = f" with kernel {'x'.join(map(str, module.kernel))}" if module.kernel else ""
    return f"{module.kind} {module.d_out}x{module.d_in}{kernel}"
