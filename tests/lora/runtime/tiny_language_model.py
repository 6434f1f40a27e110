"""A language model of eight-bit letters: big enough to have losses, small enough to differentiate by hand."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from lora.examples import Example
from lora.recipe import MergeInput
from lora.runtime.probe import RunningBase
from lora.runtime.text import Tokens
from lora.weights import AdapterFile
from tests.lora.peft_models import DIM, VOCAB, TinyBase, save_adapter, tiny_base
from tests.lora.recipes import merge_input

TARGETS = ["q", "v", "c", "embed"]
LETTERS = "abcdefghi "


def ids(text: str) -> list[int]:
    """The tokens of a text: 0 is the end, every letter is one of the others."""
    return [1 + (ord(letter) % (VOCAB - 1)) for letter in text]


def letters(tokens: Sequence[int]) -> str:
    """A text of those tokens: one of the letters that each stands for."""
    return "".join(";de ghi?abc"[token] for token in tokens)


TOKENS = Tokens(prompt=ids, answer=ids, end=0, text=letters)


HEAD = 3 * tiny_base().embed.weight.detach().T


def logits_of(base: TinyBase, tokens: torch.Tensor) -> torch.Tensor:
    """Causal logits (b, t, vocabulary): every token sees the mean of those up to it. The head is never adapted."""
    x = base.embed(tokens)
    for layer in base.layers:
        x = torch.tanh(x + layer.q(x).mean(-1, keepdim=True) + layer.v(x)[..., :DIM] + layer.c(x)[..., :DIM])
    seen = x.cumsum(1) / torch.arange(1, tokens.shape[1] + 1, device=x.device)[:, None]
    return seen @ HEAD.to(seen)


def running_base(device: str = "cpu", **options: object) -> RunningBase:
    base = tiny_base().requires_grad_(False).double().to(device)
    return RunningBase(base, lambda tokens: logits_of(base, tokens), TOKENS, **options)


def samples(seed: int, count: int = 6, labelled: bool = True) -> tuple[Example, ...]:
    """Random words of different lengths, and answers to them."""
    draw = torch.Generator().manual_seed(seed)

    def word(longest: int) -> str:
        length = int(torch.randint(1, longest + 1, (), generator=draw))
        return "".join(LETTERS[int(i)] for i in torch.randint(0, 9, (length,), generator=draw))

    return tuple(Example(word(7), word(3) if labelled else None) for _ in range(count))


def write_inputs(root: Path, count: int = 2) -> list[MergeInput]:
    """Adapters of every kind of module, which PEFT wrote; the second lacks one kind and has another rank."""
    inputs = []
    for i in range(count):
        targets = TARGETS[:-1] if i == 1 else TARGETS
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PEFT settles fan_in_fan_out by module, and says so
            folder = save_adapter(root / f"in{i}", seed=i, r=2 + i % 2, lora_alpha=1, target_modules=targets)
        item = merge_input(folder)
        inputs.append(MergeInput(**{**item.__dict__, "samples": samples(i)}))
    return inputs


def opened(inputs: list[MergeInput]) -> list[AdapterFile]:
    """The inputs' files, open."""
    return [AdapterFile(item.weights_path, item.layout).__enter__() for item in inputs]
