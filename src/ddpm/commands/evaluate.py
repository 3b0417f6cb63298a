"""`ddpm evaluate MODEL --reference DATA --metrics nll`: what a model, or its pictures, are worth, in numbers."""

from __future__ import annotations

import difflib
import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from ddpm.commands.guiding import GuideOptions
from ddpm.commands.method import METHOD, Engine, OwnOptions, SamplerName, check_seed
from ddpm.commands.options import parse_size, progress, read, stages, unset
from ddpm.commands.processes import console_of, noting, together
from ddpm.errors import UserError
from ddpm.memory import AtOnce, keep_freed_memory
from ddpm.places import check_place
from ddpm.processes import Processes
from ddpm.units import counted
from ddpm.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from ddpm.denoiser import Denoiser
    from ddpm.evaluate import Reference
    from ddpm.pipeline import Pipeline

METRICS = {
    "nll": "bits/dim, the variational bound on the likelihood, with its parts",
    "rate": "rate and distortion against reverse steps",
    "grid": "the best levels for every number of steps, for --grid fitted",
    "ode": "bits/dim by the probability-flow ODE: an exact likelihood, of what ddim, heun and dpm++ draw",
    "fid": "Fréchet distance of features",
    "sfid": "the same of spatial features",
    "kid": "kernel distance of features, without bias at any number of pictures",
    "is": "Inception Score",
    "precision": "share of the pictures that lie among those of DATA",
    "recall": "share of those of DATA that lie among the pictures",
}
OF_PICTURES = ("fid", "sfid", "kid", "is", "precision", "recall")
"""Those that compare pictures; the others measure a model on the pictures of DATA."""
VARIANCES = ("small", "large", "learned", "learned_range")


def _listed(names: Sequence[str]) -> str:
    return "\n".join(f"  {name:10} {METRICS[name]}" for name in names)


_DESCRIPTION = f"""Measures a model, or its pictures. What was measured or drawn is kept: the same command goes on
after a stop.

Of a model, on the pictures of DATA:
{_listed([name for name in METRICS if name not in OF_PICTURES])}

Of pictures that MODEL draws, or of a folder of pictures in its place, against all those of DATA:
{_listed(OF_PICTURES)}

Several GPUs share the drawing: torchrun --nproc-per-node 4 -m ddpm.cli evaluate MODEL ..."""


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a file, another project's checkpoint, or the embedded model fashion; for fid ... recall also
    pictures, as a folder that ddpm sample wrote, or any DATA."""
    reference: Annotated[str, tyro.conf.arg(metavar="DATA")]
    """Pictures as ddpm train takes them; held-out for those held out of the model's own training."""
    metrics: Annotated[str, tyro.conf.arg(metavar="METRIC,...")] = "nll"
    """What is measured, with commas between: nll,rate or fid,kid,precision,recall. Those of a model and those of
    pictures take two commands."""
    features: Annotated[str | None, unset("inception|random|FILE", "inception")] = None
    """For fid ... recall, the net: inception (pip install 'ddpm[eval]'), inception:FILE with its weights, random,
    a fixed one that needs nothing, or one of your own, saved with torch.export (.pt2)."""
    sampler: Annotated[SamplerName | None, unset("SAMPLER", "as ddpm sample")] = None
    """For fid ... recall, how MODEL draws, with all options of ddpm sample."""
    steps: Annotated[str | None, unset("all|K|SPEC", "an estimate for nll, all for rate, else as ddpm sample")] = (
        None
    )
    """For nll and rate, all measures every term of the bound; K the bound of a chain of K even levels and all of
    1 ... T/K, about K + T/K of them: 50 has 69 of 1,000. 10,15,20 (so many of each section) and ddim25 are those
    levels alone. For fid ... recall, steps of the sampler."""
    grid: Annotated[str | None, unset("GRID|fitted|FILE", "uniform for nll and rate, else as ddpm sample")] = None
    """For nll and rate with --steps K, fitted is the bound of a chain of K fitted levels instead, which the metric
    grid found: the run's, or those of a grids.json. For fid ... recall, the levels of the sampler."""
    draws: Annotated[int | None, unset("M", "32")] = None
    """Levels drawn a picture for the estimate."""
    ode_steps: Annotated[int | None, unset("K", "32")] = None
    """For ode, steps of Runge-Kutta, an even number: 6 K evaluations of the net a picture, with derivatives."""
    probes: Annotated[str | None, unset("M|exact", "1")] = None
    """For ode, random directions a picture that the divergence is estimated from (Hutchinson); exact takes all
    directions, which is for very small pictures."""
    n: Annotated[
        str | None,
        unset(
            "N|all",
            "all up to 1,000, for grid and ode up to 100; for fid ... 10,000 drawn, all of a folder",
            aliases=["-n"],
            name="number",
        ),
    ] = None
    """Pictures, evenly spread over DATA and the same every time; for fid ... recall those drawn, or taken of the
    folder. Published FIDs are of 50000."""
    size: Annotated[str | None, unset("SIZE", "the pictures' own")] = None
    """For fid ... recall of two folders, what both are brought to: 64, or 64x96."""
    seed: int = 0
    """Seed of the noise, and of the levels drawn; picture k of a seed is always the same."""
    batch: Annotated[int | None, unset("B", "64 of 32 x 32 on a CPU, 256 on a GPU; fewer of many steps")] = None
    """Pictures computed at once, and kept together: a stop loses what is begun of them."""
    engine: Engine = "torch"
    """For fid ... recall of a MODEL, what computes the net, as in ddpm sample."""
    variance: Annotated[str | None, unset("{small,large,learned,learned_range}", "the model's own")] = None
    """Variance of a reverse step; the learned ones only if the net was trained so."""
    weights: Literal["ema", "model"] = "ema"
    """Averaged weights, or as they are."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu, cuda or mps."""
    out: Annotated[Path | None, unset("DIR", "RUN/evaluation, or evaluation/MODEL")] = None
    """Folder written to; each setting has a folder of its own in it."""
    own: Annotated[OwnOptions, METHOD] = OwnOptions()
    guide: Annotated[GuideOptions, METHOD] = GuideOptions()


@dataclass(frozen=True, eq=False)
class Case:
    """A model and the pictures it is measured on."""

    options: Options
    model: Pipeline
    reference: Reference
    out: Path
    console: Console
    crew: Processes

    def batch(self, usual: int) -> AtOnce:
        """How many pictures are computed at once."""
        return AtOnce(self.options.batch or usual, noting(self.crew, self.console))

    def progress(self) -> AbstractContextManager[Callable[[int, int], None] | None]:
        """A bar of what the main process evaluates; nothing of the others."""
        if not self.crew.main:
            return nullcontext()
        return progress("evaluations" + (f", process 1 of {self.crew.count}" if self.crew.count > 1 else ""))

    def numbers(self, usual: int) -> np.ndarray:
        """The pictures to measure: as many as asked for, else the usual number if there are so many."""
        n, total = self.options.n, len(self.reference)
        return self.reference.spread(min(usual, total) if n is None else total if n == "all" else int(n))

    def key(self) -> dict[str, Any]:
        """What decides the numbers, whatever is measured."""
        return {
            "checkpoint": self.model.checkpoint,
            "reference": self.reference.pictures.fingerprint,
            "classes": list(self.model.classes),
            "seed": self.options.seed,
            "device": self.model.device.type,
        }

    @property
    def weights(self) -> str:
        """Which weights of a run are measured; a file's are what they are."""
        return "as in the file" if self.model.grids is None else self.options.weights

    def about(self, n: int) -> dict[str, Any]:
        """What a result over n pictures says of where it comes from."""
        import torch

        model, reference, total = self.model, self.reference, len(self.reference)
        return {
            "model": model.name,
            "checkpoint": model.checkpoint,
            "step": model.description.step,
            "weights": self.weights,
            "reference": {
                "data": self.options.reference,
                "name": reference.name,
                "fingerprint": reference.pictures.fingerprint,
                "pictures": total,
                "size": list(reference.pictures.size),
                "channels": reference.pictures.channels,
                **({} if reference.small is None else {"given_small": list(reference.small)}),
                "notes": list(reference.notes),
            },
            "pictures": n,
            "which": "all" if n == total else f"number k * {total} // {n} for k = 0 ... {n - 1}",
            "seed": self.options.seed,
            "device": str(model.device),
            "versions": {"ddpm": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }

    def measured_on(self, n: int) -> str:
        """The pictures, in words."""
        total = len(self.reference)
        spread = f", evenly spread over its {total:,}" if n < total else ""
        given = ""
        if (small := self.reference.small) is not None:
            given = f", each given what it is in {small[0]} x {small[1]}"
        return f"{counted(n, 'picture')} of {self.reference.name}{spread}{given}"

    def caption(self, n: int, of: str, variance: str) -> str:
        """What a figure over n pictures says of where it comes from."""
        return f"{self.model.name} on {self.measured_on(n)}. {of}, variance {variance}."


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "evaluate", arguments, _DESCRIPTION)
    metrics = parse_metrics(options.metrics)
    check(options)
    if check_kind(options, metrics) == "pictures":
        from ddpm.commands.evaluate_fidelity import measure_fidelity

        return measure_fidelity(options, metrics)
    with together(options.device) as crew:
        measure_model(options, metrics, crew)
        crew.leave()
    return 0


def measure_model(options: Options, metrics: Sequence[str], crew: Processes) -> None:
    """All that is measured of a model on the pictures of DATA."""
    from ddpm.loading import load

    keep_freed_memory()
    out = console_of(crew)
    try:
        with crew.first():
            model = load(options.model, crew.device, options.weights)
    except UserError:
        from ddpm.commands.evaluate_sides import is_pictures

        if is_pictures(options.model):
            raise UserError(
                f"{options.model}: holds pictures, and {metrics[0]} is of a MODEL; of pictures there are "
                f"{', '.join(OF_PICTURES)}"
            ) from None
        raise
    from ddpm.commands.evaluate_bits import choose_measurement, measure_bits
    from ddpm.commands.evaluate_grid import measure_grid
    from ddpm.commands.evaluate_ode import choose_flow, measure_ode
    from ddpm.evaluate import open_reference

    model.denoiser = with_variance(model, options.variance)
    what, flow = choose_measurement(model, options, metrics), choose_flow(options, metrics)
    with crew.first(), stages() as advance:
        reference = open_reference(options.reference, model, advance if crew.main else None)
    for note in (*model.notes, *reference.notes):
        out.print(f"note: {note}")
    usual = Path("evaluation") / model.name if model.grids is None else model.grids.parent / "evaluation"
    case = Case(options, model, reference, options.out or usual, out, crew)
    if what is not None:
        measure_bits(case, what, metrics)
    if flow is not None:
        measure_ode(case, flow)
    if "grid" in metrics:
        measure_grid(case)


def parse_metrics(text: str) -> tuple[str, ...]:
    """The metrics asked for; UserError for one that there is not."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in found:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(METRICS)}"
            raise UserError(f"--metrics {name}: no such metric; {hint}")
    if not found:
        raise UserError(f"--metrics: name at least one of {', '.join(METRICS)}")
    return found


def check_kind(options: Options, metrics: Sequence[str]) -> Literal["pictures", "model"]:
    """What the metrics are of; UserError for both at once, and for options of the other kind."""
    pictures = [name for name in metrics if name in OF_PICTURES]
    others = [name for name in metrics if name not in OF_PICTURES]
    if pictures and others:
        raise UserError(
            f"--metrics {','.join(metrics)}: take two commands, --metrics {','.join(others)} and --metrics "
            f"{','.join(pictures)}, as -n, --steps and --grid mean another thing in each"
        )
    for name, given in (("ode-steps", options.ode_steps), ("probes", options.probes)):
        if given is not None and "ode" not in metrics:
            raise UserError(f"--{name} {given}: belongs to ode; leave it out, or add it to --metrics")
    if pictures:
        if options.draws is not None:
            raise UserError(f"--draws {options.draws}: belongs to nll; leave it out")
        return "pictures"
    guide = options.guide
    asked: dict[str, Any] = {"features": options.features, "sampler": options.sampler, "size": options.size}
    asked["engine"] = None if options.engine == "torch" else options.engine
    asked |= options.own.asked() | {"classifier": guide.classifier, "classifier-scale": guide.classifier_scale}
    asked |= {"cfg-scale": None if guide.cfg_scale == 1.0 else guide.cfg_scale, "cfg-interval": guide.cfg_interval}
    for name, value in asked.items():
        if value is not None:
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise UserError(
                f"--{name.replace('_', '-')} {shown}: belongs to {', '.join(OF_PICTURES[:-1])} and recall, not to "
                f"{' or '.join(others)}; leave it out"
            )
    return "model"


def check(options: Options) -> None:
    """UserError for a number out of its range."""
    if options.batch is not None and options.batch < 1:
        raise UserError(f"--batch {options.batch}: is at least 1")
    check_seed(options.seed)
    if options.n not in (None, "all") and not (options.n.isascii() and options.n.isdecimal() and int(options.n)):
        raise UserError(f"-n {options.n}: takes a number of pictures from 1, or all")
    parse_size(options.size)
    if options.variance not in (None, *VARIANCES):
        raise UserError(f"--variance {options.variance}: takes {', '.join(VARIANCES[:-1])} or {VARIANCES[-1]}")
    if options.out is not None:
        check_place(options.out)
        if options.out.is_file():
            raise UserError(f"--out {options.out}: is a file; name a folder")


def with_variance(model: Pipeline, variance: str | None) -> Denoiser:
    """The model with another variance of its reverse steps; UserError for one it has not learned."""
    own = model.description.config.denoiser.variance
    if variance is None or variance == own:
        return model.denoiser
    if variance not in ("small", "large"):
        has = f"has learned {own}" if own.startswith("learned") else "has learned none"
        raise UserError(f"--variance {variance}: {model.name} {has}; take small, large, or leave it out")
    return model.denoiser.with_variance("small" if variance == "small" else "large")
