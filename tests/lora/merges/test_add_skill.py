"""A skill beside a general expert: the curve against losses written out token by token, and what is chosen from it."""

import pytest
import torch

from lora.errors import LoraError, NotMergeable
from lora.merges import MERGES
from lora.recipe import OutputSpec
from lora.runtime.adapted import AdaptedModel
from lora.runtime.probe import Probe
from lora.runtime.text import PROMPT
from tests.lora.in_memory import Recipe
from tests.lora.peft_models import loaded_deltas
from tests.lora.raw_files import read_deltas, relative_error
from tests.lora.recipes import run_merge
from tests.lora.runtime.tiny_language_model import ids, logits_of, opened, running_base, samples, write_inputs

WEIGHTS = [0.5, 1.5]

# PEFT settles fan_in_fan_out by module, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def loss(inputs, coefficients, examples):
    """The mean over examples of −log p per token of the answer, by a base whose weights are changed."""
    changed = running_base().model
    for item, coefficient in zip(inputs, coefficients, strict=True):
        for path, delta in loaded_deltas(item.weights_path.parent).items():
            changed.get_submodule(path).weight.data += coefficient * delta
    total = 0.0
    for example in examples:
        question, answer = ids(PROMPT.replace("{line}", example.input)), [*ids(" " + example.output), 0]
        logs = logits_of(changed, torch.tensor([question + answer]))[0].log_softmax(-1)
        found = [float(logs[len(question) - 1 + k, token]) for k, token in enumerate(answer)]
        total -= sum(found) / len(found)
    return total / len(examples)


def chosen(inputs, weights=WEIGHTS, **params):
    """Run the method alone; return what it found, and the weights of its sum in every module."""
    running = running_base()
    with AdaptedModel(running.model, opened(inputs)) as adapted:
        deltas = {}
        for i, file in enumerate(opened(inputs)):
            for path in file.paths:
                deltas.setdefault(path, {})[i] = file.factors(path, torch.float64)
        recipe = Recipe(deltas, weights, probe=Probe(running, adapted, inputs, weights))
        modules = [module for module, _ in MERGES.get("add_skill").run(recipe, MERGES.parse("add_skill", params))]
        return recipe.probe.found, {tuple(module.weights) for module in modules if len(module.inputs) == len(inputs)}


def test_the_curve_has_the_losses_of_both_at_every_strength(inputs):
    found, _ = chosen(inputs, bound=1.5, steps=3)
    assert [point["scale"] for point in found["curve"]] == [0, 0.5, 1, 1.5]
    general, skill = (item.samples for item in inputs)
    for point in found["curve"]:
        coefficients = [0.5, 1.5 * point["scale"]]
        assert point["general_loss"] == pytest.approx(loss(inputs, coefficients, general), rel=1e-5)
        assert point["skill_loss"] == pytest.approx(loss(inputs, coefficients, skill), rel=1e-5)


@pytest.mark.parametrize("tolerance", [0, 0.1, 0.4, 1])
@pytest.mark.parametrize("turned", [False, True])
def test_it_takes_the_least_loss_at_the_skill_that_the_general_expert_bears(tolerance, turned, inputs):
    found, weights = chosen(inputs[::-1] if turned else inputs, tolerance=tolerance, steps=10)
    alone = found["curve"][0]["general_loss"]
    base = loss(inputs, [0, 0], inputs[turned].samples)
    assert found["base_loss"] == pytest.approx(base, rel=1e-5)
    best = None
    for point in found["curve"]:
        if point["general_loss"] <= alone + tolerance * abs(base - alone) and (
            best is None or point["skill_loss"] < best[0]
        ):
            best = point["skill_loss"], point["scale"]
    assert found["scale"] == best[1]
    assert found["weights"] == [0.5, pytest.approx(1.5 * best[1])]
    assert weights == {tuple(found["weights"])}


def test_a_wider_tolerance_lets_more_of_the_skill_in(inputs):
    narrow, wide = (chosen(inputs[::-1], [1.0, 1.0], tolerance=tolerance)[0] for tolerance in (0.1, 1))
    assert narrow["curve"] == wide["curve"]
    assert (narrow["scale"], wide["scale"]) == (0, 0.25)


def test_a_strength_of_the_recipe_is_taken_and_is_on_the_curve(inputs):
    found, weights = chosen(inputs, scale=0.3, steps=2, bound=1.0)
    assert [point["scale"] for point in found["curve"]] == [0, 0.3, 0.5, 1]
    assert found["scale"] == 0.3
    assert weights == {(0.5, 1.5 * 0.3)}


def test_the_file_and_its_report_are_of_that_sum(inputs, tmp_path):
    folders = [item.weights_path.parent for item in inputs]
    for folder, item in zip(folders, inputs, strict=True):
        lines = [f'{{"input": "{example.input}", "output": "{example.output}"}}' for example in item.samples]
        (folder / "samples.jsonl").write_text("\n".join(lines))
    report = run_merge(
        tmp_path / "out", folders, "add_skill", {"scale": 0.4}, output=OutputSpec("exact"), running=running_base()
    )
    assert report["found"]["weights"] == [1, 0.4]
    assert len(report["found"]["curve"]) == 7
    assert sum(report["contributions"]) == pytest.approx(1)
    general, skill = (read_deltas(folder) for folder in folders)
    for path, delta in read_deltas(tmp_path / "out").items():
        assert relative_error(delta, general[path] + 0.4 * skill.get(path, 0)) < 1e-5


def test_what_has_no_answers_to_compare_with_is_refused_by_name(inputs):
    mute = inputs[1].__class__(**{**inputs[1].__dict__, "samples": samples(1, labelled=False)})
    with pytest.raises(NotMergeable) as caught:
        chosen([inputs[0], mute])
    assert [(problem.index, problem.code) for problem in caught.value.inputs] == [(1, "no_labels")]
    assert caught.value.inputs[0].message == f"{mute.name} has no samples with outputs."


def test_losses_that_are_no_numbers_are_told(inputs):
    with pytest.raises(LoraError, match="no finite number"):
        chosen(inputs, weights=[float("inf"), 1.0])
