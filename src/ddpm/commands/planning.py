"""What `ddpm train` would train with these options: shared with `ddpm check`, which says so beforehand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from ddpm.checking import check
from ddpm.commands.configfile import read_config
from ddpm.commands.info import parameters
from ddpm.commands.options import parse_size, stages, unset
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.presets import ORIGINS, preset

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ddpm.data import Pictures, Source
    from ddpm.plan import Choices, Planned
    from ddpm.processes import Processes

AUTO = "auto"
# short option: the field of the config it stands for
_SHORT = {
    "batch": "train.batch",
    "lr": "optimizer.lr",
    "steps": "train.steps",
    "seed": "train.seed",
    "checkpoint_every": "train.checkpoint_every",
    "labels": "data.labels",
    "holdout": "data.holdout",
    "channels": "data.channels",
    "crop": "data.crop",
    "background": "data.background",
    "precision": "train.precision",
    "compile": "train.compile",
    "checkpoint_activations": "train.checkpoint_activations",
    "init_from": "train.init_from",
    "task": "train.task",
    "label_drop": "train.label_drop",
    "trackers": "train.trackers",
}


@dataclass(frozen=True)
class PlanOptions:
    """The options that decide what is trained; train and check add their own."""

    data: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="DATA ...", help_behavior_hint="")]
    ] = ()
    """Folder, archive, list, array, IDX or parquet file of pictures, hub:org/name, or the embedded set fashion."""
    size: Annotated[str | None, unset("SIZE", "from the data")] = None
    """Height and width pictures are brought to: 64, or 64x96."""
    budget: Annotated[str | None, unset("TIME", "1h")] = None
    """Time there is, as 20m or 8h: the speed is measured first, the number of steps follows."""
    steps: Annotated[int | None, unset("N", "from the budget")] = None
    """Optimizer steps, in place of a budget."""
    preset: Annotated[str | None, unset("NAME", "chosen for the data")] = None
    """A paper's settings, as cifar10; ddpm info presets lists them."""
    batch: Annotated[str | None, unset("B|auto", "from the plan or preset")] = None
    """Pictures an optimizer step; auto takes the largest power of two that fits into memory at once."""
    lr: Annotated[float | None, unset("RATE", "from the plan or preset")] = None
    """Highest learning rate."""
    seed: Annotated[int | None, unset("SEED", "0")] = None
    """Seed of everything random."""
    labels: Annotated[Literal["auto", "none"] | None, unset("auto|none", "auto, none for a preset")] = None
    """none ignores sub-folders, lists, columns and arrays of labels."""
    holdout: Annotated[str | None, unset("SHARE|NAME|DATA", "none")] = None
    """Pictures never trained on: a share such as 0.05, a first-level sub-folder, or other DATA."""
    channels: Annotated[Literal[1, 3, 4] | None, unset("1|3|4", "from the data")] = None
    """1 for grey, 3 for colour, 4 for colour with transparency."""
    crop: Annotated[Literal["centre", "random", "pad", "none"] | None, unset("HOW", "centre")] = None
    """Where shapes differ: cut from the centre, cut at random, pad to the shape, or stretch (none)."""
    background: Annotated[str | None, unset("COLOUR", "white")] = None
    """Colour behind transparency and padding: a name or #rrggbb."""
    init_from: Annotated[str | None, unset("MODEL", "fresh weights")] = None
    """Fine-tune: start from the weights of a run, a file, or an embedded model."""
    task: Annotated[Literal["image", "classifier", "upsampler"] | None, unset("TASK", "image")] = None
    """A model of pictures, a classifier of noisy ones that guides it, or an upsampler of its pictures."""
    label_drop: Annotated[float | None, unset("SHARE", "0")] = None
    """Share of labels left out, which classifier-free guidance needs: 0.1."""
    precision: Annotated[Literal["no", "bf16", "fp16"] | None, unset("no|bf16|fp16", "bf16 on a GPU")] = None
    """Mixed precision."""
    compile: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compile the net: slower to start, then faster."""
    checkpoint_activations: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compute activations again on the way back: less memory, more time."""
    trackers: Annotated[tuple[Literal["tensorboard", "wandb"], ...] | None, unset("NAME", "none")] = None
    """Where the log goes besides the run's folder: tensorboard, wandb."""
    checkpoint_every: Annotated[int | None, unset("N", "ten in all")] = None
    """Steps between two checkpoints."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu leaves a GPU alone."""
    out: Annotated[Path | None, unset("RUN", "runs/NAME-OF-THE-DATA")] = None
    """The run's folder."""
    config_file: Annotated[Path | None, unset("FILE", "none", name="config")] = None
    """Part of a config as YAML or JSON, or another run's config.json; options on the command line win over it."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    """Every field of the config: the plan or the preset decides what is not given."""


def asked_for(options: PlanOptions, arguments: Sequence[str]) -> dict[str, Any]:
    """The fields of the config that were asked for, by dotted name: the file's, then the command line's."""
    given = read_config(options.config_file) if options.config_file else {}
    if options.budget:
        given.pop("train.steps", None)  # of the file's: the command line wins
    if options.data:
        given.pop("data.path", None)
    given |= dotted(options.config, arguments)
    for short, name in _SHORT.items():
        value = _number(options.batch) if short == "batch" else getattr(options, short)
        if value is not None and value is not False:  # a flag that is not there says nothing
            given[name] = value
    if (size := parse_size(options.size)) is not None:
        given["data.size"] = size
    return given


def _number(batch: str | None) -> int | None:
    """--batch as a number; None where it is to be found out."""
    if batch in (None, AUTO):
        return None
    try:
        return int(batch)
    except ValueError:
        raise UserError(f"--batch {batch}: takes a number of pictures, or {AUTO}") from None


def dotted(config: Config, arguments: Sequence[str]) -> dict[str, Any]:
    """The fields of a config that the command line gives by their dotted names."""
    given = {}
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and "." in name:
            section, _, item = name[2:].replace("-", "_").partition(".")
            item = item.removeprefix("no_")
            given[f"{section}.{item}"] = getattr(getattr(config, section), item)
    return given


def data_of(options: PlanOptions, given: dict[str, Any]) -> tuple[str, ...]:
    """DATA: the command line's, or the file's where it gives none."""
    return options.data or given.get("data.path", ())


def accelerator_for(options: PlanOptions, given: dict[str, Any], run: Path | None = None) -> Accelerator:
    """The device and precision to train with: those asked for, a preset's, or the plan's.

    run: the folder that trackers write into.
    """
    from ddpm.loading import pick_device
    from ddpm.plan import precision

    check_device(options.device)
    device = pick_device(options.device)
    usual = preset(options.preset).train.precision if options.preset else precision(device)
    trackers = given.get("train.trackers", ())
    return make_accelerator(options.device, given.get("train.precision", usual), trackers, run)


def make_accelerator(
    device: str | None, precision: str, trackers: Sequence[str] = (), run: Path | None = None
) -> Accelerator:
    """On a device by name, or the best there is; UserError if there is no such one, or no such tracker."""
    import accelerate

    from ddpm.commands.track import check_trackers, place
    from ddpm.loading import pick_device

    check_device(device)
    pick_device(device)
    check_trackers(trackers)
    logs: dict[str, Any] = {"log_with": list(trackers), "project_dir": place(run)} if trackers and run else {}
    return accelerate.Accelerator(mixed_precision=precision, cpu=device == "cpu", **logs)


def check_device(device: str | None) -> None:
    """UserError for a name there is none of."""
    if device not in (None, "cpu", "cuda", "mps"):
        raise UserError(f"--device {device}: takes cpu, cuda or mps")


def plan_for(
    options: PlanOptions,
    given: dict[str, Any],
    source: Source,
    accelerator: Accelerator,
    out: Console,
    started: float,
    crew: Processes | None = None,
) -> tuple[Planned, Pictures]:
    """What `ddpm train` would train with these options, and on what: decoded, measured, every field decided.

    Args:
        given: what was asked for, of `asked_for`; never touched.
        source: DATA, opened.
        accelerator: of `accelerator_for`.
        out: where unreadable pictures are told; the plan itself is shown with `show_plan`.
        started: when the command was, by time.perf_counter; a budget counts from there.
        crew: the processes that will train together; the main one's plan is everyone's.
    """
    from ddpm.processes import Processes

    crew = crew or Processes()
    from ddpm.build import build_chain
    from ddpm.data import check_batch
    from ddpm.plan import DEFAULT_BUDGET, Choices, choose_small, for_data, parse_duration, plan, readable
    from ddpm.trainer import check_classes
    from ddpm.transfer import open_origin, settings

    budget = parse_duration(options.budget) if options.budget else DEFAULT_BUDGET
    if options.budget and "train.steps" in given:
        raise UserError("--budget and --steps: give one of them; the other follows from it")
    if "data.path" in given and options.data:
        raise UserError("--data.path: give DATA itself, as ddpm train DATA")
    asked = {**given, "data.path": data_of(options, given)}
    if options.preset and asked.get("train.init_from"):
        raise UserError("--preset and --init-from: give one of them; the model brings its own net and chain")
    if options.preset:
        own = preset(options.preset).train.task
        task = asked.get("train.task", own)
        if task != own and "classifier" in (
            task,
            own,
        ):  # a preset's net enlarges pictures as well as it draws them
            raise UserError(
                f"--task {task}: the preset {options.preset} is of the task {own}; take another preset, or leave "
                "one of the two out"
            )
        channels = 1 if readable(source).colour == 0 else 3
        choices = Choices(preset(options.preset).with_(data__channels=channels), asked)
        origin = ORIGINS[options.preset]
        choices.say("preset", options.preset, f"{origin.paper}, {origin.where}")
        choose_small(choices)
    else:
        why = {}
        if asked.get("train.init_from"):
            asked, notes = settings(open_origin(asked["train.init_from"]), asked, bool(source.classes))
            why = {name: "the model's" for name in asked if name not in given}
            for line in notes:
                out.print(line)
        choices = for_data(source, accelerator.device, asked, budget, why)
    config = check(choices.config)
    check_classes(config, source.classes)
    # An impossible chain or net is refused before anything is decoded.
    build_chain(config)
    parameters(config, len(source.classes))
    pictures = decoded(source, config, out, crew)
    _settle_cache(choices, pictures)
    if options.preset or "train.batch" in given:
        check_batch(pictures, config.train.batch)
    seconds = None
    if options.budget or not (options.preset or "train.steps" in given):
        seconds = budget - (time.perf_counter() - started)
    folder = options.out or Path("runs") / source.name
    largest = options.batch == AUTO and "train.batch" not in given
    planned = plan(choices, pictures, accelerator, folder, seconds, bool(options.preset), out.print, crew, largest)
    return crew.told(lambda: planned), pictures


def _settle_cache(choices: Choices, pictures: Pictures) -> None:
    """Cached or streamed is decided once: a resumed run must find the same pictures, whatever is free by then."""
    from ddpm.data.stream import Streamed

    streamed = isinstance(pictures, Streamed)
    if choices["data.cache"] == "auto":
        choices.config = choices.config.with_(data__cache="never" if streamed else "always")
    if streamed:
        choices.say("pictures", "streamed", pictures.notes[-1], "data.cache")


def show_plan(planned: Planned, out: Console) -> None:
    """The decisions as a table, then what is worth a thought: in columns where there is room, else in lines."""
    rows = [(decision.what, decision.value, decision.why) for decision in planned.decisions]
    if out.is_terminal:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title, style in (("what", "bold"), ("value", ""), ("why", "dim")):
            table.add_column(title, style=style, header_style="dim", overflow="fold")
        for row in rows:
            table.add_row(*row)
        out.print(table, soft_wrap=False)
    else:
        what, value = (max(map(len, column)) for column in list(zip(*rows, strict=True))[:2])
        for row in rows:
            out.print(f"{row[0]:<{what}}  {row[1]:<{value}}  {row[2]}")
    for line in planned.warnings:
        out.print(f"note: {line}")
    for line in planned.obstacles:
        out.print(f"this will not work: {line}")


def decoded(source: Source, config: Config, out: Console, crew: Processes | None = None) -> Pictures:
    """The data, decoded, by one process of each machine for all; what could not be is counted and listed."""
    from ddpm.data import load
    from ddpm.processes import Processes

    crew = crew or Processes()
    with crew.first(of_machine=True), stages() if crew.main else nullcontext() as advance:
        pictures = load(
            source,
            config.data.size,
            config.data.channels,
            crop=config.data.crop,
            background=config.data.background,
            keep=config.data.cache,
            progress=advance,
        )
    show_skipped(pictures.skipped, f"of {len(source):,} pictures could not be read and are left out", out)
    return pictures


def show_skipped(skipped: Sequence[tuple[str, str]], what: str, out: Console) -> None:
    """How many, and the first ten with their reasons."""
    if skipped:
        out.print(f"{len(skipped):,} {what}:")
    for name, reason in skipped[:10]:
        out.print(f"  {name}: {reason}")
    if len(skipped) > 10:
        out.print(f"  ... and {len(skipped) - 10:,} more")
