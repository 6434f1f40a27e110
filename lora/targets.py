"""Do a config's `target_modules` and a file's tensors speak of the same modules?"""

from collections.abc import Iterable, Iterator

from lora.config import LoraConfig
from lora.pattern_syntax import UnsafePattern, parse_pattern
from lora.patterns import Matcher

ALL_LINEAR = "all-linear"


def untargeted(paths: Iterable[str], config: LoraConfig) -> list[str]:
    """Return the modules that PEFT would leave without their tensors, since the config does not select them.

    Empty where the config cannot be evaluated without the base: no targets, "all-linear", lookaround.
    """
    paths = list(paths)
    targets = config.target_modules
    selected = set(paths)
    if targets and not (isinstance(targets, str) and targets.lower() == ALL_LINEAR):
        selected = _selected(targets, paths, otherwise=selected)
    if config.exclude_modules:
        selected -= _selected(config.exclude_modules, paths, otherwise=set())
    return [path for path in paths if path not in selected]


def targets_without_tensors(paths: Iterable[str], config: LoraConfig) -> list[str]:
    """Return the listed targets that name no module of the file."""
    if not isinstance(config.target_modules, tuple):
        return []
    named = {suffix for path in paths for suffix in _suffixes(path)}
    return [target for target in config.target_modules if target not in named and target != ALL_LINEAR]


def targeted_in_base(base_paths: Iterable[str], config: LoraConfig) -> set[str]:
    """Return the modules of the base that the config selects; none where only PEFT can tell ("all-linear")."""
    targets = config.target_modules
    if not targets or (isinstance(targets, str) and targets.lower() == ALL_LINEAR):
        return set()
    paths = list(base_paths)
    excluded = _selected(config.exclude_modules, paths, otherwise=set()) if config.exclude_modules else set()
    return _selected(targets, paths, otherwise=set()) - excluded


def _selected(targets: tuple[str, ...] | str, paths: list[str], otherwise: set[str]) -> set[str]:
    """Return the paths that equal a listed name, end with it after a dot, or match the regex as a whole."""
    if not isinstance(targets, str):
        names = set(targets)
        return {path for path in paths if not names.isdisjoint(_suffixes(path))}
    try:
        matcher = Matcher([parse_pattern(targets)])
        return {path for path in paths if matcher.first(path) is not None}
    except UnsafePattern:
        return otherwise  # lookaround, or beyond the budget: not ours to evaluate


def _suffixes(path: str) -> Iterator[str]:
    segments = path.split(".")
    return (".".join(segments[at:]) for at in range(len(segments)))
