"""The picture that stands for a share where its address is posted: λ, the title and the model, 1200 by 630 pixels.

Drawn with Noto Sans CJK: Latin, Cyrillic, Greek without accents, Chinese, Japanese, Korean. A title that holds anything
else, other scripts and emoji among it, is not drawn as boxes: the card then says only that it is a conversation.
"""

from __future__ import annotations

import io
import unicodedata
from bisect import bisect_right
from functools import cache, lru_cache

from noto_cjk_sans_otc import FONT_PATH
from PIL import Image, ImageDraw, ImageFont

SIZE = (1200, 630)
MARGIN = 84
TITLE_LINES = 3
# Of the collection's faces, the one for simplified Chinese.
FACE = 2

PAGE, TEXT, QUIET, ACCENT, LINE = "#ffffff", "#1a1822", "#6b6777", "#7f4fe0", "#e4e1ea"
UNTITLED = "A shared conversation"
# Drawn as the box that stands for every character that the font lacks.
NOT_A_CHARACTER = "\U0010fffe"


@lru_cache(maxsize=64)
def draw(title: str, models: tuple[str, ...]) -> bytes:
    """PNG. Tens of milliseconds the first time; the same words again cost nothing."""
    image = Image.new("RGB", SIZE, PAGE)
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((0, 0, SIZE[0], 12), fill=ACCENT)
    _mark(image, canvas)
    shown = _plain(title)
    if not _is_drawable(shown):
        shown = UNTITLED
    y = 214
    for line in _lines(shown, _font(62), SIZE[0] - 2 * MARGIN):
        canvas.text((MARGIN, y), line, font=_font(62), fill=TEXT, stroke_width=1, stroke_fill=TEXT)
        y += 86
    canvas.line((MARGIN, 522, SIZE[0] - MARGIN, 522), fill=LINE, width=2)
    names = _plain(", ".join(models))
    if _is_drawable(names):
        foot = _lines(f"with {names}", _font(30), SIZE[0] - 2 * MARGIN)[:1]
        canvas.text((MARGIN, 540), foot[0], font=_font(30), fill=QUIET)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=False)
    return file.getvalue()


def _mark(image: Image.Image, canvas: ImageDraw.ImageDraw) -> None:
    # Pillow does not smooth its shapes: drawn four times as large, and made small.
    large = Image.new("L", (4 * 84, 4 * 84))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * 84 - 1, 4 * 84 - 1), radius=4 * 26, fill=255)
    image.paste(ACCENT, (MARGIN, 76), large.resize((84, 84)))
    canvas.text((MARGIN + 42, 116), "λ", font=_font(56), fill="#ffffff", anchor="mm", stroke_width=1)
    canvas.text((MARGIN + 108, 118), "Lambda Chat", font=_font(38), fill=TEXT, anchor="lm", stroke_width=1)


def _plain(text: str) -> str:
    """Without what has no shape of its own: controls, and marks that would turn the direction round."""
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())


def _is_drawable(text: str) -> bool:
    font = _font(62)
    missing = bytes(font.getmask(NOT_A_CHARACTER))
    return bool(text) and all(c == " " or bytes(font.getmask(c)) != missing for c in set(text))


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """At most TITLE_LINES lines, broken at spaces where there are some; the last ends with "…" where more follows."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < TITLE_LINES:
        end = _fitting(rest, font, width)
        if end < len(rest) and " " in rest[end // 2 : end + 1]:
            end = rest.rindex(" ", 0, end + 1)
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    if rest:
        lines[-1] = lines[-1][: _fitting(lines[-1] + "…", font, width) - 1].rstrip() + "…"
    return lines


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many of its characters fit; at least one."""
    return max(1, bisect_right(range(1, len(text) + 1), width, key=lambda end: int(font.getlength(text[:end]))))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT_PATH), size, index=FACE, layout_engine=ImageFont.Layout.BASIC)
