"""Markdown on the server: what people write with it, and what they attack with it."""

from __future__ import annotations

import re

import pytest

from chat.markdown import render


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# Title", "<h1>Title</h1>"),
        ("*a* **b** ~~c~~ `d`", "<em>a</em> <strong>b</strong> <s>c</s> <code>d</code>"),
        ("- one\n- two", "<li>one</li>\n<li>two</li>"),
        ("3. three", '<ol start="3">'),
        ("> said", "<blockquote>"),
        ("|a|b|\n|:-|-:|\n|1|2|", '<td data-align="left">1</td>\n<td data-align="right">2</td>'),
        (
            "```python\nx < 1\n```",
            '<figcaption>python</figcaption><pre tabindex="0" translate="no"><code>x &lt; 1\n</code>',
        ),
        ("    indented", "<figcaption>text</figcaption>"),
        ("<https://a.example/?b&c>", '<a href="https://a.example/?b&amp;c" rel="noreferrer nofollow noopener">'),
        ("[m](mailto:a@b.example)", 'href="mailto:a@b.example"'),
        (
            "![alt](https://a.example/p.png)",
            '<a href="https://a.example/p.png" rel="noreferrer nofollow noopener">alt</a>',
        ),
    ],
)
def test_markdown_becomes_html(text: str, html: str) -> None:
    assert html in render(text)


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<iframe src=https://evil.example></iframe>",
    "<svg onload=alert(1)>",
    "<style>*{background:url(https://evil.example)}</style>",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](&#106;avascript:alert(1))",
    "[a](java\tscript:alert(1))",
    "[a](data:text/html,<script>alert(1)</script>)",
    "[a](//evil.example)",
    "[a](/conversations)",
    "[a](vbscript:x)",
    '![x"onerror="alert(1)](https://evil.example/x.png)',
    '![x](https://evil.example/"onerror="alert(1))',
    '[a](https://ok.example "x\\" onmouseover=\\"alert(1)")',
    "```<script>\nx\n```",
    '```"onclick="alert(1)\nx\n```',
    "<https://evil.example/><script>",
    "[ref]\n\n[ref]: javascript:alert(1)",
    "|<script>|\n|-|\n|<img src=x onerror=y>|",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_what_is_written_as_markup_stays_text(text: str) -> None:
    html = render(text)
    tags = re.findall(r"<[^>]*>", html)
    for tag in tags:
        assert re.match(r"</?(a|blockquote|br|code|div|em|figcaption|figure|h\d|li|p|pre|t\w+)[\s>]", tag), tag
        assert not re.search(r"\s(on\w+|src|style|id|name)=", re.sub(r'"[^"]*"', '""', tag)), tag
        for address in re.findall(r'href="([^"]*)"', tag):
            assert re.match(r"https?://|mailto:", address), tag


def test_each_block_finds_its_own_direction() -> None:
    assert render("مرحبا\n\nhello").count('<div class="block" dir="auto">') == 2


def test_deep_nesting_and_nothing_at_all_are_no_fault() -> None:
    assert render("") == ""
    assert render("> " * 200 + "x").count("<blockquote>") > 10
