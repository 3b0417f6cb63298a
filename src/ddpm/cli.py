"""The command line: options in, events out. Thin: what a command does is in the library.

`ddpm --help` answers without importing torch.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper

from ddpm.errors import UserError, printable
from ddpm.stopping import Stoppable
from ddpm.version import __version__

_DEBUG = "--debug"
_DEBUG_HELP = f"{_DEBUG}, anywhere in a command, shows the stack trace of what goes wrong."
_CTRL_C = 2  # the number of SIGINT
_LONGEST = 300  # characters of an unexpected exception's message

# name: (module with a function main(arguments), one line of help)
COMMANDS = {
    "train": ("ddpm.commands.train", "train a model on pictures: ddpm train DATA"),
    "check": ("ddpm.commands.check", "look before anything is spent: ddpm check DATA, ddpm check RUN"),
    "sample": ("ddpm.commands.sample", "draw pictures from a model: ddpm sample MODEL -n 64"),
    "evaluate": ("ddpm.commands.evaluate", "measure a model: ddpm evaluate MODEL --reference DATA --metrics nll"),
    "tune": ("ddpm.commands.tune", "find the best sampler for few evaluations: ddpm tune RUN --reference DATA"),
    "progressive": ("ddpm.commands.progressive", "draw pictures coming into being: ddpm progressive MODEL"),
    "interpolate": ("ddpm.commands.interpolate", "draw what is between two pictures: ddpm interpolate MODEL A B"),
    "inpaint": (
        "ddpm.commands.inpaint",
        "paint a part of a picture anew: ddpm inpaint MODEL PICTURE --mask centre",
    ),
    "invert": ("ddpm.commands.invert", "the noise a picture is made of: ddpm invert MODEL PICTURE"),
    "img2img": ("ddpm.commands.img2img", "draw a picture again, from noise: ddpm img2img MODEL PICTURE --t 400"),
    "convert": (
        "ddpm.commands.convert",
        "from other projects' files, and to them: ddpm convert SRC DST --to openai",
    ),
    "info": ("ddpm.commands.info", "show what a model, run or preset is: ddpm info MODEL"),
    "report": ("ddpm.commands.report", "show a run as one page, or follow it: ddpm report RUN --follow"),
    "plot": ("ddpm.commands.plot", "draw the forward process or the schedules: ddpm plot forward PICTURE"),
}

_HELP = f"""ddpm {__version__}: denoising diffusion probabilistic models

usage: ddpm COMMAND ...            ddpm COMMAND --help shows a command's options

{chr(10).join(f"  {name:11} {line}" for name, (_, line) in COMMANDS.items())}

DATA is a folder, .zip or .tar of pictures (sub-folders are classes), a list of them (CSV, JSON), a .npz or
.npy array, IDX or parquet files, hub:org/name, or the embedded set `fashion`. MODEL is a run's folder, a
.safetensors file, the embedded model `fashion`, or another project's: OpenAI's .pt, a folder of diffusers.

  ddpm sample fashion              pictures from the embedded model, in seconds
  ddpm train fashion --budget 3m   a model of your own, in three minutes
  ddpm check ./photos              what your pictures are like
  ddpm train ./photos              a model of them

{_DEBUG_HELP}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the process's exit status.

    0; 2 for a mistake to mend; 1 for a fault of ddpm's own, or a reader who left; 128 + its number if a signal
    stopped it: 130 after Ctrl-C, 143 after SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug, given = _DEBUG in given, [one for one in given if one != _DEBUG]
    program = arguments is None
    with Stoppable(leaving=program) as signals:
        try:
            if program and isinstance(sys.stdout, TextIOWrapper):
                sys.stdout.reconfigure(errors="replace")  # a terminal without é is no reason to stop
            status = _run(given)
            sys.stdout.flush()  # while a full disk can still be told of
        except BaseException as error:
            if isinstance(error, SystemExit) and not signals.number:
                raise
            signals.enough()
            if debug:
                _show(error)
            if program:
                _let_go()
            if not signals.number:
                return _told(error, given[0] if given else "help")
        # Whatever was raised after a signal comes of it, as an import that was cut off.
        return _stopped(signals.number) if signals.number else status


def _run(given: Sequence[str]) -> int:
    name, rest = (given[0], given[1:]) if given else ("help", [])
    if name in ("-h", "--help", "help", "--version"):
        print(f"ddpm {__version__}" if name == "--version" else _HELP, flush=True)
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise UserError(f"{name}: no such command; {hint}")
    try:
        status: int = importlib.import_module(COMMANDS[name][0]).main(rest)
    except SystemExit as left:
        if not left.code and {"-h", "--help"} & set(rest):
            print(_DEBUG_HELP, flush=True)
        raise
    return status


# -- what went wrong -------------------------------------------------------------------------------------------


def _told(error: BaseException, name: str) -> int:
    """Says it in a line; the exit status."""
    from ddpm.memory import out_of_memory

    if isinstance(error, KeyboardInterrupt):
        return _stopped(_CTRL_C)
    if isinstance(error, BrokenPipeError):
        return 1
    if isinstance(error, UserError):
        _say(str(error))
    elif out_of_memory(error):
        trains = name in ("train", "check")
        less = (
            "a smaller --batch or --size, or --train.accumulate 2"
            if trains
            else "less at once, as a smaller --batch"
        )
        _say(f"out of memory: take {less}")
    elif isinstance(error, OSError) and error.errno is not None:
        _say(f"{error.filename or name}: {error.strerror or error}")
    else:
        what = ": ".join(part for part in (type(error).__name__, " ".join(str(error).split())) if part)
        short = what if len(what) <= _LONGEST else f"{what[:_LONGEST]}…"
        _say(f"{short} ({_where(error)}): a fault of ddpm's own; with {_DEBUG} the command shows its stack trace")
        return 1
    return 2


def _stopped(number: int) -> int:
    _say("stopped")
    return 128 + number


def _say(line: str) -> None:
    """On a line of its own, if there is anybody to read it."""
    with suppress(OSError, ValueError):
        print(f"ddpm: {printable(line)}", file=sys.stderr, flush=True)


def _where(error: BaseException) -> str:
    """The module and line of ours that it came through last."""
    at, where = error.__traceback__, ""
    while at is not None:
        module = str(at.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == "ddpm":
            where = f"{module}:{at.tb_lineno}"
        at = at.tb_next
    return where


def _show(error: BaseException) -> None:
    """The stack trace, with what lies behind it and is not shown otherwise (`raise … from None`)."""
    import traceback

    behind: BaseException | None = error
    seen: set[int] = set()
    while behind is not None and id(behind) not in seen:
        seen.add(id(behind))
        with suppress(AttributeError):  # of a frozen one
            behind.__suppress_context__ = False
        behind = behind.__cause__ or behind.__context__
    with suppress(OSError, ValueError):
        traceback.print_exception(error)


def _let_go() -> None:
    """What a reader who left or a full disk does not take goes nowhere, or the interpreter would try it again."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
