"""A model as it is opened: the denoiser, what is known of it, and how its pictures are walked."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ddpm.classes import Classes
from ddpm.denoiser import Denoiser
from ddpm.engines import Programmed, check_engine
from ddpm.errors import UserError
from ddpm.footprint import footprint
from ddpm.grids import Grid, choose_grid
from ddpm.guide import UNGUIDED, Guide
from ddpm.memory import AtOnce
from ddpm.method import Method, Steps
from ddpm.nets.levels import check_size
from ddpm.processes import ALONE
from ddpm.store import Description
from ddpm.tuned import NAME as TUNED
from ddpm.tuned import resolved
from ddpm.upsampling import stage_seed
from ddpm.walks import Walks, usual_batch

_FEW_STEPS = 3  # after which a sampler remembers all that it ever will
# Measured on a CPU: 1.3 to 1.6 times the tensors.
_BESIDE, _SHARE = 1.5, 0.75


class Model:
    """A denoiser with all that is needed to use it: classes and their frequencies, the pictures' size.

    `grids` is where its run has, or would have, the grids fitted to it; None for a model that is no run's. `tuned`
    likewise is where it has the methods found best for it; it may be set to another tuned.json, or to None.
    `tell` is told, in a sentence, what happens while pictures are drawn, by default for `notes`; `crew` are the
    processes that draw them together, all of which must ask for the same.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        description: Description,
        name: str,
        checkpoint: str = "",
        grids: Path | None = None,
    ):
        self.denoiser, self.description, self.name, self.checkpoint = denoiser, description, name, checkpoint
        self.grids = grids
        self.tuned = grids.with_name(TUNED) if grids else None
        self.notes: list[str] = []
        self.tell: Callable[[str], object] = self.notes.append
        self.crew = ALONE

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

    def run_on(self, engine: str) -> None:
        """Has pictures drawn by an engine of `ddpm.engines`; what its programs cost is told to `tell`."""
        check_engine(engine)
        net = self.denoiser.net
        plain = net.net if isinstance(net, Programmed) else net
        self.denoiser = self.denoiser.over(
            plain if engine == "torch" else Programmed(plain, engine, lambda text: self.tell(text))
        )

    def class_number(self, label: str | int, guide: Guide = UNGUIDED) -> int:
        """The number of a class given by number or name; of a guide's classifier where the model has none."""
        return self.known_classes(guide).number(label)

    def known_classes(self, guide: Guide = UNGUIDED) -> Classes:
        """The classes that can be asked for: the model's, or those a classifier guides it to."""
        names = self.classes or (guide.by_classifier.classes if guide.by_classifier else ())
        return Classes(self.name, names, self.description.facts.frequencies)

    def fitted(self, steps: Steps = None, grid: str | Path = "fitted") -> Grid:
        """The fitted grid of so many steps, by default of 50; of the run, or of a grids.json.

        UserError if there is none. Where it was fitted to something else, `notes` says so.
        """
        T = self.denoiser.native.T
        if steps is None:
            steps = min(50, T)
        if not str(steps).strip().isdecimal():
            raise UserError(f"--steps {steps}: a fitted grid takes a number of steps, as 20")
        grids, path = choose_grid(grid, self.grids, self.name, T)
        found = grids.grid(int(str(steps)))
        for note in grids.differences(path, self.checkpoint, self.denoiser.variance):
            if note not in self.notes:
                self.notes.append(note)
        return found

    def chosen(self, method: Method) -> Method:
        """A method with nothing left open, as this model would walk it; `notes` says if another was tuned."""
        return resolved(method, self.denoiser.native.T, self.tuned, self.checkpoint, self.notes)[0]

    def walks(
        self,
        n: int,
        method: Method,
        seed: int,
        size: tuple[int, int] | None = None,
        batch: int | AtOnce | None = None,
        guide: Guide = UNGUIDED,
    ) -> Walks:
        """The walks of n pictures, and the record of how they are made.

        batch: how many at once; from one call to the next in the same AtOnce, which remembers what has not fitted.
        """
        if isinstance(batch, int) and batch < 1:
            raise UserError(f"--batch {batch}: is at least 1")
        height, width = size or self.size
        if min(height, width) < 1:
            raise UserError(f"size {height} x {width}: is at least 1 x 1")
        native, config = self.denoiser.native, self.description.config
        method, winner = resolved(method, native.T, self.tuned, self.checkpoint, self.notes)
        model = self.denoiser.on(method.chain(native, self.fitted))
        model = model.guided(guide.guidance(self.name, self.description, (height, width), native.T)).eval()
        check_size((height, width), getattr(model.net, "stride", 1))
        about = {"model": self.name, "checkpoint": self.checkpoint, "seed": seed}
        about |= {**method.about(native, model.chain), **guide.about()}
        about |= {"tuned": winner.setting.evaluations} if winner else {}
        if config.train.task == "upsampler":
            seed = stage_seed(seed, (height, width))
        # guided, each picture is asked for twice, or a classifier keeps what its gradient needs
        usual = max(1, usual_batch(self.device, (height, width)) // (2 if model.guidance else 1))
        shape = (config.data.channels, height, width)
        at_once = batch if isinstance(batch, AtOnce) else AtOnce(min(n, batch or usual), self.tell)
        return Walks(model, method.make(), seed, shape, at_once, about, self.crew)

    def largest_batch(
        self,
        free: int,
        method: Method,
        size: tuple[int, int] | None = None,
        guide: Guide = UNGUIDED,
    ) -> tuple[int, int]:
        """The largest batch, a power of two, that should fit into so many bytes; and about how many one takes.

        The tensors of a few steps with one picture and with two are counted, and half as much added for what
        kernels and allocators take beside them; three quarters of the memory are used.
        """
        walks = self.walks(2, method, 0, size, guide=guide)
        one, two = (footprint(partial(self._begun, walks, count, guide)) for count in (1, 2))
        each = max(1, int(_BESIDE * (two - one)))
        return 1 << max(0, int(_SHARE * free / each).bit_length() - 1), each

    def _begun(self, walks: Walks, count: int, guide: Guide) -> None:
        """The first steps of a walk of so many pictures."""
        data, known = self.description.config.data, self.known_classes(guide).names
        noise = walks.noise(0, slice(0, count))
        label = torch.zeros(count, dtype=torch.int64) if known else None
        upsamples = self.description.config.train.task == "upsampler"
        low = torch.zeros(count, data.channels, *data.small) if upsamples else None
        for _ in itertools.islice(walks.down(noise(0), noise, label, low=low), _FEW_STEPS):
            pass

    def check_alone(self, what: str) -> None:
        """UserError for a model that draws nothing without a small picture."""
        if self.description.config.train.task == "upsampler":
            raise UserError(
                f"{self.name}: enlarges small pictures; ddpm {what} takes a model that draws by itself"
            )
