"""Decisions, each with its reason; what was asked for is decided already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddpm.config import Config


@dataclass(frozen=True)
class Decision:
    """A line of the plan: what was decided or is expected, its value, why it is that."""

    what: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} {self.value}: {self.why}"


@dataclass(frozen=True)
class Expected:
    """What a training will take: seconds (None: not measured), bytes of memory at its peak, and of disk."""

    seconds: float | None
    memory: int
    disk: int


@dataclass(frozen=True)
class Planned:
    """A config, how it came about, what it will take.

    warnings are worth a thought; obstacles will make the training fail.
    """

    config: Config
    decisions: tuple[Decision, ...]
    expected: Expected
    warnings: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """All of it in lines, as a run keeps it."""
        return (*map(str, self.decisions), *(f"note: {line}" for line in (*self.warnings, *self.obstacles)))


class Choices:
    """A config in the making: `pick` decides a field unless it was asked for, `say` notes the reason."""

    def __init__(self, config: Config, asked: Mapping[str, Any], because: Mapping[str, str] | None = None):
        """asked: values by dotted name, as {"net.channels": 64}; because: the reasons that are not "asked for"."""
        self._because = because or {}
        self.asked, self._before = frozenset(asked), config
        self.config = config.with_(**{name.replace(".", "__"): value for name, value in asked.items()})
        self.decisions: list[Decision] = []
        self._said: set[str] = set()
        self.warnings: list[str] = []
        self.obstacles: list[str] = []

    def __getitem__(self, name: str) -> Any:
        """A field by its dotted name, as it stands."""
        section, _, item = name.partition(".")
        return getattr(getattr(self.config, section), item)

    def pick(self, name: str, value: Any) -> Any:
        """The field is `value` unless it was asked for; returns what it then is."""
        if name not in self.asked:
            self.config = self.config.with_(**{name.replace(".", "__"): value})
        return self[name]

    def say(self, what: str, value: object, why: str, *names: str) -> None:
        """Notes a decision about the fields of these names; the reason is another for those asked for."""
        given = [name for name in names if name in self.asked]
        if given and len(given) == len(names):
            why = self._because.get(names[0], "asked for")
        elif given:
            reason = self._because.get(given[0], "asked for")
            why = f"{', '.join(name.partition('.')[2] for name in given)} {reason}; {why}"
        self._said.update(names)
        self.decisions.append(Decision(what, str(value), why))

    def say_the_rest(self) -> None:
        """Notes what was asked for and not spoken of, unless it changes nothing."""
        for name in sorted(self.asked - self._said - {"data.path"}):
            value, (section, _, item) = self[name], name.partition(".")
            if value != getattr(getattr(self._before, section), item):
                shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
                self.say(name, shown, "", name)
