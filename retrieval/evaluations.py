"""Suites put to routers, in memory: what `manage.py evaluate` prints and the leaderboard shows."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from django.utils import timezone

from lora.errors import LoraError
from lora.evaluation import HYBRID, Asked, Found, Pool, accuracy, by_category, by_task, route, route_hybrid
from lora.examples import SHOTS, Example
from lora.hybrid.evaluation import FittedPool
from lora.module_routers import MODULE_ROUTERS
from lora.outcome_suite import OutcomeSuite
from lora.prototypes.description import description_text
from lora.routers import ROUTERS
from lora.suite import Suite, Task
from lora.trial_routers import TRIAL_ROUTERS, trial_entries
from retrieval.encoders import Encoder, Rows
from retrieval.hybrid import encoded_texts
from retrieval.models import Evaluation

Encode = Callable[[list[str]], Rows]
# Told what is being run.
Report = Callable[[str], None]
VARIANTS = ("as_given", "without_instruction")


@dataclass(frozen=True)
class Setting:
    """What an evaluation takes of a suite.

    Attributes:
        routers: their names. samples: at most so many of each expert, the first ones.
        queries: at most so many of each task, the first ones; None for all.
        space: of the encoder.
    """

    routers: tuple[str, ...]
    samples: int
    queries: int | None
    space: str

    def to_json(self) -> dict[str, Any]:
        """What has to be equal for two results to be comparable."""
        return {"samples": self.samples, "queries": self.queries, "space": self.space}


@dataclass(frozen=True)
class Said:
    """What a router says of all queries, and the milliseconds that one of them took."""

    found: Found
    encode_ms: float
    route_ms: float


@dataclass(frozen=True)
class Prepared:
    """A suite in vectors.

    Attributes:
        examples: the queries, in the order of `asked`.
        asked: by variant; without the variant where no task has an instruction.
        encode_ms: of one query, when many are encoded together.
        said: by router and variant, as far as they were asked.
    """

    suite: Suite
    setting: Setting
    encoder: Encoder
    pool: Pool
    examples: tuple[tuple[Example, ...], ...]
    asked: dict[str, Asked]
    encode_ms: float
    said: dict[tuple[str, str], Said] = field(default_factory=dict)

    @cached_property
    def fitted(self) -> FittedPool:
        """The experts in a hybrid space that is fitted to them."""
        return FittedPool(self.pool.texts, partial(encoded_texts, self.encoder))


@dataclass
class Result:
    """One line of a table: a router, or what routers are compared with."""

    measure: str
    subject: str
    setting: dict[str, Any]
    figures: dict[str, Any]
    is_reference: bool = False
    params: dict[str, Any] = field(default_factory=dict)


def prepare(suite: Suite, setting: Setting, encoder: Encoder) -> Prepared:
    """Encode the samples and queries of a suite. Raises: NotReady: the encoder."""
    pool = _pool(suite, setting.samples, encoder.encode)
    chosen = [task.queries[: setting.queries] for task in suite.tasks]
    own = np.repeat(np.arange(len(chosen)), [len(queries) for queries in chosen])
    plain = [query.input for queries in chosen for query in queries]
    bare = [stripped(task, query).input for task, queries in zip(suite.tasks, chosen, strict=True) for query in queries]
    started = time.perf_counter()
    asked = {VARIANTS[0]: Asked(own, encoder.encode(plain), tuple(plain))}
    took = time.perf_counter() - started
    if bare != plain:
        asked[VARIANTS[1]] = Asked(own, encoder.encode(bare), tuple(bare))
    return Prepared(suite, setting, encoder, pool, tuple(chosen), asked, 1000 * took / len(plain))


def stripped(task: Task, example: Example) -> Example:
    """The example without the line that all of its task begin with."""
    instruction = task.instruction()
    return example if instruction is None else Example(example.input[len(instruction) + 1 :], example.output)


def in_variant(task: Task, example: Example, variant: str) -> Example:
    """The example as a variant has it asked."""
    return example if variant == VARIANTS[0] else stripped(task, example)


def labelled(task: Task) -> list[Example]:
    """The samples of a task that have outputs."""
    return [sample for sample in task.samples if sample.output]


def shots(task: Task, variant: str) -> list[Example]:
    """What routers that read labels are shown of a task: its first labelled samples. Raises: LoraError: it has none."""
    found = labelled(task)[:SHOTS]
    if not found:
        raise LoraError(f"{task.name} has no samples with outputs, which routers that read labels are shown.")
    return [in_variant(task, sample, variant) for sample in found]


def _pool(suite: Suite, samples: int, encode: Encode) -> Pool:
    shown = [tuple(sample.input for sample in task.samples[:samples]) for task in suite.tasks]
    rows = encode([text for texts in shown for text in texts])
    ends = np.cumsum([len(texts) for texts in shown])
    return Pool(
        tuple(task.name for task in suite.tasks),
        tuple(task.category for task in suite.tasks),
        tuple(np.split(rows, ends[:-1])),
        tuple(shown),
        _described(suite, encode),
    )


def _described(suite: Suite, encode: Encode) -> Rows | None:
    if not suite.is_described:
        return None
    return encode([description_text(task.name, task.description, ()) for task in suite.tasks])


def retrieval_results(prepared: Prepared) -> Iterator[Result]:
    """How often each router finds the own expert, best first match by match."""
    for name in prepared.setting.routers:
        figures: dict[str, Any] = {"experts": len(prepared.pool.names)}
        for variant, asked in prepared.asked.items():
            said = said_by(prepared, name, variant)
            figures[variant] = accuracy(said.found.ranks(asked.own), asked.own)
            if variant == VARIANTS[0]:
                figures["took_ms"] = {"encode": round(said.encode_ms, 3), "route": round(said.route_ms, 3)}
                figures["tasks"] = by_task(said.found.ranks(asked.own), asked.own, prepared.pool.names)
                figures["category"] = by_category(said.found, prepared.pool, asked.own)
        yield Result("retrieval", name, prepared.setting.to_json(), figures, params=params_of(name))


def params_of(router: str) -> dict[str, Any]:
    """The parameters a router is evaluated with: its defaults, but it has to answer; or those that make it try."""
    if tries(router):
        return trial_entries()[router][1]
    return {"abstain": False} if _is_hybrid(router) else {}


def router_of(prepared: Prepared, name: str) -> Any:
    """The router, made as for a request."""
    catalogue = TRIAL_ROUTERS if tries(name) else MODULE_ROUTERS if looks_inside(name) else ROUTERS
    params = catalogue.parse(method_of(name), params_of(name))
    made = catalogue.get(method_of(name)).run
    return made(params, prepared.fitted.space.temperature) if _is_hybrid(name) else made(params)


def method_of(router: str) -> str:
    """What a request calls it: `what_the_weight` for `what_the_weight:prior`."""
    return trial_entries()[router][0] if tries(router) else router


def looks_inside(router: str) -> bool:
    """Whether it ranks by what enters the modules of the base model."""
    return router in MODULE_ROUTERS.names()


def tries(router: str) -> bool:
    """Whether it ranks by running the experts on a query."""
    return router in trial_entries()


def said_by(prepared: Prepared, name: str, variant: str) -> Said:
    """What a router says of the queries; remembered. Those that run the base have to have been asked before."""
    if (name, variant) not in prepared.said:
        asked = prepared.asked[variant]
        router = router_of(prepared, name)  # before the clock starts: it may have to be fitted
        started = time.perf_counter()
        if _is_hybrid(name):
            found = route_hybrid(router, prepared.fitted, asked.texts)
        else:
            found = route(ROUTERS.get(name), params_of(name), prepared.pool, asked)
        took = 1000 * (time.perf_counter() - started) / len(asked.own)
        prepared.said[name, variant] = Said(found, prepared.encode_ms, took)
    return prepared.said[name, variant]


def _is_hybrid(router: str) -> bool:
    return router in ROUTERS.names() and bool(ROUTERS.get(router).traits["prototype"] == HYBRID)


def store(suite: Suite | OutcomeSuite, results: Sequence[Result]) -> None:
    """Keep results for the leaderboard, in the place of those of the same suite, subject and setting."""
    for result in results:
        told = [suite.digest, result.measure, result.subject, result.params, result.setting]
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        Evaluation.objects.update_or_create(
            key=key,
            defaults={
                "suite": suite.name[:200],
                "digest": suite.digest,
                "measure": result.measure,
                "subject": result.subject,
                "is_reference": result.is_reference,
                "params": result.params,
                "setting": result.setting,
                "figures": result.figures,
                "created_at": timezone.now(),
            },
        )
