"""TensorBoard and Weights & Biases beside log.jsonl, through accelerate's trackers.

Everything they keep lies in the run's folder, under `trackers`. Without a network: WANDB_MODE=offline.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ddpm.atomic import write_json
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.events import Ended, Evaluated, Logged, Previewed, Scored, TrainEvent
from ddpm.reading import read_json
from ddpm.store import Run

if TYPE_CHECKING:
    from accelerate import Accelerator

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def check_trackers(names: Sequence[str]) -> None:
    """UserError for a tracker whose package is not installed: accelerate would leave it out without a word."""
    from accelerate.utils import is_tensorboard_available, is_wandb_available

    available = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    for name in names:
        if not available[name]():
            raise UserError(f"--trackers {name}: is not installed; pip install {_PACKAGES[name]}, or leave it out")


def place(run: Path) -> str:
    """Where the trackers of a run's folder write."""
    return str(run / "trackers")


class Tracked:
    """Takes the events of a training to the accelerator's trackers."""

    def __init__(
        self,
        accelerator: Accelerator,
        run: Run,
        config: Config,
        names: Sequence[str],
        step: int,
        tell: Callable[[str], None] = print,
    ):
        """names: of the trackers. step: the one training goes on after; what a tracker has beyond it is replaced
        where it can be.

        tell is called if a tracker fails. UserError if one cannot be started.
        """
        self.accelerator, self.names, self.tell = accelerator, tuple(names), tell
        if not self.names:
            return
        folder = Path(place(run.folder))
        folder.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"tensorboard": {"purge_step": step + 1}}
        if "wandb" in self.names:
            # The same W&B run again after a resume.
            known = folder / "wandb.json"
            if not known.is_file():
                write_json(known, {"id": secrets.token_hex(8)})
            options["wandb"] = {
                "dir": str(folder),
                "id": read_json(known)["id"],
                "name": run.folder.name,
                "resume": "allow",
            }
        try:
            accelerator.init_trackers(
                "ddpm", config=_plain(config), init_kwargs={name: options[name] for name in self.names}
            )
        except Exception as error:  # each tracker has errors of its own
            raise UserError(
                f"--trackers {' '.join(self.names)}: {_line(error)}; log in, or keep it in the run with "
                f"WANDB_MODE=offline, and go on with ddpm train --resume --out {run.folder}"
            ) from None

    def __call__(self, event: TrainEvent) -> None:
        if not self.names:
            return
        try:
            self._take(event)
        except Exception as error:  # a tracker that fails is no reason to end a training; log.jsonl has it all
            self.tell(f"note: {' and '.join(self.names)} left from here on: {_line(error)}")
            self.names = ()

    def _take(self, event: TrainEvent) -> None:
        if isinstance(event, Logged):
            what, mean = ("mse", event.mse) if event.accuracy is None else ("accuracy", event.accuracy)
            values = {
                "loss": event.loss,
                what: mean,
                "gradient": event.gradient,
                "learning rate": event.lr,
                "pictures per second": event.pictures_per_second,
            }
            if event.vlb is not None:
                values["bits per dim"] = event.vlb
            self._log(values | _quarters(f"{what} by t", event.quarters), event.step)
        elif isinstance(event, Evaluated):
            values = {"held-out/held out": event.held_out, "held-out/trained on": event.trained_on}
            values |= _quarters("held-out by t", event.held_out_quarters)
            self._log(values | _quarters("trained-on by t", event.trained_on_quarters), event.step)
        elif isinstance(event, Scored):
            self._log({f"Fréchet distance ({event.features})": event.fid}, event.step)
        elif isinstance(event, Previewed):
            with Image.open(event.path) as image:
                pixels = np.asarray(image.convert("RGB"))
            for tracker in self.accelerator.trackers:
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"preview": pixels[None]}, step=event.step, **options)
        elif isinstance(event, Ended):
            self.accelerator.end_training()

    def _log(self, values: dict[str, float | None], step: int) -> None:
        self.accelerator.log({name: value for name, value in values.items() if value is not None}, step=step)


def _quarters(group: str, values: Sequence[float | None]) -> dict[str, float | None]:
    """A value for each quarter of the chain, the cleanest first."""
    return {f"{group}/quarter {k}": value for k, value in enumerate(values, 1)}


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _plain(config: Config) -> dict[str, Any]:
    """The config with dotted names and values that every tracker takes."""
    flat: dict[str, Any] = {}
    for section in dataclasses.fields(config):
        values = getattr(config, section.name)
        for item in dataclasses.fields(values):
            value = getattr(values, item.name)
            flat[f"{section.name}.{item.name}"] = value if isinstance(value, (bool, int, float)) else str(value)
    return flat
