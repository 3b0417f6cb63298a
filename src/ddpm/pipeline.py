"""A trained model, ready to use: `ddpm.load(MODEL)` gives a Pipeline, and its samples are pictures.

model = ddpm.load("runs/flowers")
pictures = model.sample(16, steps=50, seed=0)
pictures.save("flowers")
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from ddpm.atomic import new_folder, write_json
from ddpm.build import build_denoiser, build_net
from ddpm.data import to_uint8
from ddpm.denoiser import Denoiser
from ddpm.draw import film, grid, picture
from ddpm.errors import UserError
from ddpm.nets.unet import check_size
from ddpm.noise import Purpose, WalkNoise, uniform
from ddpm.samplers import make_sampler, walk
from ddpm.store import Description, Run, load_weights, open_checkpoint, sha256

_ASSETS = Path(__file__).parent / "assets"
EMBEDDED = {"fashion": _ASSETS / "fashion.safetensors"}
_FILM_FRAMES, _FILM_PICTURES = 40, 64
_RECORD = "samples.json"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Samples:
    """Pictures a model drew: uint8 [N, C, H, W], a label each (or None), and how they were made.

    `frames` holds the walk of the first pictures, uint8 [M, C, H, W] each, if it was asked for.
    """

    pixels: np.ndarray
    labels: tuple[int, ...] | None
    classes: tuple[str, ...]
    record: dict[str, Any]
    frames: tuple[np.ndarray, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self) -> list[Image.Image]:
        """As Pillow pictures."""
        return [picture(one) for one in self.pixels]

    def grid(self, columns: int | None = None, width: int = 640) -> Image.Image:
        """As one picture, about `width` pixels wide."""
        return grid(self.pixels, columns, width)

    def save(self, folder: str | Path) -> Path:
        """Writes grid.png, film.webp (if there are frames), pictures/ and samples.json; returns the folder.

        The folder appears whole or not at all. One that `save` wrote before is replaced; UserError for any
        other that is not empty. Each PNG carries the record in its text fields.
        """
        folder = check_out(folder)
        try:
            return self._save(folder)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None

    def _save(self, folder: Path) -> Path:
        with new_folder(folder) as beside:
            self.grid().save(beside / "grid.png", pnginfo=_text(self.record))
            if self.frames:
                film([grid(frame, width=480) for frame in self.frames], str(beside / "film.webp"))
            (beside / "pictures").mkdir()
            for i, image in enumerate(self.images()):
                about = {**self.record, "picture": self.record["first"] + i}
                name = f"{about['picture']:06d}"
                if self.labels is not None:
                    about["class"] = self.classes[self.labels[i]]
                    name += "-" + re.sub(r"[^\w.-]+", "-", about["class"]).strip(".")
                image.save(beside / "pictures" / f"{name}.png", pnginfo=_text(about))
            labels = None if self.labels is None else list(self.labels)
            write_json(beside / _RECORD, {**self.record, "classes": list(self.classes), "labels": labels})
        return folder


def check_out(folder: str | Path) -> Path:
    """The folder, if samples may be saved there: new, empty, or holding only what `save` wrote before."""
    folder = Path(folder)
    if folder.resolve() == Path.cwd():
        raise UserError(f"{folder}: is the folder you stand in; choose another --out")
    if folder.is_file():
        raise UserError(f"{folder}: is a file; choose another --out")
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if found and (_RECORD not in found or found - {_RECORD, "grid.png", "film.webp", "pictures"}):
        raise UserError(f"{folder}: is not empty and holds more than ddpm sample wrote; choose another --out")
    return folder


class Pipeline:
    """A denoiser with all that is needed to use it: classes and their frequencies, the pictures' size."""

    def __init__(self, denoiser: Denoiser, description: Description, name: str, checkpoint: str = ""):
        self.denoiser, self.description, self.name, self.checkpoint = denoiser, description, name, checkpoint
        self.notes: list[str] = []

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none for an unconditional model."""
        return self.description.facts.classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width the model was trained at."""
        return self.description.config.data.size

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return next(self.denoiser.net.parameters()).device

    def class_number(self, label: str | int) -> int:
        """The number of a class given by number or name."""
        if not self.classes:
            raise UserError(f"--class {label}: {self.name} was trained without classes")
        text = str(label)
        if text in self.classes:
            return self.classes.index(text)
        if text.isdecimal() and int(text) < len(self.classes):
            return int(text)
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(self.classes))
        near = difflib.get_close_matches(text, self.classes, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"--class {label}: no such class; {hint}there are {listed}")

    def sample(
        self,
        n: int,
        *,
        sampler: str = "ddim",
        steps: int | str | Sequence[int] | None = None,
        eta: float = 0.0,
        seed: int = 0,
        label: str | int | Sequence[str | int] | None = None,
        size: tuple[int, int] | None = None,
        batch: int | None = None,
        first: int = 0,
        frames: bool = False,
        progress: Progress | None = None,
    ) -> Samples:
        """Pictures first … first + n − 1 of a seed; picture k is the same for any n and batch.

        Args:
            sampler: "ddpm" (ancestral) or "ddim" with its eta.
            steps: so many levels of the chain, or a spec of Chain.respace; by default 50 for ddim, all for ddpm.
            label: a class by name or number, for all or one each; by default drawn as often as in the data.
            size: another height and width than trained at.
            batch: pictures computed at once; by default fewer of larger ones.
            frames: keep the walk of the first pictures for a film.
            progress: called with (steps done, steps in all).
        """
        if n < 1:
            raise UserError(f"-n {n}: draw at least one picture")
        if batch is not None and batch < 1:
            raise UserError(f"--batch {batch}: is at least 1")
        if first < 0:
            raise UserError(f"first {first}: pictures are counted from 0")
        if size is not None and min(size) < 1:
            raise UserError(f"size {size[0]} x {size[1]}: is at least 1 x 1")
        method = make_sampler(sampler, eta)
        if steps is None:
            steps = min(50, self.denoiser.native.T) if sampler == "ddim" else self.denoiser.native.T
        model = self.denoiser.respace(steps)
        model.eval()
        height, width = size or self.size
        check_size((height, width), getattr(model.net, "stride", 1))
        shape = (self.description.config.data.channels, height, width)
        labels = self._labels(n, first, seed, label)
        # As many as 64 (CPU) or 256 (GPU) pictures of 32 x 32, fewer of larger ones.
        usual = max(1, (64 if self.device.type == "cpu" else 256) * 1024 // max(1024, height * width))
        batch = min(n, batch or usual)
        wanted = {round(i * model.chain.T / _FILM_FRAMES) for i in range(_FILM_FRAMES + 1)} | {model.chain.T}
        pixels, kept = [], []
        done, total = 0, -(-n // batch) * model.chain.T
        for start in range(0, n, batch):
            count = min(batch, n - start)
            numbers = torch.arange(first + start, first + start + count, device=self.device)
            noise = WalkNoise(seed, numbers, shape)
            cond = {} if labels is None else {"label": labels[start : start + count].to(self.device)}
            x = noise(0)
            for i, step in enumerate(walk(model, method, x, noise, **cond)):
                if frames and start == 0 and i in wanted:
                    kept.append(_pixels(x[:_FILM_PICTURES]))
                x = step.x
                done += 1
                if progress:
                    progress(done, total)
            pixels.append(_pixels(x))
            if frames and start == 0:
                kept.append(pixels[0][:_FILM_PICTURES])
        record = {
            "model": self.name,
            "checkpoint": self.checkpoint,
            "seed": seed,
            "sampler": sampler,
            "steps": model.chain.T,
            **({"eta": eta} if sampler == "ddim" else {}),
            **({} if isinstance(steps, int) else {"grid": str(steps)}),
            "first": first,
        }
        drawn = None if labels is None else tuple(labels.tolist())
        return Samples(np.concatenate(pixels), drawn, self.classes, record, tuple(kept))

    def _labels(self, n: int, first: int, seed: int, label: Any) -> torch.Tensor | None:
        if isinstance(label, (torch.Tensor, np.ndarray, np.integer)):
            label = label.tolist()
        if label is not None and not isinstance(label, (str, int)):
            if len(label) != n:
                raise UserError(f"label: {len(label)} labels for {n} pictures; give one, or one for each")
            return torch.tensor([self.class_number(one) for one in label])
        if label is not None:
            return torch.full((n,), self.class_number(label))
        if not self.classes:
            return None
        frequencies = self.description.facts.frequencies or (1.0,) * len(self.classes)
        edges = torch.tensor(frequencies, dtype=torch.float64).cumsum(0)
        u = uniform(seed, Purpose.LABELS, torch.arange(first, first + n), 0)[:, 0]
        return torch.searchsorted(edges, u * edges[-1], right=True).clamp_(max=len(self.classes) - 1)


def load(model: str | Path, device: str | torch.device | None = None, weights: str = "ema") -> Pipeline:
    """A run, a checkpoint of one, a .safetensors file, or an embedded name, as a Pipeline.

    weights: of a run, "ema" (averaged) or "model" (as they are); a file is what it is. device: by default a GPU if
    there is one. Of a run the newest whole checkpoint is taken; damaged ones are named in `Pipeline.notes`.
    """
    path, notes = find(model, weights)
    state, description = load_weights(path)
    net = build_net(description.config, len(description.facts.classes))
    try:
        net.load_state_dict({key: value.float() for key, value in state.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: its weights are not those of the net it describes ({reason})") from None
    place = pick_device(device)
    net = net.to(place, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    name = Path(model).resolve().name.removesuffix(".safetensors") or str(model)
    pipeline = Pipeline(build_denoiser(description.config, net), description, name, sha256(path)[:16])
    pipeline.notes += notes
    return pipeline


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


def _pixels(x: torch.Tensor) -> np.ndarray:
    pixels: np.ndarray = to_uint8(x.float().cpu()).numpy()
    return pixels


def _text(record: dict[str, Any]) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for key, value in record.items():
        info.add_text(f"ddpm:{key}", str(value))
    return info
