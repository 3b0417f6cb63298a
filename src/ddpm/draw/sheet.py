"""A contact sheet: captioned blocks of pictures that flow into lines, under headings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddpm.draw.pictures import opaque, picture

_GAP, _APART, _LINE, _HEADING, _MARGIN = 2, 14, 16, 34, 12
_INK, _GREY = (30, 30, 30), (105, 105, 105)


@dataclass(frozen=True, eq=False)
class Block:
    """Pictures uint8 [C, H, W] side by side, under lines of caption."""

    captions: tuple[str, ...]
    pictures: Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class Section:
    """Blocks under a heading."""

    heading: str
    blocks: Sequence[Block]


def sheet(sections: Sequence[Section], width: int = 1340, side: int = 100) -> Image.Image:
    """Sections one under another, `width` pixels wide at the most unless a block is wider.

    Pictures are enlarged by the whole factor that brings them nearest to `side` pixels, so that their pixels show;
    those of more than one and a half times as many are shrunk to it.
    """
    shown = {
        id(block): [_scaled(pixels, side) for pixels in block.pictures] for s in sections for block in s.blocks
    }
    cell = max((max(image.size) for images in shown.values() for image in images), default=side)
    placed: list[tuple[int, int, Block]] = []
    headings: list[tuple[int, str]] = []
    top, right = _MARGIN, 0
    for section in sections:
        headings.append((top, section.heading))
        top += _HEADING
        left, tallest = _MARGIN, 0
        for block in section.blocks:
            across = _across(block, cell)
            if left > _MARGIN and left + across > width - _MARGIN:
                left, top, tallest = _MARGIN, top + tallest, 0
            placed.append((left, top, block))
            right = max(right, left + across)
            left += across + _APART
            tallest = max(tallest, len(block.captions) * _LINE + cell + _APART)
        top += tallest
    font, bold = ImageFont.load_default(12), ImageFont.load_default(17)
    widest = max((round(bold.getlength(text)) for _, text in headings), default=0)
    page = Image.new("RGB", (max(right, _MARGIN + widest) + _MARGIN, top + _MARGIN), "white")
    pen = ImageDraw.Draw(page)
    for y, text in headings:
        pen.text((_MARGIN, y + 6), text, _INK, bold)
    for left, y, block in placed:
        for number, caption in enumerate(block.captions):
            pen.text((left, y + number * _LINE), _shortened(caption, _across(block, cell), font), _GREY, font)
        below = y + len(block.captions) * _LINE + 2
        for number, image in enumerate(shown[id(block)]):
            page.paste(image, (left + number * (cell + _GAP), below))
    return page


def _across(block: Block, cell: int) -> int:
    return max(1, len(block.pictures)) * (cell + _GAP) - _GAP


def _scaled(pixels: np.ndarray, side: int) -> Image.Image:
    image = opaque(picture(pixels))
    longest = max(image.size)
    factor = round(side / longest)
    if factor:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    wide, high = (max(1, round(each * side / longest)) for each in image.size)
    return image.resize((wide, high), Image.Resampling.LANCZOS)


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, its middle left out where it is wider: names of files differ at both ends."""
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: -(-kept // 2)]}…{text[len(text) - kept // 2 :]}"
        if font.getlength(short) <= width:
            return short
    return text[:1]
