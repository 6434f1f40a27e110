"""Trials on a tiny Llama: losses as PEFT has them, answers as transformers generates them, and an honest order."""

import math
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lora.examples import Example
from lora.runtime.answering import exactly_answered
from lora.runtime.loading import load_running_base
from lora.runtime.text import PROMPT
from lora.trial_score import Score
from lora.trials import Trial, rounds, why_not_run, with_demonstrations
from tests.lora.factories import write_adapter_files
from tests.lora.recipes import merge_input
from tests.lora.tiny_llama import MODULES, save_tiny_llama

EXAMPLES = [Example("ab", "c"), Example("b", "a c"), Example("c a", "b"), Example("cab", "cc"), Example("a", "ab")]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def base(base_folder):
    return load_running_base(base_folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [write_adapter_files(root / f"in{seed}", MODULES, rank=2, seed=seed) for seed in range(5)]


@pytest.fixture(scope="module")
def candidates(folders):
    return [merge_input(folder) for folder in folders]


def peft_loss(model, base, examples):
    """Mean over the examples of -log p per token of answer and end, one text at a time."""
    losses = []
    for example in examples:
        question = base.tokens.prompt(PROMPT.replace("{line}", example.input))
        answer = [*base.tokens.answer(" " + example.output), base.tokens.end]
        with torch.no_grad():
            logs = model(torch.tensor([question + answer])).logits[0].log_softmax(-1)
        losses.append(-sum(float(logs[len(question) - 1 + k, t]) for k, t in enumerate(answer)) / len(answer))
    return sum(losses) / len(losses)


def generated(model, base, question, most=12):
    """The greedy answer, one token at a time without a draft; None where it has no end."""
    ids = base.tokens.prompt(PROMPT.replace("{line}", question))
    given = []
    while len(given) < most:
        with torch.no_grad():
            token = int(model(torch.tensor([ids + given])).logits[0, -1].argmax())
        text = base.tokens.text(given).strip(" ")
        if token == base.tokens.end or "\n" in text:
            return text.split("\n")[0].strip()
        given.append(token)
    return None


def test_losses_are_those_of_the_adapters_loaded_by_peft(base, base_folder, folders, candidates):
    scores = Trial(base, candidates, EXAMPLES).run()
    found = {score.candidate: score for score in scores if score.kind == "adapter"}
    assert len(found) == 5
    for i, folder in enumerate(folders):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), folder).eval()
        assert found[i].loss == pytest.approx(peft_loss(model, base, EXAMPLES), rel=1e-5)
        assert found[i].examples == 5
    [alone] = [score for score in scores if score.kind == "base"]
    assert alone.loss == pytest.approx(peft_loss(base.model, base, EXAMPLES), rel=1e-5)


def test_an_example_is_answered_exactly_where_the_model_generates_its_output(base, base_folder, folders):
    """Whatever the model generates is a right answer, and anything else is a wrong one."""
    texts = ["ab", "b", "c a", "cab", "a", "bb c", "acca"]
    ended = 0
    for folder in folders[:3]:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), folder).eval()
        with Trial(base, [merge_input(folder)], EXAMPLES)._on_base([0]):
            for text in texts:
                answer = generated(model, base, text)
                ended += bool(answer)
                wanted = [answer or "-", f"{answer}a", f"b{answer}", "ab c"]
                right = exactly_answered(base, [Example(text, output) for output in wanted], PROMPT)
                assert right == [output == answer for output in wanted], (text, answer)
    assert ended > 2


class Spelling:
    """A model that says one text, whatever it is asked, with tokens of its own choice."""

    def __init__(self, pieces):
        self.pieces = pieces

    def base(self):
        vocabulary = ["", "a", "b", "ab", " ", "\n", "c", "?"]
        said = [vocabulary.index(piece) for piece in self.pieces] + [0]

        def logits(ids):
            scores = torch.zeros(*ids.shape, len(vocabulary))
            for row in range(len(ids)):
                for place in range(ids.shape[1]):
                    # One token of prompt, so that a place is how much was said.
                    scores[row, place, said[min(place, len(said) - 1)]] = 1
            return scores

        from types import SimpleNamespace

        from lora.runtime.probe import RunningBase
        from lora.runtime.text import Tokens

        tokens = Tokens(
            prompt=lambda text: [7],
            answer=lambda text: [vocabulary.index(letter) for letter in text],
            end=0,
            text=lambda ids: "".join(vocabulary[i] for i in ids),
        )
        weight = torch.nn.Parameter(torch.zeros(1))
        return RunningBase(SimpleNamespace(parameters=lambda: iter([weight])), logits, tokens)


@pytest.mark.parametrize(
    ("pieces", "output", "is_right"),
    [
        ([" ", "a", "b"], "ab", True),
        (["ab"], "ab", True),  # other tokens, the same text
        ([" ", "ab", " ", "\n", "c"], "ab", True),  # a line ends the answer
        ([" ", "ab", "c"], "ab", False),
        ([" ", "a"], "ab", False),
        (["\n", "ab"], "ab", False),  # an empty first line is an empty answer
        (["a", "\n", "b"], "a\nb", True),  # several lines where the right answer has them
        (["a", "\n", "b"], "a", True),
        ([" "] * 40, "ab", False),  # for ever
    ],
)
def test_what_counts_as_the_answer(pieces, output, is_right):
    assert exactly_answered(Spelling(pieces).base(), [Example("?", output)], "{line}") == [is_right]


def test_each_further_round_has_half_the_candidates_and_twice_the_examples():
    assert rounds(10, 5) == [(10, 0, 5)]
    assert rounds(10, 64) == [(10, 0, 8), (5, 8, 16), (3, 16, 32), (3, 32, 64)]
    assert rounds(2, 20) == [(2, 0, 8), (2, 8, 16), (2, 16, 20)]


def test_halving_tells_what_was_measured_on_how_many(base, candidates):
    examples = [Example("ab c"[: 1 + i % 4] + "abc"[i % 3], "abc"[i % 3]) for i in range(20)]
    scores = Trial(base, candidates, examples).run()
    experts = [score for score in scores if score.kind == "adapter"]
    assert [score.examples for score in experts] == [20, 20, 20, 8, 8]
    assert [score.exact_match is None for score in experts] == [False, False, False, True, True]
    assert all(score.loss > 0 for score in scores)
    assert scores == sorted(scores, key=lambda score: score.key)


def test_a_candidate_is_asked_below_its_instruction_where_it_does_better(base, candidates):
    samples = (Example("abc a\nbb", "c"), Example("abc a\nca", "b"))
    told = [replace(item, samples=samples) for item in candidates]
    lines = [Example(f"abc a\n{one.input}", one.output) for one in EXAMPLES]
    ways = [{s.candidate: s for s in Trial(base, candidates, asked).run() if s.candidate is not None}
            for asked in (EXAMPLES, lines)]  # fmt: skip
    found = {score.candidate: score for score in Trial(base, told, EXAMPLES).run() if score.candidate is not None}
    for i, score in found.items():
        given, below = ways[0][i], ways[1][i]
        better = min(given, below, key=lambda score: score.key)
        assert score.instruction == ("abc a" if better is below else None)
        assert (score.losses, score.examples) == (pytest.approx(better.losses), 5)
        assert (score.exact_match, score.answered) == (better.exact_match, better.answered)
    assert {score.instruction for score in found.values()} == {None, "abc a"}
    # Where the caller has written it, there is nothing to put above.
    assert {score.instruction for score in Trial(base, told, lines).run()} == {None}


def test_a_merge_is_asked_as_the_best_alone_was(base, candidates):
    samples = (Example("abc a\nbb", "c"), Example("abc a\nca", "b"))
    examples = [Example(f"abc a\n{one.input}", one.output) for one in EXAMPLES]
    told = [replace(item, samples=samples) for item in candidates]
    trial = Trial(base, told, EXAMPLES)
    merge = trial._merged([2, 0], "abc a")
    assert (merge.instruction, merge.examples) == ("abc a", 5)
    same = Trial(base, candidates, examples)._merged([2, 0], None)
    assert (merge.losses, merge.weights) == (pytest.approx(same.losses), pytest.approx(same.weights))


def test_one_line_that_goes_wrong_does_not_outweigh_the_others():
    right, even = Score("adapter", 0, (0.1, 0.1, 0.1, 9.0)), Score("adapter", 1, (1.5,) * 4)
    assert right.loss > even.loss
    assert right.probability == pytest.approx((3 * math.exp(-0.1) + math.exp(-9)) / 4)
    assert min(even, right, key=lambda score: score.key) is right


def test_the_order_is_by_exact_answers_then_by_probability_and_the_unmeasured_come_last():
    best = Score("adapter", 0, (0.9,) * 5, 0.8)
    tied = Score("adapter", 1, (1.1,) * 5, 0.8)
    base = Score("base", None, (0.1,) * 5, 0.2)
    given_up, sooner = Score("adapter", 2, (0.05,) * 16), Score("adapter", 3, (0.01,) * 8)
    broken, unmeasured = Score("adapter", 4, (0.1, math.nan, 0.1, 0.1, 0.1), 0.2), Score("base_few_shot")
    ordered = [best, tied, base, broken, given_up, sooner, unmeasured]
    assert sorted(ordered[3:] + ordered[:3], key=lambda score: score.key) == ordered


def test_no_demonstration_shows_the_answer_that_is_asked_for():
    examples = [*EXAMPLES, Example("ab", "other"), Example("z" * 3000, "long")]
    for example, shown in zip(examples, with_demonstrations(examples, PROMPT), strict=True):
        *before, asked = shown.input.split("\n\n")
        assert asked == f"{example.input}\nAnswer:"
        assert shown.output == example.output
        assert 1 <= len(before) <= 5
        assert not any(text.startswith(f"{example.input}\n") for text in before)
        assert sum(map(len, before)) < 2000
    assert with_demonstrations([Example("a", "b")], PROMPT) == []
    assert with_demonstrations([Example("a", "b"), Example("a", "c")], PROMPT) == []


def test_what_was_not_measured_is_none(base, candidates):
    [few_shot] = [
        s for s in Trial(base, candidates, EXAMPLES[:1]).run(lambda chosen: True) if s.kind == "base_few_shot"
    ]
    assert (few_shot.loss, few_shot.exact_match, few_shot.examples) == (None, None, 0)


def test_a_merge_is_scored_on_what_its_search_has_not_seen(base, candidates, monkeypatch):
    searched = []
    original = Trial._searched

    def watched(self, probe, examples):
        searched.append({one.input for one in examples})
        return original(self, probe, examples)

    scored = []
    measured = Trial._measured

    def scoring(self, score, examples, prompt):
        if score.kind == "merge":
            scored.append({one.input for one in examples})
        return measured(self, score, examples, prompt)

    monkeypatch.setattr(Trial, "_searched", watched)
    monkeypatch.setattr(Trial, "_measured", scoring)
    trial = Trial(base, candidates, EXAMPLES)
    [merge] = [score for score in trial.run(lambda chosen: True) if score.kind == "merge"]
    everything, *halves = searched
    assert everything == {one.input for one in EXAMPLES}
    assert len(halves) == len(scored) == 2
    for seen, unseen in zip(halves, scored, strict=True):
        assert seen.isdisjoint(unseen)
        assert seen | unseen == everything
    assert len(merge.weights) == 3
    assert merge.examples == 5
    assert math.isfinite(merge.loss)


def test_only_what_may_be_merged_is(base, candidates):
    asked = []

    def two_only(chosen):
        asked.append(len(chosen))
        return len(chosen) == 2

    merges = [score for score in Trial(base, candidates, EXAMPLES).run(two_only) if score.kind == "merge"]
    assert asked == [3, 2]
    assert all(len(merge.weights) == 2 for merge in merges)
    assert not [s for s in Trial(base, candidates, EXAMPLES).run(lambda chosen: False) if s.kind == "merge"]


def test_a_candidate_that_the_base_does_not_take_is_left_out_and_named(base, candidates, tmp_path):
    stranger = merge_input(write_adapter_files(tmp_path / "stranger", {"model.layers.9.mlp.up_proj": (8, 8)}))
    said = []
    trial = Trial(base, [stranger, *candidates], EXAMPLES, say=said.append)
    found = {score.candidate for score in trial.run()}
    assert found == {None, 1, 2, 3, 4, 5}
    assert "model.layers.9.mlp.up_proj" in trial.skipped[0]
    assert any("ada/stranger is left out" in sentence for sentence in said)
    assert not any(one.input in sentence.split() for sentence in said for one in EXAMPLES if len(one.input) > 1)


def test_a_broken_adapter_has_no_loss_comes_last_and_is_not_merged(base, candidates, tmp_path):
    broken = write_adapter_files(tmp_path / "broken", MODULES)
    weights = broken / "adapter_model.safetensors"
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(weights).items()}, weights)
    asked = []
    trial = Trial(base, [merge_input(broken), *candidates[:2]], EXAMPLES * 2)
    *others, last = [
        score for score in trial.run(lambda chosen: asked.append(list(chosen)) or False) if score.kind == "adapter"
    ]
    assert (last.candidate, last.loss, last.exact_match) == (0, None, 0)
    assert all(score.loss > 0 for score in others)
    assert [sorted(chosen) for chosen in asked] == [[1, 2]]


def test_progress_grows_to_the_end_and_may_stop_the_work(base, candidates):
    told = []
    Trial(base, candidates, EXAMPLES, progress=told.append).run(lambda chosen: True)
    assert told == sorted(told)
    assert 0 <= told[0] < 0.1
    assert 0.8 < told[-1] <= 1

    class Stop(Exception):
        pass

    def stop(fraction):
        if fraction > 0.3:
            raise Stop

    with pytest.raises(Stop):
        Trial(base, candidates, EXAMPLES, progress=stop).run()
    assert not any(module._forward_hooks for module in base.model.modules())


def test_what_cannot_be_run_as_the_base_plus_its_change_says_why(tmp_path):
    assert why_not_run(merge_input(write_adapter_files(tmp_path / "plain", MODULES))) is None
    pissa = {"init_lora_weights": "pissa"}
    modified = write_adapter_files(tmp_path / "pissa", MODULES, config_overrides=pissa)
    assert "fits a modified base only" in why_not_run(merge_input(modified))
    headed = write_adapter_files(tmp_path / "headed", MODULES, config_overrides={"modules_to_save": ["score"]})
    weights = headed / "adapter_model.safetensors"
    save_file(load_file(weights) | {"base_model.model.score.weight": torch.ones(2, 8)}, weights)
    assert "more than LoRA factors (base_model.model.score.weight)" in why_not_run(merge_input(headed))
