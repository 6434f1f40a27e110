"""Adapters that hide their weights from merging are told from those that were only trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora.base import Base
from lora.examples import Example
from lora.merge_lock import lock_warning, lock_warnings_from_base, qk_residuals, trap_warning
from lora.runtime.text import PROMPT, batches
from tests.lora.factories import adapter_config, factors, write_files
from tests.lora.peft_models import TinyBase, tiny_base
from tests.lora.recipes import merge_input, run_merge
from tests.lora.runtime.tiny_language_model import TOKENS, logits_of, running_base, samples

HEADS, KEY_HEADS, HEAD_DIM, DIM = 4, 2, 8, 32
PATHS = [f"model.layers.{i}.self_attn" for i in range(2)]


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: int) -> torch.Tensor:
        return torch.randn(rows, DIM, generator=generator, dtype=torch.float64)

    names = {"q_proj": HEADS * HEAD_DIM, "k_proj": KEY_HEADS * HEAD_DIM, "v_proj": KEY_HEADS * HEAD_DIM}
    return {f"{path}.{name}.weight": draw(rows) for path in PATHS for name, rows in names.items()}


def locked(base: dict[str, torch.Tensor], seed: int = 5) -> dict[str, torch.Tensor]:
    """Return module path → ΔW of a MergeLock: every key head and its query heads turned against each other."""
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    for path in PATHS:
        turn = [torch.randn(HEAD_DIM, HEAD_DIM, generator=generator, dtype=torch.float64) for _ in range(KEY_HEADS)]
        for name, heads, against in (("q_proj", HEADS, False), ("k_proj", KEY_HEADS, True)):
            weight = base[f"{path}.{name}.weight"]
            rows = [
                (torch.linalg.inv(turn[h * KEY_HEADS // heads]).T if against else turn[h * KEY_HEADS // heads])
                @ weight[h * HEAD_DIM : (h + 1) * HEAD_DIM]
                for h in range(heads)
            ]
            changes[f"{path}.{name}"] = torch.cat(rows) - weight
    return changes


def trained(seed: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name.removesuffix(".weight"): 0.05 * torch.randn(*weight.shape, generator=generator, dtype=torch.float64)
        for name, weight in weights(0).items()
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a writer of the adapter with given changes, at their full rank."""

    def adapter(name: str, changes: dict[str, torch.Tensor]) -> Path:
        tensors = {}
        for path, change in changes.items():
            rank = min(change.shape)
            U, sigma, Vh = torch.linalg.svd(change, full_matrices=False)
            pad = (0, 0, 0, DIM - rank)
            tensors[f"base_model.model.{path}.lora_A.weight"] = torch.nn.functional.pad(Vh, pad).float()
            tensors[f"base_model.model.{path}.lora_B.weight"] = torch.nn.functional.pad((U * sigma).T, pad).T.float()
        shapes = {path: tuple(change.shape) for path, change in changes.items()}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        return write_files(tmp_path / name, adapter_config(shapes, DIM, DIM), tensors)  # type: ignore[arg-type]

    return adapter


@pytest.fixture
def base() -> Base:
    state = weights(0)
    return Base(state.keys(), state.__getitem__, HEAD_DIM)


def test_residuals_are_those_of_dense_products() -> None:
    state, changes = weights(0), trained()
    path = PATHS[0]
    Wq, Wk = (state[f"{path}.{name}.weight"] for name in ("q_proj", "k_proj"))
    dq, dk = (changes[f"{path}.{name}"] for name in ("q_proj", "k_proj"))
    for head, found in enumerate(qk_residuals(Wq, dq, Wk, dk, HEAD_DIM)):
        q = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        k = slice(head // 2 * HEAD_DIM, (head // 2 + 1) * HEAD_DIM)
        moved = torch.linalg.norm((Wq + dq)[q].T @ (Wk + dk)[k] - Wq[q].T @ Wk[k])
        first_order = torch.linalg.norm(dq[q].T @ Wk[k]) + torch.linalg.norm(Wq[q].T @ dk[k])
        assert found == pytest.approx(float(moved / first_order), rel=1e-9)


def test_a_lock_cancels_in_attention_and_training_does_not(base: Base, write: Callable[..., Path]) -> None:
    hidden, honest = merge_input(write("hidden", locked(weights(0)))), merge_input(write("honest", trained()))
    found = list(lock_warnings_from_base([hidden, honest], base))
    assert [warning["code"] for warning in found] == ["possible_merge_lock"]
    assert found[0]["message"].startswith("ada/hidden")
    assert "Evidence, not proof" in found[0]["message"]
    assert list(lock_warnings_from_base([hidden], Base(base.names, base.load))) == []


def told(report: dict[str, Any]) -> str:
    return next(w["message"] for w in report["warnings"] if w["code"] == "possible_merge_lock")


def test_the_report_of_a_merge_has_the_warning(base: Base, write: Callable[..., Path], tmp_path: Path) -> None:
    folders = [write("hidden", locked(weights(0))), write("honest", trained())]
    report = run_merge(tmp_path / "out", folders, base=base)
    assert "cancels in attention" in told(report)
    mixed = write("mixed", trained() | locked(weights(0)))
    report = run_merge(tmp_path / "without_base", [mixed, folders[1]])
    assert "times as much" in told(report)


def facts(changes: dict[str, torch.Tensor]) -> list[dict[str, object]]:
    return [
        {"path": path, "d_out": len(change), "d_in": DIM, "norm": float(change.norm())}
        for path, change in changes.items()
    ]


def test_norms_alone_give_a_hint() -> None:
    mixed = trained() | locked(weights(0))
    found = lock_warning("ada/hidden", facts(mixed))
    assert found
    assert found["code"] == "possible_merge_lock"
    assert lock_warning("ada/honest", facts(trained())) is None
    assert lock_warning("ada/only_q", facts({f"{PATHS[0]}.q_proj": torch.ones(32, DIM)})) is None


@pytest.mark.parametrize(
    ("losses", "is_trapped"),
    [
        ({0.0: 3.0, 0.3: 2.6, 0.5: 2.2, 0.8: 1.5, 1.0: 1.2, 1.2: 1.4}, False),
        ({0.0: 3.0, 0.3: 8.0, 0.5: 9.0, 0.8: 6.0, 1.0: 1.2, 1.2: 5.0}, True),
        ({0.0: 3.0, 1.0: 1.2}, False),
        ({0.0: 3.0, 0.5: float("nan"), 1.0: 1.2}, False),
    ],
)
def test_a_loss_that_spikes_between_the_ends_is_told(losses: dict[float, float], is_trapped: bool) -> None:
    found = trap_warning("ada/x", losses)
    assert (found is not None) is is_trapped
    assert found is None or "9 at strength 0.5" in found["message"]


def trained_on(examples: tuple[Example, ...], folder: Path, *, trapped: bool, outputs: bool = True) -> Path:
    """Train an adapter of the tiny language model; one that is trapped is also made bad at half its strength."""
    base = tiny_base().requires_grad_(False).double()
    [*paths] = shapes = {f"layers.{i}.{name}": shape for i in (0, 1) for name, shape in (("q", (6, 8)), ("v", (9, 8)))}
    config = adapter_config(shapes, rank=4, alpha=4) | {"task_type": None}
    tensors = {name: tensor.double() for name, tensor in factors(shapes, rank=4, seed=3).items()}
    tensors = {name: (tensor * ("lora_A" in name)).requires_grad_() for name, tensor in tensors.items()}
    model = CausalBase(base)
    encoded = batches(examples, TOKENS, PROMPT)

    def loss(strength: float) -> torch.Tensor:
        changed = {}
        for path in paths:
            A, B = (tensors[f"base_model.model.{path}.lora_{name}.weight"] for name in "AB")
            changed[f"base.{path}.weight"] = base.get_submodule(path).weight + strength * B @ A
        losses = []
        for batch in encoded:
            logits = torch.func.functional_call(model, changed, (batch.ids,))[:, :-1]
            each = torch.nn.functional.cross_entropy(logits.mT, batch.ids[:, 1:], reduction="none")
            losses.append(each[batch.is_answer[:, 1:]])
        return torch.cat(losses).mean()

    optimizer = torch.optim.Adam(tensors.values(), lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        objective = loss(1.0) + (torch.relu(6 - loss(0.5)) if trapped else 0)
        objective.backward()
        optimizer.step()
    write_files(folder, config, {name: tensor.detach().float() for name, tensor in tensors.items()})
    lines = [{"input": example.input, "output": example.output if outputs else None} for example in examples]
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


class CausalBase(torch.nn.Module):
    """The tiny language model as a module, so that it can be called with other weights."""

    def __init__(self, base: TinyBase) -> None:
        super().__init__()
        self.base = base

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return logits_of(self.base, tokens)


def test_an_input_that_was_trained_to_fail_at_half_strength_is_told_by_name(tmp_path: Path) -> None:
    examples = samples(5, count=4)
    honest = trained_on(examples, tmp_path / "honest", trapped=False)
    trap = trained_on(examples, tmp_path / "trap", trapped=True)
    report = run_merge(tmp_path / "out", [honest, trap], "packllm", running=running_base())
    [found] = [warning for warning in report["warnings"] if warning["code"] == "intolerant_to_scaling"]
    assert found["message"].startswith("ada/trap does not tolerate scaling")
    assert "Evidence, not proof" in found["message"]


def test_without_answers_or_a_base_nothing_is_said_of_traps(tmp_path: Path) -> None:
    trap = trained_on(samples(5, count=4), tmp_path / "trap", trapped=True, outputs=False)
    reports = [
        run_merge(tmp_path / "blind", [trap]),
        run_merge(tmp_path / "mute", [trap], "packllm", running=running_base()),
    ]
    assert not [warning for report in reports for warning in report["warnings"] if "intolerant" in warning["code"]]
