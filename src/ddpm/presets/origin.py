"""Where a preset comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """The paper, the place in it, and the FID it reports, None without one.

    samples: how many the FID is of. classes: those of the paper's data, 0 for an unconditional model.
    An upsampler's FID is that of the pair: of samples of the model for its small pictures, enlarged.
    """

    paper: str
    where: str
    fid: float | None
    samples: int = 50_000
    classes: int = 0
