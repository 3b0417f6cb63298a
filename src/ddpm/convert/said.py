"""What a JSON file of another project says, checked key by key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm.errors import UserError, short

_SHOWN = 200  # characters of a value in a message


class Said:
    """What a file says, with what is meant where it says nothing."""

    def __init__(self, path: Path, values: Mapping[str, Any], otherwise: Mapping[str, Any]):
        self.path, self.own, self.values = path, values, {**otherwise, **values}

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def says(self, key: str) -> bool:
        """Whether the file has the key."""
        return key in self.own

    def refusal(self, key: str, rule: str) -> UserError:
        return UserError(f"{self.path}: {key} {_shown(self.values.get(key))}: {rule}")

    def only(self, key: str, *values: Any, rule: str) -> None:
        """Refuses all other values."""
        if not any(type(self[key]) is type(value) and self[key] == value for value in values):
            raise self.refusal(key, rule)

    def whole(self, key: str) -> int:
        """A positive whole number."""
        value = self[key]
        if type(value) is not int or value < 1:
            raise self.refusal(key, "is a positive whole number")
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = self[key]
        if type(value) not in (int, float) or not abs(value) < 1e300:
            raise self.refusal(key, "is a number")
        return float(value)


def _shown(value: Any) -> str:
    """A value as JSON has it; of a long or deep one as much as there is room for."""
    try:
        text = json.dumps(value)
    except (RecursionError, ValueError):
        return short(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"
