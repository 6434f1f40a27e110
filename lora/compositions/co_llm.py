"""Co-LLM: token by token the base decides whether an expert writes the next one."""

from dataclasses import dataclass

from lora.catalogue import param
from lora.compositions import COMPOSITIONS, TRAINED_ON, Shapes


@dataclass(frozen=True)
class CoLlmParams:
    """Parameters of `co_llm`."""

    threshold: float = param(
        0.5, "probability of deferring above which the expert writes the token", minimum=0, maximum=1
    )


@COMPOSITIONS.register(
    "co_llm",
    params=CoLlmParams,
    title="Co-LLM",
    summary="One linear head on the base's last state says when to defer to the expert; kept, not run.",
    source="Co-LLM, arXiv:2403.03870",
    needs=TRAINED_ON,
    reads="token",
    place="model",
    runs=False,
    when="Where two models generate side by side, which takes a decoder of its own: the published code has one.",
)
def co_llm(params: CoLlmParams) -> Shapes:
    """The next token is the expert's where σ(W·x + b) > η, x being the base's last state."""
    return {"weight": (1, "d"), "bias": (1,)}
