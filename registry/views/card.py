"""Cards as HTML. They are written by strangers: no raw HTML, no pictures from elsewhere, only plain elements."""

from collections.abc import Sequence
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

TAGS = frozenset(
    "a blockquote br code del em h3 h4 h5 h6 hr li ol p pre s strong table tbody td th thead tr ul".split()
)
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
# A card's own top heading stands below the page's.
HEADING_SHIFT = 2


def _image_as_link(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """Name the picture and link to it: the policy of our pages would block it, and a visitor's address is private."""
    token = tokens[index]
    alt = renderer.renderInlineAsText(token.children or [], options, env) or "picture"
    return f'<a href="{nh3.clean_text(str(token.attrGet("src") or ""))}">{nh3.clean_text(alt)}</a>'


def _markdown() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.add_render_rule("image", _image_as_link)
    return parser


MARKDOWN = _markdown()


def render_card(text: str) -> str:
    """Safe HTML of a card's Markdown body."""
    tokens = MARKDOWN.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + HEADING_SHIFT, 6)}"
    html = MARKDOWN.renderer.render(tokens, MARKDOWN.options, {})
    return nh3.clean(
        html,
        tags=set(TAGS),
        attributes=ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="nofollow noopener noreferrer ugc",
    )
