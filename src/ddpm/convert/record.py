"""What a converter reads: another project's model as one of ours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ddpm.store import Description


@dataclass(frozen=True)
class Foreign:
    """Weights under our names, in float32, and what they are.

    kind: the format, as `ddpm convert --to` names it, or of where it can only come from. notes: what there is to
    say to whoever uses it, as what was left out.
    """

    kind: str
    weights: dict[str, Tensor]
    description: Description
    notes: tuple[str, ...] = ()
