"""The command line: options in, events out. Thin: what a command does is in the library.

`ddpm --help` answers without importing torch.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from ddpm.errors import UserError
from ddpm.version import __version__

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
  ddpm train ./photos              a model of them"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the process's exit status: 0, 2 for a mistake to mend, 130 and 143 if stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    try:
        if name in ("-h", "--help", "help", "--version"):
            print(f"ddpm {__version__}" if name == "--version" else _HELP, flush=True)
            return 0
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
            raise UserError(f"{name}: no such command; {hint}")
        status: int = importlib.import_module(COMMANDS[name][0]).main(rest)
        return status
    except UserError as error:
        print(f"ddpm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ddpm: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        print(f"ddpm: {error.filename or name}: {error.strerror or error}", file=sys.stderr)
        return 2
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        print("ddpm: out of memory: take a smaller --batch or --size, or --train.accumulate 2", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
