"""Markdown as sanitised HTML, made on the server: for pages that are read without scripts.

The same dialect as static/js/worker/markdown.js: CommonMark with tables and strikethrough, raw HTML is text, an image
is a link to it, only http, https and mailto are addresses. What comes out loads nothing and runs nothing: nh3 has the
last word on it, and the page's policy would refuse the rest. Formulas and bare addresses stay as they were written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token

# Raise this whenever the HTML of a text changes: snapshots that an older version rendered are rendered again.
RENDERING = 1
SCHEMES = ("http", "https", "mailto")

_ADDRESS = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
_CELL_ALIGN = re.compile(r"text-align:(left|center|right)")


class _Markdown(MarkdownIt):
    def validateLink(self, url: str) -> bool:
        return bool(_ADDRESS.match(url))


def render(text: str) -> str:
    """The HTML of a text: one `<div class="block" dir="auto">` for each top-level block, in its own direction."""
    environment: dict[str, Any] = {}
    tokens = _parser.parse(text, environment)
    blocks = (_parser.renderer.render(block, _parser.options, environment) for block in _top_level_blocks(tokens))
    return _cleaner.clean("".join(f'<div class="block" dir="auto">{block}</div>\n' for block in blocks))


def _top_level_blocks(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    block: list[Token] = []
    depth = 0
    for token in tokens:
        block.append(token)
        depth += token.nesting
        if depth == 0:
            yield block
            block = []


def _code(tokens: Sequence[Token], index: int, options: object, environment: object) -> str:
    token = tokens[index]
    words = token.info.split()
    language = escapeHtml(words[0][:40]) if words else "text"
    return (
        f'<figure class="code-block"><figcaption>{language}</figcaption>'
        f'<pre tabindex="0" translate="no"><code>{escapeHtml(token.content)}</code></pre></figure>'
    )


def _image(tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
    token = tokens[index]
    address = str(token.attrGet("src") or "")
    label = token.content or address
    return f'<a href="{escapeHtml(address)}">{escapeHtml(label)}</a>'


def _cell(tokens: Sequence[Token], index: int, options: object, environment: object) -> str:
    # The alignment comes as a style attribute, which the page's policy refuses.
    token = tokens[index]
    align = _CELL_ALIGN.search(str(token.attrGet("style") or ""))
    return f'<{token.tag} data-align="{align[1]}">' if align else f"<{token.tag}>"


def _table_open(*_: object) -> str:
    return '<div class="table-scroll" tabindex="0" role="group" aria-label="Table"><table>'


def _table_close(*_: object) -> str:
    return "</table></div>"


def _make_parser() -> MarkdownIt:
    parser = _Markdown("commonmark", {"html": False}).enable(["table", "strikethrough"])
    rules: dict[str, Any] = {
        "fence": _code,
        "code_block": _code,
        "image": _image,
        "th_open": _cell,
        "td_open": _cell,
        "table_open": _table_open,
        "table_close": _table_close,
    }
    parser.renderer.rules.update(rules)  # type: ignore[attr-defined]
    return parser


_parser = _make_parser()
_TAGS = (
    "a blockquote br code del div em figcaption figure h1 h2 h3 h4 h5 h6 hr li ol p pre s strong table tbody td th "
    "thead tr ul"
)
_cleaner = nh3.Cleaner(
    tags=set(_TAGS.split()),
    attributes={
        "a": {"href"},
        "div": {"dir", "tabindex", "role", "aria-label"},
        "ol": {"start"},
        "pre": {"tabindex", "translate"},
        "td": {"data-align"},
        "th": {"data-align"},
    },
    allowed_classes={"div": {"block", "table-scroll"}, "figure": {"code-block"}},
    url_schemes=set(SCHEMES),
    url_relative="deny",
    link_rel="noreferrer nofollow noopener",
)
