"""How pictures are drawn, as it is asked for: sampler, number of steps, grid of levels, the sampler's own options.

What is left out is chosen here, in one place: what `ddpm tune` found best for the run, if it was asked, else the
default. What a walk costs is evaluations of the net; of most samplers it is one a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from ddpm.chain import Chain
from ddpm.grids import Grid
from ddpm.respacing import known
from ddpm.samplers import Sampler, make_sampler

DEFAULT = "dpm++sde"
"""The sampler that is taken unless one is asked for."""
USUAL: dict[str, tuple[int | None, str]] = {
    "ddpm": (None, "uniform"),
    "ddim": (50, "uniform"),
    "dpm++": (20, "trailing"),
    "dpm++sde": (20, "trailing"),
    "heun": (10, "log-snr"),
    "pc": (None, "uniform"),
}
"""Of each sampler the number of steps, None for all, and the grid."""

Steps: TypeAlias = int | str | Iterable[int] | None


@dataclass(frozen=True)
class Method:
    """None stands for what `resolved` chooses.

    steps: so many, a spec of Chain.respace, or the levels. grid: one of respacing.GRIDS, "fitted" or a grids.json.
    options: the sampler's own, see `samplers`.
    """

    sampler: str | None = None
    steps: Steps = None
    grid: str | Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, sampler: str | None = None, steps: Steps = None, grid: str | Path | None = None, **options: Any
    ) -> Method:
        """As Pipeline's methods are asked."""
        return cls(sampler, steps, grid, options)

    @property
    def open(self) -> bool:
        """Whether nothing but a number of evaluations is asked for."""
        return self.sampler is None and self.grid is None and not self.options

    def resolved(self, T: int, tuned: Callable[[int | None], Method | None] = lambda steps: None) -> Method:
        """With nothing left open, for a model of T levels; UserError for what does not go together.

        tuned: the best method of so many evaluations, of the usual number for None; None if there is none.
        """
        steps = self.steps
        if isinstance(steps, str):
            steps = int(steps) if steps.strip().isdecimal() else steps.strip()
        elif steps is not None and not isinstance(steps, int):
            steps = tuple(steps)
        if self.open and (steps is None or isinstance(steps, int)) and (best := tuned(steps)) is not None:
            return best.resolved(T)
        sampler = self.sampler or DEFAULT
        make_sampler(sampler, **self.options)
        usual, grid = USUAL[sampler]
        if self.grid is not None:
            grid = str(self.grid)
        elif not isinstance(steps, int | None):
            grid = "uniform"
        made = replace(self, sampler=sampler, steps=steps, grid=grid)
        if steps is None:
            steps = T if usual is None and not made.fitted else min(usual or 50, T)
        return replace(made, steps=steps)

    def make(self) -> Sampler[Any]:
        """The sampler of a resolved method."""
        return make_sampler(self.sampler or DEFAULT, **self.options)

    @property
    def fitted(self) -> bool:
        """Whether the grid is a fitted one."""
        return self.grid is not None and not known(str(self.grid))

    def chain(self, native: Chain, fitted: Callable[[Steps, str], Grid]) -> Chain:
        """The levels of a resolved method; fitted(steps, grid) finds a fitted grid."""
        assert self.steps is not None and self.grid is not None  # it is resolved
        if self.fitted:
            return native.respace(fitted(self.steps, str(self.grid)).levels)
        return native.respace(self.steps, str(self.grid))

    def about(self, native: Chain, chain: Chain) -> dict[str, Any]:
        """What a record says of a resolved method on its chain."""
        listed = self.fitted or isinstance(self.steps, tuple)
        options = {**({"eta": 0.0} if self.sampler == "ddim" else {}), **self.options}
        return {
            "sampler": self.sampler,
            "steps": chain.T,
            "evaluations": self.make().evaluations(chain.T),
            **{name: list(value) if isinstance(value, tuple) else value for name, value in options.items()},
            **({"spec": self.steps} if isinstance(self.steps, str) else {}),
            **({} if self.grid == "uniform" else {"grid": self.grid}),
            **({"levels": native.places(chain)[1:].astype(int).tolist()} if listed else {}),
        }
