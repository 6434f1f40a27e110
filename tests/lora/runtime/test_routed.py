"""Which mixes of experts routers and references ask for, and that each is what the base then answers with."""

from pathlib import Path

import numpy as np
import pytest

from lora.evaluation import Found
from lora.examples import Example
from lora.routers import ROUTERS
from lora.runtime.adapted import AdaptedModel
from lora.runtime.answering import exactly_answered
from lora.runtime.routed import Question, answered, exact_match, references, routed
from lora.runtime.text import PROMPT
from tests.lora.runtime.tiny_language_model import opened, running_base, samples, write_inputs

SHOTS = (Example("hot", "cold"), Example("up", "down"))
QUESTIONS = [Question(own, Example(f"question {own}", "x"), SHOTS) for own in (0, 1, 2, 2)]
FOUND = Found(
    np.array([[0.9, 0.5, 0.5], [0.8, 0.1, 0.2], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]),
    np.array([[True] * 3, [True] * 3, [False] * 3, [True, False, True]]),
)


def mixes(asks: list) -> list[tuple]:
    return [mix for _, mix in asks]


def test_the_best_match_answers_alone_and_the_best_three_by_their_weights() -> None:
    router = ROUTERS.get("lora_retriever").run(ROUTERS.parse("lora_retriever", {"temperature": None}))
    asks = routed(QUESTIONS, router, FOUND)
    assert mixes(asks["top_1"]) == [((0, 1.0),), ((0, 1.0),), (), ((0, 1.0),)]
    third = 0.333333
    # Ties go by name; where nothing is a match the base answers.
    assert mixes(asks["top_3"])[0] == ((0, third), (1, third), (2, third))
    assert mixes(asks["top_3"])[2:] == [(), ((0, 0.5), (2, 0.5))]
    assert mixes(asks["top_1_masked"]) == [((1, 1.0),), ((0, 1.0),), (), ((0, 1.0),)]
    assert mixes(asks["top_3_masked"])[0] == ((1, 0.5), (2, 0.5))


def test_questions_are_asked_below_the_instruction_of_the_best_match_too() -> None:
    router = ROUTERS.get("lora_retriever").run(ROUTERS.parse("lora_retriever", {"temperature": None}))
    plain = routed(QUESTIONS, router, FOUND)
    asks = routed(QUESTIONS, router, FOUND, ["Do it.", None, "Try."])
    assert {form: asks[form] for form in plain} == plain
    assert all(mixes(asks[f"{form}_told"]) == mixes(plain[form]) for form in ("top_1", "top_3"))
    told = [[example.input for example, _ in asks[form]] for form in ("top_3_told", "top_1_told_masked")]
    # The third has no match; of the first the best of the others has no instruction.
    assert told[0] == ["Do it.\nquestion 0", "Do it.\nquestion 1", "question 2", "Do it.\nquestion 2"]
    assert told[1] == ["question 0", "Do it.\nquestion 1", "question 2", "Do it.\nquestion 2"]
    assert routed(QUESTIONS, router, FOUND, [None] * 3) == plain


def test_references_are_the_base_the_own_expert_a_random_one_and_all() -> None:
    told = references(QUESTIONS, 3)
    assert mixes(told["base_0_shot"]["all"]) == [(), (), (), ()]
    example, mix = told["base_5_shot"]["all"][0]
    assert mix == ()
    assert example.input == "hot\nAnswer: cold\n\nup\nAnswer: down\n\nquestion 0"
    assert mixes(told["own_expert"]["all"]) == [((0, 1.0),), ((1, 1.0),), ((2, 1.0),), ((2, 1.0),)]
    assert mixes(told["uniform_merge"]["all"])[0] == tuple((i, 1 / 3) for i in range(3))
    assert mixes(told["uniform_merge"]["masked"])[1] == ((0, 0.5), (2, 0.5))
    assert references(QUESTIONS, 3) == told
    many = references(QUESTIONS * 100, 3)["random_expert"]
    assert {mix[0][0] for mix in mixes(many["all"])} == {0, 1, 2}
    assert all(mix[0][0] != q.own for mix, q in zip(mixes(many["masked"]), QUESTIONS * 100, strict=True))


def test_without_labelled_samples_there_is_no_base_with_examples() -> None:
    assert "base_5_shot" not in references([Question(0, Example("a", "b"))], 2)


def test_every_mix_is_what_the_base_answers_with(tmp_path: Path) -> None:
    base, files = running_base(), opened(write_inputs(tmp_path))
    examples = samples(7, 12)
    with AdaptedModel(base.model, files) as adapted:
        asked = [(example, mix) for example in examples for mix in ((), ((0, 1.0),), ((0, 0.5), (1, -0.5)))]
        right = answered(base, adapted, [*asked, *asked])
        assert len(right) == len(set(asked))
        for mix, weights in (((), None), (((0, 1.0),), [1.0, 0.0]), (((0, 0.5), (1, -0.5)), [0.5, -0.5])):
            adapted.coefficients = None if weights is None else adapted.numbers(weights)
            assert [right[example, mix] for example in examples] == exactly_answered(base, examples, PROMPT)


def test_shares_are_over_the_questions_with_intervals_over_tasks() -> None:
    first, second = (Example("a", "x"), ()), (Example("b", "x"), ())
    told = exact_match({"all": [first, second, second]}, {first: True, second: False}, np.array([0, 1, 1]))
    assert told["all"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert (told["all"]["low"], told["all"]["high"]) == (0, 1)
