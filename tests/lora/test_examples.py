"""The line that samples of a task have in common above what differs."""

import pytest

from lora.examples import MAX_INSTRUCTION_CHARS, Example, below, instruction_of

LONG = "x" * (MAX_INSTRUCTION_CHARS + 1)


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        (["Add them.\n1 + 2", "Add them.\n3 + 4\nplease"], "Add them."),
        (["Add them.\n1 + 2", "Add them.\n1 + 2"], None),  # one input, whose first line may be anything
        (["Add them.\n1 + 2"], None),
        (["Add them.\n1 + 2", "Add.\n1 + 2"], None),
        (["Add them.\n1 + 2", "Add them."], None),
        (["Add them.\n1 + 2", "Add them.\n \n"], None),
        (["\n1 + 2", "\n3 + 4"], None),
        ([f"{LONG}\n1", f"{LONG}\n2"], None),
        (["1 + 2", "3 + 4"], None),
        ([], None),
    ],
)
def test_an_instruction_is_a_first_line_above_other_text(inputs, line):
    assert instruction_of(inputs) == line


def test_examples_below_an_instruction_have_it():
    examples = [Example("1 + 2", "3"), Example("3 + 4")]
    assert below(None, examples) == examples
    told = below("Add them.", examples)
    assert instruction_of(one.input for one in told) == "Add them."
    assert [one.output for one in told] == ["3", None]
