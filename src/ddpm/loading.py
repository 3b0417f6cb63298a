"""Opening a model: from what a MODEL is called to a Pipeline, or a classifier, on a device.

model = ddpm.load("runs/flowers")
classifier = ddpm.load_classifier("runs/flowers-classifier")
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddpm.build import build_classifier, build_denoiser, build_net
from ddpm.errors import UserError
from ddpm.grids import NAME as GRIDS
from ddpm.guide import NoisyClassifier
from ddpm.pipeline import Pipeline
from ddpm.store import Description, Run, load_weights, open_checkpoint, sha256

_ASSETS = Path(__file__).parent / "assets"
EMBEDDED = {"fashion": _ASSETS / "fashion.safetensors"}


@dataclass(frozen=True)
class Opened:
    """A model as it lies on disk: its weights, what they are, and where they were found.

    checkpoint: the first 16 digits of the file's SHA-256. notes: what there is to say, as damaged checkpoints.
    """

    weights: dict[str, Tensor]
    description: Description
    name: str
    path: Path
    checkpoint: str
    notes: tuple[str, ...]


def opened(model: str | Path, weights: str = "ema") -> Opened:
    """A run, a checkpoint of one, a .safetensors file, or an embedded name; UserError if it is none.

    weights: of a run, "ema" (averaged) or "model" (as they are); a file is what it is. Of a run the newest whole
    checkpoint is taken.
    """
    path, notes = find(model, weights)
    state, description = load_weights(path)
    name = Path(model).resolve().name.removesuffix(".safetensors") or str(model)
    plain = {key: value.float() for key, value in state.items()}
    return Opened(plain, description, name, path, sha256(path)[:16], tuple(notes))


def load(model: str | Path, device: str | torch.device | None = None, weights: str = "ema") -> Pipeline:
    """A model of pictures as a Pipeline; see `opened`. device: by default a GPU if there is one."""
    found = opened(model, weights)
    if found.description.config.train.task == "classifier":
        raise UserError(
            f"{found.name}: is a classifier, which guides a model of pictures: ddpm sample MODEL "
            f"--classifier {model}"
        )
    denoiser = build_denoiser(found.description.config, _net(found, device))
    pipeline = Pipeline(denoiser, found.description, found.name, found.checkpoint, grids_path(model))
    pipeline.notes += found.notes
    return pipeline


def load_classifier(
    model: str | Path, device: str | torch.device | None = None, weights: str = "ema"
) -> NoisyClassifier:
    """A classifier of noisy pictures; see `opened`. device: by default a GPU if there is one."""
    found = opened(model, weights)
    config = found.description.config
    if config.train.task != "classifier":
        raise UserError(
            f"--classifier {model}: is a model of pictures; train a classifier with ddpm train DATA "
            "--task classifier"
        )
    made = build_classifier(config, _net(found, device)).eval()
    return NoisyClassifier(made, found.description, found.name, found.checkpoint)


def _net(found: Opened, device: str | torch.device | None) -> torch.nn.Module:
    """The net with its weights, on a device."""
    net = build_net(found.description.config, len(found.description.facts.classes))
    try:
        net.load_state_dict(found.weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{found.path}: its weights are not those of the net it describes ({reason})") from None
    place = pick_device(device)
    made: torch.nn.Module = net.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return made.eval().requires_grad_(False)


def grids_path(model: str | Path) -> Path | None:
    """Where the run that MODEL is, or is a checkpoint of, keeps its fitted grids; None for what is no run's."""
    path = Path(model)
    if (path / "state.json").is_file():
        return path.resolve().parent.parent / GRIDS
    return path / GRIDS if path.is_dir() else None


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, else the best one; UserError if it is not here."""
    try:
        place = torch.device(device) if device else best_device()
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {device}: there is no such device here; take cpu, or leave it out") from None
    return place


def best_device() -> torch.device:
    """CUDA, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def find(model: str | Path, weights: str = "ema") -> tuple[Path, list[str]]:
    """The weights file a model's name stands for, and what to say about it."""
    if weights not in ("ema", "model"):
        raise UserError(f"--weights {weights}: takes ema or model")
    path = Path(model)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"{path}: not a model; give a run's folder or a .safetensors file")
        return path, []
    if (path / "state.json").is_file():
        return open_checkpoint(path).folder / f"{weights}.safetensors", []
    if path.is_dir():
        run = Run(path)
        run.description()
        checkpoint, damaged = run.newest()
        notes = [f"{line}; an older checkpoint is used" for line in damaged]
        if checkpoint is None:
            reason = "; ".join(damaged) or "it was stopped before its first one"
            raise UserError(f"{path}: this run has no whole checkpoint ({reason})")
        return checkpoint.folder / f"{weights}.safetensors", notes
    if str(model) in EMBEDDED:
        return EMBEDDED[str(model)], []
    runs = [str(p.parent) for p in Path("runs").glob("*/config.json")]
    names = [*EMBEDDED, *runs]
    near = difflib.get_close_matches(str(model), names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    raise UserError(f"{model}: there is no such file, folder or embedded model; {hint}")
