"""Compositions put to the questions that routed and merged experts answer."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from lora.compositions import COMPOSITIONS
from lora.evaluation import interval
from lora.runtime.adapted import DoesNotFit
from lora.runtime.composed import Composition as Running
from lora.runtime.probe import RunningBase
from lora.runtime.routed import composed
from registry.errors import Invalid, NotFound
from registry.queries import find_base_model
from registry.storage import local_path, scratch_folder
from retrieval.compositions import EXPERTS, stored_files
from retrieval.evaluated_answers import questions_of, setting_of
from retrieval.evaluations import Prepared, Report, Result
from retrieval.models import Composition


def named_compositions(names: Sequence[str], base_model: str) -> list[Composition]:
    """The newest versions of these names, whoever may see them.

    Args:
        base_model: id of the model that will run them; a folder is taken to be theirs.
    Raises: NotFound; Invalid: of another base model.
    """
    heads = Composition.objects.filter(is_head=True, full_name__in=names).prefetch_related(EXPERTS, "files__blob")
    found = {row.full_name: row for row in heads}
    known = find_base_model(base_model)
    for name in names:
        if name not in found:
            raise NotFound(f"There is no composition {name!r}.")
        own = found[name].base_model
        if not Path(base_model).is_dir() and own != (known.name if known else base_model):
            raise Invalid(f"{name} is of {own or 'an unnamed base'}, which {base_model} is not.")
    return list(found.values())


def runs_here(row: Composition) -> bool:
    """Whether compositions of this type can be run."""
    return bool(COMPOSITIONS.get(row.type).traits["runs"])


def composition_results(
    prepared: Prepared, rows: Sequence[Composition], base: RunningBase, base_model: str, lines: int, say: Report
) -> Iterator[Result]:
    """Exact match of what the base answers with each composition; it mixes its own experts, not the suite's.

    Args:
        rows: of types that run. The rest as `answer_results` takes them, whose questions are asked here, too.
    Raises: LoraError: queries without outputs. DoesNotFit. BlobDamaged, StoreUnavailable.
    """
    for row in rows:
        figures: dict[str, object] = {}
        with _running(row) as composition:
            for variant in prepared.asked:
                questions, _ = questions_of(prepared, variant, lines)
                own = np.array([question.own for question in questions])
                say(f"{variant}: {row.full_name}, {len(questions)} answers")
                try:
                    right = composed(base, composition, [question.example for question in questions])
                except ValueError as error:
                    raise DoesNotFit(f"{row.full_name}: {error}") from error
                figures["queries"] = len(own)
                figures[variant] = {"all": interval(np.array(right), own).to_json()}
        told = {"type": row.type, "revision": row.commit}
        yield Result("answers", row.full_name, setting_of(prepared, base_model, lines), figures, params=told)


@contextmanager
def _running(row: Composition) -> Iterator[Running]:
    """As from its archive."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        for path, blob in stored_files(row).items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(stack.enter_context(local_path(blob)).resolve())
        yield Running.load(folder)
