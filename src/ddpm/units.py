"""Counts, lists, times and sizes as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ddpm.errors import UserError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_NAMES_SHOWN = 12


def counted(count: int, noun: str, plural: str = "") -> str:
    """1 picture, 2,000 pictures."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(names: Sequence[str]) -> str:
    """The first twelve, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def parse_duration(text: str) -> float:
    """Seconds of "90s", "20m", "1h30m", "2d"; a bare number is minutes."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        text += "m"
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        raise UserError(f"--budget {text}: takes a time such as 20m, 90s, 1h30m or 2d")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", text))


def duration(seconds: float) -> str:
    """A time as a person writes it: 45 s, 3 min, 2 h 5 min, 3 d 4 h."""
    seconds = max(0.0, seconds)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def amount(count: int | float) -> str:
    """Bytes as a person writes them, in powers of 1000: 812 kB, 13 MB, 1.2 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= 0.9995 * size:
            return f"{count / size:.1f} {unit}" if count < 9.95 * size else f"{count / size:,.0f} {unit}"
    return f"{count / 1e3:.0f} kB"
