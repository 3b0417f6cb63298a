"""What the commands share: reading options, progress on a terminal or in a pipe."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from io import StringIO
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ddpm.errors import UserError

O = TypeVar("O")  # noqa: E741


def read(options: type[O], command: str, arguments: Sequence[str], description: str) -> O:
    """The options of a command; prints help and leaves, as tyro does. UserError says what is wrong with them."""

    def parse(given: Sequence[str]) -> tuple[O, list[str]]:
        prog = f"ddpm {command}"
        return tyro.cli(options, prog=prog, args=list(given), description=description, return_unknown_args=True)

    said = StringIO()
    try:
        with redirect_stderr(said):
            made, unknown = parse(arguments)
    except SystemExit as left:
        if not left.code:
            raise
        raise UserError(f"{_sentence(said.getvalue())}; ddpm {command} --help lists the options") from None
    if not unknown:
        return made
    name = unknown[0].partition("=")[0]
    if not name.startswith("-"):
        raise UserError(f"{name}: one argument too many; put names with spaces in quotes")
    help_text = StringIO()
    with redirect_stdout(help_text), suppress(SystemExit):
        parse(["--help"])
    raise UserError(f"{name}: no such option; {_nearest(name, help_text.getvalue(), command)}")


def _sentence(box: str) -> str:
    """What tyro says in a box of several lines, up to the first line that it rules."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    ruled = next((i for i, line in enumerate(lines) if line and not line.strip("─")), len(lines))
    return " ".join(line for line in lines[:ruled] if line).rstrip(".")


def _nearest(name: str, help_text: str, command: str) -> str:
    """Did you mean: the option of a help text that is like a name, or like its last part."""
    names = set(re.findall(r"^[│\s]*(?:-\w, )?(--[a-z][\w.-]*)", help_text, re.MULTILINE))
    by_end = {one.rpartition(".")[2].lstrip("-"): one for one in sorted(names, reverse=True)}
    plain = name.lower().replace("_", "-")
    near = difflib.get_close_matches(plain, names, n=1, cutoff=0.75)
    ends = difflib.get_close_matches(plain.rpartition(".")[2].lstrip("-"), by_end, n=1, cutoff=0.75)
    found = near or [by_end[end] for end in ends]
    return f"did you mean {found[0]}?" if found else f"ddpm {command} --help lists them"


def unset(metavar: str, default: str, **options: Any) -> Any:
    """An option that is None unless given; the help says what it then is."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})", **options)


def parse_size(text: str | None, option: str = "--size") -> tuple[int, int] | None:
    """Height and width of "64" or "64x96"."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{option} {text}: takes a height and a width in pixels, as 64 or 64x96")
    return int(parts[0]), int(parts[-1])


def console() -> Console:
    """Where commands print; plain text when it is not a terminal."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; in a pipe a line at each tenth. Nothing appears until the first call."""
    with stages() as advance:
        yield partial(advance, what)


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """The same for work of several stages: what is called is told the stage's name, done and total."""
    if sys.stderr.isatty():
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        task = bar.add_task("", total=None)
        shown = ""

        def advance(what: str, done: int, total: int) -> None:
            nonlocal shown
            if not bar.live.is_started:
                bar.start()
            if what != shown:  # the time left is of this stage alone
                shown = what
                bar.reset(task, description=what)
            bar.update(task, completed=done, total=total)

        try:
            yield advance
        finally:
            bar.stop()
        return
    told: dict[str, int] = {}

    def tell(what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(1, total)
        if tenth > told.get(what, -1):
            told[what] = tenth
            print(f"{what} {done}/{total}", file=sys.stderr, flush=True)

    yield tell
