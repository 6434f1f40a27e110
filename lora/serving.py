"""Which engines serve an adapter as it is, which after an export, and which would compute something else.

Decided from config and layout alone, by the rules in `lora.serving_rules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lora.binding import BaseModules
from lora.config import LoraConfig
from lora.layout import Layout
from lora.serving_rules import CLASSIFIER_HEADS, REFUSED, RULES, Engine, Rule, Subject, max_lora_rank
from lora.zero_pairs import Shapes, incomplete_groups, missing_layers

ENGINES: dict[Engine, str] = {"vllm": "vLLM", "sglang": "SGLang", "lorax": "LoRAX", "peft": "PEFT"}
Word = Literal["yes", "yes-after-export", "wrong-silently", "no"]


@dataclass(frozen=True)
class Verdict:
    """Whether an engine serves an adapter.

    Attributes:
        verdict: "yes"; "yes-after-export": the export mends all that is in the way; "wrong-silently": it is loaded,
            and something else is computed; "no": it is refused.
        reasons: what is in the way of the adapter as it is, a sentence each; none for "yes".
        cautions: what to check before relying on it.
        max_lora_rank: vLLM only: the smallest value of its flag that admits every module's rank; None where none does.
    """

    verdict: Word
    reasons: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    max_lora_rank: int | None = None

    @property
    def servable(self) -> bool:
        return self.verdict in ("yes", "yes-after-export")


def judge(config: LoraConfig, layout: Layout, base: BaseModules | None) -> dict[Engine, Verdict]:
    """Return the verdict of every engine.

    Args:
        base: path → (d_out, d_in) of the base's modules; None where it is not known.
    """
    subject = Subject(config, layout, base)
    found = [(rule, text) for rule in RULES if (text := rule.says(subject))]
    return {engine: _verdict(engine, subject, found) for engine in ENGINES}


def obstacles_to_export(config: LoraConfig, layout: Layout, engine: Engine, base: BaseModules | None) -> list[str]:
    """Return why no export makes the adapter servable by the engine, a sentence each; empty where one does."""
    subject, reasons = Subject(config, layout, base), []
    for rule in RULES:
        in_the_way = engine in rule.effects and not rule.mended
        if (in_the_way or not rule.carried) and (text := rule.says(subject)):
            end = _effect(engine, rule) if in_the_way else "which a plain LoRA cannot hold: download it as it is."
            reasons.append(f"{text}, {end}")
    return reasons


def needed_zero_pairs(layout: Layout, engine: Engine, base: BaseModules | None) -> Shapes:
    """Return the modules that an export for the engine has to add as zeros."""
    if engine == "sglang":
        return incomplete_groups(layout.modules, base)
    return missing_layers(layout.modules, base) if engine == "lorax" else {}


def _verdict(engine: Engine, subject: Subject, found: list[tuple[Rule, str]]) -> Verdict:
    hits = [(rule, text) for rule, text in found if engine in rule.effects]
    reasons = tuple(f"{text}, {_effect(engine, rule)}" for rule, text in hits)
    lasting = {rule.effects[engine] for rule, _ in hits if not rule.mended}
    word: Word = "yes-after-export" if hits else "yes"
    if lasting:
        word = "no" if REFUSED in lasting else "wrong-silently"
    flag = max_lora_rank(max(subject.ranks, default=subject.config.r)) if engine == "vllm" else None
    return Verdict(word, reasons, tuple(_cautions(engine, subject)), flag)


def _effect(engine: Engine, rule: Rule) -> str:
    return f"which {ENGINES[engine]} {rule.effects[engine]}."


def _cautions(engine: Engine, subject: Subject) -> Iterator[str]:
    config, ranks = subject.config, subject.ranks
    if engine == "vllm" and (len(set(ranks)) > 1 or config.rank_pattern or config.alpha_pattern):
        spread = f" ({min(ranks)} to {max(ranks)})" if len(set(ranks)) > 1 else ""
        yield (
            f"Rank or alpha differ from module to module{spread}. Releases of vLLM that do not read rank_pattern and "
            "alpha_pattern scale all modules alike without a word: take the export, or compare an answer with PEFT's."
        )
    if engine == "vllm" and set(config.modules_to_save) & CLASSIFIER_HEADS:
        yield "It brings a classification head: older releases of vLLM refuse it."
    if engine != "peft" and config.task_type not in (None, "CAUSAL_LM"):
        yield f"It was trained for {config.task_type}; the command serves text generation."
    if engine != "peft" and subject.base is None:
        yield (
            "Its base is not registered here, so nobody has checked the names of its modules. Engines serve the bare "
            "base without a word where they do not fit."
        )
