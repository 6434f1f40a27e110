"""Whether adapters can be merged at all: decided from layouts and configs, without reading a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora.config import BASE_CHANGING_INITS
from lora.errors import InputProblem, LoraError, NotMergeable
from lora.layout import ModuleLayout
from lora.merges import MERGES
from lora.recipe import MergeInput
from lora.recipe_tree import Step

# whole weights of these cannot be left out: the adapter was trained on top of them
VOCABULARY_MODULES = {"embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "shared"}


def check_mergeable(inputs: Sequence[MergeInput]) -> None:
    """Check that ΔW of the inputs can be added up, module by module.

    The bases are not compared: only who knows their aliases can.

    Raises:
        LoraError: there are no inputs.
        NotMergeable: with every problem of every input.
    """
    if not inputs:
        raise LoraError("A merge needs at least one input.")
    problems = [problem for index in range(len(inputs)) for problem in _problems(inputs, index)]
    if problems:
        raise NotMergeable(problems)


def check_fit(method: str, inputs: Sequence[MergeInput]) -> None:
    """Check what one method asks of inputs that can be added up: equal ranks, where it adds factors.

    Raises: NotMergeable: with a reason for every input that differs from those before it.
    """
    if MERGES.get(method).traits.get("equal_ranks", False) and (problems := list(_different_ranks(method, inputs))):
        raise NotMergeable(problems)


def check_ranks(recipe: Step[MergeInput], leaves: Sequence[MergeInput]) -> None:
    """Check, before anything is merged, what `check_fit` asks of the ranks of adapters in every step of a recipe.

    Args:
        leaves: the adapters of the recipe, each once, as the same objects; the problems count these.
    Raises: NotMergeable: with a reason for every adapter that differs from those beside it.
    """
    inner = [item.source for item in recipe.inputs if isinstance(item.source, Step)]
    direct = [item.source for item in recipe.inputs if not isinstance(item.source, Step)]
    if MERGES.get(recipe.method).traits.get("equal_ranks", False):
        places = {id(leaf): index for index, leaf in enumerate(leaves)}
        problems = [
            InputProblem(places[id(direct[problem.index])], problem.code, problem.message)
            for problem in _different_ranks(recipe.method, direct)
        ]
        if problems:
            raise NotMergeable(problems)
    for step in inner:
        check_ranks(step, leaves)


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
    """Return what a merge of these inputs leaves out or counts as zero, as `{code, message}`."""
    warnings = []
    union = {path for item in inputs for path in item.layout.modules}
    for item in inputs:
        missing = len(union) - len(item.layout.modules)
        if missing:
            message = f"{item.name} does not adapt {missing} of the {len(union)} modules; there it counts as zero."
            warnings.append({"code": "missing_modules", "message": message})
        dropped = sorted(item.layout.extra)
        if dropped:
            message = f"{item.name}: left out {_listed(dropped)}; a merge holds weight changes only."
            warnings.append({"code": "extra_head", "message": message})
    return warnings


def _problems(inputs: Sequence[MergeInput], index: int) -> Iterator[InputProblem]:
    item = inputs[index]
    for code, message in (*_own_problems(item), *_clashes(inputs[:index], item)):
        yield InputProblem(index, code, message)


def _own_problems(item: MergeInput) -> Iterator[tuple[str, str]]:
    """Yield what keeps this input out of any merge."""
    config, modules = item.config, item.layout.modules.values()
    if config.use_dora or any(module.magnitude_name for module in modules):
        yield "dora", f"{item.name} is a DoRA adapter: its change depends on the base's weights. Use plain LoRA."
    if config.lora_bias or any(module.bias_name for module in modules):
        yield "lora_bias", f"{item.name} has biases inside its LoRA layers, which most loaders refuse."
    if config.bias != "none" and any(_is_base_bias(name, item) for name in item.layout.extra):
        yield "trained_bias", f"{item.name} replaces biases of the base (bias={config.bias!r}); they do not add up."
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
    vocabulary = sorted(name for name in item.layout.extra if _is_vocabulary(name))
    if vocabulary or config.trainable_token_indices:
        what = _listed(vocabulary) if vocabulary else "trained token embeddings"
        yield "trained_vocabulary", f"{item.name} brings {what}, which it needs and a merge cannot add up."


def _clashes(earlier: Sequence[MergeInput], item: MergeInput) -> Iterator[tuple[str, str]]:
    """Yield what keeps this input from being merged with those before it, at most once per kind."""
    found: dict[str, str] = {}
    for other in earlier:
        if (other.name, other.weights_path) == (item.name, item.weights_path):
            found.setdefault("duplicate_input", f"{item.name} is in the recipe twice; change its weight instead.")
        if other.config.fan_in_fan_out != item.config.fan_in_fan_out:
            text = f"{item.name} and {other.name} differ in fan_in_fan_out, so that their bases differ."
            found.setdefault("different_fan_in_fan_out", text)
        for path, module in item.layout.modules.items():
            twin = other.layout.modules.get(path, module)
            if _shape(twin) != _shape(module):
                text = f"{path} is {_shape(module)} in {item.name} and {_shape(twin)} in {other.name}."
                found.setdefault("different_shapes", text)
        for name, tensor in item.layout.extra.items():
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


def _is_base_bias(name: str, item: MergeInput) -> bool:
    """Return whether the tensor is a bias of the base, and not one of a head."""
    heads = {"modules_to_save", "original_module", *item.config.modules_to_save}
    return name.endswith(".bias") and heads.isdisjoint(name.split("."))


def _is_vocabulary(name: str) -> bool:
    """Return whether the tensor is a trained vocabulary; `base_layer` is PEFT's copy of the base's own weights."""
    parts = set(name.split("."))
    trained_tokens = any(part.startswith(("trainable_tokens", "token_adapter")) for part in parts)
    return trained_tokens or (bool(parts & VOCABULARY_MODULES) and "base_layer" not in parts)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
