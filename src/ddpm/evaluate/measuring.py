"""Which number is measured, and the pass over the pictures that measures it; stopped, it can be gone on with.

    every term     the bound of the T-step chain, all T terms of each picture
    estimate       the same bound in the mean, from the decoder's term and M drawn ones a picture
    respaced       the bound of a chain of fewer levels: its own, which estimates neither of the others

    what = choose(model.denoiser, steps=None, draws=None)      or steps="all", steps="50"
    measured = measure(what, reference, reference.spread(1000), Records(out, "flowers", key))
    print(what.words(), summarise(what, measured).total)

A picture's numbers depend on the picture, its number and the seed alone, up to the last bits of the net's own
sums, which a batch's size may change. What was measured is read back from the disk in the order of the pictures:
a pass that was stopped gives the same results as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ddpm.data import smaller
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.evaluate.likelihood import Bits, Estimate, bound_levels, estimate, likelihood
from ddpm.evaluate.records import Records
from ddpm.evaluate.reference import Reference
from ddpm.memory import AtOnce
from ddpm.processes import ALONE, Processes
from ddpm.units import counted
from ddpm.walks import Progress, usual_batch

DRAWS = 32
"""Levels drawn a picture, unless asked for otherwise."""
FORMAT = 1
"""Goes up whenever the same pictures would be measured as other numbers."""

Kind = Literal["every term", "estimate", "respaced"]
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Measurement:
    """A model, measured on the whole of its chain or at `draws` levels a picture.

    steps: as it was asked for, None for an estimate. fitted: whether the levels are those of a fitted grid.
    """

    kind: Kind
    model: Denoiser
    draws: int = 0
    steps: str | None = "all"
    fitted: bool = False

    @property
    def levels(self) -> Int64[np.ndarray, "T"]:
        """Levels of the native chain that the measured chain has, ascending, 0 left out."""
        return self.model.native.places(self.model.chain)[1:].astype(np.int64)

    @property
    def evaluations(self) -> int:
        """Of the net, a picture."""
        return self.draws + 1 if self.kind == "estimate" else self.model.chain.T

    @property
    def slug(self) -> str:
        """The kind, for a file's name."""
        of = f"{self.model.chain.T}-levels" + ("-fitted" if self.fitted else "")
        return {"every term": "all", "estimate": "estimate", "respaced": of}[self.kind]

    def words(self) -> str:
        """What the number is."""
        T = self.model.native.T
        if self.kind == "every term":
            return f"bound of the {T:,}-step chain, every term"
        if self.kind == "estimate":
            how = f"the decoder's term and {counted(self.draws, 'drawn one')} a picture"
            return f"Monte-Carlo estimate of the bound of the {T:,}-step chain: {how}"
        assert self.steps is not None  # which only an estimate has not
        how = "those fitted to it" if self.fitted else self.steps
        if not self.fitted and self.steps.isdecimal():
            how = f"{self.steps} evenly spaced, and all of 1 … {T // int(self.steps)}"
        of = f"bound of a chain of {self.model.chain.T:,} of the {T:,} levels: {how}"
        return f"{of}; its own bound, no estimate of the {T:,}-step chain's"

    def title(self) -> str:
        """The same in a few words."""
        T = self.model.native.T
        if self.kind == "respaced":
            return f"Own bound of a chain of {self.model.chain.T:,} of {T:,} levels"
        return ("Bound" if self.kind == "every term" else "Estimate of the bound") + f" of the {T:,}-step chain"

    def about(self) -> dict[str, Any]:
        """The same as plain values, for a record and a key."""
        model, estimated = self.model, self.kind == "estimate"
        return {
            "kind": self.kind,
            "T": model.native.T,
            "steps": self.steps,
            "fitted": self.fitted,
            "chain": "every level" if self.kind != "respaced" else self.levels.tolist(),
            "chain_steps": model.chain.T,
            "draws": self.draws if estimated else None,
            "variance": model.variance,
            "clip": model.clip,
        }


def choose(
    model: Denoiser, steps: str | None = None, draws: int | None = None, fitted: Sequence[int] | None = None
) -> Measurement:
    """The measurement of a model on its native chain.

    steps: None for an estimate from so many draws (32), "all" for every term, "50" for the chain of K levels and
    1 … T/K, or another spec of Chain.respace for that chain. fitted: the levels of a fitted grid of so many steps,
    in place of these. A chain so short that drawing saves nothing is measured whole. UserError for settings that
    do not go together.
    """
    T = model.chain.T
    if draws is not None and steps is not None:
        raise UserError(f"--draws {draws}: so many are drawn from the whole chain; leave out --steps {steps}")
    if steps is None:
        if draws is not None and not 1 <= draws < T - 1:
            raise UserError(
                f"--draws {draws}: draws 1 to {T - 2} of a chain of {T} steps; --steps all measures every term"
            )
        if (draws or DRAWS) < T - 1:
            return Measurement("estimate", model, draws or DRAWS, steps=None)
        return Measurement("every term", model)
    steps = steps.strip()
    if fitted is not None:
        return Measurement("respaced", model.respace(fitted), steps=steps, fitted=True)
    if steps in ("all", str(T)):
        return Measurement("every term", model)
    try:
        levels = bound_levels(int(steps), T) if steps.isdecimal() else steps
        shorter = model.respace(levels)
    except UserError as error:
        raise UserError(f"--steps {steps}: {str(error).partition(': ')[2]}") from None
    return Measurement("respaced" if shorter.chain.T < T else "every term", shorter, steps=steps)


def measure(
    what: Measurement,
    reference: Reference,
    numbers: Int64[np.ndarray, "n"],
    records: Records,
    *,
    seed: int = 0,
    batch: int | AtOnce | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
    crew: Processes = ALONE,
) -> Bits | Estimate | None:
    """Measures these pictures, but for those that the records have, and keeps each batch there once it is done.

    device: where the net is. progress: called with (evaluations done, evaluations in all) of what is still to be
    measured, by this one of the processes `crew`; the main one alone returns something. UserError where a bound is
    no finite number.
    """
    device = device or torch.device("cpu")
    batch = batch or kept_batch(device, reference.size, what.evaluations)
    batch = AtOnce(batch) if isinstance(batch, int) else batch

    def some(rows: Int64[np.ndarray, "B"], tell: Progress) -> None:
        made = _measured(what, reference, rows, seed, device, tell)
        _check(made.total.numpy(), rows, reference.name)
        records.add(rows, {name: values.numpy() for name, values in made._asdict().items()})

    read = completed(partial(records.look, numbers), some, batch, what.evaluations, progress, crew)
    if read is None:
        return None
    arrays = {name: torch.from_numpy(values) for name, values in read.items()}
    return Estimate(**arrays) if what.kind == "estimate" else Bits(**arrays)


def kept_batch(device: torch.device, size: tuple[int, int], evaluations: int) -> int:
    """Pictures at once, unless asked for otherwise: fewer the more evaluations each takes, at least 8.

    A batch is only kept once it is whole. Of 250 evaluations it is the usual one, of 1,000 a quarter of that: 16
    pictures of 32 x 32 on a CPU; smaller ones than 8 would cost more than they save. Large pictures come in small
    batches anyway.
    """
    usual = usual_batch(device, size)
    return min(usual, max(8, usual // max(1, evaluations // 250)))


def _check(total: np.ndarray, rows: Int64[np.ndarray, "B"], name: str) -> None:
    off = ~np.isfinite(total)
    if off.any():
        raise UserError(
            f"{name}: picture {rows[off][0]} has a bound of {total[off][0]}: the net's output is not finite, or "
            "its variance far off; try --variance large, or another checkpoint"
        )


def completed(
    look: Callable[[], tuple[Found | None, Int64[np.ndarray, "n"]]],
    measure: Callable[[Int64[np.ndarray, "B"], Progress], None],
    batch: AtOnce,
    evaluations: int,
    progress: Progress | None,
    crew: Processes,
) -> Found | None:
    """Measures what is missing, batch by batch, each process a share of it; what the main one finds then.

    look: what there is, and the numbers of the pictures that are missing in it. measure(numbers, tell) measures
    some and keeps them; evaluations: of the net, a picture. What the others have kept the main process finds on
    the disk, and measures itself what it does not: all of their shares where the machines' disks are not one.
    """
    found, missing = look()
    crew.wait()  # everyone has looked before anyone writes: so the shares fit together
    _measure(missing[crew.rows(len(missing))], measure, batch, evaluations, progress)
    crew.wait()
    if not crew.main:
        return None
    while len(missing):
        found, missing = look()
        _measure(missing, measure, batch, evaluations, progress)
    return found


def _measure(
    numbers: Int64[np.ndarray, "n"],
    measure: Callable[[Int64[np.ndarray, "B"], Progress], None],
    batch: AtOnce,
    evaluations: int,
    progress: Progress | None,
) -> None:
    """These pictures, batch by batch; counts evaluations of the net."""
    total = len(numbers) * evaluations

    def some(rows: slice) -> None:
        count = rows.stop - rows.start

        def tell(done: int, of: int) -> None:
            if progress:
                progress(rows.start * evaluations + count * evaluations * done // of, total)

        measure(numbers[rows], tell)
        tell(1, 1)

    for _ in batch.each(len(numbers), some):
        pass


def on_device(
    reference: Reference, rows: Int64[np.ndarray, "B"], device: torch.device
) -> tuple[Tensor, Int64[Tensor, "B"], dict[str, Any]]:
    """Pictures, their numbers, and what the net is told beside t."""
    x0, labels = reference.batch(rows)
    cond = {} if labels is None else {"label": labels.to(device)}
    if reference.small is not None:
        cond["low"] = smaller(x0.float(), reference.small).to(device)
    x0 = x0.float().to(device) if device.type == "mps" else x0.to(device)  # which has no float64
    return x0, torch.from_numpy(rows), cond


def _measured(
    what: Measurement,
    reference: Reference,
    rows: Int64[np.ndarray, "B"],
    seed: int,
    device: torch.device,
    tell: Progress,
) -> Bits | Estimate:
    """One batch."""
    x0, numbers, cond = on_device(reference, rows, device)
    if what.kind == "estimate":
        return estimate(what.model, x0, numbers, what.draws, seed, progress=tell, **cond)
    return likelihood(what.model, x0, numbers, seed, progress=tell, **cond)
