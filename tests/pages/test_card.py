"""Cards, which strangers write, as HTML."""

import pytest

from registry.views.card import render_card
from tests.pages.html import Page

pytestmark = pytest.mark.django_db


def test_a_card_keeps_its_prose_and_loses_what_could_act() -> None:
    html = render_card(
        "# Title\n\n**bold** <script>alert(1)</script> <img src=x onerror=alert(1)>\n\n"
        "![chart](https://elsewhere.example/x.png) [bad](javascript:alert(1)) [good](https://x.example/a)\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    page = Page(html)
    assert page.inline == []
    assert "<h3>Title</h3>" in html
    assert "<strong>bold</strong>" in html
    assert "<img" not in html
    assert 'href="https://elsewhere.example/x.png"' in html
    assert 'href="javascript' not in html
    assert "<td>1</td>" in html
    assert 'rel="nofollow noopener noreferrer ugc"' in html


def test_relative_links_lead_to_files_of_the_revision_or_nowhere() -> None:
    files = {"samples.jsonl": "/api/files/samples.jsonl?revision=1"}
    html = render_card(
        "[a](./samples.jsonl) [b](docs/x.md) [c](/admin/) [d](//evil.example/x) [e](#part) "
        "![plot](samples.jsonl) ![no](x.png)",
        files,
    )
    assert html.count('href="/api/files/samples.jsonl?revision=1"') == 2
    assert html.count("href=") == 2
    assert "evil" not in html
    for text in ("a", "b", "c", "d", "e", "plot"):
        assert f">{text}</a>" in html
    assert "no</p>" in html


def test_long_words_code_and_tables_stay_what_they_are() -> None:
    html = render_card("W" * 500 + "\n\n```python\nx = 1 < 2\n```\n\n| a | b |\n|:-:|---|\n| `c` | <b>d</b> |\n")
    assert "W" * 500 in html
    assert "<pre><code>x = 1 &lt; 2" in html
    assert '<table tabindex="0">' in html
    assert "<code>c</code>" in html
    assert "&lt;b&gt;d" in html
    assert "style=" not in html
