"""Which sampler on which grid is best for so many evaluations of the net, by a Fréchet distance: a tournament.

For each number of evaluations, the smaller first, by successive halving (Jamieson & Talwalkar 2016):

    1  every setting with few pictures: a fifth of n, 100 at least, but all n where that is more than a half
    2  the best third of them, two at least, with all n; pictures of round 1 are the first of these
    3  the best two of these with two more seeds; the winner has the smaller mean over the three

Distances are compared at equal n and equal seeds alone: picture k of a seed starts from the same noise whatever
the setting, so that much of what chance does to a distance it does to all. What is left of it shows in round 3.
A Fréchet distance of few pictures is too large, but it is so for all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from ddpm.errors import UserError
from ddpm.evaluate.features import FeatureNet
from ddpm.evaluate.records import Records
from ddpm.evaluate.scores import Moments, frechet
from ddpm.pipeline import Pipeline
from ddpm.respacing import GRIDS
from ddpm.samplers import SAMPLERS, Sampler, make_sampler
from ddpm.tuned import Setting, Winner
from ddpm.walks import usual_batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTS = (5, 10, 20, 50)
"""Evaluations of the net a picture, unless asked for otherwise."""
ALL_GRIDS = (*GRIDS, "fitted")
CHURN = 0.15
"""Of heun, noise added at each step as a share of what is there: Karras et al. 2022 take 0.12 to 0.16."""
LONG = 20
"""Evaluations from which churn and Langevin steps are tried: with fewer they cannot pay."""
FORMAT = 1
"""Goes up whenever the same setting would give other pictures."""
_SEEDS = 3
_FEWEST = 100


# -- what is tried ---------------------------------------------------------------------------------------------


def settings(
    model: Pipeline, evaluations: int, samplers: Sequence[str] = SAMPLERS, grids: Sequence[str] = ALL_GRIDS
) -> list[Setting]:
    """What can be tried for so many evaluations, each walk once, the cheapest first.

    Of each sampler the most steps that so many evaluations allow. ddim with eta 1 is left out where it is ddpm,
    since the model's variance is small; churn and pc below 20 evaluations, and all but the grids they are meant
    for; a fitted grid where the run has none of so many steps.
    """
    native, found, walked = model.denoiser.native, [], set()
    for sampler in samplers:
        for options, only in _variants(sampler, evaluations, model.denoiser.variance == "small"):
            steps = _most(make_sampler(sampler, **options), evaluations, native.T)
            if steps is None:
                continue
            if "churn" in options:
                options = {"churn": round(CHURN * steps, 4)}
            for grid in (grid for grid in grids if not only or grid in only):
                one = Setting(evaluations, sampler, steps, grid, tuple(options.items()))
                if grid == "fitted" and not _is_fitted(model, steps):
                    continue
                levels = one.method.chain(native, model.fitted).gamma.round(9).tobytes()
                if (one.kind, levels) not in walked:
                    walked.add((one.kind, levels))
                    found.append(one)
    return sorted(found, key=lambda one: one.cost)


def _variants(sampler: str, evaluations: int, small: bool) -> list[tuple[dict[str, float], tuple[str, ...]]]:
    """A sampler's own options that are tried, and on which grids alone; () for all."""
    if sampler == "ddim":
        return [({}, ())] if small else [({}, ()), ({"eta": 1.0}, ())]
    if sampler == "heun" and evaluations >= LONG:
        return [({}, ()), ({"churn": CHURN}, ("log-snr", "edm"))]
    if sampler == "pc":
        return [({}, ("uniform", "trailing"))] if evaluations >= LONG else []
    return [({}, ())]


def _most(sampler: Sampler[Any], evaluations: int, T: int) -> int | None:
    """The most steps, up to T, that so many evaluations allow."""
    return next((k for k in range(min(T, evaluations), 0, -1) if sampler.evaluations(k) <= evaluations), None)


def _is_fitted(model: Pipeline, steps: int) -> bool:
    if model.grids is None or not model.grids.is_file():
        return False
    try:
        model.fitted(steps)
    except UserError:
        return False
    return True


# -- the tournament --------------------------------------------------------------------------------------------


class Refused(UserError):
    """A setting that the model cannot walk, and why."""


Score = Callable[[Setting, int, int], float]
"""Of a setting with so many pictures of a seed: its distance. Refused where it cannot be walked."""


@final
@dataclass(frozen=True)
class Rounds:
    """How many pictures each round takes, and of which seeds."""

    n: int
    seed: int = 0

    @property
    def few(self) -> int:
        """Pictures of round 1."""
        few = max(self.n // 5, _FEWEST)
        return few if 2 * few <= self.n else self.n

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of round 3, the first of them that of the others."""
        return tuple((self.seed + k) % 2**64 for k in range(_SEEDS))

    def third(self, count: int) -> int:
        """How many of so many settings go on to round 2."""
        return count if self.few == self.n else min(count, max(2, math.ceil(count / 3)))

    def work(self, tried: Sequence[Setting]) -> int:
        """Evaluations of all rounds, about: which settings go on is not known before."""
        mean = sum(one.cost for one in tried) / max(1, len(tried))
        later = self.third(len(tried)) * (self.n - self.few) + min(2, len(tried)) * (_SEEDS - 1) * self.n
        return sum(one.cost * self.few for one in tried) + round(mean * later)

    def words(self, count: int) -> str:
        """What happens to so many settings."""
        first = f"{count} settings with {self.n:,} pictures"
        if self.few < self.n:
            first = f"{count} settings with {self.few:,} pictures, the best {self.third(count)} with {self.n:,}"
        return f"{first}, the best two with two more seeds"


@final
@dataclass
class Contest:
    """What came of the settings of one number of evaluations, each round best first; whole when round 3 is."""

    evaluations: int
    tried: tuple[Setting, ...]
    few: dict[Setting, float] = field(default_factory=dict)
    full: dict[Setting, float] = field(default_factory=dict)
    seeds: dict[Setting, tuple[float, ...]] = field(default_factory=dict)
    refused: dict[Setting, str] = field(default_factory=dict)
    whole: bool = False

    @property
    def ranked(self) -> list[Winner]:
        """The winner and the one after it, where all was tried."""
        count = len(self.tried) - len(self.refused)
        found = [Winner(one, scores, count) for one, scores in self.seeds.items()] if self.whole else []
        return sorted(found, key=lambda one: one.score)

    @property
    def sure(self) -> bool:
        """Whether the winner is ahead with every seed."""
        ranked = self.ranked
        return len(ranked) < 2 or all(a < b for a, b in zip(ranked[0].scores, ranked[1].scores, strict=True))


def contest(
    evaluations: int, tried: Sequence[Setting], rounds: Rounds, score: Score, going: Callable[[], bool]
) -> Contest:
    """The three rounds of the settings of one number of evaluations; no setting is begun once `going` is false."""
    made = Contest(evaluations, tuple(tried))
    for one in tried:
        if not going():
            return _sorted(made)
        try:
            made.few[one] = score(one, rounds.few, rounds.seed)
        except Refused as error:
            made.refused[one] = str(error)
    _sorted(made)
    for one in list(made.few)[: rounds.third(len(made.few))]:
        if not going():
            return _sorted(made)
        made.full[one] = score(one, rounds.n, rounds.seed)
    _sorted(made)
    for one in list(made.full)[:2]:
        scores = [made.full[one]]
        for seed in rounds.seeds[1:]:
            if not going():
                return made
            scores.append(score(one, rounds.n, seed))
        made.seeds[one] = tuple(scores)
    made.whole = bool(made.seeds)
    return made


def _sorted(made: Contest) -> Contest:
    for name in ("few", "full"):
        setattr(made, name, dict(sorted(getattr(made, name).items(), key=lambda item: item[1])))
    return made


def front(scored: Iterable[tuple[Setting, float]]) -> list[tuple[Setting, float]]:
    """Those for which no other is as near with no more evaluations (Pareto), ascending in evaluations."""
    found: list[tuple[Setting, float]] = []
    for one, score in sorted(scored, key=lambda item: (item[0].cost, item[1])):
        if not found or score < found[-1][1]:
            found.append((one, score))
    return found


# -- a score ---------------------------------------------------------------------------------------------------


@final
@dataclass
class Bench:
    """Draws a setting's pictures and scores them; both are kept in `out`, a folder a setting and seed.

    key: what decides the numbers beside the setting. tell: called with the evaluations done, those among them
    whose pictures were found.
    """

    model: Pipeline
    net: FeatureNet
    reference: Moments
    out: Path
    key: dict[str, Any]
    batch: int | None = None
    tell: Callable[[int], None] = lambda done: None
    done: int = 0
    drawn: int = 0
    """Pictures that were drawn, not found."""
    _scored: dict[tuple[Setting, int], int] = field(default_factory=dict)

    def __call__(self, one: Setting, n: int, seed: int) -> float:
        """The distance of the first n pictures of a seed; Refused where the model cannot walk so."""
        before = self._scored.get((one, seed), 0)
        start, self._scored[one, seed] = self.done, n
        asked = {"sampler": one.sampler, "steps": one.steps, "grid": one.grid, "options": dict(one.options)}
        chain = one.method.chain(self.model.denoiser.native, self.model.fitted)
        key = {**self.key, **asked, "levels": chain.gamma[1:].round(9).tolist(), "seed": seed, "format": FORMAT}
        records, name = Records(self.out, f"{one.kind}-{one.steps}-{one.grid}", key), f"score-{n}.json"
        score = _kept(records.path(name))
        if score is None:
            score = frechet(self._moments(records, one, n, seed), self.reference)
            records.write_result(name, {"distance": score, "pictures": n})
        self.done = start + one.cost * (n - before)
        self.tell(self.done)
        return score

    def _moments(self, records: Records, one: Setting, n: int, seed: int) -> Moments:
        batch = self.batch or usual_batch(self.model.device, self.model.size)
        while True:
            there = records.there()
            for first, count in _stretches([k for k in range(n) if k not in there], batch):
                pixels = self._draw(one, first, count, seed)
                records.add(np.arange(first, first + count), {"pooled": self.net(pixels).pooled.numpy()})
                self.done += one.cost * count
                self.drawn += count
            try:
                return Moments.of(records.read(np.arange(n))["pooled"])
            except KeyError:  # a damaged part, now known for one: its pictures are drawn again
                continue

    def _draw(self, one: Setting, first: int, count: int, seed: int) -> np.ndarray:
        def tell(step: int, steps: int) -> None:
            self.tell(self.done + one.cost * count * step // steps)

        how = one.method
        try:
            return self.model.sample(
                count,
                sampler=how.sampler,
                steps=how.steps,
                grid=how.grid,
                seed=seed,
                first=first,
                batch=count,
                progress=tell,
                **how.options,
            ).pixels
        except UserError as error:
            raise Refused(f"{one.words()}: {error}") from None


def _stretches(numbers: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Numbers, ascending, as stretches without a gap: (first, how many, `most` at the most)."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and sum(found[-1]) == number and found[-1][1] < most:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((number, 1))
    return found


def _kept(path: Path) -> float | None:
    """A score that was written; None where there is none, or a damaged one."""
    try:
        score = float(json.loads(path.read_text(encoding="utf-8"))["distance"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return score if math.isfinite(score) else None


# -- what it comes to ------------------------------------------------------------------------------------------


def by_sampler(contests: Sequence[Contest], which: str) -> dict[str, list[tuple[Setting, float]]]:
    """Of each sampler its best setting for each number of evaluations, ascending, by the round "few" or "full"."""
    found: dict[str, list[tuple[Setting, float]]] = {}
    for one in sorted(contests, key=lambda one: one.evaluations):
        best: dict[str, tuple[Setting, float]] = {}
        for setting, score in getattr(one, which).items():  # the best first
            best.setdefault(setting.sampler, (setting, score))
        for sampler, item in best.items():
            found.setdefault(sampler, []).append(item)
    return {sampler: found[sampler] for sampler in SAMPLERS if sampler in found}


def figure(contests: Sequence[Contest], rounds: Rounds, about: str = "") -> Figure:
    """Distance against evaluations, of each sampler on its best grid, and the Pareto front; a row a round."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    from ddpm.draw.plots import Line, Panel, curves

    rows, titles = [], []
    order = [*by_sampler(contests, "full")]  # which is also that of the colours
    which = [("full", rounds.n, "the best third" if rounds.few < rounds.n else "all settings")]
    which += [("few", rounds.few, "all settings")] if rounds.few < rounds.n else []
    for name, n, of in which:
        lines = []
        every = front(item for one in contests for item in getattr(one, name).items())
        best = by_sampler(contests, name)
        named = [(sampler, best[sampler]) for sampler in dict.fromkeys([*order, *best])]
        for label, points in [("Pareto front", every), *named]:
            if points:
                x, y = np.array([one.cost for one, _ in points]), np.array([score for _, score in points])
                lines.append(Line(label, x, y, None if label == "Pareto front" else (x, y)))
        if lines:
            rows.append([Panel("Fréchet distance", lines, "evaluations of the net a picture", log="xy")])
            titles.append(f"{n:,} pictures each, {of}")
    made = curves(rows, titles, about)
    for axes in made.axes:
        axes.set_xticks([one.evaluations for one in contests])
        low, high = axes.get_ylim()
        wide = high > 4.0 * low
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)) if wide else MaxNLocator(5))
        for axis in (axes.xaxis, axes.yaxis):  # plain numbers, and none between them
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    return made
