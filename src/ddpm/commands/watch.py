"""How a training is shown: a live bar on a terminal, plain lines in a pipe or a log file."""

from __future__ import annotations

import math
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ddpm.events import (
    Began,
    Ended,
    Evaluated,
    Logged,
    Noted,
    Previewed,
    Saved,
    Scored,
    Stepped,
    TrainEvent,
    Unsaved,
    WentBack,
)
from ddpm.spikes import spike
from ddpm.units import duration


def watch(console: Console) -> Lines:
    """The one that fits where the output goes."""
    return Live(console) if console.is_terminal else Lines(console)


class Lines:
    """A line an event."""

    def __init__(self, console: Console):
        self.console, self.steps = console, 0
        self.highest: list[float] = []

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, event: TrainEvent) -> None:
        if isinstance(event, Began):
            self.steps = event.steps
        line = describe(event, self.steps)
        if line:
            self.console.print(line)
        self.jumped(event)

    def jumped(self, event: TrainEvent) -> None:
        """A line more for a spike of the loss."""
        if not isinstance(event, Logged) or event.highest is None:
            return
        found = spike(event.step, event.highest, self.highest)
        self.highest.append(event.highest)
        if found:
            self.console.print(
                f"note: a step of those up to {event.step:,} had the loss {found.highest:.3g}, where up to "
                f"{found.usual:.3g} was usual"
            )


class Live(Lines):
    """A bar with loss, speed and time left; previews, checkpoints and a tenth of the log as lines above it."""

    def __init__(self, console: Console):
        super().__init__(console)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"))
        self.bar = Progress(*columns, console=console)
        self.task = self.bar.add_task("training", total=None, now="")
        self.tenth = 0

    def __enter__(self) -> Live:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, event: TrainEvent) -> None:
        if isinstance(event, Began):
            self.bar.update(self.task, completed=event.step, total=event.steps)
        elif isinstance(event, Stepped):
            self.bar.update(self.task, completed=event.step)
        if not isinstance(event, Logged):
            super().__call__(event)
            return
        self.bar.update(self.task, now=brief(event, self.steps))
        tenth = 10 * event.step // max(1, self.steps)
        if tenth > self.tenth:
            self.tenth = tenth
            super().__call__(event)
        else:
            self.jumped(event)


def brief(event: Logged, steps: int) -> str:
    """What fits beside a bar on 80 columns."""
    return (
        f"{event.step:,}/{steps:,}  {_loss(event)}  {event.pictures_per_second:,.0f}/s  "
        f"{duration(event.seconds_left)} left"
    )


def _loss(event: Logged) -> str:
    """The loss, in bits/dim where it is the bound; of a classifier the accuracy besides.

    Beside another loss the bound is left to the report, which smooths it: where every level is drawn alike, the
    few clean ones that hold most of the bits make a single line jump twofold.
    """
    bound = event.vlb is not None and math.isclose(event.loss, event.vlb, rel_tol=1e-6)
    if event.accuracy is not None:
        return f"loss {event.loss:.4f}  accuracy {_share(event.accuracy)}"
    return f"{event.vlb:.3f} bits/dim" if bound else f"loss {event.loss:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def describe(event: TrainEvent, steps: int) -> str:
    """The event as a line; an empty one for what is only for the bar."""
    if isinstance(event, Began):
        if not event.device:  # followed from elsewhere
            return f"following: {event.steps:,} steps, now after step {event.step:,}"
        goes_on = f", going on after step {event.step:,}" if event.step else ""
        return f"training on {event.device}: {event.steps:,} steps{goes_on}"
    if isinstance(event, Logged):
        classifies = event.accuracy is not None
        quarters = " ".join(_share(q) if classifies else "-" if q is None else f"{q:.3f}" for q in event.quarters)
        skipped = f"{event.skipped:,} skipped  " if event.skipped else ""
        return (
            f"step {event.step:,}/{steps:,}  {_loss(event)}  by t {quarters}  "
            f"gradient {event.gradient:.2f}  {skipped}{event.pictures_per_second:,.0f} pictures/s  "
            f"{duration(event.seconds_left)} left"
        )
    if isinstance(event, Evaluated) and event.held_out_quarters:
        pairs = [(event.held_out, event.held_out_quarters), (event.trained_on, event.trained_on_quarters)]
        held_out, trained_on = (f"{_share(mean)}, by t {' '.join(map(_share, each))}" for mean, each in pairs)
        return f"held-out pictures: accuracy {held_out}; as many trained on: {trained_on}"
    if isinstance(event, Evaluated):
        return f"held-out pictures: error {event.held_out:.4f}, as many trained on: {event.trained_on:.4f}"
    if isinstance(event, Scored):
        best = ", the best so far: its checkpoint is kept" if event.best else ""
        return f"{event.n:,} samples: Fréchet distance {event.fid:.4g} in {event.features} features{best}"
    if isinstance(event, Previewed):
        return f"preview {event.path}"
    if isinstance(event, Saved):
        return f"saved {event.path}"
    if isinstance(event, Unsaved):
        return (
            f"note: the checkpoint of step {event.step:,} could not be written ({event.reason}); training goes "
            "on, and the one before is still there: make room"
        )
    if isinstance(event, WentBack):
        whence = f"the checkpoint of step {event.to:,}" if event.to else "the beginning"
        return (
            f"note: step {event.step:,}: loss or gradient is no number any more; going back to {whence}, on at "
            f"{event.rate:g} of the learning rate"
        )
    if isinstance(event, Noted):
        return f"note: {event.text}"
    assert isinstance(event, (Stepped, Ended))
    return ""
