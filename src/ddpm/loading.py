"""Opening a model: from what a MODEL is called to a Pipeline, or a classifier, on a device.

model = ddpm.load("runs/flowers")
classifier = ddpm.load_classifier("runs/flowers-classifier")
"""

from __future__ import annotations

import difflib
import hashlib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.build import build_chain, build_classifier, build_denoiser, build_net
from ddpm.convert.foreign import files, is_foreign, read_foreign
from ddpm.convert.pickles import FLOATS
from ddpm.errors import UserError
from ddpm.grids import NAME as GRIDS
from ddpm.guide import NoisyClassifier
from ddpm.pipeline import Pipeline
from ddpm.reading import check_file
from ddpm.store import Description, Run, load_weights, open_checkpoint, sha256

_ASSETS = Path(__file__).parent / "assets"
EMBEDDED = {"fashion": _ASSETS / "fashion.safetensors"}
EXPORTED = "model.safetensors"  # in a folder that ddpm convert --to ddpm wrote


@dataclass(frozen=True)
class Opened:
    """A model as it lies on disk: its weights, what they are, and where they were found.

    checkpoint: the first 16 digits of the file's SHA-256; of several files that it takes together, of all of them.
    notes: what there is to say, as damaged checkpoints. kind: whose format it is in.
    """

    weights: dict[str, Tensor]
    description: Description
    name: str
    path: Path
    checkpoint: str
    notes: tuple[str, ...]
    kind: str = "ddpm"


def opened(model: str | Path, weights: str = "ema", given: Mapping[str, Any] | None = None) -> Opened:
    """A run, a checkpoint of one, a .safetensors file, an exported folder, another project's model (see
    `convert.foreign`), or an embedded name; UserError if it is none.

    weights: of a run, "ema" (averaged) or "model" (as they are); a file is what it is. Of a run the newest whole
    checkpoint is taken. given: what another project's files cannot say, as `read_foreign` takes it; None where
    there is no way to give it, so that an error names one.
    """
    check_weights(weights)
    path = Path(model)
    _check_place(path)
    name = _name(model)
    try:
        foreign = read_foreign(path, given or {}, weights)
    except UserError as error:
        if given is not None or not re.search(r"--\w+\.\w", str(error)):
            raise
        raise UserError(f"{error}; these are options of: ddpm convert {model} NEW --to ddpm") from None
    if foreign is not None:
        taken = (path, checksum(files(path)), foreign.notes, foreign.kind)
        return Opened(foreign.weights, foreign.description, name, *taken)
    path, notes = find(model, weights)
    if given:
        raise UserError(f"--{next(iter(given)).replace('_', '-')}: {model} says itself what it is; leave it out")
    state, description = load_weights(path)
    for key, value in state.items():
        if value.dtype not in FLOATS:
            raise UserError(
                f"{path}: its {key} is of {value.dtype}, and weights are floats of 16 bits or more; write it again"
            )
    plain = {key: value.float() for key, value in state.items()}
    return Opened(plain, description, name, path, checksum([path]), tuple(notes))


def _check_place(path: Path) -> None:
    """UserError for what is there, but neither a file nor a folder, or not ours to read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            next(path.iterdir(), None)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise UserError(f"{path}: a symbolic link to nothing; name the model itself") from None
        return  # the name of an embedded one, perhaps
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); name another, or change its permissions") from None
    if not stat.S_ISDIR(mode) and not check_file(path):
        raise UserError(f"{path}: is empty; fetch or write it again")


def check_weights(weights: str) -> None:
    """UserError for weights that no run has."""
    if weights not in ("ema", "model"):
        raise UserError(f"--weights {weights}: takes ema or model")


def checksum(paths: list[Path]) -> str:
    """The first 16 digits of a file's SHA-256, or of those of several."""
    sums = [sha256(path) for path in paths]
    return (sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest())[:16]


def _name(model: str | Path) -> str:
    """What a model is called: its folder, or its file without the suffix."""
    path = Path(model).resolve()
    plain = path.stem if path.suffix in (".safetensors", ".pt", ".pth", ".npz") else path.name
    return plain or str(model)


def load(model: str | Path, device: str | torch.device | None = None, weights: str = "ema") -> Pipeline:
    """A model of pictures as a Pipeline; see `opened`. device: by default a GPU if there is one."""
    found = opened(model, weights)
    if found.description.config.train.task == "classifier":
        raise UserError(
            f"{found.name}: is a classifier, which guides a model of pictures: ddpm sample MODEL "
            f"--classifier {model}"
        )
    return pipeline(found, device, grids_path(model))


def pipeline(found: Opened, device: str | torch.device | None = None, grids: Path | None = None) -> Pipeline:
    """A model that has been opened as a Pipeline; grids: where its run keeps its fitted grids."""
    denoiser = build_denoiser(found.description.config, _net(found, device))
    made = Pipeline(denoiser, found.description, found.name, found.checkpoint, grids)
    made.notes += found.notes
    return made


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
    return classifier(found, device)


def classifier(found: Opened, device: str | torch.device | None = None) -> NoisyClassifier:
    """A classifier that has been opened."""
    made = build_classifier(found.description.config, _net(found, device)).eval()
    return NoisyClassifier(made, found.description, found.name, found.checkpoint, found.notes)


def check_fits(found: Opened) -> None:
    """UserError unless the weights are, by names and shapes, those of the net that is described, and numbers.

    Nothing of the net's size is made, whatever the description says.
    """
    try:
        with torch.device("meta"):
            net = build_net(found.description.config, len(found.description.facts.classes))
        build_chain(found.description.config)
    except (UserError, ValueError) as error:
        raise UserError(f"{found.path}: describes a net or chain that there cannot be: {error}") from None
    wanted = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    there = {key: tuple(value.shape) for key, value in found.weights.items()}
    wrong = [key for key in {**wanted, **there} if wanted.get(key) != there.get(key)]
    if wrong:
        lacks = (
            "is missing"
            if wrong[0] not in there
            else "has no place in it"
            if wrong[0] not in wanted
            else "differs"
        )
        raise UserError(
            f"{found.path}: its weights are not those of the net it describes ({wrong[0]} {lacks}); fetch or "
            "write it again"
        )
    for key, value in found.weights.items():
        if not value.isfinite().all():
            raise UserError(
                f"{found.path}: its weights are not all numbers ({key} holds NaN or infinity); take an older "
                "checkpoint, or fetch it again"
            )


def _net(found: Opened, device: str | torch.device | None) -> torch.nn.Module:
    """The net with its weights, on a device."""
    check_fits(found)
    net = build_net(found.description.config, len(found.description.facts.classes))
    net.load_state_dict(found.weights)
    place = pick_device(device)
    made: torch.nn.Module = net.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return made.eval().requires_grad_(False)


def grids_path(model: str | Path) -> Path | None:
    """Where the run that MODEL is, or is a checkpoint of, keeps its fitted grids; None for what is no run's."""
    path = Path(model)
    if (path / "state.json").is_file():
        return path.resolve().parent.parent / GRIDS
    return path / GRIDS if is_run(path) else None


def is_run(path: Path) -> bool:
    """Whether a path is a run's folder, rather than one of another kind."""
    return path.is_dir() and not is_foreign(path) and Run(path).exists()


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
    """The weights file that the name of a model of ours stands for, and what to say about it."""
    check_weights(weights)
    path = Path(model)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(
                f"{path}: not a model; give a run's folder or a .safetensors file, or a model of OpenAI's, "
                "diffusers' or Ho et al.'s"
            )
        return path, []
    if (path / "state.json").is_file():
        return open_checkpoint(path).folder / f"{weights}.safetensors", []
    if (path / EXPORTED).is_file() and not Run(path).exists():
        return path / EXPORTED, []
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
