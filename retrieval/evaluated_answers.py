"""Suites whose experts have weights put to the base model: what routed and merged experts answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings

from lora.check import check_files, read_pair
from lora.errors import LoraError
from lora.evaluation import Found
from lora.examples import SHOTS, instruction_of
from lora.folder import find_adapter
from lora.runtime.adapted import AdaptedModel
from lora.runtime.loading import load_running_base
from lora.runtime.probe import BaseNotHere, RunningBase
from lora.runtime.routed import Ask, Question, answered, exact_match, references, routed
from lora.suite import Suite
from lora.weights import AdapterFile
from registry.base_weights import base_folder, find_packaged
from retrieval.evaluations import VARIANTS, Prepared, Report, Result, in_variant, params_of, router_of, said_by


def load_base(name: str) -> RunningBase:
    """The base model of an id, or in a folder of this machine, on DEVICE. Raises: BaseNotHere."""
    folder, gguf = (Path(name), None) if Path(name).is_dir() else (base_folder(name), None)
    if folder is None:
        folder, gguf = find_packaged(name) or (None, None)
    if folder is None:
        raise BaseNotHere(
            f"There are no weights of {name} on this machine: name a folder that save_pretrained wrote, or an id below "
            "BASE_MODELS_DIR."
        )
    return load_running_base(folder, gguf=gguf, device=settings.DEVICE)


@contextmanager
def opened(suite: Suite) -> Iterator[list[AdapterFile]]:
    """The weights of a suite's experts, in its order. Raises: LoraError: experts without weights."""
    with ExitStack() as stack:
        yield [stack.enter_context(_opened(task.name, task.folder)) for task in suite.tasks]


def answer_results(
    prepared: Prepared, files: Sequence[AdapterFile], base: RunningBase, base_model: str, lines: int, say: Report
) -> Iterator[Result]:
    """Exact match of what the base answers with the experts that each router chooses, and without routers.

    Args:
        files: of the suite's experts. base_model: what the base is called in results.
        lines: at most so many queries of each task, the first ones that have outputs.
        say: told what is being run.
    Raises: LoraError: queries without outputs. DoesNotFit.
    """
    setting = setting_of(prepared, base_model, lines)
    variants = {name: questions_of(prepared, name, lines) for name in prepared.asked}
    figures: dict[tuple[str, bool], dict[str, object]] = {}
    with AdaptedModel(base.model, files) as adapted:
        for variant, (questions, chosen) in variants.items():
            own = np.array([question.own for question in questions])
            lines_above = [] if variant == VARIANTS[0] else _instructions(prepared)
            asks = {(name, True): forms for name, forms in references(questions, len(files)).items()}
            for name in prepared.setting.routers:
                found = _part(said_by(prepared, name, variant).found, chosen)
                asks[name, False] = routed(questions, router_of(prepared, name), found, lines_above)
            wanted: list[Ask] = [ask for forms in asks.values() for asked in forms.values() for ask in asked]
            say(f"{variant}: {len(set(wanted))} answers of {len(questions)} queries")
            right = answered(replace(base, progress=_tenths(say)), adapted, wanted)
            for subject, forms in asks.items():
                figures.setdefault(subject, {"queries": len(own)})[variant] = exact_match(forms, right, own)
    for (subject, is_reference), found_figures in figures.items():
        params = {} if is_reference else params_of(subject)
        yield Result("answers", subject, setting, found_figures, is_reference, params)


def _instructions(prepared: Prepared) -> list[str | None]:
    """Of the experts' samples, in the suite's order."""
    return [instruction_of(texts) for texts in prepared.pool.texts]


def setting_of(prepared: Prepared, base_model: str, lines: int) -> dict[str, Any]:
    """What has to be equal for answers to be comparable."""
    return prepared.setting.to_json() | {"base_model": base_model, "queries": lines}


def questions_of(prepared: Prepared, variant: str, lines: int) -> tuple[list[Question], list[int]]:
    """The questions that are asked, and their places among the queries. Raises: LoraError: queries without outputs."""
    questions, chosen, place = [], [], 0
    for own, (task, queries) in enumerate(zip(prepared.suite.tasks, prepared.examples, strict=True)):
        shown = [sample for sample in task.samples[: prepared.setting.samples] if sample.output][:SHOTS]
        labelled = [i for i, query in enumerate(queries) if query.output][:lines]
        if not labelled:
            raise LoraError(f"{task.name} has no queries with outputs, which answers could be compared with.")
        for i in labelled:
            query, *shots = [in_variant(task, example, variant) for example in (queries[i], *shown)]
            questions.append(Question(own, query, tuple(shots)))
            chosen.append(place + i)
        place += len(queries)
    return questions, chosen


def _part(found: Found, chosen: list[int]) -> Found:
    return Found(found.scores[chosen], found.kept[chosen])


def _opened(name: str, folder: Path | None) -> AdapterFile:
    if folder is None:
        raise LoraError(f"{name} has no weights in the suite: put adapter_config.json and its safetensors beside them.")
    files = find_adapter(folder)
    size = files.weights.stat().st_size
    with files.weights.open("rb") as stream:
        config, header = read_pair(files.config.read_bytes(), stream, size)
    return AdapterFile(files.weights, check_files(config, header, size, None).layout)


def _tenths(say: Report) -> Callable[[float], None]:
    told = [0]

    def progress(fraction: float) -> None:
        if int(10 * fraction) > told[0]:
            told[0] = int(10 * fraction)
            say(f"{told[0]}0 %")

    return progress
