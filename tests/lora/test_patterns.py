"""Our automaton agrees with `re` on what it accepts, and refuses what `re` would take ages for."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora import patterns
from lora.pattern_syntax import UnsafePattern, parse_pattern
from lora.patterns import Matcher, PatternTable

PATHS = [
    "q_proj",
    "model.layers.0.self_attn.q_proj",
    "model.layers.12.mlp.up_proj",
    "model.layers.3.self_attn.o_proj",
    "vision_tower.blocks.7.attn.qkv",
    "model.language_model.layers.21.mlp.gate_proj",
]

UNSLOTH = (
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|gate_proj|o_proj|up_proj|down_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:k_proj|v_proj|q_proj)))"
)


@pytest.mark.parametrize(
    "pattern",
    [
        r".*(q_proj|v_proj)$",
        r".*\.(mlp|self_attn)\.(up|down|gate|k|q|v|o)_proj",
        r"^model\.layers\.(1[0-9]|2[0-3]|[0-9])\..*",
        r"model.layers.\d{1,2}.(mlp|self_attn).\w+_proj",
        r".*attn.[^.]*",
        r"(?:model\.)?.*\b(?:q|o)_proj",
        r"[^\d]+",
        r".+\.layers\.\d+?\.mlp\.(?:gate_|up_)?proj",
        UNSLOTH,
    ],
)
def test_it_agrees_with_re(pattern: str) -> None:
    matcher = Matcher([parse_pattern(pattern)])
    assert [matcher.first(path) is not None for path in PATHS] == [bool(re.fullmatch(pattern, path)) for path in PATHS]


PIECES = st.sampled_from(["a", "b", ".", r"\.", "[ab]", "[^a]", r"\d", r"\b", "^", "$", "(?:a|b)", "(?:ab|c)"])
QUANTIFIED = st.builds(
    lambda piece, count: piece + count, PIECES, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,2}"])
)
PATTERNS = st.recursive(
    st.lists(QUANTIFIED, min_size=1, max_size=4).map("".join),
    lambda inner: st.builds(lambda left, right: f"({left}|{right})", inner, inner),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(pattern=PATTERNS, text=st.text("ab.c1", max_size=6))
def test_it_agrees_with_re_on_made_up_patterns(pattern: str, text: str) -> None:
    try:
        matcher = Matcher([parse_pattern(pattern)])
    except UnsafePattern:
        return
    assert (matcher.first(text) is not None) == bool(re.fullmatch(pattern, text))


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$", r"(a|a)*b", r"(a|aa)+b", r"(a?){30}a{30}", r"(.*)*(.*)*x", ".*" * 9, "a?" * 20, "(?=(a+)+)b",
        "a**", "a{5,2}", "a{1000}", "a{x}", "*a", "(", ")", "a)", "[a", "[z-a]", "\\", r"\1", r"\Bq",
        "(?i)x", "(?P<x>a)", "x" * 10_001, "(" * 5_000, "(" * 40 + ")" * 40, "(?#note)", "a*+",
    ],
)  # fmt: skip
def test_a_bomb_or_a_broken_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UnsafePattern, match=r"^it "):
        parse_pattern(pattern)


def test_lookaround_is_judged_but_not_evaluated() -> None:
    node = parse_pattern(r"^(?!.*visual).*(?:q_proj|v_proj).*")
    with pytest.raises(UnsafePattern, match="ahead"):
        Matcher([node])


def test_counts_that_multiply_do_not_fill_the_memory() -> None:
    with pytest.raises(UnsafePattern, match="too large"):
        Matcher([parse_pattern("((((a{100}){100}){100}){100}){100}")])


@pytest.mark.parametrize(
    "keys",
    [
        ["q_proj", "model.layers.0.self_attn.q_proj"],
        ["model.layers.0.self_attn.q_proj", "q_proj"],
        [r"layers\.\d+\.mlp\..*", "up_proj"],
        ["up_proj", r"layers\.\d+\.mlp\..*"],
        ["^q_proj", "o_proj"],
        [r".*\.(self_attn|attn)\.(q_proj|qkv)"],
        ["layers.0", "self.attn.q.proj", "proj"],
        [],
    ],
)
def test_the_first_key_of_a_table_is_that_of_peft(keys: list[str]) -> None:
    table = PatternTable(keys)
    for path in PATHS:
        expected = next((key for key in keys if re.match(rf"(.*\.)?({key})$", path)), None)
        assert table.first(path) == expected


def test_thousands_of_keys_are_looked_up_quickly() -> None:
    keys = [f"model.layers.{i}.self_attn.{name}_proj" for i in range(800) for name in "qkvo"]
    begin = time.process_time()
    table = PatternTable([*keys, r"layers\.\d+\.mlp.*"])
    assert all(table.first(key) == key for key in keys)
    assert time.process_time() - begin < 5


def test_patterns_that_take_too_long_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MAX_STEPS", 1000)
    table = PatternTable([f".*a{i}.*b" for i in range(50)])
    with pytest.raises(UnsafePattern, match="too long"):
        [table.first("a.b.c." * 20 + str(i)) for i in range(20)]
