"""Trained gates against dense float64 arithmetic, token by token, on two layers and experts of mixed ranks."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lora.compositions import COMPOSITIONS, is_open
from lora.runtime.composed import OPEN as OPEN_TYPES
from lora.runtime.composed import RUN, Change, Composition

Dense = NDArray[np.float64]
WIDTHS = {"first": (6, 8), "second": (4, 6)}
RANKS = {"first": (2, 4, 3), "second": (2, 4)}  # the third expert does not adapt the second module
N, OPEN = 3, 5  # experts, and the sizes that a type leaves open


class Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(8, 6), torch.nn.Linear(6, 4)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.second(self.first(input_ids))


def composition(kind: str, **params: object) -> Composition:
    """Random gates on every module, or one for both, of random experts."""
    generator = torch.Generator().manual_seed(7)
    shapes = COMPOSITIONS.get(kind).run(COMPOSITIONS.parse(kind, params))
    traits = COMPOSITIONS.get(kind).traits
    gates = {}
    for place, (d_out, d_in) in WIDTHS.items():
        sizes = {"n": N, "n-1": N - 1, "d": d_in, "o": d_out, "n*o": N * d_out}
        gates[place] = {
            part: torch.randn([s if isinstance(s, int) else sizes.get(s, OPEN) for s in shape], generator=generator) / 3
            for part, shape in shapes.items()
        }
        if "temperature" in gates[place]:
            gates[place]["temperature"] = torch.tensor([0.7])
    places = {place: [place] for place in WIDTHS}
    if traits["place"] == "model":
        gates, places = {"second": gates["second"]}, {"second": list(WIDTHS)}
    changes = {}
    for path, (d_out, d_in) in WIDTHS.items():
        factors = {}
        for i, rank in enumerate(RANKS[path]):
            A, B = torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator)
            factors[i] = (A, B, 0.1 + i / 10)
        changes[path] = Change.of(factors)
    full = vars(COMPOSITIONS.parse(kind, params))
    return Composition(kind, full, traits["reads"], ["a", "b", "c"], gates, places, changes)


def deltas(made: Composition, path: str) -> list[Dense]:
    change = made.changes[path]
    return [(change.B[:, change.owners == i] @ change.A[change.owners == i]).double().numpy() for i in range(N)]


def softmax(scores: Dense) -> Dense:
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def standardised(v: Dense) -> Dense:
    return (v - v.mean()) / np.sqrt(v.var() + 1e-5)


def mlp(g: dict[str, Dense], v: Dense, slope: float = 0.0) -> Dense:
    hidden = g["hidden_weight"] @ v + g["hidden_bias"]
    return g["weight"] @ np.where(hidden > 0, hidden, slope * hidden) + g["bias"]


def weights(kind: str, g: dict[str, Dense], x: Dense, outputs: list[Dense], mean: Dense, preference: Dense) -> Dense:
    """The papers' formulas for one token."""
    if kind == "lora_flow":
        return softmax(g["weight"] @ x) + g["bias"]
    if kind == "meteora":
        scores = g["weight"] @ x
        kept = np.argsort(-scores)[:2]
        found = np.zeros(N)
        found[kept] = softmax(scores[kept])
        return found
    if kind == "mole":
        return softmax(g["weight"] @ standardised(np.concatenate(outputs)) / g["temperature"][0])
    if kind == "adapter_fusion":
        return softmax(np.array([(g["query"] @ x) @ (g["key"] @ o) for o in outputs]))
    if kind == "ramole":
        asked = g["router_B"] @ (g["router_A"] @ x)
        return softmax(np.array([asked @ o for o in outputs]) / np.sqrt(len(asked)))
    if kind == "mixda":
        return 1 / (1 + np.exp(-mlp(g, mean)))
    if kind == "wemoe":
        return mlp(g, mean)
    if kind == "pwe_moe":
        return mlp(g, preference)
    if kind == "pemt":
        return softmax(g["keys"] @ g["query"] / np.sqrt(OPEN))
    return np.concatenate([[1.0], softmax(mlp(g, mean, slope=0.01))])


def dense(made: Composition, model: Two, rows: Dense, counted: Dense, preference: Dense) -> Dense:
    """One prompt (t, 8) through both layers, expert by expert."""
    gates = {p: {k: v.double().numpy() for k, v in own.items()} for p, own in made.gates.items()}
    x = rows
    shared = None
    if made.type == "twin_merging":  # read with the first expert alone
        first = model.first.weight.detach().double().numpy() + deltas(made, "first")[0]
        hidden = rows @ first.T + model.first.bias.detach().double().numpy()
        shared = hidden[counted > 0].mean(0)
    for path in WIDTHS:
        own, g = deltas(made, path), gates.get(path, gates["second"])
        mean = x[counted > 0].mean(0) if shared is None else shared
        layer, out = getattr(model, path), []
        for row in x:
            outputs = [delta @ row for delta in own]
            w = weights(made.type, g, row, outputs, mean, preference)
            mix = sum(one * o for one, o in zip(w, outputs, strict=True))
            mix = g["value"] @ mix if made.type == "adapter_fusion" else mix
            out.append(layer.weight.detach().double().numpy() @ row + layer.bias.detach().double().numpy() + mix)
        x = np.array(out)
    return x


@pytest.mark.parametrize("kind", sorted(RUN))
def test_outputs_are_those_of_the_formula(kind: str) -> None:
    made, model = composition(kind), Two()
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    prompt = {"input_ids": x, "attention_mask": mask} if made.reads == "example" else None
    preference = [0.2, 0.5, 0.3]
    plain = model(x)
    with made.on(model, prompt=prompt, preference=preference), torch.no_grad():
        found = model(x)
    rows, counted = x.double().numpy(), mask.numpy()
    expected = [dense(made, model, rows[i], counted[i], np.array(preference)) for i in range(2)]
    np.testing.assert_allclose(found.double().numpy(), np.array(expected), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)
    assert torch.equal(model(x), plain)


def test_the_types_that_say_so_are_run_and_no_others() -> None:
    assert {name for name in COMPOSITIONS.names() if COMPOSITIONS.get(name).traits["runs"]} == set(RUN)
    assert {name for name in COMPOSITIONS.names() if is_open(COMPOSITIONS.get(name))} == set(OPEN_TYPES)


def test_a_gate_of_a_layer_decides_by_what_enters_it() -> None:
    """Its input may come under the name that transformers gives it, and all modules in it take the same weights."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two()

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return self.two(hidden_states)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(hidden_states=x)

    single, model = composition("lora_flow"), Model()
    g = single.gates["first"]
    changes = {f"block.two.{path}": change for path, change in single.changes.items()}
    made = Composition("lora_flow", {}, "token", "abc", {"block": g}, {"block": sorted(changes)}, changes)
    x = torch.randn(1, 8)
    w = (g["weight"] @ x[0]).softmax(0) + g["bias"]
    y = x
    for path in WIDTHS:
        added = sum(w[i] * y @ torch.tensor(delta.T).float() for i, delta in enumerate(deltas(single, path)))
        y = getattr(model.block.two, path)(y) + added
    with made.on(model):
        torch.testing.assert_close(model(x), y, atol=1e-5, rtol=1e-5)


def test_a_router_lora_serves_some_of_the_experts_as_if_the_others_were_not_there() -> None:
    made, model = composition("ramole", temperature=0.4), Two()
    x = torch.randn(5, 8)
    rows, bias = x.double().numpy(), model.first.bias.detach().double().numpy()
    own = deltas(made, "first")
    g = {part: tensor.double().numpy() for part, tensor in made.gates["first"].items()}
    for among in ((0, 2), (1,), (2,)):
        expected = []
        for row in rows:
            outputs = [own[i] @ row for i in among]
            w = softmax(np.array([(g["router_B"] @ (g["router_A"] @ row)) @ o for o in outputs]) / 0.4)
            mix = sum(one * o for one, o in zip(w, outputs, strict=True))
            expected.append(model.first.weight.detach().double().numpy() @ row + bias + mix)
        with made.on(model, among=["abc"[i] for i in reversed(among)]), torch.no_grad():
            found = model.first(x)
            assert torch.equal(model.second(found), model.second(found))
        np.testing.assert_allclose(found.double().numpy(), np.array(expected), atol=1e-5, rtol=1e-5)
    with made.on(model, among=["c"]), torch.no_grad():
        # It does not adapt the second module.
        torch.testing.assert_close(model.second(found), torch.nn.functional.linear(found, *model.second.parameters()))


@pytest.mark.parametrize(("kind", "among"), [("lora_flow", ["a"]), ("ramole", ["a", "z"])])
def test_some_experts_are_taken_where_gates_know_none_and_from_those_there_are(kind: str, among: list[str]) -> None:
    made = composition(kind).on(Two(), among=among)
    with pytest.raises(ValueError, match="Only gates of adapter_fusion, ramole take some"), made:
        pass


def test_what_does_not_fit_is_refused_before_anything_is_hooked() -> None:
    model = Two()
    with pytest.raises(ValueError, match="whole prompts"), composition("wemoe").on(model):
        pass
    model.second = torch.nn.Linear(5, 4)
    with pytest.raises(ValueError, match="second of the model is"), composition("meteora").on(model):
        pass
    del model.second
    with pytest.raises(ValueError, match="no module second"), composition("meteora").on(model):
        pass
    assert not model.first._forward_hooks
    assert not model.first._forward_pre_hooks
