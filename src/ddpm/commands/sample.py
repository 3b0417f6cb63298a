"""`ddpm sample MODEL`: pictures, a grid of them, and a film of their making; with upsamplers, a cascade."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ddpm.commands.guiding import GuideOptions, guide_of
from ddpm.commands.method import METHOD, Engine, MethodOptions, SamplerName, check_seed
from ddpm.commands.options import parse_size, read, stages, unset
from ddpm.commands.processes import console_of, noting, together
from ddpm.errors import UserError
from ddpm.units import amount, counted

if TYPE_CHECKING:
    from rich.console import Console

    from ddpm.guide import Guide
    from ddpm.method import Method
    from ddpm.pipeline import Pipeline
    from ddpm.processes import Processes
    from ddpm.samples import Samples

_DESCRIPTION = """Draws pictures from a model: a grid, single PNGs, and a film of the walk from noise to picture.
With --upsample an upsampler enlarges them; one alone enlarges the pictures that --low gives it.

Several GPUs share the drawing: torchrun --nproc-per-node 4 -m ddpm.cli sample MODEL ..."""
AUTO = "auto"


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A run's folder, a file, another project's checkpoint, or the embedded model fashion."""
    n: Annotated[int | None, unset("N", "64; with --low all, of a set 64", aliases=["-n"], name="number")] = None
    """Number of pictures."""
    upsample: Annotated[tuple[str, ...], unset("UP ...", "none")] = ()
    """Upsamplers, which enlarge what MODEL draws, one after the other; the small pictures are kept in base/."""
    low: Annotated[str | None, unset("DATA", "none")] = None
    """For an upsampler as MODEL, what it enlarges: DATA, DATA:K, a picture's file, or what ddpm sample wrote."""
    seed: Annotated[int | None, unset("SEED", "0; of samples given with --low, theirs")] = None
    """Picture k of a seed is always the same; every upsampler makes noise of its own from it."""
    label: Annotated[str | None, unset("CLASS", "drawn as often as in the data", name="class")] = None
    """A class by number or name, for all."""
    upsample_sampler: Annotated[SamplerName | None, unset("SAMPLER", "dpm++sde", name="upsample-sampler")] = None
    """The same of the upsamplers; all other options of sampling and guidance are of MODEL."""
    upsample_steps: Annotated[str | None, unset("STEPS", "as of --steps", name="upsample-steps")] = None
    """Of every upsampler."""
    size: Annotated[str | None, unset("SIZE", "as trained")] = None
    """Height and width: 64, or 64x96."""
    batch: Annotated[str | None, unset("B|auto", "64 of 32 x 32 on a CPU, 256 on a GPU")] = None
    """Pictures computed at once, by each process; auto: the largest power of two that should fit into the free
    memory. Half of them whenever memory runs out; the pictures are the same."""
    engine: Engine = "torch"
    """What computes the net: torch as it is; a program compiled for this machine, kept in the cache and told when
    it pays off; or ONNX Runtime (pip install 'ddpm[onnx]')."""
    weights: Literal["ema", "model"] = "ema"
    """Averaged weights, or as they are."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu, cuda or mps."""
    out: Annotated[Path | None, unset("DIR", "samples/MODEL")] = None
    """Folder written."""
    film: bool = True
    """Also write film.webp."""
    method: Annotated[MethodOptions, METHOD] = MethodOptions()
    guide: Annotated[GuideOptions, tyro.conf.arg(name="")] = GuideOptions()


def main(arguments: Sequence[str]) -> int:
    options = read(Options, "sample", arguments, _DESCRIPTION)
    from ddpm.commands.small import USUAL
    from ddpm.engines import check_engine
    from ddpm.memory import keep_freed_memory
    from ddpm.walks import check_count

    check_count(USUAL if options.n is None else options.n, 0)
    _check(options)
    check_seed(options.seed or 0)
    check_engine(options.engine)
    keep_freed_memory()
    with together(options.device) as crew:
        return _sample(options, crew)


def _sample(options: Options, crew: Processes) -> int:
    from ddpm.commands.small import small_pictures
    from ddpm.loading import load
    from ddpm.method import Method
    from ddpm.samples import check_out
    from ddpm.upsampling import check_upsampler

    out = console_of(crew)
    with crew.first():  # whose checks come before anything is spent
        model = load(options.model, crew.device, options.weights)
        ups = [load(up, crew.device, options.weights) for up in options.upsample]
        method = model.chosen(Method.of(**options.method.asked()))
        if method.fitted:
            model.fitted(method.steps, str(method.grid))  # what there is to say of it is said before time is spent
        for note in [note for one in (model, *ups) for note in one.notes]:
            out.print(f"note: {note}")
        guide = guide_of(options.guide, model.device, out)
        given = None
        if options.low is not None:
            check_upsampler(model.name, model.description.config)
            given = small_pictures(model, options.low, options.n)
        check_stages(model, ups, options, guide, given)
        last = (model, *ups)[-1]
        folder = check_out(options.out or Path("samples") / last.name)
        replaced = folder.is_dir() and any(folder.iterdir())
    for one in (model, *ups):
        one.crew, one.tell = crew, noting(crew, out)
        one.run_on(options.engine)
    start = time.perf_counter()
    with stages() as advance:
        samples = draw(model, ups, options, guide, given, partial(_batch, options.batch, out), advance)
    seconds = time.perf_counter() - start
    crew.leave()
    if not crew.main:
        return 0
    samples.save(folder)
    if replaced:
        out.print(f"the samples that were in {folder} are replaced")
    by = f"{crew.count} processes" if crew.count > 1 else str(model.device)
    out.print(f"{len(samples)} pictures of {told(samples)}, in {seconds:.1f} s on {by}")
    shown = f"open {folder / 'grid.png'}" + (f" or {folder / 'film.webp'}" if options.film else "")
    out.print(shown + (f"; the small ones are in {folder / 'base'}" if samples.base else ""))
    return 0


def _check(options: Options) -> None:
    """UserError for options that belong to others that are not there."""
    if not options.upsample:
        if options.upsample_steps is not None:
            raise UserError(f"--upsample-steps {options.upsample_steps}: say which upsampler, with --upsample UP")
        if options.upsample_sampler is not None:
            raise UserError(
                f"--upsample-sampler {options.upsample_sampler}: say which upsampler, with --upsample UP"
            )
    if options.batch not in (None, AUTO) and not (options.batch.isascii() and options.batch.isdecimal()):
        raise UserError(f"--batch {options.batch}: takes a number of pictures, or {AUTO}")
    if options.low is not None and options.size is not None:
        raise UserError(f"--size {options.size}: an upsampler draws the size it was trained at; leave it out")


def check_stages(
    model: Pipeline, ups: Sequence[Pipeline], options: Options, guide: Guide, given: Samples | None
) -> None:
    """UserError, before anything is drawn, where a model cannot enlarge what the one before it draws."""
    from ddpm.upsampling import check_base, check_classes, without_class

    size, known = parse_size(options.size) or model.size, model.known_classes(guide)
    shares = known.frequencies or (1.0,) * len(known.names)
    names = [name for name, share in zip(known.names, shares, strict=False) if share]
    if given is not None and given.labels is not None and options.label is None:
        names = [given.classes[k] for k in sorted(set(given.labels))]
    if options.label is not None and known.names:
        names = [known.names[known.number(options.label)]]
    for base, up in pairwise((model, *ups)):
        config = up.description.config
        check_base(up.name, config, base.name, size, base.description.config.data.channels)
        size = up.size
        if not names and up.classes and options.label is not None:
            names = [up.classes[up.class_number(options.label)]]
        elif names:
            check_classes(up.name, up.classes, model.name, names)
        else:
            without_class(up.name, up.classes, config.train.label_drop > 0, 1)


def _batch(
    asked: str | None,
    out: Console,
    model: Pipeline,
    n: int,
    method: Method,
    size: tuple[int, int] | None = None,
    guide: Guide | None = None,
) -> int | None:
    """How many pictures are computed at once, None for the usual number; auto is found out."""
    if asked != AUTO:
        return None if asked is None else int(asked)
    from ddpm.guide import UNGUIDED
    from ddpm.plan.machine import free_memory

    own, free = model.crew.rows(n), free_memory(model.device)
    if free is None:
        out.print("note: --batch auto: how much memory is free cannot be told here; the usual batch is taken")
        return None
    if model.device.type == "cpu":
        free //= model.crew.of_machine
    largest, each = model.largest_batch(free, method, size, guide or UNGUIDED)
    batch = max(1, min(largest, int(own.stop - own.start)))
    out.print(
        f"--batch auto: {counted(batch, 'picture')} of {model.name} at once, which take about "
        f"{amount(batch * each)} of {amount(free)} free memory"
    )
    return batch


def draw(
    model: Pipeline,
    ups: Sequence[Pipeline],
    options: Options,
    guide: Guide,
    given: Samples | None,
    batch: Callable[..., int | None],
    advance: Callable[[str, int, int], None],
) -> Samples:
    """All stages, one after the other; the film is that of the last. batch: see `_batch`."""
    from ddpm.commands.small import USUAL
    from ddpm.method import Method

    main, size = model.crew.main, parse_size(options.size)
    # A class that the first model does not know is for the first one that knows classes.
    own = model.known_classes(guide).names or not any(up.classes for up in ups)
    n = len(given) if given is not None else USUAL if options.n is None else options.n
    of_first: dict[str, Any] = {
        "label": options.label if own else None,
        "batch": batch(model, n, Method.of(**options.method.asked()), size, guide),
        "frames": options.film and not ups,
        "guide": guide,
        **options.method.asked(),
    }
    if given is not None:
        tell = partial(advance, "enlarging") if main else None
        samples = model.upsample(given, seed=options.seed, progress=tell, **of_first)
    else:
        tell = partial(advance, "sampling") if main else None
        samples = model.sample(n, seed=options.seed or 0, size=size, progress=tell, **of_first)
    for k, up in enumerate(ups):
        samples = up.upsample(
            samples,
            sampler=options.upsample_sampler,
            steps=options.upsample_steps,
            label=options.label if up.classes and samples.labels is None else None,
            batch=batch(up, n, Method(options.upsample_sampler, options.upsample_steps)),
            frames=options.film and k == len(ups) - 1,
            progress=partial(advance, f"enlarging to {up.size[0]} x {up.size[1]}") if main else None,
        )
    return samples


def told(samples: Samples) -> str:
    """Where pictures come from, the first stage first."""
    from ddpm.respacing import known
    from ddpm.upsampling import source_of

    record, base = samples.record, samples.base
    if "sampler" not in record:
        return source_of(samples)
    grid = record.get("grid")
    of = "" if grid is None else f" {grid}" if known(grid) else " fitted"
    tuned = f", tuned for {counted(record['tuned'], 'evaluation')}" if "tuned" in record else ""
    guided = f", guided {record['cfg_scale']:g} times" if "cfg_scale" in record else ""
    if "classifier" in record:
        guided += f", guided by {record['classifier']} {record['classifier_scale']:g} times"
    how = f"{record['sampler']} with {record['steps']}{of} steps{tuned}{guided}"
    if base is None:
        return f"{source_of(samples)}, {how}, seed {record['seed']}"
    (h, w), (height, width) = base.pixels.shape[2:], samples.pixels.shape[2:]
    return f"{told(base)}, enlarged from {h} x {w} to {height} x {width} by {source_of(samples)}, {how}"
