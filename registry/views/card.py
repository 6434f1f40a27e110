"""Cards as HTML. They are written by strangers: no raw HTML, no pictures from elsewhere, only plain elements."""

import re
from collections.abc import Mapping, Sequence
from posixpath import normpath
from typing import Any
from urllib.parse import unquote

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

TAGS = frozenset(
    "a blockquote br code del em h3 h4 h5 h6 hr li ol p pre s strong table tbody td th thead tr ul".split()
)
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
# A wide table scrolls by itself, and the keyboard can only scroll what it can reach.
SET_ATTRIBUTES = {"table": {"tabindex": "0"}}
SCHEMES = {"http", "https", "mailto"}
# A card's own top heading stands below the page's.
HEADING_SHIFT = 2


def _image_as_link(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """Name the picture and link to it: the policy of our pages would block it, and a visitor's address is private."""
    token = tokens[index]
    alt = renderer.renderInlineAsText(token.children or [], options, env) or "picture"
    target = _target(str(token.attrGet("src") or ""), env["files"])
    if target is None:
        return nh3.clean_text(alt)
    return f'<a href="{nh3.clean_text(target)}">{nh3.clean_text(alt)}</a>'


def _link(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A link to elsewhere, or to a file of the revision; one that leads nowhere stays without a target."""
    token = tokens[index]
    target = _target(str(token.attrGet("href") or ""), env["files"])
    if target is None:
        return "<a>"
    token.attrSet("href", target)
    return renderer.renderToken(tokens, index, options, env)


def _target(url: str, files: Mapping[str, str]) -> str | None:
    """Where a card's link leads. Cards are written for a folder of files, not for our paths."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url):
        return url
    path = unquote(url.partition("#")[0].partition("?")[0])
    return files.get(normpath(path)) if path else None


def _markdown() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.add_render_rule("image", _image_as_link)
    parser.add_render_rule("link_open", _link)
    return parser


MARKDOWN = _markdown()


def render_card(text: str, files: Mapping[str, str] | None = None) -> str:
    """Safe HTML of a card's Markdown body. `files`: path → URL of what its relative links may lead to."""
    env = {"files": files or {}}
    tokens = MARKDOWN.parse(text, env)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + HEADING_SHIFT, 6)}"
    html = MARKDOWN.renderer.render(tokens, MARKDOWN.options, env)
    return nh3.clean(
        html,
        tags=set(TAGS),
        attributes=ATTRIBUTES,
        set_tag_attribute_values=SET_ATTRIBUTES,
        url_schemes=SCHEMES,
        link_rel="nofollow noopener noreferrer ugc",
    )
