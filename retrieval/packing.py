"""Texts of different lengths in one pass of a BERT, one behind the other instead of filled up. Imports torch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from sentence_transformers import SentenceTransformer


def with_packing(model: SentenceTransformer) -> SentenceTransformer:
    """Have a model spend nothing on padding, where it is a BERT; what it returns is the same up to rounding.

    All tokens stand in one row. Each text counts its own positions, and none sees another.
    """
    bert = getattr(model[0], "model", None)
    # Other architectures count positions in other ways.
    if bert is not None and bert.config.model_type == "bert":
        bert.forward = partial(_packed, bert, bert.forward)
    return model


def _packed(model: Any, forward: Callable[..., Any], *, input_ids: Any, attention_mask: Any, **more: Any) -> Any:
    """The output for padded texts (b, t), computed in one row of their tokens."""
    kept = attention_mask.bool()
    if kept.all():
        return forward(input_ids=input_ids, attention_mask=attention_mask, **more)
    texts, positions = kept.nonzero(as_tuple=True)
    if (kinds := more.pop("token_type_ids", None)) is not None:
        more["token_type_ids"] = kinds[kept][None]
    # Added to the scores by every implementation of the attention.
    apart = torch.zeros(len(texts), len(texts), dtype=model.dtype, device=texts.device)
    apart.masked_fill_(texts[:, None] != texts, torch.finfo(model.dtype).min)
    found = forward(
        input_ids=input_ids[kept][None], position_ids=positions[None], attention_mask=apart[None, None], **more
    )

    def padded(states: torch.Tensor) -> torch.Tensor:
        rows = states.new_zeros(*kept.shape, states.shape[-1])
        rows[kept] = states[0]
        return rows

    found["last_hidden_state"] = padded(found["last_hidden_state"])
    found["hidden_states"] = tuple(map(padded, found["hidden_states"]))
    return found
