"""docs/performance.md: a section a subject, with what it was measured with and which targets were reached."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

_HEAD = """# Performance

Written by `make bench` ([benchmarks/bench](../benchmarks/bench)), not by hand. Ours and others' run in turn in one
process; a ratio is how many times faster ours is, the median over rounds with the quartiles in brackets. Absolute
times are what a shared machine gave at that moment: compare within a section alone. What was tried and did not
help is in [log.md](log.md).
"""
_ROOT = Path(__file__).parents[2]
_PACKAGES = ("torch", "diffusers", "azula", "denoising-diffusion-pytorch", "onnxruntime", "numpy", "pillow")


@dataclass
class Section:
    """A subject's tables, lines and targets, as Markdown."""

    title: str
    parts: list[str] = field(default_factory=list)
    targets: list[tuple[str, str, bool]] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.parts.append(text)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, *rows)]
        self.parts.append("\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]))

    def target(self, wanted: str, measured: str, reached: bool) -> None:
        self.targets.append((wanted, measured, reached))

    @property
    def text(self) -> str:
        parts = [f"## {self.title}", made_on(), *self.parts]
        if self.targets:
            rows = [
                f"- {'reached' if ok else '**not reached**'}: {wanted}: {got}" for wanted, got, ok in self.targets
            ]
            parts.append("\n".join(rows))
        return "\n\n".join(parts) + "\n"


class Page:
    """The file, whose sections are marked by the subject's name."""

    def __init__(self, path: Path, order: Sequence[str]):
        self.path, self.order = path, tuple(order)

    def sections(self) -> dict[str, str]:
        if not self.path.exists():
            return {}
        found = re.findall(r"<!-- (\S+) -->\n(.*?)(?=<!-- |\Z)", self.path.read_text(encoding="utf-8"), re.DOTALL)
        return {name: text.strip() for name, text in found}

    def write(self, name: str, section: Section) -> None:
        sections = self.sections() | {name: section.text.strip()}
        known = [one for one in self.order if one in sections]
        body = "\n\n".join(f"<!-- {one} -->\n{sections[one]}" for one in known)
        self.path.write_text(f"{_HEAD}\n{body}\n", encoding="utf-8")


def made_on() -> str:
    """Date, machine and versions, in a line."""
    packages = []
    for name in _PACKAGES:
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"{name} not installed")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    today = datetime.date.today().isoformat()
    return (
        f"{today}, {_processor()}, {cores} cores ({torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}), {memory}{card}; Python {platform.python_version()}, "
        f"{', '.join(packages)}; commit {_commit()}; {_load()}."
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _load() -> str:
    """How many processes wanted a core over five minutes: more than the threads, and others were at work."""
    return f"load {os.getloadavg()[1]:.1f}" if hasattr(os, "getloadavg") else "load unknown"


def _commit() -> str:
    """The commit, and whether the code is another by now."""

    def git(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *command], cwd=_ROOT, capture_output=True, text=True)

    at = git("rev-parse", "--short", "HEAD").stdout.strip() or "unknown"
    return at if git("diff", "--quiet", "HEAD", "--", "src", "benchmarks").returncode == 0 else f"{at} and changes"
