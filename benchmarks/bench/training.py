"""A step of training: ours by our Trainer, diffusers' as its own training script does it; the same net."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from page import Section
from rounds import Times, in_turn, wait

from ddpm.config import Config
from ddpm.data import load, open_source
from ddpm.trainer import Trainer

ON_GPU = nets.DEVICE.type == "cuda"
BATCH = {nets.PAPER: 128 if ON_GPU else 8, nets.SMALL: 128 if ON_GPU else 32}
PRECISION = "bf16" if ON_GPU else "no"


def scratch() -> Path:
    """A new folder, for as long as the program runs."""
    folder = tempfile.mkdtemp(prefix="bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def pictures(config: Config, count: int) -> tuple[Any, torch.Tensor]:
    """Noise as a data set, through our cache; and the same pictures as one tensor in [−1, 1]."""
    shape = (count, *config.data.size, *((3,) if config.data.channels == 3 else ()))
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    folder = scratch()
    np.savez(folder / "noise.npz", images=images)
    made = load(open_source(folder / "noise.npz"), config.data.size, config.data.channels, cache=folder / "cache")
    every = torch.from_numpy(images).float().div_(127.5).sub_(1.0)
    return made, every.permute(0, 3, 1, 2) if config.data.channels == 3 else every[:, None]


class Ours:
    """`Trainer.step`: data, times, noise, forward, backward, clipping, Adam, averaging."""

    def __init__(self, name: str, batch: int, **changes: Any):
        config = nets.config(name).with_(train__batch=batch, train__precision=PRECISION, **changes)
        data, _ = pictures(config, 4 * batch)
        self.trainer = Trainer(config, data, Accelerator(mixed_precision=PRECISION, cpu=not ON_GPU))
        self.k = 0

    def __call__(self) -> None:
        self.trainer.step(self.k)
        self.k += 1

    def share_of_update(self) -> float:
        """The share of a step, made for it, that clipping, optimizer and averaging take."""
        trainer = self.trainer
        update, clip, spent = trainer._update, trainer._clip, 0.0

        def timed(function: Callable[..., Any], *args: Any) -> Any:
            nonlocal spent
            wait()
            start = time.perf_counter()
            made = function(*args)
            wait()
            spent += time.perf_counter() - start
            return made

        trainer._update = functools.partial(timed, update)  # type: ignore[method-assign]
        trainer._clip = functools.partial(timed, clip)  # type: ignore[method-assign]
        try:
            wait()
            start = time.perf_counter()
            self()
            wait()
            return spent / (time.perf_counter() - start)
        finally:
            trainer._update, trainer._clip = update, clip  # type: ignore[method-assign]


class Diffusers:
    """UNet2DModel, DDPMScheduler and EMAModel as in diffusers' unconditional training example."""

    def __init__(self, name: str, batch: int):
        from diffusers import DDPMScheduler
        from diffusers.training_utils import EMAModel

        config = nets.config(name)
        _, self.every = pictures(config, 4 * batch)
        self.batch = batch
        self.accelerator = Accelerator(mixed_precision=PRECISION, cpu=not ON_GPU)
        net = nets.theirs(name)
        self.ema = EMAModel(
            net.parameters(), decay=0.9999, use_ema_warmup=True, model_cls=type(net), model_config=net.config
        )
        self.ema.to(nets.DEVICE)
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-4)
        self.scheduler = DDPMScheduler(1000)
        self.net, self.optimizer = self.accelerator.prepare(net, optimizer)
        self.net.train()
        self.accelerator.register_save_state_pre_hook(self._write)
        self.accelerator.register_load_state_pre_hook(self._read)

    def save(self, folder: Path) -> None:
        """As its example does: net and averages by save_pretrained, the rest by accelerate."""
        self.accelerator.save_state(str(folder))

    def load(self, folder: Path) -> None:
        self.accelerator.load_state(str(folder))

    def _write(self, models: list[Any], weights: list[Any], folder: str) -> None:
        self.ema.save_pretrained(f"{folder}/unet_ema")
        for model in models:
            model.save_pretrained(f"{folder}/unet")
            weights.pop()

    def _read(self, models: list[Any], folder: str) -> None:
        while models:
            model = models.pop()
            self.ema.load_state_dict(
                type(self.ema).from_pretrained(f"{folder}/unet_ema", type(model)).state_dict()
            )
            self.ema.to(nets.DEVICE)
            model.load_state_dict(type(model).from_pretrained(f"{folder}/unet").state_dict())

    def __call__(self) -> None:
        index = torch.randint(len(self.every), (self.batch,))
        clean = self.every[index].to(nets.DEVICE)
        noise = torch.randn(clean.shape, device=nets.DEVICE)
        t = torch.randint(0, 1000, (self.batch,), device=nets.DEVICE)
        noisy = self.scheduler.add_noise(clean, noise, t)
        loss = F.mse_loss(self.net(noisy, t).sample.float(), noise)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.net.parameters())


def training(rounds: int, quick: bool) -> Section:
    section = Section("A step of training")
    section.say(
        "Everything a step does: pictures, times, noise, forward, backward, clipping, Adam, averaging. diffusers: "
        "UNet2DModel of the same layers in its training example's loop. *winograd off*: `--train.no-winograd`. "
        f"Precision: {'bf16 autocast' if ON_GPU else 'float32'}."
    )
    for name in (nets.SMALL,) if quick else (nets.PAPER, nets.SMALL):
        _compare(section, name, rounds)
    return section


def _compare(section: Section, name: str, rounds: int) -> None:
    batch = BATCH[name]
    own = Ours(name, batch)
    cases: dict[str, Callable[[], object]] = {"ours": own, "diffusers": Diffusers(name, batch)}
    if ON_GPU:
        cases["ours, compiled"] = Ours(name, batch, train__compile=True)
    else:
        cases["ours, winograd off"] = Ours(name, batch, train__winograd=False)
    product = nets.Product(torch.bfloat16 if ON_GPU else torch.float32)
    cases["a matrix product"] = product
    times = in_turn(cases, rounds, warm=3 if ON_GPU else 1)
    share = float(np.median([own.share_of_update() for _ in range(min(5, rounds))]))
    _tell(section, name, batch, times, product.flops, share)
    if name == nets.PAPER and not ON_GPU:
        del own, cases
        large = Ours(name, nets.config(name).train.batch)
        large()
        section.say(
            f"Of a step of the paper's batch, {nets.config(name).train.batch}, they are "
            f"{large.share_of_update():.1%}: their cost does not grow with the batch."
        )


def _tell(section: Section, name: str, batch: int, times: Times, product: int, share: float) -> None:
    peak = product / times.median("a matrix product")
    work = nets.flops(name, backward=True) * batch
    size = nets.parameters(nets.ours(name)) / 1e6
    section.say(
        f"**{name}** ({size:.1f}M parameters), batch {batch}, {work / batch / 1e9:.1f} GFLOP a picture; a large "
        f"matrix product ran at {peak / 1e9:,.0f} GFLOP/s."
    )
    rows = []
    for case in times.taken:
        if case == "a matrix product":
            continue
        seconds = times.median(case)
        ratio = "" if case == "diffusers" else str(times.faster(case, "diffusers"))
        rows.append(
            (case, f"{seconds * 1e3:,.0f} ms", f"{batch / seconds:.1f}", f"{work / seconds / peak:.0%}", ratio)
        )
    section.table(("", "a step", "pictures/s", "share of the product's speed", "times diffusers' speed"), rows)
    section.say(f"Clipping, Adam and averaging together: {share:.1%} of our step.")
    best = "ours, compiled" if "ours, compiled" in times.taken else "ours"
    ratio = times.faster(best, "diffusers")
    wanted = 1.10 if name == nets.PAPER else 1.0
    section.target(f"{name}, ≥ {wanted:.2f} × diffusers", str(ratio), ratio.median >= wanted)
    if name == nets.PAPER:
        section.target(f"{name}, stretch ≥ 1.25 × diffusers", str(ratio), ratio.median >= 1.25)
        section.target(
            f"clipping, Adam and averaging ≤ 3 % of a step of batch {BATCH[name]}", f"{share:.1%}", share <= 0.03
        )


SUBJECTS = {"training": training}
