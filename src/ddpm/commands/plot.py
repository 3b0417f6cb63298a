"""`ddpm plot forward PICTURE` and `ddpm plot schedule NAME...`: the forward process, drawn.

forward     x_t = α_t x_0 + σ_t ε of one picture and one ε, a row a schedule, a column a level
schedule    ᾱ_t = α_t² and log SNR_t = −γ_t over t, and the levels that a respacing keeps
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from ddpm.commands.method import check_seed
from ddpm.commands.options import console, parse_size, read, unset
from ddpm.commands.picture import by_number
from ddpm.errors import UserError
from ddpm.presets import PRESETS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image
    from torch import Tensor

    from ddpm.chain import Chain
    from ddpm.draw.plots import Panel

_DESCRIPTION = "Draws the forward process: a picture as noise takes it over, or the schedules as curves."
SCHEDULES = ("linear", "cosine", "sigmoid")
_COLUMNS, _WIDEST = 100, 1024  # of a figure; pixels a side of a picture in it
_LARGEST = 128  # pixels a side; beyond it a picture is scaled down unless --size says otherwise


@dataclass(frozen=True)
class Forward:
    """A picture at evenly spaced levels of noise, the schedules side by side, the same noise for all."""

    picture: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PICTURE")]]
    """A picture's file; or DATA, as the embedded set fashion or a folder, with --number."""
    number: Annotated[int, tyro.conf.arg(metavar="K")] = 0
    """Which picture of DATA, counted from 0."""
    schedules: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = SCHEDULES
    """Rows: linear, cosine, sigmoid, a preset, or a MODEL for its own."""
    steps: Annotated[int, tyro.conf.arg(metavar="T")] = 1000
    """T of the schedules linear, cosine and sigmoid."""
    levels: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Columns after the clean picture, evenly spaced up to T."""
    size: Annotated[str | None, unset("SIZE", f"the picture's own up to {_LARGEST} pixels a side")] = None
    """Height and width: 64, or 64x96."""
    seed: int = 0
    """Seed of the noise."""
    out: Annotated[Path | None, unset("FILE", "plots/forward-PICTURE.png")] = None
    """A .png, .svg or .pdf file."""


@dataclass(frozen=True)
class Schedule:
    """ᾱ and log SNR over t, side by side; with --respace the levels that are kept."""

    names: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME ...]")]] = SCHEDULES
    """linear, cosine, sigmoid, a preset, or a MODEL for its own."""
    steps: Annotated[int, tyro.conf.arg(metavar="T")] = 1000
    """T of the schedules linear, cosine and sigmoid."""
    respace: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SPEC ...")] = ()
    """Mark the levels kept, a row a SPEC: 50, 10,15,20, ddim25; fitted:20, as ddpm evaluate --metrics
    grid left them in the run, or FILE:20."""
    out: Annotated[Path | None, unset("FILE", "plots/schedule.png")] = None
    """A .png, .svg or .pdf file."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Options:
    kind: (
        Annotated[Forward, tyro.conf.subcommand("forward", prefix_name=False)]
        | Annotated[Schedule, tyro.conf.subcommand("schedule", prefix_name=False)]
    )


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "plot", arguments, _DESCRIPTION).kind
    from ddpm.draw.plots import check_path, write

    path = check_path(options.out or Path("plots") / default_name(options))
    figure = forward(options) if isinstance(options, Forward) else schedule(options)
    for note in grid_notes(options) if isinstance(options, Schedule) else []:
        console().print(f"note: {note}")
    console().print(f"open {write(figure, path)}")
    return 0


def default_name(options: Forward | Schedule) -> str:
    """The file written unless --out names another."""
    if isinstance(options, Schedule):
        return "schedule.png"
    which = f"-{options.number}" if options.number else ""
    return f"forward-{Path(options.picture).resolve().stem}{which}.png"


def _check_range(option: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise UserError(f"{option} {value}: is at least 1" + (f", and at most {most:,}" if value > most else ""))


# -- chains ------------------------------------------------------------------------------------------------


def find_chain(name: str, steps: int) -> Chain:
    """The chain of a schedule (with that many steps), a preset or a model; an existing path comes first."""
    from ddpm.build import build_chain
    from ddpm.chain import make_chain
    from ddpm.limits import STEPS
    from ddpm.loading import is_run, opened
    from ddpm.store import Run

    if not Path(name).exists():
        if name in SCHEDULES:
            _check_range("--steps", steps, STEPS)
            try:
                return make_chain(name, steps)
            except UserError:
                raise UserError(
                    f"--steps {steps}: too few for the schedule {name}; take more, or name another"
                ) from None
        if name in PRESETS:
            return build_chain(PRESETS[name]())
    if is_run(Path(name)):  # its config is enough: there may be no checkpoint yet
        return build_chain(Run(name).description().config)
    try:
        config = opened(name).description.config
    except UserError as error:
        if Path(name).exists():
            raise
        near = difflib.get_close_matches(name, [*SCHEDULES, *PRESETS], n=1)
        hint = f"did you mean {near[0]}?" if near else f"presets: {', '.join(PRESETS)}"
        raise UserError(f"{error}; schedules: {', '.join(SCHEDULES)}; {hint}") from None
    return build_chain(config)


def respaced(name: str, chain: Chain, spec: str) -> Chain:
    """The levels that --respace SPEC keeps of the chain that goes by a name."""
    from ddpm.grids import choose_grid
    from ddpm.loading import grids_path

    which, _, steps = spec.strip().rpartition(":")
    if not which and (steps == "fitted" or steps.endswith(".json")):
        raise UserError(f"--respace {spec}: takes a number of steps after a colon, as {steps}:20")
    if which:
        if not steps.isdecimal():
            raise UserError(f"--respace {spec}: takes a number of steps after the colon, as {which}:20")
        grids, _ = choose_grid(which, grids_path(name), name, chain.T, f"--respace {spec}")
    try:
        return chain.respace(grids.grid(int(steps)).levels if which else spec)
    except UserError as error:  # the same words under the option's own name
        raise UserError(f"--respace {spec}: {str(error).partition(': ')[2]}") from None


def alpha_bar(gamma: np.ndarray) -> np.ndarray:
    """ᾱ = α² = 1/(1 + exp γ)."""
    share: np.ndarray = np.exp(-np.logaddexp(0.0, gamma))
    return share


# -- forward -----------------------------------------------------------------------------------------------


def forward(options: Forward) -> Figure:
    """The figure of `ddpm plot forward`."""
    import torch

    from ddpm.data import to_uint8
    from ddpm.draw.plots import Row, table
    from ddpm.noise import Purpose, normals

    _check_range("--levels", options.levels, _COLUMNS)
    check_seed(options.seed)
    if not options.schedules:
        raise UserError(f"--schedules: name at least one, as {' '.join(SCHEDULES)}")
    chains = {name: find_chain(name, options.steps) for name in options.schedules}
    x0 = read_picture(options)
    eps = normals(options.seed, Purpose.TRAIN_NOISE, torch.tensor([0]), torch.tensor([0]), x0.shape[1:])[0]
    rows = []
    for name, chain in chains.items():
        shown = [round(k * chain.T / options.levels) for k in range(options.levels + 1)]
        noised = torch.cat([chain.q(x0, t).sample(eps) for t in shown])
        gamma = chain.gamma[shown]
        captions = [
            (r"$\bar\alpha$", [share_of(value) for value in alpha_bar(gamma)]),
            ("log SNR", [log_of(-value) for value in gamma]),
        ]
        rows.append(Row(name, to_uint8(noised).numpy(), captions))
    share = [f"{k / options.levels:.3g}" for k in range(options.levels + 1)]
    return table(rows, share, corner="t/T")


def share_of(value: float) -> str:
    """A number from 0 to 1 in three digits: 1, 0.976, 4.2e−5."""
    text = f"{value:.3f}" if value >= 0.001 else f"{value:.1e}".replace("e-0", "e−").replace("e-", "e−")
    return "1" if value == 1.0 else text


def log_of(value: float) -> str:
    """A logarithm: 0.62, −10.12, ∞."""
    return "∞" if value == np.inf else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def read_picture(options: Forward) -> Tensor:
    """x_0 float32 [1, C, H, W] in [−1, 1], grey or colour as the picture is."""
    import torch

    from ddpm.data import decode

    chosen = by_number(options.picture, options.number)
    size = parse_size(options.size)
    if size is not None and max(size) > _WIDEST:
        raise UserError(f"--size {options.size}: a figure shows pictures of at most {_WIDEST:,} pixels a side")
    try:
        with chosen.opened() as image:
            pixels = _fitted(image, size)
    except Exception as error:  # PIL's readers raise almost anything for a broken file
        raise UserError(f"{options.picture}: cannot be decoded ({decode.reason(error)}); give another") from None
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(127.5) - np.float32(1.0))[None]


def _fitted(image: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    """uint8 [C, H, W], C = 1 or 3, of the size asked for, or its own scaled to at most _LARGEST a side."""
    from PIL.Image import fromarray

    from ddpm.data import decode

    pixels = decode.raw(image)
    high, wide, channels = pixels.shape
    if size is None:
        scale = min(1.0, _LARGEST / max(high, wide))
        size = (max(1, round(scale * high)), max(1, round(scale * wide)))
    flat = fromarray(pixels[..., 0] if channels == 1 else pixels)
    return decode.fit(flat, decode.Fit(size, 1 if channels == 1 else 3))


def grid_notes(options: Schedule) -> list[str]:
    """What there is to say of fitted grids that are drawn with another model than they were fitted to."""
    from ddpm.grids import choose_grid
    from ddpm.loading import grids_path, opened

    notes: dict[str, None] = {}
    for spec in options.respace:
        which = spec.strip().rpartition(":")[0]
        for name in (options.names or SCHEDULES) if which else ():
            chain = find_chain(name, options.steps)
            grids, path = choose_grid(which, grids_path(name), name, chain.T)
            try:
                model = opened(name)
            except UserError:  # a schedule, or a run that has no checkpoint yet
                continue
            variance = model.description.config.denoiser.variance
            notes.update(dict.fromkeys(grids.differences(path, model.checkpoint, variance)))
    return list(notes)


def title_of(spec: str, specs: Sequence[str]) -> str:
    """A respacing's name over its row: that of a file, and its path only where another has the same name."""
    which = spec.strip().rpartition(":")[0] or spec.strip()
    if which == "fitted" or ":" not in spec:
        return which
    others = {other.strip().rpartition(":")[0] for other in specs} - {which}
    alone = all(Path(other).name != Path(which).name for other in others)
    return f"fitted ({Path(which).name if alone else which})"


# -- schedule ----------------------------------------------------------------------------------------------


def schedule(options: Schedule) -> Figure:
    """The figure of `ddpm plot schedule`."""
    from ddpm.draw.plots import curves

    chains: dict[str, Chain] = {}
    fitted = any(":" in spec for spec in options.respace)  # each model has its own grid
    for name in options.names or SCHEDULES:
        chain = find_chain(name, options.steps)
        same = [k for k, other in chains.items() if np.array_equal(other.gamma, chain.gamma) and not fitted]
        if same:  # one line for both, under both names
            chains = {f"{k}, {name}" if k == same[0] else k: other for k, other in chains.items()}
        else:
            chains[name] = chain
    names = list(chains)
    if len({chain.T for chain in chains.values()}) > 1:
        chains = {f"{name} (T = {chain.T})": chain for name, chain in chains.items()}
    if not options.respace:
        return curves([panels(chains)])
    rows, titles = [], []
    for spec in options.respace:
        kept = {label: respaced(name, chains[label], spec) for name, label in zip(names, chains, strict=True)}
        rows.append(panels(chains, kept))
        counts = [f"{kept[name].T} of {chain.T}" for name, chain in chains.items()]
        what = "" if spec.strip().isdecimal() else f"{title_of(spec, options.respace)}: "
        titles.append(f"{what}{' or '.join(dict.fromkeys(counts))} levels")
    return curves(rows, titles)


def panels(chains: dict[str, Chain], kept: dict[str, Chain] | None = None) -> list[Panel]:
    """ᾱ and log SNR of each chain over t/T, with dots where a respaced one has its levels."""
    from ddpm.draw.plots import Line, Panel

    share, ratio = [], []
    for name, chain in chains.items():
        t = np.arange(chain.T + 1) / chain.T
        dots: tuple[Any, Any] = (None, None)
        if kept:
            gamma = kept[name].gamma[1:]
            at = chain.places(kept[name])[1:] / chain.T
            dots = (at, alpha_bar(gamma)), (at, -gamma)
        share.append(Line(name, t, alpha_bar(chain.gamma), dots[0]))
        ratio.append(Line(name, t[1:], -chain.gamma[1:], dots[1]))  # at t = 0 it is infinite
    return [
        Panel(r"$\bar\alpha_t = \alpha_t^2$", share, "t/T"),
        Panel(r"log SNR$_t = -\gamma_t$", ratio, "t/T"),
    ]
