"""Suites put to the routers that look inside: what enters the base model's modules against the experts' vectors."""

import time
from collections.abc import Iterable, Sequence

import numpy as np
from safetensors.torch import load_file

from lora.evaluation import DECIMALS, Found
from lora.examples import SHOTS
from lora.generic_texts import GENERIC_TEXTS
from lora.hybrid.evaluation import FittedPool
from lora.module_routers import MODULE_ROUTERS, Doubles, Expert, States, Vectors
from lora.module_routers.arrow_global import baselines, by_samples
from lora.prototypes.activations import activations
from lora.prototypes.arrow import arrow_file
from lora.prototypes.dam import late_states
from lora.prototypes.fisher import fisher
from lora.prototypes.spectral import spectral_file
from lora.runtime.probe import RunningBase
from lora.runtime.states import module_states
from lora.suite import Suite, Task
from lora.weights import AdapterFile
from registry.gates import GATES
from retrieval.evaluations import Prepared, Report, Said, labelled, looks_inside, router_of, shots

FISHER = "fisher"


def inside_routers(suite: Suite) -> list[str]:
    """The names of the routers that look inside, and that these experts have all for."""
    lacking = set()
    if not all(task.folder and (task.folder / GATES).is_file() for task in suite.tasks):
        lacking.add("phatgoose")
    if not all(len(labelled(task)) > SHOTS for task in suite.tasks):
        lacking.add(FISHER)
    return [name for name in MODULE_ROUTERS.names() if _kind(name) not in lacking]


def ask_inside(prepared: Prepared, files: Sequence[AdapterFile], base: RunningBase, say: Report) -> None:
    """Let the routers of the setting that look inside say of every query how well the experts suit it.

    Args:
        files: of the suite's experts, in its order.
    Raises: LoraError: an expert's file cannot be read. DoesNotFit.
    """
    names = [name for name in prepared.setting.routers if looks_inside(name)]
    if not names:
        return
    modules = {path for file in files for path, module in file.layout.modules.items() if module.kind == "linear"}
    paths = sorted(modules & dict(base.model.named_modules()).keys())
    say(f"{', '.join(names)}: what they compare with")
    compared = _compared(prepared, files, base, paths, names)
    by_labels = {name: compared.pop(name) for name in names if _kind(name) == FISHER}
    read = sorted({path for experts in compared.values() for expert in experts for path in expert.vectors})
    for variant, asked in prepared.asked.items():
        say(f"{variant}: {len(asked.texts)} queries inside the base")
        said = _said(prepared, base, compared, read, asked.texts) if compared else {}
        said |= {name: _said_of_tasks(prepared, base, name, experts, variant) for name, experts in by_labels.items()}
        prepared.said.update({(name, variant): one for name, one in said.items()})


def _said(
    prepared: Prepared, base: RunningBase, compared: dict[str, list[Expert]], paths: list[str], texts: Sequence[str]
) -> dict[str, Said]:
    scores: dict[str, list[np.ndarray]] = {name: [] for name in compared}
    routing = dict.fromkeys(compared, 0.0)
    reading = 0.0
    routers = {name: router_of(prepared, name) for name in compared}
    for text in texts:
        started = time.perf_counter()
        states = module_states(base, text, paths)
        reading += time.perf_counter() - started
        for name, experts in compared.items():
            started = time.perf_counter()
            scores[name].append(routers[name].rank(states, experts).scores)
            routing[name] += time.perf_counter() - started
    each = 1000 / len(texts)
    said = {}
    for name, rows in scores.items():
        shifts: Doubles | float = 0.0
        if routers[name].counts_samples:
            fitted = prepared.fitted  # before the clock starts
            started = time.perf_counter()
            shifts = _by_samples(fitted, texts)
            routing[name] += time.perf_counter() - started
        rounded = np.round(np.array(rows) + shifts, DECIMALS)
        kept = np.stack([routers[name].keep(row) for row in rounded])
        said[name] = Said(Found(rounded, kept), reading * each, routing[name] * each)
    return said


def _said_of_tasks(prepared: Prepared, base: RunningBase, name: str, experts: Sequence[Expert], variant: str) -> Said:
    """What is said of a task's first labelled samples, which are none of those that its expert is known by."""
    router = router_of(prepared, name)
    paths = sorted({path for expert in experts for path in expert.vectors})
    scores: list[Doubles] = []
    reading = routing = 0.0
    for task, queries in zip(prepared.suite.tasks, prepared.examples, strict=True):
        started = time.perf_counter()
        rows = fisher(base, paths, shots(task, variant))
        read = time.perf_counter()
        found = router.rank({path: row[None] for path, row in rows.items()}, experts).scores
        routing += time.perf_counter() - read
        reading += read - started
        scores += [found] * len(queries)
    rounded = np.round(np.stack(scores), DECIMALS)
    each = 1000 / len(scores)
    return Said(Found(rounded, np.stack([router.keep(row) for row in rounded])), reading * each, routing * each)


def _kind(name: str) -> str:
    return str(MODULE_ROUTERS.get(name).traits["prototype"])


def _compared(
    prepared: Prepared, files: Sequence[AdapterFile], base: RunningBase, paths: list[str], names: Iterable[str]
) -> dict[str, list[Expert]]:
    """By router what is known of each expert; routers that compare with the same share it."""
    vectors: dict[str, list[Vectors]] = {}
    background: list[States] = []
    compared = {}
    pairs = list(zip(prepared.suite.tasks, files, strict=True))
    for name in names:
        kind = _kind(name)
        if kind not in vectors:
            vectors[kind] = [_vectors(kind, *pair, base, paths, prepared.setting.samples) for pair in pairs]
        if MODULE_ROUTERS.get(name).run.needs_baselines:
            background = background or [module_states(base, text, paths) for text in GENERIC_TEXTS]
            compared[name] = [Expert(one, baselines(background, one)) for one in vectors[kind]]
        else:
            compared[name] = [Expert(one) for one in vectors[kind]]
    return compared


def _by_samples(fitted: FittedPool, texts: Sequence[str]) -> Doubles:
    """What the samples of the experts add to their scores for each text, (q, n)."""
    found = zip(*fitted.scores(texts), strict=True)
    return np.stack([by_samples(fitted.space.posterior(row), judgement.fits) for row, judgement in found])


def _vectors(kind: str, task: Task, file: AdapterFile, base: RunningBase, paths: list[str], samples: int) -> Vectors:
    """The vectors of one expert: from its weights, its gates, or what the base does with its samples."""
    shown = task.samples[:samples]
    if kind == "activations":
        return activations(base, [path for path in paths if path in file.layout.modules], shown)
    if kind == FISHER:
        return fisher(base, [path for path in paths if path in file.layout.modules], labelled(task)[SHOTS:][:samples])
    if kind == "dam":
        return late_states(base, shown)
    if kind == "phatgoose":
        found = load_file(file.path.parent / GATES)
    else:
        found = spectral_file(file.path, file.layout) if kind == "spectral" else arrow_file(file.path, file.layout)[0]
    return {path: tensor.float().numpy() for path, tensor in found.items() if path in set(paths)}
