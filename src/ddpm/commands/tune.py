"""`ddpm tune MODEL --reference DATA`: which sampler on which grid is best for so many evaluations of the net."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from ddpm.commands.method import check_seed
from ddpm.commands.options import console, progress, read, stages, unset
from ddpm.errors import UserError
from ddpm.places import check_place
from ddpm.units import counted, duration, listed, parse_duration

if TYPE_CHECKING:
    from ddpm.evaluate.features import FeatureNet
    from ddpm.evaluate.records import Records
    from ddpm.evaluate.reference import Reference
    from ddpm.evaluate.tuning import Contest, Rounds
    from ddpm.pipeline import Pipeline
    from ddpm.tuned import Tuned, Winner

_DESCRIPTION = (
    "Tries samplers on grids of levels, scores their pictures by the Frechet distance to DATA in a feature net, "
    "and keeps the best for each number of evaluations of the net as what ddpm sample RUN takes. All settings are "
    "tried with a fifth of the pictures, the best third of them with all, the best two with two more seeds. What "
    "was done is kept: the same command goes on after a stop."
)


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a file, another project's checkpoint, or the embedded model fashion."""
    reference: Annotated[str, tyro.conf.arg(metavar="DATA")]
    """Pictures as ddpm train takes them; held-out for those held out of the model's own training."""
    features: Annotated[str, tyro.conf.arg(metavar="NET")] = "inception"
    """inception, inception:WEIGHTS, random, or a program of torch.export (.pt2)."""
    evaluations: Annotated[str, tyro.conf.arg(metavar="E,...")] = "5,10,20,50"
    """Evaluations of the net a picture; each is tuned by itself, the smaller first."""
    samplers: Annotated[str | None, unset("SAMPLER,...", "all")] = None
    """Of ddpm, ddim, dpm++, dpm++sde, heun, pc."""
    grids: Annotated[str | None, unset("GRID,...", "all, fitted if the run has such grids")] = None
    """Of uniform, trailing, quadratic, log-snr, edm, fitted."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"], name="number", metavar="N")] = 1000
    """Pictures a setting. Distances are compared at the same number and seeds alone."""
    budget: Annotated[str | None, unset("TIME", "none")] = None
    """30m, 2h: when it is over no setting is begun any more."""
    seed: int = 0
    """Seed of the pictures; the best two of each number of evaluations are drawn with the next two as well."""
    batch: Annotated[int | None, unset("B", "64 of 32 x 32 on a CPU, 256 on a GPU")] = None
    """Pictures computed at once, and kept together."""
    weights: Literal["ema", "model"] = "ema"
    """Averaged weights, or as they are."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu, cuda or mps."""
    out: Annotated[Path | None, unset("DIR", "RUN/evaluation, or evaluation/MODEL")] = None
    """Folder written to; with one given, the run's own tuned.json is left as it is."""


@dataclass(frozen=True, eq=False)
class Case:
    """What is tuned on what, and where it goes."""

    options: Options
    model: Pipeline
    reference: Reference
    net: FeatureNet
    rounds: Rounds
    records: Records
    console: Console


def main(arguments: Sequence[str]) -> int:
    started = time.perf_counter()
    options = read(Options, "tune", arguments, _DESCRIPTION)
    counts, seconds = check(options)
    from ddpm.evaluate import Records, open_reference
    from ddpm.evaluate.features import open_features
    from ddpm.evaluate.tuning import Rounds
    from ddpm.loading import load
    from ddpm.memory import keep_freed_memory

    keep_freed_memory()
    out = console()
    model = load(options.model, options.device, options.weights)
    if model.description.config.train.task == "upsampler":
        raise UserError(f"{model.name}: enlarges small pictures; ddpm tune takes a model that draws by itself")
    tried = choose(model, options, counts)
    net = open_features(options.features, model.device)
    with stages() as advance:
        reference = open_reference(options.reference, model, advance, labels=False)
    for note in (*model.notes, *reference.notes):
        out.print(f"note: {note}")
    key = {
        "checkpoint": model.checkpoint,
        "reference": reference.pictures.fingerprint,
        "pictures": len(reference),
        "features": net.key,
        "variance": model.denoiser.variance,
        "device": model.device.type,
    }
    usual = Path("evaluation") / model.name if model.grids is None else model.grids.parent / "evaluation"
    records = Records(options.out or usual, f"{reference.name}-tune", key)
    records.prepare()
    case = Case(options, model, reference, net, Rounds(options.n, options.seed), records, out)
    until = started + seconds if seconds is not None else None
    tune(case, tried, key, lambda: until is None or time.perf_counter() < until)
    return 0


def check(options: Options) -> tuple[list[int], float | None]:
    """Numbers of evaluations, and the budget in seconds; UserError for a value out of its range."""
    parts = [part.strip() for part in options.evaluations.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdecimal() and int(part) for part in parts):
        raise UserError(f"--evaluations {options.evaluations}: takes numbers from 1, as 5,10,20,50")
    if options.n < 2:
        raise UserError(f"-n {options.n}: a Fréchet distance is of 2 pictures at least; 1,000 tell more")
    check_seed(options.seed)
    if options.batch is not None and options.batch < 1:
        raise UserError(f"--batch {options.batch}: is at least 1")
    if options.out is not None:
        check_place(options.out)
        if options.out.is_file():
            raise UserError(f"--out {options.out}: is a file; name a folder")
    return sorted(set(map(int, parts))), parse_duration(options.budget) if options.budget else None


def choose(model: Pipeline, options: Options, counts: Sequence[int]) -> dict[int, list[Any]]:
    """The settings to try for each number of evaluations; UserError for strange names, or where none fits."""
    from ddpm.evaluate.tuning import ALL_GRIDS, LONG, settings
    from ddpm.grids import choose_grid
    from ddpm.respacing import known
    from ddpm.samplers import SAMPLERS

    T = model.denoiser.native.T
    samplers, grids = _names(options.samplers, SAMPLERS), _names(options.grids, ALL_GRIDS)
    for name in samplers:
        if name not in SAMPLERS:
            raise UserError(f"--samplers {name}: no such sampler; there are {listed(SAMPLERS)}")
    for name in grids:
        if name != "fitted" and not known(name):
            raise UserError(f"--grids {name}: no such grid; there are {listed(ALL_GRIDS)}")
    if options.grids is not None and "fitted" in grids:
        choose_grid("fitted", model.grids, model.name, T, "--grids fitted")
    tried = {}
    for count in counts:
        if count > 2 * T:
            raise UserError(f"--evaluations {count}: {model.name} has {T:,} levels; take up to {2 * T:,}")
        tried[count] = settings(model, count, samplers, grids)
        if not tried[count]:
            asked = f"--samplers {','.join(samplers)} --grids {','.join(grids)}"
            raise UserError(
                f"--evaluations {count}: nothing to try with {asked}; pc is tried from {LONG} evaluations, on "
                "uniform and trailing, and a fitted grid where there is one of so many steps"
            )
    return tried


def _names(text: str | None, usual: Sequence[str]) -> tuple[str, ...]:
    """The names asked for, each once; all without."""
    found = tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))
    return found or tuple(usual)


def tune(case: Case, tried: dict[int, list[Any]], key: dict[str, Any], going: Callable[[], bool]) -> None:
    """All rounds; winners are kept as soon as they are known."""
    from ddpm.commands.tune_told import tell
    from ddpm.evaluate.fidelity import reference_features
    from ddpm.evaluate.tuning import Bench, contest

    out, rounds, model, net = case.console, case.rounds, case.model, case.net
    out.print(
        f"{model.name} against {counted(len(case.reference), 'picture')} of {case.reference.name}, Fréchet "
        f"distance in features of {net.name}"
    )
    with progress("features of the reference") as advance:
        moments = reference_features(case.reference.pictures, net, advance).moments
    for count, settings in tried.items():
        out.print(f"{counted(count, 'evaluation')}: {rounds.words(len(settings))}")
    total = sum(map(rounds.work, tried.values()))
    contests: list[Contest] = []
    bench = Bench(model, net, moments, case.records.folder / "settings", key, case.options.batch)
    tuned, start = None, time.perf_counter()
    try:
        with progress("evaluations") as advance:
            bench.tell = lambda done: advance(min(done, total), total)
            for count, settings in tried.items():
                contests.append(contest(count, settings, rounds, bench, going))
                bench.done = sum(rounds.work(tried[one.evaluations]) for one in contests)
                if contests[-1].whole:
                    tuned = keep(case, contests[-1].ranked[0], tuned)
    except KeyboardInterrupt:
        out.print(f"what was drawn is kept in {case.records.folder}; the same command goes on")
        if tuned is not None:
            give(case, tuned)
        raise
    out.print(f"{counted(bench.drawn, 'picture')} drawn in {duration(time.perf_counter() - start)}")
    tell(case, contests)
    if tuned is not None:
        give(case, tuned)


def keep(case: Case, winner: Winner, before: Tuned | None) -> Tuned:
    """The winner joins the others in the folder's tuned.json."""
    from ddpm.tuned import NAME, Tuned, write_tuned

    model, reference, rounds = case.model, case.reference, case.rounds
    made = Tuned(
        T=model.denoiser.native.T,
        winners=(winner,),
        n=rounds.n,
        seeds=rounds.seeds,
        features=case.net.name,
        net=case.net.key[:16],
        model=model.name,
        checkpoint=model.checkpoint,
        weights="as in the file" if model.grids is None else case.options.weights,
        data=reference.name,
        fingerprint=reference.pictures.fingerprint,
    )
    made = made if before is None else made.merged(before)
    write_tuned(case.records.path(NAME), made)
    return made


def give(case: Case, tuned: Tuned) -> None:
    """Makes the winners what the run is sampled with, if they are of its averaged weights; or says how to ask."""
    from ddpm.tuned import NAME, read_tuned, write_tuned

    out, options, run = case.console, case.options, case.model.tuned
    kept = (
        "--out" if options.out is not None else "not of the averaged weights" if options.weights != "ema" else ""
    )
    if run is None or kept:
        if run is not None:
            out.print(f"{run} is left as it is ({kept})")
        for winner in tuned.winners:
            count = counted(winner.setting.evaluations, "evaluation")
            out.print(f"{count}: ddpm sample {options.model} {winner.setting.arguments()}")
        out.print(
            f'in Python: model = ddpm.load("{options.model}"); model.tuned = Path("{case.records.path(NAME)}")'
        )
        return
    if run.is_file():
        try:
            old = read_tuned(run)
        except UserError as error:
            out.print(f"{str(error).partition(';')[0]}: replaced")
        else:
            tuned = tuned.merged(old)
            lost = [one for one in old.winners if one not in tuned.winners]
            if lost:
                other = " for another checkpoint" if old.checkpoint != tuned.checkpoint else ""
                words = "; ".join(f"{one.setting.evaluations} evaluations: {one.setting.words()}" for one in lost)
                out.print(f"{run}: replaces what was tuned{other} ({words})")
    write_tuned(run, tuned)
    counts = [str(winner.setting.evaluations) for winner in tuned.winners]
    usual = tuned.winner(None)
    assert usual is not None  # there is a winner
    out.print(
        f"ddpm sample {options.model} takes {usual.setting.words()}; with --steps {', '.join(counts)} the best of "
        f"so many evaluations: {run}"
    )
