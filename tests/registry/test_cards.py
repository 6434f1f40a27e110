"""Cards of strangers, and those we write."""

import pytest

from registry.cards import parse_card
from registry.errors import Invalid

GOOD = b"""---
license: mit
base_model: acme/tiny
tags: [qa, sql]
---
# SQL

Writes SQL
from questions.
"""


def test_front_matter_and_first_paragraph_are_read():
    card = parse_card(GOOD)
    assert (card.license, card.base_model, card.tags) == ("mit", "acme/tiny", ["qa", "sql"])
    assert card.first_paragraph == "Writes SQL from questions."
    assert not card.is_template


def test_a_card_without_front_matter_is_fine():
    assert parse_card(b"Hello").first_paragraph == "Hello"


def test_an_unfilled_template_is_recognised(stranger_cards):
    assert all(parse_card(card).is_template for card in stranger_cards)


@pytest.fixture
def stranger_cards(request):
    return [path.read_bytes() for path in (request.config.rootpath / "tests/data/strangers").glob("*/README.md")]


@pytest.mark.parametrize(
    "raw",
    [
        b"---\na: &a [1]\nb: *a\n---\n",
        b"---\na: !!python/object/apply:os.system [ls]\n---\n",
        b"---\n{\n---\n",
        b"\xff",
        b"a\0b",
        b"x" * (1024 * 1024 + 1),
    ],
)
def test_hostile_cards_are_refused(raw):
    with pytest.raises(Invalid):
        parse_card(raw)


def test_the_front_matter_is_read_as_recipes_are():
    assert parse_card(b"---\nlicense: mit\ndate: 2024-05-01\n---\n").license == "mit"
    with pytest.raises(Invalid, match=r"README\.md cannot be read.* in line 3.*twice") as caught:
        parse_card(b"---\nlicense: mit\nlicense: gpl-3.0\n---\n")
    assert caught.value.detail == {"README.md": "YAML"}
