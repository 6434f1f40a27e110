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
