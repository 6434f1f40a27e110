"""Does an adapter fit its base? An adapter that binds only in part is in part a silent no-op."""

from collections.abc import Iterable, Mapping

from lora.config import CONFIG_NAME
from lora.errors import InvalidAdapter, Problem
from lora.layout import Layout, ModuleLayout

BaseModules = Mapping[str, tuple[int, int]]
"""Module path → (d_out, d_in), in the convention of `nn.Linear` also for Conv1D."""

_WHERE = f"{CONFIG_NAME}: base_model_name_or_path"


def bind(layout: Layout, base: BaseModules) -> dict[str, str]:
    """Return the base's module of each of the adapter's.

    Raises: InvalidAdapter: `no_module_binds`, `module_not_in_base`, `shape_mismatch`.
    """
    bound = names_in_base(list(layout.modules), base)
    if not bound:
        raise InvalidAdapter([_nothing_binds(next(iter(layout.modules)), base)])
    missing = [path for path in layout.modules if path not in bound]
    if missing:
        message = f"The base has no {listed(missing)}: the adapter would act only in part. Is it the right base?"
        raise InvalidAdapter([Problem("module_not_in_base", _WHERE, message)])
    problems = []
    for path, module in layout.modules.items():
        problems += _shape_problems(module, base[bound[path]])
    if problems:
        raise InvalidAdapter(problems)
    return bound


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return up to `most` names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def names_in_base(paths: list[str], base: BaseModules) -> dict[str, str]:
    """Return the paths that the base knows, under its names.

    The base may be registered without the wrapper that the adapter was trained in, or with it (`encoder…` against
    `roberta.encoder…`): one leading segment more or less is accepted if it explains every module.
    """
    exact = {path: path for path in paths if path in base}
    if exact:
        return exact
    shorter = {path: path.partition(".")[2] for path in paths}
    if len({path.partition(".")[0] for path in paths}) == 1 and all(name in base for name in shorter.values()):
        return shorter
    for wrapper in sorted({name.partition(".")[0] for name in base}):
        longer = {path: f"{wrapper}.{path}" for path in paths}
        if all(name in base for name in longer.values()):
            return longer
    return {}


def _nothing_binds(path: str, base: BaseModules) -> Problem:
    message = f"None of the adapter's modules is in the base: {path} is not there"
    nearest = max(sorted(base), key=lambda name: _common_ending(path, name), default="")
    if nearest and _common_ending(path, nearest) > 1:
        message += f" (it has {nearest}; were the modules renamed or wrapped?)"
    return Problem("no_module_binds", _WHERE, f"{message}. Name the base that it was trained on.")


def _common_ending(path: str, name: str) -> int:
    """Return how many segments two paths share at their ends."""
    shared = 0
    for ours, theirs in zip(reversed(path.split(".")), reversed(name.split(".")), strict=False):
        if ours != theirs:
            break
        shared += 1
    return shared


def _shape_problems(module: ModuleLayout, shape: tuple[int, int]) -> list[Problem]:
    ours, theirs = (module.d_out, module.d_in), tuple(shape)
    # An embedding's weight is stored as (vocab, dim), its change as (dim, vocab).
    if ours == theirs or (module.kind == "embedding" and ours == theirs[::-1]):
        return []
    message = f"The adapter changes {ours[0]} x {ours[1]} weights, the base has {theirs[0]} x {theirs[1]}."
    if module.kind == "embedding":
        message += " Was the vocabulary resized? Such an adapter needs the base with the resized vocabulary."
    else:
        message += " Is it a base of another size?"
    return [Problem("shape_mismatch", module.path, message)]
