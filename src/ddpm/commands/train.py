"""`ddpm train DATA`: what will be trained, then the training, live."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from ddpm.commands.info import config_table, parameters
from ddpm.commands.options import console, parse_size, progress, read, unset
from ddpm.config import Config, check
from ddpm.errors import UserError
from ddpm.presets import preset

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ddpm.data import Pictures, Source
    from ddpm.plan import Planned
    from ddpm.store import Checkpoint, Description, Run
    from ddpm.train import Trainer

_DESCRIPTION = (
    "Trains a model on pictures. With nothing but DATA it picks size, net, batch and rate for the data and this "
    "machine and says what it picked. Ctrl-C saves and leaves; --resume goes on exactly there."
)
# short option: the field of the config it stands for
_SHORT = {
    "batch": "train.batch",
    "lr": "optimizer.lr",
    "steps": "train.steps",
    "seed": "train.seed",
    "checkpoint_every": "train.checkpoint_every",
    "labels": "data.labels",
}


@dataclass(frozen=True)
class Options:
    data: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DATA")]] = ""
    """Folder or .zip of pictures, .npz or .npy array, IDX files, or the embedded set fashion."""
    size: Annotated[str | None, unset("SIZE", "from the data")] = None
    """Height and width pictures are brought to: 64, or 64x96."""
    budget: Annotated[str | None, unset("TIME", "1h")] = None
    """Time there is, as 20m or 8h: the speed is measured first, the number of steps follows."""
    steps: Annotated[int | None, unset("N", "from the budget")] = None
    """Optimizer steps, in place of a budget."""
    preset: Annotated[str | None, unset("NAME", "chosen for the data")] = None
    """A paper's settings: cifar10, celebahq256, lsun-bedroom256, ... (ddpm info NAME shows one)."""
    batch: Annotated[int | None, unset("B", "from the plan or preset")] = None
    """Pictures an optimizer step."""
    lr: Annotated[float | None, unset("RATE", "from the plan or preset")] = None
    """Highest learning rate."""
    seed: Annotated[int | None, unset("SEED", "0")] = None
    """Seed of everything random."""
    labels: Annotated[Literal["auto", "none"] | None, unset("auto|none", "auto, none for a preset")] = None
    """none ignores sub-folders and label arrays."""
    checkpoint_every: Annotated[int | None, unset("N", "ten in all")] = None
    """Steps between two checkpoints."""
    out: Annotated[Path | None, unset("RUN", "runs/NAME-OF-THE-DATA")] = None
    """The run's folder."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out, exactly where it was."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show what would be trained, and leave."""
    device: Annotated[str | None, unset("DEVICE", "a GPU if there is one")] = None
    """cpu leaves a GPU alone."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    """Every field of the config: the plan or the preset decides what is not given."""


def main(arguments: Sequence[str]) -> int:
    started = time.perf_counter()
    options = read(Options, "train", arguments, _DESCRIPTION)
    given = _given(options, arguments)
    out = console()
    if options.resume:
        return _resume(options, given, out)
    if not options.data:
        raise UserError("ddpm train DATA: give a folder or .zip of pictures, or the embedded set fashion")
    if options.budget and "train.steps" in given:
        raise UserError("--budget and --steps: give one of them; the other follows from it")
    from ddpm.data import open_source
    from ddpm.memory import keep_freed_memory
    from ddpm.store import Description, Run

    keep_freed_memory()
    usual = preset(options.preset).data.labels if options.preset else "auto"
    source = open_source(options.data, given.get("data.labels", usual))
    run = Run(options.out or Path("runs") / source.name)
    if run.exists() and not options.dry_run:
        raise UserError(f"{run.folder}: holds a run already; continue it with --resume, or choose another --out")
    for note in source.notes:
        out.print(note)
    accelerator = _accelerator(options.device, given.get("train.precision", "no"))
    planned, pictures = _plan(options, given, source, accelerator, out, started)
    config = planned.config
    out.print(
        f"\n{len(pictures):,} pictures of {source.name}, {parameters(config, len(source.classes)):,} parameters"
    )
    for reason in planned.reasons:
        out.print(f"  {reason}")
    if options.dry_run:
        out.print(config_table(config))
        return 0
    from ddpm.train import Trainer, facts

    trainer = Trainer(config, pictures, accelerator)
    command = "ddpm train " + shlex.join(arguments)
    description = Description(config, facts(pictures), plan=planned.reasons, command=command)
    return _follow(trainer, Run.create(run.folder, description), description, None, out)


def _plan(
    options: Options, given: dict[str, Any], source: Source, accelerator: Accelerator, out: Console, started: float
) -> tuple[Planned, Pictures]:
    """The whole config: preset or plan, what was given on top, then what follows from the time there is."""
    from ddpm.build import build_chain
    from ddpm.data import check_batch
    from ddpm.plan import DEFAULT_BUDGET, Planned, fixed_steps, for_data, parse_duration, within

    budget = parse_duration(options.budget) if options.budget else DEFAULT_BUDGET
    if "data.path" in given:
        raise UserError("--data.path: give DATA itself, as ddpm train DATA")
    size = parse_size(options.size)
    if size:
        given["data.size"] = size
    if options.preset:
        channels = 1 if source.look().colour == 0 else 3
        base = Planned(preset(options.preset).with_(data__channels=channels), (f"preset {options.preset}",))
    else:
        base = for_data(source, accelerator.device, options.data, given.get("data.size"), budget)
    changes = {name.replace(".", "__"): value for name, value in given.items()}
    config = check(base.config.with_(data__path=(options.data,), **changes))
    # An impossible chain or net is refused before anything is decoded.
    build_chain(config)
    parameters(config, len(source.classes))
    pictures = _pictures(source, config, out)
    if not options.preset and "train.batch" not in given:
        config = config.with_(train__batch=min(config.train.batch, len(pictures)))
    check_batch(pictures, config.train.batch)
    if options.budget or not (options.preset or "train.steps" in given):
        out.print("measuring the speed of this machine ...")
        rest = within(config, pictures, accelerator, budget - (time.perf_counter() - started), given)
    elif options.preset:
        warmup, steps = config.optimizer.warmup, config.train.steps
        late = warmup > steps // 5
        reason = f"the preset's warm-up of {warmup} steps is long for {steps}: --optimizer.warmup shortens it"
        rest = Planned(config, (reason,) if late else ())
    else:
        rest = fixed_steps(config, given)
    return Planned(check(rest.config), (*base.reasons, *rest.reasons)), pictures


def _resume(options: Options, given: dict[str, Any], out: Console) -> int:
    """Goes on with a run from its newest whole checkpoint; its config is the one it has."""
    from ddpm.data import open_source
    from ddpm.memory import keep_freed_memory
    from ddpm.store import Run
    from ddpm.train import Trainer

    keep_freed_memory()
    if options.out is None and not options.data:
        raise UserError("ddpm train --resume: say which run, as --out runs/flowers")
    run = Run(options.out or Path("runs") / open_source(options.data).name)
    description = run.description()
    config = description.config
    changed = [name for name in ("budget", "preset") if getattr(options, name) is not None]
    if (size := parse_size(options.size)) is not None:
        given["data.size"] = size
    changed += [name for name, value in given.items() if value != _field(config, name)]
    if changed:
        raise UserError(
            f"{run.folder}: --resume goes on with the run's own config, which --{changed[0]} would change; "
            "leave it out, or start another run"
        )
    checkpoint, damaged = run.newest()
    for line in damaged:
        out.print(f"note: {line}; an older checkpoint is used")
    if checkpoint is None and damaged:
        raise UserError(f"{run.folder}: no checkpoint of this run is whole; start it anew with another --out")
    if checkpoint and checkpoint.step >= config.train.steps:
        out.print(f"{run.folder}: complete at step {checkpoint.step:,}; sample it with ddpm sample {run.folder}")
        return 0
    if options.dry_run:
        out.print(f"{run.folder}: would go on after step {checkpoint.step if checkpoint else 0:,}")
        out.print(config_table(config))
        return 0
    source = open_source(options.data or config.data.path[0], config.data.labels)
    pictures = _pictures(source, config, out)
    if pictures.fingerprint != description.facts.fingerprint:
        raise UserError(
            f"{options.data or ' '.join(config.data.path)}: not the pictures this run was started with; bring "
            "them back, or start another run"
        )
    accelerator = _accelerator(options.device, config.train.precision)
    trainer = Trainer(config, pictures, accelerator)
    return _follow(trainer, run, description, checkpoint, out)


def _given(options: Options, arguments: Sequence[str]) -> dict[str, Any]:
    """The fields of the config that the command line names, by short or dotted option."""
    given = {}
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and "." in name:
            section, _, item = name[2:].replace("-", "_").partition(".")
            item = item.removeprefix("no_")
            given[f"{section}.{item}"] = getattr(getattr(options.config, section), item)
    for short, name in _SHORT.items():
        if getattr(options, short) is not None:
            given[name] = getattr(options, short)
    return given


def _field(config: Config, name: str) -> Any:
    section, _, item = name.partition(".")
    return getattr(getattr(config, section), item)


def _accelerator(device: str | None, precision: str) -> Accelerator:
    import accelerate

    from ddpm.pipeline import pick_device

    if device not in (None, "cpu", "cuda", "mps"):
        raise UserError(f"--device {device}: takes cpu, cuda or mps")
    pick_device(device)
    return accelerate.Accelerator(mixed_precision=precision, cpu=device == "cpu")


def _pictures(source: Source, config: Config, out: Console) -> Pictures:
    """The data, decoded; what could not be is counted and listed."""
    from ddpm.data import load

    with progress("decoding") as advance:
        pictures = load(source, config.data.size, config.data.channels, progress=advance)
    if pictures.skipped:
        out.print(f"{len(pictures.skipped)} of {len(source)} pictures could not be read and are left out:")
        for name, reason in pictures.skipped[:10]:
            out.print(f"  {name}: {reason}")
        if len(pictures.skipped) > 10:
            out.print(f"  ... and {len(pictures.skipped) - 10} more")
    return pictures


class _Signals:
    """Inside `with`, Ctrl-C, SIGTERM or a closed terminal stop training after its step, a second one at once."""

    def __enter__(self) -> _Signals:
        self.received = 0
        numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
        self._before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        print("\nsaving and leaving; once more to leave at once", file=sys.stderr, flush=True)


def _follow(
    trainer: Trainer, run: Run, description: Description, checkpoint: Checkpoint | None, out: Console
) -> int:
    """Trains, and shows it."""
    from ddpm.commands.watch import watch
    from ddpm.train import Ended, fit

    complete = False
    with _Signals() as signals, watch(out) as show:
        for event in fit(trainer, run, description, checkpoint, lambda: bool(signals.received)):
            show(event)
            complete = isinstance(event, Ended) and event.complete
    if not complete:
        out.print(f"stopped; go on with: ddpm train --resume --out {shlex.quote(str(run.folder))}")
        return 128 + signals.received
    out.print(f"done; draw pictures with: ddpm sample {run.folder}")
    return 0
