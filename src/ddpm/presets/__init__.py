"""The papers' settings, as functions that return a config: a file a paper. Imports no torch.

All train in 32 bits: OpenAI's published models were trained in fp16, which needs a GPU and says nothing about the
model; `--precision` chooses it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.presets import adm, ho, improved
from ddpm.presets.origin import Origin

__all__ = ["ORIGINS", "PRESETS", "Origin", "preset"]

ORIGINS: dict[str, Origin] = {**ho.ORIGINS, **improved.ORIGINS, **adm.ORIGINS}
"""Every preset's."""

PRESETS: dict[str, Callable[[], Config]] = {**ho.PRESETS, **improved.PRESETS, **adm.PRESETS}


def preset(name: str) -> Config:
    """The config of a name."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"--preset {name}: {hint}there are {', '.join(PRESETS)}")
    return PRESETS[name]()
