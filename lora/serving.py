"""What vLLM serves of an adapter, decided from its config alone: an engine that accepts it may still ignore a part."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from lora.config import LoraConfig
from lora.mergeable import BASE_CHANGING_INITS

MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that `--max-lora-rank` takes (vllm/config/lora.py, `MaxLoRARanks`)."""

CLASSIFIER_HEADS = {"classifier", "score"}


@dataclass(frozen=True)
class VllmVerdict:
    """Whether vLLM serves an adapter.

    Attributes:
        max_lora_rank: the smallest value of its flag that admits every module's rank; None where none does.
        obstacles: why it cannot, a sentence each; empty where it can.
        cautions: what to check before relying on it.
    """

    max_lora_rank: int | None
    obstacles: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


def max_lora_rank(rank: int) -> int | None:
    """Return the smallest value of `--max-lora-rank` that admits a rank, or None above the largest."""
    return next((allowed for allowed in MAX_LORA_RANKS if allowed >= rank), None)


def vllm_verdict(config: LoraConfig, ranks: Collection[int], warnings: Collection[str] = ()) -> VllmVerdict:
    """Judge by the rules of vLLM's `PEFTHelper` and of its reader of tensor names.

    Args:
        ranks: of the modules.
        warnings: codes of the check's warnings; `extra_head` and `unusual_names` matter here.
    """
    flag = max_lora_rank(max(ranks, default=config.r))
    return VllmVerdict(
        flag, tuple(_obstacles(config, ranks, warnings, flag)), tuple(_cautions(config, ranks, warnings))
    )


def _obstacles(
    config: LoraConfig, ranks: Collection[int], warnings: Collection[str], flag: int | None
) -> Iterator[str]:
    if flag is None:
        yield f"Its rank is {max(ranks)}, and --max-lora-rank ends at {MAX_LORA_RANKS[-1]}."
    if config.use_dora:
        yield "It is a DoRA adapter, which vLLM does not support."
    if config.bias != "none" or config.lora_bias:
        yield "It trains biases, which vLLM refuses."
    saved = sorted(set(config.modules_to_save) - CLASSIFIER_HEADS)
    if saved:
        yield f"It replaces whole modules (modules_to_save: {', '.join(saved)}), which vLLM refuses."
    elif "extra_head" in warnings and not config.modules_to_save:
        yield "Its file holds whole weights beside the LoRA factors, which vLLM refuses."
    if config.trainable_token_indices:
        yield "It trains single tokens of the vocabulary, whose weights vLLM refuses."
    init = str(config.init_lora_weights).lower()
    if init.startswith(BASE_CHANGING_INITS):
        yield f"It was initialised with {init}, which changed the base in training: convert it to plain LoRA first."
    variants = [*config.variants, *(["layer_replication"] if config.layer_replication else [])]
    if variants:
        yield f"It uses {', '.join(variants)}, which vLLM does not compute."
    if "unusual_names" in warnings:
        yield "Names of its tensors hold the adapter's name, which vLLM refuses: save it again with PEFT."


def _cautions(config: LoraConfig, ranks: Collection[int], warnings: Collection[str]) -> Iterator[str]:
    if len(set(ranks)) > 1 or config.rank_pattern or config.alpha_pattern:
        spread = f" ({min(ranks)} to {max(ranks)})" if len(set(ranks)) > 1 else ""
        yield (
            f"Rank or alpha differ from module to module{spread}. Releases of vLLM that do not read rank_pattern and "
            "alpha_pattern scale all modules alike without a word: compare an answer with PEFT's."
        )
    if set(config.modules_to_save) & CLASSIFIER_HEADS:
        yield "It brings a classification head: older releases of vLLM refuse it."
    if config.task_type not in (None, "CAUSAL_LM"):
        yield f"It was trained for {config.task_type}; the command serves text generation."
    if "base_unknown" in warnings:
        yield (
            "Its base is not registered here, so nobody has checked the names of its modules. vLLM serves the bare "
            "base without a word where they do not fit."
        )
