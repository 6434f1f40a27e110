"""samples.jsonl, as strangers write it."""

import pytest

from registry.errors import InvalidSamples
from registry.samples import dump_samples, parse_samples


def test_samples_survive_a_round_trip():
    samples = [{"input": "Größe?", "output": "10 µm"}, {"input": "line\nbreak"}]
    assert parse_samples(dump_samples(samples)) == samples


def test_blank_lines_and_windows_line_ends_are_fine():
    assert parse_samples(b'{"input": "a"}\r\n\r\n{"input": "b"}\r\n') == [{"input": "a"}, {"input": "b"}]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b"hello", "line 1 is not JSON"),
        (b'{"input": "a"}\n[1]', "line 2"),
        (b'{"input": 3}', "must be a string"),
        (b'{"input": "  "}', "blank"),
        (b'{"output": "x"}', "missing"),
        (b'{"input": "a", "label": "x"}', "nothing else"),
        (b'{"input": "\\ud800"}', "not valid text"),
        (b'{"input": "\\u0000"}', "not valid text"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"input": "a"}\n' * 1001, "at most 1000"),
        (b"[" * 100_000, "line 1"),
    ],
)
def test_bad_samples_are_refused_with_the_line(raw, words):
    with pytest.raises(InvalidSamples, match=words):
        parse_samples(raw)
