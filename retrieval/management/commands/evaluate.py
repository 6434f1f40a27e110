"""`manage.py evaluate`: how well the routers find, and answer, on tasks of one's own, or pick by known outcomes."""

import json
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from lora.errors import LoraError
from lora.evaluation import text_routers
from lora.module_routers import MODULE_ROUTERS
from lora.outcome_suite import OutcomeSuite, read_outcomes
from lora.suite import Suite, read_suite
from lora.trial_routers import trial_entries
from registry.errors import AppError
from registry.gates import GATES
from retrieval.encoders import current_encoder
from retrieval.evaluated_answers import answer_results, load_base, opened
from retrieval.evaluated_compositions import composition_results, named_compositions, runs_here
from retrieval.evaluated_modules import ask_inside, inside_routers
from retrieval.evaluated_outcomes import outcome_results, outcome_routers, told_setting
from retrieval.evaluated_trials import ask_trials
from retrieval.evaluation_tables import tables
from retrieval.evaluations import Prepared, Result, Setting, prepare, retrieval_results, store
from retrieval.models import Composition

SAMPLES = 20
LINES = 10
# What says nothing about outcomes.
OF_SUITES = ("samples", "base_model", "compositions", "lines")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def price(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        cost = float(number)
    except ValueError:
        cost = -1.0
    if not name or not 0 <= cost < 1e15:
        raise ArgumentTypeError(f"{text} is not the name of an expert, = and a number from 0")
    return name, cost


class Command(BaseCommand):
    help = "Put a suite of tasks to the routers; print what they find as markdown, and show it on the leaderboard."

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--suite", type=Path, metavar="DIR", help="see docs/howto/evaluate.md")
        what.add_argument("--outcomes", type=Path, metavar="FILE", help="scores of experts on texts, in JSON lines")
        parser.add_argument(
            "--costs", type=price, nargs="+", metavar="NAME=COST", help="of experts, where FILE is silent"
        )
        parser.add_argument("--routers", nargs="+", metavar="NAME", help="only these; all that can be asked else")
        parser.add_argument("--samples", type=positive, help=f"the first N samples of each expert ({SAMPLES})")
        parser.add_argument("--queries", type=positive, metavar="N", help="the first N queries of each task (all)")
        parser.add_argument("--base-model", metavar="ID", help="id or folder: run the experts, and compare answers")
        parser.add_argument(
            "--compositions", nargs="+", default=[], metavar="NAME", help="with --base-model: let these answer, too"
        )
        parser.add_argument("--lines", type=positive, help=f"queries per task to be answered ({LINES})")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
        parser.add_argument("--no-store", action="store_true", help="leave the leaderboard as it is")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["outcomes"]:
                self._outcomes(options)
            else:
                self._suite(options)
        except AppError as error:
            raise CommandError(error.message) from error
        except (LoraError, OSError) as error:
            raise CommandError(str(error)) from error

    def _suite(self, options: dict[str, Any]) -> None:
        if options["costs"]:
            raise CommandError("--costs goes with --outcomes: routers that are put to a suite know no costs.")
        suite = read_suite(options["suite"])
        encoder = current_encoder()
        known = text_routers(described=suite.is_described) + (inside_routers(suite) if options["base_model"] else [])
        tried = list(trial_entries()) if options["base_model"] else []
        routers = _routers(options["routers"], known, tried)
        runnable, kept = _compositions(options["compositions"], options["base_model"])
        setting = Setting(routers, options["samples"] or SAMPLES, options["queries"], encoder.space_id)
        queries = sum(len(task.queries[: setting.queries]) for task in suite.tasks)
        self._say(f"{suite.name}: {len(suite.tasks)} tasks, {queries} queries; encoding with {encoder.space_id}")
        prepared = prepare(suite, setting, encoder)
        results = self._results(prepared, options["base_model"], options["lines"] or LINES, runnable)
        self._keep(suite, list(results), options)
        if kept:
            self.stdout.write(f"\nNot run here: {', '.join(f'`{row.full_name}` ({row.type})' for row in kept)}.")

    def _outcomes(self, options: dict[str, Any]) -> None:
        if given := [f"--{name.replace('_', '-')}" for name in OF_SUITES if options[name]]:
            raise CommandError(f"{', '.join(given)} goes with --suite: outcomes are scores that experts have already.")
        costs = dict(options["costs"] or ())
        suite = read_outcomes(options["outcomes"], costs)
        encoder = current_encoder()
        routers = _routers(options["routers"], outcome_routers())
        setting = told_setting(encoder.space_id, options["queries"], costs)
        asked = len(suite.asked(options["queries"]))
        self._say(f"{suite.name}: {len(suite.experts)} experts, {asked} queries; encoding with {encoder.space_id}")
        self._keep(suite, list(outcome_results(suite, routers, setting, encoder.encode, self._say)), options)

    def _keep(self, suite: Suite | OutcomeSuite, results: list[Result], options: dict[str, Any]) -> None:
        self.stdout.write(tables(results))
        if not options["no_store"]:
            store(suite, results)
        if path := options["json"]:
            document = {"suite": suite.name, "digest": suite.digest, "results": [vars(result) for result in results]}
            path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _results(
        self, prepared: Prepared, base_model: str | None, lines: int, compositions: list[Composition]
    ) -> Iterator[Result]:
        if base_model is None:
            yield from retrieval_results(prepared)
            return
        with opened(prepared.suite) as files:
            base = load_base(base_model)
            ask_inside(prepared, files, base, self._say)
            ask_trials(prepared, files, base, self._say)
            yield from retrieval_results(prepared)
            yield from answer_results(prepared, files, base, base_model, lines, self._say)
        yield from composition_results(prepared, compositions, base, base_model, lines, self._say)

    def _say(self, text: str) -> None:
        self.stderr.write(text)


def _compositions(names: list[str], base_model: str | None) -> tuple[list[Composition], list[Composition]]:
    """Those that are run, and those of types that are not."""
    if names and base_model is None:
        raise CommandError("Compositions run inside the base model: name that by --base-model.")
    rows = named_compositions(names, base_model) if base_model else []
    return [row for row in rows if runs_here(row)], [row for row in rows if not runs_here(row)]


def _routers(wanted: list[str] | None, known: list[str], named: Sequence[str] = ()) -> tuple[str, ...]:
    """The routers that are put to a suite: those wanted, or all but those that have to be named.

    Raises: CommandError.
    """
    for name in wanted or []:
        if name in trial_entries() and name not in named:
            raise CommandError(f"{name} runs the experts on the base model: name that by --base-model.")
        if name in MODULE_ROUTERS.names() and name not in known:
            raise CommandError(
                f"{name} looks inside the base model: name that by --base-model. For phatgoose every expert of the "
                f"suite needs its {GATES}."
            )
        if name not in (*known, *named):
            text = ", ".join((*known, *named))
            raise CommandError(f"There is no router {name!r} that can be asked here. Known: {text}.")
    return tuple(dict.fromkeys(wanted or known))
