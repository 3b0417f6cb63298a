"""How a check tells what it found: facts in two columns, then what is worth a look, each line with its mend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDEST = 30


def show_facts(rows: Sequence[tuple[str, str]], out: Console) -> None:
    """What and its value: in columns where there is room, else in lines."""
    if out.is_terminal:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for what, value in rows:
            table.add_row(Text(what), Text(value))
        out.print(table, soft_wrap=False)
        return
    wide = max(len(what) for what, _ in rows)
    for what, value in rows:
        out.print(f"{what:<{wide}}  {value}")


def show_bars(counts: Mapping[str, int], out: Console, most: int = 40) -> None:
    """Counts as bars, in the order given; of more than `most` the largest ones, and how many are left out."""
    shown = counts if len(counts) <= most else dict(sorted(counts.items(), key=lambda one: -one[1])[:most])
    block = "█" if (out.encoding or "").lower().startswith("utf") else "#"
    names = {name: name if len(name) <= _WIDEST else f"{name[: _WIDEST - 1]}…" for name in shown}
    wide, digits = max(map(len, names.values())), len(f"{max(shown.values()):,}")
    longest = max(10, min(60, out.width - wide - digits - 8)) if out.is_terminal else 40
    for name, count in shown.items():
        bar = block * max(count > 0, round(longest * count / max(1, *shown.values())))
        line = Text(f"  {names[name]:<{wide}}  {count:>{digits},}  ")
        out.print(line.append(bar, style="cyan"))
    if len(shown) < len(counts):
        out.print(f"  ... and {len(counts) - len(shown):,} smaller ones")


def show_list(title: str, lines: Sequence[str], out: Console, most: int = 10) -> None:
    """A title and the first lines under it; nothing if there are none."""
    if not lines:
        return
    out.print(title)
    for line in lines[:most]:
        out.print(f"  {line}")
    if len(lines) > most:
        out.print(f"  ... and {len(lines) - most:,} more")


def show_findings(lines: Sequence[str], out: Console, fine: str) -> None:
    """What is worth a look; `fine` if nothing is."""
    out.print()
    if not lines:
        out.print(Text(fine, style="green"))
        return
    out.print(Text("worth a look:", style="bold"))
    if out.is_terminal:
        table = Table.grid(padding=(0, 1, 0, 0))
        for line in lines:
            table.add_row(Text("-"), Text(line))
        out.print(table, soft_wrap=False)
        return
    for line in lines:
        out.print(f"- {line}")
