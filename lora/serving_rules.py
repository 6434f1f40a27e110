"""The properties of an adapter with which some engine does not cope, and what the engine does then.

By the engines' sources: vLLM 0.33 (`PEFTHelper`, reader of tensor names), SGLang 0.5 (srt/lora), LoRAX
(lorax_server/adapters/lora.py, which reads r, alpha, use_rslora and the factors, and nothing else), PEFT 0.21.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from lora.binding import BaseModules, listed
from lora.config import BASE_CHANGING_INITS, LoraConfig
from lora.layout import Layout
from lora.weights import tensor_names
from lora.zero_pairs import incomplete_groups, missing_layers

Engine = Literal["vllm", "sglang", "lorax", "peft"]

MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that `--max-lora-rank` takes (vllm/config/lora.py, `MaxLoRARanks`)."""

CLASSIFIER_HEADS = {"classifier", "score"}


@dataclass(frozen=True)
class Subject:
    """An adapter to be judged; `base` maps path → (d_out, d_in) of the base's modules, None where it is not known."""

    config: LoraConfig
    layout: Layout
    base: BaseModules | None

    @property
    def ranks(self) -> list[int]:
        return [module.rank for module in self.layout.modules.values()]


Property = Callable[[Subject], str | None]
Effect = Literal["refuses", "gets wrong without a word"]


@dataclass(frozen=True)
class Rule:
    """A property that some engine does not cope with.

    Attributes:
        says: the property as the beginning of a sentence, or None where the adapter does not have it.
        effects: what engines do with such an adapter.
        mended: whether the export removes the property.
        carried: whether a plain LoRA file can hold it, so that an export for an engine that copes with it is right.
    """

    says: Property
    effects: Mapping[Engine, Effect]
    mended: bool = False
    carried: bool = True


REFUSED: Effect = "refuses"
WRONG: Effect = "gets wrong without a word"


def served_rank(rank: int) -> int:
    """Return the rank to which an export pads: 8 or the next multiple of 16, which the kernels of all engines take."""
    return 8 if rank <= 8 else -(-rank // 16) * 16


def max_lora_rank(rank: int) -> int | None:
    """Return the smallest value of vLLM's `--max-lora-rank` that admits a rank, or None above the largest."""
    return next((allowed for allowed in MAX_LORA_RANKS if allowed >= rank), None)


# The properties: each returns the beginning of a sentence, or None.


def _rank_above_flag(subject: Subject) -> str | None:
    rank = max(subject.ranks, default=subject.config.r)
    high = f"Its rank is {rank}, and --max-lora-rank ends at {MAX_LORA_RANKS[-1]}"
    return f"{high} (a merge of it alone with a lower rank compresses it)" if max_lora_rank(rank) is None else None


def _padded_rank(subject: Subject) -> str | None:
    odd = sorted({rank for rank in subject.ranks if rank != served_rank(rank)})
    return f"Its rank {listed(map(str, odd))} is neither 8 nor a multiple of 16" if odd else None


def _different_ranks(subject: Subject) -> str | None:
    wrong = any(rank != subject.config.r for rank in subject.ranks)
    return "Its rank differs from module to module (rank_pattern)" if wrong else None


def _different_alphas(subject: Subject) -> str | None:
    modules = subject.layout.modules.values()
    alphas = {round(m.scaling * (m.rank**0.5 if subject.config.use_rslora else m.rank), 9) for m in modules}
    wrong = alphas - {round(subject.config.lora_alpha, 9)}
    return "Its alpha differs from module to module (alpha_pattern)" if wrong else None


def _rslora(subject: Subject) -> str | None:
    return "It scales by alpha/√r (rsLoRA)" if subject.config.use_rslora and max(subject.ranks, default=1) > 1 else None


def _dora(subject: Subject) -> str | None:
    has_magnitudes = any(module.magnitude_name for module in subject.layout.modules.values())
    return "It is a DoRA adapter" if subject.config.use_dora or has_magnitudes else None


def _biases(subject: Subject) -> str | None:
    has_biases = any(module.bias_name for module in subject.layout.modules.values())
    trains = subject.config.bias != "none" or subject.config.lora_bias or has_biases
    return "It trains biases" if trains else None


def _head(subject: Subject) -> str | None:
    heads = sorted(set(subject.config.modules_to_save) & CLASSIFIER_HEADS)
    return f"It brings a classification head (modules_to_save: {listed(heads)})" if heads else None


def _saved_modules(subject: Subject) -> str | None:
    config = subject.config
    saved = sorted(set(config.modules_to_save) - CLASSIFIER_HEADS)
    if saved:
        return f"It replaces whole modules (modules_to_save: {listed(saved)})"
    whole = not config.modules_to_save and config.bias == "none" and not config.trainable_token_indices
    extra = [name for name in subject.layout.extra if ".base_layer." not in name]
    return "Its file holds whole weights beside the LoRA factors" if whole and extra else None


def _tokens(subject: Subject) -> str | None:
    return "It trains single tokens of the vocabulary" if subject.config.trainable_token_indices else None


def _changed_base(subject: Subject) -> str | None:
    init = str(subject.config.init_lora_weights).lower()
    changed = f"It was initialised with {init}, which changed the base in training (convert it to plain LoRA with PEFT)"
    return changed if init.startswith(BASE_CHANGING_INITS) else None


def _variants(subject: Subject) -> str | None:
    replicated = ["layer_replication"] if subject.config.layer_replication else []
    used = [*subject.config.variants, *replicated]
    return f"It uses {listed(used)}" if used else None


def _parameters(subject: Subject) -> str | None:
    return "It adapts bare parameters (target_parameters)" if subject.config.target_parameters else None


def _other_layers(subject: Subject) -> str | None:
    kinds = {module.kind for module in subject.layout.modules.values()}
    return "It adapts convolutions" if "conv" in kinds else None


def _embeddings(subject: Subject) -> str | None:
    kinds = {module.kind for module in subject.layout.modules.values()}
    return "It adapts an embedding" if "embedding" in kinds else None


def _regex(subject: Subject) -> str | None:
    targets = subject.config.target_modules
    is_regex = isinstance(targets, str) and targets.lower() not in ("all-linear", "all")
    return "Its target_modules are a regular expression" if is_regex else None


def _names(subject: Subject) -> str | None:
    modules = subject.layout.modules.values()
    renamed = [m.path for m in modules if (m.a_name, m.b_name) != tensor_names(m)]
    return f"Names of its tensors are not those that PEFT writes ({listed(renamed)})" if renamed else None


def _keyless_group(subject: Subject) -> str | None:
    """q, or q and k, without v."""
    values = [path for path in incomplete_groups(subject.layout.modules, subject.base) if path.endswith("v_proj")]
    queries = [p for p in values if p.removesuffix("v_proj") + "q_proj" in subject.layout.modules]
    return f"It adapts q_proj without v_proj (no {listed(queries, 2)})" if queries else None


def _skipped_group(subject: Subject) -> str | None:
    """k or v without q, up without gate."""
    missing = [
        p for p in incomplete_groups(subject.layout.modules, subject.base) if p.endswith(("q_proj", "gate_proj"))
    ]
    return f"It adapts a part of a fused layer only (no {listed(missing, 2)})" if missing else None


def _unknown_shapes(subject: Subject) -> str | None:
    needed = incomplete_groups(subject.layout.modules, subject.base)
    unknown = [path for path, shape in needed.items() if shape is None]
    text = (
        f"Nobody knows the shape of {listed(unknown, 2)} until its base is registered here, so that the part is missing"
    )
    return text if unknown else None


def _gaps(subject: Subject) -> str | None:
    missing = list(missing_layers(subject.layout.modules, subject.base))
    return f"It leaves out layers of a kind that it adapts (no {listed(missing, 2)})" if missing else None


RULES = (
    Rule(_rank_above_flag, {"vllm": REFUSED}),
    Rule(_dora, {"vllm": REFUSED, "sglang": REFUSED, "lorax": WRONG}, carried=False),
    Rule(_biases, {"vllm": REFUSED, "sglang": WRONG, "lorax": WRONG}),
    Rule(_head, {"sglang": WRONG, "lorax": REFUSED}),
    Rule(_saved_modules, {"vllm": REFUSED, "sglang": WRONG, "lorax": REFUSED}),
    Rule(_tokens, {"vllm": REFUSED, "sglang": WRONG, "lorax": REFUSED}, carried=False),
    Rule(_changed_base, {"vllm": REFUSED, "sglang": WRONG, "lorax": WRONG}, carried=False),
    Rule(_variants, {"vllm": REFUSED, "sglang": WRONG, "lorax": WRONG}, carried=False),
    Rule(_parameters, {"sglang": WRONG, "lorax": REFUSED}, carried=False),
    Rule(_other_layers, {"vllm": REFUSED, "sglang": REFUSED, "lorax": WRONG}),
    Rule(_embeddings, {"lorax": WRONG}),
    Rule(_unknown_shapes, {"sglang": REFUSED}),
    Rule(_padded_rank, {"lorax": WRONG}, mended=True),
    Rule(_different_ranks, {"sglang": WRONG, "lorax": WRONG}, mended=True),
    Rule(_different_alphas, {"sglang": WRONG, "lorax": WRONG}, mended=True),
    Rule(_rslora, {"sglang": WRONG}, mended=True),
    Rule(_regex, {"sglang": REFUSED}, mended=True),
    Rule(_names, {"vllm": REFUSED, "sglang": WRONG, "lorax": WRONG, "peft": WRONG}, mended=True),
    Rule(_keyless_group, {"sglang": REFUSED}, mended=True),
    Rule(_skipped_group, {"sglang": WRONG}, mended=True),
    Rule(_gaps, {"lorax": WRONG}, mended=True),
)
